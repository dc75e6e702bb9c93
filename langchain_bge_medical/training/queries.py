"""Patients' words to train on: written complaints, and queries put together from a record and the lexicon."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, plain_form
from langchain_bge_medical.evaluation.compare import NameIndex
from langchain_bge_medical.knowledge_base import DiseaseRecord, KnowledgeBaseError

# Words around findings. Empty ones are frequent on purpose: people type bare findings.
_OPENERS = (
    "", "", "", "", "我", "最近", "这几天", "这两天", "今天", "昨晚开始", "一个星期了",
    "三天了", "半个月了", "好几个月了",
    "孩子", "宝宝", "我妈", "我爸", "老公", "老人家", "医生你好，", "请问",
    "本人", "从昨天起", "早上起来", "一到晚上就", "老是",
)  # fmt: skip
_JOINTS = (
    "，",
    "，",
    ",",
    " ",
    "、",
    "，还",
    "，而且",
    "，也",
    "，另外",
    "。",
    "，有时候",
    " 还有",
    "，又",
    "，加上",
    "",
    "，然后",
)
_CLOSERS = (
    "",
    "",
    "",
    "",
    "。",
    "，怎么回事",
    "，是什么病",
    "？",
    "，要紧吗",
    "，挂什么科",
    "，难受",
    "，怎么办啊",
    "！",
)
_DENIALS = ("没有{}", "不{}", "没{}", "倒没{}", "也没有{}", "无{}", "没觉得{}")
_EN_OPENERS = (
    "",
    "",
    "I have ",
    "I've had ",
    "My child has ",
    "My mother has ",
    "For three days ",
    "Since yesterday ",
    "Lately ",
)
_EN_JOINTS = (", ", " and ", ", also ", " with ", "; ")
_EN_DENIALS = ("no {}", "without {}", "but no {}")


class Complaint(NamedTuple):
    """A patient's own words and the disease that they point to."""

    disease: str
    query: str


def read_complaints(path: Path) -> list[Complaint]:
    """Read written complaints from JSON Lines with `disease` and `query`.

    Raises:
        KnowledgeBaseError: If a line is not such an object.
    """
    complaints = []
    # A file's own lines: `splitlines` would also split at U+2028 and the like, which JSON allows inside a string.
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                raw = json.loads(line)
                complaints.append(Complaint(raw["disease"], raw["query"]))
            except (ValueError, KeyError, TypeError) as error:
                raise KnowledgeBaseError(f"is no complaint: {error!r}", place=f"{path}, line {number}") from None
    return complaints


def leave_out(complaints: Iterable[Complaint], kept_out: Sequence[str], *, limit: float = 0.5) -> Iterator[Complaint]:
    """Yield the complaints that are not close to any text that must not be trained on.

    Args:
        complaints: Candidates.
        kept_out: Evaluation queries.
        limit: Two texts are close if more than this share of what the shorter one is made of occurs in the other:
            pairs of neighbouring Chinese characters, Latin words and pairs of them.

    Yields:
        The rest, in order.
    """
    protected = [_parts_of(text) for text in kept_out]
    holders: dict[str, list[int]] = {}
    for i, pairs in enumerate(protected):
        for pair in pairs:
            holders.setdefault(pair, []).append(i)
    for complaint in complaints:
        own = _parts_of(complaint.query)
        shared = Counter(i for pair in own for i in holders.get(pair, ()))
        if not any(n > limit * max(min(len(own), len(protected[i])), 8) for i, n in shared.items()):
            yield complaint


def query_digest(query: str) -> str:
    """Return what a query is remembered by without its words: equal for equal letters, whatever their form."""
    letters = "".join(char for char in plain_form(query)[0] if char.isalnum())
    return hashlib.blake2b(letters.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class QueryWriter:
    """Puts queries together from a disease's symptoms, said as the lexicon says that patients say them."""

    def __init__(self, records: Sequence[DiseaseRecord], lexicon: SymptomLexicon, rng: random.Random) -> None:
        """Take what to write about.

        Args:
            records: All diseases; denials are drawn from a disease's neighbours.
            lexicon: Forms of the symptoms; a term it lacks is used as it is.
            rng: Source of every choice.
        """
        self._records = {record.disease: record for record in records}
        self._by_name = NameIndex(record.metadata() for record in records)
        self._lexicon = lexicon
        self._rng = rng

    def write(self, record: DiseaseRecord, *, english: bool = False) -> str:
        """Return one synthetic query for a disease; typical symptoms are likelier than rare ones."""
        rng = self._rng
        count = min(len(record.symptoms), rng.choice((1, 2, 2, 3, 3, 3, 4, 4, 5)))
        weights = [1 / (1 + 0.15 * i) for i in range(len(record.symptoms))]
        chosen: list[str] = []
        while len(chosen) < count:
            (term,) = rng.choices(record.symptoms, weights)
            if term not in chosen:
                chosen.append(term)
        said = [self._say(term, english) for term in chosen]
        if rng.random() < 0.3 and (absent := self._absent_term(record)):
            denial = rng.choice(_EN_DENIALS if english else _DENIALS)
            said.insert(rng.randrange(len(said) + 1), denial.format(self._say(absent, english)))
        return self._join(said, english)

    def compose(self, present: Sequence[str], absent: Sequence[str] = (), *, english: bool = False) -> str:
        """Return a query that affirms the terms `present` and denies the terms `absent`, in any order."""
        rng = self._rng
        denials = _EN_DENIALS if english else _DENIALS
        said = [self._say(term, english) for term in present]
        for term in absent:
            said.insert(rng.randrange(len(said) + 1), rng.choice(denials).format(self._say(term, english)))
        return self._join(said, english)

    def _say(self, term: str, english: bool) -> str:
        entry = self._lexicon.entries.get(term)
        if entry is None:
            return term
        if english:
            return self._rng.choice(entry.en) if entry.en else term
        forms = (term, *entry.colloquial, *entry.colloquial)
        return self._rng.choice(forms)

    def _absent_term(self, record: DiseaseRecord) -> str | None:
        names = map(self._by_name.get, record.differentials)
        neighbours = [self._records[name] for name in names if name is not None]
        terms = [term for other in neighbours for term in other.symptoms[:6] if term not in record.symptoms]
        return self._rng.choice(terms) if terms else None

    def _join(self, said: Sequence[str], english: bool) -> str:
        rng = self._rng
        openers, joints = (_EN_OPENERS, _EN_JOINTS) if english else (_OPENERS, _JOINTS)
        text = rng.choice(openers) + said[0]
        for phrase in said[1:]:
            text += rng.choice(joints) + phrase
        return text + ("" if english else rng.choice(_CLOSERS))


def roughen(text: str, rng: random.Random) -> str:
    """Return `text` as it might have been typed: another order of clauses, lost punctuation, a slip."""
    clauses = [clause for clause in re.split(r"[，,。；;！!？?]+", text) if clause.strip()]
    if not clauses:
        return text
    if len(clauses) > 2 and rng.random() < 0.35:
        if rng.random() < 0.5:
            clauses.pop(rng.randrange(len(clauses)))
        else:
            rng.shuffle(clauses)
        text = rng.choice(("，", ",", " ", "。")).join(clauses)
    elif rng.random() < 0.2:
        text = rng.choice((" ", "", ",")).join(clauses)
    if len(text) > 6 and rng.random() < 0.2:
        i = rng.randrange(len(text) - 1)
        slip = rng.choice(("drop", "twice", "swap"))
        if slip == "drop":
            text = text[:i] + text[i + 1 :]
        elif slip == "twice":
            text = text[: i + 1] + text[i:]
        else:
            text = text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text


def _parts_of(text: str) -> set[str]:
    # Single letters would make any two English sentences alike.
    units = re.findall(r"[a-z]+|[^\W_a-z]", plain_form(text)[0])
    return {a + b for a, b in itertools.pairwise(units)} | {unit for unit in units if unit.isascii() and unit.isalpha()}
