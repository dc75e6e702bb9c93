from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from langchain_core.documents import Document

from langchain_bge_medical.clinical.abstention import abstention, features
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.polarity import findings
from langchain_bge_medical.clinical.weights import ABSTENTION, ABSTENTION_THRESHOLD
from tests.test_lexicon import TEXTS

LEXICON = default_lexicon()


def shown(score: float | None = 0.5) -> list[Document]:
    metadata = {"disease": "普通感冒", "symptoms": ["鼻塞", "流清涕", "咽痛"], "relevance_score": score}
    return [Document(page_content="疾病名称:普通感冒", metadata=metadata)]


def decide(query: str, score: float | None = 0.5, *, fits: bool = False) -> tuple[bool, str | None]:
    said, found = findings(query, LEXICON), shown(score)
    if fits:
        found[0].metadata["symptoms"] += [finding.term for finding in said]
    decision = abstention(query, said, found, LEXICON)
    return decision.abstains, decision.reason


@pytest.mark.parametrize(
    "query",
    [
        "鼻子堵了三天,一直流清鼻涕",
        "头痛",
        "肚子疼",
        "我奶奶说话含糊不清",
        "膝盖上楼梯的时候咔咔响",
        "My throat hurts and my nose is stuffed up",
        "孩子两岁,昨晚烧到39度,没精神",
        "被狗咬了,伤口红肿",
    ],
)
def test_complaints_that_a_document_fits_are_answered(query: str) -> None:
    assert decide(query, score=0.9, fits=True) == (False, None)


@pytest.mark.parametrize(
    "query",
    [
        "今天天气怎么样",
        "帮我写一首关于春天的诗",
        "你好",
        "这道数学题让我头疼",
        "医院几点上班,怎么挂号",
        "我家狗吐了两天",
        "电脑发烫还一直响",
        "How do I reset my router?",
        "阿莫西林多少钱一盒",
        "股票大跌,心在滴血",
        "asdfghjkl",
        "?????",
        "12345",
    ],
)
def test_other_talk_is_refused(query: str) -> None:
    abstains, reason = decide(query, score=0.3)
    assert abstains
    assert reason is not None


@pytest.mark.parametrize("query", ["不发烧,也不咳嗽", "没有任何不舒服", "No fever, no cough."])
def test_a_text_that_only_denies_is_refused_for_it(query: str) -> None:
    assert decide(query, score=0.99) == (True, "no_symptoms")


def test_nothing_found_is_no_match() -> None:
    assert abstention("头痛", findings("头痛", LEXICON), [], LEXICON) == (True, 0.0, "no_match")


def test_the_score_is_the_logistic_of_the_weighted_features() -> None:
    query = "嗓子疼,鼻塞两天"
    values = features(query, findings(query, LEXICON), shown(), LEXICON)
    total = ABSTENTION.bias + sum(w * x for w, x in zip(ABSTENTION[1:], values, strict=True))
    decision = abstention(query, findings(query, LEXICON), shown(), LEXICON)
    assert decision.score == pytest.approx(1 / (1 + math.exp(-total)))
    assert decision.abstains == (decision.score < ABSTENTION_THRESHOLD)


def test_a_better_document_and_a_red_flag_never_make_a_refusal_likelier() -> None:
    query = "浑身不得劲"
    said = findings(query, LEXICON)
    scores = [abstention(query, said, shown(score), LEXICON).score for score in (0.0, 0.2, 0.5, 0.9)]
    assert scores == sorted(scores)
    assert abstention(query, said, shown(), LEXICON, flagged=True).score > scores[2]


def test_documents_without_a_score_are_judged_by_the_words() -> None:
    assert decide("鼻塞,流清鼻涕", score=None) == (False, None)
    assert decide("帮我订一张机票", score=None)[0]


def test_symptoms_that_a_store_keeps_as_one_text_count_as_a_list_does() -> None:
    said, lists, texts = findings("鼻塞", LEXICON), shown(), shown()
    texts[0].metadata["symptoms"] = "、".join(lists[0].metadata["symptoms"])
    assert features("鼻塞", said, texts, LEXICON) == features("鼻塞", said, lists, LEXICON)


@pytest.mark.parametrize("scores", [(8.0, 0.4), (0.9, -2.0), (float("nan"), 0.9)])
def test_scores_on_another_scale_decide_no_more_than_none(scores: tuple[float, float]) -> None:
    for query in ("鼻塞,流清鼻涕", "帮我订一张机票", "浑身不得劲"):
        said = findings(query, LEXICON)
        other, none = [*shown(scores[0]), *shown(scores[1])], [*shown(None), *shown(None)]
        assert abstention(query, said, other, LEXICON) == abstention(query, said, none, LEXICON)


@settings(deadline=None)
@given(TEXTS)
def test_any_text_gets_a_score_in_range_and_a_reason_exactly_if_refused(text: str) -> None:
    decision = abstention(text, findings(text, LEXICON), shown(), LEXICON)
    assert 0 <= decision.score <= 1
    assert decision.abstains == (decision.reason is not None)
