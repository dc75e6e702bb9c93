from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_bge_medical.clinical.alarm import Alarm, Heard
from langchain_bge_medical.clinical.lexicon import LexiconEntry, SymptomLexicon
from langchain_bge_medical.clinical.triage import RedFlag, RedFlags, default_red_flags, usual_triage
from tests.linear import takes_linear_time
from tests.readings import MISREAD, TRIAGE, misread
from tests.test_lexicon import TEXTS

RULE_FILE = Path(__file__).parents[1] / "langchain_bge_medical" / "resources" / "red_flags.json"
RULE_IDS = [rule["id"] for rule in json.loads(RULE_FILE.read_text("utf-8"))["rules"]]
EXAMPLES = json.loads((Path(__file__).parent / "data" / "red_flag_examples.json").read_text("utf-8"))
FLAGS = default_red_flags()
LEXICON = SymptomLexicon(
    [
        LexiconEntry(term="胸痛", colloquial=("胸口疼",), en=("chest pain",)),
        LexiconEntry(term="出冷汗"),
        LexiconEntry(term="发热", colloquial=("发烧",)),
    ]
)


def rule(
    *when: tuple[str, ...], name: str = "a-rule", level: str = "emergency", unless: tuple[str, ...] = ()
) -> RedFlag:
    texts = {"zh": f"{name}的", "en": f"of {name}"}
    return RedFlag.model_validate(
        {
            "id": name, "level": level, "when": when, "unless": unless, "reason": texts, "advice": texts,
            "department": f"{name}科", "source": "s",
        }
    )  # fmt: skip


def flags(*rules: RedFlag) -> RedFlags:
    return RedFlags(rules, LEXICON)


def fired(text: str, using: RedFlags = FLAGS) -> dict[str, list[str]]:
    return {reason.rule: reason.quotes for reason in using.triage(text).reasons}


def test_every_rule_has_an_example_and_every_example_a_rule() -> None:
    assert sorted(EXAMPLES) == sorted(RULE_IDS)


@pytest.mark.parametrize("rule_id", RULE_IDS)
def test_the_example_of_a_rule_fires_it_and_is_quoted(rule_id: str) -> None:
    text = EXAMPLES.get(rule_id, "")
    quotes = fired(text).get(rule_id)
    assert quotes
    assert all(quote in text for quote in quotes)


@pytest.mark.parametrize("name", TRIAGE)
def test_every_development_complaint_that_was_judged_right_still_is(name: str) -> None:
    assert misread(name) == json.loads(MISREAD.read_text("utf-8"))[name]


def test_rule_ids_are_unique() -> None:
    assert len(set(RULE_IDS)) == len(RULE_IDS)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(list(EXAMPLES.values())))
def test_quotes_are_the_patients_own_words_in_any_text(noise: str, example: str) -> None:
    text = f"{noise}。{example}"
    for reason in FLAGS.triage(text).reasons:
        assert reason.quotes
        assert all(quote and quote in text for quote in reason.quotes)


@pytest.mark.parametrize(
    "text",
    [
        "没有胸痛",
        "沒有胸痛",
        "没有胸痛，就是有点咳嗽",
        "没有胸痛也没有呼吸困难",
        "胸痛、胸闷、出冷汗都没有",
        "无胸痛、呼吸困难、出冷汗",
        "否认胸痛，呼吸困难，晕厥",
        "I don’t have chest pain or trouble breathing",
        "no chest pain, no shortness of breath",
        "体温38.5℃，沒有胸痛，沒有呼吸困難",
        "",
        "🤒",
        "怎么炒股",
    ],
)
def test_what_is_denied_is_no_alarm(text: str) -> None:
    assert FLAGS.triage(text).level == "routine"
    assert FLAGS.triage(text).reasons == []


@pytest.mark.parametrize(
    "text",
    [
        "胸口疼，喘不上气",
        "胸口疼，喘不上氣",
        "浑身无力，胸口疼，喘不上气",
        "没有发烧，胸口疼，喘不上气",
        "没发烧。胸口疼，喘不上气",
        "我妈胸口疼，喘不上气，我现在该怎么办",
        "No fever. Chest pain and shortness of breath.",
    ],
)
def test_a_denial_or_weakness_nearby_does_not_hide_an_emergency(text: str) -> None:
    assert FLAGS.triage(text).level == "emergency"


@pytest.mark.parametrize(
    "text",
    [
        "孩子发烧三天了,耳朵后面有点红肿,摸起来疼。",
        "孩子發燒三天了，耳朵後面有點紅腫",
        "发烧，耳后红肿",
        "发烧，耳朵后面不红，肿了",
    ],
)
def test_fever_with_redness_behind_the_ear_is_seen_today_by_an_ent_doctor(text: str) -> None:
    triage = FLAGS.triage(text)
    assert triage.level in ("urgent", "emergency")
    assert "fever-behind-ear" in [reason.rule for reason in triage.reasons]
    assert "耳鼻喉科" in triage.departments
    assert triage.advice


@pytest.mark.parametrize(
    "text",
    [
        "没有发烧，耳朵后面红肿",
        "发烧，耳朵后面没有红肿",
        "发烧，耳朵后面不红不肿",
        "发烧，耳朵后面不疼",
        "发烧，耳朵疼",
    ],
)
def test_without_fever_or_redness_behind_the_ear_that_rule_is_silent(text: str) -> None:
    assert "fever-behind-ear" not in fired(text)


@pytest.mark.parametrize("text", ["鼻子痒,连打好多喷嚏,流清鼻涕", "鼻子堵了半天还没好", "鼻子不通气,用了鼻喷雾还是堵"])
def test_a_nose_that_itches_or_is_blocked_is_no_nosebleed(text: str) -> None:
    assert not any(rule.startswith("nosebleed") for rule in fired(text))


@pytest.mark.parametrize("text", ["流鼻血半个多小时止不住", "我在吃华法林,鼻子流血", "鼻孔里一直往外冒血,血块都出来了"])
def test_a_nosebleed_that_does_not_stop_is(text: str) -> None:
    assert any(rule.startswith("nosebleed") for rule in fired(text))


def test_one_alternative_of_each_group_must_be_affirmed() -> None:
    both = flags(rule(("胸痛", "~心口.{0,4}疼"), ("出冷汗", "~大汗")))
    assert fired("胸口疼，大汗", both) == {"a-rule": ["胸口疼", "大汗"]}
    assert fired("心口一阵疼，出冷汗", both) == {"a-rule": ["心口一阵疼", "出冷汗"]}
    assert fired("胸口疼", both) == fired("胸口疼，没有出冷汗", both) == {}


def test_a_rule_is_stopped_by_an_affirmed_exception_only() -> None:
    unless = flags(rule(("胸痛",), unless=("发热",)))
    assert fired("胸痛，发烧", unless) == {}
    assert fired("胸痛，没有发烧", unless) == {"a-rule": ["胸痛"]}


@pytest.mark.parametrize("text", ["以前胸痛过", "我发烧，我妈胸痛"])
def test_what_is_past_or_somebody_elses_is_no_alarm(text: str) -> None:
    assert fired(text, flags(rule(("胸痛",)), rule(("~胸.{0,2}痛",), name="b"))) == {}


def test_what_is_suspected_is_an_alarm() -> None:
    assert fired("可能胸痛", flags(rule(("胸痛",)))) == {"a-rule": ["胸痛"]}


@pytest.mark.parametrize(
    ("text", "quotes"),
    [
        ("口唇发紫", ["口唇发紫"]),
        ("口脣發紫", ["口脣發紫"]),
        ("没有口唇发紫", None),
        ("口唇不发紫", None),
        ("没有胸痛、口唇发紫", None),
        ("否认发热，胸痛，口唇发紫", None),
        ("口唇有点发紫没有了", None),
        ("没发烧还口唇发紫", ["口唇发紫"]),
        ("浑身无力，口唇发紫", ["口唇发紫"]),
    ],
)
def test_a_pattern_is_denied_as_a_term_is(text: str, quotes: list[str] | None) -> None:
    assert fired(text, flags(rule(("~口唇.{0,4}发[紫青]",)))).get("a-rule") == quotes


def test_a_pattern_may_hold_a_denial_itself() -> None:
    using = flags(rule((r"~叫.{0,2}不醒|won.?t wake",)))
    assert fired("怎么叫都不醒", using) == {"a-rule": ["叫都不醒"]}
    assert fired("she won't wake up", using) == {"a-rule": ["won't wake"]}


def test_an_english_pattern_begins_at_a_words_start() -> None:
    using = flags(rule(("~raped|ate (?:the )?pills",)))
    assert fired("scraped my knee", using) == fired("plate pills", using) == {}
    assert fired("i was raped", using) == {"a-rule": ["raped"]}
    assert fired("孩子ate pills", using) == {"a-rule": ["ate pills"]}


def test_a_text_about_no_patient_alarms_nobody() -> None:
    using = RedFlags([rule(("胸痛",))], LEXICON, {"不是病人": ["~小说里"]})
    assert fired("小说里的人胸痛", using) == {}
    assert fired("看小说时胸痛", using) == {"a-rule": ["胸痛"]}


@pytest.mark.parametrize(
    "text",
    ["我家狗抽搐了", "my cat is choking on a hairball", "写小说，角色被捅一刀，多久能恢复", "梦见自己不能呼吸"],
)
def test_pets_fiction_and_dreams_are_no_emergency(text: str) -> None:
    assert FLAGS.triage(text).level != "emergency"


@pytest.mark.parametrize(
    ("context", "yes", "no"),
    [
        (
            "@infant",
            ["新生儿胸痛", "胸痛，孩子三个月大", "5个月的宝宝胸痛", "my 3 months old, chest pain"],
            ["孩子胸痛", "胸痛三个月了"],
        ),
        ("@child", ["我儿子胸痛", "3岁，胸痛", "寶寶胸痛"], ["我胸痛", "73岁，胸痛", "33岁胸痛"]),
        (
            "@pregnant",
            ["怀孕三个月，胸痛", "孕32周胸痛", "懷孕了，胸痛"],
            ["没有怀孕，胸痛", "没怀孕，胸痛", "备怀孕，胸痛", "胸痛"],
        ),
        ("@elderly", ["奶奶胸痛", "70岁，胸痛", "八十多岁，胸痛"], ["60岁，胸痛", "170岁胸痛", "我胸痛"]),
    ],
)
def test_a_rule_may_ask_who_the_patient_is(context: str, yes: list[str], no: list[str]) -> None:
    using = flags(rule(("胸痛",), (context,)))
    for text in yes:
        [quotes] = fired(text, using).values()
        assert all(quote in text for quote in quotes)
    assert [text for text in no if fired(text, using)] == []


def test_the_gravest_rule_gives_level_and_advice_and_stands_first() -> None:
    using = flags(rule(("发热",), name="b", level="urgent"), rule(("胸痛",), name="a"))
    triage = using.triage("发烧，胸痛")
    assert (triage.level, triage.advice) == ("emergency", "a的")
    assert [reason.rule for reason in triage.reasons] == ["a", "b"]
    assert triage.departments == ["a科", "b科"]
    assert using.triage("发烧").level == "urgent"


def test_texts_come_in_the_language_asked_for() -> None:
    triage = flags(rule(("胸痛",))).triage("chest pain", lang="en")
    assert (triage.reasons[0].text, triage.advice) == ("of a-rule", "of a-rule")
    assert flags().triage("chest pain", lang="en").advice.isascii()


@pytest.mark.parametrize(
    ("usual", "level"),
    [
        (None, "routine"),
        ("emergency", "urgent"),
        ("urgent", "urgent"),
        ("routine", "routine"),
        ("self_care", "self_care"),
    ],
)
def test_the_usual_urgency_of_a_disease_alone_makes_no_emergency(usual: Any, level: str) -> None:
    triage = flags().triage("头痛", usual=usual)
    assert (triage.level, triage.reasons) == (level, [])
    assert triage.advice


def test_the_usual_urgency_does_not_lower_a_red_flag() -> None:
    assert flags(rule(("胸痛",))).triage("胸痛", usual="self_care").level == "emergency"


@pytest.mark.parametrize(
    ("alternative", "problem"),
    [
        ("没有这个词", "'没有这个词' is not in the symptom lexicon"),
        ("~(", r"'~\(' is no regular expression: .*unterminated"),
        ("~<没有>", "'~<没有>' is no regular expression: '没有'"),
        ("@adult", "'@adult' is none of @young_infant, @infant, @child, @pregnant, @elderly"),
        ("$没有", r"'\$没有' is no concept of the rule file"),
        ("#temperature=39", "'#temperature=39' is no value such as #temperature>=39"),
    ],
)
@pytest.mark.parametrize("field", ["when", "unless"])
def test_a_rule_that_cannot_be_applied_is_refused_by_name(alternative: str, problem: str, field: str) -> None:
    broken = rule((alternative,)) if field == "when" else rule(("胸痛",), unless=(alternative,))
    with pytest.raises(ValueError, match=f"red flag a-rule: .*{problem}"):
        flags(broken)


def test_a_concept_that_cannot_be_applied_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"concept 痛: '\$没有' is no concept"):
        RedFlags([], LEXICON, {"痛": ["$没有"]})


def test_a_rule_file_is_read_with_its_fragments_its_concepts_and_the_alarm(tmp_path: Path) -> None:
    rules = [
        rule(("~<很红>肿",), name="swollen"),
        rule(("$痛",), ("#temperature>=38.5",), name="hot", level="urgent"),
        rule(("~一",), unless=("$痛",), name="one"),
    ]
    file = tmp_path / "rules.json"
    content = {
        "fragments": {"很红": "<红><红>", "红": "<色>|赤", "色": "红"},
        "concepts": {"痛": ["~疼", "$更痛"], "更痛": ["胸痛", "$痛"]},
        "rules": [json.loads(one.model_dump_json()) for one in rules],
    }
    file.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    read = RedFlags.load(LEXICON, file)
    assert fired("皮肤赤红肿", read) == {"swollen": ["赤红肿"]}
    assert fired("皮肤红肿", read) == {}
    assert fired("腿疼，39度", read) == {"hot": ["疼", "39度"]}
    assert fired("胸口疼，体温38.6", read) == {"hot": ["疼", "38.6"]}
    assert fired("腿疼，38度", read) == fired("一，胸痛", read) == {}
    assert fired("一", read) == {"one": ["一"]}
    assert read.triage("随便一说").level == "emergency"
    assert RedFlags.load(LEXICON, file, alarm=hearing(1.0)).triage("别的").reasons[0].rule == "sounds-like-an-emergency"


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("孩子13岁，胸痛", True),
        ("13岁，胸痛", True),
        ("14岁，胸痛", False),
        ("我孩子17岁，胸痛", True),
        ("我孩子18岁，胸痛", False),
        ("孩子，胸痛", True),
        ("胸痛", False),
    ],
)
def test_a_child_is_younger_than_14_or_called_one_and_not_of_age(text: str, is_met: bool) -> None:
    assert bool(fired(text, flags(rule(("@child",), ("胸痛",))))) is is_met


@pytest.mark.parametrize(
    ("text", "quotes"),
    [("血压190/110", ["190/110"]), ("血压170/110", None), ("高压190", ["高压190"]), ("心率190", None)],
)
def test_the_upper_value_of_a_blood_pressure_counts(text: str, quotes: list[str] | None) -> None:
    said = fired(text, flags(rule(("#systolic>=180",)))).get("a-rule")
    assert (said is None) == (quotes is None)
    assert said is None or (len(said) == 1 and quotes is not None and said[0].endswith(quotes[0]))


def hearing(log_odds: float, units: int = 20) -> Alarm:
    """An alarm that hears the same in every text."""

    class Same(Alarm):
        def hear(self, text: str) -> Heard:
            return Heard(log_odds=log_odds, units=units, quote=text[:2])

    return Same(0.0, {})


@pytest.mark.parametrize(("log_odds", "level"), [(0.1, "emergency"), (0.0, "routine"), (-9.0, "routine")])
def test_what_sounds_like_an_emergency_is_one_without_a_rule(log_odds: float, level: str) -> None:
    triage = RedFlags([], LEXICON, alarm=hearing(log_odds)).triage("别的话")
    assert triage.level == level
    if level == "emergency":
        assert triage.departments == ["急诊科"]
        assert [(reason.rule, reason.quotes) for reason in triage.reasons] == [("sounds-like-an-emergency", ["别的"])]
        assert triage.reasons[0].text == "这些话听起来像急症;请由急诊医生判断。"
        assert triage.advice == "请立即拨打120或前往最近的急诊。"


def test_what_sounds_like_an_emergency_stands_before_the_rules_that_were_met() -> None:
    urgent = rule(("发热",), name="hot", level="urgent")
    triage = RedFlags([urgent], LEXICON, alarm=hearing(0.6)).triage("发烧", lang="en")
    assert [reason.rule for reason in triage.reasons] == ["sounds-like-an-emergency", "hot"]
    assert triage.departments == ["急诊科", "hot科"]
    assert triage.reasons[0].text.isascii()
    assert "ambulance" in triage.advice


def test_words_that_only_deny_sound_like_nothing() -> None:
    assert RedFlags([], LEXICON, alarm=hearing(9.0)).triage("没有胸痛").level == "routine"


def test_an_emergency_that_a_rule_met_is_not_said_twice() -> None:
    triage = RedFlags([rule(("胸痛",))], LEXICON, alarm=hearing(9.0)).triage("胸痛")
    assert [reason.rule for reason in triage.reasons] == ["a-rule"]


@pytest.mark.parametrize(
    ("log_odds", "units", "always", "level"),
    [
        (-2.8, 12, False, "urgent"),
        (-2.2, 12, False, "emergency"),
        (-2.8, 11, False, "emergency"),
        (-2.8, 12, True, "emergency"),
    ],
)
def test_a_rule_is_taken_back_by_long_calm_words_unless_it_always_stands(
    log_odds: float, units: int, always: bool, level: str
) -> None:
    flag = rule(("胸痛",)).model_copy(update={"always": always})
    triage = RedFlags([flag], LEXICON, alarm=hearing(log_odds, units)).triage("胸痛")
    assert triage.level == level
    assert [reason.rule for reason in triage.reasons] == ["a-rule"]
    if level == "urgent":
        assert triage.advice == "如果现在有人正是这样,请立即拨打120或前往最近的急诊。"


def test_the_usual_urgency_is_told_in_chinese_unless_asked_otherwise() -> None:
    assert usual_triage("emergency").advice == flags().triage("头痛", usual="urgent").advice == "请今天就去医院就诊。"
    assert usual_triage(None, "en").advice.isascii()


@pytest.mark.parametrize("usual", ["high", "立即", 3, ["urgent"]])
def test_an_urgency_that_is_no_level_counts_as_none(usual: Any) -> None:
    assert usual_triage(usual) == usual_triage(None)


def test_a_rule_without_groups_is_refused() -> None:
    with pytest.raises(ValidationError):
        rule()


@pytest.mark.parametrize("unit", ["胸口疼，", "没有胸痛、", "肚子痛", "突然", "汗", "a ", "耳朵后面"])
def test_triage_of_a_long_text_takes_linear_time(unit: str) -> None:
    assert takes_linear_time(FLAGS.triage, unit, 5_000)
