from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
import multiprocessing
import pickle
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ValidationError

from langchain_bge_medical.cross_encoders import BGECrossEncoder, PairLogit, sigmoid
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.model_files import ModelNotFoundError
from langchain_bge_medical.score_cache import ScoreCache
from langchain_bge_medical.serving.scheduler import ScoringEngine
from tests.compressor_contract import SCORES, CompressorContract, Recorder, SlowCrossEncoder, candidates, contents
from tests.conftest import TableCrossEncoder


class TestOurs(CompressorContract):
    def compressor(self, encoder: BaseCrossEncoder, *, top_n: int) -> BaseDocumentCompressor:
        return BGERerankerCompressor(cross_encoder=encoder, top_n=top_n)


@pytest.fixture(scope="module")
def reranker(tiny_reranker: Path) -> BGERerankerCompressor:
    return BGERerankerCompressor(model_name=str(tiny_reranker), max_length=128, top_n=3)


def table(scores: dict[str, float], **options: Any) -> BGERerankerCompressor:
    return BGERerankerCompressor(cross_encoder=TableCrossEncoder(scores), **options)


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


class Table(BaseCrossEncoder):
    """Logits from a table; one that is cut says so."""

    def __init__(self, logits: dict[str, float]) -> None:
        self.table = logits

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise AssertionError("logits are there, so they are asked for")

    def pair_logits(self, text_pairs: list[tuple[str, str]]) -> list[PairLogit]:
        return [PairLogit(self.table[document], 0, document.count("long")) for _, document in text_pairs]


def test_the_metadata_say_what_was_done_and_hold_nothing_of_an_earlier_reranking() -> None:
    stale = BGERerankerCompressor(
        cross_encoder=KnowsOnly({"a long one": 0.9, "b": 0.8}, set()), adjust=lambda query, documents: [9.0, 8.0, 0.0]
    ).compress_documents([Document(page_content=text) for text in ("b", "a long one", "")], "q")
    failed = table({}, on_error="passthrough").compress_documents(stale, "q")
    logits = {"a long one": 1.0, "b": 3.0}
    for given_documents in (stale, failed):
        kept = BGERerankerCompressor(cross_encoder=Table(logits)).compress_documents(given_documents, "q")
        assert [document.metadata for document in kept] == [
            {
                "relevance_score": sigmoid(3.0), "relevance_logit": 3.0, "recall_rank": 1, "rerank_rank": 1,
                "rerank_margin": 2.0,
            },
            {
                "relevance_score": sigmoid(1.0), "relevance_logit": 1.0, "recall_rank": 2, "rerank_rank": 2,
                "rerank_margin": -2.0, "rerank_truncated": ["document"],
            },
            {"relevance_score": 0.0, "relevance_logit": None, "recall_rank": 3, "rerank_rank": 3},
        ]  # fmt: skip


def test_points_order_and_the_margin_counts_them_while_scores_and_threshold_stay_the_model_s() -> None:
    given_documents = [Document(page_content=text) for text in ("a", "b", "c", " ")]
    kept = BGERerankerCompressor(
        cross_encoder=Table({"a": 2.0, "b": 1.0, "c": -1.0}),
        adjust=lambda query, documents: {"q": [-0.5, 2.5, 9.0, 99.0]}[query],
        score_threshold=0.2,
    ).compress_documents(given_documents, "q")
    assert [document.metadata for document in kept] == [
        {
            "relevance_score": sigmoid(logit), "relevance_logit": logit, "recall_rank": recall_rank,
            "rerank_rank": rerank_rank, "rerank_adjustment": added, "rerank_margin": margin,
        }
        for rerank_rank, (logit, recall_rank, added, margin) in enumerate(
            [(-1.0, 3, 9.0, 4.5), (1.0, 2, 2.5, -4.5), (2.0, 1, -0.5, -6.5)], start=1
        )
    ]  # fmt: skip


def test_points_weigh_as_much_beside_scores_as_beside_the_logits_that_the_scores_are_sigmoids_of() -> None:
    logits = {"a": -4.0, "b": 5.0, "c": 0.5, "d": -5.0}
    points = [3.0, -2.7, 2.7, 0.0]

    def ranked(encoder: BaseCrossEncoder) -> list[tuple[str, float]]:
        kept = BGERerankerCompressor(cross_encoder=encoder, adjust=lambda query, documents: points).compress_documents(
            [Document(page_content=text) for text in logits], "q"
        )
        return [(document.page_content, round(document.metadata["rerank_margin"], 4)) for document in kept]

    by_scores = ranked(TableCrossEncoder({text: sigmoid(logit) for text, logit in logits.items()}))
    assert by_scores == ranked(Table(logits)) == [("c", 0.9), ("b", -0.9), ("a", -4.2), ("d", -8.2)]
    # Certain ones stay finite and in order, and scores that are no sigmoids are left as they are.
    assert ranked(TableCrossEncoder({"a": 0.0, "b": 1.0, "c": 0.9999, "d": 1e-12}))[0][0] == "b"
    assert ranked(TableCrossEncoder(logits)) == by_scores


def test_points_do_not_lift_a_blank_document_over_one_with_text() -> None:
    given_documents = [Document(page_content=text) for text in ("", "a")]
    kept = table({"a": 0.0}, adjust=lambda query, documents: [99.0, -99.0]).compress_documents(given_documents, "q")
    assert contents(kept) == ["a", ""]
    assert [document.metadata["rerank_adjustment"] for document in kept] == [-99.0, 99.0]
    assert all("rerank_margin" not in document.metadata for document in kept)


def test_a_document_alone_stands_above_nobody() -> None:
    assert "rerank_margin" not in table(SCORES).compress_documents(candidates()[:1], "q")[0].metadata


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


async def test_nothing_but_blank_documents_keep_their_order_and_never_go_to_the_model() -> None:
    encoder = TableCrossEncoder({})
    compressor = BGERerankerCompressor(cross_encoder=encoder)
    blank = [Document(page_content=text) for text in ("", " ")]
    assert contents(compressor.compress_documents(blank, "q")) == ["", " "]
    assert contents(await compressor.acompress_documents(blank, "q")) == ["", " "]
    assert compressor._ready().loaded_encoder is None
    assert encoder.calls == []


def test_what_cannot_be_ranked_is_refused_and_the_message_says_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"^expected \(documents, query\), got \(str, list\); are they swapped\?$"):
        table(SCORES).compress_documents("q", candidates())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^the query is blank; there is nothing to rank by$"):
        table(SCORES).compress_documents(candidates(), "\u3000")


@settings(deadline=None)
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


@pytest.mark.parametrize(
    ("own", "says"),
    [
        (
            {"document_to_text": lambda document: document.metadata.get("text", "high")},
            "document_to_text returned int for document 1; it must return text",
        ),
        ({"query_to_text": lambda query: " "}, "query_to_text returned nothing to read for a query that is not blank"),
        ({"query_to_text": lambda query: None}, "query_to_text returned nothing to read for a query that is not blank"),
        ({"adjust": lambda query, documents: [0.0]}, "adjust must return a finite number for each of the 3 documents"),
        (
            {"adjust": lambda query, documents: [0.0, math.inf, 0.0]},
            "adjust must return a finite number for each of the 3 documents",
        ),
    ],
)
def test_a_function_that_returns_something_else_is_named(own: dict[str, Any], says: str) -> None:
    given_documents = [Document(page_content="low"), Document(page_content="low", metadata={"text": 7})]
    with pytest.raises(ValueError, match=f"^{says}$"):
        table(SCORES, **own).compress_documents([*given_documents, given_documents[0]], "q")


def test_plain_strings_are_ranked_in_the_shape_of_cohere() -> None:
    assert table(SCORES, top_n=2).rerank("q", ["low", "high", "middle"]) == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 2, "relevance_score": 0.5},
    ]
    assert table(SCORES).rerank("q", []) == []
    for wrong in ("a text", ["low", 7]):
        with pytest.raises(ValueError, match=r"^documents must be a list of texts; are query and documents swapped\?$"):
            table(SCORES).rerank("q", wrong)  # type: ignore[arg-type]


def test_plain_strings_are_read_as_they_are_by_the_model_that_is_loaded_already(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_reranker, tmp_path / "m")
    compressor = BGERerankerCompressor(
        model_name=str(folder), document_to_text=lambda document: document.metadata["text"]
    )
    compressor.warmup()
    plain = BGERerankerCompressor(model_name=str(tiny_reranker)).rerank("头痛", ["发热", "偏头痛"])
    shutil.rmtree(folder)
    assert compressor.rerank("头痛", ["发热", "偏头痛"]) == plain
    document = Document(page_content="", metadata={"text": "发热"})
    assert compressor.compress_documents([document], "头痛")[0].metadata["relevance_score"] in [
        pytest.approx(kept["relevance_score"], abs=1e-6) for kept in plain
    ]


def test_plain_strings_have_no_score_after_a_failure() -> None:
    assert table({}, on_error="passthrough", top_n=2).rerank("q", ["a", "b", "c"]) == [
        {"index": 0, "relevance_score": None},
        {"index": 1, "relevance_score": None},
    ]


class KnowsOnly(TableCrossEncoder):
    """A scorer that was trained on some texts only, as the bundled model is."""

    def __init__(self, scores: dict[str, float], known: set[str]) -> None:
        super().__init__(scores)
        self.known = known

    def knows(self, document: str) -> bool:
        return document in self.known


def test_over_texts_that_the_model_was_not_made_for_both_stages_have_a_say_and_the_metadata_says_so() -> None:
    scores = {"a": sigmoid(-2.0), "b": sigmoid(-1.0), "c": sigmoid(0.5), "d": sigmoid(3.0)}
    given_documents = [Document(page_content=text) for text in "abcd"]
    trusted = BGERerankerCompressor(cross_encoder=KnowsOnly(scores, set("abcd"))).compress_documents(
        given_documents, "q"
    )
    assert contents(trusted) == ["d", "c", "b", "a"]
    assert all("rerank_fused" not in document.metadata for document in trusted)
    foreign = BGERerankerCompressor(cross_encoder=KnowsOnly(scores, {"a"})).compress_documents(given_documents, "q")
    # By hand: a 1/61 + 1/64, b 1/62 + 1/63, c 1/63 + 1/62, d 1/64 + 1/61; ties keep the reranker's order.
    assert contents(foreign) == ["d", "a", "c", "b"]
    assert all(document.metadata["rerank_fused"] is True for document in foreign)
    assert [document.metadata["rerank_rank"] for document in foreign] == [1, 2, 3, 4]
    assert [document.metadata["rerank_margin"] for document in foreign] == pytest.approx([2.5, -5.0, -2.5, -4.0])


def test_where_both_stages_have_a_say_blank_documents_still_go_last_and_change_nothing_for_the_others() -> None:
    class ByLength(KnowsOnly):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return [0.5 + len(text) / 100 for _, text in text_pairs]

    def order(*texts: str) -> list[str]:
        compressor = BGERerankerCompressor(cross_encoder=ByLength({}, set()), top_n=None)
        return contents(compressor.compress_documents([Document(page_content=text) for text in texts], "q"))

    assert order("  ", "a", "ab", "abc") == [*order("a", "ab", "abc"), "  "]
    texts = ["abcdefgh", "a", "abcdefg", "abcdef", "abcde", "abcd", "abc", "ab"]
    assert order(texts[0], "", *texts[1:3], "\n", *texts[3:]) == [*order(*texts), "", "\n"]


def test_a_fusion_gives_each_stage_the_weight_that_reciprocal_ranks_have() -> None:
    texts = [f"{i:02}" for i in range(1, 25)]
    last = {text: -float(i) for i, text in enumerate([*texts[1:], texts[0]])}
    kept = BGERerankerCompressor(cross_encoder=KnowsOnly(last, set()), top_n=None).compress_documents(
        [Document(page_content=text) for text in texts], "q"
    )
    # The first of recall is the last here: 1/61 + 1/84; the others are one place higher: 1/(60 + n) + 1/(59 + n).
    fused = {1: 1 / 61 + 1 / 84} | {n: 1 / (60 + n) + 1 / (59 + n) for n in range(2, 25)}
    assert [document.metadata["recall_rank"] for document in kept] == sorted(fused, key=lambda n: -fused[n])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"top_n": 0}, "top_n"),
        ({"top_k": 3}, "top_k"),
        ({"score_threshold": 1.5}, r"score_threshold must lie in \[0, 1\] as relevance_score does, got 1\.5"),
        ({"score_threshold": -0.1}, r"score_threshold must lie in \[0, 1\] as relevance_score does, got -0\.1"),
        ({"score_threshold": float("nan")}, "finite"),
        ({"max_length": 3}, "max_length"),
        ({"dtype": "float8"}, "dtype"),
        ({"on_error": "ignore"}, "on_error"),
        ({"cross_encoder": TableCrossEncoder({}), "model_name": "bundled"}, "give one or the other"),
    ],
)
def test_a_bad_or_unknown_setting_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        BGERerankerCompressor(**changes)


def test_the_ends_of_the_scale_are_thresholds_and_a_scorer_s_own_scale_has_no_ends() -> None:
    for threshold in (0.0, 1.0):
        assert BGERerankerCompressor(score_threshold=threshold).score_threshold == threshold
    kept = table({"a": 7.0, "b": 3.0}, score_threshold=5.0).compress_documents(
        [Document(page_content=text) for text in "ab"], "q"
    )
    assert contents(kept) == ["a"]


def test_a_blank_document_passes_no_threshold_even_where_all_scores_lie_below_its_own() -> None:
    below_zero = table({"a": -0.5, "b": -3.0}, score_threshold=-1.0)
    assert contents(below_zero.compress_documents([Document(page_content=text) for text in (" ", "b", "a")], "q")) == [
        "a"
    ]


def all_settings(model: Path) -> dict[str, Any]:
    return {
        "model_name": str(model), "revision": None, "max_length": 64, "device": "cpu", "dtype": "float32",
        "batch_tokens": 777, "long_documents": "windows", "cache": ScoreCache(),
    }  # fmt: skip


def test_a_ready_scorer_or_engine_takes_the_place_of_every_setting_of_a_model(tiny_reranker: Path) -> None:
    every = {**all_settings(tiny_reranker), "revision": "main"}
    encoder = TableCrossEncoder(SCORES)
    for name, value in every.items():
        with pytest.raises(ValidationError, match=f"cross_encoder comes with its own {name}; give one or the other"):
            BGERerankerCompressor(cross_encoder=encoder, **{name: value})
    names = ", ".join(sorted([*every, "cross_encoder"]))
    with pytest.raises(ValidationError, match=f"engine comes with its own {names}; give one or the other"):
        BGERerankerCompressor(engine=ScoringEngine(lambda: encoder), cross_encoder=encoder, **every)


def test_the_model_is_loaded_as_the_settings_say(tiny_reranker: Path) -> None:
    every = all_settings(tiny_reranker)
    compressor = BGERerankerCompressor(**every)
    compressor.warmup()
    encoder = compressor._ready().loaded_encoder
    assert {name: getattr(encoder, name) for name in every} == every
    with pytest.raises(ValueError, match="is not on the hub, so revision='main' means nothing"):
        BGERerankerCompressor(model_name=str(tiny_reranker), revision="main").warmup()


def test_a_copy_loads_its_own_model_and_who_was_admitted_has_it_loaded(tiny_reranker: Path) -> None:
    compressor = BGERerankerCompressor(model_name=str(tiny_reranker), max_length=64)
    compressor.warmup()
    assert compressor._ready() is compressor._ready()
    for twin in (copy.deepcopy(compressor), compressor.model_copy(update={"max_length": 32})):
        twin.warmup()
        encoder = twin._ready().loaded_encoder
        assert isinstance(encoder, BGECrossEncoder)
        assert encoder is not compressor._ready().loaded_encoder
        assert encoder.max_length == twin.max_length
    engine = ScoringEngine(lambda: TableCrossEncoder(SCORES))
    BGERerankerCompressor(engine=engine.admit(1)).warmup()
    assert engine.loaded_encoder is None
    BGERerankerCompressor(engine=engine).warmup()
    assert engine.loaded_encoder is not None


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
            raise RuntimeError("the model is broken")

    compressor = BGERerankerCompressor(cross_encoder=Broken(), on_error="passthrough", top_n=2)
    stale = [document.model_copy(update={"metadata": {"relevance_score": 1.0, "n": 7}}) for document in candidates()]
    with caplog.at_level(logging.WARNING):
        kept = compressor.compress_documents(stale, "canary-query")
    assert contents(kept) == ["low", "high"]
    assert [document.metadata for document in kept] == [
        {"n": 7, "recall_rank": 1, "rerank_failed": True},
        {"n": 7, "recall_rank": 2, "rerank_failed": True},
    ]
    assert "RuntimeError" in caplog.text
    assert "4 candidates" in caplog.text
    assert "canary" not in caplog.text
    assert "middle" not in caplog.text


async def test_a_model_that_raises_stop_iteration_is_an_error_and_nobody_waits_for_ever() -> None:
    class Exhausted(BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return next(iter(()))  # type: ignore[no-any-return]

    compressor = BGERerankerCompressor(cross_encoder=Exhausted())
    with pytest.raises(RuntimeError, match="the model raised StopIteration"):
        await asyncio.wait_for(compressor.acompress_documents(candidates(), "q"), 5)


@pytest.mark.parametrize("broken", [False, True])
async def test_metadata_that_cannot_be_copied_come_back_themselves_and_the_run_ends(broken: bool) -> None:
    handle, listed = threading.Lock(), ["发热"]
    given = [Document(page_content="a", metadata={"handle": handle, "listed": listed})]
    compressor = table({} if broken else {"a": 0.5}, on_error="passthrough")
    recorder = Recorder()
    kept = compressor.compress_documents(given, "q", callbacks=[recorder])
    kept += await compressor.acompress_documents(given, "q", callbacks=[recorder])
    for document in kept:
        assert document.metadata["handle"] is handle
        assert document.metadata["listed"] == listed
        assert document.metadata["listed"] is not listed
        assert ("rerank_failed" in document.metadata) == broken
    assert [seen["returned"] for seen in recorder.seen if "returned" in seen] == [1, 1]


async def test_passthrough_works_in_async_too(caplog: pytest.LogCaptureFixture) -> None:
    compressor = table({}, on_error="passthrough", top_n=1)
    assert contents(await compressor.acompress_documents(candidates(), "q")) == ["low"]
    assert "KeyError" in caplog.text


def outputs_of(seen: Any, at_most_ms: float) -> dict[str, Any]:
    """What a trace says of the end, less the time, which is looked at here."""
    milliseconds = seen.pop("milliseconds")
    assert 0 <= milliseconds <= at_most_ms
    assert milliseconds == round(float(milliseconds), 3)
    assert type(milliseconds) is float
    return dict(seen)


async def test_a_trace_has_counts_and_scores_and_no_text() -> None:
    compressor = BGERerankerCompressor(cross_encoder=TableCrossEncoder(SCORES), top_n=2, score_threshold=0.2)
    recorder = Recorder()
    started = time.perf_counter()
    compressor.compress_documents(candidates(), "canary-query", callbacks=[recorder])
    await compressor.acompress_documents(candidates(), "canary-query", callbacks=[recorder])
    within_ms = (time.perf_counter() - started) * 1_000
    assert [name for name, _ in recorder.started] == ["BGERerankerCompressor"] * 2
    for given_, returned in (recorder.seen[:2], recorder.seen[2:]):
        assert given_ == {
            "candidates": 4, "model_name": "TableCrossEncoder", "top_n": 2, "score_threshold": 0.2,
        }  # fmt: skip
        assert outputs_of(returned, within_ms) == {
            "returned": 2, "relevance_scores": [0.9, 0.5], "recall_ranks": [2, 3],
        }  # fmt: skip
    assert "canary" not in json.dumps(recorder.seen, default=str)
    assert "middle" not in json.dumps(recorder.seen, default=str)


def test_a_trace_measures_the_time_and_names_the_model_or_what_stands_for_it(tmp_path: Path) -> None:
    recorder = Recorder()
    BGERerankerCompressor(cross_encoder=SlowCrossEncoder(0.03)).compress_documents(
        candidates(), "q", callbacks=[recorder]
    )
    assert recorder.seen[1]["milliseconds"] >= 30
    BGERerankerCompressor(model_name=str(tmp_path), on_error="passthrough").compress_documents(
        candidates(), "q", callbacks=[recorder]
    )
    assert recorder.seen[2]["model_name"] == str(tmp_path)
    assert recorder.seen[3]["relevance_scores"] == [None] * 4
    engine = ScoringEngine(lambda: TableCrossEncoder(SCORES))
    BGERerankerCompressor(engine=engine).compress_documents(candidates(), "q", callbacks=[recorder])
    assert recorder.seen[4]["model_name"] == "ScoringEngine"


class AsyncRecorder(AsyncCallbackHandler):
    """Keeps the beginnings, the ends and the errors of runs."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def on_chain_start(self, serialized: Any, *_: Any, **__: Any) -> None:
        assert serialized == {}
        self.events.append("start")

    raise_error = True

    async def on_chain_end(self, *_: Any, **__: Any) -> None:
        self.events.append("end")

    async def on_chain_error(self, error: BaseException, **_: Any) -> None:
        self.events.append(type(error).__name__)


async def test_callbacks_see_a_run_and_its_failure() -> None:
    recorder = AsyncRecorder()
    await table(SCORES).acompress_documents(candidates(), "q", callbacks=[recorder])
    with pytest.raises(KeyError):
        await table({}).acompress_documents(candidates(), "q", callbacks=[recorder])
    waiting = asyncio.create_task(
        BGERerankerCompressor(cross_encoder=SlowCrossEncoder(0.05)).acompress_documents(
            candidates(), "q", callbacks=[recorder]
        )
    )
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert recorder.events == ["start", "end", "start", "KeyError", "start", "CancelledError"]

    class Errors(BaseCallbackHandler):
        raise_error = True

        def on_chain_start(self, serialized: Any, *_: Any, **__: Any) -> None:
            assert serialized == {}

        def on_chain_error(self, error: BaseException, **_: Any) -> None:
            seen.append(error)

    seen: list[BaseException] = []
    with pytest.raises(KeyError) as raised:
        table({}).compress_documents(candidates(), "q", callbacks=[Errors()])
    assert seen == [raised.value]


async def test_in_async_the_caller_s_functions_run_on_a_thread_so_that_the_loop_does_not_wait_for_them() -> None:
    places: list[bool] = []

    def note() -> None:
        places.append(threading.current_thread() is threading.main_thread())

    class Noting(KnowsOnly):
        def knows(self, document: str) -> bool:
            note()
            return True

    def document_to_text(document: Document) -> str:
        note()
        return document.page_content

    def query_to_text(query: str) -> str:
        note()
        return query

    def adjust(query: str, documents: Sequence[Document]) -> list[float]:
        note()
        assert query == "q"
        return [0.0] * len(documents)

    async def rerank(**own: Any) -> list[str]:
        places.clear()
        compressor = BGERerankerCompressor(cross_encoder=Noting(SCORES, set()), top_n=2, **own)
        return contents(await compressor.acompress_documents(candidates(), "q"))

    assert await rerank() == ["high", "middle"]
    assert set(places) == {True}  # with nothing of the caller's there is nothing to wait for
    for own in ({"document_to_text": document_to_text}, {"query_to_text": query_to_text}, {"adjust": adjust}):
        assert await rerank(**own) == ["high", "middle"]
        assert set(places) == {False}


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


@pytest.mark.parametrize("ready", ["cross_encoder", "engine"])
def test_around_a_ready_scorer_or_engine_it_rebuilds_from_its_configuration_too(ready: str) -> None:
    encoder = TableCrossEncoder(SCORES)
    given = {ready: encoder if ready == "cross_encoder" else ScoringEngine(lambda: encoder)}
    compressor = BGERerankerCompressor(**given, top_n=3, score_threshold=0.2)  # type: ignore[arg-type]
    twin = BGERerankerCompressor(**compressor.model_dump())
    assert twin.model_dump() == compressor.model_dump()
    assert twin.compress_documents(candidates(), "q") == compressor.compress_documents(candidates(), "q")


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
