"""How soon somebody must be seen: red-flag rules on what the patient affirms, before any ranking and any model."""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from langchain_bge_medical.clinical.alarm import Alarm, default_alarm
from langchain_bge_medical.clinical.context.before import denied_within
from langchain_bge_medical.clinical.demographics import Patient, patient_of
from langchain_bge_medical.clinical.folding import fold_pattern, folded
from langchain_bge_medical.clinical.lexicon import Lang, SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.mentions import mentions_of
from langchain_bge_medical.clinical.needed_words import PatternSieve
from langchain_bge_medical.clinical.numbers import Measurement, measurements
from langchain_bge_medical.clinical.polarity import AFFIRMED, Reading, affirms_nothing

Level = Literal["emergency", "urgent", "routine", "self_care"]

_DEFAULT = Path(__file__).parents[1] / "resources" / "red_flags.json"
_LEVELS: tuple[Level, ...] = ("emergency", "urgent", "routine", "self_care")

# Who the patient is, where an age is not told. Wider than `patient_of`: a rule is better asked once too often.
_CONTEXTS = {
    "@young_infant": re.compile(
        r"新生儿|没满月|未满月|刚满月|刚出生|月子里的(?:娃|宝|孩)|newborn"
        r"|(?:宝宝|娃娃?|孩子|儿子|女儿|小孩|囡囡|毛毛)(?:才|刚|生下来|出生)(?:到|了|才|刚)?(?:\d{1,2}|[一二三四五六七八九十两]{1,3})天"
        r"|(?:出生|生下来)(?:才|刚|了|到)?(?:\d{1,2}|[一二三四五六七八九十两]{1,3})天"
        r"|\d{1,2}[- ]days?[- ]old"
        r"|(?<!没)(?<!未)满月(?:的)?(?:宝|娃|孩|婴)|(?:[一二两12]|一两)个?月(?:大|不到|多)?的?(?:宝|娃|婴|孩|小|女儿|儿子)"
        r"|(?:他|她|才)(?:才|刚)?(?:\d{1,2}|[一二三四五六七八九十]{2,3})天,?(?=[^,]{0,2}(?:发|烧|不))"
        r"|(?:\d{1,2}|[一二三四五六七八九十两]{1,3})天(?:大)?的(?:小)?(?:娃|宝|婴|孩)"
        r"|(?:[一二三四五六七八九]|\d)周(?:大)?的?(?:宝|娃|婴|孩)|\d{1,2}[- ]?(?:wks?|weeks?)[- ]?old"
        r"|(?:one|two|three|four|five|six|seven|eight|nine|ten)[- ]weeks?[- ]old"
    ),
    "@infant": re.compile(
        r"新生儿|婴儿|刚出生|满月|奶娃|月子里的(?:娃|宝|孩)|newborn|infant|months?[- ]old|weeks?[- ]old|\bmy baby\b"
    ),
    "@child": re.compile(
        r"孩子|宝宝|[小大二]宝|小孩|娃|儿子|女儿|闺女|囡|孙子|孙女|小朋友|幼儿|\bchild\b|\bkid\b|\btoddler\b"
        r"|\bmy (?:son|daughter|baby)\b"
        r"|years?[- ]old (?:boy|girl|son|daughter)"
    ),
    # Besides what `patient_of` says: weeks, which in an adult are a pregnancy's, and what only happens in one.
    "@pregnant": re.compile(
        r"(?<![没备未])(?:破水|羊水|宫缩|临产|预产期|待产|产妇)|(?<!备)孕(?:妇|晚期|中期)"
        r"|(?<![备避不])孕(?:[一二三四五六七八九]|\d)个?月|大肚子(?=[^。]{0,4}(?:摔|撞|流|出血|破水))"
        r"|(?:[23]\d|[二三四]十[一二三四五六七八九]?)周(?!岁|年)(?=.{0,20}(?:宝宝|肚|下面|血|见红|胎|动|踢|水|头|眼|肿))"
        r"|\b(?:[12]\d|3\d|4[0-2]) ?(?:weeks|wks)\b(?! ago| old|-old| of| post| after| since| later| now with)"
        r"|\b(?:waters? broke|my waters|contractions|in labou?r|due date)\b"
    ),
    "@elderly": re.compile(
        r"老人|老爷子|老太太|老头|爷爷|奶奶|外公|外婆|姥姥|姥爷|阿婆|阿公|[六七八九]十(?:多|几|来)?岁"
        r"|elderly|grand(?:ma|pa|mother|father)"
    ),
}
_VALUE = re.compile(r"#(?P<kind>temperature|systolic|glucose|pulse|oxygen|breaths)(?P<sign>>=|<=|>|<)(?P<value>[\d.]+)")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

# Short hands in the patterns of the rule file. A gap holds no denial: 胸口…痛 does not read 胸口不痛.
_GAPS = (
    ("………", r"[^。;!?\n]{0,40}"),
    ("……", r"[^。;!?\n]{0,20}"),
    ("…", r"[^,。;!?\n没不无未]{0,8}"),
    ("‥‥", r"[^.;!?\n]{0,50}"),
    ("‥", r"[^.,;!?\n]{0,30}"),
)
# Log-odds from which on words are an emergency without a rule, and below which a rule has likely met a question or a
# story: chosen on writers whom neither the rules nor the model knew (`training.alarm` prints what that gives).
_LOUD, _CALM = 0.0, -2.2
_SHORTEST_STORY = 12  # units of a text that may take a rule back: 孩子误食老鼠药 says all in seven
_BY_EAR, _EMERGENCY_DEPARTMENT = "sounds-like-an-emergency", "急诊科"
_SOUNDS: Mapping[Lang, str] = {
    "zh": "这些话听起来像急症;请由急诊医生判断。",
    "en": "These words sound like an emergency; let an emergency doctor decide.",
}
_IF_NOW: Mapping[Lang, str] = {
    "zh": "如果现在有人正是这样,请立即拨打120或前往最近的急诊。",
    "en": "If somebody is like this now, call an ambulance (120 in China) or go to the nearest emergency department.",
}
_FRAGMENT = re.compile(r"<([^<>=!]+)>")

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
    """Groups; one alternative of each must be affirmed. An alternative is a term of the lexicon, a concept of the
    rule file (`$胸痛`), a pattern on the folded text (`~口唇…发[紫青]`), a value (`#temperature>=39`), or who the
    patient is (`@young_infant @infant @child @pregnant @elderly`)."""
    unless: tuple[str, ...] = ()
    """Alternatives that stop the rule. Terms must be affirmed; patterns need only occur."""
    reason: dict[Lang, str]
    advice: dict[Lang, str]
    department: str
    source: str
    always: bool = False
    """Whether it stands however calm the words sound: who speaks of dying may sound calm."""


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

    def __init__(
        self,
        rules: Iterable[RedFlag],
        lexicon: SymptomLexicon,
        concepts: Mapping[str, Sequence[str]] | None = None,
        fragments: Mapping[str, str] | None = None,
        alarm: Alarm | None = None,
    ) -> None:
        """Check the rules against the lexicon.

        Args:
            rules: The rules.
            lexicon: Terms that the rules may name.
            concepts: Name → alternatives, for use as `$name`.
            fragments: Name → regular expression, for use as `<name>` in patterns.
            alarm: Hears emergencies in words that no rule knows, and that a rule has met a mere question. Without one
                the rules stand alone.

        Raises:
            ValueError: If a rule or concept names a term, concept, context or fragment that there is not, or
                holds a bad regular expression.
        """
        self._rules = list(rules)
        self._lexicon = lexicon
        self._concepts = dict(concepts or {})
        self._fragments = dict(fragments or {})
        self._alarm = alarm
        self._patterns: dict[str, re.Pattern[str]] = {}
        for name, alternatives in self._concepts.items():
            for alternative in alternatives:
                self._check(f"concept {name}", alternative)
        for rule in self._rules:
            for alternative in (*(a for group in rule.when for a in group), *rule.unless):
                self._check(f"red flag {rule.id}", alternative)

    def _check(self, owner: str, alternative: str) -> None:
        kind = alternative[:1]
        if kind == "~":
            try:
                self._patterns[alternative] = re.compile(_expand(alternative[1:], self._fragments))
            except (re.error, KeyError) as error:
                raise ValueError(f"{owner}: {alternative!r} is no regular expression: {error}") from None
        elif kind == "$":
            if alternative[1:] not in self._concepts:
                raise ValueError(f"{owner}: {alternative!r} is no concept of the rule file")
        elif kind == "@":
            if alternative not in _CONTEXTS:
                raise ValueError(f"{owner}: {alternative!r} is none of {', '.join(_CONTEXTS)}")
        elif kind == "#":
            if not _VALUE.fullmatch(alternative):
                raise ValueError(f"{owner}: {alternative!r} is no value such as #temperature>=39")
        elif alternative not in self._lexicon.entries:
            raise ValueError(f"{owner}: {alternative!r} is not in the symptom lexicon")

    @classmethod
    def load(cls, lexicon: SymptomLexicon, path: Path = _DEFAULT, *, alarm: Alarm | None = None) -> RedFlags:
        """Read a rule file: a JSON object of `fragments`, `concepts` and `rules`."""
        raw = json.loads(path.read_text("utf-8"))
        return cls(map(RedFlag.model_validate, raw["rules"]), lexicon, raw["concepts"], raw["fragments"], alarm)

    def triage(
        self,
        text: str,
        *,
        usual: Level | None = None,
        lang: Lang = "zh",
        reading: Reading | None = None,
        patient: Patient | None = None,
    ) -> Triage:
        """Return how soon the patient must be seen.

        Red flags decide about emergency; findings that are denied, past or somebody else's do not count, suspected
        ones do. Words that meet none but sound like an emergency are one; rules that are met by what sounds like no
        patient at all make it `urgent`, with what to do if it is happening.

        Args:
            text: The patient's words.
            usual: How soon somebody with the most relevant disease is usually seen. It can raise the level
                to `urgent`, not to `emergency`; without red flags and without it the level is `routine`.
            lang: Language of the texts.
            reading: What was read from `text` before, to save the time.
            patient: Who it is, if that is known.

        Returns:
            The level, the rules that were met with the words that met them, what to do, and where.
        """
        reading = reading or Reading(text, mentions_of(text, self._lexicon))
        facts = _Facts(text, reading, patient or patient_of(text), self._patterns, self._concepts)
        no_patient = "不是病人" in self._concepts and facts.occurs("$不是病人")
        rules = () if no_patient else self._rules
        met = [(rule, quotes) for rule in rules if (quotes := _meets(rule, facts)) is not None]
        met.sort(key=lambda item: _LEVELS.index(item[0].level))
        reasons = [Reason(rule=rule.id, text=rule.reason[lang], quotes=quotes) for rule, quotes in met]
        departments = [rule.department for rule, _ in met]
        level: Level | None = met[0][0].level if met else None
        advice = " ".join(dict.fromkeys(rule.advice[lang] for rule, _ in met if rule.level == level))
        if self._alarm is not None and not no_patient:
            heard = self._alarm.hear(text)
            # Runs of characters do not know what 没有 does: of words that only deny, nothing is heard.
            if level != "emergency" and heard.log_odds > _LOUD and not affirms_nothing(text, reading.findings):
                reasons = [Reason(rule=_BY_EAR, text=_SOUNDS[lang], quotes=[heard.quote]), *reasons]
                departments = [_EMERGENCY_DEPARTMENT, *departments]
                level, advice = "emergency", _ADVICE["emergency"][lang]
            elif (
                level == "emergency"
                and heard.log_odds < _CALM
                and heard.units >= _SHORTEST_STORY
                and not any(rule.always for rule, _ in met)
            ):
                level, advice = "urgent", _IF_NOW[lang]
        if level is None:
            return usual_triage(usual, lang)
        return Triage(level=level, reasons=reasons, advice=advice, departments=list(dict.fromkeys(departments)))


def usual_triage(usual: Level | None, lang: Lang = "zh") -> Triage:
    """Return what goes without red flags: the usual urgency of the most relevant disease, but no emergency.

    Args:
        usual: A disease's urgency; `None`, or what is no level, is `routine`.
        lang: Language of the texts.
    """
    level = max(usual, "urgent", key=_LEVELS.index) if usual in _LEVELS else "routine"
    return Triage(level=level, advice=_ADVICE[level][lang])


class _Facts:
    """What is affirmed in a text, looked up when a rule first asks for it."""

    def __init__(
        self,
        text: str,
        reading: Reading,
        patient: Patient,
        patterns: Mapping[str, re.Pattern[str]],
        concepts: Mapping[str, Sequence[str]],
    ) -> None:
        self._text = text
        self._plain, self._offsets = _heard(text)
        self._sieve = PatternSieve(self._plain)
        self._reading = reading
        self._patient = patient
        self._patterns = patterns
        self._concepts = concepts
        self._known: dict[str, str | None] = {
            f.term: text[f.start : f.end] for f in reading.findings if f.status in AFFIRMED
        }
        self._affirmed_spans: dict[tuple[int, int], bool] = {}

    @functools.cached_property
    def _values(self) -> list[Measurement]:
        return measurements(self._plain)

    def quote(self, alternative: str) -> str | None:
        """Return the patient's words for an alternative, or `None` if they do not affirm it."""
        if alternative not in self._known:
            find = {"~": self._pattern, "$": self._concept, "@": self._context, "#": self._value}
            look = find.get(alternative[:1])
            self._known[alternative] = look(alternative) if look else None
        return self._known[alternative]

    def occurs(self, alternative: str) -> bool:
        """Return whether an exception is there."""
        if alternative.startswith("~"):
            return next(self._sieve.finditer(self._patterns[alternative]), None) is not None
        return self.quote(alternative) is not None

    def _pattern(self, pattern: str) -> str | None:
        for match in self._sieve.finditer(self._patterns[pattern]):
            if _is_word(match) and not _gap_denies(pattern, match.group()):
                start, end = self._span(match)
                if (start, end) not in self._affirmed_spans:
                    self._affirmed_spans[start, end] = self._reading.status(start, end) in AFFIRMED
                if self._affirmed_spans[start, end]:
                    return self._text[start:end]
        return None

    def _concept(self, name: str) -> str | None:
        self._known[name] = None  # a concept that names itself is not there
        return next((said for a in self._concepts[name[1:]] if (said := self.quote(a)) is not None), None)

    def _context(self, name: str) -> str | None:
        patient = self._patient
        age = patient.age
        holds = {
            "@young_infant": age is not None and age < 0.25,
            "@infant": age is not None and age < 1,
            "@child": age is not None and age < 14,
            "@pregnant": patient.pregnant,
            "@elderly": patient.elderly,
        }[name]
        match = _CONTEXTS[name].search(self._plain)
        if match and not (name == "@child" and (patient.pregnant or (age is not None and age >= 18))):
            return self._text[slice(*self._span(match))]
        return "" if holds else None  # known from an age, which is not quoted

    def _value(self, alternative: str) -> str | None:
        wanted = _VALUE.fullmatch(alternative)
        assert wanted is not None  # noqa: S101 - checked when the rules were read
        for value in self._values:
            kind = "systolic" if value.kind == "blood_pressure" else value.kind
            if kind == wanted["kind"] and _SIGNS[wanted["sign"]](value.value, float(wanted["value"])):
                return self._text[self._offsets[value.start] : self._offsets[value.end - 1] + 1]
        return None

    def _span(self, match: re.Match[str]) -> tuple[int, int]:
        return self._offsets[match.start()], self._offsets[match.end() - 1] + 1


_STOPS = str.maketrans("，；？！", ",;?!")


def _heard(text: str) -> tuple[str, Any]:
    """Return what the patterns are matched against: the folded text with plain punctuation."""
    plain, offsets = folded(text)
    return plain.translate(_STOPS), offsets


def _expand(pattern: str, fragments: Mapping[str, str]) -> str:
    """Return the regular expression that a pattern of the rule file stands for."""
    for _ in range(3):  # a fragment may hold a fragment
        pattern = _FRAGMENT.sub(lambda match: f"(?:{fragments[match[1]]})", pattern)
    for short, long in _GAPS:
        pattern = pattern.replace(short, long)
    return fold_pattern(pattern)


def _is_word(match: re.Match[str]) -> bool:
    """Return whether a match is not empty and does not begin inside an English word: `raped` in "scraped"."""
    start = match.start()
    inside = start > 0 and "a" <= match.string[start - 1] <= "z" and "a" <= match.string[start] <= "z"
    return match.end() > start and not inside


def _gap_denies(pattern: str, words: str) -> bool:
    """Return whether a gap of the pattern took in a denial: `耳后.{0,8}红` in 耳后没有红."""
    return not _holds_denial(pattern) and denied_within(words)


@functools.cache
def _holds_denial(pattern: str) -> bool:
    return denied_within(re.sub(r"\[\^[^\]]*\]|\W", " ", pattern))


def _meets(rule: RedFlag, facts: _Facts) -> list[str] | None:
    """Return the words that meet the rule, in the order of its groups, or `None` if it is not met."""
    quotes = []
    for group in rule.when:
        said = next((quote for alternative in group if (quote := facts.quote(alternative)) is not None), None)
        if said is None:
            return None
        quotes.append(said)
    if any(facts.occurs(alternative) for alternative in rule.unless):
        return None
    return [quote for quote in dict.fromkeys(quotes) if quote]


@functools.cache
def default_red_flags() -> RedFlags:
    """Return the bundled rules over the bundled lexicon, with the bundled alarm; read once."""
    return RedFlags.load(default_lexicon(), alarm=default_alarm())
