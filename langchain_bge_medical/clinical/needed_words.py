"""Words one of which a text must hold for a pattern to match it, so that in a long text few patterns need be tried."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

# How Python itself reads a pattern. It is not public: where it is not there or not as it was, nothing is known of what
# a pattern needs, and it is always tried. Before Python 3.11 it was `sre_parse`.
_parser: Any = getattr(re, "_parser", None) or getattr(re, "sre_parse", None)

Words = frozenset[str]
_NOTHING_KNOWN: Words = frozenset()
_LARGEST_SET = 12  # characters in brackets that are looked for one by one
_LONG = 1000  # characters of a text from which on looking for the words takes less time than trying the patterns


@functools.cache
def needed_words(pattern: str) -> Words:
    """Return words one of which every text that `pattern` matches holds; empty if none are known.

    Args:
        pattern: A regular expression without flags.
    """
    try:
        return _of_sequence(_parser.parse(pattern))
    except (AttributeError, TypeError, ValueError, re.error):
        return _NOTHING_KNOWN


class PatternSieve:
    """A text that many patterns are to be tried on, with what was found to be in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._held: dict[str, bool] = {}

    def finditer(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """Return the matches of `pattern`, which is not tried where it cannot match."""
        return pattern.finditer(self._text) if self.may_match(pattern) else iter(())

    def may_match(self, pattern: re.Pattern[str]) -> bool:
        """Return whether `pattern`, which has no flags, may match the text; for a short text always true."""
        if len(self._text) < _LONG:
            return True
        needed = needed_words(pattern.pattern)
        return not needed or any(self._holds(word) for word in needed)

    def _holds(self, word: str) -> bool:
        held = self._held.get(word)
        if held is None:
            # Most words are ruled out by a pair of neighbours that stands nowhere, without reading the text again.
            held = self._pairs.issuperset(map("".join, itertools.pairwise(word))) and word in self._text
            self._held[word] = held
        return held

    @functools.cached_property
    def _pairs(self) -> set[str]:
        return set(map("".join, itertools.pairwise(self._text)))


def _of_sequence(items: Iterable[tuple[Any, Any]]) -> Words:
    """Return the best of what the parts of a sequence need: long words, and few of them."""
    found: list[Words] = []
    run = ""
    for operation, argument in items:
        name = str(operation)
        if name == "LITERAL":
            run += chr(argument)
            continue
        found += [frozenset({run})] if run else []
        run = ""
        found.append(_KINDS.get(name, _unknown)(argument))
    found += [frozenset({run})] if run else []
    known = [words for words in found if words]
    return max(known, key=lambda words: (min(map(len, words)), -len(words)), default=_NOTHING_KNOWN)


def _unknown(_: Any) -> Words:
    return _NOTHING_KNOWN


def _of_branch(argument: tuple[None, Sequence[Any]]) -> Words:
    branches = [_of_sequence(branch) for branch in argument[1]]
    return _NOTHING_KNOWN if not all(branches) else frozenset().union(*branches)


def _of_set(argument: Sequence[tuple[Any, Any]]) -> Words:
    if len(argument) > _LARGEST_SET or any(str(operation) != "LITERAL" for operation, _ in argument):
        return _NOTHING_KNOWN
    return frozenset(chr(code) for _, code in argument)


def _of_repeat(argument: tuple[int, int, Any]) -> Words:
    least, _, repeated = argument
    return _of_sequence(repeated) if least else _NOTHING_KNOWN


_KINDS: Mapping[str, Callable[[Any], Words]] = {
    "BRANCH": _of_branch,
    "IN": _of_set,
    "MAX_REPEAT": _of_repeat,
    "MIN_REPEAT": _of_repeat,
    "SUBPATTERN": lambda argument: _of_sequence(argument[3]) if not argument[1] else _NOTHING_KNOWN,
}
