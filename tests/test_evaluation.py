from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field
from sklearn.calibration import calibration_curve
from sklearn.metrics import dcg_score

from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.evaluation.compare import (
    Comparison,
    JudgedQuery,
    LabelledQuery,
    NameIndex,
    QueryFileError,
    abstention,
    calibration_of,
    compare,
    departments_of,
    judged,
    no_rerank_guard,
    read_queries,
    triage_accuracy,
)
from langchain_bge_medical.evaluation.intervals import FEWEST_UNITS, difference, mean_interval
from langchain_bge_medical.evaluation.metrics import (
    expected_calibration_error,
    first_hit,
    hit_at,
    ndcg_at,
    outranks,
    recall_at,
    reciprocal_rank_at,
    reliability,
)
from langchain_bge_medical.evaluation.report import guard_lines, html_report
from langchain_bge_medical.evaluation.stages import by_logit, names_of, recalled, reranked
from tests.conftest import TableCrossEncoder


def ndcg_by_scikit_learn(ranking: Sequence[str], relevant: set[str], k: int) -> float:
    # Names that are not ranked go last, in any order: they get no credit, but they are part of the best order.
    names = [*ranking, *(name for name in "abcdefgh" if name not in ranking)]
    truth = [float(name in relevant) for name in names]
    scores = [float(len(names) - i) for i in range(len(names))]
    cut = [value if i < min(k, len(ranking)) else 0.0 for i, value in enumerate(truth)]
    ideal = dcg_score([sorted(truth, reverse=True)], [scores], k=k)
    return float(dcg_score([cut], [scores], k=k) / ideal)


NAMES = st.sampled_from("abcdefgh")
RANKINGS = st.lists(NAMES, unique=True)
SETS = st.sets(NAMES)


@settings(deadline=None)
@given(RANKINGS, SETS, st.integers(0, 10))
def test_metrics_agree_with_counting_rank_by_rank(ranking: list[str], relevant: set[str], k: int) -> None:
    first, found = None, 0
    for rank in range(1, len(ranking) + 1):
        if ranking[rank - 1] in relevant:
            first = first or rank
            found += rank <= k
    assert first_hit(ranking, relevant) == first
    assert hit_at(ranking, relevant, k) == (1.0 if first is not None and first <= k else 0.0)
    assert reciprocal_rank_at(ranking, relevant, k) == (1 / first if first is not None and first <= k else 0.0)
    if relevant:
        assert recall_at(ranking, relevant, k) == found / len(relevant)
        if k:
            assert ndcg_at(ranking, relevant, k) == pytest.approx(ndcg_by_scikit_learn(ranking, relevant, k))


@settings(deadline=None)
@given(RANKINGS, SETS, SETS)
def test_outranks_agrees_with_comparing_every_pair(
    ranking: list[str], relevant: set[str], irrelevant: set[str]
) -> None:
    places = {name: ranking.index(name) if name in ranking else 99 for name in "abcdefgh"}
    expected = any(places[good] < 99 and all(places[good] < places[bad] for bad in irrelevant) for good in relevant)
    assert outranks(ranking, relevant, irrelevant) is expected


@settings(deadline=None)
@given(RANKINGS, SETS.filter(bool))
def test_metrics_only_grow_with_k(ranking: list[str], relevant: set[str]) -> None:
    for metric in (hit_at, reciprocal_rank_at, recall_at):  # nDCG's best order grows with k too
        values = [metric(ranking, relevant, k) for k in range(10)]
        assert values == sorted(values)


def test_recall_and_ndcg_of_nothing_are_refused() -> None:
    for metric in (recall_at, ndcg_at):
        with pytest.raises(ValueError, match="not defined"):
            metric(["a"], [], 1)


def test_a_repeated_name_is_recalled_once() -> None:
    assert recall_at(["a", "a"], ["a", "b", "b"], 2) == 0.5
    assert ndcg_at(["a", "a"], ["a"], 2) == 1.0


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_a_query_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        b'\xef\xbb\xbf{"query": "\xe5\x8f\x91\xe7\x83\xa7", "relevant": ["a"], "irrelevant": ["b"], "note": 1}\r',
        "",
        '{"query": "股票", "relevant": [], "tags": ["off_topic"], "line": "99"}',
        '{"query": "胸痛", "triage": "not_emergency"}',
    )
    assert read_queries(path) == [
        LabelledQuery(query="发烧", relevant=("a",), irrelevant=("b",), line=1),
        LabelledQuery(query="股票", relevant=(), tags=("off_topic",), line=3),
        LabelledQuery(query="胸痛", triage="not_emergency", line=4),
    ]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8")).filter(str.strip))
def test_any_query_text_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write(path, json.dumps({"query": text}, ensure_ascii=False), '{"query": "2"}')
    assert [query.query for query in read_queries(path)] == [text, "2"]


SECRET = "病人张三说胸痛"


@pytest.mark.parametrize(
    "line",
    [
        f"{SECRET}",
        f'{{"query": "{SECRET}"',
        f'{{"query": ["{SECRET}"]}}',
        f'{{"query": "{SECRET}", "relevant": "{SECRET}"}}',
        f'{{"query": "{SECRET}", "relevant": [["{SECRET}"]]}}',
        f'{{"query": "{SECRET}", "triage": "{SECRET}"}}',
        f'{{"text": "{SECRET}"}}',
        f'{{"query": "", "tags": ["{SECRET}"]}}',
        f'{{"query": " \u3000", "tags": ["{SECRET}"]}}',
        f'["{SECRET}"]',
        f'"{SECRET}"',
        f'{{"query": "{SECRET}"}}'.encode("gb18030"),
        "[" * 100_000 + SECRET,
    ],
)
def test_a_bad_line_is_named_by_its_number_and_never_by_its_text(tmp_path: Path, line: str | bytes) -> None:
    path = write(tmp_path / "q.jsonl", '{"query": "发烧"}', "", line, '{"query": "头痛"}')
    with pytest.raises(QueryFileError, match=r"q\.jsonl, line 3: ") as caught:
        read_queries(path)
    for part in ("张三", "胸痛", *("张三".encode("gb18030").decode("latin-1"),)):
        assert part not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_queries_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(QueryFileError, match="holds no query"):
        read_queries(write(tmp_path / "q.jsonl", *lines))


def test_a_missing_file_is_the_systems_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_queries(tmp_path / "none.jsonl")


RECORDS: list[dict[str, Any]] = [
    {"disease": "糖尿病并发症(高血糖状态)", "aliases": ["高血糖", "DKA"]},
    {"disease": "感冒", "aliases": ["流感"]},
    {"disease": "流感", "aliases": ["Flu", "高血糖"]},
    {"disease": "中耳炎", "aliases": "耳朵发炎、 AOM"},
    {"disease": "肾炎", "aliases": None},
]
INDEX = NameIndex(RECORDS)


@pytest.mark.parametrize(
    ("name", "disease"),
    [
        ("糖尿病并发症（高血糖状态）", "糖尿病并发症(高血糖状态)"),
        ("ｄｋａ", "糖尿病并发症(高血糖状态)"),
        (" FLU ", "流感"),
        ("流感", "流感"),
        ("高血糖", "糖尿病并发症(高血糖状态)"),
        ("aom", "中耳炎"),
        ("耳", None),
        ("麻疹", None),
    ],
)
def test_a_disease_is_found_by_name_before_alias_whatever_the_width_and_case(name: str, disease: str | None) -> None:
    assert INDEX.get(name) == disease


def labelled(*queries: dict[str, Any]) -> list[LabelledQuery]:
    return [LabelledQuery.model_validate({**query, "line": i}) for i, query in enumerate(queries, start=1)]


def comparison_of(queries: Sequence[dict[str, Any]], **rankings: dict[str, Sequence[str]]) -> Comparison:
    rows, _ = judged(labelled(*queries), INDEX)
    return compare(rows, {stage: found.__getitem__ for stage, found in rankings.items()})


def test_stages_are_the_means_of_the_metrics_over_the_queries_that_have_relevant_names() -> None:
    queries = [
        {"query": "1", "relevant": ["Flu"], "irrelevant": ["感冒"]},
        {"query": "2", "relevant": ["中耳炎", "DKA"], "irrelevant": ["流感"]},
        {"query": "3", "relevant": []},
        {"query": "4", "triage": "urgent"},
        {"query": "5", "relevant": ["麻疹"], "irrelevant": ["水痘"]},
    ]
    found = comparison_of(queries, bm25={"1": ["流感", "感冒"], "2": ["流感", "中耳炎"], "5": ["流感"]})
    assert judged(labelled(*queries), INDEX)[1] == ["麻疹", "水痘"]
    # nDCG of the second: its one hit at rank 2 is worth 1/log2(3), the best order of two 1 + 1/log2(3).
    assert found.table() == {
        "bm25": {
            "hit@1": 0.3333,
            "hit@3": 0.6667,
            "hit@5": 0.6667,
            "mrr@10": 0.5,
            "ndcg@10": round((1 + (1 / 1.58496) / (1 + 1 / 1.58496)) / 3, 4),
            "recall@50": 0.5,
        }
    }
    # That the last one's irrelevant name, which the knowledge base lacks, is outranked says nothing.
    assert found.pairwise() == {"n": 2, "bm25": 0.5}


def test_each_query_is_ranked_once_by_each_stage() -> None:
    asked: list[tuple[str, str]] = []

    def stage(name: str) -> Any:
        return lambda text: asked.append((name, text)) or ["流感"]

    rows, _ = judged(labelled(*({"query": text, "relevant": ["流感"]} for text in "12")), INDEX)
    result = compare(iter(rows), {"dense": stage("dense"), "rerank": stage("rerank")})
    assert asked == [("dense", "1"), ("rerank", "1"), ("dense", "2"), ("rerank", "2")]
    assert list(result.table()) == ["dense", "rerank"]
    assert result.pairwise() == {"n": 0, "dense": None, "rerank": None}


def test_nothing_to_judge_has_no_figures() -> None:
    nothing = comparison_of([], bm25={})
    assert set(nothing.table()["bm25"].values()) == {None}
    assert set(nothing.intervals()["bm25"].values()) == {None}
    assert nothing.difference("bm25", "bm25", "mrr@10") is None
    assert no_rerank_guard(nothing, "bm25", ["bm25"])["stages"] == {"bm25": None}
    assert (nothing.worse("bm25", "bm25"), nothing.parts(lambda query: query.tags)) == ([], {})


def test_abstention_counts_refusals_of_off_topic_and_of_real_queries_apart() -> None:
    labels: list[tuple[str, tuple[str, ...] | None]] = [("x", ()), ("y", ()), ("z", ("流感",)), ("w", None)]
    queries = [LabelledQuery(query=text, relevant=relevant) for text, relevant in labels]
    assert abstention(queries, lambda text: text in "xw") == {
        "n_off_topic": 2,
        "refused_off_topic": 0.5,
        "n_real": 1,
        "refused_real": 0.0,
    }
    assert abstention([], lambda _: True)["refused_real"] is None


def test_triage_accuracy_tells_emergencies_from_the_rest() -> None:
    labels: list[Any] = ["emergency", "emergency", "not_emergency", "not_emergency", "urgent", None]
    levels = dict(zip("abcdef", ["emergency", "urgent", "emergency", "routine", "urgent", "emergency"], strict=True))
    queries = [LabelledQuery(query=text, triage=label) for text, label in zip("abcdef", labels, strict=True)]
    assert triage_accuracy(queries, levels.__getitem__) == {
        "n_emergency": 2,
        "emergency_recall": 0.5,
        "n_other": 3,
        "false_alarms": 0.3333,
        "exact": 0.6667,
    }


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.2, 0.9]), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_calibration_error_agrees_with_numpy_over_equal_bins(said: list[tuple[float, bool]], bins: int) -> None:
    confidences, outcomes = zip(*said, strict=True)
    values, place, counts = np.unique(np.array(confidences), return_inverse=True, return_counts=True)
    ordered = np.stack([values, np.bincount(place, outcomes) / counts], axis=1).repeat(counts, axis=0)
    edges = [round(i * len(ordered) / min(bins, len(ordered))) for i in range(1, min(bins, len(ordered)))]
    parts = np.split(ordered, edges)
    expected = sum(len(part) * abs(part[:, 0].mean() - part[:, 1].mean()) for part in parts) / len(ordered)
    assert expected_calibration_error(confidences, outcomes, bins) == pytest.approx(expected)
    assert sum(bin_.n for bin_ in reliability(confidences, outcomes, bins)) == len(said)


def test_a_bin_of_one_confidence_has_the_share_of_truth_of_all_that_have_it() -> None:
    right = [i % 10 != 0 for i in range(100)]
    assert [bin_.correct for bin_ in reliability([0.9] * 100, right)] == pytest.approx([0.9] * 10)
    assert expected_calibration_error([0.9] * 100, right) == pytest.approx(0)
    # scikit-learn's bins are the same where no edge cuts a tie: 20 of each confidence, two bins of 10.
    rng = np.random.default_rng(0)
    confidences = np.repeat(rng.random(5), 20)
    outcomes = rng.random(100) < 0.5
    correct, confidence = calibration_curve(outcomes, confidences, n_bins=5, strategy="quantile")
    found = reliability(confidences.tolist(), outcomes.tolist())
    assert [bin_.confidence for bin_ in found] == pytest.approx(confidence.repeat(2))
    assert [bin_.correct for bin_ in found] == pytest.approx(correct.repeat(2))


def test_a_confidence_that_keeps_its_word_has_no_calibration_error_and_nothing_said_has_none() -> None:
    assert expected_calibration_error([0.5, 0.5], [True, False], 1) == 0
    assert expected_calibration_error([1.0] * 4, [False] * 4) == 1
    assert expected_calibration_error([], []) is None


def test_a_bootstrap_interval_agrees_with_the_normal_approximation_of_the_mean() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(400)
    low, high = mean_interval(values.tolist()) or (0, 0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert mean_interval(values.tolist()) == (low, high)
    assert mean_interval([]) is None


def test_values_that_stand_or_fall_together_make_a_wider_interval() -> None:
    rng = np.random.default_rng(4)
    by_disease = np.repeat(rng.random(30), 10)
    alone = mean_interval(by_disease.tolist()) or (0, 0)
    grouped = mean_interval(by_disease.tolist(), groups=np.repeat(np.arange(30), 10).tolist()) or (0, 0)
    # Ten equal values tell no more than one does: the interval is that of 30 values, √10 as wide.
    assert (grouped[1] - grouped[0]) / (alone[1] - alone[0]) == pytest.approx(10**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.1] * 40, "better"),
        ([-0.1] * 40, "worse"),
        ([0.1, -0.1] * 20, "no difference shown"),
        ([0.0] * 40, "no difference shown"),
        ([1.0] * (FEWEST_UNITS - 1), "too few queries"),
    ],
)
def test_better_is_only_said_where_the_interval_leaves_zero_out(gains: list[float], verdict: str) -> None:
    found = difference([0.0] * len(gains), gains)
    assert found is not None
    assert found.verdict == verdict
    assert found.as_json()["verdict"] == verdict


def test_many_queries_about_few_diseases_are_too_few() -> None:
    found = difference([0.0] * 90, [1.0] * 90, groups=[i % 9 for i in range(90)])
    assert found is not None
    assert (found.units, found.verdict) == (9, "too few queries")


def forty_queries(relevant: str = "流感") -> list[dict[str, Any]]:
    return [{"query": str(i), "relevant": [relevant], "tags": ["even"] if i % 2 == 0 else ["odd"]} for i in range(40)]


def test_the_guard_says_whether_reranking_beats_recall_on_these_queries() -> None:
    def about(diseases: int) -> Comparison:
        right = [f"病{i % diseases}" for i in range(40)]
        return comparison_of(
            [{"query": str(i), "relevant": [right[i]]} for i in range(40)],
            hybrid={str(i): [right[i], "感冒"] if i < 20 else ["感冒", right[i]] for i in range(40)},
            rerank={str(i): [right[i], "感冒"] for i in range(40)},
            blend={str(i): ["感冒", right[i]] for i in range(40)},
        )

    found = about(40)
    guard = no_rerank_guard(found, "hybrid", ["rerank", "blend"])
    assert {stage: gain["verdict"] for stage, gain in guard["stages"].items()} == {"rerank": "better", "blend": "worse"}
    assert guard["stages"]["rerank"]["mean"] == 0.25
    assert guard_lines(guard, "en")[0].startswith("rerank is better than hybrid (mrr@10 +0.250 [")
    assert guard_lines(guard, "zh")[1].startswith("blend 不如 hybrid")
    # Many queries about few diseases show little.
    few = no_rerank_guard(about(9), "hybrid", ["rerank"])["stages"]["rerank"]
    assert (few["mean"], few["units"], few["verdict"]) == (0.25, 9, "too few queries")


def test_parts_have_their_own_figures_and_a_query_counts_in_each_of_its_own() -> None:
    found = comparison_of(
        [*forty_queries(), {"query": "x", "relevant": ["中耳炎", "流感"]}],
        hybrid={**{str(i): ["流感"] if i % 2 == 0 else ["感冒"] for i in range(40)}, "x": ["中耳炎"]},
    )
    tags = found.parts(lambda query: query.tags)
    assert {tag: (part["n"], part["stages"]["hybrid"]["hit@1"]) for tag, part in tags.items()} == {
        "even": (20, 1.0),
        "odd": (20, 0.0),
    }
    departments = found.parts(departments_of({"流感": "呼吸内科、发热门诊", "中耳炎": "耳鼻喉科"}))
    assert {name: part["n"] for name, part in departments.items()} == {"呼吸内科": 41, "发热门诊": 41, "耳鼻喉科": 1}


def test_queries_that_got_worse_are_named_by_line_with_both_ranks_the_worst_first() -> None:
    queries = [{"query": text, "relevant": ["流感"]} for text in ("same", "lost", "fell", "rose")]
    top, low = ["流感", "感冒"], ["感冒", "中耳炎", "流感"]
    found = comparison_of(
        queries,
        hybrid={"same": top, "lost": top, "fell": top, "rose": low},
        rerank={"same": top, "lost": ["感冒"], "fell": low, "rose": top},
    )
    assert found.worse("hybrid", "rerank") == [
        {"line": 2, "before": 1, "after": None, "first": "感冒", "relevant": ["流感"]},
        {"line": 3, "before": 1, "after": 3, "first": "感冒", "relevant": ["流感"]},
    ]


def test_confidence_is_held_against_what_came_true() -> None:
    rows = [JudgedQuery(i, str(i), frozenset({"流感"}), frozenset(), ()) for i in range(4)]
    said = {"0": ("流感", 0.9), "1": ("流感", 0.8), "2": ("感冒", 0.1), "3": None}
    found = calibration_of(rows, said.__getitem__)
    assert found.n == 3
    assert found.ece == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    assert found.as_json()["bins"][0] == {"n": 1, "confidence": 0.1, "right": 0.0}


class Counting(BaseRetriever):
    asked: list[str] = Field(default_factory=list)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        self.asked.append(query)
        return [Document(page_content=name, metadata={"disease": name}) for name in "abcd"]


def test_stages_share_what_they_find_and_ask_each_query_once() -> None:
    retriever = Counting()
    encoder = TableCrossEncoder({"a": 0.1, "b": 0.9, "c": 0.5})
    candidates = recalled(retriever, 3)
    find = reranked(candidates, BGERerankerCompressor(cross_encoder=encoder, top_n=None))
    for _ in range(2):
        assert names_of(candidates)("q") == ["a", "b", "c"]
        assert names_of(find)("q") == ["b", "c", "a"]
    assert retriever.asked == ["q"]
    assert len(encoder.calls) == 1


def test_the_models_own_order_is_that_of_its_logits_whatever_was_added_to_them() -> None:
    rows = [("a", 1.0, 2), ("b", 3.0, 3), ("blank", None, 4), ("c", 3.0, 1)]
    documents = [
        Document(page_content=name, metadata={"disease": name, "relevance_logit": logit, "recall_rank": rank})
        for name, logit, rank in rows
    ]
    assert names_of(by_logit(lambda query: documents))("q") == ["c", "b", "a"]


def test_the_order_of_a_model_without_logits_is_that_of_its_scores() -> None:
    compressor = BGERerankerCompressor(
        cross_encoder=TableCrossEncoder({"a": 0.1, "b": 0.9, "c": 0.5}),
        top_n=None,
        adjust=lambda query, documents: [9.0, 0.0, 4.0],
    )
    find = reranked(recalled(Counting(), 3), compressor)
    assert names_of(find)("q") == ["a", "c", "b"]
    assert names_of(by_logit(find))("q") == ["b", "c", "a"]


def test_the_page_of_queries_that_are_all_right_has_its_points_at_the_ends_of_the_axes() -> None:
    found = comparison_of([{"query": "q", "relevant": ["流感"]}], hybrid={"q": ["流感"]}, blend={"q": ["流感", "感冒"]})
    report = {
        "n": 1,
        "stages": found.table(),
        "intervals": found.intervals(),
        "guard": no_rerank_guard(found, "hybrid", ["blend"]),
        "pairwise": found.pairwise(),
    }
    root = ElementTree.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", html_report(report, found, words={})))
    dots, curves = root.findall(".//circle"), root.findall(".//polyline")
    assert {dot.attrib["cx"] for dot in dots} == {"880.0"}  # 20 before the edge
    assert {point.split(",")[1] for curve in curves for point in curve.attrib["points"].split()} == {"10.0"}
    assert (len(dots), len(curves)) == (8, 2)


def test_the_page_escapes_what_it_shows_and_holds_the_words_of_queries_that_got_worse_only() -> None:
    words = {1: "<script>alert(1)</script>", 2: "kept to itself"}
    found = comparison_of(
        [{"query": words[1], "relevant": ["流感"]}, {"query": words[2], "relevant": ["流感"]}],
        hybrid={words[1]: ["流感"], words[2]: ["流感"]},
        blend={words[1]: ["感冒<b>", "流感"], words[2]: ["流感"]},
    )
    report = {
        "n": 2,
        "stages": found.table(),
        "intervals": found.intervals(),
        "guard": no_rerank_guard(found, "hybrid", ["blend"]),
        "pairwise": found.pairwise(),
        "departments": found.parts(departments_of({"流感": "呼吸内科"})),
        "worse": {"from": "hybrid", "stage": "blend", "queries": found.worse("hybrid", "blend")},
    }
    bins = reliability([0.2, 0.8], [False, True])
    page = html_report({**report, "calibration": {"n": 2, "ece": 0.2}}, found, words=words, calibration=bins, lang="en")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "kept to itself" not in page
    assert "感冒&lt;b&gt;" in page
    root = ElementTree.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>", "", page))  # every tag is closed
    assert len(root.findall(".//svg")) == 3
    assert "http" not in re.sub(r"<style>.*?</style>", "", page)  # nothing is fetched
    empty = comparison_of([], hybrid={})
    shown = {"n": 0, "stages": empty.table(), "worse": {"queries": [], "from": "hybrid", "stage": "blend"}}
    assert "<svg" not in html_report(shown, empty, words={})
