"""Candidates of a first stage → the best few, with scores. Order, threshold and metadata; the model is passed in."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from langchain_bge_medical.score_cache import ScoreCache

if TYPE_CHECKING:
    from langchain_bge_medical.cross_encoders import PairLogit

logger = logging.getLogger(__name__)

# Reciprocal rank fusion's usual constant (Cormack, Clarke and Büttcher 2009).
_RRF_K = 60
# Pairs that waiting calls may put into one run of the model; more wait for the next run.
_MAX_SHARED_PAIRS = 1_024

# What this compressor writes; left by an earlier one, it is taken away first.
_KEYS = frozenset(
    {
        *("relevance_score", "relevance_logit", "recall_rank", "rerank_rank"),
        *("rerank_truncated", "rerank_fused", "rerank_adjustment", "rerank_failed"),
    }
)


class _Score(NamedTuple):
    """What the encoder says of one document; `logit` is None where there is none."""

    score: float
    logit: float | None
    truncated: tuple[str, ...] = ()

    @property
    def order(self) -> float:
        return self.score if self.logit is None else self.logit


_BLANK = _Score(0.0, None)


class BGERerankerCompressor(BaseDocumentCompressor):
    """Keep the `top_n` documents that are most relevant to a query, best first.

    Drops into a `ContextualCompressionRetriever` over any vector store. The documents passed in are never
    modified; what comes back are copies that keep `id`, class and metadata and gain in `metadata`:

    - `relevance_score`: float in [0, 1], the sigmoid of the logit, taken once. It orders documents; it is
      no probability. A blank document has 0.0. With an encoder of another kind it is that encoder's score.
    - `relevance_logit`: the model's raw output, or `None` for blank documents and encoders without logits.
    - `recall_rank` and `rerank_rank`: 1-based places among the candidates and in the result.
    - `rerank_truncated`: only if the model did not see everything: `["query"]`, `["document"]` or both.
    - `rerank_fused`: `True` only if the order is a fusion of both stages (see `model_name`).
    - `rerank_adjustment`: what `adjust` added to the logit before ordering, only if it is set.
    - `rerank_failed`: `True` only after a failure with `on_error="passthrough"`.

    Sorting is by logit and stable: equal documents keep the order of recall. `score_threshold` (kept if
    `>=`) goes before `top_n`. Equal texts are scored once, blank ones are not scored and go last.

    Calls from threads and tasks are collected while the model is busy and share its batches. Pickles, and
    rebuilds from `model_dump()`, without weights; those are loaded when first needed.

    Example:
        ```python
        reranker = BGERerankerCompressor(model_name="BAAI/bge-reranker-v2-m3", top_n=5)
        retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=recall)
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    model_name: str = "BAAI/bge-reranker-v2-m3"
    """Hub name, local folder, or `"bundled"`: the small model of this package, trained on its knowledge base
    only; where candidates are from another, its ranks are fused with those of recall."""
    revision: str | None = None
    """Commit, tag or branch on the hub. Pin a commit wherever scores must not change."""
    cross_encoder: BaseCrossEncoder | None = Field(default=None, exclude_if=lambda value: value is None)
    """A ready encoder, instead of a name. Without a `logits` method, its `score` is used as it is."""
    top_n: int | None = Field(default=5, ge=1)
    """How many documents to keep; `None` keeps all."""
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    """Least `relevance_score` to keep, on the scale of that key."""
    max_length: int = Field(default=512, ge=16)
    """Tokens of query, document and special tokens together."""
    device: str | None = None
    """`"cpu"`, `"cuda:0"`, …; `None` takes CUDA, else XPU, else the CPU."""
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one batch, padding included; `None` chooses by device."""
    cache: ScoreCache | None = Field(default=None, exclude_if=lambda value: value is None)
    """Logits of pairs seen before; may be shared between compressors."""
    document_to_text: Callable[[Document], str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the model reads of a document; `None` is `page_content`."""
    query_to_text: Callable[[str], str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the model reads of a query, e.g. `AffirmedWords()`; `None` is all of it. `adjust` gets all of it."""
    adjust: Callable[[str, Sequence[Document]], Sequence[float]] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Points to add to each document's logit before ordering, from the query and the candidates, e.g.
    `SymptomCoverage()`. Scores and threshold stay the model's own; the points are in `rerank_adjustment`."""
    on_error: Literal["raise", "passthrough"] = "raise"
    """`passthrough` returns the first `top_n` candidates in order of recall, marked `rerank_failed`, and logs
    a WARNING, when the model cannot be loaded or fails."""

    _runtime: _Runtime | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_source(self) -> BGERerankerCompressor:
        if self.cross_encoder is not None:
            clash = self.model_fields_set & {
                "model_name",
                "revision",
                "max_length",
                "device",
                "dtype",
                "batch_tokens",
                "cache",
            }
            if clash:
                raise ValueError(f"cross_encoder comes with its own {', '.join(sorted(clash))}; give one or the other")
        elif self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1] as relevance_score does, got {self.score_threshold}")
        return self

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_runtime": None}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> BGERerankerCompressor:
        return self.model_copy()

    def model_copy(self, **kwargs: Any) -> BGERerankerCompressor:
        """Return a copy that loads its own model, since the copy's settings may differ."""
        copied = super().model_copy(**kwargs)
        copied._runtime = None
        return copied

    def warmup(self) -> None:
        """Load the model now instead of at the first call.

        Raises:
            ModelNotFoundError: If the model cannot be had or is no reranker.
            ValueError: If `max_length` is more than the model can read.
        """
        self._ready().encoder()

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the `top_n` documents most relevant to `query`, best first.

        Args:
            documents: Candidates in order of recall. May be empty: the model is not touched then.
            query: The user's words.
            callbacks: Receive a nested run with counts, scores and milliseconds, and no text.

        Returns:
            At most `top_n` documents; fewer, even none, if `score_threshold` removes some.

        Raises:
            ValueError: If `query` is blank, or the two arguments are swapped, or the model returns
                something that is not a finite number.
            ModelNotFoundError: If the model cannot be had or is no reranker. With
                `on_error="passthrough"` this and other failures of the model do not raise.
        """
        _check_arguments(documents, query)
        if not documents:
            return []
        manager = CallbackManager.configure(inheritable_callbacks=callbacks)
        run = manager.on_chain_start({}, self._trace_inputs(len(documents)), name=type(self).__name__)
        started = time.perf_counter()
        try:
            texts = self._texts(documents)
            scores = self._ready().scores(self._query_text(query), texts).result()
            kept = self._select(query, documents, texts, scores)
        except Exception as error:
            if self.on_error == "raise":
                run.on_chain_error(error)
                raise
            kept = self._passthrough(documents, error)
        run.on_chain_end(_trace_outputs(kept, started))
        return kept

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do what `compress_documents` does without ever blocking the event loop.

        Loading and scoring run on a thread of this compressor's own; concurrent calls share batches there.

        Args:
            documents: As `compress_documents`.
            query: As `compress_documents`.
            callbacks: As `compress_documents`.

        Returns:
            As `compress_documents`.

        Raises:
            ValueError: As `compress_documents`.
            ModelNotFoundError: As `compress_documents`.
        """
        _check_arguments(documents, query)
        if not documents:
            return []
        manager = AsyncCallbackManager.configure(inheritable_callbacks=callbacks)
        run = await manager.on_chain_start({}, self._trace_inputs(len(documents)), name=type(self).__name__)
        started = time.perf_counter()
        try:
            texts = self._texts(documents)
            scores = await asyncio.wrap_future(self._ready().scores(self._query_text(query), texts))
            kept = self._select(query, documents, texts, scores)
        except asyncio.CancelledError as error:
            await run.on_chain_error(error)
            raise
        except Exception as error:
            if self.on_error == "raise":
                await run.on_chain_error(error)
                raise
            kept = self._passthrough(documents, error)
        await run.on_chain_end(_trace_outputs(kept, started))
        return kept

    def rerank(self, query: str, documents: Sequence[str]) -> list[dict[str, Any]]:
        """Rank plain strings, in the shape of Cohere's rerank API.

        Args:
            query: The user's words.
            documents: Candidates. May be empty.

        Returns:
            `{"index", "relevance_score"}` of the documents kept, best first; `index` is the 0-based place in
            `documents`.

        Raises:
            ValueError: As `compress_documents`.
            ModelNotFoundError: As `compress_documents`.
        """
        if isinstance(documents, str) or not all(isinstance(text, str) for text in documents):
            raise ValueError("documents must be a list of texts; are query and documents swapped?")
        # document_to_text is for Documents; here the text is what the caller says it is.
        plain = self if self.document_to_text is None else self._with_texts_as_given()
        kept = plain.compress_documents([Document(page_content=text) for text in documents], query)
        return [
            {"index": doc.metadata["recall_rank"] - 1, "relevance_score": doc.metadata.get("relevance_score")}
            for doc in kept
        ]

    def _with_texts_as_given(self) -> BGERerankerCompressor:
        plain = self.model_copy(update={"document_to_text": None})
        plain._runtime = self._ready()
        return plain

    def _ready(self) -> _Runtime:
        # A thread does not survive a fork, so that a child of one makes its own.
        with _runtime_lock:
            if self._runtime is None or self._runtime.pid != os.getpid():
                self._runtime = _Runtime(self._make_encoder)
            return self._runtime

    def _make_encoder(self) -> BaseCrossEncoder:
        if self.cross_encoder is not None:
            return self.cross_encoder
        from langchain_bge_medical.cross_encoders import BGECrossEncoder

        return BGECrossEncoder(
            self.model_name,
            revision=self.revision,
            max_length=self.max_length,
            device=self.device,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            cache=self.cache,
        )

    def _query_text(self, query: str) -> str:
        if self.query_to_text is None:
            return query
        text = self.query_to_text(query)
        if not isinstance(text, str) or not text.strip():
            raise ValueError("query_to_text returned nothing to read for a query that is not blank")
        return text

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        if self.document_to_text is None:
            return [document.page_content for document in documents]
        texts = [self.document_to_text(document) for document in documents]
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"document_to_text returned {type(text).__name__} for document {i}; it must return text"
                )
        return texts

    def _select(
        self, query: str, documents: Sequence[Document], texts: Sequence[str], scores: dict[str, _Score]
    ) -> list[Document]:
        """Order, cut and annotate. Python's sort is stable, so that ties keep the order of recall."""
        added = self._adjustments(query, documents)
        ranked = [(recall_rank, scores.get(text, _BLANK)) for recall_rank, text in enumerate(texts, start=1)]

        def points(item: tuple[int, _Score]) -> float:
            i = item[0] - 1
            return item[1].order + (added[i] if added else 0.0) if texts[i] in scores else -math.inf

        ranked.sort(key=points, reverse=True)
        fused = self._must_fuse(scores)
        if fused:
            places = enumerate(list(ranked), start=1)
            fusion = {rank: 1 / (_RRF_K + rank) + 1 / (_RRF_K + place) for place, (rank, _) in places}
            ranked.sort(key=lambda item: fusion[item[0]], reverse=True)
        if self.score_threshold is not None:
            ranked = [(rank, score) for rank, score in ranked if score.score >= self.score_threshold]
        kept = [
            _annotated(documents[recall_rank - 1], score, recall_rank, rerank_rank, fused)
            for rerank_rank, (recall_rank, score) in enumerate(ranked[: self.top_n], start=1)
        ]
        if added:
            for document in kept:
                document.metadata["rerank_adjustment"] = added[document.metadata["recall_rank"] - 1]
        return kept

    def _adjustments(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return what `adjust` gives each document; empty without it."""
        if self.adjust is None:
            return []
        added = [float(value) for value in self.adjust(query, documents)]
        if len(added) != len(documents) or not all(math.isfinite(value) for value in added):
            raise ValueError(f"adjust must return a finite number for each of the {len(documents)} documents")
        return added

    def _must_fuse(self, scores: dict[str, _Score]) -> bool:
        knows = getattr(self._ready().encoder(), "knows", None)
        return knows is not None and not all(knows(text) for text in scores)

    def _passthrough(self, documents: Sequence[Document], error: Exception) -> list[Document]:
        logger.warning(
            "reranking failed (%s); %d candidates keep the order of recall",
            type(error).__name__,
            len(documents),
        )
        kept = []
        for rank, document in enumerate(documents[: self.top_n], start=1):
            metadata = _without_scores(document)
            kept.append(
                document.model_copy(update={"metadata": {**metadata, "recall_rank": rank, "rerank_failed": True}})
            )
        return kept

    def _trace_inputs(self, candidates: int) -> dict[str, Any]:
        name = self.model_name if self.cross_encoder is None else type(self.cross_encoder).__name__
        return {
            "candidates": candidates,
            "model_name": name,
            "top_n": self.top_n,
            "score_threshold": self.score_threshold,
        }


_runtime_lock = threading.Lock()


class _Request(NamedTuple):
    pairs: list[tuple[str, str]]
    future: Future[dict[str, _Score]]


class _Runtime:
    """The encoder and the one thread that runs it, for all calls of a compressor."""

    def __init__(self, make_encoder: Callable[[], BaseCrossEncoder]) -> None:
        self.pid = os.getpid()
        self._make_encoder = make_encoder
        self._load_lock = threading.Lock()
        self._encoder: BaseCrossEncoder | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bge-reranker")
        self._waiting: deque[_Request] = deque()

    def encoder(self) -> BaseCrossEncoder:
        with self._load_lock:
            if self._encoder is None:
                self._encoder = self._make_encoder()
            return self._encoder

    def scores(self, query: str, texts: Sequence[str]) -> Future[dict[str, _Score]]:
        """Return the score of each distinct text that is not blank, in time."""
        pairs = [(query, text) for text in dict.fromkeys(texts) if text.strip()]
        request = _Request(pairs, Future())
        self._waiting.append(request)
        self._thread.submit(self._run_waiting)
        return request.future

    def _run_waiting(self) -> None:
        """Score all that has come in meanwhile in one go; a call that fails, fails alone."""
        requests = list(self._take())
        if not requests:
            return
        try:
            self._answer(requests)
        except Exception as error:
            if len(requests) == 1:
                requests[0].future.set_exception(error)
                return
            for request in requests:
                try:
                    self._answer([request])
                except Exception as own_error:
                    request.future.set_exception(own_error)

    def _take(self) -> Iterator[_Request]:
        taken = 0
        while self._waiting and (not taken or taken + len(self._waiting[0].pairs) <= _MAX_SHARED_PAIRS):
            request = self._waiting.popleft()
            if request.future.set_running_or_notify_cancel():
                taken += max(1, len(request.pairs))
                yield request

    def _answer(self, requests: Sequence[_Request]) -> None:
        pairs = list(dict.fromkeys(pair for request in requests for pair in request.pairs))
        known = dict(zip(pairs, _score_pairs(self.encoder(), pairs), strict=True)) if pairs else {}
        for request in requests:
            request.future.set_result({text: known[query, text] for query, text in request.pairs})


def _score_pairs(encoder: BaseCrossEncoder, pairs: list[tuple[str, str]]) -> list[_Score]:
    from langchain_bge_medical.cross_encoders import sigmoid

    if hasattr(encoder, "pair_logits"):
        scores = [_Score(sigmoid(pair.logit), pair.logit, _cut(pair)) for pair in encoder.pair_logits(pairs)]
    elif hasattr(encoder, "logits"):
        scores = [_Score(sigmoid(float(logit)), float(logit)) for logit in encoder.logits(pairs)]
    else:
        scores = [_Score(float(score), None) for score in encoder.score(pairs)]
    if len(scores) != len(pairs):
        raise ValueError(f"{type(encoder).__name__} returned {len(scores)} scores for {len(pairs)} pairs")
    if not all(math.isfinite(score.order) for score in scores):
        raise ValueError(f"{type(encoder).__name__} returned a score that is not a finite number")
    return scores


def _cut(pair: PairLogit) -> tuple[str, ...]:
    cut = {"query": pair.query_tokens_cut, "document": pair.document_tokens_cut}
    return tuple(name for name, tokens in cut.items() if tokens)


def _annotated(document: Document, score: _Score, recall_rank: int, rerank_rank: int, fused: bool) -> Document:
    metadata = _without_scores(document)
    metadata["relevance_score"] = score.score
    metadata["relevance_logit"] = score.logit
    metadata["recall_rank"] = recall_rank
    metadata["rerank_rank"] = rerank_rank
    if score.truncated:
        metadata["rerank_truncated"] = list(score.truncated)
    if fused:
        metadata["rerank_fused"] = True
    return document.model_copy(update={"metadata": metadata})


def _without_scores(document: Document) -> dict[str, Any]:
    """Return a deep copy of the metadata without what an earlier reranking left there."""
    return {key: copy.deepcopy(value) for key, value in document.metadata.items() if key not in _KEYS}


def _check_arguments(documents: Sequence[Document], query: str) -> None:
    if not isinstance(query, str) or isinstance(documents, str):
        raise ValueError(
            f"expected (documents, query), got ({type(documents).__name__}, {type(query).__name__}); are they swapped?"
        )
    if not query.strip():
        raise ValueError("the query is blank; there is nothing to rank by")


def _trace_outputs(kept: Sequence[Document], started: float) -> dict[str, Any]:
    return {
        "returned": len(kept),
        "relevance_scores": [document.metadata.get("relevance_score") for document in kept],
        "recall_ranks": [document.metadata.get("recall_rank") for document in kept],
        "milliseconds": round((time.perf_counter() - started) * 1_000, 3),
    }
