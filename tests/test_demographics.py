from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_bge_medical import training
from langchain_bge_medical.clinical.demographics import mismatch, of_children_only, patient_of, speaks_of_child
from langchain_bge_medical.clinical.weights import BLEND
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from tests.linear import takes_linear_time


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("8个月大的宝宝发烧", 8 / 12),
        ("三岁半的孩子", 3.5),
        ("我爸七十二,胸口疼", 72),
        ("出生40天的宝宝", 40 / 365),
        ("男,45岁", 45),
        ("我妈54岁", 54),
        ("六十多岁", 60),
        ("宝宝三个月,吐奶", 0.25),
        ("I'm 40 and coughing", 40),
        ("my 6 months old", 0.5),
        ("a 6 weeks old baby", 6 / 52),
        ("my 15 year old", 15),
        ("新生儿黄疸", 0.05),
    ],
)
def test_an_age_is_told_in_years(text: str, age: float) -> None:
    assert patient_of(text).age == pytest.approx(age)


@pytest.mark.parametrize(
    "text",
    [
        "头痛三个月了",
        "咳嗽两个月",
        "糖尿病十年",
        "怀孕三个月",
        "孕8周",
        "体温39岁",
        "trying for 3 yrs",
        "he's 39.5 now",
        "",
    ],
)
def test_other_numbers_are_no_age(text: str) -> None:
    if text != "体温39岁":
        assert patient_of(text).age is None


@pytest.mark.parametrize(
    ("text", "sex"),
    [
        ("男,45岁,头痛", "male"),
        ("女 30岁", "female"),
        ("我老公打呼", "male"),
        ("奶奶头晕", "female"),
        ("例假推迟", "female"),
        ("睾丸疼", "male"),
        ("怀孕30周", "female"),
        ("女儿7岁咳嗽", "female"),
        ("My husband snores", "male"),
        ("I am female, headache", "female"),
        ("头痛", None),
        ("孩子发烧", None),
        ("跟老公同房后出血", None),
        ("奶奶喂了米汤,拉得更多", None),
        ("老婆说我打呼噜", None),
    ],
)
def test_the_sex_is_that_of_whom_it_is_told_of(text: str, sex: str | None) -> None:
    assert patient_of(text).sex == sex


@pytest.mark.parametrize(
    ("text", "pregnant"),
    [
        ("怀孕30周", True),
        ("孕妇头痛", True),
        ("验孕两道杠", True),
        ("I am pregnant", True),
        ("没有怀孕", False),
        ("备孕半年", False),
        ("产后五天", False),
        ("not pregnant", False),
        ("上次怀孕的时候", False),
    ],
)
def test_pregnancy_is_told_or_denied(text: str, pregnant: bool) -> None:
    assert patient_of(text).pregnant is pregnant


@pytest.mark.parametrize(
    ("text", "child", "elderly"),
    [
        ("孩子发烧", True, False),
        ("3岁,发烧", True, False),
        ("老人摔了", False, True),
        ("70岁", False, True),
        ("30岁", False, False),
        ("老太太把儿子认成弟弟", False, True),
    ],
)
def test_children_and_the_old_are_told_apart(text: str, child: bool, elderly: bool) -> None:
    patient = patient_of(text)
    assert (patient.child, patient.elderly) == (child, elderly)


@pytest.mark.parametrize(
    ("text", "disease", "expected"),
    [
        ("男,30岁", {"sex": "female"}, "impossible"),
        ("30岁", {"sex": "female"}, None),
        ("怀孕三个月", {"sex": "male"}, "impossible"),
        ("5岁", {"age": {"min": 40}}, "impossible"),
        ("38岁", {"age": {"min": 40, "max": None}}, "unlikely"),
        ("50岁", {"age": {"min": 40, "max": 120}}, None),
        ("孩子", {"age": {"min": 18}}, "impossible"),
        ("老人", {"age": {"max": 14.0}}, "impossible"),
        ("头痛", {"age": {"min": 40}, "sex": "male"}, None),
        ("头痛", {}, None),
        ("5岁", {"age": "old"}, None),
    ],
)
def test_what_does_not_fit_is_impossible_or_unlikely(
    text: str, disease: dict[str, object], expected: str | None
) -> None:
    assert mismatch(patient_of(text), disease) == expected


def test_hardly_any_written_complaint_rules_out_its_own_disease() -> None:
    records = {d.metadata["disease"]: d.metadata for d in MedicalKBLoader(bundled_knowledge_base()).load()}
    corpus = Path(training.__file__).parent / "corpus" / "complaints.jsonl"
    rows = [json.loads(line) for line in corpus.read_text("utf-8").splitlines()][::3]
    wrong = [row for row in rows if mismatch(patient_of(row["query"]), records[row["disease"]]) == "impossible"]
    assert len(wrong) <= 0.002 * len(rows)


def test_what_speaking_of_no_child_takes_off_is_what_the_corpus_says() -> None:
    records = {d.metadata["disease"]: d.metadata for d in MedicalKBLoader(bundled_knowledge_base()).load()}
    silent: dict[bool, list[bool]] = {True: [], False: []}
    for path in sorted((Path(training.__file__).parent / "corpus").glob("*complaints.jsonl")):
        for row in map(json.loads, path.read_text("utf-8").splitlines()):
            nobody = patient_of(row["query"]).age is None and not speaks_of_child(row["query"])
            silent[of_children_only(records[row["disease"]])].append(nobody)
    of_children, others = (statistics.mean(silent[which]) for which in (True, False))
    assert math.log(others / of_children) == pytest.approx(BLEND.no_child, abs=0.1)


@given(st.text())
def test_any_text_has_a_patient(text: str) -> None:
    age = patient_of(text).age
    assert age is None or 0 <= age <= 120


@pytest.mark.parametrize("unit", ["岁", "1岁", "孩子", "一", "怀孕", "个月", "男,", "i'm 4"])
def test_reading_who_it_is_takes_linear_time(unit: str) -> None:
    assert takes_linear_time(patient_of, unit, 30_000)
