"""Two-stage retrieval put together from LangChain parts: dense + BM25 recall, then a compressor."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon, plain_form
from langchain_bge_medical.knowledge_base import listed

_RRF_K = 60  # of reciprocal rank fusion, as its authors have it
_POWER = 3  # chosen on development queries: complaints and names, Chinese and English, known and unknown diseases
_RUNS = re.compile(r"[\u3400-\u9fff]+|[a-z0-9]+(?:\.[0-9]+)?")


class BM25Retriever(BaseRetriever):
    """Find documents by their words: BM25 over Chinese characters, character pairs, and Latin words.

    A word segmenter is left out on purpose: it cuts medical words badly, and pairs need no dictionary.
    Only documents that share something with the query are returned, best first, equal ones in their own order.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    documents: list[Document] = Field(min_length=1, repr=False)
    document_to_text: Callable[[Document], str] | None = None
    """What is searched; `None` is `page_content` and the aliases in the metadata."""
    k: int = Field(default=50, ge=1)

    _index: Any = PrivateAttr(default=None)
    _vocabulary: dict[str, int] = PrivateAttr(default_factory=dict)
    _held_by: Any = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Index the documents."""
        import bm25s

        # Numbers instead of the tokens themselves: over 60,000 records the strings alone would take a gigabyte.
        vocab = self._vocabulary
        ids = [[vocab.setdefault(token, len(vocab)) for token in self._tokens(document)] for document in self.documents]
        if vocab:  # else nothing can be found, and an average length of 0 is divided by
            self._index = bm25s.BM25(method="lucene")
            self._index.index((ids, vocab), show_progress=False)
            self._held_by = np.zeros(len(vocab), dtype=np.int32)
            for held in ids:
                self._held_by[list(set(held))] += 1

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        count = _number(k, self.k)
        tokens = tokens_of(query)
        if not tokens or self._index is None:
            return []
        scores = self._index.get_scores(tokens)
        # Not bm25s' own choice, which leaves to chance in which order equal documents come, and which of them do.
        least = -np.partition(-scores, count - 1)[count - 1] if count < len(scores) else 0.0
        rows = np.flatnonzero((scores >= least) & (scores > 0))
        best = rows[np.argsort(-scores[rows], kind="stable")][:count]
        return [self.documents[row] for row in best]

    def share_said(self, query: str, document: Document) -> float:
        """Return how much of a query a document says, by its words: in [0, 1], rare words counting for more.

        Args:
            query: What is searched.
            document: Of those that were indexed, or another.
        """
        said = set(self._tokens(document))
        rarity = {token: self._rarity(token) for token in tokens_of(query)}
        return sum(rarity[token] for token in rarity if token in said) / (sum(rarity.values()) or 1.0)

    def _tokens(self, document: Document) -> list[str]:
        return tokens_of((self.document_to_text or _text_with_aliases)(document))

    def _rarity(self, token: str) -> float:
        """Return the inverse document frequency that BM25 weighs a token with."""
        known = self._vocabulary.get(token)
        held_by = 0 if known is None else int(self._held_by[known])
        return math.log(1 + (len(self.documents) - held_by + 0.5) / (held_by + 0.5))


class HybridRetriever(BaseRetriever):
    """Find documents by vectors and by words, merged by reciprocal rank; words have more say the more they explain.

    Reciprocal rank fusion (Cormack et al. 2009) with weights: the half of the words has the cube of the share of the
    query that its best document says, the half of the vectors the rest. So a disease's name, which is said whole, is
    found by words alone, while of a complaint in another language than the documents', of which words know only noise,
    vectors decide. `python -m tests.hybrid_power` prints what other powers and equal weights give.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    dense: BaseRetriever
    lexical: BM25Retriever

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        callbacks: RunnableConfig = {"callbacks": run_manager.get_child()}
        return self._merged(query, *(half.invoke(query, config=callbacks) for half in (self.dense, self.lexical)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        callbacks: RunnableConfig = {"callbacks": run_manager.get_child()}
        halves = [half.ainvoke(query, config=callbacks) for half in (self.dense, self.lexical)]
        # How much of a long query is said takes a fifth of a second, in which an event loop has others to serve.
        return await asyncio.to_thread(self._merged, query, *await asyncio.gather(*halves))

    def _merged(self, query: str, dense: list[Document], lexical: list[Document]) -> list[Document]:
        return merged(dense, lexical, self.lexical.share_said(query, lexical[0]) ** _POWER if lexical else 0.0)


def merged(dense: Iterable[Document], lexical: Iterable[Document], words: float) -> list[Document]:
    """Return what either half of recall found, merged by reciprocal rank, each text once.

    Args:
        dense: By vectors, best first.
        lexical: By words, best first.
        words: The weight of the second, in [0, 1]; the first has the rest.
    """
    scores: dict[str, float] = {}
    documents: dict[str, Document] = {}
    for weight, found in ((1 - words, dense), (words, lexical)):
        for rank, document in enumerate(found, start=1):
            documents.setdefault(document.page_content, document)
            scores[document.page_content] = scores.get(document.page_content, 0.0) + weight / (_RRF_K + rank)
    return sorted(documents.values(), key=lambda document: -scores[document.page_content])


class BGERerankRetriever(BaseRetriever):
    """Recall `fetch_k` candidates, let a compressor rerank them, return at most `k`.

    What `ContextualCompressionRetriever` does, without the legacy package it lives in, with a `k`, and
    without handing the caller's keyword arguments on to recall. Its compressor sees candidates in order of
    recall, so that `recall_rank` in the metadata means something.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    base_retriever: BaseRetriever
    compressor: BaseDocumentCompressor
    fetch_k: int = Field(default=50, ge=1)
    """Candidates that are reranked; what recall returns beyond is not looked at."""
    k: int = Field(default=5, ge=1)
    """Documents returned; the compressor's own `top_n` goes first."""
    query_to_text: Callable[[str], str] | None = None
    """What recall searches for, e.g. `AffirmedWords()`; `None` is the query. The compressor gets the query."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        number = _number(k, self.k)
        callbacks = run_manager.get_child()
        searched = query if self.query_to_text is None else self.query_to_text(query)
        candidates = self.base_retriever.invoke(searched, config={"callbacks": callbacks})
        kept = self.compressor.compress_documents(candidates[: self.fetch_k], query, callbacks=callbacks)
        return list(kept)[:number]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        number = _number(k, self.k)
        callbacks = run_manager.get_child()
        searched = query if self.query_to_text is None else await asyncio.to_thread(self.query_to_text, query)
        candidates = await self.base_retriever.ainvoke(searched, config={"callbacks": callbacks})
        kept = await self.compressor.acompress_documents(candidates[: self.fetch_k], query, callbacks=callbacks)
        return list(kept)[:number]


def _number(k: int | None, usual: int) -> int:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return usual if k is None else k


def build_hybrid_retriever(
    vectorstore: VectorStore,
    documents: Iterable[Document],
    *,
    fetch_k: int = 50,
    document_to_text: Callable[[Document], str] | None = None,
) -> BaseRetriever:
    """Return recall by vectors and by words, merged by reciprocal rank.

    Args:
        vectorstore: Any LangChain vector store over `documents`.
        documents: The same documents, for BM25.
        fetch_k: How many either half returns; the merged list has up to twice as many.
        document_to_text: What BM25 searches of a document; `None` is `searchable_text` with the bundled lexicon.

    Returns:
        A `HybridRetriever`; it merges documents of equal `page_content`.

    Raises:
        ValueError: If there are no documents, or `fetch_k` is less than 1.
    """
    dense = vectorstore.as_retriever(search_kwargs={"k": fetch_k})
    to_text = document_to_text or searchable_text(default_lexicon())
    lexical = BM25Retriever(documents=list(documents), k=fetch_k, document_to_text=to_text)
    return HybridRetriever(dense=dense, lexical=lexical)


def searchable_text(lexicon: SymptomLexicon) -> Callable[[Document], str]:
    """Return what makes a document findable by everyday words: its text, aliases, and all ways to say its symptoms.

    Args:
        lexicon: Knows the ways to say a symptom, Chinese and English.

    Returns:
        A function of a document with `aliases` and `symptoms` in its metadata, or without.
    """

    def text(document: Document) -> str:
        forms = (form for symptom in listed(document.metadata, "symptoms") for form in lexicon.forms(symptom))
        return "\n".join([_text_with_aliases(document), *forms])

    return text


def tokens_of(text: str) -> list[str]:
    """Return the characters and character pairs of Chinese runs, and the words of Latin ones, in order.

    Full-width, upper-case and traditional characters count as their plain, lower-case and simplified twins.
    """
    tokens: list[str] = []
    for run in _RUNS.findall(plain_form(text)[0]):
        if run[0].isascii():
            tokens.append(run)
        else:
            tokens.extend(run)
            tokens.extend(a + b for a, b in itertools.pairwise(run))
    return tokens


def _text_with_aliases(document: Document) -> str:
    return "\n".join([document.page_content, *listed(document.metadata, "aliases")])
