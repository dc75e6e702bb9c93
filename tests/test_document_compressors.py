from __future__ import annotations

import asyncio
import copy
import json
import logging
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ValidationError

from langchain_bge_medical.cross_encoders import BGECrossEncoder, sigmoid
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.model_files import ModelNotFoundError
from tests.compressor_contract import SCORES, CompressorContract, Recorder, SlowCrossEncoder, candidates, contents
from tests.conftest import TableCrossEncoder


class TestOurs(CompressorContract):
    def compressor(self, encoder: BaseCrossEncoder, *, top_n: int) -> BaseDocumentCompressor:
        return BGERerankerCompressor(cross_encoder=encoder, top_n=top_n)


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> BGERerankerCompressor:
    return BGERerankerCompressor(model_name=str(tiny_reranker), max_length=128, top_n=3)


def table(scores: dict[str, float], **settings: Any) -> BGERerankerCompressor:
    return BGERerankerCompressor(cross_encoder=TableCrossEncoder(scores), **settings)


def test_a_real_model_ranks_as_its_own_logits_do(reranker: BGERerankerCompressor, documents: list[Document]) -> None:
    query = "孩子发热,头痛"
    encoder = BGECrossEncoder(reranker.model_name, max_length=128)
    logits = encoder.logits([(query, document.page_content) for document in documents])
    order = sorted(range(len(documents)), key=lambda i: -logits[i])[:3]
    kept = reranker.compress_documents(documents, query)
    assert [document.id for document in kept] == [documents[i].id for i in order]
    assert [document.metadata["relevance_logit"] for document in kept] == pytest.approx(
        [logits[i] for i in order], abs=1e-5
    )
    for rank, document in enumerate(kept, start=1):
        metadata = document.metadata
        assert metadata["relevance_score"] == sigmoid(metadata["relevance_logit"])
        assert (metadata["rerank_rank"], metadata["recall_rank"]) == (rank, order[rank - 1] + 1)


def test_saturated_scores_are_still_ordered_by_their_logits() -> None:
    class Saturated(BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            raise AssertionError("logits are there, so they are asked for")

        def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return [50.0 + len(document) for _, document in text_pairs]

    kept = BGERerankerCompressor(cross_encoder=Saturated()).compress_documents(
        [Document(page_content="a"), Document(page_content="aaa"), Document(page_content="aa")], "q"
    )
    assert contents(kept) == ["aaa", "aa", "a"]
    assert {document.metadata["relevance_score"] for document in kept} == {1.0}


def test_the_threshold_goes_before_top_n_and_keeps_what_equals_it() -> None:
    assert contents(table(SCORES, score_threshold=0.5, top_n=9).compress_documents(candidates(), "q")) == [
        "high", "middle", "middle too",
    ]  # fmt: skip
    assert contents(table(SCORES, score_threshold=0.5, top_n=2).compress_documents(candidates(), "q")) == [
        "high",
        "middle",
    ]


def test_a_threshold_that_nothing_reaches_leaves_nothing() -> None:
    assert table(SCORES, score_threshold=0.95).compress_documents(candidates(), "q") == []


def test_top_n_none_keeps_all() -> None:
    assert len(table(SCORES, top_n=None).compress_documents(candidates(), "q")) == 4


@given(st.lists(st.sampled_from(["low", "high", "middle", "middle too", ""]), max_size=12))
def test_whatever_the_candidates_nothing_is_lost_and_the_order_is_that_of_a_stable_sort(texts: list[str]) -> None:
    given_documents = [Document(page_content=text, metadata={"i": i}) for i, text in enumerate(texts)]
    kept = table(SCORES, top_n=None).compress_documents(given_documents, "q")
    expected = sorted(range(len(texts)), key=lambda i: -SCORES[texts[i]] if texts[i] else 1)
    assert [document.metadata["i"] for document in kept] == expected


def test_what_the_model_did_not_see_is_named_in_the_metadata(reranker: BGERerankerCompressor) -> None:
    given_documents = [Document(page_content="咳嗽"), Document(page_content="发热" * 200)]
    by_text = {d.page_content: d.metadata for d in reranker.compress_documents(given_documents, "头痛")}
    assert "rerank_truncated" not in by_text["咳嗽"]
    assert by_text["发热" * 200]["rerank_truncated"] == ["document"]
    long_query = reranker.compress_documents(given_documents, "头痛" * 100)
    assert {tuple(d.metadata["rerank_truncated"]) for d in long_query} == {("query",), ("query", "document")}


def test_document_to_text_decides_what_the_model_reads() -> None:
    encoder = TableCrossEncoder({"A": 0.2, "B": 0.8})
    compressor = BGERerankerCompressor(cross_encoder=encoder, document_to_text=lambda document: document.metadata["t"])
    kept = compressor.compress_documents(
        [Document(page_content="x", metadata={"t": "A"}), Document(page_content="y", metadata={"t": "B"})], "q"
    )
    assert contents(kept) == ["y", "x"]


def test_plain_strings_are_ranked_in_the_shape_of_cohere() -> None:
    assert table(SCORES, top_n=2).rerank("q", ["low", "high", "middle"]) == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 2, "relevance_score": 0.5},
    ]
    with pytest.raises(ValueError, match="swapped"):
        table(SCORES).rerank(["low"], "q")  # type: ignore[arg-type]


class KnowsOnly(TableCrossEncoder):
    """A scorer that was trained on some texts only, as the bundled model is."""

    def __init__(self, scores: dict[str, float], known: set[str]) -> None:
        super().__init__(scores)
        self.known = known

    def knows(self, document: str) -> bool:
        return document in self.known


def test_over_texts_that_the_model_was_not_made_for_both_stages_have_a_say_and_the_metadata_says_so() -> None:
    scores = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.9}
    given_documents = [Document(page_content=text) for text in "abcd"]
    trusted = BGERerankerCompressor(cross_encoder=KnowsOnly(scores, set("abcd"))).compress_documents(
        given_documents, "q"
    )
    assert contents(trusted) == ["d", "c", "b", "a"]
    assert all("rerank_fused" not in document.metadata for document in trusted)
    foreign = BGERerankerCompressor(cross_encoder=KnowsOnly(scores, {"a"})).compress_documents(given_documents, "q")
    # By hand: a 1/61 + 1/64, b 1/62 + 1/63, c 1/63 + 1/62, d 1/64 + 1/61; ties keep the reranker's order.
    assert contents(foreign) == ["d", "a", "c", "b"]
    assert all(document.metadata["rerank_fused"] for document in foreign)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_n": 0}, "top_n"),
        ({"top_k": 3}, "top_k"),
        ({"score_threshold": 1.5}, "score_threshold must lie in"),
        ({"score_threshold": float("nan")}, "finite"),
        ({"max_length": 3}, "max_length"),
        ({"dtype": "float8"}, "dtype"),
        ({"on_error": "ignore"}, "on_error"),
        ({"cross_encoder": TableCrossEncoder({}), "model_name": "bundled"}, "give one or the other"),
    ],
)
def test_a_bad_or_unknown_setting_is_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        BGERerankerCompressor(**settings)


def test_nothing_is_loaded_before_it_is_needed_and_a_missing_model_is_one_clear_error(tmp_path: Path) -> None:
    compressor = BGERerankerCompressor(model_name=str(tmp_path))
    assert compressor.compress_documents([], "q") == []
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        compressor.compress_documents(candidates(), "q")
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        compressor.warmup()


def test_passthrough_keeps_the_order_of_recall_says_so_and_logs_no_text(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            raise RuntimeError("out of memory")

    compressor = BGERerankerCompressor(cross_encoder=Broken(), on_error="passthrough", top_n=2)
    stale = [document.model_copy(update={"metadata": {"relevance_score": 1.0}}) for document in candidates()]
    with caplog.at_level(logging.WARNING):
        kept = compressor.compress_documents(stale, "canary-query")
    assert contents(kept) == ["low", "high"]
    assert [document.metadata for document in kept] == [
        {"recall_rank": 1, "rerank_failed": True},
        {"recall_rank": 2, "rerank_failed": True},
    ]
    assert "RuntimeError" in caplog.text
    assert "canary" not in caplog.text
    assert "middle" not in caplog.text


async def test_passthrough_works_in_async_too() -> None:
    compressor = table({}, on_error="passthrough", top_n=1)
    assert contents(await compressor.acompress_documents(candidates(), "q")) == ["low"]


def test_a_trace_has_counts_and_scores_and_no_text() -> None:
    recorder = Recorder()
    table(SCORES, top_n=2).compress_documents(candidates(), "canary-query", callbacks=[recorder])
    assert recorder.seen[0]["candidates"] == 4
    assert recorder.seen[1]["relevance_scores"] == [0.9, 0.5]
    assert recorder.seen[1]["milliseconds"] >= 0
    assert "canary" not in json.dumps(recorder.seen, default=str)
    assert "middle" not in json.dumps(recorder.seen, default=str)


async def test_async_callbacks_see_the_run_and_its_failure() -> None:
    class AsyncRecorder(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.events: list[str] = []

        async def on_chain_start(self, *_: Any, **__: Any) -> None:
            self.events.append("start")

        async def on_chain_end(self, *_: Any, **__: Any) -> None:
            self.events.append("end")

        async def on_chain_error(self, *_: Any, **__: Any) -> None:
            self.events.append("error")

    recorder = AsyncRecorder()
    await table(SCORES).acompress_documents(candidates(), "q", callbacks=[recorder])
    with pytest.raises(KeyError):
        await table({}).acompress_documents(candidates(), "q", callbacks=[recorder])
    assert recorder.events == ["start", "end", "start", "error"]


async def test_of_calls_that_share_a_batch_only_the_guilty_one_fails() -> None:
    class Picky(SlowCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            scores = super().score(text_pairs)
            if any(query == "poison" for query, _ in text_pairs):
                raise RuntimeError("poisoned")
            return scores

    compressor = BGERerankerCompressor(cross_encoder=Picky(0.02))
    queries = ["good", "poison", "fine", "also fine"]
    done = await asyncio.gather(
        *(compressor.acompress_documents(candidates(), query) for query in queries), return_exceptions=True
    )
    assert [isinstance(result, Exception) for result in done] == [False, True, False, False]


async def test_a_cancelled_call_leaves_the_others_alone() -> None:
    compressor = BGERerankerCompressor(cross_encoder=SlowCrossEncoder(0.05))
    tasks = [asyncio.create_task(compressor.acompress_documents(candidates(), f"q{i}")) for i in range(4)]
    await asyncio.sleep(0.01)
    tasks[2].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in done] == ["list", "list", "CancelledError", "list"]


def test_threads_share_one_model_and_get_their_own_results(
    reranker: BGERerankerCompressor, documents: list[Document]
) -> None:
    queries = [f"{symptom}{i % 3}" for i, symptom in enumerate(["发热", "头痛", "腹泻", "耳痛"] * 4)]
    expected = {query: reranker.compress_documents(documents, query) for query in set(queries)}
    got: dict[int, list[Document]] = {}
    threads = [
        threading.Thread(target=lambda i=i, q=q: got.update({i: reranker.compress_documents(documents, q)}))
        for i, q in enumerate(queries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, query in enumerate(queries):
        assert [d.id for d in got[i]] == [d.id for d in expected[query]]


def test_it_pickles_and_rebuilds_from_its_configuration_without_weights(
    reranker: BGERerankerCompressor, documents: list[Document]
) -> None:
    expected = [document.id for document in reranker.compress_documents(documents, "头痛")]
    pickled = pickle.dumps(reranker)
    assert len(pickled) < 2_000
    json.dumps(reranker.model_dump())
    for twin in (
        pickle.loads(pickled),
        BGERerankerCompressor(**reranker.model_dump()),
        copy.deepcopy(reranker),
        reranker.model_copy(update={"top_n": 3}),
    ):
        assert twin.model_dump() == reranker.model_dump()
        assert [document.id for document in twin.compress_documents(documents, "头痛")] == expected


def _in_child(connection: Any, reranker: BGERerankerCompressor) -> None:
    connection.send(contents(reranker.compress_documents(candidates(), "q")))


def test_a_forked_child_can_rerank_after_its_parent_did() -> None:
    compressor = table(SCORES)
    expected = contents(compressor.compress_documents(candidates(), "q"))
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    child = fork.Process(target=_in_child, args=(there, compressor))
    child.start()
    assert here.poll(20)
    assert here.recv() == expected
    child.join()
