"""Candidates of a first stage → the best few, with scores. Order, threshold and metadata; the model is passed in."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from langchain_bge_medical.knowledge_base import copied
from langchain_bge_medical.score_cache import ScoreCache
from langchain_bge_medical.serving.scheduler import Admission, Pair, PairScore, ScoringEngine, as_logits

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Reciprocal rank fusion's usual constant (Cormack, Clarke and Büttcher 2009).
_RRF_K = 60

# What this compressor writes; left by an earlier one, it is taken away first.
_KEYS = frozenset(
    {
        *("relevance_score", "relevance_logit", "recall_rank", "rerank_rank"),
        *("rerank_truncated", "rerank_fused", "rerank_adjustment", "rerank_margin", "rerank_failed"),
    }
)


_BLANK = PairScore(0.0, None)


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
    - `rerank_margin`: how far logit and adjustment stand above those of the best other candidate; negative for
      all but the best one. Only if there is another.
    - `rerank_failed`: `True` only after a failure with `on_error="passthrough"`.

    Sorting is by logit and stable: equal documents keep the order of recall. `score_threshold` (kept if
    `>=`) goes before `top_n`. Equal texts are scored once, blank ones are not scored and go last. Where there are no
    logits, adjustment and margin count from the log-odds of the scores, or from the scores if one is not in [0, 1].

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
    """Least `relevance_score` to keep, on the scale of that key; blank documents are not kept then."""
    max_length: int | None = Field(default=None, ge=16)
    """Tokens of query, document and special tokens together; `None` takes 512, or all that the model reads if that
    is less."""
    device: str | None = None
    """`"cpu"`, `"cuda:0"`, …; `None` takes CUDA, else XPU, else the CPU."""
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one batch, padding included; `None` chooses by device."""
    long_documents: Literal["cut", "windows"] = "cut"
    """`"windows"` reads up to 8,192 tokens of a document in windows of `max_length` and takes the best one's logit."""
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

    engine: ScoringEngine | Admission | None = Field(default=None, exclude_if=lambda value: value is None)
    """A ready scoring engine, instead of a name: the queue that several compressors and a service share. With an
    `Admission` of one, the compressor is good for one call."""

    _own_engine: tuple[int, ScoringEngine] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_source(self) -> BGERerankerCompressor:
        ready = next((name for name in ("engine", "cross_encoder") if getattr(self, name) is not None), None)
        if ready is not None:
            # By value, since a dump gives every field.
            clash = {
                name
                for name in (
                    "model_name",
                    "revision",
                    "max_length",
                    "device",
                    "dtype",
                    "batch_tokens",
                    "long_documents",
                    "cache",
                    "cross_encoder",
                )
                if name != ready and getattr(self, name) != type(self).model_fields[name].default
            }
            if clash:
                raise ValueError(f"{ready} comes with its own {', '.join(sorted(clash))}; give one or the other")
        elif self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1] as relevance_score does, got {self.score_threshold}")
        return self

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_own_engine": None}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> BGERerankerCompressor:
        return self.model_copy()

    def model_copy(self, **kwargs: Any) -> BGERerankerCompressor:
        """Return a copy that loads its own model, since the copy's settings may differ."""
        copied = super().model_copy(**kwargs)
        copied._own_engine = None
        return copied

    def warmup(self) -> None:
        """Load the model now instead of at the first call.

        Raises:
            ModelNotFoundError: If the model cannot be had or is no reranker.
            ValueError: If `max_length` is more than the model can read.
        """
        engine = self._ready()
        if isinstance(engine, ScoringEngine):  # whoever was admitted to one has it loaded
            engine.encoder()

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
            texts, pairs = self._pairs(query, documents)
            scores = _by_text(pairs, self._ready().submit(pairs).result() if pairs else [])
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
            # The caller's own functions may take their time: on a thread, so that the loop does not wait for them.
            own = self.query_to_text is not None or self.document_to_text is not None or self.adjust is not None
            texts, pairs = await _run(own, self._pairs, query, documents)
            scored = await asyncio.wrap_future(self._ready().submit(pairs)) if pairs else []
            kept = await _run(own, self._select, query, documents, texts, _by_text(pairs, scored))
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
        self._ready()
        plain._own_engine = self._own_engine
        return plain

    def _ready(self) -> ScoringEngine | Admission:
        if self.engine is not None:
            return self.engine
        # A thread does not survive a fork, so that a child of one makes its own.
        with _engine_lock:
            if self._own_engine is None or self._own_engine[0] != os.getpid():
                self._own_engine = os.getpid(), ScoringEngine(self._make_encoder)
            return self._own_engine[1]

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
            long_documents=self.long_documents,
            cache=self.cache,
        )

    def _pairs(self, query: str, documents: Sequence[Document]) -> tuple[list[str], list[Pair]]:
        """Return the text of each document, and a pair for each distinct text that is not blank."""
        texts = self._texts(documents)
        read = self._query_text(query)
        return texts, [(read, text) for text in dict.fromkeys(texts) if text.strip()]

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
        self, query: str, documents: Sequence[Document], texts: Sequence[str], scores: dict[str, PairScore]
    ) -> list[Document]:
        """Order, cut and annotate. Python's sort is stable, so that ties keep the order of recall."""
        added = self._adjustments(query, documents)
        ranked = [(recall_rank, scores.get(text, _BLANK)) for recall_rank, text in enumerate(texts, start=1)]
        logits = dict(zip(scores, as_logits(list(scores.values())), strict=True))

        def points(item: tuple[int, PairScore]) -> float:
            i = item[0] - 1
            return logits[texts[i]] + (added[i] if added else 0.0) if texts[i] in logits else -math.inf

        ranked.sort(key=points, reverse=True)
        leaders = [(rank, points((rank, score))) for rank, score in ranked[:2]]
        fused = self._must_fuse(scores)
        if fused:
            # Among those with a text, so that blank documents neither rise nor move others.
            read = [rank for rank, _ in ranked if texts[rank - 1] in scores]
            recalled = {rank: place for place, rank in enumerate(sorted(read), start=1)}
            places = enumerate(read, start=1)
            fusion = {rank: 1 / (_RRF_K + recalled[rank]) + 1 / (_RRF_K + place) for place, rank in places}
            ranked.sort(key=lambda item: fusion.get(item[0], 0.0), reverse=True)
        if self.score_threshold is not None:
            # A blank document has no score of the encoder's, whose scale may lie below 0.
            ranked = [
                (rank, score)
                for rank, score in ranked
                if texts[rank - 1] in scores and score.score >= self.score_threshold
            ]
        kept = [
            _annotated(documents[recall_rank - 1], score, recall_rank, rerank_rank, fused)
            for rerank_rank, (recall_rank, score) in enumerate(ranked[: self.top_n], start=1)
        ]
        for document in kept:
            rank = document.metadata["recall_rank"]
            if added:
                document.metadata["rerank_adjustment"] = added[rank - 1]
            rival = next((value for other, value in leaders if other != rank), -math.inf)
            own = points((rank, scores.get(texts[rank - 1], _BLANK)))
            if math.isfinite(own) and math.isfinite(rival):
                document.metadata["rerank_margin"] = own - rival
        return kept

    def _adjustments(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return what `adjust` gives each document; empty without it."""
        if self.adjust is None:
            return []
        added = [float(value) for value in self.adjust(query, documents)]
        if len(added) != len(documents) or not all(math.isfinite(value) for value in added):
            raise ValueError(f"adjust must return a finite number for each of the {len(documents)} documents")
        return added

    def _must_fuse(self, scores: dict[str, PairScore]) -> bool:
        knows = getattr(self._ready().loaded_encoder, "knows", None)
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
        ready = self.cross_encoder or self.engine
        name = self.model_name if ready is None else type(ready).__name__
        return {
            "candidates": candidates,
            "model_name": name,
            "top_n": self.top_n,
            "score_threshold": self.score_threshold,
        }


_engine_lock = threading.Lock()


async def _run(on_thread: bool, work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.to_thread(work, *arguments) if on_thread else work(*arguments)


def _by_text(pairs: list[Pair], scores: list[PairScore]) -> dict[str, PairScore]:
    return {text: score for (_, text), score in zip(pairs, scores, strict=True)}


def _annotated(document: Document, score: PairScore, recall_rank: int, rerank_rank: int, fused: bool) -> Document:
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
    """Return a copy of the metadata without what an earlier reranking left there."""
    return copied({key: value for key, value in document.metadata.items() if key not in _KEYS})


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
