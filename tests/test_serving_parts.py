"""What the service is put together from, without a server: what errors mean to a client, a start that fails, traces."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from langchain_bge_medical.model_files import ModelNotFoundError
from langchain_bge_medical.remote_cross_encoders import RemoteRerankerError
from langchain_bge_medical.serving.app import Model, create_app
from langchain_bge_medical.serving.edge import Problem
from langchain_bge_medical.serving.scheduler import DeadlineExceeded, NotReady, Overloaded, ScoringEngine
from langchain_bge_medical.serving.service import Service, as_problem
from langchain_bge_medical.serving.telemetry import otlp_tracer
from tests.serving_kit import PROBE, SharedCharacters, make_medical


@pytest.mark.parametrize(
    ("error", "status", "code", "again_s"),
    [
        (Overloaded(3.5), 429, "overloaded", 3.5),
        (NotReady("starting"), 503, "service_starting", 2),
        (NotReady("broken"), 503, "service_broken", 2),
        (DeadlineExceeded("too late"), 504, "deadline_exceeded", None),
        (MemoryError(), 503, "out_of_memory", 5),
        (RuntimeError("CUDA error: out of memory"), 503, "out_of_memory", 5),
        (RemoteRerankerError("http://gpu1: status 502"), 503, "reranker_unavailable", 5),
    ],
)
def test_what_an_error_of_the_engine_means_to_a_client(
    error: Exception, status: int, code: str, again_s: float | None
) -> None:
    problem = as_problem(error)
    assert problem is not None
    assert (problem.status, problem.code, problem.retry_after_s) == (status, code, again_s)
    assert as_problem(problem) is problem


def test_an_error_that_nobody_expects_is_no_problem_of_the_clients() -> None:
    assert as_problem(KeyError("CANARY")) is None
    assert as_problem(RuntimeError("CANARY")) is None


def no_model() -> BaseCrossEncoder:
    raise ModelNotFoundError("there is no model in CANARY")


async def test_a_service_that_cannot_start_is_broken_keeps_why_and_logs_the_kind_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    service: Service = create_app(
        ScoringEngine(no_model, probe=PROBE), Model(name="none", revision="0", dtype="float32")
    ).state.service
    async with service.lifespan(None):
        for _ in range(200):
            if service.failure is not None:
                break
            await asyncio.sleep(0.01)
        assert isinstance(service.failure, ModelNotFoundError)
        assert service.state() == "broken"
    assert "the service could not be started (ModelNotFoundError)" in caplog.text
    assert "CANARY" not in caplog.text


async def test_a_service_that_ends_says_that_it_drains_and_without_a_knowledge_base_it_says_what_it_can() -> None:
    service: Service = create_app(
        ScoringEngine(SharedCharacters, probe=PROBE), Model(name="one", revision="0", dtype="-")
    ).state.service
    assert service.knowledge == {}
    with pytest.raises(Problem, match="no knowledge base; send documents to rank") as raised:
        _ = service.medical
    assert raised.value.status == 501
    async with service.lifespan(None):
        pass
    assert service.state() == "draining"


class Receiver(HTTPServer):
    """Takes what an OTLP exporter sends."""

    def __init__(self) -> None:
        received: list[tuple[str, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.received = received


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_traces_go_where_the_variables_say_under_the_service_s_name(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp", reason="needs the extra `otel`")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
    tracer: Any = otlp_tracer()
    with tracer.start_as_current_span("POST /rerank"):
        pass
    tracer.span_processor.force_flush()
    tracer.span_processor.shutdown()
    [(path, body)] = receiver.received
    assert path == "/v1/traces"
    assert b"langchain-bge-medical" in body
    assert b"POST /rerank" in body


def test_without_the_extra_otel_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ImportError, match=r"tracing needs: pip install 'langchain-bge-medical\[otel\]'"):
        otlp_tracer()


async def test_lists_that_a_store_keeps_as_one_text_are_lists_on_the_cards() -> None:
    lists = {
        "disease": "流行性感冒",
        "symptoms": ["发热", "咳嗽"],
        "aliases": ["流感", "flu"],
        "red_flags": ["呼吸困难"],
        "differentials": ["普通感冒", "肺炎"],
        "sources": ["甲", "乙"],
    }
    texts = {name: value if isinstance(value, str) else "、".join(value) for name, value in lists.items()}
    found = []
    for metadata in (lists, texts):
        documents = [Document(page_content="流行性感冒\n发热、咳嗽", metadata=metadata)]
        answer = make_medical(documents, SharedCharacters()).answer(
            "发烧咳嗽三天", None, top_n=5, lang="en", deadline_s=10, words=False
        )
        found += [chunk["results"] async for chunk in answer if "results" in chunk]
    assert found[1] == found[0]
    [card] = found[0]
    assert (card["name"], card["symptoms"]) == ("Flu", ["发热", "咳嗽"])
