"""How much of what a patient affirms a disease's own symptoms cover: a second opinion beside the cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.polarity import findings


class SymptomCoverage:
    """Gives a document points for each of its symptoms that the patient affirms.

    To be passed to `BGERerankerCompressor(adjust=...)`, which adds the points to the logits before it orders.
    A fixed amount for each independent finding is what naive Bayes would add to log-odds. What is denied or
    past gives nothing.
    """

    def __init__(self, weight: float = 1.5, lexicon: SymptomLexicon | None = None) -> None:
        """Take the points for a symptom, on the scale of logits, and the terms to look for.

        Args:
            weight: Points for each symptom affirmed; 0 switches it off.
            lexicon: `None` takes the bundled one.
        """
        self.weight = weight
        self.lexicon = lexicon

    def __call__(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return the points of each document, at least 0, in order; 0 without `symptoms` in its metadata."""
        said = findings(query, self.lexicon or default_lexicon())
        affirmed = {finding.term for finding in said if finding.status in ("present", "possible")}
        return [
            self.weight * len(affirmed.intersection(document.metadata.get("symptoms") or ())) for document in documents
        ]
