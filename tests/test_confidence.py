"""Confidence: what is fitted, what is saved, when it is used, and when nothing is said."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from langchain_bge_medical.chains import build_answer_chain
from langchain_bge_medical.clinical.assessment import Assessment, assess
from langchain_bge_medical.clinical.coverage import SymptomCoverage
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import default_red_flags
from langchain_bge_medical.clinical.weights import BlendWeights
from langchain_bge_medical.confidence import Calibration, CalibrationError, chance_of_any, digest_of
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.evaluation.compare import LabelledQuery, NameIndex
from langchain_bge_medical.retrievers import BGERerankRetriever, BM25Retriever, build_hybrid_retriever
from langchain_bge_medical.training.calibration import Observation, fit, observe
from langchain_bge_medical.vectorstores import build_index
from tests.conftest import HashEmbeddings, TableCrossEncoder

PLAIN: dict[str, Any] = {
    "method": "platt",
    "logit_weight": 1.0,
    "margin_weight": 0.5,
    "findings_weight": 2.0,
    "bias": -1.0,
    "threshold": 0.4,
    "false_refusal_rate": 0.05,
    "reranker": "sha256:abc",
    "knowledge_base": "sha256:def",
}
NUMBERS = st.floats(-50, 50)


def shown(*rows: tuple[float | None, float | None]) -> list[Document]:
    documents = []
    for i, (logit, margin) in enumerate(rows):
        metadata = {"disease": f"d{i}", "relevance_logit": logit, "relevance_score": 0.1}
        if margin is not None:
            metadata["rerank_margin"] = margin
        documents.append(Document(page_content=f"d{i}", metadata=metadata))
    return documents


@given(NUMBERS, NUMBERS, st.booleans())
def test_platts_confidence_is_the_sigmoid_of_the_weighted_sum(logit: float, margin: float, findings: bool) -> None:
    expected = 1 / (1 + math.exp(-(logit + 0.5 * margin + 2 * findings - 1)))
    assert Calibration(**PLAIN).confidence(logit, margin, findings) == pytest.approx(expected)


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=3, max_size=40), NUMBERS)
def test_isotonic_confidence_is_that_of_scikit_learn(said: list[tuple[float, bool]], asked: float) -> None:
    scores, right = zip(*said, strict=True)
    steps = IsotonicRegression(out_of_bounds="clip").fit(scores, right)
    knots = tuple(zip(steps.X_thresholds_.tolist(), steps.y_thresholds_.tolist(), strict=True))
    weights = {"logit_weight": 1.0, "margin_weight": 0.0, "findings_weight": 0.0, "bias": 0.0}
    calibration = Calibration(**{**PLAIN, **weights, "method": "isotonic", "knots": knots})
    assert calibration.confidence(asked, 0, True) == pytest.approx(float(steps.predict([asked])[0]), abs=1e-6)


def test_nothing_is_said_where_the_chance_that_any_document_is_right_is_below_the_threshold() -> None:
    calibration = Calibration(**PLAIN)
    logit = math.log(0.25 / 0.75) + 1  # a confidence of 0.25 without margin and findings
    assert calibration.confidences(shown((logit, None)), findings=False) == [pytest.approx(0.25)]
    assert calibration.abstains(shown((logit, None)), findings=False)
    assert calibration.abstains([], findings=True)
    # Two documents of 0.25 each: one of them is right with 1 - 0.75² = 0.4375.
    assert chance_of_any([0.25, 0.25]) == pytest.approx(0.4375)
    assert not calibration.abstains(shown((logit, None), (logit, None)), findings=False)
    # What stands below the fifth place is not shown, and does not count.
    low = math.log(0.05 / 0.95) + 1
    assert calibration.abstains(shown(*[(low, None)] * 5, (9.0, None)), findings=False)
    # A document without a logit is taken to fit.
    assert not calibration.abstains(shown((None, None)), findings=False)
    assert calibration.confidences(shown((None, None)), findings=False) == [None]


def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    knots = ((-1.0, 0.1), (2.0, 0.9))
    for calibration in (
        Calibration(**PLAIN, figures={"ece": 0.03}),
        Calibration(**{**PLAIN, "method": "isotonic", "knots": knots}),
    ):
        calibration.save(tmp_path / "c.json")
        assert Calibration.load(tmp_path / "c.json") == calibration
        assert [file.name for file in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"logit_weight": "much"}, "logit_weight"),
        ({"format": 2}, "format"),
        ({"extra": 1}, "extra"),
        ({"method": "isotonic"}, "knots"),
        ({"method": "isotonic", "knots": [[1, 0.5], [0, 0.6]]}, "ascend"),
        ({"knots": [[1, 0.5]]}, "knots"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({**PLAIN, **change}))
    with pytest.raises(CalibrationError, match=says) as caught:
        Calibration.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", '{"method": NaN}', "\x80"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    with pytest.raises(CalibrationError, match="is no calibration"):
        Calibration.load(file)


def test_it_holds_for_its_own_model_and_knowledge_base_whatever_their_order() -> None:
    documents = [Document(page_content=text) for text in "abc"]
    calibration = Calibration(**{**PLAIN, "knowledge_base": digest_of(documents)})
    assert calibration.mismatch(reranker="sha256:abc", knowledge_base=digest_of(documents[::-1])) is None
    other = calibration.mismatch(reranker="sha256:other", knowledge_base=digest_of(documents))
    assert other is not None
    assert "sha256:other" in other
    changed = calibration.mismatch(reranker="sha256:abc", knowledge_base=digest_of(documents[1:]))
    assert changed == "the knowledge base has changed since it was fitted"


def simulated(queries: int, *, off_topic: int = 0, seed: int = 1) -> list[Observation]:
    """Documents that are right with exactly the chance that weights (1.5, 0.5, 1) and bias -1 give them."""
    rng = random.Random(seed)
    seen = []
    for query in range(queries + off_topic):
        on_topic = query < queries
        for rank in range(1, 6):
            logit, margin, findings = rng.gauss(0, 1.5), rng.gauss(-2, 2), rng.random() < 0.7
            chance = 1 / (1 + math.exp(-(1.5 * logit + 0.5 * margin + findings - 1)))
            seen.append(Observation(query, rank, logit, margin, findings, on_topic and rng.random() < chance, on_topic))
    return seen


def test_the_weights_that_made_the_labels_are_found_again() -> None:
    calibration = fit(simulated(4_000))
    weights = (calibration.logit_weight, calibration.margin_weight, calibration.findings_weight, calibration.bias)
    assert weights == pytest.approx((1.5, 0.5, 1.0, -1.0), abs=0.1)
    features = [[seen.logit, seen.margin, seen.findings] for seen in simulated(4_000)]
    labels = [seen.right for seen in simulated(4_000)]
    plain = LogisticRegression(C=1e6).fit(features, labels)
    assert weights[:3] == pytest.approx(plain.coef_[0], abs=0.01)
    assert calibration.figures["ece_shown"] < 0.01 < calibration.figures["ece_shown_before"]


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_the_threshold_keeps_to_the_rate_of_real_queries_that_may_be_refused(method: Any, rate: float) -> None:
    calibration = fit(simulated(500, off_topic=50), method=method, false_refusal_rate=rate)
    assert calibration.figures["refused_real"] <= rate
    assert calibration.figures["refused_real"] >= rate - 0.03
    assert (calibration.figures["queries"], calibration.figures["off_topic"]) == (500, 50)
    assert calibration.false_refusal_rate == rate


def test_what_cannot_be_fitted_is_refused_with_the_reason() -> None:
    with pytest.raises(CalibrationError, match="at least 50 labelled queries with a right disease, got 49"):
        fit(simulated(49, off_topic=100))
    with pytest.raises(CalibrationError, match="got 0"):
        fit([])
    with pytest.raises(CalibrationError, match="nothing to tell apart"):
        fit([seen._replace(right=False) for seen in simulated(60)])
    with pytest.raises(CalibrationError, match="nothing to tell apart"):  # without the fold that query 7 is in
        fit([seen._replace(right=(seen.query, seen.rank) == (7, 1)) for seen in simulated(60)])
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        fit(simulated(60), false_refusal_rate=1.0)


def test_observations_are_the_first_five_documents_of_each_labelled_query() -> None:
    names = NameIndex([{"disease": f"d{i}", "aliases": [f"alias{i}"]} for i in range(8)])
    queries = [
        LabelledQuery(query="q", relevant=("alias1",)),
        LabelledQuery(query="off", relevant=()),
        LabelledQuery(query="triage only", triage="urgent"),
        LabelledQuery(query="elsewhere", relevant=("not here",)),
    ]
    documents = shown(*[(float(i), -float(i)) for i in range(8)])
    seen = observe(queries, lambda query: documents, names, lambda query: query == "q")
    assert [(o.query, o.rank, o.right, o.on_topic, o.findings) for o in seen] == [
        *((0, rank, rank == 2, True, True) for rank in range(1, 6)),
        *((1, rank, False, False, False) for rank in range(1, 6)),
    ]
    assert [(o.logit, o.margin) for o in seen[:5]] == [(float(i), -float(i)) for i in range(5)]


class Logits(TableCrossEncoder):
    def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [self.scores[document] for _, document in text_pairs]


@given(st.lists(NUMBERS, min_size=1, max_size=6), st.integers(1, 6))
def test_the_margin_is_the_distance_to_the_best_other_candidate_even_one_that_is_cut_off(
    logits: list[float], top_n: int
) -> None:
    texts = [f"t{i}" for i in range(len(logits))]
    points = {text: logit - i for i, (text, logit) in enumerate(zip(texts, logits, strict=True))}
    compressor = BGERerankerCompressor(
        cross_encoder=Logits(dict(zip(texts, logits, strict=True))),
        top_n=top_n,
        adjust=lambda query, documents: [-float(i) for i in range(len(documents))],
    )
    for document in compressor.compress_documents([Document(page_content=text) for text in texts], "q"):
        others = [value for text, value in points.items() if text != document.page_content]
        expected = points[document.page_content] - max(others) if others else None
        assert document.metadata.get("rerank_margin") == (pytest.approx(expected) if others else None)


def test_coverage_takes_off_the_log_of_the_place_in_recall() -> None:
    documents = [Document(page_content=name, metadata={"symptoms": ["发热"]}) for name in "abc"]
    weights = BlendWeights(affirmed=0, denied=0, named=0, recall=4.0, impossible=0, unlikely=0)
    first, second, third = SymptomCoverage(weights)("发烧", documents)
    # Two places are added to each, since the first few hardly differ.
    assert (first, second, third) == pytest.approx((0, -4 * math.log(4 / 3), -4 * math.log(5 / 3)))
    assert SymptomCoverage(BlendWeights(0, 0, 0, 0, 0, 0))("发烧", documents) == [0, 0, 0]


class Fixed(BaseRetriever):
    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.documents


def test_the_chain_says_nothing_below_the_threshold_and_puts_the_confidence_on_what_it_shows() -> None:
    documents = shown((2.0, 1.0), (0.5, -1.5))
    retriever = Fixed(documents=documents)
    sure = Calibration(**PLAIN)
    answer = build_answer_chain(retriever, calibration=sure).invoke("发烧两天,嗓子疼,一直咳嗽")
    said = [document.metadata["confidence"] for document in answer["documents"]]
    assert said == [sure.confidence(2.0, 1.0, True), sure.confidence(0.5, -1.5, True)]
    assert "confidence" not in documents[0].metadata
    strict = sure.model_copy(update={"threshold": 0.999})
    assert build_answer_chain(retriever, calibration=strict).invoke("发烧两天,嗓子疼,一直咳嗽")["documents"] == []
    # Without a calibration it is the score, and says so.
    plain = build_answer_chain(retriever).invoke("发烧两天,嗓子疼,一直咳嗽")["documents"]
    assert [document.metadata["confidence"] for document in plain] == [0.1, 0.1]
    assert not any(document.metadata["confidence_calibrated"] for document in plain)


def test_a_score_on_another_scale_is_no_confidence_and_no_reason_to_say_nothing(documents: list[Document]) -> None:
    places = {document.page_content: place for place, document in enumerate(documents)}
    for scale in (4.0, -2.0):  # 8.0 4.0 0.0 …, and all but the first below 0
        compressor = BGERerankerCompressor(
            cross_encoder=TableCrossEncoder({content: scale * (2 - i) for content, i in places.items()})
        )
        retriever = BGERerankRetriever(base_retriever=Fixed(documents=documents), compressor=compressor)
        answer = build_answer_chain(retriever).invoke("发烧两天,嗓子疼,一直咳嗽")
        assert len(answer["documents"]) == 5
        assert {result["confidence"] for result in answer["assessment"]["results"]} == {None}
        assert not build_answer_chain(retriever).invoke("今天天气怎么样")["documents"]


def test_a_calibration_of_another_knowledge_base_is_refused_where_the_retriever_holds_its_own(
    documents: list[Document],
) -> None:
    recall = build_hybrid_retriever(build_index(documents, HashEmbeddings()), documents)
    compressor = BGERerankerCompressor(cross_encoder=TableCrossEncoder({}))
    reranked = BGERerankRetriever(base_retriever=recall, compressor=compressor)
    own = Calibration(**{**PLAIN, "knowledge_base": digest_of(documents)})
    for retriever in (reranked, recall, BM25Retriever(documents=documents)):
        build_answer_chain(retriever, calibration=own)
        with pytest.raises(ValueError, match="the knowledge base has changed since it was fitted; fit one for it"):
            build_answer_chain(retriever, calibration=Calibration(**PLAIN))


def test_what_the_patient_affirms_counts_for_confidence_and_for_saying_nothing() -> None:
    lexicon, flags, calibration = default_lexicon(), default_red_flags(), Calibration(**PLAIN)

    def assessed(query: str) -> Assessment:
        return assess(query, shown((0.0, 0.0)), lexicon=lexicon, red_flags=flags, calibration=calibration)

    [document] = assessed("发烧两天,嗓子疼,一直咳嗽").documents
    assert document.metadata["confidence"] == pytest.approx(1 / (1 + math.exp(-1)))
    # What is past is no finding of today: 1 / (1 + e) is below the threshold.
    assert assessed("我去年发烧过,膝盖也查过").abstention.reason == "no_match"
    assert assessed("你好").documents == assessed("我没有发烧").documents == []
