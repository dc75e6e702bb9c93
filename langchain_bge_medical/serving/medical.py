"""The knowledge base behind the service: recall, reranking, evidence, red flags and answers, as plain data.

The one file of the service that knows the clinical layer and the answer chain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever

from langchain_bge_medical.chains import NOTICE, build_answer_chain
from langchain_bge_medical.clinical.evidence import with_evidence
from langchain_bge_medical.clinical.lexicon import SymptomLexicon, default_lexicon
from langchain_bge_medical.clinical.polarity import findings
from langchain_bge_medical.clinical.triage import RedFlags, Triage, default_red_flags
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.serving.scheduler import Admission, ScoringEngine, estimate_tokens
from langchain_bge_medical.serving.schemas import Ask, Lang


@dataclass
class Found:
    """What a question found: all candidates in both orders, each with how it came to its place."""

    ranked: list[Document]
    """Best first; in order of recall if nothing was reranked."""
    recalled: list[Document]
    """In order of recall."""
    seconds: dict[str, float] = field(default_factory=dict)


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
        """
        self._recall = recall
        self._compressor = compressor
        self.knowledge = knowledge
        self.llm = llm
        self.fetch_k = fetch_k
        self._lexicon = lexicon or default_lexicon()
        self._red_flags = red_flags or default_red_flags()
        sizes = [estimate_tokens(("", document.page_content)) for document in documents]
        self._usual_tokens = sum(sizes) / max(1, len(sizes))
        # Recall uses a model too: one at a time, and never on the event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bge-recall")

    def estimate(self, query: str, engine: ScoringEngine) -> int:
        """Return about how many tokens a question will be to the engine."""
        return int(self.fetch_k * (engine.estimate([(query, "")])[0] + self._usual_tokens))

    def triage(self, query: str, lang: Lang, best: Document | None = None) -> Triage:
        """Return how soon the patient must be seen; with the best document, as it is usually seen."""
        usual = best.metadata.get("urgency") if best is not None else None
        return self._red_flags.triage(query, usual=usual, lang=lang)

    def findings(self, query: str) -> list[dict[str, Any]]:
        """Return what the patient says of which symptom, and where in the query, in code points."""
        return [
            {"term": f.term, "status": f.status, "start": f.start, "end": f.end, "text": query[f.start : f.end]}
            for f in findings(query, self._lexicon)
        ]

    async def find(self, query: str, admission: Admission | None) -> Found:
        """Recall candidates and rerank them.

        Args:
            query: The patient's words.
            admission: A place in the engine's queue; `None` leaves the order of recall.

        Returns:
            All candidates.
        """
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        candidates = (await loop.run_in_executor(self._thread, self._recall.invoke, query))[: self.fetch_k]
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
        self, query: str, found: Found, *, top_n: int, lang: Lang, history: Sequence[BaseMessage] = (), words: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer chain's output for what was found: `documents` first, then `answer` in pieces.

        Args:
            query: The patient's words.
            found: What `find` returned.
            top_n: Documents to answer from.
            lang: Language of the answer.
            history: What was said before.
            words: Whether a model may write the answer; without, it stays with the documents.

        Yields:
            Chunks of the chain's output.
        """
        given = _Given(documents=found.ranked[:top_n])
        chain = build_answer_chain(
            given, self.llm if words else None, lang=lang, red_flags=self._red_flags, lexicon=self._lexicon
        )
        async for chunk in chain.astream({"query": query, "history": list(history)}):
            yield chunk

    def cards(self, documents: Sequence[Document], query: str, lang: Lang) -> list[dict[str, Any]]:
        """Return documents as plain data, with evidence; pure Python over the texts, to be run on a thread."""
        cards = [_card(document) for document in with_evidence(documents, query, self._lexicon)]
        if lang == "en":
            for card in cards:
                terms = dict.fromkeys([*card["symptoms"], *(piece["term"] for piece in card["evidence"])])
                names = [alias for alias in card["aliases"] or [] if alias.isascii()]
                if names:  # the longest is no abbreviation
                    card["name"] = max(names, key=len)[0].upper() + max(names, key=len)[1:]
                card["labels"] = {
                    term: next((form for form in self._lexicon.forms(term) if form.isascii()), term) for term in terms
                }
        return cards

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


class _Given(BaseRetriever):
    """Hands documents that are there already to a chain that wants to retrieve."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self.documents

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


_CARD = ("disease", "department", "urgency", "icd10", "aliases", "description", "red_flags", "differentials", "sources")


def _card(document: Document) -> dict[str, Any]:
    metadata = document.metadata
    score = metadata.get("relevance_score")
    return {
        "rank": metadata.get("rerank_rank"),
        "recall_rank": metadata["recall_rank"],
        "name": metadata.get("disease"),
        "labels": {},
        **{name: metadata.get(name) for name in _CARD},
        "relevance_score": score,
        # Until there is a calibration there is nothing better than the score itself, and it says so.
        "confidence": metadata.get("confidence", score),
        "confidence_calibrated": metadata.get("confidence_calibrated", False),
        "symptoms": list(metadata.get("symptoms") or []),
        "evidence": metadata["evidence"],
        "fused": metadata.get("rerank_fused", False),
        "truncated": metadata.get("rerank_truncated", []),
        "text": document.page_content,
    }
