"""Points beside the cross-encoder's logit: for the symptoms that a disease covers, and for its place in recall."""

from __future__ import annotations

import math
from collections.abc import Sequence

from langchain_core.documents import Document

from langchain_bge_medical.clinical.coverage import SymptomCoverage
from langchain_bge_medical.clinical.lexicon import SymptomLexicon


class Blend:
    """Adds two more opinions to the cross-encoder's: symptom coverage, and the logarithm of the reciprocal rank.

    To be passed to `BGERerankerCompressor(adjust=...)`. Three independent opinions are put together by adding
    their log-odds: the model's logit is one; a fixed amount for every symptom affirmed is what naive Bayes adds;
    and the chance that the right document stands at rank r of recall falls about as 1/r, so that -ln r is its
    logarithm. A model much surer than these points keeps its own order.
    """

    def __init__(self, coverage: float = 1.0, recall: float = 1.0, lexicon: SymptomLexicon | None = None) -> None:
        """Take the weights, on the scale of logits.

        Args:
            coverage: Points for each symptom of the disease that the patient affirms; 0 switches it off.
            recall: Times -ln(place among the candidates); 0 switches it off.
            lexicon: The terms to look for; `None` takes the bundled ones.
        """
        self.coverage = coverage
        self.recall = recall
        self._symptoms = SymptomCoverage(coverage, lexicon)

    def __call__(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return the points of each document; `documents` are in order of recall."""
        covered = self._symptoms(query, documents)
        return [points - self.recall * math.log(rank) for rank, points in enumerate(covered, start=1)]

    def __repr__(self) -> str:
        return f"Blend(coverage={self.coverage:g}, recall={self.recall:g})"
