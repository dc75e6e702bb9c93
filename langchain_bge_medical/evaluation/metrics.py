"""Ranking metrics of one query, from names: no retriever, no file."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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
