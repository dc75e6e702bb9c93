"""A pattern is left out only where it could not match."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_bge_medical.clinical.folding import folded
from langchain_bge_medical.clinical.needed_words import PatternSieve, needed_words
from langchain_bge_medical.clinical.phrases import _patterns
from tests.readings import lines

PIECES = ["头", "痛", "胸口", "pain", "can't", " ", "3", "没"]
PATTERN = st.recursive(
    st.sampled_from(
        [*map(re.escape, PIECES), r"\d", ".", "[头痛]", "[^头]", "(?<!没)", "(?=头)", "(?!痛)", r"\b", "$"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: f"(?:{'|'.join(branches)})"),
        inner.map("(?:{})?".format),
        inner.map("(?:{}){{0,2}}".format),
        inner.map("(?:{})+?".format),
        inner.map("({})".format),
    ),
    max_leaves=8,
)


@given(PATTERN, st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_a_pattern_matches_holds_a_word_that_it_needs(pattern: str, text: str) -> None:
    if re.search(pattern, text):
        needed = needed_words(pattern)
        assert not needed or any(word in text for word in needed)


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("胸口.{0,8}痛", {"胸口"}),
        ("(?:胸|心)口痛", {"口痛"}),
        ("头痛|发烧", {"头痛", "发烧"}),
        ("头痛|发?", set()),
        ("(?:头痛)?|x", set()),
        ("[红肿]", {"红", "肿"}),
        ("(?i:pain)", set()),
        ("(没)(?(1)头|痛)", {"没"}),
    ],
)
def test_the_longest_words_and_fewest_are_looked_for(pattern: str, needed: set[str]) -> None:
    assert needed_words(pattern) == needed


def test_in_a_long_text_every_pattern_that_matches_is_tried() -> None:
    text = folded("。".join(line["query"] for line in lines("clinical_triage_dev")))[0]
    sieve = PatternSieve(text)
    patterns = [pattern for *_, pattern in _patterns()]
    tried = [pattern for pattern in patterns if sieve.may_match(pattern)]
    assert {p.pattern for p in patterns if p.search(text)} <= {p.pattern for p in tried}
    assert len(tried) < len(patterns)
