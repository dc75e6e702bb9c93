"""Numbers in a patient's words: temperature, blood pressure, glucose, pulse, oxygen, durations, each in one unit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["temperature", "blood_pressure", "systolic", "glucose", "pulse", "oxygen", "breaths"]

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "俩": 2, "幺": 1}
_UNITS = {"十": 10, "百": 100, "千": 1000}

_HAN = "零〇一二两俩三四五六七八九十百"
_NUMBER = rf"(?:\d{{1,4}}(?:\.\d{{1,2}})?|[{_HAN}]{{1,6}}(?:点[{_HAN}]{{1,2}})?)"

# 39度5, 三十九度, 38.5℃, 39 degrees, 102F; a bare number only where fever or the thermometer is spoken of.
_TEMPERATURE = re.compile(
    rf"(?<![\d.])(?P<whole>3[4-9]|4[0-3]|[三四]十[{_HAN}]?)"
    rf"(?:(?:\.|点)(?P<tenth>[\d{_HAN}])\d?\s*(?:度|℃|°\s*c?|c\b|摄氏度|degrees?)?"
    r"|\s*(?:度|℃|°\s*c?|c\b|摄氏度|degrees?(?:\s*c\b"
    rf"|\s*celsius)?)(?:(?P<after>[\d{_HAN}])(?:(?<=[{_HAN}])(?!四肢)[二三四五六七八九])?(?!(?!一直)[\d{_HAN}天岁周年个斤月小次])|(?P<half>半"
    r"|[多几](?!天)))?)"  # 37度多, 三十七度五六
)
_BARE_TEMPERATURE = re.compile(
    r"(?:烧(?:到|了|的|起来)?|体温|温度|热度|量(?:了|出|的|是)?|temp(?:erature)?(?: (?:is|was|of))?"
    r"|fever(?: of| is| was)?)"
    rf"[^\d,。;、一二三四五六七八九十]{{0,6}}(?P<bare>(?:3[5-9]|4[0-2])(?:\.\d{{1,2}})?"
    rf"|[三四]十[一二三四五六七八九]?(?:点[{_HAN}])?)"
    rf"(?![\d/度℃°.天岁周年个斤月小次多])"
)
# Once a fever or a thermometer was spoken of: 早上38.2,下午36.8.
_LOOSE_TEMPERATURE = re.compile(
    r"(?<![\d./])(?:3[5-9]|4[01])\.\d(?![\d%/.]|\s*(?:cm|kg|mm|公斤|斤|厘米|块|元|万|周|岁|倍))"
)
_FEVER_SPOKEN_OF = re.compile(r"烧|热|体温|温度|布洛芬|美林|量(?:了|出|的|是|着)?\s?3\d|fever|temp|thermometer")
_FAHRENHEIT = re.compile(
    r"(?<![\d.])(?P<f>9[6-9](?:\.\d)?|10[0-7](?:\.\d)?)\s*(?:°\s*f\b|f\b|degrees f|fahrenheit|℉|华氏度|degrees)"
    r"|(?:fever|temp(?:erature)?)[^.,;\d]{0,14}(?P<f2>9[7-9]\.\d|10[0-7](?:\.\d)?)(?![\d/%])"
)
_WEATHER = re.compile(r"天气|气温|室温|外面|户外|水温|空调|酒|烤箱|白酒|近视|散光|weather|outside|oven")
_PRESSURE = re.compile(
    rf"(?:(?:血压|blood pressure|\bbp\b)[^\d,。;、]{{0,8}})?(?<![\d.])(?P<high>[6-9]\d|1\d\d"
    r"|2[0-7]\d)\s*(?:/|over|\\)\s*(?P<low>[3-9]\d|1[0-6]\d)(?![\d/])"
    r"|(?:血压|高压|收缩压|blood pressure|systolic"
    rf"|\bbp\b)[^\d,。;、一二两{{}}]{{0,8}}(?P<only>(?<!\d)(?:[6-9]\d|1\d\d|2[0-7]\d)(?![\d/]| over)"
    rf"|[一二两]百[{_HAN}]{{0,3}})"
)
_GLUCOSE = re.compile(
    r"(?:血糖|glucose|blood sugar|sugar (?:is|was|reads?"
    rf"|level))[^\d,。;一二两三四五六七八九十]{{0,10}}(?P<n>{_NUMBER})(?P<unit>\s*(?:mg/?dl|毫克))?"
)
_PULSE = re.compile(
    rf"(?:心率|心跳|脉搏|脉率|heart ?rate|pulse)[^\d,。;一二两]{{0,10}}(?P<n>\d{{2,3}}(?!\d)|[一二]百[{_HAN}]{{0,3}})"
)
_OXYGEN = re.compile(
    rf"(?:血氧|氧饱和|指脉氧|spo2|oxygen|o2 sat)[^\d,。;六七八九]{{0,12}}(?P<n>\d{{2,3}}(?!\d)|[六七八九]十[{_HAN}]?)"
)
_BREATHS = re.compile(r"(?:呼吸|喘气|喘)[^\d,。;]{0,6}(?:一|每)?分钟?[^\d,。;]{0,4}(?P<n>\d{2,3})(?!\d)")

_DURATION = re.compile(
    rf"(?P<n>{_NUMBER}|半|好几|几|一两|两三|三四|七八|十几|十来)(?P<half>个半)?(?:多)?\s*(?:个)?(?:多)?(?P<half2>半)?"
    rf"(?P<unit>分钟|小时|钟头|天|日(?!本|常)|晚上|宿|夜|星期|礼拜|周(?![岁围末])|月(?![经份])|年)"
    rf"|(?P<en>\d{{1,3}}|a|an|one|two|three|four|five|six|seven|eight|nine|ten|several|a few|a couple of)\s+"
    rf"(?P<en_unit>minutes?|hours?|days?|nights?|weeks?|months?|years?)\b"
)
_DAYS = {
    **dict.fromkeys(("分钟", "minute"), 1 / 1440),
    **dict.fromkeys(("小时", "钟头", "hour"), 1 / 24),
    **dict.fromkeys(("天", "日", "晚上", "宿", "夜", "day", "night"), 1.0),
    **dict.fromkeys(("星期", "礼拜", "周", "week"), 7.0),
    **dict.fromkeys(("月", "month"), 30.0),
    **dict.fromkeys(("年", "year"), 365.0),
}
_VAGUE = {
    "半": 0.5,
    "好几": 4,
    "几": 4,
    "一两": 1.5,
    "两三": 2.5,
    "三四": 3.5,
    "七八": 7.5,
    "十几": 14,
    "十来": 10,
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "several": 4,
    "a few": 3,
    "a couple of": 2,
}


class Measurement(NamedTuple):
    """A value in a text: `text[start:end]` says it."""

    kind: Kind
    value: float
    """°C, mmHg (systolic), mmol/L, beats or breaths a minute, per cent."""
    start: int
    end: int
    second: float | None = None
    """The diastolic pressure, if told."""


class Duration(NamedTuple):
    """A span of time in a text, in days."""

    days: float
    start: int
    end: int


def to_number(words: str) -> float | None:
    """Return the number that numerals say: `38.5`, `三十九`, `一百八`, `三十八点五`; `None` for other words."""
    if re.fullmatch(r"\d+(?:\.\d+)?", words):
        return float(words)
    whole, point, tenths = words.partition("点")
    total, digit, unit = 0, None, 1
    for char in whole:
        if char in _DIGITS:
            digit = _DIGITS[char]
        elif char in _UNITS:
            unit = _UNITS[char]
            total += (1 if digit is None else digit) * unit
            digit = None
        else:
            return None
    if digit is not None:
        # 一百八 is 180, 一百零八 is 108.
        bare = len(whole) > 1 and whole[-2] in _UNITS and unit >= 100
        total += digit * (unit // 10 if bare else 1)
    if not whole:
        return None
    if point:
        if not tenths or any(char not in _DIGITS for char in tenths):
            return None
        return float(f"{total}.{''.join(str(_DIGITS[char]) for char in tenths)}")
    return float(total)


def measurements(plain: str) -> list[Measurement]:
    """Return the values in a text in order of occurrence.

    Args:
        plain: In plain form (`plain_form`); offsets count its characters.

    Returns:
        Values within what is possible in a human; a temperature of the weather is none.
    """
    found = sorted(
        itertools.chain(_temperatures(plain), _pressures(plain), _glucoses(plain), _rates(plain)),
        key=lambda m: (m.start, -m.end),
    )
    kept: list[Measurement] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


_HEAT = re.compile("烧|体温|热|fever|temp")


def _temperatures(plain: str) -> Iterator[Measurement]:
    weather, spoken_of = bool(_WEATHER.search(plain)), bool(_HEAT.search(plain))
    for match in _FAHRENHEIT.finditer(plain):
        celsius = (float(match["f"] or match["f2"]) - 32) / 1.8
        yield Measurement("temperature", round(celsius, 1), *match.span())
    for match in _TEMPERATURE.finditer(plain):
        whole = to_number(match["whole"])
        tenth = match["tenth"] or match["after"]
        value = (whole or 0) + (0.5 if match["half"] else (to_number(tenth) or 0) / 10 if tenth else 0)
        explicit = plain[match.end() - 1] in "度℃c°s" or match["after"] or match["half"]
        spoken = spoken_of and _HEAT.search(plain, max(0, match.start() - 12), match.end() + 8)
        if 34 <= value <= 43 and (spoken or (explicit and not weather)):
            yield Measurement("temperature", value, *match.span())
    for match in _BARE_TEMPERATURE.finditer(plain):
        said = to_number(match["bare"])
        if said is not None and 35 <= said <= 42.9 and not weather:
            yield Measurement("temperature", said, match.start("bare"), match.end("bare"))

    if not weather and _FEVER_SPOKEN_OF.search(plain):
        for match in _LOOSE_TEMPERATURE.finditer(plain):
            yield Measurement("temperature", float(match.group()), *match.span())


def _pressures(plain: str) -> Iterator[Measurement]:
    for match in _PRESSURE.finditer(plain):
        if match["only"]:
            said = to_number(match["only"])
            if said is not None and 60 <= said <= 280:
                yield Measurement("systolic", said, *match.span())
        elif float(match["low"]) < float(match["high"]):
            yield Measurement("blood_pressure", float(match["high"]), *match.span(), float(match["low"]))


def _glucoses(plain: str) -> Iterator[Measurement]:
    for match in _GLUCOSE.finditer(plain):
        said = to_number(match["n"])
        if said is not None:
            value = said / 18 if match["unit"] or said > 45 else said  # mg/dL, though it is not said
            if 0.5 <= value <= 80:
                yield Measurement("glucose", round(value, 1), *match.span())


def _rates(plain: str) -> Iterator[Measurement]:
    kinds: tuple[tuple[Kind, re.Pattern[str], float, float], ...] = (
        ("pulse", _PULSE, 20, 300),
        ("oxygen", _OXYGEN, 40, 100),
        ("breaths", _BREATHS, 4, 150),
    )
    for kind, pattern, low, high in kinds:
        for match in pattern.finditer(plain):
            said = to_number(match["n"])
            if said is not None and low <= said <= high:
                yield Measurement(kind, said, *match.span())


def durations(plain: str) -> list[Duration]:
    """Return the spans of time in a text, in days: `三天`, `两周`, `半年`, `10 minutes`.

    Args:
        plain: In plain form; offsets count its characters.

    Returns:
        In order of occurrence; an age (`3岁`) is none.
    """
    found = []
    for match in _DURATION.finditer(plain):
        words, unit = match["n"] or match["en"], match["unit"] or match["en_unit"].rstrip("s")
        amount = _VAGUE.get(words)
        if amount is None:
            amount = to_number(words)
        if amount is None:
            continue
        if match["half"] or match["half2"]:
            amount += 0.5
        found.append(Duration(amount * _DAYS[unit], *match.span()))
    return found
