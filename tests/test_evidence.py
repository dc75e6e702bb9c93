from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_bge_medical.clinical.evidence import SymptomEvidence, with_evidence
from langchain_bge_medical.clinical.lexicon import SymptomLexicon
from langchain_bge_medical.clinical.mentions import mentions_of
from langchain_bge_medical.clinical.polarity import findings
from tests.test_lexicon import TEXTS

LEXICON = SymptomLexicon.load()
TERMS = list(LEXICON.entries)


def document(*symptoms: str, name: str = "某病") -> Document:
    listed = "、".join(symptoms)
    return Document(
        id="7",
        page_content=f"疾病名称:{name}\n症状表现:{listed}\n简要描述:描述里也有头痛。",
        metadata={"disease": name, "symptoms": list(symptoms)},
    )


def evidence(doc: Document, query: str) -> list[dict[str, Any]]:
    [annotated] = with_evidence([doc], query, LEXICON)
    found: list[dict[str, Any]] = annotated.metadata["evidence"]
    return found


def status_by_term(doc: Document, query: str) -> dict[str, str]:
    return {piece["term"]: piece["status"] for piece in evidence(doc, query) if piece["field"] == "document"}


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(TERMS), max_size=6, unique=True))
def test_each_piece_slices_to_its_text_in_any_query_and_document(query: str, symptoms: list[str]) -> None:
    doc = document(*symptoms)
    for piece in evidence(doc, query):
        source = query if piece["field"] == "query" else doc.page_content
        assert source[piece["start"] : piece["end"]] == piece["text"] != ""


@settings(deadline=None)
@given(TEXTS)
def test_a_document_without_listed_symptoms_has_those_that_the_lexicon_finds(query: str) -> None:
    doc = Document(page_content="中耳炎:耳痛、发热,孩子多见")
    pieces = evidence(doc, query)
    assert {p["term"] for p in pieces if p["field"] == "document"} == {"耳痛", "发热"}
    for piece in pieces:
        source = query if piece["field"] == "query" else doc.page_content
        assert source[piece["start"] : piece["end"]] == piece["text"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("感冒\n患者发烧，发热三天，咳嗽", {"发热": "发烧", "咳嗽": "咳嗽"}),
        ("A cold\nFever and a cough.", {"发热": "Fever", "咳嗽": "cough"}),
        ("感冒\n一般没有发热，有咳嗽", {"咳嗽": "咳嗽"}),
        ("感冒\n一般没有发热，有时发烧", {"发热": "发烧"}),
    ],
)
def test_a_document_without_listed_symptoms_has_what_it_affirms_in_its_own_words(
    content: str, words: dict[str, str]
) -> None:
    pieces = evidence(Document(page_content=content), "我发热咳嗽")
    assert {p["term"]: p["text"] for p in pieces if p["field"] == "document"} == words
    assert {p["status"] for p in pieces} == {"matched"}


@settings(deadline=None)
@given(
    st.sampled_from(TERMS),
    st.sampled_from(
        [
            "没有{}",
            "没{}",
            "无{}",
            "否认{}",
            "沒有{}",
            "沒有{}，38.5℃",
            "好像没有{}",
            "{}(-)",
            "{}、头痛都没有",
            "没有{}也没有头痛",
        ]
    ),
)
def test_a_denied_symptom_is_never_matched(term: str, denial: str) -> None:
    query = denial.format(term)
    # Some denials are part of a longer form: 没有表情 in 没有表情呆板. And 38.5℃ says again what 没有发热 denied.
    if [query[m.start : m.end] for m in mentions_of(query, LEXICON) if m.term == term] == [term]:
        assert status_by_term(document(term), query)[term] != "matched"


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(TERMS), min_size=1, max_size=6, unique=True))
def test_no_query_piece_that_is_matched_quotes_a_denied_finding(query: str, symptoms: list[str]) -> None:
    said = {(f.start, f.end): f.status for f in findings(query, LEXICON)}
    for piece in evidence(document(*symptoms), query):
        if piece["field"] == "query":
            status = said[piece["start"], piece["end"]]
            assert status in (("absent",) if piece["status"] == "denied" else ("present", "possible"))


def test_affirmed_denied_and_unmentioned_symptoms_are_told_apart() -> None:
    doc = document("发热", "咳嗽", "胸痛")
    assert status_by_term(doc, "發燒三天，沒有咳嗽") == {"发热": "matched", "咳嗽": "denied", "胸痛": "missing"}
    assert [(p["field"], p["text"], p["status"]) for p in evidence(doc, "發燒三天，沒有咳嗽")] == [
        ("query", "發燒", "matched"),
        ("document", "发热", "matched"),
        ("query", "咳嗽", "denied"),
        ("document", "咳嗽", "denied"),
        ("document", "胸痛", "missing"),
    ]


def test_what_is_past_or_somebody_elses_is_missing() -> None:
    assert status_by_term(document("头痛", "胸痛"), "以前头痛过。我发烧，我妈胸痛") == {
        "头痛": "missing",
        "胸痛": "missing",
    }


def test_a_general_finding_speaks_for_the_special_one_only_where_it_is_not_listed_itself() -> None:
    assert status_by_term(document("晨起头痛"), "头痛") == {"晨起头痛": "matched"}
    assert status_by_term(document("晨起头痛", "头痛"), "头痛") == {"晨起头痛": "missing", "头痛": "matched"}


def test_to_deny_the_special_is_not_to_deny_the_general() -> None:
    assert status_by_term(document("头痛"), "没有晨起头痛") == {"头痛": "missing"}
    assert status_by_term(document("晨起头痛"), "没有头痛") == {"晨起头痛": "denied"}


def test_a_finding_both_denied_and_affirmed_is_matched_by_the_affirmed_words() -> None:
    pieces = evidence(document("头痛"), "上周没有头痛。这周头疼")
    assert [p["text"] for p in pieces if p["field"] == "query"] == ["头疼"]


def test_a_symptom_is_found_among_the_symptoms_and_not_in_the_name_or_inside_a_longer_one() -> None:
    doc = document("晨起头痛", "头痛", name="头痛病")
    places = {p["term"]: p["start"] for p in evidence(doc, "") if p["field"] == "document"}
    line = doc.page_content.index("晨起头痛")
    assert places == {"晨起头痛": line, "头痛": line + len("晨起头痛、")}


@settings(deadline=None)
@given(st.permutations(["头痛", "晨起头痛", "发热", "咳嗽"]))
def test_what_stands_where_does_not_depend_on_the_order_of_the_metadata(symptoms: list[str]) -> None:
    doc = document("发热", "晨起头痛", "咳嗽", "头痛")
    shuffled = doc.model_copy(update={"metadata": {**doc.metadata, "symptoms": symptoms}})
    query = "我发热咳嗽,头不痛"
    found = evidence(shuffled, query)
    assert {piece["term"]: piece["text"] for piece in found if piece["field"] == "document"} == {s: s for s in symptoms}
    assert sorted(found, key=str) == sorted(evidence(doc, query), key=str)


@pytest.mark.parametrize("content", ["influenza", "流感\nfever and cough", ""])
def test_what_the_patient_says_of_a_symptom_counts_also_where_the_text_has_other_words_for_it(content: str) -> None:
    doc = Document(page_content=content, metadata={"symptoms": ["发热", "咳嗽", "头痛", "胸痛"]})
    assert [(p["field"], p["text"], p["status"], p["term"]) for p in evidence(doc, "发烧,没有咳嗽,头痛")] == [
        ("query", "发烧", "matched", "发热"),
        ("query", "咳嗽", "denied", "咳嗽"),
        ("query", "头痛", "matched", "头痛"),
    ]


def test_a_symptom_that_stands_before_the_first_line_ends_is_found_there() -> None:
    doc = Document(page_content="流感:发热、咳嗽\n多在冬季。", metadata={"symptoms": ["咳嗽", "发热"]})
    assert {p["term"]: p["start"] for p in evidence(doc, "") if p["field"] == "document"} == {"发热": 3, "咳嗽": 6}


def test_documents_are_copied_and_keep_id_order_and_metadata() -> None:
    docs = [document("发热"), document("咳嗽")]
    docs[0].metadata["nested"] = {"a": [1]}
    before = [doc.model_copy(deep=True) for doc in docs]
    annotated = with_evidence(docs, "发烧", LEXICON)
    annotated[0].metadata["nested"]["a"].append(2)
    assert docs == before
    assert [doc.id for doc in annotated] == ["7", "7"]
    assert [doc.page_content for doc in annotated] == [doc.page_content for doc in docs]


@pytest.mark.parametrize("symptoms", [["发热", "", None, 3], ("发热",), ["发热", "正文里没有的"]])
def test_listed_symptoms_that_stand_nowhere_in_the_text_are_not_missing_from_what_is_said(symptoms: object) -> None:
    doc = Document(page_content="名\n发热", metadata={"symptoms": symptoms})
    assert [p["term"] for p in evidence(doc, "")] == ["发热"]


def described(description: str, *symptoms: str) -> Document:
    listed = "、".join(symptoms)
    return Document(
        page_content=f"疾病名称:某病\n症状表现:{listed}\n简要描述:{description}",
        metadata={"disease": "某病", "symptoms": list(symptoms), "description": description},
    )


@pytest.mark.parametrize(
    "description",
    [
        "起病慢。一般不发热，也没有腹泻。",
        "先是鼻塞，早期乏力，一般不发热，精神好；中耳炎耳朵痛。",
        "中耳炎耳朵痛；一般不发热，与中耳炎不同！",
    ],
)
def test_what_the_document_says_the_disease_comes_without_contradicts_what_the_patient_has(description: str) -> None:
    doc, query = described(description, "头痛"), "头痛，发烧两天"
    assert [(p["field"], p["text"], p["status"]) for p in evidence(doc, query)] == [
        ("query", "头痛", "matched"),
        ("document", "头痛", "matched"),
        ("query", "发烧", "contradicting"),
        ("document", "发热", "contradicting"),
    ]
    for piece in evidence(doc, query):
        source = query if piece["field"] == "query" else doc.page_content
        assert source[piece["start"] : piece["end"]] == piece["text"]


@pytest.mark.parametrize(
    ("description", "symptoms"),
    [
        ("一般不发热。", ("发热",)),  # what is listed is not contradicted
        ("有人发热，有人不发热。", ()),
        ("单纯肺炎不发热。", ()),  # of another disease
        ("早期不发热。", ()),
        ("起病慢；中耳炎耳朵痛、不发热。", ()),
        ("与疟疾的不发热不同。", ()),
        ("如果痛得流口水、不发热，要警惕。", ()),
    ],
)
def test_it_does_not_where_the_document_says_both_or_speaks_of_something_else(
    description: str, symptoms: tuple[str, ...]
) -> None:
    assert all(p["status"] != "contradicting" for p in evidence(described(description, *symptoms), "发烧两天"))


def test_a_symptom_that_the_patient_denies_contradicts_nothing() -> None:
    assert all(p["status"] != "contradicting" for p in evidence(described("一般不发热。", "头痛"), "头痛，没有发烧"))


def test_sex_and_age_that_speak_against_a_disease_are_noted() -> None:
    doc = Document(
        page_content="前列腺炎\n尿频", metadata={"symptoms": ["尿频"], "sex": "male", "patient_mismatch": "old"}
    )
    [hers] = with_evidence([doc], "我老婆尿频", LEXICON)
    [his] = with_evidence([doc], "我老公尿频", LEXICON)
    assert hers.metadata["patient_mismatch"] == "impossible"
    assert "patient_mismatch" not in his.metadata


def test_the_transformer_annotates_behind_a_reranker_in_langchains_pipeline() -> None:
    from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline

    docs = [document("发热"), document("咳嗽")]
    pipeline = DocumentCompressorPipeline(transformers=[SymptomEvidence(lexicon=LEXICON)])
    found = pipeline.compress_documents(docs, "发烧")
    assert [d.metadata["evidence"] for d in found] == [evidence(d, "发烧") for d in docs]
    assert all("evidence" not in d.metadata for d in docs)


def test_no_documents_have_no_evidence() -> None:
    assert with_evidence([], "发烧", LEXICON) == []
    assert evidence(Document(page_content=""), "发烧") == []
