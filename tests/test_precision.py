"""What lower precision costs the bundled reranker, on queries it was not trained on: almost nothing."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Literal

import pytest

from langchain_bge_medical import BGECrossEncoder, MedicalKBLoader, bundled_knowledge_base
from langchain_bge_medical.evaluation.benchmark import spearman
from langchain_bge_medical.retrievers import BM25Retriever

QUERIES = Path(__file__).parent / "data" / "heldout_queries.jsonl"


@pytest.fixture(scope="module")
def candidates() -> list[tuple[list[tuple[str, str]], list[float]]]:
    """Forty pairs for each of nine queries, with their logits in float32."""
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    recall = BM25Retriever(documents=documents, k=40)
    queries = [json.loads(line)["query"] for line in QUERIES.read_text("utf-8").splitlines()[::20]]
    pairs = [[(query, document.page_content) for document in recall.invoke(query)] for query in queries]
    exact = BGECrossEncoder("bundled", dtype="float32")
    return [(some, exact.logits(some)) for some in pairs]


@pytest.mark.parametrize(
    ("dtype", "kept_at_least", "spearman_at_least"), [("bfloat16", 0.98, 0.99), ("int8", 0.95, 0.98)]
)
def test_lower_precision_keeps_the_best_five_and_the_order(
    candidates: list[tuple[list[tuple[str, str]], list[float]]],
    dtype: Literal["bfloat16", "int8"],
    kept_at_least: float,
    spearman_at_least: float,
) -> None:
    encoder = BGECrossEncoder("bundled", dtype=dtype)
    kept, correlations = [], []
    for pairs, exact in candidates:
        lower = encoder.logits(pairs)
        best = [set(sorted(range(len(pairs)), key=lambda i, by=logits: -by[i])[:5]) for logits in (exact, lower)]
        kept.append(len(best[0] & best[1]) / 5)
        correlations.append(spearman(exact, lower))
    assert statistics.mean(kept) >= kept_at_least
    assert statistics.mean(correlations) >= spearman_at_least
