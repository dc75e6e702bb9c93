"""The FastAPI app, made of ready objects: its routes, and each rerank dialect's answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from langchain_bge_medical.serving import schemas
from langchain_bge_medical.serving.edge import Edge, Keys, refusal
from langchain_bge_medical.serving.medical import MedicalSearch, messages, notice
from langchain_bge_medical.serving.scheduler import Admission, PairScore, ScoringEngine, as_logits
from langchain_bge_medical.serving.schemas import Limits, Problem, check_history, check_sizes
from langchain_bge_medical.serving.service import Model, Service, as_problem
from langchain_bge_medical.serving.telemetry import Call, Telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["Limits", "Model", "create_app"]

_WEB = Path(__file__).parent / "web"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# An answer in words may take a chat model longer than scoring takes; a proxy wants to hear something meanwhile.
_WORDS_DEADLINE_S = 300.0
_HEARTBEAT_S = 15.0
# Of a blank text: lower than what a model says, but finite, as JSON has no infinity, and no overflow to a client's exp.
_BLANK_LOGIT = -100.0

Event = tuple[str, dict[str, Any]]


def create_app(
    engine: ScoringEngine,
    model: Model,
    *,
    medical: MedicalSearch | None = None,
    limits: Limits | None = None,
    api_keys: Sequence[str] = (),
    requests_per_second: float | None = None,
    cors_origins: Sequence[str] = (),
    deadline_s: float = 30.0,
    text_sample: float = 0.0,
    tracer: Tracer | None = None,
) -> FastAPI:
    """Return the service.

    Args:
        engine: The queue and the model. The app loads it when it starts and closes it when it ends, and answers
            503 in between times.
        model: What is told of the model.
        medical: The knowledge base; without it only texts that are sent along are ranked.
        limits: Sizes that are taken; `None` takes the defaults.
        api_keys: Any of them opens; none means open to everybody.
        requests_per_second: Of each key, or of each address where there are no keys.
        cors_origins: Pages of other origins that may call, e.g. `https://clinic.example`.
        deadline_s: Seconds after which a request that is not scored is answered 504.
        text_sample: Share of requests whose query is logged, 0 to 1. Patients' words are then in the log.
        tracer: Of OpenTelemetry.

    Returns:
        The app. `app.state.service` is the `Service` behind it.
    """
    limits = limits or Limits()
    told = {"model": model.name, "revision": model.revision}
    telemetry = Telemetry(engine, told, text_sample=text_sample)
    engine.on_batch = telemetry.on_batch
    service = Service(engine, model, medical, limits, telemetry, deadline_s)
    app = FastAPI(
        title="langchain-bge-medical",
        version=version("langchain-bge-medical"),
        description="Rerank texts, or the diseases of a knowledge base, for a patient's own words. No diagnosis.",
        lifespan=service.lifespan,
        # Their pages would load scripts from elsewhere; /openapi.json goes into any viewer.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _Routes(service).add_to(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    app.add_exception_handler(HTTPException, _as_problem)
    keys = Keys(api_keys, per_second=requests_per_second)
    app.add_middleware(Edge, telemetry=telemetry, limits=limits, keys=keys, tracer=tracer)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in cors_origins],  # as browsers send it
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"],
            expose_headers=["Retry-After", "Retry-After-Ms", "X-Request-Id"],
        )
    return app


class _Routes:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = int(time.time())

    def add_to(self, app: FastAPI) -> None:
        """Add them all."""
        bodies: list[type[BaseModel]] = [
            schemas.Rerank,
            schemas.TEIRerank,
            schemas.InfinityRerank,
            schemas.KnowledgeBaseQuery,
        ]
        answers = ["RerankAnswer", "InfinityAnswer", "TEIAnswer", "KnowledgeBaseAnswer"]
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            _post(app, path, self.rerank, bodies, answers)
        _post(app, "/infinity/rerank", self.infinity, [schemas.InfinityRerank], ["InfinityAnswer"])
        for path in ("/score", "/v1/score"):
            _post(app, path, self.score, [schemas.Score], ["ScoreAnswer"])
        _post(app, "/ask", self.ask, [schemas.Ask], ["AskAnswer"])
        _post(app, "/chat", self.chat, [schemas.Ask], None)
        for path, endpoint in (
            ("/info", self.info),
            ("/v1/models", self.models),
            ("/v1/models/{name:path}", self.one_model),
            ("/v1/cluster/auth", self.cluster_auth),
            ("/health", self.health),
            ("/ready", self.ready),
        ):
            responses = _refusals(401, 404, 429, 500, 503)
            app.add_api_route(path, endpoint, methods=["GET"], responses=responses, tags=["about"], response_model=None)
        for path, endpoint in (("/health", self.health), ("/ready", self.ready), ("/", _page)):  # probes often use it
            app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
        app.add_api_route("/metrics", self.metrics, methods=["GET"], include_in_schema=False)
        app.add_api_route("/", _page, methods=["GET"], include_in_schema=False)
        app.mount("/web", _Static(directory=_WEB), name="web")

    # Ranking texts

    async def rerank(self, request: Request) -> Response:
        """Rank texts for a query, in the dialect of the body; a query alone ranks the knowledge base.

        `query` with `documents`: Cohere v1 and v2, Jina, vLLM, Xinference. With `raw_scores` as well: Infinity.
        `query` with `texts`: Text Embeddings Inference.
        """
        raw = await request.body()
        call: Call = request.state.call
        call.dialect = "tei" if b'"texts"' in raw and b'"documents"' not in raw else "cohere"
        body = schemas.parse_rerank(raw)
        if isinstance(body, schemas.KnowledgeBaseQuery):
            return await self._rank_knowledge_base(request, body)
        if isinstance(body, schemas.TEIRerank):
            return await self._rerank_tei(request, body)
        if isinstance(body, schemas.InfinityRerank):
            return await self._rerank_infinity(request, body)
        return await self._rerank_cohere(request, body)

    async def infinity(self, request: Request) -> Response:
        """Rank documents for a query, answering as Infinity does whatever the body holds beside them."""
        body = schemas.parse(schemas.InfinityRerank, await request.body())
        return await self._rerank_infinity(request, body)

    async def score(self, request: Request) -> Response:
        """Score pairs in the order given, as vLLM does."""
        body = schemas.parse_score(await request.body())
        queries = body.queries * len(body.documents) if len(body.queries) == 1 else body.queries
        scores = await self._scores(request, "score", queries, body.documents)
        shown = _shown(scores, raw=body.use_activation is False)
        knows = getattr(self._service.engine.loaded_encoder, "knows", None)
        data: list[dict[str, Any]] = []
        for i, score in enumerate(scores):
            row = {"index": i, "object": "score", "score": shown[i]}
            # For this package's RemoteCrossEncoder: what a compressor beside the model would have been told.
            if score.truncated:
                row["truncated"] = list(score.truncated)
            if knows is not None and not knows(body.documents[i]):
                row["known"] = False
            data.append(row)
        return _json({**self._frame(request, "score-", "list"), "data": data, "usage": _usage(request)})

    async def _rerank_cohere(self, request: Request, body: schemas.Rerank) -> Response:
        texts = body.texts()
        scores = await self._scores(request, "cohere", [body.query] * len(texts), texts)
        order = _best_first(scores)[: body.top_n]
        spans = await self._spans(body, [texts[i] for i in order])
        results = []
        for i, found in zip(order, spans, strict=True):
            result: dict[str, Any] = {"index": i, "relevance_score": scores[i].score}
            # Some clients read it without having asked for it, so it is left out only where it is not wanted.
            if body.return_documents is not False:
                result["document"] = {"text": texts[i]}
            if found:
                result["relevant_spans"] = found
            if scores[i].truncated:
                result["truncated"] = list(scores[i].truncated)
            results.append(result)
        tokens = {"input_tokens": request.state.call.tokens, "output_tokens": 0}
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "tokens": tokens}
        frame = self._frame(request, "", "rerank")
        return _json({**frame, "results": results, "usage": _usage(request), "meta": meta})

    async def _spans(self, body: schemas.Rerank, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        wanted = body.relevant_spans
        if wanted is None or wanted.mode == "disabled":
            return [[] for _ in texts]
        spans = await asyncio.to_thread(self._service.medical.spans, body.query, texts)
        return [[span for span in found if span["score"] >= wanted.threshold][: wanted.max_spans] for found in spans]

    async def _rerank_infinity(self, request: Request, body: schemas.InfinityRerank) -> Response:
        texts = body.documents
        scores = await self._scores(request, "infinity", [body.query] * len(texts), texts)
        shown = _shown(scores, raw=body.raw_scores)
        results: list[dict[str, Any]] = []
        for i in _best_first(scores)[: body.top_n]:
            result = {"index": i, "relevance_score": shown[i]}
            results.append({**result, "document": texts[i]} if body.return_documents else result)
        frame = self._frame(request, "infinity-", "rerank")
        return _json({**frame, "results": results, "usage": _usage(request)})

    async def _rerank_tei(self, request: Request, body: schemas.TEIRerank) -> Response:
        scores = await self._scores(request, "tei", [body.query] * len(body.texts), body.texts)
        cut = [i for i, score in enumerate(scores) if score.truncated]
        if cut and body.truncate is False:
            raise Problem(422, "too_long", f"texts.{cut[0]}: the pair is longer than {self._service.max_length}")
        shown = _shown(scores, raw=body.raw_scores)
        ranks: list[dict[str, Any]] = []
        for i in _best_first(scores):
            rank = {"index": i, "score": shown[i]}
            ranks.append({**rank, "text": body.texts[i]} if body.return_text else rank)
        call: Call = request.state.call
        stages = {"queue": "queue", "tokenization": "tokenize", "inference": "rerank"}
        headers = {f"x-{name}-time": str(round(call.stages_ms.get(stage, 0))) for name, stage in stages.items()}
        total = str(round((time.perf_counter() - call.started) * 1_000))
        headers |= {"x-total-time": total, "x-compute-time": total, "x-compute-tokens": str(call.tokens)}
        return _json(ranks, {**headers, "x-compute-characters": str(call.characters)})

    async def _scores(
        self, request: Request, dialect: str, queries: Sequence[str], documents: Sequence[str]
    ) -> list[PairScore]:
        """Return a score per document; a blank one is not scored and is below all others: 0, and a low logit."""
        call: Call = request.state.call
        call.dialect, call.documents = dialect, len(documents)
        self._check(call, list(dict.fromkeys(queries)), documents)
        wanted = list(zip(queries, documents, strict=True))
        pairs = list(dict.fromkeys(pair for pair in wanted if pair[1].strip()))
        known = dict(zip(pairs, await self._service.score(request, pairs), strict=True)) if pairs else {}
        # Scores of another kind than the model's can be lower still.
        score = min([0.0, *(known_score.score for known_score in known.values())])
        logit = min([_BLANK_LOGIT, *(known_score.order - 1 for known_score in known.values())])
        return [known.get(pair, PairScore(score, logit)) for pair in wanted]

    def _check(self, call: Call, queries: Sequence[str], documents: Sequence[str]) -> None:
        call.characters = sum(map(len, queries)) + sum(map(len, documents))
        check_sizes(queries, documents, self._service.limits)
        if self._service.telemetry.wants_sample():
            call.sample = queries[0]

    def _frame(self, request: Request, prefix: str, kind: str) -> dict[str, Any]:
        call: Call = request.state.call
        name = self._service.model.name
        return {"id": prefix + call.id, "object": kind, "created": int(time.time()), "model": name}

    # The knowledge base

    async def _rank_knowledge_base(self, request: Request, body: schemas.KnowledgeBaseQuery) -> Response:
        ask = schemas.Ask(query=body.query, top_n=body.top_n, lang=body.lang)
        report = await self._report(request, ask, "knowledge_base", words=False)
        del report["answer"]
        return _json(report)

    async def ask(self, request: Request) -> Response:
        """Answer a patient: red flags, the diseases that fit best with the evidence for each, and words."""
        body = schemas.parse(schemas.Ask, await request.body())
        with self._service.answering():
            return _json(await self._report(request, body, "ask", words=True))

    async def chat(self, request: Request) -> Response:
        """Answer as `/ask` does, in server-sent events: `triage`, `documents`, `token` again and again, `done`.

        Where there are red flags, a `token` that says so comes before `documents`. The answer is all tokens together.
        If something fails after the first event, an event `error` is the last one.
        """
        body = schemas.parse(schemas.Ask, await request.body())
        held = contextlib.ExitStack()
        with contextlib.ExitStack() as on_refusal:
            on_refusal.push(held)
            held.enter_context(self._service.answering())
            admission = self._admit(request, body, "chat")
            if admission is not None:
                held.callback(admission.release)
            on_refusal.pop_all()
        return _EventStream(self._as_stream(request, self._events(request, body, admission, words=True)), held)

    def _admit(self, request: Request, body: schemas.Ask, dialect: str) -> Admission | None:
        """Check a question and let it in; without reranking there is no queue to stand in."""
        call: Call = request.state.call
        call.dialect = dialect
        medical = self._service.medical
        check_history(body.history, self._service.limits)
        picture = body.picture()
        self._check(call, [body.query, picture], [])
        call.characters = len(picture)
        call.documents = medical.fetch_k
        self._service.check_open()
        return self._service.admit(medical.estimate(picture, self._service.engine)) if body.rerank else None

    async def _report(self, request: Request, body: schemas.Ask, dialect: str, *, words: bool) -> dict[str, Any]:
        admission = self._admit(request, body, dialect)
        report: dict[str, Any] = {}
        answer: list[str] = []

        async def collect() -> None:
            async for event, data in self._events(request, body, admission, words=words):
                if event == "token":
                    answer.append(data["text"])
                else:
                    report.update(data)

        try:
            deadline_s = _WORDS_DEADLINE_S if words else self._service.deadline_s
            await self._service.within(request, collect(), deadline_s)
        finally:
            if admission is not None:
                admission.release()
        return {**report, "answer": "".join(answer)}

    async def _events(
        self, request: Request, body: schemas.Ask, admission: Admission | None, *, words: bool
    ) -> AsyncGenerator[Event, None]:
        """Yield what there is to tell about a question, as soon as it is known: red flags before all else."""
        medical, call, model = self._service.medical, request.state.call, self._service.model
        picture, lang = body.picture(), body.lang
        names = {"reranker": model.name, "embeddings": model.embeddings, "bundled": model.bundled}
        frame = {"id": call.id, "query": picture, "model": names, "audit": self._audit(call), "notice": notice(lang)}
        chunks = medical.answer(
            picture,
            admission,
            top_n=body.top_n,
            lang=lang,
            deadline_s=self._service.deadline_s,
            history=messages(body),
            words=words,
        )
        started = time.perf_counter()
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if "triage" in chunk:
                    yield "triage", {**frame, "triage": chunk["triage"]}
                if "found" in chunk:
                    found = chunk["found"]
                    for stage, seconds in found.seconds.items():
                        call.stage(stage, seconds)
                    call.documents = len(found.ranked)
                    call.tokens = admission.read_tokens if admission is not None else 0
                    call.stage("evidence", time.perf_counter() - found.at)
                    started = time.perf_counter()
                    yield (
                        "documents",
                        {
                            **chunk["assessment"],
                            "reranked": admission is not None,
                            "results": chunk["results"],
                            "recalled": chunk["recalled"],
                            "timings_ms": dict(call.stages_ms),
                        },
                    )
                if chunk.get("answer"):
                    yield "token", {"text": chunk["answer"]}
        call.stage("answer", time.perf_counter() - started)
        total = round((time.perf_counter() - call.started) * 1_000, 2)
        yield "done", {"timings_ms": {**call.stages_ms, "total": total}}

    async def _as_stream(self, request: Request, events: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
        """Yield events as server-sent ones, with a comment now and then where there is nothing to say."""
        call: Call = request.state.call
        following: asyncio.Task[Event] | None = None
        try:
            while True:
                following = following or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait({following}, timeout=_HEARTBEAT_S)
                if not done:
                    yield b": still here\n\n"
                    continue
                name, data = following.result()
                following = None
                yield _event(name, data)
        except StopAsyncIteration:
            return
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                self._service.telemetry.failed(call, error)
                problem = Problem(500, "internal_error", "something went wrong here")
            call.outcome = problem.code
            yield _event("error", refusal(problem, call))
        finally:
            # The client may be gone, and this cancelled over and over: what it waited for is let end all the same.
            with anyio.CancelScope(shield=True):
                if following is not None:
                    following.cancel()
                    await asyncio.wait({following})
                    _ = following.cancelled() or following.exception()  # looked at, so that asyncio need not log it
                await events.aclose()

    def _audit(self, call: Call) -> dict[str, Any]:
        """Return what an answer can be traced back by: the request, and exactly what answered it."""
        model = self._service.model
        service = version("langchain-bge-medical")
        return {
            "id": call.id,
            "service": service,
            "model": model.name,
            "revision": model.revision,
            "knowledge_base": self._service.knowledge,
        }

    # About the service

    async def info(self) -> Response:
        """Tell what ranks here, as Text Embeddings Inference does."""
        service, model, limits = self._service, self._service.model, self._service.limits
        labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        told = {
            "model_id": model.name,
            "model_sha": model.revision,
            "model_dtype": service.dtype,
            "model_type": {"reranker": labels},
            "max_concurrent_requests": 2_048,
            "max_input_length": service.max_length,
            "max_batch_tokens": service.engine.token_budget,
            "max_batch_requests": None,
            "max_client_batch_size": limits.documents,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": version("langchain-bge-medical"),
            "sha": None,
            "docker_label": None,
            "bundled": model.bundled,
            "knowledge_base": service.knowledge or None,
            "max_body_bytes": limits.body_bytes,
        }
        return _json(told)

    async def models(self) -> Response:
        """List the model, as OpenAI does."""
        return _json({"object": "list", "data": [self._described(self._service.model.name)]})

    async def one_model(self, name: str) -> Response:
        """Describe the model, as Xinference does; by whatever name it is asked for."""
        return _json(self._described(name))

    def _described(self, name: str) -> dict[str, Any]:
        model = self._service.model
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "langchain-bge-medical",
            "model_type": "rerank",
            "model_name": model.name,
            "model_revision": model.revision,
            "max_tokens": self._service.max_length,
        }

    async def cluster_auth(self) -> Response:
        """Tell Xinference's client that it need not log in: an API key is all there is."""
        return _json({"auth": False})

    async def health(self) -> Response:
        """Tell whether the process can still do anything; 503 means that it should be started anew."""
        broken = self._service.state() == "broken"
        return _json({"status": "broken" if broken else "ok"}, status=503 if broken else 200)

    async def ready(self) -> Response:
        """Tell whether a request sent now would be answered."""
        state = self._service.state()
        return _json({"status": state}, status=200 if state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """Tell Prometheus."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        text = encode(self._service.telemetry.registry)
        return Response(text, media_type=kind)


class _EventStream(StreamingResponse):
    """Server-sent events; lets go of what the request held, whether they were read to the end or not at all."""

    def __init__(self, events: AsyncIterator[bytes], held: contextlib.ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


class _Static(StaticFiles):
    """The page's files, with the page's headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_PAGE_HEADERS)
        return response


async def _page() -> Response:
    return FileResponse(_WEB / "index.html", headers=_PAGE_HEADERS)


async def _as_problem(request: Request, error: Exception) -> Response:
    """Let the edge answer what the framework itself refuses: no such path, no such method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: ("not_found", "there is nothing here"), 405: ("method_not_allowed", "not with this method")}
    allow = error.headers.get("Allow") if isinstance(error, HTTPException) and error.headers else None
    raise Problem(status, *words.get(status, ("refused", "this is not possible")), allow=allow)


def _best_first(scores: Sequence[PairScore]) -> list[int]:
    """Return places best first; ties keep their order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i].order)


def _shown(scores: Sequence[PairScore], *, raw: bool) -> list[float]:
    """Return the numbers that a client is given; who asks for raw ones takes their sigmoid itself."""
    return as_logits(scores) if raw else [score.score for score in scores]


def _usage(request: Request) -> dict[str, int]:
    tokens = request.state.call.tokens
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _json(data: Any, headers: Mapping[str, str] | None = None, *, status: int = 200) -> Response:
    # A score that is no number must fail here, loudly, and not become null.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), status, dict(headers or {}), media_type="application/json")


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


# The OpenAPI document


def _post(
    app: FastAPI,
    path: str,
    endpoint: Callable[[Request], Any],
    bodies: Sequence[type[BaseModel]],
    answers: Sequence[str] | None,
) -> None:
    """Add a route whose body is read by hand, so that its refusals are in the caller's dialect, and say what it is."""
    schema = _any_of([body.__name__ for body in bodies])
    examples = {
        body.__name__: {"value": body.model_config["json_schema_extra"]["examples"][0]}  # type: ignore[index]
        for body in bodies
    }
    content = {"application/json": {"schema": schema, "examples": examples}}
    responses = _refusals(400, 401, 413, 415, 422, 429, 499, 500, 501, 503, 504)
    kind = "application/json" if answers else "text/event-stream"
    responses[200] = {"description": "OK", "content": {kind: {"schema": _any_of(answers or ["ChatEvent"])}}}
    name = path.strip("/").replace("/", "_")
    app.add_api_route(
        path, endpoint, methods=["POST"], response_model=None, operation_id=name, responses=responses,
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )  # fmt: skip


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = _any_of(["Refusal", "TEIRefusal"])
    return {
        status: {"description": "Refused", "content": {"application/json": {"schema": schema}}} for status in statuses
    }


def _any_of(names: Sequence[str]) -> dict[str, Any]:
    refs = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        named = [getattr(schemas, name) for name in schemas.DOCUMENTED]
        _, definitions = models_json_schema(
            [(model, "validation") for model in named], ref_template="#/components/schemas/{model}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
