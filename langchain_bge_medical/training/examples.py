"""What a reranker is tuned on: queries with right documents, and with wrong ones that are hard to tell from them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from langchain_bge_medical.clinical.lexicon import LexiconEntry, SymptomLexicon
from langchain_bge_medical.clinical.polarity import AFFIRMED, findings
from langchain_bge_medical.evaluation.compare import NameIndex
from langchain_bge_medical.knowledge_base import DiseaseRecord
from langchain_bge_medical.training.queries import QueryWriter, roughen

# A candidate that is nearly as similar to the query as the right document may well be right too, unlabelled
# (TopK-PercPos of NV-Retriever, Moreira et al. 2024, arXiv 2407.15831).
_MARGIN = 0.95
_CHILD = re.compile(
    r"新生儿|婴幼儿|婴儿|幼儿|儿童|小儿|患儿|孩子|学龄前|宝宝|\b(?:infants?|babies|baby|child(?:ren)?)\b"
)
_ELDER = re.compile(r"老年人|老年|老人|高龄|六十岁以上|\b(?:the elderly|elderly|old people|old age)\b")
_SAID_OF_A_CHILD = ("孩子", "宝宝", "我家小孩", "三岁的娃", "儿子", "女儿")
_SAID_OF_AN_ELDER = ("七十岁的老人", "爷爷", "奶奶", "家里老人", "八十岁的外婆")


class Example(NamedTuple):
    """A query with documents, as texts. Either list may be empty, not both."""

    query: str
    right: list[str]
    wrong: list[str]


class Asked(NamedTuple):
    """A query with its diseases by name; none if it is off topic."""

    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...] = ()


class Amounts(NamedTuple):
    """How much of each kind is made."""

    queries: int = 24
    """Synthetic queries for each disease."""
    hard: int = 4
    """Wrong documents that recall finds for the query."""
    near: int = 1
    """Of the diseases that the right one is confused with."""
    random: int = 2
    pairs: int = 4
    """Minimal pairs of each kind for each disease, at most."""
    english: float = 0.15
    """Share of synthetic queries in English."""


def split_wordings(
    lexicon: SymptomLexicon, rng: random.Random, share: float = 0.3
) -> tuple[SymptomLexicon, SymptomLexicon]:
    """Divide the everyday wordings of every term between two lexicons.

    Queries to measure on are written with the second one's, so that nobody is measured on wordings that were
    trained on, nor recall on wordings that stand in its index.

    Args:
        lexicon: Is not modified.
        rng: Chooses.
        share: Of each term's wordings that goes to the second lexicon; a term with a single one keeps it in both.

    Returns:
        Both lexicons, with all terms in each.
    """
    kept: list[LexiconEntry] = []
    held_out: list[LexiconEntry] = []
    for entry in lexicon.entries.values():
        first, second = entry, entry
        for field in ("colloquial", "en"):
            forms = list(getattr(entry, field))
            if len(forms) > 1:
                rng.shuffle(forms)
                cut = max(1, round(share * len(forms)))
                second = second.model_copy(update={field: tuple(forms[:cut])})
                first = first.model_copy(update={field: tuple(forms[cut:])})
        kept.append(first)
        held_out.append(second)
    return SymptomLexicon(kept), SymptomLexicon(held_out)


class ExampleMaker:
    """Makes examples about the diseases that may be trained on; about the others nothing, not even negatives."""

    def __init__(
        self,
        records: Sequence[DiseaseRecord],
        lexicon: SymptomLexicon,
        recall: Callable[[str], Sequence[str]],
        embed: Callable[[list[str]], Sequence[Sequence[float]]],
        rng: random.Random,
        *,
        kept_out: Collection[str] = (),
        amounts: Amounts = Amounts(),  # noqa: B008 - a tuple, not changed
    ) -> None:
        """Take what examples are made of.

        Args:
            records: The whole knowledge base.
            lexicon: The wordings that may be trained on.
            recall: A query → disease names, best first: the stage that hard negatives are mined from.
            embed: Texts → unit vectors, for the margin where the lexicon finds nothing in a query.
            rng: Source of every choice.
            kept_out: Diseases about which nothing may be made.
            amounts: How much.
        """
        self._records = {record.disease: record for record in records if record.disease not in kept_out}
        self._names = list(self._records)
        self._lexicon = lexicon.with_terms(term for record in records for term in record.symptoms)
        self._writer = QueryWriter(list(self._records.values()), lexicon, rng)
        self._recall = recall
        self._embed = embed
        self._rng = rng
        self._amounts = amounts
        self._vectors = {
            name: np.asarray(vector)
            for name, vector in zip(
                self._names, embed([record.card() for record in self._records.values()]), strict=True
            )
        }
        self._said: tuple[str, set[str]] = "", set()  # the findings of the query looked at last
        self._by_name = NameIndex(record.metadata() for record in records)
        self._neutral = {name: {name} for name in self._names}
        for record in self._records.values():
            for complication in self._named(record.complications):
                self._neutral[record.disease].add(complication)
                self._neutral[complication].add(record.disease)

    def synthetic(self) -> Iterator[Asked]:
        """Yield queries put together from every disease's symptoms."""
        for record in self._records.values():
            for _ in range(self._amounts.queries):
                english = self._rng.random() < self._amounts.english
                yield Asked(roughen(self._writer.write(record, english=english), self._rng), (record.disease,))

    def example(self, asked: Asked) -> Example | None:
        """Return a query with its right documents and the wrong ones chosen for it; `None` if there is nothing right.

        Wrong are diseases that recall finds but that fit clearly less, some that the right one is confused with,
        some at random, and those that the query names as irrelevant. Neither right nor wrong are complications
        of the right disease, and what it is a complication of.
        """
        rng, amounts = self._rng, self._amounts
        right = [name for name in asked.relevant if name in self._records]
        if asked.relevant and not right:
            return None
        barred = set(asked.relevant).union(*(self.neutral(name) for name in right))
        wrong = [name for name in asked.irrelevant if name in self._records]
        wrong += rng.sample(hard := self._hard(asked.query, right, barred), min(amounts.hard, len(hard)))
        near = [
            name
            for r in right
            for name in self._named(self._records[r].differentials)
            if self._fits_less(asked.query, name, right)
        ]
        near = [name for name in dict.fromkeys(near) if name not in barred]
        wrong += rng.sample(near, min(amounts.near, len(near)))
        others = [
            name for name in rng.sample(self._names, min(len(self._names), 4 * amounts.random)) if name not in barred
        ]
        wrong += [name for name in others if name not in wrong][: amounts.random]
        return Example(
            asked.query,
            [shortened(self._records[name], rng) for name in right],
            [shortened(self._records[name], rng) for name in dict.fromkeys(wrong)],
        )

    def neutral(self, disease: str) -> set[str]:
        """Return what is neither right nor wrong for a disease: its complications, and what it complicates."""
        return self._neutral.get(disease, {disease})

    def _named(self, names: Iterable[str]) -> list[str]:
        """Return the diseases that may be trained on, of those that a record gives by name or alias."""
        return [found for name in names if (found := self._by_name.get(name)) in self._records]

    def minimal_pairs(self) -> Iterator[Example]:
        """Yield pairs of examples that differ in one detail which turns the answer round."""
        for record in self._records.values():
            for make in (self._polarity, self._site, self._age, self._trap):
                for _ in range(self._amounts.pairs):
                    yield from make(record)

    def _polarity(self, record: DiseaseRecord) -> Iterator[Example]:
        """The same findings, once with this disease's own affirmed and the neighbour's denied, once the other way."""
        rng = self._rng
        near = [
            self._records[name]
            for name in self._named(record.differentials)
            if name not in self.neutral(record.disease)
        ]
        if not near:
            return
        other = rng.choice(near)
        own = [term for term in record.symptoms[:8] if term not in other.symptoms]
        others = [term for term in other.symptoms[:8] if term not in record.symptoms]
        if not own or not others:
            return
        both = [term for term in record.symptoms if term in other.symptoms]
        shared = rng.sample(both, min(len(both), rng.randint(0, 2)))
        mine, theirs = rng.choice(own), rng.choice(others)
        texts = shortened(record, rng), shortened(other, rng)
        yield Example(self._writer.compose([*shared, mine], [theirs]), [texts[0]], [texts[1]])
        yield Example(self._writer.compose([*shared, theirs], [mine]), [texts[1]], [texts[0]])

    def _site(self, record: DiseaseRecord) -> Iterator[Example]:
        """A finding of this disease, beside the same record with that finding at another place of the body."""
        movable = [(term, elsewhere) for term in record.symptoms if (elsewhere := self._elsewhere(term, record))]
        if not movable:
            return
        term, elsewhere = self._rng.choice(movable)
        others = [other for other in record.symptoms if other != term]
        query = self._writer.compose([term, *self._rng.sample(others, min(len(others), self._rng.randint(0, 2)))])
        text = shortened(record, self._rng)
        yield Example(query, [text], [text.replace(term, self._rng.choice(elsewhere))])

    def _elsewhere(self, term: str, record: DiseaseRecord) -> list[str]:
        """Return terms for the same complaint (the same last character) at another site."""
        entry = self._lexicon.entries[term]
        if not entry.site:
            return []
        return [
            other.term
            for other in self._lexicon.entries.values()
            if other.site not in ("", entry.site) and other.term[-1] == term[-1] and other.term not in record.symptoms
        ]

    def _age(self, record: DiseaseRecord) -> Iterator[Example]:
        """A child's disease, told of a child and of an old person; beside the same record about old people."""
        text = record.card()
        if not _CHILD.search(text) or _ELDER.search(text):
            return
        terms = self._rng.sample(record.symptoms, min(len(record.symptoms), self._rng.randint(1, 3)))
        told = self._writer.compose(terms)
        child, elder = self._rng.choice(_SAID_OF_A_CHILD), self._rng.choice(_SAID_OF_AN_ELDER)
        yield Example(f"{child}{told}", [text], [_CHILD.sub("老年人", text)])
        yield Example(f"{elder}{told}", [], [text])

    def _trap(self, record: DiseaseRecord) -> Iterator[Example]:
        """This disease's findings with one word that is another disease's name or first symptom."""
        rng = self._rng
        bait = self._records[rng.choice(self._names)]
        if bait.disease in self.neutral(record.disease):
            return
        words = [term for term in bait.symptoms if term in bait.disease] or list(bait.symptoms[:1])
        covered = set(bait.symptoms).intersection(record.symptoms)
        own = [term for term in record.symptoms if term not in covered]
        if len(own) < 2 or len(covered - set(words)) > 1:
            return
        chosen = [*rng.sample(own, min(len(own), 3)), rng.choice(words)]
        rng.shuffle(chosen)
        yield Example(self._writer.compose(chosen), [shortened(record, rng)], [shortened(bait, rng)])

    def _hard(self, query: str, right: Sequence[str], barred: Collection[str]) -> list[str]:
        """Return what recall finds first and that is no answer all the same."""
        found = [name for name in self._recall(query) if name in self._records and name not in barred]
        found = found[: 4 * self._amounts.hard]
        if not right:
            return found
        if self._covered(query, right):
            return [name for name in found if self._fits_less(query, name, right)]
        vector = np.asarray(self._embed([query])[0])
        limit = _MARGIN * max(float(self._vectors[name] @ vector) for name in right)
        return [name for name in found if float(self._vectors[name] @ vector) < limit]

    def _fits_less(self, query: str, name: str, right: Sequence[str]) -> bool:
        """Return whether a disease has fewer of the findings in a query than the right one has."""
        return name in self._records and self._covered(query, [name]) < max(1, self._covered(query, right))

    def _covered(self, query: str, names: Sequence[str]) -> int:
        if self._said[0] != query:
            found = findings(query, self._lexicon)
            self._said = query, {finding.term for finding in found if finding.status in AFFIRMED}
        return max((len(self._said[1].intersection(self._records[name].symptoms)) for name in names), default=0)


def shortened(record: DiseaseRecord, rng: random.Random) -> str:
    """Return the record's card, its description often left out or cut at a sentence.

    Whole in a third of cases. The findings stand first and say most; shorter texts train faster, and a model
    that has seen both minds neither.
    """
    share = rng.random()
    if share < 1 / 3:
        return record.card()
    sentences = re.split(r"(?<=[。.!?！？])", record.description)
    kept = "" if share < 2 / 3 else "".join(sentences[:1])
    return f"疾病名称:{record.disease}\n症状表现:{record.symptoms_text}\n简要描述:{kept}"


def pairs_of(examples: Iterable[Example]) -> Iterator[Mapping[str, object]]:
    """Yield every query with every document, labelled 1.0 or 0.0."""
    for example in examples:
        for label, documents in ((1.0, example.right), (0.0, example.wrong)):
            yield from ({"query": example.query, "document": text, "label": label} for text in documents)


def lists_of(examples: Iterable[Example]) -> Iterator[Mapping[str, object]]:
    """Yield every query that has right documents with all its documents and their labels."""
    for example in examples:
        if example.right and example.wrong:
            documents = [*example.right, *example.wrong]
            labels = [1.0] * len(example.right) + [0.0] * len(example.wrong)
            yield {"query": example.query, "documents": documents, "label": labels}


def triples_of(examples: Iterable[Example]) -> Iterator[Mapping[str, object]]:
    """Yield every query with a right and a wrong document."""
    for example in examples:
        for right in example.right:
            yield from ({"query": example.query, "positive": right, "negative": wrong} for wrong in example.wrong)
