"""How recall by vectors and words fares with each power of the share of the query that words explain.

`python -m tests.hybrid_power` prints hit@1 of hybrid recall on development queries: complaints about the bundled
diseases and about 200 that the bundled models were never trained on, Chinese and English, and the names of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from langchain_core.documents import Document

from langchain_bge_medical import (
    BGEEmbeddings,
    MedicalKBLoader,
    build_hybrid_retriever,
    build_index,
    bundled_knowledge_base,
)
from langchain_bge_medical.evaluation.compare import read_queries
from langchain_bge_medical.retrievers import HybridRetriever, merged

DATA = Path(__file__).parent / "data"
POWERS: Mapping[str, Callable[[float], float]] = {
    "vectors alone": lambda share: 0.0,
    "words alone": lambda share: 1.0,
    "equal weights": lambda share: 0.5,
    **{f"power {power}": lambda share, power=power: share**power for power in (1, 2, 3, 4)},
}
Found = tuple[list[Document], list[Document], float, set[str]]


def collect(most: int | None = None) -> dict[str, list[Found]]:
    """What either half of recall finds for each kind of query, for at most so many of each."""
    found: dict[str, list[Found]] = {}
    for what, kb, files in (
        ("bundled", bundled_knowledge_base(), ("dev_complaints", "dev_short_complaints")),
        ("unknown", DATA / "further_diseases.json", ("dev_further_complaints", "dev_further_english")),
    ):
        documents = MedicalKBLoader(kb).load()
        hybrid = build_hybrid_retriever(build_index(documents, BGEEmbeddings("bundled")), documents)
        assert isinstance(hybrid, HybridRetriever)
        queries = [query for file in files for query in _complaints(file)]
        for kind, asked in (("complaints", queries), ("names", list(_names(documents)))):
            for language, ascii_only in (("zh", False), ("en", True)):
                chosen = [(query, right) for query, right in asked if query.isascii() == ascii_only]
                every = 1 if most is None else -(-len(chosen) // most)
                found[f"{what} {kind} {language}"] = [_find(hybrid, query, right) for query, right in chosen[::every]]
    return found


def main() -> None:
    """Print the table."""
    found = collect()
    for name, found_of in found.items():
        print(f"{name}: {len(found_of)}")
    print(f"{'hit@1':16}", *(f"{name:>22}" for name in found))
    for name, weight in POWERS.items():
        print(f"{name:16}", *(f"{hit(found_of, weight):22.3f}" for found_of in found.values()))


def _complaints(file: str) -> Iterable[tuple[str, set[str]]]:
    for query in read_queries(DATA / f"{file}.jsonl"):
        if query.relevant:
            yield query.query, set(query.relevant)


def _names(documents: Sequence[Document]) -> Iterable[tuple[str, set[str]]]:
    for document in documents:
        for name in (document.metadata["disease"], *document.metadata["aliases"]):
            yield name, {document.metadata["disease"]}


def _find(hybrid: HybridRetriever, query: str, right: set[str]) -> Found:
    dense, lexical = hybrid.dense.invoke(query), hybrid.lexical.invoke(query)
    share = hybrid.lexical.share_said(query, lexical[0]) if lexical else 0.0
    return dense, lexical, share, right


def hit(found: Sequence[Found], weight: Callable[[float], float]) -> float:
    """The share of queries for which a right disease comes first."""
    first = [merged(dense, lexical, weight(share))[0] for dense, lexical, share, _ in found]
    return sum(document.metadata["disease"] in one[-1] for document, one in zip(first, found, strict=True)) / len(found)


if __name__ == "__main__":
    main()
