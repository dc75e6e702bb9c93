"""Ranking and calibration metrics, from names and numbers: no retriever, no file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple


def first_hit(ranking: Sequence[str], relevant: Collection[str]) -> int | None:
    """Return the 1-based rank of the first relevant name, or `None` if there is none."""
    return next((rank for rank, name in enumerate(ranking, start=1) if name in relevant), None)


def hit_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return 1.0 if any of the first `k` names is relevant, else 0.0."""
    return float(any(name in relevant for name in ranking[:k]))


def reciprocal_rank_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return 1/rank of the first relevant name among the first `k`, else 0.0. Its mean is MRR@k."""
    rank = first_hit(ranking[:k], relevant)
    return 0.0 if rank is None else 1 / rank


def ndcg_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return the normalised discounted cumulative gain of the first `k` names, in [0, 1].

    Every relevant name is worth 1, a repeated one counts where it stands first, and the discount is
    1/log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Raises:
        ValueError: If nothing is relevant.
    """
    if not relevant:
        raise ValueError("nDCG of nothing is not defined")
    wanted = set(relevant)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
    gain = 0.0
    for rank, name in enumerate(ranking[:k], start=1):
        if name in wanted:
            wanted.discard(name)
            gain += 1 / math.log2(rank + 1)
    return gain / best if best else 0.0


def recall_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return the share of the relevant names that are among the first `k`.

    Raises:
        ValueError: If nothing is relevant.
    """
    if not relevant:
        raise ValueError("recall of nothing is not defined")
    return len(set(ranking[:k]) & set(relevant)) / len(set(relevant))


def outranks(ranking: Sequence[str], relevant: Collection[str], irrelevant: Collection[str]) -> bool:
    """Return whether the best relevant name stands above every irrelevant one; unranked is last."""
    best, worst = first_hit(ranking, relevant), first_hit(ranking, irrelevant)
    return best is not None and (worst is None or best < worst)


class Bin(NamedTuple):
    """Some predictions of similar confidence."""

    n: int
    confidence: float
    """Their mean."""
    correct: float
    """The share of them that came true; one of several of the same confidence counts as their share."""


def reliability(confidences: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Return predictions in bins of equal size, from the least confident to the most.

    Bins of equal size and not of equal width: most predictions are near 0 or 1, and a bin of three says nothing.
    Predictions of the same confidence may lie in several bins, so that each counts as the share of them that came true.

    Args:
        confidences: In [0, 1].
        outcomes: Whether each came true.
        bins: How many; fewer if there are fewer predictions.

    Returns:
        The bins that are not empty.
    """
    by_confidence: dict[float, list[bool]] = {}
    for confidence, outcome in zip(confidences, outcomes, strict=True):
        by_confidence.setdefault(confidence, []).append(outcome)
    ordered = [(c, sum(tied) / len(tied)) for c, tied in sorted(by_confidence.items()) for _ in tied]
    count = min(bins, len(ordered))
    edges = [round(i * len(ordered) / count) for i in range(count + 1)] if count else []
    return [
        Bin(
            end - start,
            sum(c for c, _ in ordered[start:end]) / (end - start),
            sum(o for _, o in ordered[start:end]) / (end - start),
        )
        for start, end in itertools.pairwise(edges)
    ]


def expected_calibration_error(confidences: Sequence[float], outcomes: Sequence[bool], bins: int = 10) -> float | None:
    """Return the mean distance between confidence and share of truth over `reliability`'s bins, in [0, 1].

    `None` without predictions. Naeini, Cooper and Hauskrecht (2015), with bins of equal size.
    """
    if not confidences:
        return None
    found = reliability(confidences, outcomes, bins)
    return sum(bin_.n * abs(bin_.confidence - bin_.correct) for bin_ in found) / len(confidences)
