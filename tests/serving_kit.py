"""For the tests of the service: a scorer that does as it is told, and the real server on a free port."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_bge_medical.clinical.coverage import AffirmedWords
from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.serving.app import Model, create_app
from langchain_bge_medical.serving.medical import MedicalSearch
from langchain_bge_medical.serving.scheduler import ScoringEngine
from tests.conftest import HashEmbeddings

PROBE = ("probe", "probe")


class SharedCharacters(BaseCrossEncoder):
    """Scores a pair by how many of the query's characters the document has; a token is a character.

    Certain words in a document make it do what they say, so that one request can be bad and the next one good:
    `raise`, `nan`, `oom` (as soon as it is not alone), `die`, `slow` (half a second, or until `released` is set).
    """

    def __init__(self, *, seconds_per_token: float = 0.0, seconds_per_batch: float = 0.0, budget: int = 2_048) -> None:
        self.token_budget = budget
        self.max_length = 512
        self.seconds_per_token = seconds_per_token
        self.seconds_per_batch = seconds_per_batch
        self.batches: list[list[tuple[str, str]]] = []
        self.padded = self.tokens = 0
        self.busy_s = 0.0
        self.broken: Exception | None = None
        self.released = threading.Event()

    def token_counts(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        return [min(self.max_length, len(query) + len(document) + 4) for query, document in pairs]

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.batches.append(list(pairs))
        if self.broken is not None:
            raise self.broken
        sizes = self.token_counts(pairs)
        self.tokens += sum(sizes)
        self.padded += max(sizes) * len(sizes)
        started = time.perf_counter()
        time.sleep(self.seconds_per_batch + self.seconds_per_token * max(sizes) * len(sizes))
        self.busy_s += time.perf_counter() - started
        for _, document in pairs:
            self._obey(document, alone=len(pairs) == 1)
        return [float("nan") if "nan" in document else self.logit(query, document) for query, document in pairs]

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise AssertionError("logits are there, so they are asked for")

    @staticmethod
    def logit(query: str, document: str) -> float:
        return len(set(query) & set(document)) - 2.0

    def _obey(self, document: str, *, alone: bool) -> None:
        if "raise" in document:
            raise RuntimeError(f"cannot score {document}")
        if "die" in document:
            raise SystemExit("the thread ends here")
        if "oom" in document and not alone:
            raise RuntimeError("CUDA out of memory. Tried to allocate 3.00 GiB")
        if "slow" in document:
            self.released.wait(0.5)


MODEL = Model(name="shared-characters", revision="sha256:0")


def make_app(encoder: BaseCrossEncoder | None = None, *, max_wait_s: float = 10.0, **settings: Any) -> FastAPI:
    """The real app over a scorer."""
    scorer = encoder or SharedCharacters()
    engine = ScoringEngine(lambda: scorer, max_wait_s=max_wait_s, probe=PROBE)
    return create_app(engine, MODEL, **settings)


@contextlib.contextmanager
def running(app: FastAPI, *, wait: bool = True) -> Iterator[str]:
    """Serve the app on a free port of loopback, with the real server, and yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        while wait and httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=15)


def make_medical(
    documents: Sequence[Document], scorer: BaseCrossEncoder, *, recall: BaseRetriever | None = None, **settings: Any
) -> MedicalSearch:
    """A small knowledge base behind the service, recalled by character pairs."""
    if recall is None:
        store = InMemoryVectorStore.from_documents(list(documents), HashEmbeddings())
        recall = store.as_retriever(search_kwargs={"k": 50})
    compressor = BGERerankerCompressor(cross_encoder=scorer, query_to_text=AffirmedWords())
    return MedicalSearch(recall, compressor, documents, knowledge={"records": len(documents)}, **settings)


def calibration(**changes: Any) -> Calibration:
    """Made up, and unlike the plain sigmoid."""
    fitted: dict[str, Any] = {
        "method": "platt", "logit_weight": 0.5, "margin_weight": 0.25, "findings_weight": 0.5, "bias": -1.0,
        "threshold": 0.0, "false_refusal_rate": 0.05, "reranker": "x", "knowledge_base": "y",
    }  # fmt: skip
    return Calibration(**{**fitted, **changes})


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    events = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events
