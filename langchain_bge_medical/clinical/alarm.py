"""How much a patient's words sound like an emergency, by the runs of characters that they are made of.

Red-flag rules say why; they know the wordings that somebody thought of. This is a linear model learnt from thousands of
texts (`training.alarm`), for the wordings that nobody thought of. It is data and sums: no network, no library.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from langchain_bge_medical.clinical.folding import folded

_DEFAULT = Path(__file__).parents[1] / "resources" / "alarm.json"
_UNIT = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\S")
# Of a folded text, whose stops are all Chinese.
_SENTENCE = re.compile(r"[^。！？；\n]*[。！？；\n]*")
_CLAUSE = re.compile(r"[^，。！？；、\n]+")
_LONGEST_RUN = 3
# Of longer texts the loudest part of whole sentences counts: one alarming sentence is not drowned by calm ones.
_LONGEST_TEXT = 60
_KNOWN = 0.6  # of the units: a text in another language is not judged


class Heard(NamedTuple):
    """What was heard in a text."""

    log_odds: float
    """Of an emergency; 0 is as likely as not where half of the texts are emergencies. `nan` if too few of the units are
    known to tell."""
    units: int
    """How many units the text has."""
    quote: str
    """The clause that says most for it."""


@dataclass(frozen=True)
class Alarm:
    """A logistic regression on runs of one to three units; a unit is a Chinese character, a word, or a number.

    Attributes:
        bias: The log-odds of a text of which nothing is known.
        runs: Run of units, joined by blanks → its inverse document frequency and its weight.
    """

    bias: float
    runs: Mapping[str, tuple[float, float]]

    @classmethod
    def load(cls, path: Path = _DEFAULT) -> Alarm:
        """Read a model that `training.alarm` wrote."""
        raw = json.loads(path.read_text("utf-8"))
        return cls(raw["bias"], {run: (idf, weight) for run, idf, weight in raw["runs"]})

    def hear(self, text: str) -> Heard:
        """Return how much a text sounds like an emergency, and which words say so; takes linear time."""
        plain, offsets = folded(text)
        size = len(_UNIT.findall(plain))
        heard = [(self._log_odds(plain[start:end]), start, end) for start, end in _parts(plain)]
        known = [part for part in heard if not math.isnan(part[0])]
        if not known:
            return Heard(math.nan, size, "")
        log_odds, start, end = max(known)
        clauses = [(start + m.start(), start + m.end()) for m in _CLAUSE.finditer(plain[start:end])]
        first, last = max(clauses or [(start, end)], key=lambda span: self._sum(plain[slice(*span)]))
        return Heard(log_odds, size, text[offsets[first] : offsets[last - 1] + 1].strip())

    def _log_odds(self, plain: str) -> float:
        parts = units(plain)
        words = [unit for unit in parts if unit[0].isalnum()]
        if not words or sum(word in self.runs for word in words) < _KNOWN * len(words):
            return math.nan
        total = square = 0.0
        for run, count in Counter(runs(parts)).items():
            if run in self.runs:
                idf, weight = self.runs[run]
                value = (1 + math.log(count)) * idf
                total += value * weight
                square += value * value
        return self.bias + total / math.sqrt(square)

    def _sum(self, plain: str) -> float:
        return sum(self._products.get(run, 0.0) for run in runs(units(plain)))

    @functools.cached_property
    def _products(self) -> dict[str, float]:
        return {run: idf * weight for run, (idf, weight) in self.runs.items()}


def units(plain: str) -> list[str]:
    """Return the units of a folded text: Chinese characters, words, and numbers, of which only the length counts."""
    return ["0" * len(unit) if unit.isdecimal() else unit for unit in _UNIT.findall(plain)]


def runs(parts: Sequence[str]) -> Iterator[str]:
    """Yield every run of one to three units, the ends of the text being units too."""
    ended = ["^", *parts, "$"]
    for length in range(1, _LONGEST_RUN + 1):
        yield from map(" ".join, zip(*(ended[start:] for start in range(length)), strict=False))


def _parts(plain: str) -> Iterator[tuple[int, int]]:
    """Yield where the text can be cut into parts of whole sentences, none too long if no sentence is."""
    start = end = size = 0
    for sentence in _SENTENCE.finditer(plain):
        length = len(_UNIT.findall(sentence.group()))
        if size and size + length > _LONGEST_TEXT:
            yield start, end
            start, size = end, 0
        end, size = sentence.end(), size + length
    if end > start:
        yield start, end


@functools.cache
def default_alarm() -> Alarm:
    """Return the bundled model; read once."""
    return Alarm.load()
