"""How long an index of very many vectors takes to build, load and search, and what it finds of the exact nearest."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

_NEIGHBOURS = 50
_QUERIES = 200
# Share of the second text in a vector at most, and length of the noise: neighbours are then about as near one another
# as two complaints of one disease are, a cosine of 0.7.
_OTHER, _NOISE = 0.5, 0.3


class _Drawn(Embeddings):
    """Vectors between those of real texts, by the number that a text ends with; queries are embedded as they are."""

    model_name = "drawn"

    def __init__(self, model: Embeddings, texts: Sequence[str]) -> None:
        self._model = model
        self._centres = np.array(model.embed_documents(list(texts)), dtype=np.float32)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rng = np.random.default_rng(int(texts[0].rsplit(" ", 1)[1]))
        one, other = (self._centres[rng.integers(0, len(self._centres), len(texts))] for _ in range(2))
        share = rng.random((len(texts), 1), dtype=np.float32) * _OTHER
        noise = rng.standard_normal(one.shape, dtype=np.float32) * (_NOISE / np.sqrt(one.shape[1]))
        rows: list[list[float]] = (one * (1 - share) + other * share + noise).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        return self._model.embed_query(text)


def run_index_benchmark(
    count: int,
    texts: Sequence[str],
    embeddings: Embeddings,
    folder: Path,
    *,
    recall: float = 0.98,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Build, load and search an index of vectors drawn between those of real texts.

    Args:
        count: How many vectors.
        texts: Short texts, e.g. symptoms as patients say them, 100 or more. Queries are pairs of them.
        embeddings: Makes the vectors of texts and queries.
        folder: Where the index is written, empty or not there.
        recall: As for `build_index`.
        progress: Told what is being done.

    Returns:
        `vectors`, `dimension`, `build_s` (without the model's time for real documents), `index_mb` and
        `documents_mb` on disk, `load_s`, `load_mib` (by how much loading raises the process's memory), `exact_ms`
        and `search_ms` (median of single searches for the 50 nearest, the latter with their documents), `p95_ms`,
        `recall_at_50` on queries that the index was not tuned on, `lists` and `lists_in_all`.
    """
    from langchain_bge_medical.vectorstores import build_index, load_index

    progress(f"embedding {len(texts):,} texts")
    drawn = _Drawn(embeddings, texts)
    rng = np.random.default_rng(1)
    asked = ["，".join(texts[i] for i in rng.integers(0, len(texts), 2)) for _ in range(2 * _QUERIES)]
    tuning, queries = asked[:_QUERIES], asked[_QUERIES:]
    vectors = [drawn.embed_query(query) for query in queries]
    progress(f"indexing {count:,} vectors")
    start = time.perf_counter()
    store = build_index(_documents(count), drawn, folder, recall=recall, queries=tuning)
    build_s = time.perf_counter() - start
    dimension = store.index.d
    del store
    progress("loading")
    before = _memory_mib()
    start = time.perf_counter()
    store = load_index(folder, drawn)
    load_s = time.perf_counter() - start
    load_mib = _memory_mib() - before
    progress("searching")
    index, lists = store.index, getattr(store.index, "nprobe", None)
    times, exact_times, overlaps = [], [], []
    for vector in vectors:
        start = time.perf_counter()
        found = store.similarity_search_by_vector(vector, k=_NEIGHBOURS)
        times.append((time.perf_counter() - start) * 1_000)
        if lists is not None:
            index.nprobe = index.nlist
        row = np.array([vector], dtype=np.float32)
        row /= np.linalg.norm(row)
        start = time.perf_counter()
        exact = index.search(row, _NEIGHBOURS)[1][0]
        exact_times.append((time.perf_counter() - start) * 1_000)
        if lists is not None:
            index.nprobe = lists
        overlaps.append(len({document.id for document in found} & {str(i) for i in exact}) / len(found))
    sizes = {file.suffix: file.stat().st_size / 1e6 for file in folder.iterdir()}
    return {
        "vectors": count, "dimension": dimension, "build_s": round(build_s, 1),
        "index_mb": round(sizes[".faiss"]), "documents_mb": round(sizes[".jsonl"]),
        "load_s": round(load_s, 2), "load_mib": round(load_mib),
        "exact_ms": round(statistics.median(exact_times), 2), "search_ms": round(statistics.median(times), 2),
        "p95_ms": round(float(np.percentile(times, 95)), 2), "recall_at_50": round(statistics.mean(overlaps), 4),
        "lists": lists, "lists_in_all": getattr(index, "nlist", None),
    }  # fmt: skip


def _documents(count: int) -> Iterator[Document]:
    for i in range(count):
        yield Document(id=str(i), page_content=f"文献摘录,用来试验规模,编号 {i}", metadata={"source": "drawn"})


def _memory_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    except OSError:  # not Linux: the most it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return pages * resource.getpagesize() / (1 << 20)
