"""What is heard of a symptom in a patient's words, and the five things that may be said of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Status = Literal["present", "absent", "possible", "past", "family"]


class Finding(NamedTuple):
    """A term in a patient's words; `text[start:end]` is how it is said."""

    term: str
    start: int
    end: int
    status: Status


AFFIRMED: tuple[Status, ...] = ("present", "possible")
"""What counts as said of the patient as he is now."""
