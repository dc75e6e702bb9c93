"""The service on a real Ray cluster of two nodes on loopback; run with `make ray-tests`."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytest.importorskip("fastapi", reason="needs the extra `serve`")

from fastapi import FastAPI

from langchain_bge_medical import RemoteCrossEncoder
from langchain_bge_medical.cli import ServiceSettings, build_service
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from tests.ports import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PROBE = ("发热、咳嗽", "普通感冒:鼻塞、流涕、咽痛、低热")
QUERIES = ["发烧三天,咳嗽,痰很多", "头痛怕光恶心", "上吐下泻,肚子疼", "耳朵疼听不清"]


class SaysItsNode:
    """Adds to each answer which node gave it, and which version of the service."""

    def __init__(self, app: Any, node: str, version: str) -> None:
        self.app = app
        self.headers = [(b"x-node", node.encode()), (b"x-version", version.encode())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self.headers]}
            await send(message)

        await self.app(scope, receive, send_on)


def application(settings: ServiceSettings, version: str) -> Any:
    from langchain_bge_medical.distributed.ray_serve import Replicas
    from langchain_bge_medical.distributed.ray_serve import application as on_ray

    def build() -> FastAPI:
        app = build_service(settings)
        app.add_middleware(SaysItsNode, node=ray.get_runtime_context().get_node_id(), version=version)
        return app

    return on_ray(build, PROBE, Replicas(2, 2), health_check_period_s=2, graceful_shutdown_timeout_s=20)


class TwoNodes:
    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        from langchain_bge_medical.distributed import ray_serve

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=node)
        del node["include_dashboard"]
        self.worker = self.cluster.add_node(**node)
        ray.init(address=self.cluster.address, log_to_driver=False)
        self.run = ray_serve.run
        self.settings = ServiceSettings(index=folder / "kb.index", dtype="float32", max_wait=2.0)
        self.port = free_port()
        self.url = self.deploy("one")

    def deploy(self, version: str) -> str:
        return self.run(application(self.settings, version), host="127.0.0.1", port=self.port).rstrip("/")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    from ray import serve

    started = TwoNodes(tmp_path_factory.mktemp("ray"))
    try:
        yield started
    finally:
        serve.shutdown()
        ray.shutdown()
        started.cluster.shutdown()


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    documents = MedicalKBLoader(bundled_knowledge_base()).load()[:10]
    return [(query, document.page_content) for query in QUERIES for document in documents]


@pytest.fixture(scope="module")
def expected(pairs: list[tuple[str, str]]) -> list[float]:
    return BGECrossEncoder("bundled", dtype="float32").logits(pairs)


class Load:
    """Clients of ours that ask the same again and again, and compare what they get with what is right."""

    def __init__(self, url: str, pairs: list[tuple[str, str]], expected: list[float], clients: int) -> None:
        self.url, self.pairs, self.expected = url, pairs, expected
        self.right = self.wrong = 0
        self.failures: list[str] = []
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def _ask(self, number: int) -> None:
        remote = RemoteCrossEncoder(self.url, dialect="score", timeout_s=10, max_tries=8)
        while not self._end.is_set():
            start = (number * 7 + self.right) % (len(self.pairs) - 5)
            try:
                logits = remote.logits(self.pairs[start : start + 5])
                right = logits == pytest.approx(self.expected[start : start + 5], abs=1e-4)
            except Exception as error:
                with self._lock:
                    self.failures.append(str(error))
                continue
            with self._lock:
                self.right += right
                self.wrong += not right
        remote.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_scores_are_those_of_one_process_and_both_nodes_work(
    nodes: TwoNodes, pairs: list[tuple[str, str]], expected: list[float]
) -> None:
    remote = RemoteCrossEncoder(nodes.url)
    assert remote.logits(pairs) == pytest.approx(expected, abs=1e-4)
    remote.close()
    body = {"query": "发烧三天,咳嗽", "documents": ["踝关节扭伤", "普通感冒:鼻塞、流涕、发热"]}
    by_node: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool, httpx.Client() as client:
        # The node that is asked keeps what it can answer at once, all but a tenth on a fast machine.
        for _ in range(20):
            answers = list(pool.map(lambda _: client.post(f"{nodes.url}/v2/rerank", json=body), range(80)))
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.json()["results"][0]["index"] for answer in answers} == {1}
            by_node.update(answer.headers["x-node"] for answer in answers)
            if len(by_node) == 2 and min(by_node.values()) >= 10:
                break
    assert len(by_node) == 2
    assert min(by_node.values()) >= 10
    asked = httpx.post(f"{nodes.url}/ask", json={"query": "孩子发烧三天了,耳朵后面有点红肿"}, timeout=30).json()
    assert asked["triage"]["level"] == "urgent"


def test_overload_is_answered_with_200_or_429_and_when_to_come_back(nodes: TwoNodes) -> None:
    body = {"query": "发烧三天,咳嗽", "documents": [f"普通感冒:鼻塞、流涕、咽痛、低热 {i}" * 20 for i in range(200)]}
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=120)) as client, ThreadPoolExecutor(120) as pool:
        answers = list(pool.map(lambda _: client.post(f"{nodes.url}/v2/rerank", json=body), range(240)))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}, counts
    assert all(float(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)


def test_a_rolling_update_loses_no_request(
    nodes: TwoNodes, pairs: list[tuple[str, str]], expected: list[float]
) -> None:
    with Load(nodes.url, pairs, expected, clients=4) as load:
        time.sleep(1)
        nodes.deploy("two")
        time.sleep(1)
    assert (load.failures, load.wrong) == ([], 0)
    assert load.right > 20
    body = {"query": "头痛", "documents": ["偏头痛"]}
    assert {httpx.post(f"{nodes.url}/rerank", json=body).headers["x-version"] for _ in range(20)} == {"two"}


def test_a_node_that_is_killed_costs_at_most_one_request_in_a_hundred_and_no_answer_is_wrong(
    nodes: TwoNodes, pairs: list[tuple[str, str]], expected: list[float]
) -> None:
    with Load(nodes.url, pairs, expected, clients=4) as load:
        time.sleep(2)
        nodes.cluster.remove_node(nodes.worker, allow_graceful=False)
        before = load.right
        time.sleep(12)
    assert load.wrong == 0
    assert load.right - before > 20
    assert len(load.failures) <= load.right / 100, load.failures[:3]
