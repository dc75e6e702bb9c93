"""Everything the clinical layer has to say about a query and what was found for it, as one object and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from langchain_core.documents import Document

from langchain_bge_medical.clinical.abstention import Abstention, abstention, relevance_scores
from langchain_bge_medical.clinical.demographics import Patient, patient_of
from langchain_bge_medical.clinical.evidence import with_evidence
from langchain_bge_medical.clinical.lexicon import Lang, SymptomLexicon
from langchain_bge_medical.clinical.mentions import mentions_of
from langchain_bge_medical.clinical.next_question import NextQuestion, next_question
from langchain_bge_medical.clinical.polarity import Finding, Reading, has_findings
from langchain_bge_medical.clinical.triage import RedFlags, Triage, usual_triage
from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.knowledge_base import listed


@dataclass(frozen=True)
class Assessment:
    """What is known of the patient, what it may be, how soon they must be seen, and what to ask next."""

    query: str
    findings: list[Finding]
    patient: Patient
    triage: Triage
    abstention: Abstention
    documents: list[Document]
    """Annotated with `evidence`, `confidence` and `confidence_calibrated`; best first; those that the patient's sex
    or age rule out are left out. Empty if it is better to say nothing."""
    next_question: NextQuestion | None

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON; the query is not in it, quotes of it are."""
        return {
            "triage": self.triage.model_dump(),
            "findings": [
                {**finding._asdict(), "text": self.query[finding.start : finding.end]} for finding in self.findings
            ],
            "patient": self.patient.model_dump(),
            "abstained": self.abstention.abstains,
            "abstention": {
                "score": round(self.abstention.score, 4),
                "reason": self.abstention.reason,
                "calibrated": False,
            },
            "results": [_result(rank, document) for rank, document in enumerate(self.documents, start=1)],
            "next_question": None if self.next_question is None else self.next_question.model_dump(),
        }


def assess(
    query: str,
    documents: Sequence[Document],
    *,
    lexicon: SymptomLexicon,
    red_flags: RedFlags,
    calibration: Calibration | None = None,
    lang: Lang = "zh",
    reading: Reading | None = None,
    triage: Triage | None = None,
) -> Assessment:
    """Return what the clinical layer has to say; the model is not asked.

    Args:
        query: The patient's words.
        documents: What was found for them, best first. Not modified.
        lexicon: The terms to look for.
        red_flags: The rules of urgency.
        calibration: Gives `confidence`, and a threshold below which nothing is said; without one the confidence is
            `relevance_score`, and `confidence_calibrated` says so; `None` where scores are on another scale than
            [0, 1].
        lang: Language of the texts.
        reading: What was read from `query` before, to save the time.
        triage: What `red_flags` said of `query` before, likewise.

    Returns:
        The assessment. Red flags are in it whatever was found.
    """
    if reading is None:
        reading = Reading(query, mentions_of(query, lexicon))
    said = reading.findings
    patient = patient_of(query)
    possible = annotated(query, documents, lexicon=lexicon, calibration=calibration, reading=reading, patient=patient)
    if triage is None:
        triage = red_flags.triage(query, lang=lang, reading=reading, patient=patient)
    decision = abstention(query, said, possible, lexicon, flagged=bool(triage.reasons))
    affirms = has_findings(said)
    # Two ways to know nothing: the words are no complaint, or no document is likely enough.
    if not (decision.abstains or triage.reasons) and calibration and calibration.abstains(possible, findings=affirms):
        decision = decision._replace(abstains=True, reason="no_match")
    shown = [] if decision.abstains else possible
    if shown and not triage.reasons:
        triage = usual_triage(shown[0].metadata.get("urgency"), lang)
    return Assessment(
        query=query,
        findings=said,
        patient=patient,
        triage=triage,
        abstention=decision,
        documents=shown,
        # In an emergency there is nothing to wait for.
        next_question=None if triage.level == "emergency" else next_question(shown, said, lexicon, lang=lang),
    )


def annotated(
    query: str,
    documents: Sequence[Document],
    *,
    lexicon: SymptomLexicon,
    calibration: Calibration | None = None,
    reading: Reading | None = None,
    patient: Patient | None = None,
) -> list[Document]:
    """Return copies with `evidence`, `confidence` and `confidence_calibrated`; decides nothing.

    `assess` does this with what it shows; alone it is for showing documents in another order beside that.

    Args:
        query: As `assess`.
        documents: In any order. Not modified.
        lexicon: As `assess`.
        calibration: As `assess`.
        reading: As `assess`.
        patient: Who it is, if that is known.

    Returns:
        In the same order, without those that the patient's sex or age rule out.
    """
    if reading is None:
        reading = Reading(query, mentions_of(query, lexicon))
    if patient is None:
        patient = patient_of(query)
    copies = with_evidence(documents, query, lexicon, said=reading.findings, patient=patient)
    # A man has no ovaries: what is impossible is not shown, unless nothing else is left.
    possible = [d for d in copies if d.metadata.get("patient_mismatch") != "impossible"] or copies
    confidences: list[float | None] = [None] * len(possible)
    if calibration is not None:
        confidences = calibration.confidences(possible, findings=has_findings(reading.findings))
    for document, confidence, score in zip(possible, confidences, relevance_scores(possible), strict=True):
        document.metadata["confidence"] = score if confidence is None else confidence
        document.metadata["confidence_calibrated"] = confidence is not None
    return possible


def _result(rank: int, document: Document) -> dict[str, Any]:
    metadata = document.metadata
    keys = ("relevance_score", "relevance_logit", "confidence", "recall_rank", "rerank_adjustment")
    return {
        "rank": rank,
        "disease": metadata.get("disease"),
        **{key: _plain(metadata.get(key)) for key in keys},
        "confidence_calibrated": metadata["confidence_calibrated"],
        "department": metadata.get("department"),
        "urgency": metadata.get("urgency"),
        "symptoms": list(listed(metadata, "symptoms")),
        "patient_mismatch": metadata.get("patient_mismatch"),
        "evidence": metadata["evidence"],
    }


def _plain(value: Any) -> Any:
    """Return a number of NumPy's as one of Python's, which JSON takes; anything else as it is."""
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
