"""How the clinical layer and the bundled models do together, on the held-out half of what another hand wrote.

`python -m tests.test_clinical_with_models` prints the figures; the tests hold their floors, about 3 points lower. Set
them anew when the bundled models are.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document

from langchain_bge_medical.clinical.assessment import assess
from langchain_bge_medical.clinical.coverage import AffirmedWords, SymptomCoverage
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import default_red_flags
from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.embeddings import BGEEmbeddings
from langchain_bge_medical.evaluation.compare import NameIndex
from langchain_bge_medical.model_files import bundled_calibration, bundled_knowledge_base
from langchain_bge_medical.retrievers import BGERerankRetriever, build_hybrid_retriever
from langchain_bge_medical.vectorstores import build_index
from tests.readings import lines

LEAST_PAIRS = (
    0.93  # share of pairs in which the right disease outranks the one that a denied or borrowed word points to
)
LEAST_OFF_TOPIC = 0.93  # share of other talk that gets no disease
MOST_REFUSED = 0.07  # share of the pairs' complaints that get none
EVERY = 2  # in the tests every second line will do: half a minute; the figures are of all


@functools.cache
def pipeline() -> tuple[Callable[[str], list[Document]], NameIndex, Calibration]:
    """All candidates for a query as `ask` ranks them, best first; found once for each query."""
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    recall = build_hybrid_retriever(build_index(documents, BGEEmbeddings("bundled")), documents)
    affirmed = AffirmedWords()
    compressor = BGERerankerCompressor(
        model_name="bundled", top_n=None, adjust=SymptomCoverage(), query_to_text=affirmed
    )
    retriever = BGERerankRetriever(base_retriever=recall, compressor=compressor, k=50, query_to_text=affirmed)
    names = NameIndex(document.metadata for document in documents)
    return functools.cache(retriever.invoke), names, Calibration.load(bundled_calibration())


def outranks(line: dict[str, Any]) -> bool:
    """Whether the best right disease stands above every wrong one; one that was not found stands last."""
    search, names, _ = pipeline()
    diseases = [document.metadata["disease"] for document in search(line["query"])]

    def best(key: str) -> int:
        places = [diseases.index(name) for given in line[key] if (name := names.get(given)) in diseases]
        return min(places, default=len(diseases))

    return best("relevant") < best("irrelevant")


def pairwise(name: str, tag: str = "", *, every: int = 1) -> float:
    """The share of the pairs (with that tag) that are ranked rightly."""
    right = [outranks(line) for line in lines(name)[::every] if not tag or tag in line["tags"]]
    return sum(right) / len(right)


def refused(name: str, *, every: int = 1) -> float:
    """The share of the queries that get no disease."""
    search, _, calibration = pipeline()
    lexicon, flags = default_lexicon(), default_red_flags()
    said_nothing = [
        assess(
            line["query"], search(line["query"])[:5], lexicon=lexicon, red_flags=flags, calibration=calibration
        ).abstention.abstains
        for line in lines(name)[::every]
    ]
    return sum(said_nothing) / len(said_nothing)


def test_a_word_that_is_denied_or_borrowed_does_not_pull_its_disease_above_the_right_one() -> None:
    assert pairwise("clinical_pairs_heldout", every=EVERY) >= LEAST_PAIRS


def test_other_talk_gets_no_disease_and_complaints_get_one() -> None:
    assert refused("clinical_off_topic_heldout", every=EVERY) >= LEAST_OFF_TOPIC
    assert refused("clinical_pairs_heldout", every=EVERY) <= MOST_REFUSED


def milliseconds_of_the_clinical_layer(name: str) -> float:
    """The median time per query of everything but recall and cross-encoder."""
    search, _, calibration = pipeline()
    lexicon, flags, coverage, affirmed = default_lexicon(), default_red_flags(), SymptomCoverage(), AffirmedWords()
    times = []
    for line in lines(name) * 2:
        query, found = line["query"], search(line["query"])
        begin = time.perf_counter()
        affirmed(query)  # for recall
        affirmed(query)  # for the cross-encoder
        coverage(query, found)
        assess(query, found[:5], lexicon=lexicon, red_flags=flags, calibration=calibration)
        times.append(1_000 * (time.perf_counter() - begin))
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    for part in ("dev", "heldout"):
        pairs, other = f"clinical_pairs_{part}", f"clinical_off_topic_{part}"
        print(  # noqa: T201 - what it is for
            f"{part}: negation {pairwise(pairs, 'negation'):.3f}, traps {pairwise(pairs, 'trap'):.3f} rightly ordered; "
            f"refused: {refused(other):.3f} of other talk, {refused(pairs):.3f} of the pairs' complaints"
        )
    print(f"clinical layer: median {milliseconds_of_the_clinical_layer('clinical_pairs_heldout'):.1f} ms")  # noqa: T201
