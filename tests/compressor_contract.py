"""What anybody may expect of a LangChain document compressor that reranks; LangChain has no such suite.

Subclass `CompressorContract`, give it `compressor()`, and pytest runs every test against it. The scorer behind the
compressor is given, so that the right order is known: see `SCORES`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableLambda

from tests.conftest import TableCrossEncoder

SCORES = {"low": 0.1, "high": 0.9, "middle": 0.5, "middle too": 0.5, "": 0.0}


class SlowCrossEncoder(BaseCrossEncoder):
    """Takes a while, and notes from how many threads at once it is used."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0
        self.inside = 0
        self.most_inside = 0
        self._lock = threading.Lock()

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        time.sleep(self.seconds)
        with self._lock:
            self.inside -= 1
        return [0.5] * len(text_pairs)


class Recorder(BaseCallbackHandler):
    """Keeps every run that is started, with its parent."""

    def __init__(self) -> None:
        self.started: list[tuple[str, Any]] = []
        self.seen: list[Any] = []

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, parent_run_id: Any = None, name: str = "", **_: Any
    ) -> None:
        self.started.append((name, parent_run_id))
        self.seen.append(inputs)

    def on_retriever_start(
        self, serialized: Any, query: Any, *, parent_run_id: Any = None, name: str = "", **_: Any
    ) -> None:
        self.started.append((name, parent_run_id))
        self.seen.append(query)

    def on_chain_end(self, outputs: Any, **_: Any) -> None:
        self.seen.append(outputs)


def candidates() -> list[Document]:
    texts = ["low", "high", "middle", "middle too"]
    return [
        Document(id=f"id-{i}", page_content=text, metadata={"n": i, "nested": {"list": [i]}})
        for i, text in enumerate(texts)
    ]


def contents(documents: Any) -> list[str]:
    return [document.page_content for document in documents]


class CompressorContract(ABC):
    """The tests."""

    @abstractmethod
    def compressor(self, encoder: BaseCrossEncoder, *, top_n: int) -> BaseDocumentCompressor:
        """Return the compressor under test around `encoder`."""

    def ready(self, *, top_n: int = 10) -> BaseDocumentCompressor:
        return self.compressor(TableCrossEncoder(SCORES), top_n=top_n)

    def test_best_first_and_ties_keep_the_order_of_recall(self) -> None:
        kept = self.ready().compress_documents(candidates(), "q")
        assert contents(kept) == ["high", "middle", "middle too", "low"]
        turned = self.ready().compress_documents(candidates()[::-1], "q")
        assert contents(turned) == ["high", "middle too", "middle", "low"]

    def test_at_most_top_n_are_kept(self) -> None:
        assert contents(self.ready(top_n=2).compress_documents(candidates(), "q")) == ["high", "middle"]

    def test_a_top_n_below_one_is_refused(self) -> None:
        for top_n in (0, -1):
            with pytest.raises(ValueError, match="top_n"):
                self.compressor(TableCrossEncoder(SCORES), top_n=top_n)

    def test_scores_are_in_the_metadata_as_python_floats_that_json_takes(self) -> None:
        kept = self.ready().compress_documents(candidates(), "q")
        assert [document.metadata["relevance_score"] for document in kept] == [0.9, 0.5, 0.5, 0.1]
        assert all(type(document.metadata["relevance_score"]) is float for document in kept)
        json.dumps([document.metadata for document in kept])

    def test_ids_are_kept(self) -> None:
        assert [document.id for document in self.ready().compress_documents(candidates(), "q")] == [
            "id-1", "id-2", "id-3", "id-0",
        ]  # fmt: skip

    def test_other_metadata_is_kept(self) -> None:
        assert [document.metadata["n"] for document in self.ready().compress_documents(candidates(), "q")] == [
            1,
            2,
            3,
            0,
        ]

    def test_the_documents_passed_in_are_not_modified(self) -> None:
        given = candidates()
        before = copy.deepcopy(given)
        self.ready().compress_documents(given, "q")
        assert given == before

    def test_what_is_returned_shares_nothing_with_what_was_passed_in(self) -> None:
        given = candidates()
        kept = self.ready().compress_documents(given, "q")
        kept[0].metadata["nested"]["list"].append("changed")
        assert given[1].metadata["nested"]["list"] == [1]

    def test_a_stale_score_is_replaced(self) -> None:
        given = [Document(page_content="high", metadata={"relevance_score": 0.0001})]
        assert self.ready().compress_documents(given, "q")[0].metadata["relevance_score"] == 0.9

    async def test_no_documents_give_none_and_do_not_touch_the_model(self) -> None:
        encoder = TableCrossEncoder(SCORES)
        compressor = self.compressor(encoder, top_n=3)
        assert list(compressor.compress_documents([], "q")) == []
        assert list(await compressor.acompress_documents([], "q")) == []
        assert encoder.calls == []

    def test_equal_texts_are_scored_once(self) -> None:
        encoder = TableCrossEncoder(SCORES)
        self.compressor(encoder, top_n=9).compress_documents(candidates() * 3, "q")
        assert sum(len(call) for call in encoder.calls) == 4

    def test_a_blank_document_goes_last_and_never_to_the_model(self) -> None:
        encoder = TableCrossEncoder(SCORES)
        given = [Document(page_content=""), *candidates()]
        assert contents(self.compressor(encoder, top_n=9).compress_documents(given, "q"))[-1] == ""
        assert all(document for call in encoder.calls for _, document in call)

    def test_a_score_that_is_no_number_is_an_error_and_not_an_order(self) -> None:
        compressor = self.compressor(TableCrossEncoder({**SCORES, "high": float("nan")}), top_n=9)
        with pytest.raises(ValueError, match="finite"):
            compressor.compress_documents(candidates(), "q")

    def test_a_scorer_that_returns_too_few_scores_is_an_error(self) -> None:
        class Short(BaseCrossEncoder):
            def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
                return [0.5] * (len(text_pairs) - 1)

        with pytest.raises(ValueError, match="scores"):
            self.compressor(Short(), top_n=9).compress_documents(candidates(), "q")

    async def test_swapped_arguments_are_an_error(self) -> None:
        for documents, query in (("q", candidates()), ("q", "q"), (candidates(), candidates())):
            with pytest.raises(ValueError, match="swapped"):
                self.ready().compress_documents(documents, query)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="swapped"):
                await self.ready().acompress_documents(documents, query)  # type: ignore[arg-type]

    async def test_a_blank_query_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="blank"):
            self.ready().compress_documents(candidates(), " ")
        with pytest.raises(ValueError, match="blank"):
            await self.ready().acompress_documents(candidates(), " ")

    async def test_async_gives_what_sync_gives(self) -> None:
        compressor = self.ready()
        kept = await compressor.acompress_documents(candidates(), "q")
        assert list(kept) == list(compressor.compress_documents(candidates(), "q"))

    async def test_async_does_not_block_the_loop(self) -> None:
        compressor = self.compressor(SlowCrossEncoder(0.2), top_n=3)
        task = asyncio.create_task(compressor.acompress_documents(candidates(), "q"))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert turns > 5

    async def test_concurrent_calls_use_the_model_one_at_a_time_and_share_its_batches(self) -> None:
        encoder = SlowCrossEncoder(0.02)
        compressor = self.compressor(encoder, top_n=3)
        await asyncio.gather(*(compressor.acompress_documents(candidates(), f"q{i}") for i in range(20)))
        assert encoder.most_inside == 1
        assert encoder.calls < 20

    def test_a_trace_shows_a_run_of_its_own_under_the_caller(self) -> None:
        recorder = Recorder()
        compressor = self.ready()

        def call(query: str, config: Any) -> list[Document]:
            return list(compressor.compress_documents(candidates(), query, callbacks=config["callbacks"]))

        RunnableLambda(call, name="caller").invoke("a patient's words", config={"callbacks": [recorder]})
        names = [name for name, _ in recorder.started]
        assert names == ["caller", type(compressor).__name__]
        assert recorder.started[1][1] is not None
