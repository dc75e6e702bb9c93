from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_bge_medical.clinical.lexicon import LexiconEntry, SymptomLexicon, plain_form
from tests.linear import takes_linear_time

ENTRIES = [
    LexiconEntry(term="发热", colloquial=("发烧",), en=("fever",), opposite=("体温正常",)),
    LexiconEntry(term="头痛", colloquial=("头疼",), en=("headache",)),
    LexiconEntry(term="晨起头痛"),
    LexiconEntry(term="皮疹", en=("rash",)),
    LexiconEntry(term="体重下降", colloquial=("掉了10kg",)),
    LexiconEntry(term="食欲减退", colloquial=("吃不下",), opposite=("胃口好",)),
]
LEXICON = SymptomLexicon(ENTRIES)
FORMS = [form for e in ENTRIES for form in (e.term, *e.colloquial, *e.en, *e.opposite)]

# Words of the lexicon among every kind of character that does not keep its place under NFKC or in UTF-16.
ODD = [
    "🤒",
    "👨‍👩‍👧",
    "㎏",
    "℃",
    "…",
    "㍿",
    "ﬀ",
    "İ",
    "ß",
    "\ud83e",
    "\udd12",
    "é",
    "é",
    "Ａ",
    "０",
    "，",
    "發燒",
    "頭痛",
    "\x00",
    "\u2028",
]
TEXTS = st.lists(st.one_of(st.sampled_from(FORMS + ODD), st.text(max_size=5), st.characters(codec=None))).map("".join)


def brute_force(text: str) -> list[tuple[int, int]]:
    """Leftmost, longest, without overlaps, over ASCII-free forms of plain text; tries every form everywhere."""
    spans, i = [], 0
    while i < len(text):
        longest = max((len(form) for form in FORMS if text.startswith(form, i)), default=0)
        if longest:
            spans.append((i, i + longest))
        i += max(1, longest)
    return spans


@settings(deadline=None)
@given(TEXTS)
def test_each_mention_slices_to_a_form_of_its_term_in_any_text(text: str) -> None:
    end = 0
    for mention in LEXICON.find(text):
        assert end <= mention.start < mention.end <= len(text)
        end = mention.end
        entry = LEXICON.entries[mention.term]
        forms = entry.opposite if mention.opposite else (entry.term, *entry.colloquial, *entry.en)
        said = plain_form(text[mention.start : mention.end])[0]
        # At its edges a mention may hold a character that unfolds to more than the form, such as ㎏.
        assert any(plain_form(form)[0] in said for form in forms)


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"发热烧头痛疼晨起体温正常吃不下胃口好，。"])).map("".join))
def test_find_agrees_with_trying_every_form_at_every_place(text: str) -> None:
    assert [(mention.start, mention.end) for mention in LEXICON.find(text)] == brute_force(text)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec=None)))
def test_plain_form_gives_every_character_the_place_it_came_from(text: str) -> None:
    plain, offsets = plain_form(text)
    assert len(plain) == len(offsets)
    assert list(offsets) == sorted(offsets)
    assert set(offsets) == set(range(len(text)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("昨晚發燒了", "發燒"),
        ("ＦＥＶＥＲ 39℃", "ＦＥＶＥＲ"),
        ("🤒🤒头疼", "头疼"),
        ("掉了10㎏", "掉了10㎏"),
        ("掉了１０ＫＧ", "掉了１０ＫＧ"),
        ("\ud83e头痛\ud83e", "头痛"),
    ],
)
def test_twins_of_the_characters_are_found_and_quoted_as_written(text: str, said: str) -> None:
    [mention] = LEXICON.find(text)
    assert text[mention.start : mention.end] == said


def test_a_character_that_unfolds_is_not_shared_by_two_mentions() -> None:
    lexicon = SymptomLexicon([LexiconEntry(term="株式"), LexiconEntry(term="会社")])
    assert [mention.term for mention in lexicon.find("㍿株式会社")] == ["株式", "株式", "会社"]


def test_the_longest_form_is_found() -> None:
    assert [mention.term for mention in LEXICON.find("晨起头痛")] == ["晨起头痛"]


@pytest.mark.parametrize("text", ["crash", "rashes", "feverish"])
def test_an_english_form_is_not_found_inside_a_word(text: str) -> None:
    assert LEXICON.find(text) == []


@pytest.mark.parametrize("text", ["rash", "a rash, ", "3rash", "有rash吗", "RASH"])
def test_an_english_form_is_found_as_a_word(text: str) -> None:
    assert [mention.term for mention in LEXICON.find(text)] == ["皮疹"]


def test_the_contrary_of_a_term_is_marked() -> None:
    assert [(mention.term, mention.opposite) for mention in LEXICON.find("胃口好，发烧")] == [
        ("食欲减退", True),
        ("发热", False),
    ]


def test_of_two_entries_with_one_form_or_term_the_first_has_it() -> None:
    lexicon = SymptomLexicon(
        [
            LexiconEntry(term="甲", colloquial=("丙",)),
            LexiconEntry(term="乙", colloquial=("丙",)),
            LexiconEntry(term="甲"),
        ]
    )
    assert [mention.term for mention in lexicon.find("丙")] == ["甲"]
    assert lexicon.forms("甲") == ("丙",)


def test_a_term_goes_before_another_terms_form() -> None:
    lexicon = SymptomLexicon([LexiconEntry(term="甲", colloquial=("乙",)), LexiconEntry(term="乙")])
    assert [mention.term for mention in lexicon.find("乙")] == ["乙"]


def test_forms_are_the_other_ways_to_say_a_term_and_empty_for_an_unknown_one() -> None:
    assert LEXICON.forms("发热") == ("发烧", "fever")
    assert LEXICON.forms("不在词表里") == ()


def test_with_terms_adds_what_is_missing_and_leaves_the_original_alone() -> None:
    wider = LEXICON.with_terms(["发热", "呃逆", "呃逆"])
    assert [mention.term for mention in wider.find("呃逆，发烧")] == ["呃逆", "发热"]
    assert "呃逆" not in LEXICON.entries
    assert wider.entries["发热"] == LEXICON.entries["发热"]


def test_nothing_is_found_in_nothing() -> None:
    assert (
        LEXICON.find("")
        == SymptomLexicon([]).find("发热")
        == SymptomLexicon([LexiconEntry(term="")]).find("发热")
        == []
    )


def test_an_entry_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        LexiconEntry.model_validate({"term": "发热", "colloquia": []})


@pytest.fixture(scope="module")
def bundled() -> SymptomLexicon:
    return SymptomLexicon.load()


@pytest.mark.parametrize(
    "unit", ["胸", "头痛", "头", "胸口正中间像有块大石头压", "a", "fever", "pain radiating to left ar", "㎏", "發"]
)
def test_find_takes_linear_time_on_100_kilobytes(bundled: SymptomLexicon, unit: str) -> None:
    assert takes_linear_time(bundled.find, unit, 100_000)


def test_a_prefix_of_the_longest_form_over_and_over_takes_linear_time(bundled: SymptomLexicon) -> None:
    longest = max((form for e in bundled.entries.values() for form in (e.term, *e.colloquial, *e.en)), key=len)
    assert takes_linear_time(bundled.find, longest[:-1], 100_000)
