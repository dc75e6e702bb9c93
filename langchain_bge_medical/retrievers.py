"""Two-stage retrieval put together from LangChain parts: dense + BM25 recall, then a compressor."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon, plain_form

_RUNS = re.compile(r"[\u3400-\u9fff]+|[a-z0-9]+(?:\.[0-9]+)?")


class BM25Retriever(BaseRetriever):
    """Find documents by their words: BM25 over Chinese characters, character pairs, and Latin words.

    A word segmenter is left out on purpose: it cuts medical words badly, and pairs need no dictionary.
    Only documents that share something with the query are returned, best first.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    documents: list[Document] = Field(min_length=1, repr=False)
    document_to_text: Callable[[Document], str] | None = None
    """What is searched; `None` is `page_content` and the aliases in the metadata."""
    k: int = Field(default=50, ge=1)

    _index: Any = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Index the documents."""
        import bm25s

        to_text = self.document_to_text or _text_with_aliases
        # Numbers instead of the tokens themselves: over 60,000 records the strings alone would take a gigabyte.
        vocab: dict[str, int] = {}
        ids = [
            [vocab.setdefault(token, len(vocab)) for token in tokens_of(to_text(document))]
            for document in self.documents
        ]
        if vocab:  # else nothing can be found, and an average length of 0 is divided by
            self._index = bm25s.BM25(method="lucene")
            self._index.index((ids, vocab), show_progress=False)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        tokens = tokens_of(query)
        if not tokens or self._index is None:
            return []
        count = min(k or self.k, len(self.documents))
        rows, scores = self._index.retrieve([tokens], k=count, show_progress=False)
        return [self.documents[row] for row, score in zip(rows[0], scores[0], strict=True) if score > 0]


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
        callbacks = run_manager.get_child()
        searched = query if self.query_to_text is None else self.query_to_text(query)
        candidates = self.base_retriever.invoke(searched, config={"callbacks": callbacks})
        kept = self.compressor.compress_documents(candidates[: self.fetch_k], query, callbacks=callbacks)
        return list(kept)[: k or self.k]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        callbacks = run_manager.get_child()
        searched = query if self.query_to_text is None else self.query_to_text(query)
        candidates = await self.base_retriever.ainvoke(searched, config={"callbacks": callbacks})
        kept = await self.compressor.acompress_documents(candidates[: self.fetch_k], query, callbacks=callbacks)
        return list(kept)[: k or self.k]


def build_hybrid_retriever(
    vectorstore: VectorStore,
    documents: Iterable[Document],
    *,
    fetch_k: int = 50,
    document_to_text: Callable[[Document], str] | None = None,
) -> BaseRetriever:
    """Return recall by vectors and by words, merged by reciprocal rank, each with equal say.

    Args:
        vectorstore: Any LangChain vector store over `documents`.
        documents: The same documents, for BM25.
        fetch_k: How many either half returns; the merged list has up to twice as many.
        document_to_text: What BM25 searches of a document; `None` is `searchable_text` with the bundled lexicon.

    Returns:
        An `EnsembleRetriever`; it merges documents of equal `page_content`.

    Raises:
        ValueError: If there are no documents, or `fetch_k` is less than 1.
    """
    from langchain_classic.retrievers import EnsembleRetriever

    dense = vectorstore.as_retriever(search_kwargs={"k": fetch_k})
    to_text = document_to_text or searchable_text(default_lexicon())
    lexical = BM25Retriever(documents=list(documents), k=fetch_k, document_to_text=to_text)
    return EnsembleRetriever(retrievers=[dense, lexical], weights=[0.5, 0.5])


def searchable_text(lexicon: SymptomLexicon) -> Callable[[Document], str]:
    """Return what makes a document findable by everyday words: its text, aliases, and all ways to say its symptoms.

    Args:
        lexicon: Knows the ways to say a symptom, Chinese and English.

    Returns:
        A function of a document with `aliases` and `symptoms` in its metadata, or without.
    """

    def text(document: Document) -> str:
        symptoms = document.metadata.get("symptoms") or ()
        forms = (form for symptom in symptoms for form in lexicon.forms(symptom))
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
    return "\n".join([document.page_content, *document.metadata.get("aliases", [])])
