from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_bge_medical.evaluation.compare import (
    LabelledQuery,
    NameIndex,
    QueryFileError,
    abstention,
    compare_stages,
    read_queries,
    triage_accuracy,
)
from langchain_bge_medical.evaluation.metrics import first_hit, hit_at, outranks, recall_at, reciprocal_rank_at

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
    for metric in (hit_at, reciprocal_rank_at, recall_at):
        values = [metric(ranking, relevant, k) for k in range(10)]
        assert values == sorted(values)


def test_recall_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not defined"):
        recall_at(["a"], [], 1)


def test_a_repeated_name_is_recalled_once() -> None:
    assert recall_at(["a", "a"], ["a", "b", "b"], 2) == 0.5


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_a_query_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        b'\xef\xbb\xbf{"query": "\xe5\x8f\x91\xe7\x83\xa7", "relevant": ["a"], "irrelevant": ["b"], "note": 1}\r',
        "",
        '{"query": "股票", "relevant": []}',
        '{"query": "胸痛", "triage": "not_emergency"}',
    )
    assert read_queries(path) == [
        LabelledQuery(query="发烧", relevant=("a",), irrelevant=("b",)),
        LabelledQuery(query="股票", relevant=()),
        LabelledQuery(query="胸痛", triage="not_emergency"),
    ]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8")))
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
    {"disease": "中耳炎"},
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
        ("麻疹", None),
    ],
)
def test_a_disease_is_found_by_name_before_alias_whatever_the_width_and_case(name: str, disease: str | None) -> None:
    assert INDEX.get(name) == disease


def table(*queries: dict[str, Any], rankings: dict[str, Sequence[str]]) -> dict[str, Any]:
    labelled = [LabelledQuery.model_validate(query) for query in queries]
    return compare_stages(labelled, {"bm25": lambda text: rankings[text]}, INDEX)


def test_stages_are_the_means_of_the_metrics_over_the_queries_that_have_relevant_names() -> None:
    result = table(
        {"query": "1", "relevant": ["Flu"], "irrelevant": ["感冒"]},
        {"query": "2", "relevant": ["中耳炎", "DKA"], "irrelevant": ["流感"]},
        {"query": "3", "relevant": []},
        {"query": "4", "triage": "urgent"},
        {"query": "5", "relevant": ["麻疹"], "irrelevant": ["水痘"]},
        rankings={"1": ["流感", "感冒"], "2": ["流感", "中耳炎"], "5": ["流感"]},
    )
    assert result == {
        "n": 3,
        "stages": {"bm25": {"hit@1": 0.3333, "hit@3": 0.6667, "hit@5": 0.6667, "mrr@10": 0.5, "recall@50": 0.5}},
        "pairwise": {"n": 3, "bm25": 0.3333},
        "missing_from_kb": ["麻疹", "水痘"],
    }


def test_each_query_is_ranked_once_by_each_stage() -> None:
    asked: list[tuple[str, str]] = []

    def stage(name: str) -> Any:
        return lambda text: asked.append((name, text)) or ["流感"]

    queries = [LabelledQuery(query=text, relevant=("流感",)) for text in "12"]
    result = compare_stages(queries, {"dense": stage("dense"), "rerank": stage("rerank")}, INDEX)
    assert asked == [("dense", "1"), ("dense", "2"), ("rerank", "1"), ("rerank", "2")]
    assert list(result["stages"]) == ["dense", "rerank"]
    assert result["pairwise"] == {"n": 0, "dense": None, "rerank": None}


def test_nothing_to_judge_has_no_figures() -> None:
    result = table(rankings={})
    assert result["n"] == 0
    assert set(result["stages"]["bm25"].values()) == {None}


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
