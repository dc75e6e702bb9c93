"""How sure a mean over queries is, and a difference between two rankers: the bootstrap."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

_RESAMPLES = 2_000
# With fewer independent units a bootstrap interval is far too narrow to decide anything by.
FEWEST_UNITS = 10

Verdict = Literal["better", "worse", "no difference shown", "too few queries"]


class Difference(NamedTuple):
    """What the second of two rankers adds to the first."""

    mean: float
    low: float
    high: float
    units: int
    """Independent units: queries, or the groups they come in."""

    @property
    def verdict(self) -> Verdict:
        """Return what may be claimed: better or worse only if the interval leaves 0 out."""
        if self.units < FEWEST_UNITS:
            return "too few queries"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"

    def as_json(self) -> dict[str, Any]:
        """Return the figures, rounded, with the verdict."""
        figures = {name: round(value, 4) for name, value in zip(("mean", "low", "high"), self[:3], strict=True)}
        return {**figures, "units": self.units, "verdict": self.verdict}


def mean_interval(
    values: Sequence[float], *, groups: Sequence[Hashable] | None = None, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean (Efron 1979); the same for the same values.

    Args:
        values: One per query.
        groups: What each value belongs to, where values of one group resemble each other, e.g. queries about
            one disease: whole groups are drawn then.
        level: How often such intervals hold the true mean.
        seed: Of the resampling.

    Returns:
        Both ends, or `None` without values.
    """
    if not values:
        return None
    sums, counts = _by_group(np.asarray(values, dtype=float), groups)
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def difference(
    before: Sequence[float], after: Sequence[float], *, groups: Sequence[Hashable] | None = None
) -> Difference | None:
    """Return the mean of `after - before`, query by query, with its interval; `None` without queries."""
    gained = [b - a for a, b in zip(before, after, strict=True)]
    interval = mean_interval(gained, groups=groups)
    if interval is None:
        return None
    units = len(set(groups)) if groups is not None else len(gained)
    return Difference(sum(gained) / len(gained), *interval, units)


def _by_group(
    values: np.ndarray[Any, Any], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if groups is None:
        return values, np.ones(len(values))
    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(group, len(places)) for group in groups])
    return np.bincount(index, weights=values), np.bincount(index).astype(float)
