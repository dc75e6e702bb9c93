"""A conversation about one person's complaints: what has been said so far, and what was found. Prints nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable

_END = r"[\s,，.。!！~～]*"
_YES = re.compile(
    rf"(?:(?:有[的啊呀呢]?|有一?点|是[的啊]?|对[的啊]?|嗯|会的?|yes|yeah|yep|i do|i have|a (?:bit|little)){_END})+",
    re.IGNORECASE,
)
_NO = re.compile(
    rf"(?:(?:没有?[的啊呀呢]?|无|不是的?|不会?|否|nope|no|i (?:don['’]?t|do not|haven['’]?t)|not really){_END})+",
    re.IGNORECASE,
)
# How an answer ends that asks something back.
_ASKS = ("再请问", "One more question: ")
_ASKED = re.compile(
    r"(?:再请问[:：]\s*)?有没有(?P<zh>[^(（?？\n]+)|(?:One more question: )?Do you have this: (?P<en>[^?\n]+)\?"
)


def completed(reply: str, answer: str) -> str:
    """Return a bare yes or no as the sentence that it stands for, after an answer that ends in a question.

    Args:
        reply: What the patient says: `没有`.
        answer: What they were told before: `…再请问:有没有发热?…`, or the question alone.

    Returns:
        `没有出现发热`; `reply` itself if it is no bare yes or no, or nothing was asked.
    """
    says = next((word for word, bare in (("yes", _YES), ("no", _NO)) if bare.fullmatch(reply.strip())), None)
    # Of a long answer only the last question is read: looking behind each of thousands to the end takes seconds.
    last = max(answer.rfind(asks) for asks in _ASKS) if says else -1
    asked = _ASKED.match(answer, max(last, 0)) if says else None
    if asked is None:
        return reply
    # 出现, since 没有 right before a symptom may be read as a part of it: 没有尿道口红肿 as 没有尿.
    if term := asked["zh"]:
        return f"{'出现' if says == 'yes' else '没有出现'}{term.strip()}"
    return f"I {'have' if says == 'yes' else 'do not have'} {asked['en'].strip()}"


class ChatSession:
    """Adds each new sentence to the picture and asks the answer chain again.

    The words of a session are kept in memory only, until `new` or the end of the object.

    Attributes:
        said: The patient's sentences since the last `new`, in order.
        documents: What the last answer was based on, best first.
        assessment: What the clinical layer said of it, as plain data; empty before the first answer.
    """

    def __init__(self, chain: Runnable[Any, dict[str, Any]]) -> None:
        """Take an answer chain, as `build_answer_chain` makes it."""
        self._chain = chain
        self._history: list[BaseMessage] = []
        self._asked = ""  # the question of the last answer that was told to its end
        self.said: list[str] = []
        self.documents: list[Document] = []
        self.assessment: dict[str, Any] = {}

    def new(self) -> None:
        """Forget everything that was said."""
        self._history, self._asked = [], ""
        self.said, self.documents, self.assessment = [], [], {}

    def ask(self, sentence: str) -> Iterator[str]:
        """Answer on the grounds of everything said so far.

        `documents` and `assessment` are set before the first piece behind the red flags.

        Args:
            sentence: What the patient says now. A bare yes or no is the answer to the question that was asked last;
                one that an answer did not get to, because it failed or was abandoned, was not asked.

        Yields:
            The answer in pieces.

        Raises:
            ValueError: If `sentence` is blank.
        """
        if not sentence.strip():
            raise ValueError("there is nothing to answer: the sentence is blank")
        # Written down before the answer, so that nothing said is lost when the caller abandons it midway.
        self.said.append(completed(sentence, self._asked))
        picture = "。".join(part.strip().rstrip("。.") for part in self.said)
        pieces: list[str] = []
        try:
            for chunk in self._chain.stream({"query": picture, "history": list(self._history)}):
                if "documents" in chunk:
                    self.documents = chunk["documents"]
                    self.assessment = chunk.get("assessment") or {}
                if chunk.get("answer"):
                    pieces.append(chunk["answer"])
                    yield chunk["answer"]
        except Exception:
            self.said.pop()  # it was not answered: it can be said again and counts once
            raise
        except GeneratorExit:
            self._remember(sentence, pieces)
            raise
        self._remember(sentence, pieces)
        question = self.assessment.get("next_question")
        self._asked = question["text"] if question else ""

    def _remember(self, sentence: str, pieces: list[str]) -> None:
        self._history += [HumanMessage(sentence), AIMessage("".join(pieces))]
