"""What a patient affirms, denies and is, against a disease's symptoms: a second opinion beside the cross-encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from langchain_core.documents import Document

from langchain_bge_medical.clinical.demographics import Patient, mismatch, of_children_only, patient_of, speaks_of_child
from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon, plain_form
from langchain_bge_medical.clinical.mentions import mentions_of
from langchain_bge_medical.clinical.polarity import AFFIRMED, Reading, affirmed_text, findings
from langchain_bge_medical.clinical.weights import BLEND, BlendWeights
from langchain_bge_medical.knowledge_base import listed

_RECALL_OFFSET = 2  # places that hardly differ at the top of recall
_SHORTEST_NAME = 2
_LESS_WITH_PLACE = 0.08  # of a symptom's say for each place down the list, most typical first


class Points(NamedTuple):
    """What is added to a document's logit, by reason."""

    affirmed: float = 0.0
    denied: float = 0.0
    named: float = 0.0
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
                its name and `aliases`, the place in recall, and `age` and `sex`.
        """
        return [sum(points) for points in self.points(query, documents)]

    def points(self, query: str, documents: Sequence[Document]) -> list[Points]:
        """Return the same by reason.

        Args:
            query: The patient's words.
            documents: In order of recall.
        """
        reading = Reading(query, mentions_of(query, self.lexicon or default_lexicon()))
        said, names = reading.findings, _Names(query, reading)
        affirmed = {finding.term for finding in said if finding.status in AFFIRMED}
        denied = {finding.term for finding in said if finding.status == "absent"} - affirmed
        patient, weights = patient_of(query), self.weights
        childless = patient.age is None and not speaks_of_child(query)
        points = []
        for place, document in enumerate(documents, start=1):
            symptoms = list(dict.fromkeys(listed(document.metadata, "symptoms")))
            typical = (1 / (1 + _LESS_WITH_PLACE * i) for i, symptom in enumerate(symptoms) if symptom in denied)
            points.append(
                Points(
                    affirmed=weights.affirmed * len(affirmed.intersection(symptoms)),
                    denied=-weights.denied * sum(typical),
                    named=weights.named * names.share(document),
                    recall=-weights.recall * math.log((place + _RECALL_OFFSET) / (1 + _RECALL_OFFSET)),
                    patient=-self._against(document, patient, childless=childless),
                )
            )
        return points

    def _against(self, document: Document, patient: Patient, *, childless: bool) -> float:
        """Return what is taken off since the patient is who they are."""
        said = mismatch(patient, document.metadata)
        if said is not None:
            return self.weights.impossible if said == "impossible" else self.weights.unlikely
        return self.weights.no_child if childless and of_children_only(document.metadata) else 0.0


class _Names:
    """The diseases that a patient says or supposes to have: 崴脚了, but not 没有痛风 or 我妈有痛风."""

    def __init__(self, query: str, reading: Reading) -> None:
        self._plain, self._offsets = plain_form(query)
        self._reading = reading
        self._affirmed = [finding for finding in reading.findings if finding.status in AFFIRMED]

    def share(self, document: Document) -> float:
        """Return 1 if the document's name is all that is said, less the more symptoms are told beside it, 0 without."""
        names = (document.metadata.get("disease") or "", *listed(document.metadata, "aliases"))
        return max(self._share(plain_form(name)[0]) for name in names)

    def _share(self, name: str) -> float:
        start = self._plain.find(name) if len(name) >= _SHORTEST_NAME else -1
        while start >= 0:
            end = start + len(name)
            first, last = self._offsets[start], self._offsets[end - 1] + 1
            # A Latin name is a word, not part of one: "flu" is not in "fluid".
            whole = not (_same_word(self._plain, start) or _same_word(self._plain, end))
            if whole and self._reading.status(first, last) in AFFIRMED:
                beside = {found.term for found in self._affirmed if found.end <= first or found.start >= last}
                return 1 / (1 + len(beside))
            start = self._plain.find(name, start + 1)
        return 0.0


def _same_word(plain: str, at: int) -> bool:
    return 0 < at < len(plain) and plain[at - 1].isascii() and plain[at].isascii() and plain[at - 1 : at + 1].isalnum()


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
