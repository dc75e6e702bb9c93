"""How soon somebody must be seen: red-flag rules on what the patient affirms, before any ranking and any model."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from langchain_bge_medical.clinical.lexicon import Mention, SymptomLexicon, default_lexicon, plain_form
from langchain_bge_medical.clinical.polarity import denied_within, status_of

Level = Literal["emergency", "urgent", "routine", "self_care"]
Lang = Literal["zh", "en"]

_DEFAULT = Path(__file__).parents[1] / "resources" / "red_flags.json"
_LEVELS: tuple[Level, ...] = ("emergency", "urgent", "routine", "self_care")

# Who the patient is. Years unless the unit says months or days.
_INFANT = re.compile(
    r"新生儿|婴儿|(?<!\d)[0-9一二三四五六七八九十两]{1,2}个?多?月(?:大|的?(?:宝|娃|孩|婴))|刚出生|没满月"
    r"|newborn|infant|months?[- ]old"
)
_CHILD = re.compile(
    r"孩子|宝宝|小孩|娃|儿子|女儿|闺女|孙子|孙女|小朋友|幼儿|(?<!\d)(?:[1-9]|1[0-3])岁"
    r"|\bchild\b|\bkid\b|\btoddler\b|\bmy (?:son|daughter|baby)\b|years?[- ]old (?:boy|girl|son|daughter)"
)
_PREGNANT = re.compile(
    r"(?<!没)(?<!没有)(?<!未)(?<!备)怀孕|孕\d*周|孕期|孕妇|有喜|身孕|怀着|怀了|胎动|(?<!not )pregnan"
)
_ELDERLY = re.compile(
    r"(?<!\d)(?:6[5-9]|[7-9]\d)岁|老人|老爷子|老太太|爷爷|奶奶|外公|外婆|姥姥|姥爷|[六七八九]十(?:多|几)?岁|elderly|grand(?:ma|pa|mother|father)"
)
_CONTEXTS = {"@infant": _INFANT, "@child": _CHILD, "@pregnant": _PREGNANT, "@elderly": _ELDERLY}

_ADVICE: Mapping[Level, Mapping[Lang, str]] = {
    "emergency": {
        "zh": "请立即拨打120或前往最近的急诊。",
        "en": "Call an ambulance (120 in China) or go to the nearest emergency department now.",
    },
    "urgent": {"zh": "请今天就去医院就诊。", "en": "See a doctor today."},
    "routine": {"zh": "建议近日预约就诊。", "en": "Book a visit to a doctor in the coming days."},
    "self_care": {
        "zh": "可先在家观察,若加重或数日不见好转请就医。",
        "en": "You may watch it at home first; see a doctor if it gets worse or does not improve within days.",
    },
}


class RedFlag(BaseModel):
    """A rule: when every group of `when` is met, the level is at least `level`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    level: Literal["emergency", "urgent"]
    when: tuple[tuple[str, ...], ...] = Field(min_length=1)
    """Groups; one alternative of each must be affirmed. An alternative is a term of the lexicon, a regular
    expression on the plain text (`~口唇发[紫青]`), or who the patient is (`@infant @child @pregnant @elderly`)."""
    unless: tuple[str, ...] = ()
    """Alternatives that stop the rule."""
    reason: dict[Lang, str]
    advice: dict[Lang, str]
    department: str
    source: str


class Reason(BaseModel):
    """Why the level is what it is."""

    rule: str
    text: str
    quotes: list[str]
    """The patient's own words that met the rule."""


class Triage(BaseModel):
    """What to do, how soon, and why."""

    level: Level
    reasons: list[Reason] = []
    advice: str
    departments: list[str] = []


class RedFlags:
    """The rules, ready to be applied to a patient's words."""

    def __init__(self, rules: Iterable[RedFlag], lexicon: SymptomLexicon) -> None:
        """Check the rules against the lexicon.

        Args:
            rules: The rules.
            lexicon: Terms that the rules may name.

        Raises:
            ValueError: If a rule names a term that the lexicon lacks, or holds a bad regular expression.
        """
        self._rules = list(rules)
        self._lexicon = lexicon
        self._patterns: dict[str, re.Pattern[str]] = {}
        for rule in self._rules:
            for alternative in (*(a for group in rule.when for a in group), *rule.unless):
                if alternative.startswith("~"):
                    try:
                        self._patterns[alternative] = re.compile(alternative[1:])
                    except re.error as error:
                        raise ValueError(
                            f"red flag {rule.id}: {alternative!r} is no regular expression: {error}"
                        ) from None
                elif not alternative.startswith("@") and alternative not in lexicon.entries:
                    raise ValueError(f"red flag {rule.id}: {alternative!r} is not in the symptom lexicon")
                elif alternative.startswith("@") and alternative not in _CONTEXTS:
                    raise ValueError(f"red flag {rule.id}: {alternative!r} is none of {', '.join(_CONTEXTS)}")

    @classmethod
    def load(cls, lexicon: SymptomLexicon, path: Path = _DEFAULT) -> RedFlags:
        """Read a rule file: a JSON array of rules."""
        return cls((RedFlag.model_validate(raw) for raw in json.loads(path.read_text("utf-8"))), lexicon)

    def triage(self, text: str, *, usual: Level | None = None, lang: Lang = "zh") -> Triage:
        """Return how soon the patient must be seen.

        Red flags decide about emergency. Findings that are denied, past or somebody else's do not count;
        suspected ones do.

        Args:
            text: The patient's words.
            usual: How soon somebody with the most relevant disease is usually seen. It can raise the level
                to `urgent`, not to `emergency`; without red flags and without it the level is `routine`.
            lang: Language of the texts.

        Returns:
            The level, the rules that were met with the words that met them, what to do, and where.
        """
        affirmed = self._affirmed(text)
        met = [(rule, quotes) for rule in self._rules if (quotes := _meets(rule, affirmed)) is not None]
        if met:
            level: Level = min((rule.level for rule, _ in met), key=_LEVELS.index)
            met.sort(key=lambda item: _LEVELS.index(item[0].level))
            advice = " ".join(dict.fromkeys(rule.advice[lang] for rule, _ in met if rule.level == level))
        else:
            level = "routine" if usual is None else max(usual, "urgent", key=_LEVELS.index)
            advice = _ADVICE[level][lang]
        return Triage(
            level=level,
            reasons=[Reason(rule=rule.id, text=rule.reason[lang], quotes=quotes) for rule, quotes in met],
            advice=advice,
            departments=list(dict.fromkeys(rule.department for rule, _ in met)),
        )

    def _affirmed(self, text: str) -> dict[str, str]:
        """Return what is affirmed in the text: term, pattern or context → the patient's words for it."""
        plain, offsets = plain_form(text)
        terms = self._lexicon.find(text)
        found = status_of(text, terms)
        for pattern, compiled in self._patterns.items():
            matches = [
                Mention(pattern, offsets[match.start()], offsets[match.end() - 1] + 1, opposite=False)
                for match in compiled.finditer(plain)
                if match.end() > match.start() and not _gap_denies(pattern, match.group())
            ]
            if matches:
                around = sorted([*matches, *_clear_of(matches, terms, len(text))], key=lambda m: m.start)
                found += [finding for finding in status_of(text, around) if finding.term == pattern]
        affirmed = {f.term: text[f.start : f.end] for f in found if f.status in ("present", "possible")}
        for name, who in _CONTEXTS.items():
            if match := who.search(plain):
                affirmed[name] = text[offsets[match.start()] : offsets[match.end() - 1] + 1]
        return affirmed


def _gap_denies(pattern: str, words: str) -> bool:
    """Return whether a gap of the pattern took in a denial: `耳后.{0,8}红` in 耳后没有红."""
    return denied_within(words) and not denied_within(re.sub(r"\[\^[^\]]*\]|\W", " ", pattern))


def _clear_of(matches: Sequence[Mention], terms: Sequence[Mention], length: int) -> list[Mention]:
    """Return the terms that overlap none of the matches."""
    taken = bytearray(length)
    for match in matches:
        taken[match.start : match.end] = b"\1" * (match.end - match.start)
    return [term for term in terms if not any(taken[term.start : term.end])]


def _meets(rule: RedFlag, affirmed: Mapping[str, str]) -> list[str] | None:
    """Return the words that meet the rule, in the order of its groups, or `None` if it is not met."""
    if any(alternative in affirmed for alternative in rule.unless):
        return None
    quotes = []
    for group in rule.when:
        said = next((affirmed[alternative] for alternative in group if alternative in affirmed), None)
        if said is None:
            return None
        quotes.append(said)
    return list(dict.fromkeys(quotes))


@functools.cache
def default_red_flags() -> RedFlags:
    """Return the bundled rules over the bundled lexicon; read once."""
    return RedFlags.load(default_lexicon())
