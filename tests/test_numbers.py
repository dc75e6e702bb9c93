from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_bge_medical.clinical.lexicon import plain_form
from langchain_bge_medical.clinical.numbers import durations, measurements, to_number
from tests.linear import takes_linear_time

HAN = "零一二三四五六七八九"


def in_words(number: int) -> str:
    """How a whole number under 1,000 is said, for comparison: 305 is 三百零五, 12 is 十二."""
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    words = f"{HAN[hundreds]}百" if hundreds else ""
    if tens:
        words += ("" if tens == 1 and not hundreds else HAN[tens]) + "十"
    elif hundreds and ones:
        words += "零"
    return words + (HAN[ones] if ones or not words else "")


@given(st.integers(0, 999))
def test_chinese_numerals_say_what_arabic_ones_do(number: int) -> None:
    assert to_number(in_words(number)) == to_number(str(number)) == number


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("一百八", 180),
        ("二百二", 220),
        ("两百", 200),
        ("三十八点五", 38.5),
        ("38.5", 38.5),
        ("俩", 2),
        ("一百零八", 108),
    ],
)
def test_spoken_numbers(words: str, number: float) -> None:
    assert to_number(words) == number


@pytest.mark.parametrize("words", ["", "点五", "三点", "abc", "三x"])
def test_what_is_no_number_is_none(words: str) -> None:
    assert to_number(words) is None


def values(text: str) -> list[tuple[str, float]]:
    return [(m.kind, m.value) for m in measurements(plain_form(text)[0])]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("烧到39度5", 39.5),
        ("三十九度", 39.0),
        ("三十八度七", 38.7),
        ("三十七度八九", 37.8),
        ("38度多", 38.5),
        ("39度8一直不下", 39.8),
        ("38度几", 38.5),
        ("38度五六天了", 38.0),
        ("发烧38℃", 38.0),
        ("体温37.2", 37.2),
        ("烧到三十九度八", 39.8),
        ("体温三十八点五", 38.5),
        ("烧到39", 39.0),
        ("38度半", 38.5),
        ("fever of 102", 38.9),
        ("temp was 38.2", 38.2),
        ("101.3F fever", 38.5),
        ("39 degrees celsius, fever", 39.0),
    ],
)
def test_a_temperature_is_told_in_degrees_celsius(text: str, value: float) -> None:
    assert values(text) == [("temperature", value)]


def test_once_a_fever_was_spoken_of_a_bare_number_with_a_tenth_is_a_temperature() -> None:
    assert values("早上量38.2，吃了药下午36.8") == [("temperature", 38.2), ("temperature", 36.8)]


@pytest.mark.parametrize("text", ["今天天气38度", "气温三十九度", "40度白酒", "我38岁", "38天了", "近视400度", "39周"])
def test_other_degrees_and_numbers_are_no_temperature(text: str) -> None:
    assert values(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("血压180/110", [("blood_pressure", 180)]),
        ("血压一百八", [("systolic", 180)]),
        ("BP 150 over 95", [("blood_pressure", 150)]),
        ("高压170", [("systolic", 170)]),
        ("血糖16.7", [("glucose", 16.7)]),
        ("血糖 300 mg/dl", [("glucose", 16.7)]),
        ("血氧88", [("oxygen", 88)]),
        ("心率130", [("pulse", 130)]),
        ("心跳一百二", [("pulse", 120)]),
        ("呼吸一分钟40次", [("breaths", 40)]),
        ("血压150/95,心率90,体温38.5", [("blood_pressure", 150), ("pulse", 90), ("temperature", 38.5)]),
    ],
)
def test_other_values_are_read_in_one_unit(text: str, found: list[tuple[str, float]]) -> None:
    assert values(text) == found


def test_the_diastolic_pressure_is_kept() -> None:
    assert measurements("血压180/110")[0].second == 110


@pytest.mark.parametrize("text", ["血压500/300", "心率900", "血氧5", "体温60度", "血压110/180"])
def test_what_no_human_has_is_not_read(text: str) -> None:
    assert values(text) == []


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("咳嗽三天", 3),
        ("两周了", 14),
        ("半年", 182.5),
        ("一个半月", 45),
        ("3个月", 90),
        ("十几天", 14),
        ("半小时", 0.5 / 24),
        ("for three days", 3),
        ("a few weeks", 21),
        ("两年多", 730),
    ],
)
def test_a_span_of_time_is_told_in_days(text: str, days: float) -> None:
    assert [d.days for d in durations(text)] == [pytest.approx(days)]


@pytest.mark.parametrize("text", ["我3岁", "周末", "日常", "头痛", "三月份"])
def test_an_age_or_a_date_is_no_span(text: str) -> None:
    assert durations(text) == []


@given(st.text())
def test_every_value_and_span_stands_in_any_text(text: str) -> None:
    plain = plain_form(text)[0]
    end = 0
    for measured in measurements(plain):
        assert end <= measured.start < measured.end <= len(plain)
        end = measured.end
    for span in durations(plain):
        assert 0 <= span.start < span.end <= len(plain)


@pytest.mark.parametrize("unit", ["39", "一", "血压1", "烧到3", "38.", "9/", "半", "体温"])
def test_reading_numbers_takes_linear_time(unit: str) -> None:
    assert takes_linear_time(measurements, unit, 50_000)
    assert takes_linear_time(durations, unit, 50_000)
