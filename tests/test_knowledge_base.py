"""What becomes of one record: which field is which, how its text is cleaned, and what is refused."""

from __future__ import annotations

import itertools
import json
import pickle
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_bge_medical.knowledge_base import (
    FIELD_ALIASES,
    DiseaseRecord,
    KnowledgeBaseError,
    clean_text,
    listed,
    normalize_name,
    rename_fields,
)

BASE: dict[str, Any] = {"disease": "甲沟炎", "symptoms": "指甲旁红肿、跳痛", "description": "指甲边缘的感染。"}

# Pieces that cleaning is about, so that hypothesis meets their combinations.
PIECES = st.sampled_from(
    ["发热", "chest pain", " ", "\u00a0", "\u3000", "\t", "\r\n", "\x00", "\u200b", "\ufeff", "\ud800",
     "[详细]", "【更多】", "［查看详细］", "[", "]", "详细", "、", ",", ";", "。", "|", "'"]
)  # fmt: skip
MESSY_TEXT = st.lists(PIECES | st.text(max_size=4), max_size=8).map("".join)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | MESSY_TEXT | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["min", "max", "$oid"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
KNOWN_KEYS = st.sampled_from([spelling for spellings in FIELD_ALIASES.values() for spelling in spellings])


def record(**changes: object) -> DiseaseRecord:
    return DiseaseRecord.from_raw({**BASE, **changes})


def refusal(raw: dict[Any, Any], **options: Any) -> KnowledgeBaseError:
    with pytest.raises(KnowledgeBaseError) as caught:
        DiseaseRecord.from_raw(raw, **options)
    return caught.value


# --- the text that is embedded and reranked


def test_the_card_is_exactly_the_seeds_three_lines() -> None:
    assert record().card() == "疾病名称:甲沟炎\n症状表现:指甲旁红肿、跳痛\n简要描述:指甲边缘的感染。"


def test_a_symptom_string_stands_in_the_card_as_its_source_wrote_it() -> None:
    assert "\n症状表现:发热，咳嗽；咳痰\n" in record(symptoms="发热，咳嗽；咳痰").card()


@pytest.mark.parametrize("symptoms", [["发热", "咳嗽"], ("发热", "咳嗽"), "['发热', '咳嗽']", '["发热", "咳嗽"]'])
def test_a_symptom_list_stands_in_the_card_joined_by_enumeration_commas(symptoms: object) -> None:
    assert "\n症状表现:发热、咳嗽\n" in record(symptoms=symptoms).card()


# --- symptoms


@pytest.mark.parametrize(
    "symptoms",
    [
        ["发热", "咳嗽", "咳痰"],
        "发热、咳嗽、咳痰",
        "发热，咳嗽，咳痰",
        "发热,咳嗽,咳痰",
        "发热;咳嗽；咳痰",
        "发热|咳嗽|咳痰",
        "发热\n咳嗽\r\n咳痰",
        "发热 咳嗽  咳痰",
        "发热\u3000咳嗽\u00a0咳痰",
        "发热、咳嗽、咳痰。",
        "发热 咳嗽 咳痰。",
        "、发热、、咳嗽、 咳痰、",
        "发热、咳嗽、发热、咳痰",
        "发热、咳嗽、咳痰[详细]",
        "发热 咳嗽 咳痰 [详细]",
        "['发热', '咳嗽', '咳痰']",
        " [ '发热' , '咳嗽', ' 咳痰 ', '' ] ",
        '["发热", "咳嗽", "咳痰"]',
        json.dumps(["发热", "咳嗽", "咳痰"]),
    ],
)
def test_every_way_to_write_three_symptoms_gives_the_same_three(symptoms: object) -> None:
    assert record(symptoms=symptoms).symptoms == ("发热", "咳嗽", "咳痰")


@given(st.lists(st.text("发热咳嗽头痛ab1", min_size=1, max_size=4), min_size=1, max_size=5, unique=True))
def test_a_list_its_repr_its_json_and_its_joined_form_are_the_same_symptoms(findings: list[str]) -> None:
    ways = [findings, repr(findings), json.dumps(findings), "、".join(findings), "、".join(findings) + "。"]
    assert {record(symptoms=way).symptoms for way in ways} == {tuple(findings)}


@given(st.lists(st.text("发热咳嗽头痛ab1", min_size=1, max_size=4), min_size=1, max_size=5, unique=True))
def test_metadata_list_what_a_record_of_the_same_value_would(findings: list[str]) -> None:
    for way in (findings, tuple(findings), repr(findings), json.dumps(findings), "、".join(findings)):
        assert listed({"symptoms": way}, "symptoms") == record(symptoms=way).symptoms


@pytest.mark.parametrize("value", [None, 3, float("nan"), {"发热": 1}, "", "[]", [], [None, 3, ""], "[3, null]"])
def test_metadata_that_are_neither_text_nor_texts_list_nothing(value: object) -> None:
    assert listed({"symptoms": value}, "symptoms") == listed({}, "symptoms") == ()


def test_blanks_do_not_split_english_symptoms() -> None:
    assert record(symptoms="chest pain, shortness of breath").symptoms == ("chest pain", "shortness of breath")
    assert record(symptoms="chest pain").symptoms == ("chest pain",)


@pytest.mark.parametrize("field", ["aliases", "red_flags", "complications", "differentials", "sources"])
def test_blanks_split_neither_a_finding_with_a_number_nor_any_other_list(field: str) -> None:
    assert record(symptoms="体温 38.5 ℃ 以上").symptoms == ("体温 38.5 ℃ 以上",)
    for text in ("COVID-19 肺炎", "《内科学》 第9版"):
        assert getattr(record(**{field: text}), field) == listed({field: text}, field) == (text,)
        assert getattr(record(**{field: f"{text}；其他"}), field) == (text, "其他")
    assert record(department="呼吸 与 危重症医学科").department == "呼吸 与 危重症医学科"


def test_a_json_list_in_a_cell_is_read_as_json_with_its_escaped_slashes() -> None:
    assert record(symptoms=r'["咳嗽\/咳痰", "\u53d1\u70ed"]').symptoms == ("咳嗽/咳痰", "发热")


@pytest.mark.parametrize("text", ["[发热]咳嗽", "[发热", "[{[]: 1}]", "[发热]", "[f(1)]"])
def test_brackets_that_are_no_list_are_text(text: str) -> None:
    assert record(symptoms=text).symptoms == (text,)


@pytest.mark.parametrize("symptoms", ["", "  ", "\u3000", "、。", [], ["", " "], "[]", "['']", "[详细]"])
def test_symptoms_that_say_nothing_are_refused_as_empty(symptoms: object) -> None:
    error = refusal({**BASE, "symptoms": symptoms})
    assert (error.field, error.value) == ("symptoms", symptoms)
    assert "is empty" in str(error)


@pytest.mark.parametrize(
    ("symptoms", "culprit"),
    [(5, 5), ({"a": 1}, {"a": 1}), (["发热", 7], 7), ("['发热', 7]", 7), ([["发热"]], ["发热"])],
)
def test_symptoms_of_a_wrong_type_are_refused_with_the_culprit(symptoms: object, culprit: object) -> None:
    error = refusal({**BASE, "symptoms": symptoms})
    assert (error.field, error.value) == ("symptoms", culprit)
    assert f"(got {culprit!r})" in str(error)


def test_a_null_among_the_symptoms_is_refused() -> None:
    for symptoms in (["发热", None], '["发热", null]'):
        assert "field 'symptoms': must hold texts only" in str(refusal({**BASE, "symptoms": symptoms}))


# --- cleaning


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("急性\u00a0胃肠炎", "急性 胃肠炎"),
        ("\u3000\u3000多见于儿童。\u3000", "多见于儿童。"),
        ("一行\r\n两行\n\n三行\t四", "一行 两行 三行 四"),
        ("发\u200b热\x00\x07\x1f\x7f\x9f\u202e\u2066", "发热"),
        ("\ufeff发热", "发热"),
        ("发热\ud83d", "发热"),
        ("发热[详细]", "发热"),
        ("发热 【更多】 ", "发热"),
        ("发热［查看详细］\u3000", "发热"),
        ("发热[详细][详细]", "发热"),
        ("发热 [详细] [更多]", "发热"),
        ("[详细]说明", "[详细]说明"),
        ("体温［38.5］℃，ＣＴ：Ａ", "体温［38.5］℃，ＣＴ：Ａ"),
        ("", ""),
        ("[详细]", ""),
    ],
)
def test_cleaning_removes_what_cannot_be_seen_and_leaves_what_can(dirty: str, clean: str) -> None:
    assert clean_text(dirty) == clean


@given(MESSY_TEXT)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@given(MESSY_TEXT)
def test_clean_text_has_one_line_no_control_characters_and_can_be_encoded(text: str) -> None:
    clean = clean_text(text)
    assert clean == clean.strip()
    assert not {"\u00a0", "\u3000", "\n", "\t"} & set(clean)
    assert not [char for char in clean if unicodedata.category(char) in ("Cc", "Cs")]
    clean.encode()


def test_every_text_field_is_cleaned() -> None:
    dirty = "\u3000\u00a0甲\u200b乙\x00[详细]"
    names = ("disease", "symptoms", "description", "department", "age")
    lists = ("aliases", "red_flags", "complications", "differentials", "sources")
    built = record(**dict.fromkeys(names + lists, dirty))
    assert [getattr(built, name) for name in names] == ["甲乙", ("甲乙",), "甲乙", "甲乙", "甲乙"]
    assert [getattr(built, name) for name in lists] == [("甲乙",)] * 5
    assert built.symptoms_text == "甲乙"


@pytest.mark.parametrize(
    ("one", "other"),
    [("新冠 肺炎", "新冠肺炎"), ("ＣＯＶＩＤ－１９", "covid-19"), ("Crohn 病", "crohn病"), ("Ⅱ型糖尿病", "ii型糖尿病")],
)
def test_names_that_differ_in_width_case_or_blanks_are_one_name(one: str, other: str) -> None:
    assert normalize_name(one) == normalize_name(other)


def test_names_that_differ_in_a_character_are_two() -> None:
    assert normalize_name("1型糖尿病") != normalize_name("2型糖尿病")


# --- which field is which


@pytest.mark.parametrize(
    ("field", "spelling"), [(field, spelling) for field, row in FIELD_ALIASES.items() for spelling in row]
)
def test_every_known_spelling_is_found_whatever_its_case_and_width(field: str, spelling: str) -> None:
    for key in (spelling, f" {spelling.upper()} ", spelling.translate({c: c + 0xFEE0 for c in range(0x21, 0x7F)})):
        assert rename_fields({key: "x"}) == {field: "x"}


def test_no_spelling_stands_for_two_fields() -> None:
    spellings = list(itertools.chain.from_iterable(FIELD_ALIASES.values()))
    assert len(spellings) == len(set(spellings))


def test_of_two_spellings_the_earlier_known_is_read_and_the_other_is_kept() -> None:
    built = DiseaseRecord.from_raw({**BASE, "名称": "别的名字"})
    assert built.disease == "甲沟炎"
    assert built.metadata()["名称"] == "别的名字"


@pytest.mark.parametrize("keys", [("disease", "Disease"), ("Disease", "disease")])
def test_our_own_spelling_wins_over_one_in_another_case_in_any_order(keys: tuple[str, str]) -> None:
    names = {"disease": "甲沟炎", "Disease": "Paronychia"}
    built = DiseaseRecord.from_raw({**{key: names[key] for key in keys}, "symptoms": "红肿", "description": "感染。"})
    assert built.disease == "甲沟炎"
    assert built.metadata()["Disease"] == "Paronychia"


def test_field_map_names_fields_that_nobody_knows() -> None:
    raw = {"诊断": "甲沟炎", "表现": "红肿", "说明": "感染。"}
    built = DiseaseRecord.from_raw(raw, field_map={"诊断": "disease", "表现": "symptoms", "说明": "description"})
    assert built.card() == "疾病名称:甲沟炎\n症状表现:红肿\n简要描述:感染。"


@pytest.mark.parametrize("mapped_first", [True, False])
def test_field_map_goes_before_the_known_spellings_and_loses_nothing(mapped_first: bool) -> None:
    pairs = [("title", "甲沟炎"), ("disease", "外科感染")]
    raw = {**BASE}
    del raw["disease"]
    raw |= dict(pairs if mapped_first else reversed(pairs))
    built = DiseaseRecord.from_raw(raw, field_map={"title": "disease"})
    assert built.disease == "甲沟炎"
    assert built.metadata()["source_disease"] == "外科感染"
    twice = DiseaseRecord.from_raw({**raw, "source_disease": "另一处"}, field_map={"title": "disease"}).metadata()
    assert (twice["source_disease"], twice["source_source_disease"]) == ("另一处", "外科感染")


def test_of_two_mapped_columns_for_one_field_the_first_in_field_map_is_read() -> None:
    raw = {"b": "乙", "a": "甲", "symptoms": "痛", "description": "说明。"}
    built = DiseaseRecord.from_raw(raw, field_map={"a": "disease", "b": "disease"})
    assert (built.disease, built.metadata()["b"]) == ("甲", "乙")


def test_unknown_fields_and_mongo_ids_are_kept_in_the_metadata() -> None:
    metadata = record(_id={"$oid": "5bb578b6"}, 治愈率="九成", visits=0, card="卡片", empty="", nothing=None).metadata()
    assert metadata == {
        "disease": "甲沟炎",
        "symptoms": ["指甲旁红肿", "跳痛"],
        "description": "指甲边缘的感染。",
        "_id": "5bb578b6",
        "治愈率": "九成",
        "visits": 0,
        "card": "卡片",
    }


def test_the_raw_record_is_not_modified() -> None:
    raw = {**BASE, "symptoms": ["红肿"], "_id": {"$oid": "1"}, "sex": None, "age": ""}
    before = json.dumps(raw)
    DiseaseRecord.from_raw(raw, field_map={"nothing": "age"})
    assert json.dumps(raw) == before


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        record().disease = "别的"


# --- optional fields


def test_optional_fields_reach_the_metadata_as_plain_json() -> None:
    optional = {
        "aliases": ["甲周炎"],
        "department": "皮肤科",
        "icd10": "L03.0",
        "age": {"min": 3, "max": 60},
        "sex": "female",
        "urgency": "routine",
        "red_flags": ["红线上行"],
        "complications": ["脓肿"],
        "differentials": ["疱疹性指头炎"],
        "sources": ["教科书"],
    }
    metadata = record(**optional).metadata()
    assert json.loads(json.dumps(metadata)) == {**BASE, "symptoms": ["指甲旁红肿", "跳痛"], **optional}


@pytest.mark.parametrize("blank", [None, "", " \u3000"])
@pytest.mark.parametrize("field", sorted(set(FIELD_ALIASES) - {"disease", "symptoms", "description"}))
def test_a_blank_optional_field_is_as_good_as_none(field: str, blank: object) -> None:
    assert record(**{field: blank}) == record()


@pytest.mark.parametrize(
    ("given_sex", "sex"),
    [("男", "male"), ("女性", "female"), ("Female", "female"), ("m", "male"), ("不限", "any"), ("男女均可", "any")],
)
def test_sex_is_read_in_chinese_and_english(given_sex: str, sex: str) -> None:
    assert record(sex=given_sex).sex == sex


def test_several_departments_are_joined() -> None:
    assert record(cure_department=["外科", "皮肤科"]).department == "外科、皮肤科"


@pytest.mark.parametrize("code", ["J18", "J18.9", "J18.900x001", "A09.0"])
def test_an_icd10_code_may_have_a_national_extension(code: str) -> None:
    assert record(icd10=code).icd10 == code


@pytest.mark.parametrize("text", ["6个月至5岁", "青壮年"])
def test_an_age_in_words_is_kept(text: str) -> None:
    assert record(age=text).metadata()["age"] == text


# --- refusals


@pytest.mark.parametrize("field", ["disease", "symptoms", "description"])
def test_a_missing_required_field_is_named_with_the_ways_out(field: str) -> None:
    for raw in ({k: v for k, v in BASE.items() if k != field}, {**BASE, field: None}):
        error = refusal(raw)
        assert error.field == field
        assert f"field '{field}': is missing" in str(error)
        assert "field_map=" in str(error)


def test_a_missing_name_shows_which_fields_there_are() -> None:
    assert "(got ['description', 'symptoms', '诊断'])" in str(refusal({"诊断": "甲", "symptoms": "痛", "desc": "说"}))


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("disease", "\u3000", "is empty"),
        ("disease", 7, "must be text"),
        ("disease", ["甲", 1], "must be text"),
        ("description", "[详细]", "is empty"),
        ("description", [], "is empty"),
        ("description", {"text": "x"}, "must be text"),
        ("aliases", 3, "must be text or a list of texts"),
        ("department", {"a": 1}, "must be text or a list of texts"),
        ("sex", "外星人", "must be male, female or any"),
        ("icd10", "肺炎", "an ICD-10 code is a letter and two digits"),
        ("icd10", 18.9, "valid string"),
        ("age", {"min": 9, "max": 3}, "min 9.0 is greater than max 3.0"),
        ("age", {"min": -1}, "greater than or equal to 0"),
        ("age", {"from": 1}, "Extra inputs"),
        ("age", {"min": float("nan")}, "than or equal to"),
        ("urgency", "soon", "'emergency', 'urgent', 'routine' or 'self_care'"),
    ],
)
def test_a_bad_value_is_named_with_field_value_and_reason(field: str, value: object, problem: str) -> None:
    error = refusal({**BASE, field: value})
    assert (error.field, error.value) == (field, value)
    assert str(error).startswith(f"field '{field}': ")
    assert problem in str(error)
    assert f"(got {value!r})" in str(error)


def test_a_long_value_is_shown_shortened() -> None:
    error = refusal({**BASE, "sex": "长" * 5000})
    assert len(str(error)) < 200
    assert error.value == "长" * 5000


def test_an_error_carries_its_place_through_at_and_pickle() -> None:
    error = refusal({**BASE, "sex": "外星人"}).at("kb.jsonl, line 3")
    copy = pickle.loads(pickle.dumps(error))
    for one in (error, copy):
        assert str(one).startswith("kb.jsonl, line 3: field 'sex': must be")
        assert (one.place, one.field, one.value) == ("kb.jsonl, line 3", "sex", "外星人")


def test_what_json_cannot_say_is_refused_as_metadata_not_leaked_as_another_error() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    for extra in (deep, b"\xff", object()):
        with pytest.raises(KnowledgeBaseError, match=r"cannot become metadata.*\['extra'\]"):
            record(extra=extra).metadata()


@given(st.dictionaries(KNOWN_KEYS | st.text(max_size=5) | st.integers(0, 9), JUNK, max_size=6), st.booleans())
def test_any_mapping_of_junk_is_a_record_or_a_knowledge_base_error(raw: dict[Any, Any], complete: bool) -> None:
    if complete:
        raw = {**BASE, **raw}
    try:
        built = DiseaseRecord.from_raw(raw)
        metadata = built.metadata()
    except KnowledgeBaseError:
        return
    assert all((built.disease, built.symptoms, built.description))
    built.card().encode()
    json.dumps(metadata)
