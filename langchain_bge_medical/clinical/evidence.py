"""Why a document fits: what of it the patient affirms, denies, does not mention, or contradicts, with offsets."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import BaseModel, ConfigDict

from langchain_bge_medical.clinical.demographics import Patient, mismatch, patient_of
from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.polarity import Finding, Reading, findings
from langchain_bge_medical.knowledge_base import copied, listed

_QUOTES = 20  # of a symptom that is said again and again

Status = Literal["matched", "denied", "missing", "contradicting"]


class Evidence(BaseModel):
    """One piece: a span of the query or of the document, and what it says about the other."""

    field: Literal["query", "document"]
    start: int
    end: int
    text: str
    """`query[start:end]` or `page_content[start:end]`, in code points."""
    status: Status
    term: str
    """The document's symptom that it is about."""


class SymptomEvidence(BaseDocumentCompressor):
    """Annotates documents with the evidence for and against them; keeps all, in order.

    A document transformer that needs the query is a compressor in LangChain. It goes behind the reranker:

        ```python
        DocumentCompressorPipeline(transformers=[reranker, SymptomEvidence()])
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    lexicon: SymptomLexicon | None = None
    """The terms to look for; `None` takes the bundled ones."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies with what `with_evidence` adds.

        Args:
            documents: Not modified.
            query: The patient's words.
            callbacks: Not used: nothing is run that could be traced.
        """
        return with_evidence(documents, query, self.lexicon or default_lexicon())


def with_evidence(
    documents: Sequence[Document],
    query: str,
    lexicon: SymptomLexicon,
    *,
    said: Sequence[Finding] | None = None,
    patient: Patient | None = None,
) -> list[Document]:
    """Return copies of the documents with `metadata["evidence"]`, a list of `Evidence` as plain dicts.

    A symptom is *matched* if the patient affirms (or suspects) it or something of the same kind (`头痛` for
    `晨起头痛`), *denied* if they deny it, *missing* if they say nothing of it; what is denied is never matched. It is
    *contradicting* if the document itself says that the disease comes without it (`一般不烧`) and the patient has it. A
    matched, denied or contradicting one has a piece in the document and one in the query for each time it is said, up
    to 20; a missing one has a piece in the document only. A symptom whose words `page_content` does not have has no
    piece there. Where age or sex speak against a disease, `metadata["patient_mismatch"]` says `impossible` or
    `unlikely`.

    Args:
        documents: Not modified; their symptoms are those in `metadata["symptoms"]`, and where there are none,
            what the lexicon finds in `page_content` and nothing there denies.
        query: The patient's words.
        lexicon: The terms to look for in the query.
        said: The findings in the query, if they are known.
        patient: Who it is, if that is known.

    Returns:
        Copies, in the same order.
    """
    if said is None:
        said = findings(query, lexicon)
    patient = patient or patient_of(query)
    by_term: dict[str, list[Finding]] = {}
    for finding in said:
        if finding.status in ("present", "possible", "absent"):
            by_term.setdefault(finding.term, []).append(finding)
    annotated = []
    for document in documents:
        symptoms = _symptoms(document, lexicon)
        known = {term for term, _, _ in symptoms}
        # 头痛 speaks for 晨起头痛 only where the document has no plain 头痛 of its own.
        free = {term: found for term, found in by_term.items() if term not in known}
        pieces = [piece for symptom in symptoms for piece in _pieces(*symptom, document, query, by_term, free)]
        pieces += _contradictions(document, query, free, lexicon)
        metadata: dict[str, Any] = {**copied(document.metadata), "evidence": [p.model_dump() for p in pieces]}
        metadata.pop("patient_mismatch", None)
        if against := mismatch(patient, document.metadata):
            metadata["patient_mismatch"] = against
        annotated.append(document.model_copy(update={"metadata": metadata}))
    return annotated


def _symptoms(document: Document, lexicon: SymptomLexicon) -> list[tuple[str, int, int]]:
    """Return the document's symptoms and where each begins and ends in `page_content`; -1 where it is not there."""
    text = document.page_content
    terms = dict.fromkeys(listed(document.metadata, "symptoms"))
    if not terms:
        first: dict[str, Finding] = {}
        for finding in Reading(text, lexicon.find(text)).findings:
            if finding.status != "absent":
                first.setdefault(finding.term, finding)
        return [(term, finding.start, finding.end) for term, finding in first.items()]
    begins, name = {}, max(0, text.find("\n"))
    # The longest first, so that 头痛 is not found inside 晨起头痛; behind the name, unless it is only there.
    for term in sorted(terms, key=len, reverse=True):
        start = text.find(term, name)
        begins[term] = start = start if start >= 0 else text.find(term)
        if start >= 0:
            text = text[:start] + "\0" * len(term) + text[start + len(term) :]
    return [(term, begins[term], begins[term] + len(term)) for term in terms]


def _pieces(
    term: str,
    start: int,
    end: int,
    document: Document,
    query: str,
    said: Mapping[str, list[Finding]],
    free: Mapping[str, list[Finding]],
) -> list[Evidence]:
    about = said.get(term)
    if about is None:
        near = (f for name, found in free.items() if name.endswith(term) or term.endswith(name) for f in found)
        about = sorted((finding for finding in near if _related(finding, term)), key=lambda finding: finding.start)
    affirmed = [finding for finding in about if finding.status != "absent"]
    denied = [finding for finding in about if finding.status == "absent"]
    status: Status = "matched" if affirmed else "denied" if denied else "missing"
    words = [_in_query(finding, query, status, term) for finding in (affirmed or denied)[:_QUOTES]]
    return words if start < 0 else [*words, _in_document(document, start, end, status, term)]


def _in_query(finding: Finding, query: str, status: Status, term: str) -> Evidence:
    start, end = finding.start, finding.end
    return Evidence(field="query", start=start, end=end, text=query[start:end], status=status, term=term)


def _in_document(document: Document, start: int, end: int, status: Status, term: str) -> Evidence:
    text = document.page_content[start:end]
    return Evidence(field="document", start=start, end=end, text=text, status=status, term=term)


def _related(finding: Finding, term: str) -> bool:
    """Return whether one is a kind of the other. To deny the special (高热) is not to deny the general (发热)."""
    if finding.status == "absent":
        return len(finding.term) > 1 and term.endswith(finding.term)
    return len(finding.term) > 1 and len(term) > 1 and (term.endswith(finding.term) or finding.term.endswith(term))


def _contradictions(
    document: Document, query: str, free: Mapping[str, list[Finding]], lexicon: SymptomLexicon
) -> list[Evidence]:
    """Return the pieces about findings that the patient has and the document says the disease comes without."""
    description = document.metadata.get("description")
    if not isinstance(description, str) or not description:
        return []
    offset = document.page_content.find(description)
    if offset < 0:
        return []
    pieces: list[Evidence] = []
    for term, denied in {f.term: f for f in _comes_without(description, lexicon)}.items():
        has = [finding for finding in free.get(term, ()) if finding.status == "present"]
        if has:
            pieces += [_in_query(finding, query, "contradicting", term) for finding in has[:_QUOTES]]
            start, end = offset + denied.start, offset + denied.end
            pieces.append(_in_document(document, start, end, "contradicting", term))
    return pieces


_SENTENCE = re.compile(r"[^。；;！!？?]*[。；;！!？?]?")
_CLAUSE = re.compile(r"[^，,、。；;！!？?]+")
# A sentence that begins with another disease is about that: 落枕是一觉醒来突然歪脖子、几天就好，不麻.
_OF_OTHERS = re.compile(
    r"\s*(?:[^，,、与和跟像比]{0,6}?(?:病|炎|癌|症|瘤|疮|感冒|落枕|突出)(?!程|史|情|人|因|症状)|如果|若)"
)
_UNLIKE = re.compile(r"与[^，,。；;]{0,40}不同|不像[^，,、。；;]{0,40}那样")  # says what the other is like
# A clause about another disease (单纯中耳炎没有耳后肿) says nothing of this one; 与流感相比… does.
_OTHERS = re.compile(
    r"(?<!相比)(?:病|炎|癌|症|瘤|感冒|者|型)(?!程|史|情|人|因|症状)|单纯|早期|初期|起初|少数|部分|有的|晚期|后期|若|如果|如|时(?=[^，,。]{0,4}[不无没])|先|再|以后|缓解期|间歇期|发作间|平时|静止|不发作|所致|引起|多见"
)


@functools.lru_cache(maxsize=2048)
def _comes_without(description: str, lexicon: SymptomLexicon) -> tuple[Finding, ...]:
    """Return what a description says that the disease comes without."""
    found = findings(description, lexicon)
    denied = []
    affirmed = {finding.term for finding in found if finding.status == "present"}
    theirs = [unlike.span() for unlike in _UNLIKE.finditer(description)]
    found = [f for f in found if not any(start <= f.start < end for start, end in theirs)]
    for sentence in _SENTENCE.finditer(description):
        if _OF_OTHERS.match(sentence.group()):
            continue
        for clause in _CLAUSE.finditer(sentence.group()):
            start, end = sentence.start() + clause.start(), sentence.start() + clause.end()
            if not _OTHERS.search(clause.group().partition("相比")[2] or clause.group()):
                # A complaint alone (不痛) may be of a part that the sentence does not name.
                inside = (f for f in found if start <= f.start < end and f.end - f.start > 1)
                denied += [f for f in inside if f.status == "absent" and f.term not in affirmed]
    return tuple(denied)
