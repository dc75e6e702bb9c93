"""Which of the patient's clauses a score rests on: how far it falls when one is left out, for any reranker."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

Scorer = Callable[[list[tuple[str, str]]], Sequence[float]]
"""Pairs of query and document → scores or logits, as `BGECrossEncoder.logits`."""

_CLAUSE = re.compile(r"(?:[^，,。；;、！!？?\n.]|\.(?=\d))+")  # which a number's point does not end
_COMMAS = "，,、；; \t\r\n\u00a0\u3000"
_PUNCTUATION = _COMMAS + "。.！!？?"
_SHORTEST = 2  # characters of a clause worth leaving out


class Clause(NamedTuple):
    """A part of the query; `query[start:end]` is the text."""

    start: int
    end: int
    text: str


class Effect(NamedTuple):
    """What a clause does for a document."""

    clause: Clause
    drop: float
    """Score with everything minus score without the clause; above 0 it speaks for the document."""


class Faithfulness(NamedTuple):
    """How well spans explain a score (DeYoung et al. 2020, ERASER), on the scale of the scorer."""

    comprehensiveness: float
    """How far the score falls without the spans; higher is better."""
    sufficiency: float
    """How far it falls with the spans alone; lower is better."""


def clauses_of(query: str) -> list[Clause]:
    """Return the clauses of a query: what stands between punctuation, of two characters or more."""
    found = []
    for match in _CLAUSE.finditer(query):
        text = match.group().strip()
        if len(text) >= _SHORTEST:
            start = match.start() + match.group().index(text)
            found.append(Clause(start, start + len(text), text))
    return found


def occlusion(query: str, texts: Sequence[str], score: Scorer, *, most: int = 8) -> list[list[Effect]]:
    """Return what each clause of the query does for each document, in one batch.

    Args:
        query: The patient's words.
        texts: What the scorer reads of the documents; the best five are enough.
        score: Called once, with `len(texts) * (clauses + 1)` pairs.
        most: Clauses that are left out in turn; the longest are taken.

    Returns:
        For each text the effects in order of the query; empty lists for a query of fewer than two clauses.
    """
    clauses = clauses_of(query)
    if len(clauses) < 2 or not texts:
        return [[] for _ in texts]
    chosen = sorted(sorted(clauses, key=lambda c: c.start - c.end)[:most])
    variants = [query, *(_without(query, [(c.start, c.end)]) for c in chosen)]
    scores = list(score([(variant, text) for text in texts for variant in variants]))
    width = len(variants)
    return [
        [Effect(c, scores[row * width] - scores[row * width + i]) for i, c in enumerate(chosen, start=1)]
        for row in range(len(texts))
    ]


def faithfulness(query: str, text: str, spans: Sequence[tuple[int, int]], score: Scorer) -> Faithfulness | None:
    """Return how well spans of the query explain a document's score; `None` if they are none of it or all.

    Args:
        query: The patient's words.
        text: The document.
        spans: Start and end of each, e.g. of the matched evidence.
        score: Called once, with three pairs.
    """
    kept = " ".join(query[start:end] for start, end in spans).strip()
    rest = _without(query, spans)
    if not kept or not rest:
        return None
    full, without, alone = score([(query, text), (rest, text), (kept, text)])
    return Faithfulness(full - without, full - alone)


def random_spans(query: str, spans: Sequence[tuple[int, int]], rng: random.Random) -> list[tuple[int, int]]:
    """Return as many spans of the same lengths at random places, for comparison; they may overlap."""
    placed = []
    for start, end in spans:
        length = end - start
        at = rng.randrange(max(1, len(query) - length + 1))
        placed.append((at, at + length))
    return placed


def _without(query: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return the query without the spans, all else as it stands, so that a score changes for no other reason."""
    kept: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not kept:
            kept.append(query[end:start])
        end = max(end, stop)
    return functools.reduce(_joined, [*kept, query[end:]])


def _joined(left: str, right: str) -> str:
    """Return both sides of a gap with the punctuation of one: of what parts more, or else of what follows."""
    head, tail = left.rstrip(_PUNCTUATION), right.lstrip(_PUNCTUATION)
    if not head:
        return tail
    joint = max(right[: len(right) - len(tail)], left[len(head) :], key=_parting)
    return head + (joint + tail if tail else joint.rstrip(_COMMAS))


def _parting(punctuation: str) -> int:
    """Return how much it parts: 0 for nothing, 1 for blanks, 2 for commas, 3 for what ends a sentence."""
    return bool(punctuation) + bool(punctuation.strip()) + bool(punctuation.strip(_COMMAS))
