"""Ways to say a symptom that are patterns rather than words: `一爬楼就…喘`, `睡…不着`, `burns … when I pee`."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

from langchain_bge_medical.clinical.folding import fold_pattern
from langchain_bge_medical.clinical.needed_words import PatternSieve

_DEFAULT = Path(__file__).parents[1] / "resources" / "symptom_phrases.json"

# What the marks in the patterns stand for. A gap holds no denial: 手…麻 does not read 手不麻.
_GAPS = (
    ("…", r"[^，。；？！、\n\s没不无未]{0,6}"),
    ("‥", r"([^.,;!?，。；？！、\n]{0,20}?)"),
)


_HIDDEN = re.compile("□+")
_DENIES = re.compile(r"n['’]t|\bno\b|\bnot\b|\bnever\b|\bwithout\b")


# 视力没受影响 says nothing of 视力没.
_UNCHANGED = re.compile("受|变|影响|问题|事|啥|什么|减|少|掉|毛病|异常|增|涨|降|下降|退|坏|耽误|怎么")


class Phrase(NamedTuple):
    """Where a text says a term; offsets into the folded text."""

    term: str
    start: int
    end: int
    denied: bool
    """Whether a gap of the pattern took in a denial: `fingers aren't numb`."""


def phrases(folded: str, masked: str | None = None) -> list[Phrase]:
    """Return what the patterns find, leftmost and longest first, without overlaps.

    Args:
        folded: A text as `folding.folded` returns it.
        masked: The same with words that only look like symptoms (芝麻, 口水) hidden by `□`; a pattern sees those
            of them that it names.

    Returns:
        In order. Linear in the length of the text: every repetition in the patterns is bounded.
    """
    found = []
    # Chinese patterns hold Chinese characters, and English ones letters; the others are digits.
    spoken = {"any", *(("en",) if re.search("[a-z]", folded) else ()), *(() if folded.isascii() else ("zh",))}
    sieve = PatternSieve(folded)
    for language, rank, term, pattern in _patterns():
        if language not in spoken:
            continue
        for match in sieve.finditer(pattern):
            start, end = match.span()
            if end == start or (language == "en" and start and folded[start - 1].isalnum()):
                continue
            if folded[end - 1] in "没不" and _UNCHANGED.match(folded, end):
                continue
            if masked is not None and "□" in masked[start:end]:
                hidden = _HIDDEN.finditer(masked, max(0, start - 4), min(len(masked), end + 4))
                spans = [h.span() for h in hidden if h.start() < end and h.end() > start]
                if any(folded[a:b] not in pattern.pattern for a, b in spans):
                    continue
            denied = any(gap and _DENIES.search(gap) for gap in match.groups())
            found.append((start, -end, rank, term, denied))
    chosen, last = [], 0
    for start, negative_end, _, term, denied in sorted(found):
        if start >= last:
            chosen.append(Phrase(term, start, -negative_end, denied))
            last = -negative_end
    return chosen


@functools.cache
def _patterns() -> list[tuple[str, int, str, re.Pattern[str]]]:
    compiled: list[tuple[str, int, str, re.Pattern[str]]] = []
    for language, terms in json.loads(_DEFAULT.read_text("utf-8")).items():
        for term, patterns in terms.items():
            for pattern in patterns:
                # A word's beginning is looked at afterwards, so that the search may skip to the first letter.
                expanded = pattern.removeprefix(r"\b")
                for mark, gap in _GAPS:
                    expanded = expanded.replace(mark, gap)
                compiled.append((language, len(compiled), term, re.compile(fold_pattern(expanded))))
    return compiled
