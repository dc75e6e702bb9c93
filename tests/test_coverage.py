from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from langchain_bge_medical.clinical.coverage import AffirmedWords, SymptomCoverage
from langchain_bge_medical.clinical.weights import BlendWeights
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.retrievers import BGERerankRetriever
from tests.conftest import TableCrossEncoder


def disease(name: str, *symptoms: str) -> Document:
    return Document(page_content=name, metadata={"symptoms": list(symptoms)})


WEIGHTS = BlendWeights(affirmed=2, denied=1, named=6, recall=0, impossible=20, unlikely=3, no_child=1)
NONE = BlendWeights(affirmed=0, denied=0, named=0, recall=0, impossible=0, unlikely=0)


def points(query: str, *documents: Document, weights: BlendWeights = WEIGHTS) -> list[float]:
    return [round(value, 3) for value in SymptomCoverage(weights)(query, documents)]


def test_what_is_affirmed_gives_points_what_is_denied_takes_some_and_what_is_past_does_neither() -> None:
    documents = [
        disease("a", "发热", "咳嗽", "咳痰"),
        disease("b", "发热"),
        disease("c", "头痛"),
        disease("d", "胸痛"),
        Document(page_content="e"),
    ]
    assert points("发烧,痰很多,一直咳嗽,没有头痛,去年胸痛过", *documents) == [6, 2, -1, 0, 0]
    assert points("发烧,没有头痛", *documents, weights=NONE) == [0, 0, 0, 0, 0]


def test_symptoms_and_aliases_that_a_store_keeps_as_one_text_count_as_lists_do() -> None:
    lists = {"symptoms": ["发热", "咳嗽", "头痛"], "aliases": ["流感", "flu"]}
    texts = {name: "、".join(values) for name, values in lists.items()}
    for query in ("发烧,一直咳嗽,没有头痛", "我是不是流感了"):
        expected, found = points(query, *(Document(page_content="a", metadata=m) for m in (lists, texts)))
        assert expected == found != 0


def test_the_denial_of_a_less_typical_symptom_says_less() -> None:
    first, last = points("没有头痛", disease("a", "头痛"), disease("b", *"甲乙丙丁戊己", "头痛"))
    assert first < last < 0


def test_what_is_both_affirmed_and_denied_counts_as_affirmed() -> None:
    assert points("上周没有头痛。这周头疼", disease("a", "头痛")) == [2]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("崴脚了", 6),
        ("我是不是踝关节扭伤了", 6),
        ("got an Ankle Sprain yesterday", 6),
        ("崴脚了,还发烧、咳嗽", 2),  # the more is told, the less what the patient calls it
        ("没有崴脚", 0),
        ("去年崴脚过", 0),
        ("我妈崴脚了,我就是累", 0),
        ("ankle sprains", 0),  # a word, not part of one
    ],
)
def test_who_says_by_its_name_what_he_has_is_heard(query: str, expected: float) -> None:
    names = {"disease": "踝关节扭伤", "aliases": ["崴脚", "ankle sprain"]}
    assert points(query, Document(page_content="a", metadata=names), disease("b")) == [expected, 0]


def test_a_later_place_in_recall_costs_points() -> None:
    weights = NONE._replace(recall=1.0)
    values = points("头痛", *(disease(str(i)) for i in range(5)), weights=weights)
    assert values[0] == 0
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 5


@pytest.mark.parametrize(
    ("query", "expected"),
    [("男,45岁,尿频", [0, -20]), ("我老婆尿频", [-20, 0]), ("尿频", [0, 0]), ("怀孕五个月,尿频", [-20, 0])],
)
def test_what_sex_rules_out_loses_most(query: str, expected: list[float]) -> None:
    documents = [
        Document(page_content="前列腺", metadata={"sex": "male"}),
        Document(page_content="阴道", metadata={"sex": "female"}),
    ]
    assert points(query, *documents) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("8个月大的宝宝发烧", 0),
        ("孩子发烧", 0),
        ("我爸72岁,发烧", -20),
        ("32岁,发烧", -20),
        ("7岁,发烧", -3),
        ("发烧", -1),
        ("fever since Monday", -1),
        ("带孙女看病,发烧", 0),
        ("fever, like the other kids", 0),
        ("老人发烧", -20),
    ],
)
def test_what_age_rules_out_loses_most_and_what_it_or_its_absence_makes_unlikely_some(
    query: str, expected: float
) -> None:
    assert points(query, Document(page_content="幼儿急疹", metadata={"age": {"min": 0, "max": 6}})) == [expected]


def test_points_by_reason_add_up() -> None:
    documents = [disease("a", "发热", "头痛"), disease("b", "头痛")]
    coverage = SymptomCoverage()
    query = "发烧,没有头痛"
    by_reason = coverage.points(query, documents)
    assert [sum(p) for p in by_reason] == coverage(query, documents)
    assert by_reason[0].affirmed > 0 > by_reason[0].denied


class Logits(TableCrossEncoder):
    def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.calls.append(list(text_pairs))
        return [self.scores[document] for _, document in text_pairs]


def test_points_change_the_order_and_stand_in_the_metadata_while_scores_stay_the_models_own() -> None:
    documents = [disease("keyword", "皮疹"), disease("fits", "发热", "咳嗽")]
    encoder = Logits({"keyword": 2.0, "fits": 0.5})
    plain = BGERerankerCompressor(cross_encoder=encoder).compress_documents(documents, "发烧咳嗽")
    assert [document.page_content for document in plain] == ["keyword", "fits"]
    assert all("rerank_adjustment" not in document.metadata for document in plain)
    blended = BGERerankerCompressor(cross_encoder=encoder, adjust=SymptomCoverage(WEIGHTS)).compress_documents(
        documents, "发烧,咳嗽"
    )
    assert [(d.page_content, d.metadata["rerank_adjustment"]) for d in blended] == [("fits", 4.0), ("keyword", 0.0)]
    assert [d.metadata["relevance_logit"] for d in blended] == [0.5, 2.0]


def test_the_model_reads_the_affirmed_words_and_adjust_reads_all() -> None:
    documents = [disease("a", "头痛"), disease("b", "发热")]
    encoder = Logits({"a": 0.0, "b": 0.0})
    heard: list[str] = []

    def adjust(query: str, candidates: Sequence[Document]) -> list[float]:
        heard.append(query)
        return [0.0] * len(candidates)

    compressor = BGERerankerCompressor(cross_encoder=encoder, query_to_text=AffirmedWords(), adjust=adjust)
    compressor.compress_documents(documents, "没有头痛,发烧三天")
    assert {query for query, _ in encoder.calls[0]} == {"发烧三天"}
    assert heard == ["没有头痛,发烧三天"]


def test_recall_searches_for_the_affirmed_words_and_the_compressor_gets_all() -> None:
    searched: list[str] = []

    class Recall(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            searched.append(query)
            return [disease("a", "头痛"), disease("b", "发热")]

    retriever = BGERerankRetriever(
        base_retriever=Recall(),
        compressor=BGERerankerCompressor(cross_encoder=Logits({"a": 0.0, "b": 0.0}), adjust=SymptomCoverage(WEIGHTS)),
        query_to_text=AffirmedWords(),
    )
    found = retriever.invoke("没有头痛,发烧三天")
    assert searched == ["发烧三天"]
    assert [(d.page_content, d.metadata["rerank_adjustment"]) for d in found] == [("b", 2.0), ("a", -1.0)]


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("没有胸痛,就是反酸", "就是反酸"),
        ("没有发烧有咳嗽", "有咳嗽"),
        ("胸痛、胸闷都没有,心慌", "心慌"),
        ("以前胸痛过。现在头痛", "现在头痛"),
        ("头痛三天", "头痛三天"),
        ("没有头痛", "没有头痛"),
        ("今天天气怎么样", "今天天气怎么样"),
        ("no fever, just a cough", "just a cough"),
    ],
)
def test_affirmed_words_leave_out_what_is_only_denied_or_past_and_never_all(query: str, left: str) -> None:
    assert AffirmedWords()(query) == left


def test_a_query_to_text_that_leaves_nothing_is_an_error() -> None:
    compressor = BGERerankerCompressor(cross_encoder=Logits({"a": 0.0}), query_to_text=lambda query: " ")
    with pytest.raises(ValueError, match="query_to_text returned nothing"):
        compressor.compress_documents([disease("a")], "头痛")


@pytest.mark.parametrize("given", [[1.0], [float("nan"), 0.0]])
def test_points_that_are_missing_or_no_numbers_are_an_error(given: list[float]) -> None:
    compressor = BGERerankerCompressor(
        cross_encoder=TableCrossEncoder({"a": 0.1, "b": 0.2}), adjust=lambda query, documents: given
    )
    with pytest.raises(ValueError, match="finite number for each of the 2 documents"):
        compressor.compress_documents([disease("a"), disease("b")], "q")
