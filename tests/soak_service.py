"""Load the service for as long as one likes with good, bad and aborted requests, and see whether anything grows.

    python -m tests.soak_service [--minutes 40] [--rate 6] [--json]

The server is the real one with the bundled models, as `langchain-bge-medical serve` starts it, in a process of its own.
Every five seconds its memory, open files and threads are read from the system; the first half of the run fills its
bounded caches and the allocator's arenas, and does not count. Exit code 1 says that something grew: memory by more than
30 MiB an hour, open files by more than eight, the median latency of good requests by more than a quarter from the third
quarter to the last, that a good request failed (429, when the machine cannot keep up, is no failure), or that a bad one
was answered by anything but a 4xx.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil

from tests.load_service import WORDS
from tests.ports import free_port

COMPLAINTS = [
    json.loads(line)["query"]
    for line in (Path(__file__).parent / "data" / "dev_complaints.jsonl").read_text("utf-8").splitlines()
]
MIB = 2**20
WARM_UP = 0.5  # of the run


class Request(NamedTuple):
    """One request and what may come of it."""

    kind: str
    path: str
    body: bytes
    good: bool
    give_up_after_s: float | None = None


def documents(random: random.Random, count: int) -> list[str]:
    return ["".join(random.choices(WORDS, k=random.randint(10, 150))) for _ in range(count)]


def request(random: random.Random) -> Request:
    """One of its kinds, at random; no two bodies are alike, so that no cache answers them."""

    def of(kind: str, path: str, body: Any, *, good: bool = True, give_up_after_s: float | None = None) -> Request:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Request(kind, path, raw, good, give_up_after_s)

    query = random.choice(COMPLAINTS) + "".join(random.choices(WORDS, k=3))
    texts = documents(random, random.randint(1, 30))
    kinds = [
        lambda: of("rerank", "/rerank", {"query": query, "documents": texts, "top_n": 5}),
        lambda: of("tei", "/rerank", {"query": query, "texts": texts}),
        lambda: of("knowledge base", "/rerank", {"query": query}),
        lambda: of("ask", "/ask", {"query": query}),
        lambda: of("chat", "/chat", {"query": query}),
        lambda: of("aborted", "/ask", {"query": query}, give_up_after_s=random.uniform(0, 0.05)),
        lambda: of("aborted", "/chat", {"query": query}, give_up_after_s=random.uniform(0, 0.05)),
        lambda: of("no json", "/rerank", b"{" + random.randbytes(40), good=False),
        lambda: of("lone surrogate", "/rerank", b'{"query": "\\ud800", "documents": ["a"]}'),
        lambda: of("too long", "/rerank", {"query": "x" * 2_000_000, "documents": ["a"]}, good=False),
        lambda: of("wrong type", "/rerank", {"query": 7, "documents": {"a": random.random()}}, good=False),
    ]
    return random.choice(kinds)()


@contextlib.contextmanager
def server() -> Iterator[tuple[psutil.Process, str]]:
    """The service on a free port, ready."""
    port = free_port()
    command = [sys.executable, "-m", "langchain_bge_medical.cli", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield psutil.Process(process.pid), f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def send(session: aiohttp.ClientSession, wanted: Request, outcomes: Counter[str]) -> float | None:
    """Count the outcome; return the seconds that a good request took."""
    started = time.perf_counter()
    headers = {"content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=wanted.give_up_after_s or 60)
    try:
        async with session.post(wanted.path, data=wanted.body, headers=headers, timeout=timeout) as answer:
            await answer.read()
            status = answer.status
    except TimeoutError:
        outcomes[f"{wanted.kind}: {'given up' if wanted.give_up_after_s else 'TIME-OUT'}"] += 1
        return None
    except aiohttp.ClientError as error:  # the server closes on a body that it won't read to the end
        outcomes[f"{wanted.kind}: {type(error).__name__}"] += 1
        return None
    outcomes[f"{wanted.kind}: {status}"] += 1
    return time.perf_counter() - started if wanted.good and wanted.give_up_after_s is None else None


async def soak(minutes: float, rate: float) -> dict[str, Any]:
    """Run it, and return what was seen."""
    generator = random.Random(20261127)
    outcomes: Counter[str] = Counter()
    latencies: list[tuple[float, float]] = []
    samples: list[tuple[float, float, int, int]] = []
    with server() as (process, url):
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=100)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/ready") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.2)
            begin = time.perf_counter()
            seconds = 60 * minutes

            async def one(wanted: Request) -> None:
                at = time.perf_counter() - begin
                if (took := await send(session, wanted, outcomes)) is not None:
                    latencies.append((at, took))

            async def watch() -> None:
                while True:
                    at = time.perf_counter() - begin
                    samples.append((at, process.memory_info().rss / MIB, process.num_fds(), process.num_threads()))
                    await asyncio.sleep(5)

            watcher = asyncio.create_task(watch())
            async with asyncio.TaskGroup() as group:
                while (now := time.perf_counter() - begin) < seconds:
                    group.create_task(one(request(generator)))
                    due = now + generator.expovariate(rate)
                    await asyncio.sleep(max(0.0, due - (time.perf_counter() - begin)))
            watcher.cancel()
    return _summary(seconds, outcomes, latencies, samples)


def _summary(
    seconds: float,
    outcomes: Counter[str],
    latencies: list[tuple[float, float]],
    samples: list[tuple[float, float, int, int]],
) -> dict[str, Any]:
    warm = [sample for sample in samples if sample[0] >= WARM_UP * seconds]
    times, memory = [at for at, *_ in warm], [mib for _, mib, *_ in warm]
    slope = statistics.linear_regression(times, memory).slope * 3_600
    first = [took for at, took in latencies if 0.5 <= at / seconds < 0.75]
    last = [took for at, took in latencies if at / seconds >= 0.75]
    good = ("rerank:", "tei:", "knowledge base:", "ask:", "chat:", "lone surrogate:")
    bad = ("no json:", "too long:", "wrong type:")
    failed = sum(n for name, n in outcomes.items() if name.startswith(good) and not name.endswith((": 200", ": 429")))
    # A client that is still sending sees the connection close rather than the answer 413.
    strange = sum(
        n
        for name, n in outcomes.items()
        if name.startswith(bad) and not name.split(": ")[1].startswith(("4", "Client"))
    )
    tenths = [next(mib for at, mib, *_ in samples if at >= seconds * i / 10) for i in range(10)]
    mib = {
        "by_tenths": [round(value) for value in tenths],
        "after_warm_up": round(memory[0], 1),
        "end": round(memory[-1], 1),
        "slope_per_hour": round(slope, 1),
    }
    return {
        "minutes": round(seconds / 60, 1),
        "requests": sum(outcomes.values()),
        "outcomes": dict(sorted(outcomes.items())),
        "memory_mib": mib,
        "open_files": {"after_warm_up": warm[0][2], "end": warm[-1][2], "most": max(sample[2] for sample in warm)},
        "threads": {"after_warm_up": warm[0][3], "end": warm[-1][3]},
        "median_latency_ms": {
            "third_quarter": round(1_000 * statistics.median(first), 1),
            "last_quarter": round(1_000 * statistics.median(last), 1),
        },
        "good_that_failed": failed,
        "bad_that_were_not_refused": strange,
    }


def complaints(seen: dict[str, Any]) -> list[str]:
    """What is wrong with a run; empty if nothing is."""
    latency = seen["median_latency_ms"]
    tests = {
        "memory grows": seen["memory_mib"]["slope_per_hour"] > 30,
        "open files leak": seen["open_files"]["end"] > seen["open_files"]["after_warm_up"] + 8,
        "threads leak": seen["threads"]["end"] > seen["threads"]["after_warm_up"] + 4,
        "latency grows": latency["last_quarter"] > 1.25 * latency["third_quarter"],
        "good requests failed": seen["good_that_failed"] > 0,
        "bad requests were not refused": seen["bad_that_were_not_refused"] > 0,
    }
    return [name for name, is_so in tests.items() if is_so]


def main() -> None:
    """Print what was seen, and exit with 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--rate", type=float, default=6, help="requests per second, at random moments")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seen = asyncio.run(soak(options.minutes, options.rate))
    if options.json:
        print(json.dumps(seen, ensure_ascii=False))  # noqa: T201
    else:
        for name, value in seen.items():
            print(f"{name:>27}: {value}")  # noqa: T201
    wrong = complaints(seen)
    print(f"{', '.join(wrong) or 'nothing grew'} ({os.cpu_count()} cores)")  # noqa: T201
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
