"""The knowledge base behind the service: recall, reranking, evidence, red flags and answers, as plain data.

The one file of the service that knows the clinical layer and the answer chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, PrivateAttr

from langchain_bge_medical.answer_guard import names_of
from langchain_bge_medical.chains import NOTICE, QueryTooLongError, build_answer_chain
from langchain_bge_medical.clinical.assessment import annotated
from langchain_bge_medical.clinical.coverage import AffirmedWords
from langchain_bge_medical.clinical.demographics import mismatch, patient_of
from langchain_bge_medical.clinical.evidence import with_evidence
from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.triage import RedFlags, default_red_flags
from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.knowledge_base import listed
from langchain_bge_medical.serving.scheduler import Admission, DeadlineExceeded, ScoringEngine, estimate_tokens
from langchain_bge_medical.serving.schemas import Ask, Lang, Problem


@dataclass
class Found:
    """What a question found: all candidates in both orders, each with how it came to its place."""

    ranked: list[Document]
    """Best first; in order of recall if nothing was reranked."""
    recalled: list[Document]
    """In order of recall."""
    seconds: dict[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.perf_counter)
    """When it was found, by the clock that measures durations."""


class MedicalSearch:
    """Answers questions over a knowledge base, with the engine that all of the service shares."""

    def __init__(
        self,
        recall: BaseRetriever,
        compressor: BGERerankerCompressor,
        documents: Sequence[Document],
        *,
        knowledge: dict[str, Any],
        llm: BaseChatModel | None = None,
        fetch_k: int = 50,
        lexicon: SymptomLexicon | None = None,
        red_flags: RedFlags | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Take the ready parts.

        Args:
            recall: The first stage.
            compressor: Its settings, `adjust` for one, are used; its `top_n` and its engine are not.
            documents: The knowledge base's, to know how much work a question will be.
            knowledge: What identifies the knowledge base in the audit trail: `records`, `digest`.
            llm: Writes the answers; `None` puts them together from the documents.
            fetch_k: Candidates that are reranked.
            lexicon: `None` takes the bundled one.
            red_flags: `None` takes the bundled ones.
            calibration: Of this reranker on this knowledge base; without one, `confidence` is the relevance score and
                `confidence_calibrated` says so.
        """
        self._recall = recall
        self._compressor = compressor
        self.knowledge = knowledge
        self.llm = llm
        self.fetch_k = fetch_k
        self._lexicon = lexicon or default_lexicon()
        self._red_flags = red_flags or default_red_flags()
        self._calibration = calibration
        self._affirmed = AffirmedWords(self._lexicon)
        self._names = [name for document in documents for name in names_of(document)]
        sizes = [estimate_tokens(("", document.page_content)) for document in documents]
        self._usual_tokens = sum(sizes) / max(1, len(sizes))
        # Recall uses a model too: one at a time, and never on the event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bge-recall")

    def estimate(self, query: str, engine: ScoringEngine) -> int:
        """Return about how many tokens a question will be to the engine."""
        return int(self.fetch_k * (engine.estimate([(query, "")])[0] + self._usual_tokens))

    async def warm_up(self) -> None:
        """Answer once without the engine: what is built at first use must not keep the first patient waiting."""
        async for _ in self.answer("发热、咳嗽", None, top_n=5, lang="zh", deadline_s=600, words=False):
            pass

    async def find(self, query: str, admission: Admission | None) -> Found:
        """Recall candidates and rerank them.

        Args:
            query: The patient's words; recall does not see what they deny.
            admission: A place in the engine's queue; `None` leaves the order of recall.

        Returns:
            All candidates.
        """
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        recalled = await loop.run_in_executor(self._thread, lambda: self._recall.invoke(self._affirmed(query)))
        candidates = recalled[: self.fetch_k]
        seconds = {"recall": time.perf_counter() - started}
        if admission is None:
            ranked = [
                document.model_copy(update={"metadata": {**document.metadata, "recall_rank": rank}})
                for rank, document in enumerate(candidates, start=1)
            ]
            return Found(ranked, ranked, seconds)
        settings = {"top_n": None, "score_threshold": None, "engine": admission, "on_error": "raise"}
        started = time.perf_counter()
        ranked = await self._compressor.model_copy(update=settings).acompress_documents(candidates, query)
        waited = admission.queue_s
        seconds |= {"queue": waited, "rerank": time.perf_counter() - started - waited}
        return Found(ranked, sorted(ranked, key=lambda document: document.metadata["recall_rank"]), seconds)

    async def answer(
        self,
        query: str,
        admission: Admission | None,
        *,
        top_n: int,
        lang: Lang,
        deadline_s: float,
        history: Sequence[BaseMessage] = (),
        words: bool,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what the answer chain says about a question, as plain data.

        Args:
            query: The patient's words.
            admission: A place in the engine's queue; `None` leaves the order of recall.
            top_n: Documents to answer from.
            lang: Language of the answer.
            deadline_s: Seconds that finding may take.
            history: What was said before.
            words: Whether a model may write the answer; without, it stays with the documents.

        Yields:
            `{"triage"}` before anything is searched; then `{"found", "assessment", "results", "recalled"}` once;
            and `{"answer"}` in pieces: what the red flags say at once, the rest at the end.

        Raises:
            DeadlineExceeded: If nothing was found in time.
            Problem: 413 if the query is longer than the chain takes.
            Exception: What the engine raises.
        """
        search = _Search(search=self, admission=admission, top_n=top_n, deadline_s=deadline_s)
        chain = build_answer_chain(
            search,
            self.llm if words else None,
            lang=lang,
            red_flags=self._red_flags,
            lexicon=self._lexicon,
            calibration=self._calibration,
            disease_names=self._names,
        )
        chunks = chain.astream({"query": query, "history": list(history)})
        async with contextlib.aclosing(chunks):  # type: ignore[type-var]  # it is an async generator
            try:
                async for chunk in chunks:
                    if "documents" in chunk:
                        yield await asyncio.to_thread(self._as_data, query, chunk, search, lang)
                    elif "triage" in chunk or chunk.get("answer"):
                        yield dict(chunk)
            except QueryTooLongError as error:  # where the service's limits let through more than the chain takes
                raise Problem(413, "query_too_long", str(error)) from None

    def _as_data(self, query: str, chunk: dict[str, Any], search: _Search, lang: Lang) -> dict[str, Any]:
        """Return what was found as plain data; pure Python over the texts, to be run on a thread."""
        assessment = {name: value for name, value in chunk["assessment"].items() if name != "results"}
        documents, found = chunk["documents"], search.found
        before: list[Document] = []
        if documents:  # where it is better to say nothing, nothing is said about the other order either
            first = search.possible(query, found.recalled)
            before = annotated(query, first, lexicon=self._lexicon, calibration=self._calibration)
        question = assessment["next_question"]
        if question is not None:
            assessment["next_question"] = {**question, "label": self._label(question["term"], lang)}
        return {
            "found": found,
            "assessment": assessment,
            "results": [self._card(document, lang) for document in documents],
            "recalled": [self._card(document, lang) for document in before],
        }

    def _card(self, document: Document, lang: Lang) -> dict[str, Any]:
        card = _card(document)
        if lang == "en":
            terms = dict.fromkeys([*card["symptoms"], *(piece["term"] for piece in card["evidence"])])
            names = [alias for alias in card["aliases"] if alias.isascii()]
            if names:  # the longest is no abbreviation
                card["name"] = max(names, key=len)[0].upper() + max(names, key=len)[1:]
            card["labels"] = {term: self._label(term, lang) for term in terms}
        return card

    def _label(self, term: str, lang: Lang) -> str:
        """Return a symptom in words of the language, or as it is."""
        if lang == "zh":
            return term
        return next((form for form in self._lexicon.forms(term) if form.isascii()), term)

    def spans(self, query: str, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Return for each text where it says what the patient affirms, in code points, in order.

        The evidence layer says yes or no, so that every span's score is 1.
        """
        annotated = with_evidence([Document(page_content=text) for text in texts], query, self._lexicon)
        found = []
        for document in annotated:
            places = {
                (piece["start"], piece["end"])
                for piece in document.metadata["evidence"]
                if piece["field"] == "document" and piece["status"] == "matched"
            }
            found.append([{"start": start, "end": end, "score": 1.0} for start, end in sorted(places)])
        return found


def messages(ask: Ask) -> list[BaseMessage]:
    """Return the conversation so far in LangChain's words."""
    return [
        HumanMessage(turn.content) if turn.role == "user" else AIMessage(turn.content)
        for turn in ask.history
        if turn.content.strip()
    ]


def notice(lang: Lang) -> str:
    """Return the sentence that says that this is no diagnosis."""
    return NOTICE[lang]


class _Search(BaseRetriever):
    """Lets the answer chain search the knowledge base once, and keeps all that was found."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    search: MedicalSearch
    admission: Admission | None
    top_n: int
    deadline_s: float

    _found: Found | None = PrivateAttr(default=None)

    @property
    def found(self) -> Found:
        """What was found."""
        if self._found is None:
            raise RuntimeError("the chain shows documents without having searched")
        return self._found

    def possible(self, query: str, documents: Sequence[Document]) -> list[Document]:
        """Return the first `top_n`; what cannot be takes no place of theirs, as long as there is anything else."""
        patient = patient_of(query)
        possible = [d for d in documents if mismatch(patient, d.metadata) != "impossible"] or documents
        return list(possible[: self.top_n])

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        raise NotImplementedError("the service searches on its event loop")

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        try:
            self._found = await asyncio.wait_for(self.search.find(query, self.admission), self.deadline_s)
        except asyncio.TimeoutError:
            raise DeadlineExceeded from None
        return self.possible(query, self._found.ranked)


_CARD = ("disease", "department", "urgency", "icd10", "description")
_CARD_LISTS = ("symptoms", "aliases", "red_flags", "differentials", "sources")


def _card(document: Document) -> dict[str, Any]:
    metadata = document.metadata
    score = metadata.get("relevance_score")
    return {
        "rank": metadata.get("rerank_rank"),
        "recall_rank": metadata["recall_rank"],
        "name": metadata.get("disease"),
        "labels": {},
        **{name: metadata.get(name) for name in _CARD},
        **{name: list(listed(metadata, name)) for name in _CARD_LISTS},
        "relevance_score": score,
        "relevance_logit": metadata.get("relevance_logit"),
        "rerank_adjustment": metadata.get("rerank_adjustment"),
        "confidence": metadata["confidence"],
        "confidence_calibrated": metadata["confidence_calibrated"],
        "patient_mismatch": metadata.get("patient_mismatch"),
        "evidence": metadata["evidence"],
        "fused": metadata.get("rerank_fused", False),
        "truncated": metadata.get("rerank_truncated", []),
        "text": document.page_content,
    }
