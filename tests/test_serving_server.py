"""The service as a process: what a signal does to it, and what the command line starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
# The real server around a scorer that takes a tenth of a second for each request.
PROGRAM = """
import sys
from tests.serving_kit import SharedCharacters, make_app
from langchain_bge_medical.serving.server import listen, serve
app = make_app(SharedCharacters(seconds_per_batch=0.1, budget=32), max_wait_s=1e6)
sys.exit(serve(app, listen("127.0.0.1", int(sys.argv[1]))))
"""


@contextlib.contextmanager
def process(*command: str, port: int, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    started = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while True:
            assert started.poll() is None, started.stderr.read() if started.stderr else ""
            assert time.monotonic() < end
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            time.sleep(0.05)
        yield started, url
    finally:
        started.kill()
        started.communicate()


def test_after_sigterm_fifty_requests_in_flight_are_answered_later_ones_refused_and_it_ends_in_time() -> None:
    port = free_port()
    client = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=60))
    with process("-c", PROGRAM, str(port), port=port) as (server, url), ThreadPoolExecutor(50) as pool, client:

        def ask(i: int) -> int:
            return client.post(f"{url}/rerank", json={"query": "咳", "documents": [f"嗽{i}" * 9]}).status_code

        in_flight = [pool.submit(ask, i) for i in range(50)]
        engine_has = "bge_medical_queue_requests"
        while not any(
            line.startswith(engine_has) and float(line.split()[1]) + sum(f.done() for f in in_flight) >= 50
            for line in client.get(f"{url}/metrics").text.splitlines()
        ):
            time.sleep(0.01)
        done_before = sum(future.done() for future in in_flight)
        server.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        while client.get(f"{url}/ready").status_code == 200:
            time.sleep(0.01)
        late = client.post(f"{url}/rerank", json={"query": "咳", "documents": ["嗽"]})
        assert (late.status_code, late.json()["error"]["type"]) == (503, "service_draining")
        assert late.headers["retry-after"] == "2"
        assert [future.result() for future in in_flight] == [200] * 50
        assert done_before < 25
        _, log = server.communicate(timeout=30)
        assert time.monotonic() - signalled < 30
        assert server.returncode == 0
        for line in log.splitlines():
            json.loads(line)


def test_serve_answers_with_the_bundled_models_and_knowledge_base_without_any_set_up() -> None:
    port = free_port()
    command = ("-m", "langchain_bge_medical.cli", "serve", "--port", str(port))
    # Tracing to elsewhere would send patients' words away; keys are read from the environment.
    environment = {"LANGSMITH_TRACING": "true", "BGE_MEDICAL_API_KEYS": "one,two"}
    with process(*command, port=port, **environment) as (server, url):
        client = httpx.Client(base_url=url, headers={"Authorization": "Bearer two"}, timeout=30)
        assert httpx.post(f"{url}/rerank", json={"query": "咳"}).status_code == 401
        answer = client.post("/ask", json={"query": "孩子发烧三天了,耳朵后面有点红肿,摸起来疼。CANARY"}).json()
        assert answer["triage"]["level"] == "urgent"
        assert len(answer["results"]) == 5
        assert answer["audit"]["knowledge_base"]["records"] == 331
        assert answer["model"]["bundled"]
        ranked = client.post(
            "/v2/rerank", json={"query": "头痛", "documents": ["踝关节扭伤", "偏头痛:单侧头痛"]}
        ).json()
        assert ranked["results"][0]["index"] == 1
        client.close()
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=30)
        assert server.returncode == 0
    assert "LANGSMITH_TRACING is ignored" in log
    assert "CANARY" not in log


def cli(*arguments: str, without: str = "none") -> tuple[int, str]:
    code = f"import sys; sys.modules[{without!r}] = None; from langchain_bge_medical.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_mistake_is_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = cli("serve", "--port", port)
        assert (code, len(said.splitlines())) == (2, 1)
        assert f"cannot listen at 127.0.0.1, port {port}" in said
    code, said = cli("serve", without="fastapi")
    assert (code, len(said.splitlines())) == (2, 1)
    assert "pip install 'langchain-bge-medical[serve]'" in said
    code, said = cli("serve", "--port", "0", "--reranker", "/no/such/folder")
    assert (code, len(said.splitlines())) == (2, 1)
    assert "/no/such/folder" in said
