"""Why a document fits: which of its symptoms the patient affirms, denies, or does not mention, with offsets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.documents import Document
from pydantic import BaseModel

from langchain_bge_medical.clinical.lexicon import SymptomLexicon
from langchain_bge_medical.clinical.polarity import Finding, findings


class Evidence(BaseModel):
    """One piece: a span of the query or of the document, and what it says about the other."""

    field: Literal["query", "document"]
    start: int
    end: int
    text: str
    """`query[start:end]` or `page_content[start:end]`, in code points."""
    status: Literal["matched", "denied", "missing"]
    term: str
    """The document's symptom that it is about."""


def with_evidence(documents: Sequence[Document], query: str, lexicon: SymptomLexicon) -> list[Document]:
    """Return copies of the documents with `metadata["evidence"]`, a list of `Evidence` as plain dicts.

    A symptom is *matched* if the patient affirms (or suspects) it or something of the same kind (`头痛` for
    `晨起头痛`), *denied* if they deny it, *missing* if they say nothing of it. A matched or denied one has a
    piece in the query and one in the document, a missing one only in the document. What is denied is never
    matched.

    Args:
        documents: Not modified; their symptoms are those in `metadata["symptoms"]`, and where there are none,
            what the lexicon finds in `page_content`.
        query: The patient's words.
        lexicon: The terms to look for in the query.

    Returns:
        Copies, in the same order.
    """
    said = [finding for finding in findings(query, lexicon) if finding.status in ("present", "possible", "absent")]
    annotated = []
    for document in documents:
        symptoms = _symptoms(document, lexicon)
        listed = {term for term, _ in symptoms}
        # 头痛 speaks for 晨起头痛 only where the document has no plain 头痛 of its own.
        free = [finding for finding in said if finding.term not in listed]
        pieces = [piece for term, start in symptoms for piece in _pieces(term, start, document, query, said, free)]
        metadata: dict[str, Any] = {
            **copy.deepcopy(document.metadata),
            "evidence": [p.model_dump() for p in pieces],
        }
        annotated.append(document.model_copy(update={"metadata": metadata}))
    return annotated


def _symptoms(document: Document, lexicon: SymptomLexicon) -> list[tuple[str, int]]:
    """Return the document's symptoms and where each stands in `page_content`; one that is not there is left out."""
    text = document.page_content
    terms = document.metadata.get("symptoms")
    if not isinstance(terms, (list, tuple)):
        first = {mention.term: mention.start for mention in reversed(lexicon.find(text))}
        return sorted(
            ((term, start) for term, start in first.items() if text.startswith(term, start)),
            key=lambda s: s[1],
        )
    # Each search goes on where the last symptom ended, so that 头痛 is not found inside an earlier 晨起头痛.
    found, position = [], max(0, text.find("\n"))
    for term in (term for term in terms if isinstance(term, str) and term):
        start = text.find(term, position)
        if start >= 0:
            found.append((term, start))
            position = start + len(term)
    return found


def _pieces(
    term: str, start: int, document: Document, query: str, said: Sequence[Finding], free: Sequence[Finding]
) -> list[Evidence]:
    about = [finding for finding in said if finding.term == term] or [f for f in free if _related(f, term)]
    affirmed = [finding for finding in about if finding.status != "absent"]
    denied = [finding for finding in about if finding.status == "absent"]
    end = start + len(term)
    status: Literal["matched", "denied", "missing"] = "matched" if affirmed else "denied" if denied else "missing"
    place = Evidence(
        field="document",
        start=start,
        end=end,
        text=document.page_content[start:end],
        status=status,
        term=term,
    )
    words = [
        Evidence(field="query", start=f.start, end=f.end, text=query[f.start : f.end], status=status, term=term)
        for f in (affirmed or denied)
    ]
    return [*words, place]


def _related(finding: Finding, term: str) -> bool:
    """Return whether one is a kind of the other. To deny the special (高热) is not to deny the general (发热)."""
    if finding.status == "absent":
        return len(finding.term) > 1 and term.endswith(finding.term)
    return len(finding.term) > 1 and len(term) > 1 and (term.endswith(finding.term) or finding.term.endswith(term))
