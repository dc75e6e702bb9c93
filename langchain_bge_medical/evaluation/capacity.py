"""Measured rates → how many cores, GPUs and gigabytes so many queries and documents take.

Run as `python -m langchain_bge_medical.evaluation.capacity --help`. No model and no network: arithmetic.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Share of the time that replicas may be busy: beyond, waiting grows faster than load.
BUSY = 0.6
# Of a document beside its vector: text, metadata, BM25's postings; the bundled knowledge base takes 5 kB in all.
TEXT_BYTES = 5_000
# Numbers in vectors up to which an exact search is a few milliseconds on a core (vectorstores.py).
EXACT_NUMBERS = 10_000_000
# What one machine holds comfortably, and what a cluster of Milvus is for.
ONE_MACHINE_BYTES = 256e9


@dataclass(frozen=True)
class Need:
    """What a load takes.

    Attributes:
        pairs_per_s: Pairs to score.
        cores: CPU cores at `BUSY`, rounded up; 0 if no core's rate was given.
        gpus: The same in GPUs.
    """

    queries_per_minute: float
    depth: int
    pairs_per_s: float
    cores: int
    gpus: int


@dataclass(frozen=True)
class Shelf:
    """Where documents go.

    Attributes:
        vector_gb: Vectors as 32-bit floats.
        all_gb: With texts and the lexical index.
        store: What to take.
    """

    documents: int
    vector_gb: float
    all_gb: float
    store: str


def need(queries_per_minute: float, depth: int, per_core: float | None, per_gpu: float | None) -> Need:
    """Return what so many queries take.

    Args:
        queries_per_minute: At the peak.
        depth: Documents reranked for each.
        per_core: Pairs a second on a core, measured; `None` leaves cores out.
        per_gpu: The same on a GPU.

    Returns:
        The need.
    """
    pairs = queries_per_minute / 60 * depth
    cores = math.ceil(pairs / (per_core * BUSY)) if per_core else 0
    gpus = math.ceil(pairs / (per_gpu * BUSY)) if per_gpu else 0
    return Need(queries_per_minute, depth, round(pairs, 1), cores, gpus)


def shelf(documents: int, dimension: int) -> Shelf:
    """Return where so many documents go."""
    vectors = documents * dimension * 4
    everything = vectors + documents * TEXT_BYTES
    if documents * dimension <= EXACT_NUMBERS:
        store = "faiss, exact; or chroma"
    elif everything <= ONE_MACHINE_BYTES:
        store = "faiss, lists, mapped into memory; or a milvus server"
    else:
        machines = math.ceil(everything / ONE_MACHINE_BYTES)
        store = f"milvus, spread over {machines} machines of 256 GB, or quantised; words in its own BM25 index"
    return Shelf(documents, round(vectors / 1e9, 2), round(everything / 1e9, 2), store)


def rate_of(benchmark: Path) -> tuple[float, int]:
    """Return our pairs a second and the number of threads from what `benchmark --json` printed."""
    report: dict[str, Any] = json.loads(benchmark.read_text("utf-8"))
    return float(report["rows"][0]["pairs_per_s"]), int(report["threads"])


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [
        names,
        ["---"] * len(names),
        *([f"{row[name]:,}" if isinstance(row[name], (int, float)) else row[name] for name in names] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", type=Path, help="what `benchmark --json` printed on the CPU that is to be bought")
    parser.add_argument("--gpu", type=Path, help="the same on the GPU")
    parser.add_argument("--per-core", type=float, help="pairs a second of a core, instead of --cpu")
    parser.add_argument("--per-gpu", type=float, help="pairs a second of a GPU, instead of --gpu")
    parser.add_argument("--depth", type=int, nargs="+", default=[50, 20])
    parser.add_argument("--queries-per-minute", type=float, nargs="+", default=[10, 1_000, 100_000])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 10_000_000, 1_000_000_000])
    parser.add_argument("--dimension", type=int, default=1_024)
    given = parser.parse_args(arguments)
    per_core, per_gpu = given.per_core, given.per_gpu
    if given.cpu:
        rate, threads = rate_of(given.cpu)
        per_core = rate / threads
    if given.gpu:
        per_gpu, _ = rate_of(given.gpu)
    print(f"pairs/s: {per_core or 'not given'} of a core, {per_gpu or 'not given'} of a GPU; busy at most {BUSY:.0%}\n")
    print(_markdown([asdict(need(q, d, per_core, per_gpu)) for q in given.queries_per_minute for d in given.depth]))
    print()
    print(_markdown([asdict(shelf(documents, given.dimension)) for documents in given.documents]))


if __name__ == "__main__":
    main()
