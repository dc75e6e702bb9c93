"""Logits → a confidence that means something on one knowledge base, and when to say nothing. Fitted elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_core.documents import Document
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CALIBRATION_FILE = "calibration.json"
"""What a calibration is called in the folder of its index."""


SHOWN = 5
"""The documents of a query that a calibration is fitted on, and that count for saying nothing."""


class CalibrationError(ValueError):
    """A calibration file that cannot be used, or queries that none can be fitted on."""


class Calibration(BaseModel):
    """What turns a document's logit and margin into the chance that it is a right one.

    `training.calibration` fits it on labelled queries; `langchain-bge-medical calibrate` saves it beside an index.
    It holds for the reranker, the knowledge base and the way of ordering that it was fitted with, and for queries
    like those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    method: Literal["platt", "isotonic"]
    """`platt`: the sigmoid of a weighted sum. `isotonic`: steps over that sum."""
    logit_weight: float
    margin_weight: float
    findings_weight: float
    bias: float
    knots: tuple[tuple[float, float], ...] = ()
    """For `isotonic`: weighted sum and confidence, both ascending; straight lines between, level beyond."""
    threshold: float = Field(ge=0, le=1)
    """It is better to say nothing where the chance that any document shown is right stays below this."""
    false_refusal_rate: float = Field(ge=0, lt=1)
    """The share of real queries that may be refused for it."""
    reranker: str
    """What exactly the model is: a commit, or a digest of the weights."""
    knowledge_base: str
    """A digest of all documents' texts."""
    figures: dict[str, Any] = {}
    """How it was measured: numbers of queries, calibration errors before and after."""

    @model_validator(mode="after")
    def _ascending(self) -> Calibration:
        if (self.method == "isotonic") != bool(self.knots):
            raise ValueError("knots belong to method 'isotonic', and to it only")
        for i in (0, 1):
            values = [knot[i] for knot in self.knots]
            if values != sorted(values):
                raise ValueError("knots must ascend")
        return self

    def confidence(self, logit: float, margin: float, findings: bool) -> float:
        """Return the chance that a document is a right one.

        Args:
            logit: `relevance_logit`.
            margin: `rerank_margin`; 0 where there is no other candidate.
            findings: Whether the lexicon knows any symptom that the query affirms.

        Returns:
            In [0, 1].
        """
        score = self.logit_weight * logit + self.margin_weight * margin + self.findings_weight * findings + self.bias
        if self.method == "platt":
            return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
        return _between(self.knots, score)

    def confidences(self, documents: Iterable[Document], *, findings: bool) -> list[float | None]:
        """Return the confidence of each document that `BGERerankerCompressor` returned.

        `None` for a document without a logit: a blank one, or one scored by an encoder that gives none.
        """
        return [
            None
            if (logit := document.metadata.get("relevance_logit")) is None
            else self.confidence(float(logit), float(document.metadata.get("rerank_margin", 0.0)), findings)
            for document in documents
        ]

    def abstains(self, documents: Sequence[Document], *, findings: bool) -> bool:
        """Return whether it is better to say nothing: the chance that any document is right is below the threshold.

        Only the first five count. Documents without a logit are taken to fit.
        """
        values = self.confidences(documents[:SHOWN], findings=findings)
        known = [value for value in values if value is not None]
        return len(known) == len(values) and chance_of_any(known) < self.threshold

    def save(self, path: Path) -> None:
        """Write plain JSON to `path`, whole or not at all.

        Raises:
            OSError: If it cannot be written; what was there before is still there.
        """
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.part")  # two processes must not share one
        try:
            with part.open("w", encoding="utf-8") as stream:
                stream.write(json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            CalibrationError: If it is something else, or damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            at = "".join(f"{part}: " for part in first["loc"])
            raise CalibrationError(f"{path}: is no calibration: {at}{first['msg']}; run calibrate again") from None

    def mismatch(self, *, reranker: str, knowledge_base: str) -> str | None:
        """Return why it does not hold for this model and knowledge base, or `None` if it does."""
        if self.reranker != reranker:
            return f"it was fitted for the reranker {self.reranker}, this one is {reranker}"
        if self.knowledge_base != knowledge_base:
            return "the knowledge base has changed since it was fitted"
        return None


def chance_of_any(confidences: Iterable[float]) -> float:
    """Return the chance that at least one document is right, each being so independently; 0 without documents."""
    return 1 - math.prod(1 - confidence for confidence in confidences)


def digest_of(documents: Iterable[Document]) -> str:
    """Return a digest of all documents' texts, whatever their order."""
    parts = sorted(
        hashlib.sha256(document.page_content.encode("utf-8", "surrogatepass")).digest() for document in documents
    )
    return f"sha256:{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"


def _between(knots: Sequence[tuple[float, float]], score: float) -> float:
    after = bisect_right([x for x, _ in knots], score)
    if after == 0:
        return knots[0][1]
    if after == len(knots):
        return knots[-1][1]
    (x0, y0), (x1, y1) = knots[after - 1], knots[after]
    return y0 + (y1 - y0) * (score - x0) / (x1 - x0) if x1 > x0 else y1
