from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from langchain_core.documents import Document

from langchain_bge_medical.clinical.assessment import Assessment, Calibration, assess
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import default_red_flags
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from tests.test_lexicon import TEXTS

LEXICON, FLAGS = default_lexicon(), default_red_flags()
KNOWN = {
    str(document.metadata["disease"]): document for document in MedicalKBLoader(bundled_knowledge_base()).lazy_load()
}


class Half:
    """Calibrates everything to a half, and one disease not at all."""

    def __init__(self, unknown: str = "") -> None:
        self.unknown = unknown
        self.asked: list[bool] = []

    def confidences(self, documents: Sequence[Document], *, findings: bool) -> list[float | None]:
        self.asked.append(findings)
        return [None if document.metadata["disease"] == self.unknown else 0.5 for document in documents]


def ranked(*diseases: str) -> list[Document]:
    found = []
    for place, name in enumerate(diseases):
        logit = 3.0 - place
        scores = {"relevance_logit": logit, "relevance_score": 0.9 - place / 10, "recall_rank": place + 1}
        found.append(Document(page_content=KNOWN[name].page_content, metadata={**KNOWN[name].metadata, **scores}))
    return found


def of(query: str, *diseases: str, calibration: Calibration | None = None) -> Assessment:
    found = ranked(*diseases)
    before = [document.model_copy(deep=True) for document in found]
    assessment = assess(query, found, lexicon=LEXICON, red_flags=FLAGS, calibration=calibration)
    assert found == before, "what was found is not modified"
    return assessment


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_it_is_plain_data_whose_quotes_are_the_patients_and_the_documents_words(query: str) -> None:
    assessment = of(query, "普通感冒", "社区获得性肺炎")
    data = assessment.as_data()
    assert json.loads(json.dumps(data)) == data
    for finding in data["findings"]:
        assert query[finding["start"] : finding["end"]] == finding["text"]
    for result, document in zip(data["results"], assessment.documents, strict=True):
        for piece in result["evidence"]:
            source = query if piece["field"] == "query" else document.page_content
            assert source[piece["start"] : piece["end"]] == piece["text"]


def test_what_sex_or_age_rule_out_is_not_shown() -> None:
    shown = of("我是男的,小肚子疼,尿频", "子宫内膜异位症", "急性膀胱炎").documents
    assert [document.metadata["disease"] for document in shown] == ["急性膀胱炎"]


def test_something_impossible_is_shown_with_its_mark_rather_than_nothing() -> None:
    [document] = of("我是男的,痛经", "子宫内膜异位症").documents
    assert document.metadata["patient_mismatch"] == "impossible"


def test_without_a_calibration_confidence_is_the_score_and_says_so() -> None:
    [result] = of("流清鼻涕,打喷嚏", "普通感冒").as_data()["results"]
    assert result["confidence"] == result["relevance_score"] == 0.9
    assert result["confidence_calibrated"] is False


def test_a_calibration_gives_the_confidence_where_it_can() -> None:
    half = Half(unknown="社区获得性肺炎")
    first, second = of("流清鼻涕,打喷嚏", "普通感冒", "社区获得性肺炎", calibration=half).as_data()["results"]
    assert (first["confidence"], first["confidence_calibrated"]) == (0.5, True)
    assert (second["confidence"], second["confidence_calibrated"]) == (0.8, False)
    assert half.asked == [True]


def test_red_flags_stand_even_where_nothing_is_shown() -> None:
    assessment = of("我不想活了", "普通感冒")
    assert assessment.triage.level == "emergency"
    assert of("突然胸口压榨样痛,出冷汗").triage.level == "emergency"


def test_without_red_flags_the_urgency_is_the_best_diseases_own() -> None:
    assessment = of("流清鼻涕,打喷嚏,嗓子痒", "普通感冒")
    assert assessment.triage.level == KNOWN["普通感冒"].metadata["urgency"]
    assert assessment.triage.reasons == []


def test_saying_nothing_shows_no_document_and_asks_nothing() -> None:
    data = of("今天天气怎么样", "普通感冒", "社区获得性肺炎").as_data()
    assert data["abstained"] and data["results"] == [] and data["next_question"] is None
    assert data["abstention"]["reason"] == "no_symptoms"


@pytest.mark.parametrize("unit", ["头痛", "没有头痛,", "体温39度 ", "不是不", "孩子", "a b ", "!", "胸口疼得厉害,"])
def test_a_hundred_kilobytes_take_about_ten_times_as_long_as_ten(unit: str) -> None:
    def seconds(size: int) -> float:
        query = (unit * size)[: size // 3]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            of(query, "普通感冒", "社区获得性肺炎", "偏头痛")
            best = min(best, time.process_time() - start)
        return best

    seconds(1_000)
    assert seconds(100_000) < 40 * seconds(10_000) + 0.05
