from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from langchain_bge_medical.clinical.lexicon import LexiconEntry, SymptomLexicon, plain_form
from langchain_bge_medical.clinical.triage import RedFlag, RedFlags
from langchain_bge_medical.knowledge_base import DiseaseRecord, normalize_name
from langchain_bge_medical.model_files import resolved_revision

RESOURCES = Path(__file__).parents[1] / "langchain_bge_medical" / "resources"


def read(name: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((RESOURCES / name).read_text("utf-8"))
    return listed


RED_FLAGS = json.loads((RESOURCES / "red_flags.json").read_text("utf-8"))
RAW = read("medical_knowledge.json")
RECORDS = [DiseaseRecord.from_raw(raw) for raw in RAW]
NAMES = {record.disease for record in RECORDS}
LEXICON = SymptomLexicon.load()
# Amounts of a medicine and how often to take it; 每次 alone is of symptoms, 每日头痛 is a disease.
DOSE = re.compile(
    r"\d\s*(?:mg|μg|ug|ml|iu|片|粒|支|滴)|mg\b|毫克|微克|毫升|[每一][日天]\s*[\d一二两三四]+\s*次|每日(?!头痛)",
    re.IGNORECASE,
)


def coverage() -> dict[str, list[str]]:
    text = (Path(__file__).parent / "data" / "kb_coverage.txt").read_text("utf-8")
    rows = [line.split(":", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {department: diseases.strip().split("、") for department, diseases in rows}


def broken(holds: dict[str, bool]) -> list[str]:
    return [name for name, ok in holds.items() if not ok]


def test_the_knowledge_base_has_exactly_the_331_diseases_of_the_coverage() -> None:
    wanted = [disease for diseases in coverage().values() for disease in diseases]
    assert len(RAW) == len(NAMES) == 331
    assert sorted(wanted) == sorted(NAMES)


def test_each_department_of_the_coverage_is_there_with_its_diseases() -> None:
    parts = {"肾内科与泌尿外科": {"肾内科", "泌尿外科"}, "妇产科": {"妇科", "产科"}}
    homes = {record.disease: record.department for record in RECORDS}
    for department, diseases in coverage().items():
        assert {homes[disease] for disease in diseases} == parts.get(department, {department})


def test_each_disease_has_6_to_15_symptoms_without_repeats() -> None:
    assert broken({r.disease: 6 <= len(r.symptoms) == len(set(r.symptoms)) <= 15 for r in RECORDS}) == []


def test_each_description_has_80_to_250_characters() -> None:
    assert broken({r.disease: 80 <= len(r.description) <= 250 for r in RECORDS}) == []


def test_each_disease_has_sources_a_department_an_urgency_and_red_flags() -> None:
    assert broken({r.disease: bool(r.sources and r.department and r.urgency and r.red_flags) for r in RECORDS}) == []


def test_differentials_exist_and_are_other_diseases() -> None:
    assert (
        broken({r.disease: set(r.differentials) <= NAMES - {r.disease} and bool(r.differentials) for r in RECORDS})
        == []
    )


def test_an_alias_belongs_to_one_disease_and_is_no_diseases_name() -> None:
    names = [normalize_name(r.disease) for r in RECORDS]
    aliases = [normalize_name(alias) for r in RECORDS for alias in r.aliases]
    assert [name for name, n in Counter([*names, *aliases]).items() if n > 1] == []


def test_each_disease_has_an_english_alias() -> None:
    assert broken({r.disease: any(re.fullmatch(r"[ -~é]+", alias) for alias in r.aliases) for r in RECORDS}) == []


def test_each_icd_10_code_has_the_form_of_one() -> None:
    assert broken({r.disease: re.fullmatch(r"[A-Z]\d{2}(\.\d)?", r.icd10 or "") is not None for r in RECORDS}) == []


def test_no_text_names_a_dose() -> None:
    found = {r.disease: DOSE.findall(json.dumps(raw, ensure_ascii=False)) for r, raw in zip(RECORDS, RAW, strict=True)}
    assert {disease: doses for disease, doses in found.items() if doses} == {}
    assert DOSE.search("阿司匹林 100 mg")
    assert DOSE.search("每日三次")


def test_the_records_are_as_the_loader_reads_them() -> None:
    assert [record.model_extra for record in RECORDS] == [{}] * len(RECORDS)
    assert [list(record.symptoms) for record in RECORDS] == [raw["symptoms"] for raw in RAW]


def test_each_symptom_of_the_knowledge_base_is_a_term_of_the_lexicon_and_found_as_itself() -> None:
    symptoms = {symptom for record in RECORDS for symptom in record.symptoms}
    assert symptoms - set(LEXICON.entries) == set()
    assert [s for s in symptoms if [m[:3] for m in LEXICON.find(s)] != [(s, 0, len(s))]] == []


def test_no_form_of_the_lexicon_belongs_to_two_terms() -> None:
    owners: dict[str, set[str]] = {}
    for raw in read("symptom_lexicon.json"):
        entry = LexiconEntry.model_validate(raw)
        for form in (entry.term, *entry.colloquial, *entry.en, *entry.opposite):
            owners.setdefault(plain_form(form)[0], set()).add(entry.term)
    assert {form: terms for form, terms in owners.items() if len(terms) > 1} == {}
    assert len(LEXICON.entries) == len(read("symptom_lexicon.json"))


def test_each_term_has_a_site_and_a_patients_way_to_say_it() -> None:
    assert broken({e.term: bool(e.site and e.colloquial) for e in LEXICON.entries.values()}) == []


def test_no_form_is_blank_or_has_blanks_around_it() -> None:
    forms = {form for e in LEXICON.entries.values() for form in (e.term, *e.colloquial, *e.en, *e.opposite)}
    assert [form for form in forms if not form.strip() or form != form.strip()] == []


def test_the_contrary_of_a_term_is_never_also_a_way_to_say_it() -> None:
    assert [e.term for e in LEXICON.entries.values() if {e.term, *e.colloquial, *e.en} & set(e.opposite)] == []


def test_red_flags_load_over_the_bundled_lexicon() -> None:
    RedFlags.load(LEXICON)


@pytest.mark.parametrize("rule", [RedFlag.model_validate(raw) for raw in RED_FLAGS["rules"]], ids=lambda rule: rule.id)
def test_a_red_flag_says_why_what_to_do_and_where_in_both_languages_without_a_dose(rule: RedFlag) -> None:
    for texts in (rule.reason, rule.advice):
        assert set(texts) == {"zh", "en"}
        assert all(text.strip() for text in texts.values())
        assert not DOSE.search(" ".join(texts.values()))
    assert rule.department
    assert rule.source
    assert all(group and all(group) for group in rule.when)


@pytest.mark.parametrize("kind", ["reranker", "embeddings"])
def test_a_bundled_models_card_is_about_the_weights_beside_it_and_says_how_they_were_measured(kind: str) -> None:
    card = (RESOURCES / f"bundled_{kind}" / "README.md").read_text("utf-8")
    assert resolved_revision(RESOURCES / f"bundled_{kind}") in card
    assert "| `heldout_complaints.jsonl` | 662 | rerank |" in card
