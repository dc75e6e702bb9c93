"""What a patient affirms, denies and is, against a disease's symptoms: a second opinion beside the cross-encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from langchain_core.documents import Document

from langchain_bge_medical.clinical.demographics import mismatch, patient_of
from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.polarity import affirmed_text, findings
from langchain_bge_medical.clinical.weights import BLEND, BlendWeights

_RECALL_OFFSET = 2  # places that hardly differ at the top of recall
_LESS_WITH_PLACE = 0.08  # of a symptom's say for each place down the list, most typical first


class Points(NamedTuple):
    """What is added to a document's logit, by reason."""

    affirmed: float = 0.0
    denied: float = 0.0
    recall: float = 0.0
    patient: float = 0.0


class SymptomCoverage:
    """Gives a document points for its symptoms that the patient affirms, and takes some off for what speaks against it.

    To be passed to `BGERerankerCompressor(adjust=...)`, which adds the points to the logits before it orders. What
    is past or somebody else's neither gives nor takes.
    """

    def __init__(self, weights: BlendWeights = BLEND, lexicon: SymptomLexicon | None = None) -> None:
        """Take the weights, on the scale of logits, and the terms to look for.

        Args:
            weights: All 0 switches it off.
            lexicon: `None` takes the bundled one.
        """
        self.weights = weights
        self.lexicon = lexicon

    def __call__(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return the points of each document, in order.

        Args:
            query: The patient's words.
            documents: In order of recall. Without `symptoms` in the metadata a document has only its points for
                the place in recall and for `age` and `sex`.
        """
        return [sum(points) for points in self.points(query, documents)]

    def points(self, query: str, documents: Sequence[Document]) -> list[Points]:
        """Return the same by reason.

        Args:
            query: The patient's words.
            documents: In order of recall.
        """
        said = findings(query, self.lexicon or default_lexicon())
        affirmed = {finding.term for finding in said if finding.status in ("present", "possible")}
        denied = {finding.term for finding in said if finding.status == "absent"} - affirmed
        patient = patient_of(query)
        weights = self.weights
        against = {"impossible": weights.impossible, "unlikely": weights.unlikely, None: 0.0}
        points = []
        for place, document in enumerate(documents, start=1):
            symptoms = list(dict.fromkeys(document.metadata.get("symptoms") or ()))
            typical = (1 / (1 + _LESS_WITH_PLACE * i) for i, symptom in enumerate(symptoms) if symptom in denied)
            points.append(
                Points(
                    affirmed=weights.affirmed * len(affirmed.intersection(symptoms)),
                    denied=-weights.denied * sum(typical),
                    recall=-weights.recall * math.log((place + _RECALL_OFFSET) / (1 + _RECALL_OFFSET)),
                    patient=-against[mismatch(patient, document.metadata)],
                )
            )
        return points


class AffirmedWords:
    """Leaves what the patient denies out of the words that are searched and reranked with.

    To be passed as `query_to_text` to `BGERerankRetriever` and `BGERerankerCompressor`: neither vectors nor words
    nor a cross-encoder know what `没有` does, and `没有胸痛` finds chest pain.
    """

    def __init__(self, lexicon: SymptomLexicon | None = None) -> None:
        """Take the terms to look for; `None` takes the bundled ones."""
        self.lexicon = lexicon

    def __call__(self, query: str) -> str:
        """Return the query without the clauses that only deny; all of it if nothing else is said."""
        return affirmed_text(query, findings(query, self.lexicon or default_lexicon()))
