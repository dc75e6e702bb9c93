from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from langchain_core.documents import Document

from langchain_bge_medical.clinical.assessment import Assessment, assess
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import default_red_flags
from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from tests.linear import takes_linear_time
from tests.test_lexicon import TEXTS

LEXICON, FLAGS = default_lexicon(), default_red_flags()
KNOWN = {
    str(document.metadata["disease"]): document for document in MedicalKBLoader(bundled_knowledge_base()).lazy_load()
}


# Makes of every logit a confidence of 0.5, or 0.75 where the patient affirms something.
EVEN = Calibration(
    method="platt",
    logit_weight=0,
    margin_weight=0,
    findings_weight=math.log(3),
    bias=0,
    threshold=0.6,
    false_refusal_rate=0.05,
    reranker="any",
    knowledge_base="any",
)


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
    [document] = of("我是男的,小肚子疼", "子宫内膜异位症").documents
    assert document.metadata["patient_mismatch"] == "impossible"


def test_without_a_calibration_confidence_is_the_score_and_says_so() -> None:
    [result] = of("流清鼻涕,打喷嚏", "普通感冒").as_data()["results"]
    assert result["confidence"] == result["relevance_score"] == 0.9
    assert result["confidence_calibrated"] is False


@pytest.mark.parametrize("calibration", [None, EVEN])
def test_numbers_of_numpy_are_told_as_those_of_python(calibration: Calibration | None) -> None:
    found = ranked("普通感冒", "社区获得性肺炎")
    for document, exact in zip(found, (0.75, -1.5), strict=True):  # in 32 bits, too
        document.metadata.update(relevance_score=0.5, relevance_logit=exact, rerank_margin=exact)
    expected = assess("流清鼻涕", found, lexicon=LEXICON, red_flags=FLAGS, calibration=calibration).as_data()
    for scores in (document.metadata for document in found):
        scores["recall_rank"] = np.int64(scores["recall_rank"])
        for name in ("relevance_score", "relevance_logit", "rerank_margin"):
            scores[name] = np.float32(scores[name])
    told = assess("流清鼻涕", found, lexicon=LEXICON, red_flags=FLAGS, calibration=calibration).as_data()
    assert told == expected
    assert json.dumps(told) == json.dumps(expected)


def test_a_calibration_gives_the_confidence_where_there_is_a_logit() -> None:
    found = ranked("普通感冒", "社区获得性肺炎")
    del found[1].metadata["relevance_logit"]
    query = "流清鼻涕,打喷嚏"
    data = assess(query, found, lexicon=LEXICON, red_flags=FLAGS, calibration=EVEN).as_data()
    first, second = data["results"]
    assert first["confidence"] == pytest.approx(0.75)
    assert first["confidence_calibrated"] is True
    assert (second["confidence"], second["confidence_calibrated"]) == (0.8, False)


def test_nothing_is_shown_where_no_document_is_likely_enough_for_the_calibration() -> None:
    query = "流清鼻涕,打喷嚏"
    assert not of(query, "普通感冒", calibration=EVEN).abstention.abstains
    strict = EVEN.model_copy(update={"threshold": 0.8})
    assessment = of(query, "普通感冒", calibration=strict)
    assert (assessment.abstention.abstains, assessment.abstention.reason) == (True, "no_match")
    assert assessment.documents == []
    # Two of 0.75 each: the chance that one is right is 1 - 0.25².
    assert len(of(query, "普通感冒", "社区获得性肺炎", calibration=strict).documents) == 2


def test_a_calibration_does_not_silence_a_red_flag() -> None:
    strict = EVEN.model_copy(update={"threshold": 1.0})
    assessment = of("突然胸口压榨样痛,出冷汗", "急性心肌梗死", calibration=strict)
    assert assessment.triage.level == "emergency"
    assert [document.metadata["disease"] for document in assessment.documents] == ["急性心肌梗死"]


def test_red_flags_stand_even_where_nothing_is_shown() -> None:
    assessment = of("我不想活了", "普通感冒")
    assert assessment.triage.level == "emergency"
    assert of("突然胸口压榨样痛,出冷汗").triage.level == "emergency"


def test_without_red_flags_the_urgency_is_the_best_diseases_own() -> None:
    assessment = of("流清鼻涕,打喷嚏,嗓子痒", "普通感冒")
    assert assessment.triage.level == KNOWN["普通感冒"].metadata["urgency"]
    assert assessment.triage.reasons == []


def test_in_an_emergency_nothing_more_is_asked() -> None:
    assessment = of("胸口像压了块大石头一样疼,一身冷汗,左胳膊也发麻", "普通感冒", "社区获得性肺炎", "偏头痛")
    assert assessment.triage.level == "emergency"
    assert assessment.next_question is None


def test_saying_nothing_shows_no_document_and_asks_nothing() -> None:
    data = of("今天天气怎么样", "普通感冒", "社区获得性肺炎").as_data()
    assert data["abstained"] is True
    assert data["results"] == []
    assert data["next_question"] is None
    assert data["abstention"]["reason"] == "no_symptoms"


@pytest.mark.parametrize("unit", ["头痛", "没有头痛,", "体温39度 ", "不是不", "孩子", "a b ", "!", "胸口疼得厉害,"])
def test_a_query_is_assessed_in_linear_time(unit: str) -> None:
    assert takes_linear_time(lambda query: of(query, "普通感冒", "社区获得性肺炎", "偏头痛"), unit, 10_000)
