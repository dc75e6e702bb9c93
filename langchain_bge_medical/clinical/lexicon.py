"""The symptom lexicon: clinical terms, the ways patients say them, and where either occurs in a text."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Lang = Literal["zh", "en"]
"""The languages that are read, and those in which something is said."""

_DEFAULT = Path(__file__).parents[1] / "resources" / "symptom_lexicon.json"
_LONGEST_UNFOLDED = 4  # characters of one; ﷺ becomes 18, and says nothing of a symptom
_END = ""  # the key under which a node of the trie holds the term that ends there


class LexiconEntry(BaseModel):
    """A clinical term and the other ways to say it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    term: str
    site: str = ""
    """Body site, one word."""
    colloquial: tuple[str, ...] = ()
    """How patients say it, Chinese."""
    en: tuple[str, ...] = ()
    opposite: tuple[str, ...] = ()
    """How patients say that it is absent or the contrary: `胃口好` for 食欲减退."""


@functools.cache
def default_lexicon() -> SymptomLexicon:
    """Return the bundled lexicon; read once, shared, not to be changed."""
    return SymptomLexicon.load()


class Mention(NamedTuple):
    """A term found in a text; `text[start:end]` is how it is said there."""

    term: str
    start: int
    end: int
    opposite: bool
    """Whether it is the term's contrary that is said."""


class SymptomLexicon:
    """Terms and their forms, searchable in linear time.

    Full-width, upper-case and traditional characters match their plain, lower-case and simplified twins.
    """

    def __init__(self, entries: Iterable[LexiconEntry]) -> None:
        """Index the entries; of two entries with the same term or form the first has it."""
        self.entries: dict[str, LexiconEntry] = {}
        for entry in entries:
            self.entries.setdefault(entry.term, entry)

    @functools.cached_property
    def _trie(self) -> dict[str, Any]:
        trie: dict[str, Any] = {}
        for entry in self.entries.values():
            _add(trie, entry.term, entry.term, opposite=False)
        for entry in self.entries.values():
            for form in (*entry.colloquial, *entry.en):
                _add(trie, form, entry.term, opposite=False)
            for form in entry.opposite:
                _add(trie, form, entry.term, opposite=True)
        return trie

    @classmethod
    def load(cls, path: Path = _DEFAULT) -> SymptomLexicon:
        """Read a lexicon file: a JSON array of entries."""
        return cls(LexiconEntry.model_validate(raw) for raw in json.loads(path.read_text("utf-8")))

    def forms(self, term: str) -> tuple[str, ...]:
        """Return the other ways to say a term, Chinese and English; empty for a term that is not here."""
        entry = self.entries.get(term)
        return () if entry is None else (*entry.colloquial, *entry.en)

    def with_terms(self, terms: Iterable[str]) -> SymptomLexicon:
        """Return a lexicon that also has `terms`, e.g. those of a knowledge base that are not yet in it."""
        new = [LexiconEntry(term=term) for term in dict.fromkeys(terms) if term not in self.entries]
        return SymptomLexicon([*self.entries.values(), *new])

    def find(self, text: str) -> list[Mention]:
        """Return the terms that occur in `text`, left to right, longest first, without overlaps."""
        plain, offsets = plain_form(text)
        mentions = []
        i = 0
        while i < len(plain):
            found = self._longest(plain, i)
            if found is None:
                i += 1
                continue
            (term, opposite), end = found
            mentions.append(Mention(term, offsets[i], offsets[end - 1] + 1, opposite))
            i = end
            while i < len(plain) and offsets[i] == offsets[end - 1]:  # the rest of a character that unfolds: ㍿
                i += 1
        return mentions

    def _longest(self, plain: str, start: int) -> tuple[tuple[str, bool], int] | None:
        # A Latin form is a word, not part of one: "rash" is not in "crash".
        if start and _is_latin(plain[start]) and _is_latin(plain[start - 1]):
            return None
        node, best = self._trie, None
        for end in range(start, len(plain)):
            next_node = node.get(plain[end])
            if next_node is None:
                break
            node = next_node
            whole = not (_is_latin(plain[end]) and end + 1 < len(plain) and _is_latin(plain[end + 1]))
            if _END in node and whole:
                best = (node[_END], end + 1)
        return best


def _add(trie: dict[str, Any], form: str, term: str, *, opposite: bool) -> None:
    node = trie
    for char in plain_form(form)[0]:
        node = node.setdefault(char, {})
    node.setdefault(_END, (term, opposite))


def plain_form(text: str) -> tuple[str, Sequence[int]]:
    """Return `text` in NFKC, lower case and simplified characters, and each character's place in `text`."""
    if text.isascii():
        return text.lower(), range(len(text))
    simplified = text.translate(_simplifying())
    if unicodedata.is_normalized("NFKC", simplified):  # nothing unfolds: each character keeps its place
        plain = simplified.casefold()
        if len(plain) == len(text):
            return plain, range(len(text))
    chars: list[str] = []
    offsets: list[int] = []
    for i, char in enumerate(simplified):
        unfolded = unicodedata.normalize("NFKC", char).casefold()
        if len(unfolded) > _LONGEST_UNFOLDED:
            unfolded = char
        chars.extend(unfolded)
        offsets.extend([i] * len(unfolded))
    return "".join(chars), offsets


@functools.cache
def _simplifying() -> dict[int, str]:
    return str.maketrans(simplified_characters())


@functools.cache
def simplified_characters() -> dict[str, str]:
    """Return each traditional character of the CJK block with its simplified twin, one to one."""
    from opencc import OpenCC

    converter = OpenCC("t2s")
    block = [chr(code) for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000))]
    # One converted line per character, so that no phrase rule sees two of them together.
    pairs = zip(block, converter.convert("\n".join(block)).split("\n"), strict=True)
    return {char: twin for char, twin in pairs if twin != char and len(twin) == 1}


def _is_latin(char: str) -> bool:
    return "a" <= char <= "z"
