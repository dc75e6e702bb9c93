"""How a request goes through the engine: let in or refused, no longer than its deadline or its client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from langchain_bge_medical.serving.medical import MedicalSearch
from langchain_bge_medical.serving.scheduler import (
    Admission,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    Pair,
    PairScore,
    ScoringEngine,
    is_out_of_memory,
    is_unreachable,
)
from langchain_bge_medical.serving.schemas import Limits, Problem
from langchain_bge_medical.serving.telemetry import Call, Telemetry

logger = logging.getLogger("langchain_bge_medical.serving")

T = TypeVar("T")


class Model(BaseModel):
    """What ranks, as the service tells it."""

    name: str
    revision: str
    dtype: str = "float32"
    max_length: int = 512
    bundled: bool = False
    embeddings: str | None = None


class Service:
    """What the routes share."""

    def __init__(
        self,
        engine: ScoringEngine,
        model: Model,
        medical: MedicalSearch | None,
        limits: Limits,
        telemetry: Telemetry,
        deadline_s: float,
    ) -> None:
        """See `create_app`."""
        self.engine = engine
        self.model = model
        self.limits = limits
        self.telemetry = telemetry
        self.deadline_s = deadline_s
        self.failure: Exception | None = None
        self.draining = False
        self._medical = medical
        self._answering = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Load the model beside the running server, which says 503 meanwhile; stop the engine at the end."""
        loading = asyncio.create_task(self._start())
        yield
        self.draining = True
        loading.cancel()
        await asyncio.to_thread(self.engine.close)

    async def _start(self) -> None:
        try:
            if self._medical is not None:
                await self._medical.warm_up()
            await asyncio.to_thread(self.engine.start)
        except Exception as error:
            self.failure = error
            logger.critical("the service could not be started (%s)", type(error).__name__)

    @property
    def knowledge(self) -> dict[str, Any]:
        """What identifies the knowledge base; empty without one."""
        return self._medical.knowledge if self._medical else {}

    @property
    def medical(self) -> MedicalSearch:
        """The knowledge base.

        Raises:
            Problem: 501 if there is none.
        """
        if self._medical is None:
            raise Problem(501, "no_knowledge_base", "this service has no knowledge base; send documents to rank")
        return self._medical

    @property
    def max_length(self) -> int:
        """Tokens that the model reads of a pair, as the loaded one says."""
        return getattr(self.engine.loaded_encoder, "max_length", None) or self.model.max_length

    @property
    def dtype(self) -> str:
        """What the loaded model computes in; before it is loaded, what was asked for."""
        return getattr(self.engine.loaded_encoder, "loaded_dtype", None) or self.model.dtype

    def busy(self) -> bool:
        """Return whether there are requests that were let in and are not done."""
        return bool(self._answering or self.engine.backlog_requests)

    def state(self) -> str:
        """Return `ready` if a request sent now would be answered, else what is in the way."""
        if self.draining:
            return "draining"
        if self.failure is not None:
            return "broken"
        return self.engine.state if self.engine.state != "ready" or self.engine.ready() else "stuck"

    def admit(self, tokens: int) -> Admission:
        """Let a request in.

        Raises:
            Problem: 413, 429 or 503.
        """
        if tokens > self.limits.tokens:
            raise Problem(
                413, "too_many_tokens", f"about {tokens} tokens; at most {self.limits.tokens} are taken in one request"
            )
        self.check_open()
        with _problems():
            return self.engine.admit(tokens, deadline=time.monotonic() + self.deadline_s)

    def check_open(self) -> None:
        """Refuse while starting, draining or broken.

        Raises:
            Problem: 503.
        """
        state = self.state()
        if state not in ("ready", "stuck"):  # what is stuck may get going again; the deadline decides
            raise Problem(503, f"service_{state}", f"the service is {state}", retry_after_s=2)

    async def score(self, request: Request, pairs: Sequence[Pair]) -> list[PairScore]:
        """Score pairs, none of them blank.

        Raises:
            Problem: As `admit` and `within`.
        """
        admission = self.admit(sum(self.engine.estimate(pairs)))
        try:
            scores = await self.within(request, asyncio.wrap_future(admission.submit(pairs)), self.deadline_s)
        finally:
            admission.release()
        call: Call = request.state.call
        call.stage("queue", admission.queue_s)
        call.stage("tokenize", admission.tokenize_s)
        call.stage("rerank", admission.score_s)
        call.tokens = admission.read_tokens
        return scores

    async def within(self, request: Request, work: Awaitable[T], deadline_s: float) -> T:
        """Wait for work, but no longer than the deadline, nor longer than the client does; then it is cancelled.

        Raises:
            Problem: 504 past the deadline, 499 when nobody is there any more, and what the engine's errors mean.
        """
        task = asyncio.ensure_future(work)
        # If it fails after nobody waits any more, nobody need hear of it: asyncio would log the error's words.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({task, gone}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                with _problems():
                    return task.result()
            if gone.done():
                raise Problem(499, "disconnected", "the client went away")
            raise _too_late()
        finally:
            gone.cancel()
            task.cancel()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Hold one of the places for answers in words.

        Raises:
            Problem: 429 if all are taken.
        """
        if self._answering >= self.limits.answers:
            raise Problem(429, "too_many_answers", "too many answers are being written", retry_after_s=2)
        self._answering += 1
        try:
            yield
        finally:
            self._answering -= 1


def as_problem(error: Exception) -> Problem | None:
    """Return what an error of the engine's means to a client; `None` for any other error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Overloaded):
        return Problem(429, "overloaded", str(error), retry_after_s=error.retry_after_s)
    if isinstance(error, NotReady):
        return Problem(503, f"service_{error.state}", f"the service is {error.state}", retry_after_s=2)
    if isinstance(error, DeadlineExceeded):
        return _too_late()
    if is_out_of_memory(error):
        return Problem(503, "out_of_memory", "this request does not fit into memory", retry_after_s=5)
    if is_unreachable(error):
        return Problem(503, "reranker_unavailable", "the rerank server behind this one gave no scores", retry_after_s=5)
    return None


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        problem = as_problem(error)
        if problem is None:
            raise
        raise problem from None


def _too_late() -> Problem:
    return Problem(504, "deadline_exceeded", "the request was not answered in time")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
