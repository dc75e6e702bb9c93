from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_bge_medical.clinical.occlusion import clauses_of, faithfulness, occlusion, random_spans

POINTS = {"发烧": 3.0, "咳嗽": 2.0, "头痛": -1.0}


class Additive:
    """The score is the sum of the points of the words that query and text share, so that every effect is known."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def __call__(self, pairs: list[tuple[str, str]]) -> Sequence[float]:
        self.calls.append(list(pairs))
        return [sum(p for word, p in POINTS.items() if word in query and word in text) for query, text in pairs]


def test_the_drop_of_a_clause_is_what_it_adds_and_everything_is_asked_in_one_batch() -> None:
    score = Additive()
    effects = occlusion("发烧三天,一直咳嗽;有点头痛", ["发烧、咳嗽", "头痛、发烧"], score)
    assert [[(effect.clause.text, effect.drop) for effect in row] for row in effects] == [
        [("发烧三天", 3.0), ("一直咳嗽", 2.0), ("有点头痛", 0.0)],
        [("发烧三天", 3.0), ("一直咳嗽", 0.0), ("有点头痛", -1.0)],
    ]
    assert [len(call) for call in score.calls] == [2 * (3 + 1)]


def test_only_the_longest_clauses_are_left_out_where_there_are_many() -> None:
    [row] = occlusion(",".join("痛" * n for n in range(2, 14)), ["x"], Additive(), most=4)
    assert [len(effect.clause.text) for effect in row] == [10, 11, 12, 13]


@pytest.mark.parametrize("query", ["", "发烧", ",,。", "发烧三天没有别的"])
def test_one_clause_cannot_be_left_out(query: str) -> None:
    score = Additive()
    assert occlusion(query, ["甲", "乙"], score) == [[], []]
    assert score.calls == []


@pytest.mark.parametrize(
    ("query", "variants"),
    [
        (
            "I have a cough, a fever, a headache",
            ["a fever, a headache", "I have a cough, a headache", "I have a cough, a fever"],
        ),
        ("是什么病？发烧，咳嗽。", ["发烧，咳嗽。", "是什么病？咳嗽。", "是什么病？发烧。"]),
        (
            "I cough. Fever of 38.5. No rash.",
            ["Fever of 38.5. No rash.", "I cough. No rash.", "I cough. Fever of 38.5."],
        ),
        ("发烧。。咳嗽 , 头痛", ["咳嗽 , 头痛", "发烧。。头痛", "发烧。。咳嗽"]),
    ],
)
def test_without_a_clause_the_rest_of_the_query_and_its_punctuation_are_as_they_were(
    query: str, variants: list[str]
) -> None:
    score = Additive()
    occlusion(query, ["x"], score)
    assert [asked for asked, _ in score.calls[0]] == [query, *variants]


def test_spans_inside_a_clause_are_left_out_without_a_comma_in_their_place() -> None:
    score = Additive()
    query = "a bad cough today, some fever"
    faithfulness(query, "x", [(6, 11), (2, 8), (19, 23)], score)
    assert score.calls[0][1] == ("a today, fever", "x")


@given(st.text(alphabet="发烧咳,。.5;、 \n!a😀", max_size=60))
def test_clauses_slice_to_their_text_in_order_without_overlap(query: str) -> None:
    position = 0
    for clause in clauses_of(query):
        assert query[clause.start : clause.end] == clause.text == clause.text.strip()
        assert clause.start >= position
        position = clause.end


def test_spans_that_carry_the_score_are_comprehensive_and_sufficient_and_others_are_not() -> None:
    query = "家里没人,发烧了,天气不好"
    where = query.index("发烧")
    good = faithfulness(query, "发烧", [(where, where + 2)], Additive())
    assert good == (3.0, 0.0)
    bad = faithfulness(query, "发烧", [(0, 2)], Additive())
    assert bad == (0.0, 3.0)


def test_all_or_nothing_of_a_query_explains_nothing() -> None:
    assert faithfulness("发烧", "发烧", [(0, 2)], Additive()) is None
    assert faithfulness("发烧", "发烧", [], Additive()) is None


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 10), st.integers(1, 10)), max_size=4), st.integers())
def test_random_spans_have_the_same_lengths_and_lie_inside(query: str, pairs: list[tuple[int, int]], seed: int) -> None:
    spans = [(start, start + length) for start, length in pairs if start + length <= len(query)]
    placed = random_spans(query, spans, random.Random(seed))
    assert [end - start for start, end in placed] == [end - start for start, end in spans]
    assert all(start >= 0 and end <= len(query) for start, end in placed)
