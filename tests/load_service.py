"""How the service behaves under load, printed as one table. Not a test: what it prints depends on the machine.

    python -m tests.load_service [--only overhead overload health throughput] [--seconds 30] [--json]

Overhead, overload and health are measured against a scorer that computes nothing (and, for overload, sleeps for a fixed
time per token), so that they are the service's own; throughput is measured with the bundled reranker. The server is a
process of its own, the client another; requests come at fixed times, whatever became of the ones before (open loop),
and latency counts from the time at which a request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
from langchain_core.cross_encoders import BaseCrossEncoder

from tests.ports import free_port

RANDOM = random.Random(7)
WORDS = "发热咳嗽咳痰胸痛头痛乏力恶心呕吐腹泻腹痛皮疹瘙痒耳痛咽痛鼻塞流涕心悸气促水肿口渴多尿消瘦盗汗"


def text(length: int) -> str:
    return "".join(RANDOM.choices(WORDS, k=length))


def body(documents: int = 20, lengths: tuple[int, int] = (20, 120)) -> bytes:
    texts = [text(RANDOM.randint(*lengths)) for _ in range(documents)]
    return json.dumps({"query": text(20), "documents": texts, "return_documents": False}, ensure_ascii=False).encode()


class Null(BaseCrossEncoder):
    """Computes nothing, for as long as it is told."""

    token_budget = 2_048
    max_length = 512

    def __init__(self, seconds_per_token: float) -> None:
        self.seconds_per_token = seconds_per_token

    def token_counts(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        return [min(512, len(query) + len(document) + 4) for query, document in pairs]

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if self.seconds_per_token:
            time.sleep(self.seconds_per_token * sum(self.token_counts(pairs)))
        return [0.0] * len(pairs)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return self.logits(text_pairs)


def serve(port: int, seconds_per_token: float, max_wait_s: float) -> None:
    from langchain_bge_medical.serving.app import Model, create_app
    from langchain_bge_medical.serving.scheduler import ScoringEngine
    from langchain_bge_medical.serving.server import listen
    from langchain_bge_medical.serving.server import serve as run

    probe = (text(20), text(60))
    engine = ScoringEngine(lambda: Null(seconds_per_token), max_wait_s=max_wait_s, probe=probe)
    sys.exit(run(create_app(engine, Model(name="null", revision="0")), listen("127.0.0.1", port)))


@contextlib.asynccontextmanager
async def server(*, seconds_per_token: float = 0.0, max_wait_s: float = 10.0) -> AsyncIterator[aiohttp.ClientSession]:
    port = free_port()
    command = [sys.executable, "-m", "tests.load_service", "--serve", str(port)]
    command += ["--seconds-per-token", str(seconds_per_token), "--max-wait", str(max_wait_s)]
    # The log is written, as it would be, and thrown away.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - nothing else waits yet
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, headers=headers) as session:
        try:
            for _ in range(600):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/ready") as response:
                        if response.status == 200:
                            break
                await asyncio.sleep(0.1)
            yield session
        finally:
            process.terminate()
            process.wait(timeout=40)


async def post(session: aiohttp.ClientSession, raw: bytes) -> int:
    async with session.post("/rerank", data=raw) as response:
        await response.read()
        return response.status


async def open_loop(
    send: Callable[[int], Any], per_second: float, seconds: float
) -> tuple[list[float], list[tuple[int, float]]]:
    """Send at fixed times; returns how late each was sent and, of each, its status and latency."""
    results: list[tuple[int, float]] = []
    late: list[float] = []

    async def one(i: int, due: float) -> None:
        status = await send(i)
        results.append((status, time.perf_counter() - due))

    started = time.perf_counter()
    tasks = []
    for i in range(int(per_second * seconds)):
        due = started + i / per_second
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        late.append(max(0.0, time.perf_counter() - due))
        tasks.append(asyncio.create_task(one(i, due)))
    await asyncio.gather(*tasks)
    return late, results


async def closed_loop(send: Callable[[int], Any], connections: int, seconds: float) -> list[int]:
    statuses: list[int] = []
    end = time.perf_counter() + seconds

    async def loop(k: int) -> None:
        i = k
        while time.perf_counter() < end:
            status = await send(i)
            if time.perf_counter() <= end:  # what is done later is not of these seconds
                statuses.append(status)
            i += connections

    await asyncio.gather(*(loop(k) for k in range(connections)))
    return statuses


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def metric(session: aiohttp.ClientSession, name: str) -> float:
    async with session.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise KeyError(name)


async def overhead(seconds: float) -> dict[str, Any]:
    """Milliseconds per request of 20 documents, at 200 requests a second: all of it is the service's own."""
    bodies = [body() for _ in range(400)]
    async with server() as session:
        await open_loop(lambda i: post(session, bodies[i % 400]), 200, 3)
        before = await metric(session, "process_cpu_seconds_total")
        _, results = await open_loop(lambda i: post(session, bodies[i % 400]), 200, seconds)
        cpu = await metric(session, "process_cpu_seconds_total") - before
        tokens = await metric(session, "bge_medical_tokens_total")
        padding = 1 - tokens / await metric(session, "bge_medical_padded_tokens_total")
    took = [latency * 1_000 for _, latency in results]
    return {
        "requests": len(results), "statuses": dict(Counter(status for status, _ in results)),
        "p50_ms": round(quantile(took, 0.5), 2), "p99_ms": round(quantile(took, 0.99), 2),
        # What does not depend on who else wants the cores.
        "server_cpu_ms": round(cpu / len(results) * 1_000, 2), "padding": round(padding, 3),
    }  # fmt: skip


async def overload(seconds: float) -> dict[str, Any]:
    """Twice as many requests as there is capacity for."""
    bodies = [body() for _ in range(400)]
    async with server(seconds_per_token=6e-6, max_wait_s=1.0) as session:
        await closed_loop(lambda i: post(session, bodies[i % 400]), 16, 3)
        measured = min(10.0, seconds)
        peak = Counter(await closed_loop(lambda i: post(session, bodies[i % 400]), 32, measured))[200] / measured
        await asyncio.sleep(1)
        before = await metric(session, "bge_medical_pairs_total")
        started = time.perf_counter()
        in_time = 0

        async def send(i: int) -> int:
            nonlocal in_time
            status = await post(session, bodies[i % 400])
            in_time += status == 200 and time.perf_counter() - started <= seconds
            return status

        late, results = await open_loop(send, 2 * peak, seconds)
        scored = await metric(session, "bge_medical_pairs_total") - before
    statuses = Counter(status for status, _ in results)
    admitted = [latency * 1_000 for status, latency in results if status == 200]
    return {
        "peak_per_s": round(peak, 1), "offered_per_s": round(2 * peak, 1), "statuses": dict(statuses),
        "goodput_of_peak": round(in_time / seconds / peak, 3), "admitted_p99_ms": round(quantile(admitted, 0.99)),
        # Pairs that were scored for requests that were refused all the same.
        "pairs_scored_for_nothing": int(scored - 20 * statuses[200]),
        "client_late_p99_ms": round(quantile(late, 0.99) * 1_000, 1),
    }  # fmt: skip


async def health(seconds: float) -> dict[str, Any]:
    """/health every 20 ms while requests of the largest size are worked on without a pause."""
    bodies = [body(1_000, (1_500, 2_500)) for _ in range(3)]
    async with server(seconds_per_token=1e-6, max_wait_s=1_000) as session:
        probing = True
        took: list[float] = []

        async def probe() -> None:
            while probing:
                started = time.perf_counter()
                async with session.get("/health") as response:
                    await response.read()
                    assert response.status == 200
                took.append((time.perf_counter() - started) * 1_000)
                await asyncio.sleep(0.02)

        task = asyncio.create_task(probe())
        statuses = await closed_loop(lambda i: post(session, bodies[i % 3]), 2, seconds)
        probing = False
        await task
    return {
        "body_mb": round(len(bodies[0]) / 1e6, 1), "large_requests": dict(Counter(statuses)), "probes": len(took),
        "p50_ms": round(quantile(took, 0.5), 1), "p99_ms": round(quantile(took, 0.99), 1),
    }  # fmt: skip


def throughput(repeats: int = 5) -> dict[str, Any]:
    """The bundled reranker behind the engine, beside `CrossEncoder.predict` on the same pairs, interleaved."""
    from sentence_transformers import CrossEncoder

    from langchain_bge_medical.cross_encoders import BGECrossEncoder
    from langchain_bge_medical.model_files import model_folder
    from langchain_bge_medical.serving.scheduler import ScoringEngine

    requests = [[(text(15), text(RANDOM.randint(20, 400))) for _ in range(20)] for _ in range(5)]
    pairs = [pair for request in requests for pair in request]
    encoder = BGECrossEncoder("bundled")
    engine = ScoringEngine(lambda: encoder)
    plain = CrossEncoder(
        str(model_folder("bundled", kind="reranker")), device="cpu", max_length=512, model_kwargs={"dtype": "float32"}
    )

    def through_engine() -> None:
        for future in [engine.submit(request) for request in requests]:
            future.result()

    def fifo() -> None:  # as they come, in padded batches, as a server without sorting would
        for i in range(0, len(pairs), 32):
            plain.predict(pairs[i : i + 32], batch_size=32, show_progress_bar=False)

    ways: dict[str, Callable[[], object]] = {
        "engine": through_engine,
        "predict": lambda: plain.predict(pairs, batch_size=32, show_progress_bar=False),
        "fifo": fifo,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if repeat:
                took[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in took.items()}
    engine.close()
    return {
        "pairs_per_s": {name: round(len(pairs) / seconds, 1) for name, seconds in medians.items()},
        "of_sorted_predict": round(medians["predict"] / medians["engine"], 2),
        "of_fifo_batches": round(medians["fifo"] / medians["engine"], 2),
        "padding": round(1 - engine.counts.tokens / engine.counts.padded_tokens, 3) if encoder.pads else 0.0,
    }


async def measure(only: Sequence[str], seconds: float, repeats: int) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    }
    if "overhead" in only:
        runs = [await overhead(min(10.0, seconds)) for _ in range(repeats)]
        report["overhead"] = sorted(runs, key=lambda run: run["p50_ms"])[len(runs) // 2]
    if "overload" in only:
        report["overload"] = await overload(seconds)
    if "health" in only:
        report["health"] = await health(min(10.0, seconds))
    if "throughput" in only:
        report["throughput"] = throughput()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["overhead", "overload", "health", "throughput"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--seconds", type=float, default=30.0, help="of overload; the others take a third of it")
    parser.add_argument("--repeats", type=int, default=3, help="of the overhead run; the median one is printed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds-per-token", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--max-wait", type=float, default=10.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.seconds_per_token, options.max_wait)
    report = asyncio.run(measure(options.only, options.seconds, options.repeats))
    if options.json:
        print(json.dumps(report))
        return
    print(report.pop("machine"))
    for name, figures in report.items():
        print(f"{name:>10}  " + "  ".join(f"{key} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
