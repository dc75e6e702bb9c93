"""Labelled queries → a calibration: what the logits of this reranker mean on this knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from langchain_core.documents import Document

from langchain_bge_medical.confidence import SHOWN, Calibration, CalibrationError, chance_of_any
from langchain_bge_medical.evaluation.compare import LabelledQuery, NameIndex
from langchain_bge_medical.evaluation.metrics import expected_calibration_error

Method = Literal["platt", "isotonic"]

FEWEST_QUERIES = 50
_FOLDS = 5
# No confidence says never or always: some hundred queries cannot know that.
_SUREST = 0.995


class Observation(NamedTuple):
    """One document that was shown for a query."""

    query: int
    rank: int
    logit: float
    margin: float
    findings: bool
    right: bool
    on_topic: bool


def observe(
    queries: Iterable[LabelledQuery],
    rerank: Callable[[str], Sequence[Document]],
    names: NameIndex,
    has_findings: Callable[[str], bool],
) -> list[Observation]:
    """Rerank every labelled query and note what its best documents look like.

    Args:
        queries: Those with an empty `relevant` are off topic. Passed over are those without it, and those whose
            relevant diseases the knowledge base lacks.
        rerank: A query → reranked documents, best first.
        names: Of the knowledge base.
        has_findings: Whether the lexicon knows any symptom that a query affirms.

    Returns:
        Up to five observations a query.
    """
    found = []
    for i, query in enumerate(queries):
        relevant = {names.get(name) for name in query.relevant or ()} - {None}
        if not relevant and query.relevant != ():
            continue
        findings = has_findings(query.query)
        for rank, document in enumerate(rerank(query.query)[:SHOWN], start=1):
            metadata = document.metadata
            if metadata.get("relevance_logit") is not None:
                found.append(
                    Observation(
                        i,
                        rank,
                        metadata["relevance_logit"],
                        metadata.get("rerank_margin", 0.0),
                        findings,
                        metadata["disease"] in relevant,
                        bool(query.relevant),
                    )
                )
    return found


def fit(
    observations: Sequence[Observation],
    *,
    method: Method = "platt",
    false_refusal_rate: float = 0.05,
    reranker: str = "",
    knowledge_base: str = "",
    seed: int = 0,
) -> Calibration:
    """Fit a calibration, and measure it by cross-validation over whole queries.

    Args:
        observations: On queries that the reranker was not trained on.
        method: `platt` (Platt 1999) or `isotonic` (Zadrozny and Elkan 2002), over logit, margin and findings.
        false_refusal_rate: The share of real queries that may be refused.
        reranker: Identity of the model.
        knowledge_base: Digest of the documents.
        seed: Of the folds.

    Returns:
        The calibration, fitted on all observations; its threshold and figures come from the folds: `queries`,
        `off_topic`, `ece_before` (of `relevance_score`) and `ece` of the documents ranked first, the same over
        all five, `refused_real` and `refused_off_topic` at the threshold.

    Raises:
        CalibrationError: If there are fewer than 50 queries with a right disease, or no document shown is
            right, or all are, even when a fifth of the queries is left out.
        ValueError: If `false_refusal_rate` is not in [0, 1).
    """
    from sklearn.model_selection import GroupKFold

    if not 0 <= false_refusal_rate < 1:
        raise ValueError(f"false_refusal_rate must lie in [0, 1), got {false_refusal_rate}")
    queries = np.array([observation.query for observation in observations])
    on_topic = np.array([observation.on_topic for observation in observations], dtype=bool)
    asked = len(set(queries[on_topic].tolist())) if len(queries) else 0
    if asked < FEWEST_QUERIES:
        raise CalibrationError(f"needs at least {FEWEST_QUERIES} labelled queries with a right disease, got {asked}")
    features = np.array([[seen.logit, seen.margin, seen.findings] for seen in observations], dtype=float)
    right = np.array([observation.right for observation in observations], dtype=bool)
    held_out = np.empty(len(right))
    for train, test in GroupKFold(_FOLDS, shuffle=True, random_state=seed).split(features, right, queries):
        model = _fit(features[train], right[train], method)
        held_out[test] = [model.confidence(*row) for row in features[test].tolist()]
    # Rounded down, so that the rate holds for the number that is saved.
    threshold = 1e-4 * int(1e4 * _threshold(_chances(queries[on_topic], held_out[on_topic]), false_refusal_rate))
    first = np.array([observation.rank == 1 for observation in observations], dtype=bool)
    before = 1 / (1 + np.exp(-features[:, 0]))
    figures = {
        "queries": asked,
        "off_topic": len(set(queries[~on_topic].tolist())),
        "ece_before": _ece(before[first], right[first]),
        "ece": _ece(held_out[first], right[first]),
        "ece_shown_before": _ece(before, right),
        "ece_shown": _ece(held_out, right),
        "refused_real": _refused(queries[on_topic], held_out[on_topic], threshold),
        "refused_off_topic": _refused(queries[~on_topic], held_out[~on_topic], threshold),
    }
    return _fit(features, right, method).model_copy(
        update={
            "threshold": threshold,
            "false_refusal_rate": false_refusal_rate,
            "reranker": reranker,
            "knowledge_base": knowledge_base,
            "figures": figures,
        }
    )


def _fit(features: np.ndarray[Any, Any], right: np.ndarray[Any, Any], method: Method) -> Calibration:
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if right.all() or not right.any():
        raise CalibrationError(
            f"every document shown is right, or none is, at least for four of five queries ({len(right)} documents); "
            f"there is nothing to tell apart"
        )
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    platt = LogisticRegression().fit((features - mean) / spread, right)
    weights = platt.coef_[0] / spread
    bias = float(platt.intercept_[0] - weights @ mean)
    knots: list[tuple[float, float]] = []
    if method == "isotonic":
        steps = IsotonicRegression(y_min=1 - _SUREST, y_max=_SUREST).fit(features @ weights + bias, right)
        knots = list(zip(steps.X_thresholds_.tolist(), steps.y_thresholds_.tolist(), strict=True))
    return Calibration(
        method=method,
        logit_weight=float(weights[0]),
        margin_weight=float(weights[1]),
        findings_weight=float(weights[2]),
        bias=bias,
        knots=tuple(knots),
        threshold=0,
        false_refusal_rate=0,
        reranker="",
        knowledge_base="",
    )


def _chances(queries: np.ndarray[Any, Any], confidences: np.ndarray[Any, Any]) -> list[float]:
    by_query: dict[int, list[float]] = {}
    for query, confidence in zip(queries.tolist(), confidences.tolist(), strict=True):
        by_query.setdefault(query, []).append(confidence)
    return sorted(map(chance_of_any, by_query.values()))


def _threshold(best: Sequence[float], rate: float) -> float:
    """Return the highest threshold below which at most `rate` of the queries fall; `best` ascends."""
    return best[int(rate * len(best))]


def _refused(queries: np.ndarray[Any, Any], confidences: np.ndarray[Any, Any], threshold: float) -> float | None:
    best = _chances(queries, confidences)
    return round(sum(value < threshold for value in best) / len(best), 4) if best else None


def _ece(confidences: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float | None:
    error = expected_calibration_error(confidences.tolist(), right.tolist())
    return None if error is None else round(error, 4)
