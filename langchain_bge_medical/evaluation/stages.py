"""Retrievers and compressors → the rankers that are compared. What one of them finds for a query is found once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever

from langchain_bge_medical.evaluation.compare import Ranker

Find = Callable[[str], Sequence[Document]]
"""A query → documents, best first."""


def recalled(retriever: BaseRetriever, fetch_k: int, query_to_text: Callable[[str], str] = str) -> Find:
    """Return the first `fetch_k` that `retriever` finds for `query_to_text` of a query, and finds once."""
    return _once(lambda query: retriever.invoke(query_to_text(query))[:fetch_k])


def reranked(candidates: Find, compressor: BaseDocumentCompressor) -> Find:
    """Return what `compressor` makes of the candidates; a query asked again is not scored again."""
    return _once(lambda query: compressor.compress_documents(list(candidates(query)), query))


def by_logit(found: Find) -> Find:
    """Return the documents in the order of the model's logits alone, without what was added or fused to them.

    Documents without a logit (blank ones) are left out; equal logits keep the order of recall. Where no document has
    a logit, the model gives none, and the order is that of its scores.
    """

    def in_order(query: str) -> list[Document]:
        documents = found(query)
        has_logits = any(document.metadata.get("relevance_logit") is not None for document in documents)
        key = "relevance_logit" if has_logits else "relevance_score"
        scored = [document for document in documents if document.metadata.get(key) is not None]
        scored.sort(key=lambda document: (-document.metadata[key], document.metadata["recall_rank"]))
        return scored

    return in_order


def names_of(find: Find) -> Ranker:
    """Return the disease names of what is found."""
    return lambda query: [document.metadata["disease"] for document in find(query)]


def _once(find: Find) -> Find:
    known: dict[str, Sequence[Document]] = {}

    def remembered(query: str) -> Sequence[Document]:
        if query not in known:
            known[query] = find(query)
        return known[query]

    return remembered
