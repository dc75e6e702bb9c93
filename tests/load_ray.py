"""Measure Ray Serve: one replica of one thread beside two, and what Ray adds to a request."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import ray
from ray import serve
from ray.cluster_utils import Cluster

from langchain_bge_medical.cli import ServiceSettings, build_service
from langchain_bge_medical.distributed.ray_serve import Replicas, application, run
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from tests.ports import free_port

PROBE = ("发热、咳嗽", "普通感冒:鼻塞、流涕、咽痛、低热")


def pairs_per_second(url: str, bodies: list[dict[str, object]], seconds: float, clients: int) -> float:
    """Closed loop: each client sends its next request when the last one is answered."""
    end = time.perf_counter() + seconds

    def client(number: int) -> int:
        done = 0
        with httpx.Client(timeout=60) as http:
            while time.perf_counter() < end:
                body = bodies[(number + done) % len(bodies)]
                if http.post(f"{url}/rerank", json=body).status_code == 200:
                    done += len(body["texts"])  # type: ignore[arg-type]  # a list
        return done

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = sum(pool.map(client, range(clients)))
    return done / (time.perf_counter() - started)


@contextlib.contextmanager
def real_time(wanted: bool) -> Iterator[None]:
    """Let nobody else have the cores of replicas, proxies and clients meanwhile, on a machine that others use."""
    tasks = []
    if wanted:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                name = (process / "cmdline").read_text("utf-8", "replace")
                if (
                    name.startswith(("ray::ServeReplica", "ray::ProxyActor"))
                    or "cli\0serve\0" in name
                    or int(process.name) == os.getpid()
                ):
                    tasks += [int(task.name) for task in (process / "task").iterdir()]
    try:
        for task in tasks:
            os.sched_setscheduler(task, os.SCHED_FIFO, os.sched_param(1))
        yield
    finally:
        for task in tasks:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))


def latency_ms(url: str, number: int) -> list[float]:
    body = {"query": "头痛", "texts": ["偏头痛"]}
    times = []
    with httpx.Client() as http:
        for _ in range(number + 20):
            started = time.perf_counter()
            http.post(f"{url}/rerank", json=body).raise_for_status()
            times.append((time.perf_counter() - started) * 1_000)
    return times[20:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--real-time", action="store_true", help="at real-time priority; needs root")
    options = parser.parse_args()
    texts = [document.page_content for document in MedicalKBLoader(bundled_knowledge_base()).load()]
    bodies: list[dict[str, object]] = [
        {"query": f"发烧三天,咳嗽,痰很多 {i}", "texts": texts[i : i + 50]} for i in range(0, 280, 7)
    ]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    rates: dict[int, list[float]] = {1: [], 2: []}
    overhead: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        settings = ServiceSettings(index=Path(folder) / "kb.index", dtype="float32", max_wait=60)
        port = free_port()
        for _ in range(options.rounds):
            for replicas in (1, 2):
                app = application(lambda: build_service(settings), PROBE, Replicas(replicas, replicas))
                url = run(app, host="127.0.0.1", port=port).rstrip("/")
                pairs_per_second(url, bodies, 3, options.clients)
                with real_time(options.real_time):
                    rates[replicas].append(pairs_per_second(url, bodies, options.seconds, options.clients))
        with real_time(options.real_time):
            overhead["ray"] = latency_ms(url, 300)
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
        port = free_port()
        command = [sys.executable, "-m", "langchain_bge_medical.cli", "serve", "--dtype", "float32", "--index", folder]
        command[-1] += "/kb.index"
        alone = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    if httpx.get(f"{url}/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            with real_time(options.real_time):
                overhead["alone"] = latency_ms(url, 300)
        finally:
            alone.terminate()
            alone.wait()
    one, two = statistics.median(rates[1]), statistics.median(rates[2])
    report = {
        "pairs_per_s": {str(replicas): [round(rate, 1) for rate in rates[replicas]] for replicas in rates},
        "two_replicas_over_one": round(two / one, 3),
        "request_ms_p50": {name: round(statistics.median(times), 2) for name, times in overhead.items()},
        "ray_adds_ms_p50": round(statistics.median(overhead["ray"]) - statistics.median(overhead["alone"]), 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
