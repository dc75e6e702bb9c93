"""What the bundled models are trained on, as one file: made once on any machine, trained on anywhere.

`python -m langchain_bge_medical.training.materials --out FILE` reads the knowledge base, a second one of other
diseases, the symptom lexicon and the written complaints, and writes texts and numbers only, so that training itself
needs none of them.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from langchain_bge_medical.clinical.lexicon import SymptomLexicon
from langchain_bge_medical.knowledge_base import DiseaseRecord
from langchain_bge_medical.model_files import RESOURCES
from langchain_bge_medical.training.queries import Complaint, QueryWriter, leave_out, read_complaints, roughen

logger = logging.getLogger(__name__)

CORPUS = Path(__file__).parent / "corpus"
OTHER_DISEASES = CORPUS / "other_diseases"
KINDS = ("written", "rough", "synthetic", "english", "off_topic")
_SEED = 20261126
_CANDIDATES = 50  # of the lexical stage, by query


class Query(NamedTuple):
    """A query to train on."""

    text: str
    disease: int
    """Place in `Materials.diseases`, or -1: off topic, no document is right."""
    kind: str
    """One of `KINDS`: `rough` is a written one, typed badly; `english` is synthetic too."""
    lexical: list[int]
    """The best diseases by BM25, best first."""


class Term(NamedTuple):
    """A way to say a finding, and its clinical term."""

    phrase: str
    term: str


class WatchedQuery(NamedTuple):
    """A query to watch progress on, and never to train on."""

    text: str
    relevant: list[int]
    lexical: list[int]


class Group(NamedTuple):
    """A few findings and short invented records, of which one has them all."""

    query: str
    documents: list[str]
    right: int


@dataclass(frozen=True)
class Materials:
    """Texts and labels, from one seed."""

    seed: int
    diseases: list[str]
    documents: list[list[str]]
    """By disease: its card as it is searched, then shortened and reordered variants of it."""
    neutral: list[list[int]]
    """By disease: those that are neither right nor wrong for its queries - complications, and what it complicates."""
    near: list[list[int]]
    """By disease: those that it is confused with."""
    queries: list[Query]
    groups: list[Group]
    terms: list[Term]
    watched: list[WatchedQuery]
    unseen: list[str]
    """Diseases about which nothing is trained."""
    books: list[int]
    """By disease: 0 for the knowledge base, 1 for the second one. A query is asked of its disease's alone."""

    def save(self, path: Path) -> None:
        """Write to `path`, gzipped JSON."""
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            json.dump(asdict(self), stream, ensure_ascii=False)

    @classmethod
    def load(cls, path: Path) -> Materials:
        """Read what `save` wrote."""
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            raw = json.load(stream)
        rows = {"queries": Query, "groups": Group, "terms": Term, "watched": WatchedQuery}
        return cls(**{**raw, **{name: [row(*values) for values in raw[name]] for name, row in rows.items()}})

    def counts(self) -> dict[str, Any]:
        """Return how much there is of what, and the seed."""
        kinds = [query.kind for query in self.queries]
        return {
            "seed": self.seed,
            "diseases": self.books.count(0),
            "unseen": len(self.unseen),
            "other_diseases": self.books.count(1),
            "queries": {kind: kinds.count(kind) for kind in KINDS},
            "terms": len(self.terms),
            "groups": len(self.groups),
        }

    def cards(self) -> list[str]:
        """Return every variant of every disease's card, end to end."""
        return [text for variants in self.documents for text in variants]

    def texts(self) -> Iterator[str]:
        """Yield all there is to build a vocabulary from."""
        for variants in self.documents:
            yield variants[0]
        for phrase, term in self.terms:
            yield f"{phrase} {term}"
        for query in self.queries:
            yield query.text


class Amounts(NamedTuple):
    """How much of each kind is made."""

    variants: int = 32
    rough: int = 1
    synthetic: int = 16
    english: int = 32
    groups: int = 24_000


def make_materials(
    kb: Path,
    corpus: Sequence[Path],
    *,
    other: Path | None = None,
    kept_out: Sequence[str] = (),
    watched: Sequence[Path] = (),
    unseen: int = 0,
    amounts: Amounts = Amounts(),  # noqa: B008 - a tuple, not changed
    seed: int = _SEED,
) -> Materials:
    """Put the materials together.

    Args:
        kb: The knowledge base.
        corpus: Written complaints, JSON Lines.
        other: A second knowledge base, of other diseases, so that the models learn to read records and not 331 of
            them by heart. Diseases that the first one has are left out of it.
        kept_out: Texts that nothing close to may be trained on.
        watched: Query files to watch progress on; they are kept out too.
        unseen: About this many diseases nothing is trained, to see how the models do on what they never saw.
        amounts: How much is made.
        seed: Of every choice.

    Returns:
        The materials.

    Raises:
        KnowledgeBaseError: If the knowledge base or a complaint cannot be read.
        QueryFileError: If a watched file cannot be read.
    """
    # Here, so that training from a file needs no LangChain.
    from langchain_core.documents import Document

    from langchain_bge_medical.document_loaders import MedicalKBLoader
    from langchain_bge_medical.evaluation.compare import NameIndex, read_queries
    from langchain_bge_medical.retrievers import BM25Retriever, searchable_text

    rng = random.Random(seed)  # noqa: S311 - a seed, not a secret
    records = list(MedicalKBLoader(kb).lazy_records())
    own = len(records)
    names = {record.disease for record in records}
    if other is not None:
        records += [record for record in MedicalKBLoader(other).lazy_records() if record.disease not in names]
    books = [int(i >= own) for i in range(len(records))]
    lexicon = SymptomLexicon.load()
    place = {record.disease: i for i, record in enumerate(records)}
    hidden = set(rng.sample(range(own), unseen))
    to_watch = [query for file in watched for query in read_queries(file)]
    protected = [*kept_out, *(query.query for query in to_watch)]

    written = [complaint for file in corpus for complaint in read_complaints(file)]
    known = [c for c in written if c.disease in place or not c.disease]
    kept = [c for c in leave_out(known, protected) if not c.disease or place[c.disease] not in hidden]
    logger.info("%d records, %d of %d complaints kept", len(records), len(kept), len(written))

    queries = [(c.query, place.get(c.disease, -1), "written" if c.disease else "off_topic") for c in kept]
    queries += [
        (roughen(c.query, rng), place[c.disease], "rough") for c in kept if c.disease for _ in range(amounts.rough)
    ]
    writer = QueryWriter(records, lexicon, rng)
    for kind, count in (("synthetic", amounts.synthetic), ("english", amounts.english)):
        made = (
            Complaint(record.disease, writer.write(record, english=kind == "english"))
            for i, record in enumerate(records)
            if i not in hidden
            for _ in range(count)
        )
        queries += [(roughen(c.query, rng), place[c.disease], kind) for c in leave_out(made, protected, limit=0.8)]

    documents = [Document(page_content=r.card(), metadata=r.metadata()) for r in records]
    searches = [
        BM25Retriever(documents=some, k=_CANDIDATES, document_to_text=searchable_text(lexicon))
        for some in (documents[:own], documents[own:])
        if some
    ]

    def lexical(text: str, disease: int = -1) -> list[int]:
        found = searches[books[disease] if disease >= 0 else 0].invoke(text)
        return [place[document.metadata["disease"]] for document in found]

    by_name = NameIndex(record.metadata() for record in records)

    def places(names: Sequence[str]) -> list[int]:
        return [place[name] for name in map(by_name.get, names) if name is not None]

    own_by_name = NameIndex(record.metadata() for record in records[:own])
    seen_in_watch = [
        WatchedQuery(q.query, [place[n] for n in map(own_by_name.get, q.relevant) if n is not None], lexical(q.query))
        for q in to_watch
        if q.relevant
    ]
    return Materials(
        seed=seed,
        diseases=[record.disease for record in records],
        documents=[[r.card(), *(variant_of(r, rng) for _ in range(amounts.variants))] for r in records],
        neutral=_neutral([places(record.complications) for record in records]),
        near=[places(record.differentials) for record in records],
        queries=[Query(*query, lexical(query[0], query[1])) for query in queries],
        groups=list(itertools.islice(_groups(records, lexicon, rng), amounts.groups)),
        terms=[Term(form, entry.term) for entry in lexicon.entries.values() for form in (*entry.colloquial, *entry.en)],
        watched=seen_in_watch,
        unseen=[records[i].disease for i in sorted(hidden)],
        books=books,
    )


def variant_of(record: DiseaseRecord, rng: random.Random) -> str:
    """Return the record's card with some symptoms left out or in another order, and less of the description.

    A model that always sees the same 331 texts learns them by heart; one that sees them change has to read. From a
    third of them the name is gone, for it says it all to who knows it.
    """
    symptoms = list(record.symptoms)
    if rng.random() < 0.5:
        symptoms = [s for i, s in enumerate(symptoms) if i < 2 or rng.random() > 0.15]
    if rng.random() < 0.3:
        rng.shuffle(symptoms)
    sentences = [s for s in record.description.split("。") if s]
    share = rng.random()
    if share < 0.25:
        sentences = []
    elif share < 0.5:
        sentences = sentences[: rng.choice((1, 2))]
    elif share < 0.7:
        sentences = rng.sample(sentences, rng.randint(1, len(sentences)))
    description = "".join(s + "。" for s in sentences)
    name = f"疾病名称:{record.disease}\n" if rng.random() > 1 / 3 else ""
    return f"{name}症状表现:{'、'.join(symptoms)}\n简要描述:{description}"


def _neutral(complications: Sequence[Sequence[int]]) -> list[list[int]]:
    neutral: list[set[int]] = [set() for _ in complications]
    for i, follow in enumerate(complications):
        for j in follow:
            neutral[i].add(j)
            neutral[j].add(i)
    return [sorted(others - {i}) for i, others in enumerate(neutral)]


def _groups(records: Sequence[DiseaseRecord], lexicon: SymptomLexicon, rng: random.Random) -> Iterator[Group]:
    """Yield, without end, a few findings as patients say them and eight invented records, of which one has them all.

    On these short pairs the model learns that attention is for matching, in minutes; on whole records from the
    start the loss hardly moved in that time. Because the records are invented, it learns no disease by heart.
    """
    names = [record.disease for record in records]
    terms = list(lexicon.entries)

    def said(term: str, english: bool) -> str:
        entry = lexicon.entries[term]
        chance = rng.random()
        if (english or chance > 0.9) and entry.en:
            return rng.choice(entry.en)
        return term if chance < 0.25 or not entry.colloquial else rng.choice(entry.colloquial)

    def record(symptoms: Sequence[str]) -> str:
        filled = [*symptoms, *rng.sample(terms, rng.randint(0, 6))]
        rng.shuffle(filled)
        return f"疾病名称:{rng.choice(names)}\n症状表现:{'、'.join(filled)}\n简要描述:"

    while True:
        asked = rng.sample(terms, rng.choice((1, 1, 2, 2, 3, 4)))
        english = rng.random() < 0.25
        joint = rng.choice((", ", " and ", "; ") if english else ("，", " ", ",", "、", "，还"))
        query = joint.join(said(term, english) for term in asked)
        wrong = []
        for i in range(7):
            # Two records have all but one of the findings, the others have none of them.
            shared = rng.sample(asked, len(asked) - 1) if i < 2 else []
            wrong.append(record([*shared, *rng.sample(terms, len(asked) - len(shared))]))
        right = rng.randrange(8)
        yield Group(query, [*wrong[:right], record(asked), *wrong[right:]], right)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the materials and write them to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kb", type=Path, default=RESOURCES / "medical_knowledge.json")
    parser.add_argument("--other-kb", type=Path, default=OTHER_DISEASES / "records.json", help="a second one")
    corpus = sorted([*CORPUS.glob("*.jsonl"), OTHER_DISEASES / "complaints.jsonl"])
    parser.add_argument("--corpus", type=Path, nargs="*", default=corpus)
    parser.add_argument("--keep-out", type=Path, nargs="*", default=[], help="evaluation queries, JSON Lines")
    parser.add_argument("--watch", type=Path, nargs="*", default=[], help="queries to watch progress on; kept out too")
    parser.add_argument("--unseen", type=int, default=0, help="leave this many diseases out of the training")
    parser.add_argument("--amounts", type=json.loads, default={}, help="a JSON object of amounts to change")
    options = parser.parse_args(arguments)
    from langchain_bge_medical.evaluation.compare import read_queries

    logging.basicConfig(level=logging.INFO)
    kept_out = [query.query for file in options.keep_out for query in read_queries(file)]
    materials = make_materials(
        options.kb,
        options.corpus,
        other=options.other_kb,
        kept_out=kept_out,
        watched=options.watch,
        unseen=options.unseen,
        amounts=Amounts(**options.amounts),
    )
    materials.save(options.out)
    logger.info("%s", materials.counts())


if __name__ == "__main__":
    main()
