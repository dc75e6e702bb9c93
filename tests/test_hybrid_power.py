"""Recall by vectors and words is nearly as good as the better of the two, whatever is asked."""

from __future__ import annotations

from langchain_bge_medical.retrievers import _POWER
from tests.hybrid_power import POWERS, collect, hit

UNEQUAL = ("bundled names zh", "bundled names en", "unknown names zh", "unknown names en", "unknown complaints en")


def test_hybrid_recall_comes_close_to_its_better_half_for_names_and_complaints_known_and_unknown() -> None:
    found = collect(40)
    chosen = POWERS[f"power {_POWER}"]
    for name, found_of in found.items():
        better = max(hit(found_of, POWERS["vectors alone"]), hit(found_of, POWERS["words alone"]))
        assert hit(found_of, chosen) > better - 0.1, name
    for name in UNEQUAL:
        assert hit(found[name], chosen) > hit(found[name], POWERS["equal weights"]) + 0.1, name
