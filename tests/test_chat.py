from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableGenerator, RunnableLambda

from langchain_bge_medical.chains import NOTICE, build_answer_chain
from langchain_bge_medical.chat import ChatSession, completed
from langchain_bge_medical.clinical.lexicon import Lang, SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.mentions import mentions_of
from langchain_bge_medical.clinical.next_question import _ask
from langchain_bge_medical.clinical.polarity import Reading, findings
from langchain_bge_medical.clinical.triage import default_red_flags
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_knowledge_base
from langchain_bge_medical.retrievers import BM25Retriever
from tests.linear import takes_linear_time

answer_chain = functools.partial(build_answer_chain, lexicon=SymptomLexicon.load())  # half a second to load


class Recording:
    """A chain that answers in two pieces and notes what it was given."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []
        self.fails = False
        self.session = ChatSession(RunnableLambda(self._answer))

    def _answer(self, given: dict[str, Any]) -> Any:
        self.given.append(given)
        if self.fails:
            raise ConnectionError("no model")
        return {"documents": [Document(page_content=given["query"])], "answer": f"答{len(self.given)}"}


@pytest.fixture
def recording() -> Recording:
    return Recording()


def test_a_follow_up_adds_to_the_picture(recording: Recording) -> None:
    for sentence in ("我咳嗽三天了。", " 还发烧 ", "没有胸痛."):
        list(recording.session.ask(sentence))
    assert [given["query"] for given in recording.given] == [
        "我咳嗽三天了",
        "我咳嗽三天了。还发烧",
        "我咳嗽三天了。还发烧。没有胸痛",
    ]
    assert recording.session.said == ["我咳嗽三天了。", " 还发烧 ", "没有胸痛."]


def test_the_model_is_shown_what_was_said_and_answered_before(recording: Recording) -> None:
    list(recording.session.ask("咳嗽"))
    list(recording.session.ask("发烧"))
    assert recording.given[0]["history"] == []
    assert recording.given[1]["history"] == [HumanMessage("咳嗽"), AIMessage("答1")]


def test_new_forgets_everything(recording: Recording) -> None:
    list(recording.session.ask("咳嗽"))
    recording.session.new()
    assert (recording.session.said, recording.session.documents, recording.session.assessment) == ([], [], {})
    list(recording.session.ask("头痛"))
    assert recording.given[-1] == {"query": "头痛", "history": []}


def test_two_sessions_know_nothing_of_each_other(documents: list[Document]) -> None:
    chain = answer_chain(BM25Retriever(documents=documents))
    one, two = ChatSession(chain), ChatSession(chain)
    list(one.ask("耳痛"))
    assert (two.said, two.documents) == ([], [])


def test_documents_are_set_before_the_first_piece_of_the_answer(documents: list[Document]) -> None:
    session = ChatSession(answer_chain(BM25Retriever(documents=documents)))
    pieces = session.ask("耳痛流脓")
    next(pieces)
    assert session.documents[0].metadata["disease"] == "中耳炎"


def test_a_symptom_told_later_changes_the_documents(documents: list[Document]) -> None:
    session = ChatSession(answer_chain(BM25Retriever(documents=documents)))
    list(session.ask("我发热"))
    before = [document.id for document in session.documents]
    list(session.ask("腹泻呕吐,肚子痛"))
    assert session.documents[0].metadata["disease"] == "急性胃肠炎"
    assert [document.id for document in session.documents] != before


def test_red_flags_that_only_show_over_two_sentences_are_seen(documents: list[Document]) -> None:
    session = ChatSession(answer_chain(BM25Retriever(documents=documents)))
    assert "【紧急】" not in "".join(session.ask("我胸痛"))
    assert "".join(session.ask("出了一身冷汗")).startswith("【紧急】")


def test_the_pieces_are_never_empty_and_end_with_the_notice(documents: list[Document]) -> None:
    replies = ["可能与中耳炎有关[1]。", "建议到耳鼻喉科就诊,考虑中耳炎[1]。"]
    session = ChatSession(answer_chain(BM25Retriever(documents=documents), FakeListChatModel(responses=replies)))
    for reply in replies:
        pieces = list(session.ask("耳痛"))
        assert all(pieces)
        assert "".join(pieces).startswith(reply)
        assert pieces[-1].endswith(NOTICE["zh"])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("有", "出现{}"),
        ("有的。", "出现{}"),
        ("是", "出现{}"),
        ("没有", "没有出现{}"),
        ("No", "没有出现{}"),
        ("没有！", "没有出现{}"),
        ("没有呢", "没有出现{}"),
        ("No, I don't.", "没有出现{}"),
        ("有！", "出现{}"),
        ("是的,有", "出现{}"),
        ("Yes, I do.", "出现{}"),
        ("没有,有三天了", "没有,有三天了"),
        ("没有胸痛", "没有胸痛"),
        ("有三天了", "有三天了"),
    ],
)
def test_a_bare_yes_or_no_answers_the_question_that_was_asked(reply: str, said: str, documents: list[Document]) -> None:
    session = ChatSession(answer_chain(BM25Retriever(documents=documents)))
    list(session.ask("发热"))
    term = session.assessment["next_question"]["term"]
    list(session.ask(reply))
    assert session.said == ["发热", said.format(term)]


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize(
    ("reply", "said"), [("有", "present"), ("没有", "absent"), ("no", "absent"), ("Yes", "present")]
)
def test_a_bare_reply_is_read_with_the_question_that_an_answer_ends_in(
    reply: str, said: str, lang: Lang, documents: list[Document]
) -> None:
    first = answer_chain(BM25Retriever(documents=documents), lang=lang).invoke("发热")
    asked = first["assessment"]["next_question"]["term"]
    sentence = completed(reply, first["answer"])
    assert [(f.term, f.status) for f in findings(sentence, default_lexicon())] == [(asked, said)]
    assert completed(reply, "多喝水。") == reply
    assert completed("有三天了", first["answer"]) == "有三天了"


def test_a_bare_reply_to_a_question_is_read_as_it_is_meant_and_a_no_is_no_alarm() -> None:
    lexicon, flags = default_lexicon(), default_red_flags()
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    terms = sorted({symptom for document in documents for symptom in document.metadata["symptoms"]})
    # A part of some is a symptom of its own together with 有 or 没有: 没有尿, 没有表情, 没有痰.
    hard = "尿道口红肿 胎动减少 脉搏偏慢 兴趣减退 表情呆板 晨勃减少 痰量增多 痰中带血 痰有臭味 呼气有烂苹果味"
    for term in (*hard.split(), *terms[::25]):
        question = f"再请问:{_ask(term, lexicon, 'zh')}"
        yes, no = completed("有", question), completed("没有", question)
        assert (term, "present") in [(f.term, f.status) for f in findings(yes, lexicon)], yes
        reading = Reading(no, mentions_of(no, lexicon))
        assert (term, "absent") in [(f.term, f.status) for f in reading.findings], no
        assert all(f.status == "absent" for f in reading.findings), no
        assert not flags.triage(no, reading=reading).reasons, no


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_session_says_for_a_bare_reply_what_the_service_says(lang: Lang, documents: list[Document]) -> None:
    session = ChatSession(answer_chain(BM25Retriever(documents=documents), lang=lang))
    answer = "".join(session.ask("发热"))
    list(session.ask("no"))
    assert session.said[-1] == completed("no", answer) != "no"


def test_an_answer_that_asks_thousands_of_times_is_read_in_linear_time() -> None:
    unit = "One more question: Do you have this: "
    assert completed("yes", f"{unit * 9}\n\nOne more question: Do you have this: fever?\n\n…") == "I have fever"
    assert takes_linear_time(lambda answer: completed("yes", answer), unit, 200_000)


def test_a_yes_to_no_question_is_taken_as_it_is(recording: Recording) -> None:
    list(recording.session.ask("有"))
    assert recording.session.said == ["有"]


@pytest.mark.parametrize("sentence", ["", " \n\t", "\u3000"])
def test_a_blank_sentence_is_refused_and_changes_nothing(sentence: str, recording: Recording) -> None:
    list(recording.session.ask("咳嗽"))
    with pytest.raises(ValueError, match="the sentence is blank"):
        next(recording.session.ask(sentence))
    assert recording.session.said == ["咳嗽"]
    assert len(recording.given) == 1


def test_after_a_failure_the_sentence_can_be_said_again_and_counts_once(recording: Recording) -> None:
    recording.fails = True
    with pytest.raises(ConnectionError):
        list(recording.session.ask("咳嗽"))
    recording.fails = False
    list(recording.session.ask("咳嗽"))
    assert recording.given[-1] == {"query": "咳嗽", "history": []}


def test_a_bare_reply_answers_no_question_that_an_answer_did_not_get_to() -> None:
    given: list[str] = []
    fails = False

    def answer(inputs: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for question in inputs:
            given.append(question["query"])
            term = ["发热", "咳嗽", "腹泻", "胸痛", "耳痛"][len(given) - 1]
            yield {"documents": [], "assessment": {"next_question": {"text": f"有没有{term}?"}}}
            yield {"answer": "可能是"}
            if fails:
                raise ConnectionError
            yield {"answer": f"再请问:有没有{term}?"}

    session = ChatSession(RunnableGenerator(answer))
    list(session.ask("头痛"))
    fails = True
    with pytest.raises(ConnectionError):
        list(session.ask("没有"))
    fails = False
    abandoned = session.ask("鼻塞")
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]  # it is a generator
    list(session.ask("没有"))
    assert given == ["头痛", "头痛。没有出现发热", "头痛。鼻塞", "头痛。鼻塞。没有出现发热"]
    list(session.ask("没有"))
    assert given[-1].endswith("。没有出现胸痛")


def test_what_is_said_is_in_no_log_record(documents: list[Document], caplog: pytest.LogCaptureFixture) -> None:
    session = ChatSession(answer_chain(BM25Retriever(documents=documents)))
    with caplog.at_level(logging.DEBUG, "langchain_bge_medical"):
        list(session.ask("canary7741 发热"))
    assert "canary7741" not in caplog.text
