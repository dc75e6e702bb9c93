"""The learnt alarm: what it hears that no rule says, what it takes back, and that the corpus gives what is bundled."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_bge_medical.clinical.alarm import Alarm, default_alarm, runs, units
from langchain_bge_medical.clinical.folding import folded
from langchain_bge_medical.clinical.lexicon import default_lexicon
from langchain_bge_medical.clinical.triage import RedFlag, RedFlags, default_red_flags
from langchain_bge_medical.training.alarm import Text, fit, read, read_others
from tests.readings import lines

# Hears water with all its heart, and that something is a question.
EAR = Alarm(-1.0, {"水": (1.0, 9.0), "吗": (1.0, -9.0), "头": (1.0, 0.1), "痛": (1.0, 0.1), "?": (1.0, 0.1)})


def rule(name: str, *, always: bool = False) -> RedFlag:
    return RedFlag(
        id=name, level="emergency", when=(("头痛",),), reason={"zh": "头痛", "en": "headache"},
        advice={"zh": "快去", "en": "go"}, department="神经内科", source="test", always=always,
    )  # fmt: skip


@pytest.mark.long  # the rules read every complaint of the corpus first
def test_the_bundled_alarm_is_what_its_corpus_gives() -> None:
    made, bundled = fit(read(), read_others(RedFlags.load(default_lexicon()))), default_alarm()
    assert made.runs.keys() == bundled.runs.keys()
    # Which complaints meet no rule changes a little with the rules.
    apart = [abs(weight - bundled.runs[run][1]) for run, (_, weight) in made.runs.items()]
    assert sum(apart) / len(apart) < 0.05
    assert made.bias == pytest.approx(bundled.bias, abs=0.2)


def test_it_computes_what_scikit_learn_computes() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = read()[::4]
    queries = [text.query for text in texts]
    theirs = make_pipeline(
        TfidfVectorizer(analyzer=lambda text: list(runs(units(folded(text)[0]))), min_df=3, sublinear_tf=True),
        LogisticRegression(C=20, class_weight="balanced", max_iter=3_000),
    ).fit(queries, [text.emergency for text in texts])
    ours = fit(texts)
    others = [text.query for text in read()[1::4] if len(units(text.query)) <= 60]  # not cut into parts
    heard = [ours.hear(query).log_odds for query in others]
    judged = [i for i, log_odds in enumerate(heard) if not math.isnan(log_odds)]
    assert len(judged) > 0.9 * len(others)
    expected = theirs.decision_function([others[i] for i in judged])
    assert [heard[i] for i in judged] == pytest.approx(expected, abs=0.05)


def test_no_text_that_it_learnt_from_shares_half_its_pairs_of_characters_with_one_that_it_is_judged_by() -> None:
    def pairs(text: str) -> set[str]:
        plain = "".join(filter(str.isalnum, folded(text)[0]))
        return {plain[i : i + 2] for i in range(len(plain) - 1)}

    learnt = [pairs(text.query) for text in read()]
    having: defaultdict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(learnt):
        for pair in one:
            having[pair].append(i)
    for name in ("clinical_triage_heldout", *(f"clinical_triage_heldout{i}" for i in range(2, 7)), "heldout_triage"):
        for line in lines(name):
            judged = pairs(line["query"])
            shared = Counter(i for pair in judged for i in having[pair])
            assert all(2 * count <= len(judged | learnt[i]) for i, count in shared.items()), name


def test_words_without_a_rule_are_an_emergency_when_they_sound_like_one_and_the_words_that_say_so_are_quoted() -> None:
    triage = RedFlags([], default_lexicon(), alarm=EAR).triage("头痛头,水头水痛水")
    assert triage.level == "emergency"
    assert [(reason.rule, reason.quotes) for reason in triage.reasons] == [("sounds-like-an-emergency", ["水头水痛水"])]
    assert "120" in triage.advice


def test_a_rule_met_by_a_mere_question_says_what_to_do_if_it_happens_and_is_no_emergency() -> None:
    flags = RedFlags([rule("one")], default_lexicon(), alarm=EAR)
    assert flags.triage("头痛").level == "emergency"
    asked = flags.triage("头痛吗吗吗?头痛吗吗吗?")
    assert (asked.level, [reason.rule for reason in asked.reasons]) == ("urgent", ["one"])
    assert "如果现在" in asked.advice
    assert "120" in asked.advice


def test_a_rule_that_always_holds_is_not_talked_down() -> None:
    flags = RedFlags([rule("one"), rule("two", always=True)], default_lexicon(), alarm=EAR)
    assert flags.triage("头痛吗吗吗?头痛吗吗吗?").level == "emergency"


def test_a_few_words_are_enough_for_a_rule() -> None:
    assert RedFlags([rule("one")], default_lexicon(), alarm=EAR).triage("头痛吗吗吗?").level == "emergency"
    assert default_red_flags().triage("孩子误食老鼠药").level == "emergency"


def test_of_words_that_only_deny_nothing_is_heard() -> None:
    screaming = RedFlags([], default_lexicon(), alarm=Alarm(5.0, dict.fromkeys("我没有头痛", (1.0, 0.0))))
    assert screaming.triage("我头痛").level == "emergency"
    assert screaming.triage("我没有头痛").level == "routine"


def test_one_alarming_sentence_is_heard_in_a_long_calm_text() -> None:
    calm = "今天早上吃了两个包子,中午和同事去公园散步,晚上看了一会儿电视就睡了。"
    alarming = "刚才老伴一头栽在饭桌上,怎么喊都没有反应,嘴唇发紫。"
    ear = default_alarm()
    assert ear.hear(calm * 20).log_odds < 0 < ear.hear(calm * 20 + alarming + calm * 20).log_odds


@pytest.mark.parametrize("text", ["", "。。。", "ຂ້ອຍເຈັບຫົວ", "Мне очень плохо, вызовите врача", "🏳️‍🌈"])
def test_what_it_cannot_read_it_does_not_judge(text: str) -> None:
    assert math.isnan(default_alarm().hear(text).log_odds)
    assert default_red_flags().triage(text).level == "routine"


@given(st.text(alphabet="我爸他胸口喘不上气痛水头,。!?疼発ﷺﬃé'ab 12\n", max_size=300))
def test_the_quote_is_always_the_patients_own_words(text: str) -> None:
    heard = default_alarm().hear(text)
    assert heard.quote in text


def test_numbers_count_by_their_length_and_runs_know_the_ends() -> None:
    assert units("烧到39度,won't 5") == ["烧", "到", "00", "度", ",", "won't", "0"]
    assert list(runs(["a", "b"])) == ["^", "a", "b", "$", "^ a", "a b", "b $", "^ a b", "a b $"]


def test_a_model_learns_what_its_texts_share() -> None:
    texts = [
        Text(f"{word}在家{i}天了", emergency, "x")
        for i in range(3)
        for word, emergency in (("昏倒", True), ("散步", False))
    ]
    ear = fit(texts)
    assert ear.hear("昏倒在家").log_odds > 0 > ear.hear("散步在家").log_odds
