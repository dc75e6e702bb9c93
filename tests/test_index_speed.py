from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from langchain_bge_medical import vectorstores
from langchain_bge_medical.evaluation import index_speed
from langchain_bge_medical.evaluation.index_speed import run_index_benchmark
from langchain_bge_medical.vectorstores import build_index, load_index
from tests.conftest import HashEmbeddings

WORDS = ["发热", "咳嗽", "头痛", "腹泻", "呕吐", "耳鸣", "皮疹", "胸闷", "尿频", "乏力"]
TEXTS = [f"{one}{other}" for one in WORDS for other in WORDS]


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_speed, "_QUERIES", 40)


def asked() -> list[str]:
    """The queries that the benchmark measures with: its draw, made again."""
    rng = np.random.default_rng(1)
    return ["，".join(TEXTS[i] for i in rng.integers(0, len(TEXTS), 2)) for _ in range(80)][40:]


def brute_force_recall(folder: Path) -> float:
    """Of the 50 nearest by all products of the vectors that are in the index, the share that the index finds."""
    store = load_index(folder, index_speed._Drawn(HashEmbeddings(), TEXTS))
    vectors = store.index.reconstruct_n(0, store.index.ntotal)
    shares = []
    for query in asked():
        found = store.similarity_search(query, k=50)
        vector = np.array(HashEmbeddings().embed_query(query))
        exact = np.argsort(-(vectors @ vector), kind="stable")[:50]
        shares.append(len({document.id for document in found} & {str(i) for i in exact}) / 50)
    return float(np.mean(shares))


def test_an_exact_index_finds_all_that_brute_force_finds_and_every_figure_is_of_it(tmp_path: Path) -> None:
    told: list[str] = []
    folder = tmp_path / "index"
    report = run_index_benchmark(1_500, TEXTS, HashEmbeddings(32), folder, progress=told.append)
    assert (report["vectors"], report["dimension"]) == (1_500, 32)
    assert report["recall_at_50"] == 1.0
    assert (report["lists"], report["lists_in_all"]) == (None, None)
    assert 0 < report["search_ms"] <= report["p95_ms"]
    assert report["exact_ms"] > 0
    assert min(report[name] for name in ("build_s", "index_mb", "documents_mb", "load_s")) >= 0
    assert told == ["embedding 100 texts", "indexing 1,500 vectors", "loading", "searching"]


def test_the_recall_of_an_approximate_index_is_that_of_brute_force_over_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectorstores, "_EXACT_NUMBERS", 20_000)
    folder = tmp_path / "index"
    report = run_index_benchmark(2_000, TEXTS, HashEmbeddings(), folder, recall=0.8)
    assert 0 < report["lists"] < report["lists_in_all"]
    assert 0.6 < report["recall_at_50"] < 1.0
    assert report["recall_at_50"] == pytest.approx(brute_force_recall(folder), abs=0.002)


def test_neighbours_are_as_near_as_two_complaints_of_one_disease_and_no_two_vectors_are_one(tmp_path: Path) -> None:
    drawn = index_speed._Drawn(HashEmbeddings(), TEXTS)
    store = build_index(index_speed._documents(500), drawn, tmp_path / "index")
    vectors = store.index.reconstruct_n(0, 500)
    assert len({row.tobytes() for row in vectors}) == 500
    products = vectors @ vectors.T
    np.fill_diagonal(products, -1)
    assert 0.6 < np.median(products.max(axis=1)) < 0.99


def test_memory_is_what_the_process_holds() -> None:
    before = index_speed._memory_mib()
    # Not from the allocator, which may hand out what the process holds already.
    with mmap.mmap(-1, 40 << 20) as held:
        for place in range(0, len(held), mmap.PAGESIZE):
            held[place] = 1
        assert 30 < index_speed._memory_mib() - before < 60
