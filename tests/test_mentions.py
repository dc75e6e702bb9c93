from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_bge_medical.clinical.lexicon import LexiconEntry, SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.mentions import folded, mentions_of
from tests.linear import takes_linear_time
from tests.test_lexicon import TEXTS

LEXICON = SymptomLexicon.load()
SMALL = SymptomLexicon(
    [
        LexiconEntry(term="头晕", colloquial=("头发晕",)),
        LexiconEntry(term="咽痛", colloquial=("嗓子疼", "喉咙痛"), en=("sore throat", "throat pain")),
        LexiconEntry(term="膝关节疼痛", colloquial=("膝盖疼",), en=("knee pain",)),
        LexiconEntry(term="膝关节肿胀", colloquial=("膝盖肿",)),
        LexiconEntry(term="发热", colloquial=("发烧",), opposite=("体温正常",)),
        LexiconEntry(term="高热"),
        LexiconEntry(term="低热"),
        LexiconEntry(term="血压升高"),
        LexiconEntry(term="听力下降"),
        LexiconEntry(term="足趾发黑", colloquial=("脚趾头黑得像炭",)),
    ]
)


def said(text: str, lexicon: SymptomLexicon = SMALL) -> list[tuple[str, str, bool]]:
    return [(text[m.start : m.end], m.term, m.opposite) for m in mentions_of(text, lexicon)]


@settings(deadline=None)
@given(TEXTS)
def test_mentions_stand_in_order_without_overlaps_inside_any_text(text: str) -> None:
    end = 0
    for mention in mentions_of(text, LEXICON):
        assert end <= mention.start < mention.end <= len(text)
        end = mention.end


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("头还是有点晕", ("头还是有点晕", "头晕", False)),
        ("嗓子特别疼", ("嗓子特别疼", "咽痛", False)),
        ("喉嚨痛", ("喉嚨痛", "咽痛", False)),
        ("嗓子左边一阵一阵地疼", ("嗓子左边一阵一阵地疼", "咽痛", False)),
        ("发了三天烧", ("发了三天烧", "发热", False)),
        ("my throat is really sore", ("my throat is really sore", "咽痛", False)),
    ],
)
def test_words_between_the_characters_of_a_form_do_not_hide_it(text: str, expected: tuple[str, str, bool]) -> None:
    [found] = said(text)
    assert found[1:] == expected[1:]
    assert expected[0].endswith(found[0]) or found[0] in expected[0]


@pytest.mark.parametrize(
    "text", ["头不晕", "嗓子也不疼", "膝盖倒是不疼", "嗓子一点都不疼", "喉咙没有痛", "脖子... 頭不暈"]
)
def test_a_denial_between_them_makes_it_the_contrary(text: str) -> None:
    assert said(text)[-1][2] is True


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("膝盖疼", ["膝关节疼痛"]),
        ("膝盖这几天又红又肿", ["膝关节肿胀"]),
        ("膝盖疼,没肿", ["膝关节疼痛", "膝关节肿胀"]),
        ("pain in my knee", ["膝关节疼痛"]),
    ],
)
def test_body_part_and_complaint_make_the_term_that_the_lexicon_knows_even_over_a_comma(
    text: str, terms: list[str]
) -> None:
    assert [term for _, term, _ in said(text)] == terms


@pytest.mark.parametrize(
    "text", ["喘", "没吐", "不痒", "咳个不停", "浑身没劲", "尿血", "腿抽筋", "抬不起胳膊", "she vomited", "itchy"]
)
def test_a_complaint_alone_is_one_even_where_no_term_says_it(text: str) -> None:
    assert len(said(text, SymptomLexicon([]))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "太麻烦了",
        "芝麻糊",
        "吃了酸奶",
        "烧烤店",
        "刷抖音",
        "堵车",
        "我的手机",
        "头发很长",
        "石头很大",
        "担心",
        "关心",
        "打开窗户",
        "困难户",
        "吃面条",
        "背包",
        "血压计坏了",
        "差不多",
        "深圳",
        "干什么",
        "大家好",
        "黄瓜",
        "外面下雨了",
        "医生您好",
    ],
)
def test_everyday_words_that_hold_a_complaint_are_none(text: str) -> None:
    assert said(text, SymptomLexicon([])) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("烧到39度5", ("高热", False)),
        ("体温38.2", ("发热", False)),
        ("37.6度,有点烧", ("低热", False)),
        ("体温36.5", ("发热", True)),
        ("血压180/110", ("血压升高", False)),
        ("血压120/80", ("血压升高", True)),
        ("听力一直正常", ("听力下降", True)),
        ("体温正常", ("发热", True)),
    ],
)
def test_measured_values_and_what_is_as_it_should_be_say_a_term_or_its_contrary(
    text: str, expected: tuple[str, bool]
) -> None:
    assert expected in [(term, opposite) for _, term, opposite in said(text)]


@pytest.mark.parametrize(
    ("text", "said"), [("小便时刺痛", "小便时刺痛"), ("小便的时候刺疼，头痛", "小便的时候刺疼"), ("排尿时刺", "尿时刺")]
)
def test_the_kind_of_a_pain_is_quoted_with_the_word_for_it(text: str, said: str) -> None:
    mention = mentions_of(text, default_lexicon())[0]
    assert text[mention.start : mention.end] == said


def test_a_paraphrase_that_shares_most_of_a_form_is_found() -> None:
    assert said("脚趾头都黑得跟炭似的了") == [("脚趾头都黑得跟炭", "足趾发黑", False)]


@pytest.mark.parametrize(
    ("text", "term"),
    [("恶新", "恶心"), ("腿中了", "下肢水肿"), ("便密三天", "便秘"), ("心荒", "心悸"), ("腰通", "腰痛")],
)
def test_a_short_form_is_found_in_characters_of_the_same_sound(text: str, term: str) -> None:
    assert term in [found for _, found, _ in said(text, LEXICON)]


@pytest.mark.parametrize("text", ["前阵子很忙", "有糖果", "发言稿", "脱鞋进屋", "晨间新闻"])
def test_usual_words_are_no_mistyped_forms(text: str) -> None:
    assert said(text, LEXICON) == []


@pytest.mark.parametrize(
    "clause",
    ["跟木墙似的", "扣子都扣不上", "越写越小", "走路得扶着墙", "feels like a mask", "keeps dropping pencils"],
)
def test_a_clause_that_describes_a_complaint_is_one_beside_another_but_not_by_itself(clause: str) -> None:
    latin = clause.isascii()
    text = f"dizzy for days, it {clause}" if latin else f"头晕好几天了，手{clause}"
    assert said(text, LEXICON)[1:]
    assert said("网页打不开，越刷越慢", LEXICON) == []


@pytest.mark.parametrize(
    ("text", "term"), [("夜里睡得着", "失眠"), ("饭照吃", "食欲减退"), ("can still walk", "行走困难")]
)
def test_what_somebody_can_do_denies_that_they_cannot(text: str, term: str) -> None:
    assert (term, True) in [(found, opposite) for _, found, opposite in said(text, LEXICON)]


def test_the_words_that_differ_decide_that_it_is_none() -> None:
    assert said("脚趾头白得像纸") == []


def test_a_form_before_which_something_is_denied_is_not_taken_over_the_denial() -> None:
    lexicon = SymptomLexicon(
        [LexiconEntry(term="干咳", colloquial=("咳嗽没痰",)), LexiconEntry(term="咳嗽"), LexiconEntry(term="咳痰")]
    )
    assert [term for _, term, _ in said("没咳嗽没痰", lexicon)] == ["咳嗽", "咳痰"]
    assert [term for _, term, _ in said("咳嗽没痰", lexicon)] == ["干咳"]


@given(st.text())
def test_folding_keeps_the_place_of_every_character(text: str) -> None:
    plain, offsets = folded(text)
    assert len(plain) == len(offsets)
    assert set(offsets) == set(range(len(text)))


@pytest.mark.parametrize(
    "unit",
    [
        "头",
        "头有点",
        "头很很很",
        "没有",
        "不",
        "嗓子疼",
        "膝盖疼,",
        "39度",
        "a ",
        "the my his ",
        "脚趾头黑得像",
        "，",
        "肿",
        "痒不痒",
        "头也头也",
        "也都又就头",
        "又酸又",
        "need to pee",
        "倒是",
        "像",
        "往外",
        "腿中",
        "一动就",
        "越来越",
    ],
)
def test_finding_mentions_takes_linear_time_on_100_kilobytes(unit: str) -> None:
    assert takes_linear_time(lambda text: mentions_of(text, LEXICON), unit, 34_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("脖子不红不硬", ["脖子不红", "硬"]),
        ("吃得多还瘦", ["吃得多", "瘦"]),
        ("话说多了，痰不多", ["痰"]),
        ("头晕，睡一觉全好了", ["头晕"]),
        ("我妈高血压，头晕，现在量着130", ["头晕", "现在量着130"]),
    ],
)
def test_each_complaint_is_one_mention_and_nothing_else_is(text: str, words: list[str]) -> None:
    assert [text[m.start : m.end] for m in mentions_of(text, LEXICON)] == words


@pytest.mark.parametrize("text", ["心脏搭过桥", "摔了一跤", "吞东西也顺", "老毛病", "要不要紧", "手足口"])
def test_a_cause_an_operation_or_what_goes_smoothly_is_no_complaint(text: str) -> None:
    found = mentions_of(f"头痛，{text}", LEXICON)
    assert [mention.term for mention in found] == ["头痛"]


@pytest.mark.parametrize(
    "text",
    [
        "降压药漏吃了一次要补吗",
        "手脚麻利得很",
        "脸上干干净净的",
        "腹水抽了两次",
        "can I take ibuprofen with my blood pressure pills",
        "喝中药第四天就不拉了",
        "腰椎手术做完了",
    ],
)
def test_drugs_skills_and_operations_that_hold_a_symptoms_word_are_not_that_symptom(text: str) -> None:
    terms = {mention.term for mention in mentions_of(text, LEXICON)}
    assert not terms & {"尿失禁", "手足麻木", "皮肤干燥", "抽搐", "出血", "便秘", "其他表现"}


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("孩子又抽了", "抽搐"),
        ("昨晚睡不找觉", "失眠"),
        ("吃降糖药老低血糖", "低血糖发作"),
        ("总说有人骂他", "幻听"),
        ("38.6 since last night", "发热"),
        ("这两天老是频尿", "尿频"),
        ("clumps of hair in the shower", "脱发"),
    ],
)
def test_everyday_and_mistyped_words_for_a_symptom_are_found(text: str, term: str) -> None:
    assert term in {mention.term for mention in mentions_of(text, LEXICON)}


@pytest.mark.parametrize("text", ["体重38.5kg", "鞋码38.5码", "优惠38.5元", "肌酐40.2%"])
def test_a_bare_number_with_another_unit_is_no_temperature(text: str) -> None:
    assert not {"发热", "高热", "低热"} & {mention.term for mention in mentions_of(text, LEXICON)}
