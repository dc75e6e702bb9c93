from __future__ import annotations

import asyncio
import ctypes
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_bge_medical.cross_encoders import BGECrossEncoder, PairLogit, sigmoid
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.remote_cross_encoders import RemoteRerankerError
from langchain_bge_medical.serving import scheduler
from langchain_bge_medical.serving.scheduler import (
    BatchReport,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    PairScore,
    ScoringEngine,
    WorkerDied,
    batch_around,
    estimate_tokens,
    is_out_of_memory,
    score_pairs,
)
from tests.conftest import TableCrossEncoder
from tests.serving_kit import PROBE, SharedCharacters

QUERY = "发烧咳嗽"


@pytest.fixture
def scorer() -> SharedCharacters:
    return SharedCharacters()


@pytest.fixture
def engine(scorer: SharedCharacters) -> Iterator[ScoringEngine]:
    engine = ScoringEngine(lambda: scorer, max_wait_s=10, probe=PROBE)
    engine.start()
    scorer.batches.clear()
    scorer.tokens = scorer.padded = 0
    yield engine
    engine.close()


def pairs(*documents: str, query: str = QUERY) -> list[tuple[str, str]]:
    return [(query, document) for document in documents]


def right(request: list[tuple[str, str]]) -> list[float]:
    return [SharedCharacters.logit(query, document) for query, document in request]


def logits(future: Future[list[PairScore]]) -> list[float | None]:
    return [score.logit for score in future.result(timeout=10)]


def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.002)


# What comes out


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text("发烧咳嗽头痛ab", max_size=60), max_size=12), max_size=8))
def test_however_requests_share_batches_each_gets_the_scores_it_would_get_alone(requests: list[list[str]]) -> None:
    engine = ScoringEngine(lambda: SharedCharacters(budget=128))
    given_pairs = [pairs(*documents) for documents in requests]
    futures = [engine.submit(request) for request in given_pairs]
    assert [logits(future) for future in futures] == [right(request) for request in given_pairs]
    eventually(lambda: engine.backlog_tokens == engine.backlog_requests == 0)
    engine.close()


def test_a_real_model_behind_the_engine_gives_its_own_logits_and_token_counts(tiny_reranker: Path) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, batch_tokens=256)
    request = pairs(*("发热" * n for n in range(1, 60)))
    engine = ScoringEngine(lambda: encoder)
    scores = engine.submit(request).result(timeout=30)
    expected = encoder.pair_logits(request)
    assert [score.logit for score in scores] == pytest.approx([pair.logit for pair in expected], abs=1e-5)
    assert [score.score for score in scores] == [sigmoid(score.logit or 0) for score in scores]
    assert [score.tokens for score in scores] == [min(128, len(QUERY) + 2 * n + 4) for n in range(1, 60)]
    assert [bool(score.truncated) for score in scores] == [pair.document_tokens_cut > 0 for pair in expected]
    assert engine.counts.padded_tokens <= engine.counts.tokens / 0.9
    engine.close()


def test_encoders_of_every_kind_are_scored_with_what_they_offer() -> None:
    class Short(BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return [0.5]

    class Logits(BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            raise AssertionError

        def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return [3.0] * len(text_pairs)

    class PairLogits(Logits):
        def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            raise AssertionError

        def pair_logits(self, text_pairs: list[tuple[str, str]]) -> list[PairLogit]:
            return [PairLogit(3.0, len(query) - 1, len(document) - 1) for query, document in text_pairs]

    assert score_pairs(PairLogits(), [("a", "a"), ("aa", "a"), ("a", "aa"), ("aa", "aa")]) == [
        PairScore(sigmoid(3.0), 3.0, cut) for cut in ((), ("query",), ("document",), ("query", "document"))
    ]
    assert score_pairs(Logits(), pairs("a")) == [PairScore(sigmoid(3.0), 3.0, (), 0)]
    with pytest.raises(ValueError, match=r"^Short returned 1 scores for 2 pairs$"):
        score_pairs(Short(), pairs("a", "b"))
    with pytest.raises(ValueError, match=r"^TableCrossEncoder returned a score that is not a finite number$"):
        score_pairs(TableCrossEncoder({"a": 1.0, "b": math.inf}), pairs("a", "b"))
    plain = ScoringEngine(lambda: TableCrossEncoder({"a": 7.5})).submit(pairs("a")).result(timeout=5)[0]
    assert (plain.score, plain.logit, plain.order) == (7.5, None, 7.5)
    logit = ScoringEngine(Logits).submit(pairs("a")).result(timeout=5)[0]
    assert (logit.score, logit.logit) == (sigmoid(3.0), 3.0)


def test_an_encoder_that_says_nothing_about_tokens_gets_all_that_waits_in_one_call() -> None:
    encoder = TableCrossEncoder({str(n): 0.5 for n in range(300)})
    engine = ScoringEngine(lambda: encoder)
    engine.submit(pairs(*map(str, range(300)))).result(timeout=5)
    assert [len(call) for call in encoder.calls] == [300]
    assert engine.token_budget is None
    encoder.scores = {"x" * n: 0.5 for n in range(1, 1_501)}
    engine.submit(pairs(*encoder.scores)).result(timeout=5)
    lengths = [[len(document) for _, document in call] for call in encoder.calls[1:]]
    assert [len(call) for call in lengths] == [1_024, 476]
    estimates = [n // 4 for call in lengths for n in call]
    assert estimates == sorted(estimates, reverse=True)  # those of like length side by side
    assert engine.counts.batches == 3
    assert engine.counts.pairs == 1_800


def test_a_request_without_pairs_is_done_at_once(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    assert engine.submit([]).result(timeout=0) == []
    assert engine.admit(100).submit([]).result(timeout=0) == []
    assert (engine.backlog_tokens, engine.backlog_requests) == (0, 0)
    assert scorer.batches == []


@pytest.mark.parametrize(
    ("pair", "tokens"),
    [
        (("", ""), 4),
        (("ab", "c"), 4),
        (("ab", "cd"), 5),
        (("发烧", "咳嗽"), 7),
        (("", "\ud800a"), 5),
        (("x" * 9, "x" * 7), 8),
    ],
)
def test_a_token_is_taken_for_four_bytes_and_four_are_added(pair: tuple[str, str], tokens: int) -> None:
    assert estimate_tokens(pair) == tokens


def test_no_pair_counts_for_more_than_the_model_reads() -> None:
    engine = ScoringEngine(SharedCharacters)
    long = ("", "x" * 100_000)
    assert engine.estimate([long, ("ab", "cd")]) == [8_192, 5]
    engine.encoder()
    assert engine.estimate([long]) == [512]
    plain = ScoringEngine(lambda: TableCrossEncoder({}))
    plain.encoder()
    assert plain.estimate([long]) == [8_192]


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA Out of Memory. Tried"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("illegal memory access"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_that_memory_was_short_is_told_from_other_errors(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short


# Its beginning


def test_it_is_ready_once_a_batch_of_half_the_budget_was_scored_twice_and_then_it_knows_its_rate() -> None:
    class Watched(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            seen.append((engine.state, engine.ready()))
            return super().logits(pairs)

    seen: list[tuple[str, bool]] = []
    scorer = Watched(seconds_per_batch=0.02)
    engine = ScoringEngine(lambda: scorer, probe=PROBE)
    assert (engine.state, engine.tokens_per_second, engine.token_budget) == ("starting", None, None)
    assert engine.loaded_encoder is None
    started = time.monotonic()
    engine.start()
    seconds = (time.monotonic() - started) / 2
    assert seen == [("starting", False)] * 2
    assert (engine.state, engine.ready(), engine.token_budget) == ("ready", True, 2_048)
    assert engine.loaded_encoder is scorer
    batch = [("probe", f"probe {i}") for i in range(2_048 // (2 * 6))]
    assert scorer.batches == [batch, batch]
    assert engine.tokens_per_second is not None
    assert sum(engine.estimate(batch)) / (2 * seconds) < engine.tokens_per_second <= sum(engine.estimate(batch)) / 0.02
    small = SharedCharacters(budget=8)
    ScoringEngine(lambda: small, probe=PROBE).start()
    assert small.batches == [[("probe", "probe 0")]] * 2


def test_without_a_probe_the_model_is_loaded_and_nothing_is_scored() -> None:
    scorer = SharedCharacters()
    engine = ScoringEngine(lambda: scorer)
    engine.start()
    assert (engine.state, scorer.batches, engine.tokens_per_second) == ("ready", [], None)
    assert engine.encoder() is scorer
    plain = Halves()
    ScoringEngine(lambda: plain, probe=PROBE).start()
    assert plain.calls == [170, 170]  # as if the budget were 2,048


class Halves(BaseCrossEncoder):
    """A scorer that says nothing about itself."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        self.calls.append(len(text_pairs))
        return [0.5] * len(text_pairs)


def test_compressors_can_share_an_engine_and_an_admission_is_good_for_one_call(scorer: SharedCharacters) -> None:
    engine = ScoringEngine(lambda: scorer)
    documents = [Document(page_content=text) for text in ("头痛", "咳嗽发烧", "")]
    own = BGERerankerCompressor(cross_encoder=SharedCharacters()).compress_documents(documents, QUERY)
    for top_n in (1, 3):
        shared = BGERerankerCompressor(engine=engine, top_n=top_n)
        assert shared.compress_documents(documents, QUERY) == own[:top_n]
    assert engine.counts.batches == 2
    admission = engine.admit(100)
    once = BGERerankerCompressor(engine=admission)
    assert once.compress_documents(documents, QUERY) == own
    eventually(lambda: engine.backlog_tokens == 0)
    with pytest.raises(RuntimeError, match="one submit"):
        once.compress_documents(documents, QUERY)
    with pytest.raises(ValidationError, match="engine comes with its own cross_encoder, model_name"):
        BGERerankerCompressor(engine=engine, cross_encoder=scorer, model_name="bundled")


# Batches


class Item:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens


@pytest.mark.parametrize(
    ("lengths", "first", "budget", "padding", "batch"),
    [
        ([10], 0, 5, 0.1, [10]),  # larger than the budget: alone
        ([10, 10], 0, 20, 0.0, [10, 10]),
        ([10, 10], 0, 19, 0.0, [10]),
        ([10, 9], 0, 20, 0.05, [10, 9]),  # exactly a twentieth is padding
        ([10, 9], 0, 20, 0.049, [10]),
        ([5, 10, 7, 6], 0, 12, None, [6, 5]),  # the nearest ones first
        ([5, 10, 7, 6], 0, 18, None, [7, 6, 5]),
        ([5, 10, 7, 6], 1, 17, None, [10, 7]),
        ([5, 10, 7, 6], 2, 18, None, [7, 6, 5]),
        ([5, 10, 7, 6], 2, 28, None, [10, 7, 6, 5]),
        ([8, 6, 5], 1, 11, None, [6, 5]),
        ([8, 6, 4], 1, 14, None, [8, 6]),  # of two that are equally near, the longer one
        ([9, 6, 4], 1, 9, None, [6]),
        ([9, 6, 3, 1], 1, 10, None, [6, 3, 1]),  # what is nearest may not fit while the next does
    ],
)
def test_a_batch_takes_the_nearest_lengths_that_fit(
    lengths: list[int], first: int, budget: int, padding: float | None, batch: list[int]
) -> None:
    items: Any = [Item(length) for length in lengths]
    assert [item.tokens for item in batch_around(items[first], items, budget, padding)] == batch


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=60),
    st.integers(64, 2_048),
    st.sampled_from([0.1, None]),
    st.data(),
)
def test_a_batch_holds_the_one_whose_turn_it_is_and_as_many_like_it_as_fit(
    lengths: list[int], budget: int, padding: float | None, data: st.DataObject
) -> None:
    items: Any = [Item(length) for length in lengths]
    first = data.draw(st.sampled_from(items))
    batch = batch_around(first, items, budget, padding)
    assert first in batch
    assert len({id(item) for item in batch}) == len(batch)
    sizes = [item.tokens or 0 for item in batch]
    padded = sum(sizes) if padding is None else max(sizes) * len(sizes)
    assert padded <= budget or len(batch) == 1
    assert padded - sum(sizes) <= (padding or 0) * padded + 1e-9
    if len(set(lengths)) == 1:
        assert len(batch) == max(1, min(len(lengths), budget // lengths[0]))


def test_over_concurrent_requests_of_mixed_lengths_at_most_a_tenth_is_padding(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    futures = [
        engine.submit(pairs(*("咳" * (37 * (i + 3 * n) % 480 + 1) for n in range(20)), query=f"{i:02}"))
        for i in range(30)
    ]
    for future in futures:
        future.result(timeout=10)
    assert scorer.tokens > 100_000
    assert 1 - scorer.tokens / scorer.padded <= 0.10
    assert len(scorer.batches) < 300  # and yet they are shared


def test_a_pair_that_waits_twice_in_one_batch_is_scored_once() -> None:
    scorer = SharedCharacters(seconds_per_batch=0.02)
    engine = ScoringEngine(lambda: scorer)
    futures = [engine.submit(pairs("咳嗽", "头痛")) for _ in range(10)]
    assert {tuple(logits(future)) for future in futures} == {(0.0, -2.0)}
    assert all(len(batch) == len(set(batch)) for batch in scorer.batches)
    assert sum(map(len, scorer.batches)) < 20


def test_batches_are_reported_with_their_size(engine: ScoringEngine) -> None:
    reports: list[BatchReport] = []
    engine.on_batch = reports.append
    engine.submit(pairs("咳" * 10, "嗽" * 10)).result(timeout=5)
    engine.submit(pairs("咳" * 20, "嗽" * 19)).result(timeout=5)
    assert [(r.pairs, r.tokens, r.padded_tokens, r.requests) for r in reports] == [(2, 36, 36, 1), (2, 55, 56, 1)]
    assert all(0 < report.seconds < 5 for report in reports)
    counts = engine.counts
    assert (counts.batches, counts.pairs, counts.tokens, counts.padded_tokens) == (2, 4, 91, 92)
    assert (counts.failed_batches, counts.overloaded, counts.expired, counts.cancelled) == (0, 0, 0, 0)


def test_requests_that_share_a_batch_are_counted_and_each_knows_its_times(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    reports: list[BatchReport] = []
    engine.on_batch = reports.append
    started = time.monotonic()
    blocker = engine.submit(pairs("slow"))
    eventually(lambda: scorer.batches)
    scorer.seconds_per_batch = 0.01
    admissions = [engine.admit(100) for _ in range(2)]
    futures = [admission.submit(pairs("咳" * 9, "头" * 9)) for admission in admissions]
    futures.append(engine.submit(pairs("咳" * 9)))
    assert all(admission.queue_s == 0 for admission in admissions)
    waited_from = time.monotonic()
    eventually(lambda: time.monotonic() - waited_from > 0.01)
    scorer.released.set()
    for future in futures:
        future.result(timeout=5)
    blocker.result(timeout=5)
    within = time.monotonic() - started
    # The same words are read once, whoever asks.
    assert [(r.pairs, r.tokens, r.padded_tokens, r.requests) for r in reports] == [(1, 12, 12, 1), (2, 85, 85, 3)]
    assert engine.counts.pairs == 6
    for admission in admissions:
        assert 0.01 < admission.queue_s < within
        assert admission.score_s == reports[1].seconds >= 0.01
        assert 0 < admission.tokenize_s < within
        assert admission.read_tokens == 34


def test_the_time_that_counting_tokens_takes_is_told_to_all_that_waited_for_it() -> None:
    class Counts(SharedCharacters):
        def token_counts(self, pairs: Any) -> list[int]:
            if not self.counted:
                self.released.wait(0.5)
                self.counted = True
            else:
                time.sleep(0.01)
            return super().token_counts(pairs)

        counted = False

    scorer = Counts()
    scorer.logits = lambda pairs: [0.0] * len(pairs)  # type: ignore[method-assign, assignment]
    engine = ScoringEngine(lambda: scorer)
    first = engine.submit(pairs("咳"))
    admissions = [engine.admit(10) for _ in range(2)]
    futures = [admission.submit(pairs("咳嗽", "发")) for admission in admissions]
    scorer.released.set()
    for future in (first, *futures):
        future.result(timeout=5)
    assert admissions[0].tokenize_s == admissions[1].tokenize_s >= 0.02
    engine.close()


@pytest.mark.parametrize("counts", [[0, 5], [5], [5, 5, 5], ["x", 5]])
def test_a_tokenizer_that_counts_wrong_fails_the_request_and_none_is_taken_for_one(counts: list[Any]) -> None:
    class Counts(SharedCharacters):
        def token_counts(self, pairs: Any) -> list[Any]:
            return counts if len(pairs) == 2 else super().token_counts(pairs)

        def logits(self, pairs: Any) -> list[float]:
            return [self.logit(*pair) for pair in pairs]

    engine = ScoringEngine(Counts)
    future = engine.submit(pairs("咳嗽", "头痛"))
    if counts == [0, 5]:  # a pair that the cache knows
        assert [score.tokens for score in future.result(timeout=5)] == [1, 5]
    else:
        with pytest.raises(ValueError, match=r"zip|invalid literal"):
            future.result(timeout=5)
    assert logits(engine.submit(pairs("发"))) == [-1.0]
    engine.close()


def test_tokens_are_counted_for_eight_batches_at_a_time() -> None:
    class Counts(SharedCharacters):
        def token_counts(self, pairs: Any) -> list[int]:
            if len(pairs) > 50:
                counted.append(len(pairs))
            return super().token_counts(pairs)

    counted: list[int] = []
    engine = ScoringEngine(lambda: Counts(budget=100))
    engine.submit([("", f"{n:016}") for n in range(200)]).result(timeout=5)
    assert counted == [100]  # 8 tokens each by estimate; of the next ones those that are new
    engine.close()


def test_without_counts_the_estimates_fill_the_budget_and_without_padding_any_lengths_share_a_batch() -> None:
    class Quiet(BaseCrossEncoder):
        token_budget = 100
        pads = False

        def __init__(self) -> None:
            self.batches: list[list[int]] = []

        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            self.batches.append([len(document) for _, document in text_pairs])
            return [0.5] * len(text_pairs)

    encoder = Quiet()
    engine = ScoringEngine(lambda: encoder)
    scores = engine.submit([("", "x" * n) for n in (4, 100, 40, 300, 8)]).result(timeout=5)
    assert encoder.batches == [[300], [100, 40, 8, 4]]  # of 79 tokens, and of 29, 14, 6 and 5
    assert [score.tokens for score in scores] == [5, 29, 14, 79, 6]
    assert [score.logit for score in scores] == [None] * 5
    engine.close()
    padded = Quiet()
    padded.pads = True
    ScoringEngine(lambda: padded).submit([("", "x" * n) for n in (4, 100, 40, 300, 8)]).result(timeout=5)
    assert padded.batches == [[300], [100], [40], [8, 4]]


# Fairness


def test_a_request_of_a_thousand_documents_does_not_hold_up_one_of_five() -> None:
    scorer = SharedCharacters(seconds_per_batch=0.002)
    engine = ScoringEngine(lambda: scorer)
    big = engine.submit(pairs(*(f"{n:04}" + "咳" * (n % 400) for n in range(1_000))))
    eventually(lambda: len(scorer.batches) > 3)
    before = len(scorer.batches)
    small = engine.submit(pairs("发", "烧" * 50, "咳" * 100, "嗽" * 200, "痛" * 400))
    small.result(timeout=10)
    taken = len(scorer.batches) - before
    assert not big.done()
    assert taken <= 12  # of the hundred and more that the big one still has to go
    assert len(big.result(timeout=30)) == 1_000
    engine.close()


def test_requests_that_came_together_are_done_about_together() -> None:
    scorer = SharedCharacters(seconds_per_batch=0.001)
    engine = ScoringEngine(lambda: scorer)
    done: list[int] = []
    for i in range(8):
        future = engine.submit(pairs(*(f"{i}{n:03}" + "咳" * 100 for n in range(60))))
        future.add_done_callback(lambda _, i=i: done.append(len(scorer.batches)))  # type: ignore[misc]
    eventually(lambda: len(done) == 8, within_s=10)
    assert min(done) > 0.7 * max(done)
    engine.close()


# Admission


def test_what_does_not_fit_into_the_time_is_refused_as_a_whole_and_told_when_to_come_again() -> None:
    scorer = SharedCharacters(seconds_per_token=2e-5)
    engine = ScoringEngine(lambda: scorer, max_wait_s=2, probe=PROBE)
    engine.start()
    rate = engine.tokens_per_second
    assert rate is not None
    scorer.batches.clear()
    first = engine.admit(int(rate * 1.5))
    with pytest.raises(Overloaded) as refused:
        engine.admit(int(rate * 1.5))
    assert refused.value.retry_after_s == pytest.approx(1.0, rel=0.1)  # 3 s of work, of which 2 may wait
    assert str(refused.value) == "the queue is full; try again in 1.0 s"
    with pytest.raises(Overloaded) as refused:
        engine.admit(int(rate * 100))
    assert refused.value.retry_after_s == pytest.approx(1.5, rel=0.1)  # when all the others are done
    assert scorer.batches == []
    assert engine.counts.overloaded == 2
    assert (engine.backlog_tokens, engine.backlog_requests) == (first.tokens, 1)
    first.release()
    first.release()
    with pytest.raises(RuntimeError, match=r"^an admission is good for one submit$"):
        first.submit(pairs("咳嗽"))
    assert (engine.backlog_tokens, engine.backlog_requests) == (0, 0)
    engine.admit(int(rate * 1.5)).release()
    engine.close()


def test_a_request_larger_than_the_whole_queue_is_let_in_when_it_is_alone() -> None:
    engine = ScoringEngine(lambda: SharedCharacters(), max_wait_s=1, max_waiting_tokens=1_000)
    alone = engine.admit(50_000)
    with pytest.raises(Overloaded):
        engine.admit(1)
    alone.release()
    engine.admit(1).release()


def test_the_number_of_requests_that_wait_is_bounded_too() -> None:
    engine = ScoringEngine(
        lambda: SharedCharacters(seconds_per_batch=0.01), max_wait_s=9, max_waiting_requests=3, probe=PROBE
    )
    admissions = [engine.admit(tokens) for tokens in (10, 20, 60)]
    with pytest.raises(Overloaded, match=r"try again in 1\.0 s"):  # nothing is known of the rate
        engine.admit(1)
    engine.start()
    with pytest.raises(Overloaded) as refused:
        engine.admit(1)
    rate = engine.tokens_per_second
    assert rate is not None
    assert refused.value.retry_after_s == pytest.approx(30 / rate)  # until one of them is done
    assert engine.counts.overloaded == 2
    admissions[0].release()
    engine.admit(1)
    usual = ScoringEngine(SharedCharacters, max_wait_s=1)
    for _ in range(2_048):
        usual.admit(0)
    with pytest.raises(Overloaded):
        usual.admit(0)


def test_the_backlog_holds_eight_batches_or_what_the_rate_works_off_in_time_within_a_bound() -> None:
    engine = ScoringEngine(lambda: SharedCharacters(budget=100), max_wait_s=1e9)
    for tokens in (1, 16_383):  # eight batches of 2,048, while nothing is known of the model
        engine.admit(tokens)
    with pytest.raises(Overloaded):
        engine.admit(1)
    loaded = ScoringEngine(lambda: SharedCharacters(budget=100), max_wait_s=1e9)
    loaded.encoder()
    for tokens in (1, 799):
        loaded.admit(tokens)
    with pytest.raises(Overloaded):
        loaded.admit(1)
    for wait in (1e9, 1e-9):
        known = ScoringEngine(lambda: SharedCharacters(seconds_per_batch=0.01), max_wait_s=wait, probe=PROBE)
        known.start()
        for tokens in (1, 3_999_999 if wait > 1 else 16_383):
            known.admit(tokens)
        with pytest.raises(Overloaded) as refused:
            known.admit(7)
        assert refused.value.retry_after_s == pytest.approx(7 / (known.tokens_per_second or 0))


def test_without_a_longest_wait_everybody_is_let_in() -> None:
    engine = ScoringEngine(lambda: SharedCharacters())
    admissions = [engine.admit(10_000_000) for _ in range(5_000)]
    assert engine.backlog_requests == 5_000
    for admission in admissions:
        admission.release()


def test_the_backlog_is_what_was_estimated_until_the_pairs_are_known(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    admission = engine.admit(5_000)
    assert engine.backlog_tokens == admission.tokens == 5_000
    future = admission.submit(pairs("slow", "slower"))
    assert engine.backlog_tokens == admission.tokens == sum(engine.estimate(pairs("slow", "slower"))) == 16
    assert engine.backlog_requests == 1
    assert admission.loaded_encoder is engine.loaded_encoder
    scorer.released.set()
    future.result(timeout=5)
    eventually(lambda: (engine.backlog_tokens, engine.backlog_requests) == (0, 0))
    with pytest.raises(RuntimeError, match="one submit"):
        admission.submit(pairs("咳嗽"))


def test_the_rate_that_is_measured_under_load_is_the_real_one() -> None:
    scorer = SharedCharacters(seconds_per_token=2e-5)
    engine = ScoringEngine(lambda: scorer, max_wait_s=10)
    for future in [engine.submit(pairs("x" * 396, query=f"{i:02}")) for i in range(40)]:
        future.result(timeout=10)
    estimated = 40 * engine.estimate(pairs("x" * 396, query="00"))[0]  # in the same currency as the backlog
    assert engine.tokens_per_second == pytest.approx(estimated / scorer.busy_s, rel=0.25)
    engine.close()


def test_the_rate_forgets_with_a_half_life_of_five_seconds_of_work_and_a_quiet_hour_changes_nothing() -> None:
    reports: list[BatchReport] = []
    scorer = SharedCharacters(seconds_per_batch=0.005)
    engine = ScoringEngine(lambda: scorer, probe=PROBE)
    engine.start()
    engine.on_batch = reports.append
    rate = engine.tokens_per_second
    engine.submit(pairs("x" * 300)).result(timeout=5)
    engine.submit(pairs("x" * 504, "y" * 503)).result(timeout=5)  # one token less than half the budget
    assert engine.tokens_per_second == rate
    done, busy = engine._done_tokens, engine._busy_s
    request = pairs(*("x" * 503 + letter for letter in "ab"))
    engine.submit(request).result(timeout=5)
    assert reports[-1].tokens == 1_024
    decay = 0.5 ** (reports[-1].seconds / 5)
    done, busy = done * decay + sum(engine.estimate(request)), busy * decay + reports[-1].seconds
    assert engine.tokens_per_second == pytest.approx(done / busy)
    # A small batch counts if others wait, or if it is the first.
    waiting = engine.admit(1_000)
    engine.submit(pairs("咳嗽")).result(timeout=5)
    decay = 0.5 ** (reports[-1].seconds / 5)
    done, busy = done * decay + engine.estimate(pairs("咳嗽"))[0], busy * decay + reports[-1].seconds
    assert engine.tokens_per_second == pytest.approx(done / busy)
    waiting.release()
    fresh = ScoringEngine(lambda: scorer)
    fresh.on_batch = reports.append
    fresh.submit(pairs("咳嗽")).result(timeout=5)
    assert fresh.tokens_per_second == pytest.approx(fresh.estimate(pairs("咳嗽"))[0] / reports[-1].seconds)


# Giving up


def test_a_cancelled_request_costs_no_more_than_the_batch_that_was_running(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    scorer.seconds_per_batch = 0.02
    future = engine.submit(pairs(*(f"{n:03}" + "咳" * 400 for n in range(100))))
    eventually(lambda: len(scorer.batches) == 2)
    assert future.cancel()
    after = len(scorer.batches)
    engine.submit(pairs("咳嗽")).result(timeout=5)
    assert len(scorer.batches) <= after + 2  # one that was about to start, and the other request's
    eventually(lambda: engine.backlog_tokens == 0)
    assert engine.counts.cancelled == 1


async def test_a_task_that_is_cancelled_takes_its_pairs_out_of_the_queue(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    blocker = engine.submit(pairs("slow"))
    eventually(lambda: scorer.batches)

    async def score() -> None:
        await asyncio.wrap_future(engine.submit(pairs("咳嗽")))

    waiting = asyncio.create_task(score())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    scorer.released.set()
    await asyncio.wrap_future(blocker)
    eventually(lambda: engine.backlog_requests == 0)
    assert [document for batch in scorer.batches for _, document in batch] == ["slow"]


def test_past_its_deadline_a_request_is_not_scored_any_more(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    blocker = engine.submit(pairs("slow"))
    eventually(lambda: len(scorer.batches) == 1)
    late = engine.submit(pairs("咳嗽"), deadline=time.monotonic())
    early = engine.submit(pairs("头痛"), deadline=time.monotonic() + 60)
    scorer.released.set()
    with pytest.raises(DeadlineExceeded, match=r"^the request's time ran out before it was scored$"):
        late.result(timeout=5)
    assert logits(early) == [-2.0]
    assert all("咳嗽" not in document for batch in scorer.batches for _, document in batch)
    assert len(blocker.result(timeout=5)) == 1
    assert engine.counts.expired == 1


# Poison


@pytest.mark.parametrize(
    ("poison", "raises"),
    [
        ("raise", RuntimeError),
        ("nan", ValueError),
        ("die", WorkerDied),
    ],
)
def test_of_requests_that_share_a_batch_only_the_guilty_one_fails_and_the_next_is_served(
    engine: ScoringEngine, scorer: SharedCharacters, poison: str, raises: type[Exception]
) -> None:
    scorer.seconds_per_batch = 0.01
    blocker = engine.submit(pairs("first"))
    requests = [pairs("咳嗽", f"烧{i}") for i in range(7)]
    futures = [engine.submit(request) for request in requests[:4]]
    guilty = engine.submit(pairs("咳嗽", poison))
    futures += [engine.submit(request) for request in requests[4:]]
    with pytest.raises(raises, match={"die": "^scoring this request ended the engine's thread$"}.get(poison)):
        guilty.result(timeout=5)
    assert engine.submit(pairs("咳")).result(timeout=5)[0].logit == -1.0
    assert [logits(future) for future in futures] == [right(request) for request in requests]
    blocker.result(timeout=5)
    assert engine.ready()
    eventually(lambda: engine.backlog_requests == 0)
    assert engine.counts.worker_deaths == (2 if poison == "die" else 0)


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    request = pairs("咳嗽", "oom", "烧", "发热")
    assert logits(engine.submit(request)) == right(request)
    # Longest first, those of one length as they came: the half with oom in it is halved again.
    assert [[document for _, document in batch] for batch in scorer.batches] == [
        ["oom", "咳嗽", "发热", "烧"], ["oom", "咳嗽"], ["oom"], ["咳嗽"], ["发热", "烧"],
    ]  # fmt: skip
    assert engine.counts.failed_batches == 2
    assert engine.counts.reloads == 0


@pytest.mark.parametrize("guilty", range(8))
def test_who_is_guilty_is_found_by_halves(engine: ScoringEngine, scorer: SharedCharacters, guilty: int) -> None:
    blocker = engine.submit(pairs("slow"))
    eventually(lambda: scorer.batches)
    requests = [pairs(f"{i} raise" if i == guilty else f"{i} fine!") for i in range(8)]
    futures = [engine.submit(request) for request in requests]
    scorer.released.set()
    for i, future in enumerate(futures):
        if i == guilty:
            with pytest.raises(RuntimeError, match=f"cannot score {i} raise"):
                future.result(timeout=5)
        else:
            assert logits(future) == right(requests[i])
    blocker.result(timeout=5)
    assert engine.counts.failed_batches == 4  # of 8, 4, 2 and 1 requests
    sizes = [len(batch) for batch in scorer.batches[1:] if batch != [PROBE]]
    assert sorted(sizes, reverse=True) == [8, 4, 4, 2, 2, 1, 1]
    assert scorer.batches.count([PROBE]) == 1  # is it the model? No
    assert engine.counts.reloads == 0


def test_without_a_probe_a_failure_is_the_request_s_own() -> None:
    engine = ScoringEngine(SharedCharacters)
    for _ in range(4):
        with pytest.raises(RuntimeError, match="cannot score raise"):
            engine.submit(pairs("raise")).result(timeout=5)
    assert logits(engine.submit(pairs("咳"))) == [-1.0]
    assert (engine.counts.reloads, engine.counts.failed_batches, engine.state) == (0, 4, "ready")
    with pytest.raises(WorkerDied):
        engine.submit(pairs("die")).result(timeout=5)
    assert logits(engine.submit(pairs("咳"))) == [-1.0]
    assert engine.counts.worker_deaths == 2
    engine.close()


def test_a_pair_that_does_not_fit_into_memory_even_alone_fails_and_only_it(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    class Small(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            if any(len(document) > 200 for _, document in pairs):
                raise MemoryError
            return super().logits(pairs)

    model = Small()
    small = ScoringEngine(lambda: model, probe=PROBE)
    futures = [small.submit(pairs("咳" * n)) for n in (10, 300, 20)]
    assert len(futures[0].result(timeout=5)) == len(futures[2].result(timeout=5)) == 1
    with pytest.raises(MemoryError):
        futures[1].result(timeout=5)
    assert [PROBE] not in model.batches  # the model is not to blame
    small.close()


def test_text_that_the_tokenizer_refuses_fails_its_own_request_only(tiny_reranker: Path) -> None:
    class Counts(BGECrossEncoder):
        def token_counts(self, text_pairs: Any) -> list[int]:
            if any("poison" in document for _, document in text_pairs):
                raise TypeError("TextInputSequence must be str")
            return super().token_counts(text_pairs)

    encoder = Counts(str(tiny_reranker), max_length=128)
    engine = ScoringEngine(lambda: encoder, probe=PROBE)
    futures = [engine.submit(pairs(text)) for text in ("咳嗽", "poison", "发热", "\ud800")]
    assert len(futures[0].result(timeout=20)) == len(futures[2].result(timeout=5)) == 1
    assert len(futures[3].result(timeout=5)) == 1  # a lone surrogate is read as U+FFFD
    with pytest.raises(TypeError):
        futures[1].result(timeout=5)
    engine.close()


# The model and the thread


def kill(thread: threading.Thread) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def test_a_killed_thread_is_replaced_and_what_it_was_at_is_scored(
    engine: ScoringEngine, scorer: SharedCharacters, caplog: pytest.LogCaptureFixture
) -> None:
    future = engine.submit(pairs("slow0"))
    eventually(lambda: scorer.batches)
    thread = engine._thread
    assert thread is not None
    assert (thread.name, thread.daemon) == ("bge-scoring", True)
    kill(thread)
    scorer.released.set()
    assert len(future.result(timeout=5)) == 1
    assert engine.counts.worker_deaths == 1
    assert scorer.batches == [pairs("slow0"), [PROBE], pairs("slow0")]  # is it the model? No: it is tried again
    assert engine.ready()
    assert "SystemExit" in caplog.text
    assert "slow" not in caplog.text


def test_an_idle_thread_that_is_killed_is_replaced_too(engine: ScoringEngine) -> None:
    engine.submit(pairs("咳嗽")).result(timeout=5)
    thread = engine._thread
    assert thread is not None
    kill(thread)
    assert logits(engine.submit(pairs("咳嗽"))) == [0.0]
    assert logits(engine.submit(pairs("咳嗽"))) == [0.0]
    assert engine.ready()


def test_a_model_that_fails_on_every_pair_is_loaded_anew_and_its_requests_get_the_new_one() -> None:
    made: list[SharedCharacters] = []

    states: list[str] = []

    def load() -> SharedCharacters:
        states.append(engine.state)
        made.append(SharedCharacters())
        return made[-1]

    engine = ScoringEngine(load, probe=PROBE)
    engine.start()
    made[0].broken = RuntimeError("CUDA error: device-side assert triggered")
    assert logits(engine.submit(pairs("咳嗽", "发"))) == right(pairs("咳嗽", "发"))
    assert len(made) == 2
    assert made[0].batches[-2:] == [pairs("咳嗽", "发"), [PROBE]]
    assert made[1].batches == [[PROBE], pairs("咳嗽"), pairs("发")]  # what failed is tried alone
    assert engine.counts.reloads == 1
    assert engine.counts.failed_batches == 1
    assert engine.loaded_encoder is made[1]
    assert states == ["starting", "starting"]  # nobody is sent meanwhile
    assert engine.ready()
    engine.close()


def test_a_broken_model_is_let_go_before_the_next_is_loaded() -> None:
    made: weakref.WeakSet[SharedCharacters] = weakref.WeakSet()
    there: list[int] = []

    def load() -> SharedCharacters:
        gc.collect()
        there.append(len(made))
        scorer = SharedCharacters()
        made.add(scorer)
        return scorer

    engine = ScoringEngine(load, probe=PROBE)
    engine.start()
    next(iter(made)).broken = RuntimeError("CUDA error: device-side assert triggered")
    assert logits(engine.submit(pairs("咳"))) == [-1.0]
    assert there == [0, 0]
    engine.close()


def test_an_engine_whose_model_stays_broken_gives_up_says_so_and_lets_nobody_wait() -> None:
    def load() -> SharedCharacters:
        scorer = SharedCharacters()
        scorer.broken = None if not loads else RuntimeError("broken")
        loads.append(scorer)
        return scorer

    loads: list[SharedCharacters] = []
    engine = ScoringEngine(load, probe=PROBE)
    engine.start()
    loads[0].broken = RuntimeError("broken")
    early = engine.admit(1)
    for i in range(3):
        with pytest.raises((RuntimeError, NotReady)):
            engine.submit(pairs(f"咳{i}")).result(timeout=5)
    eventually(lambda: engine.state == "broken")
    assert not engine.ready()
    assert len(loads) == 3
    assert engine.counts.reloads == 2
    with pytest.raises(NotReady, match="broken"):
        engine.submit(pairs("咳"))
    with pytest.raises(NotReady, match="broken"):
        early.submit(pairs("咳")).result(timeout=1)
    engine.close()
    assert engine.state == "closed"


def test_that_the_server_of_a_model_is_away_is_not_held_against_the_model() -> None:
    class Elsewhere(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            if self.broken is not None and pairs != [PROBE]:
                raise ValueError("the last answer before the server went away")
            return super().logits(pairs)

    scorer = Elsewhere()
    engine = ScoringEngine(lambda: scorer, probe=PROBE)
    engine.start()
    scorer.broken = RemoteRerankerError("http://gpu1:8000: no rerank server answered")
    for _ in range(4):
        with pytest.raises(ValueError, match="last answer"):
            engine.submit(pairs("咳")).result(timeout=5)
    scorer.broken = None
    assert logits(engine.submit(pairs("咳"))) == [-1.0]
    assert engine.counts.reloads == 0
    engine.close()


def test_one_request_that_breaks_the_model_each_time_does_not_take_the_engine_down() -> None:
    class Breakable(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            if any("break" in document for _, document in pairs):
                self.broken = RuntimeError("CUDA error: device-side assert triggered")
            return super().logits(pairs)

    engine = ScoringEngine(Breakable, probe=PROBE)
    for _ in range(4):
        futures = [engine.submit(pairs(text)) for text in ("咳嗽", "break", "发热")]
        with pytest.raises(RuntimeError):
            futures[1].result(timeout=5)
        assert len(futures[0].result(timeout=5)) == len(futures[2].result(timeout=5)) == 1
        eventually(engine.ready)
    engine.close()


def test_a_model_that_cannot_be_loaded_fails_the_requests_and_is_tried_again_for_the_next() -> None:
    tries: list[int] = []

    def load() -> SharedCharacters:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("no such model")
        return SharedCharacters()

    engine = ScoringEngine(load)
    assert not engine.ready()
    for _ in range(2):
        with pytest.raises(OSError, match="no such model"):
            engine.submit(pairs("咳")).result(timeout=5)
    assert logits(engine.submit(pairs("咳"))) == [-1.0]
    assert engine.ready()
    engine.close()


def test_it_is_not_ready_while_a_batch_does_not_end(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    future = engine.submit(pairs("slow"))
    eventually(lambda: scorer.batches)
    eventually(lambda: not engine.ready(stuck_after_s=0.001))
    assert engine.ready()
    scorer.released.set()
    future.result(timeout=5)
    assert engine.ready(stuck_after_s=0)


def test_without_work_the_thread_ends_and_the_next_request_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_IDLE_S", 0.02)

    def used() -> weakref.ref[ScoringEngine]:
        engine = ScoringEngine(SharedCharacters)
        for _ in range(3):
            assert logits(engine.submit(pairs("咳"))) == [-1.0]
            eventually(lambda: engine._thread is None)
        return weakref.ref(engine)

    watch = used()
    gc.collect()
    assert watch() is None


def test_a_thread_that_dies_between_a_batch_and_its_delivery_loses_and_doubles_nothing(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    def once(report: BatchReport) -> None:
        engine.on_batch = None
        kill(threading.current_thread())  # strikes at one of the next instructions

    engine.on_batch = once
    request = pairs("咳嗽", "发", "烧热")
    assert logits(engine.submit(request)) == right(request)
    assert logits(engine.submit(request)) == right(request)
    eventually(lambda: engine.backlog_requests == 0)
    assert engine.counts.worker_deaths >= 1


def test_threads_that_die_one_after_the_other_for_no_request_s_fault_are_given_up(engine: ScoringEngine) -> None:
    engine.on_batch = lambda report: kill(threading.current_thread())
    with pytest.raises(NotReady, match="broken"):
        engine.submit(pairs("咳嗽")).result(timeout=5)
    assert not engine.ready()
    assert engine.counts.worker_deaths == 3
    assert engine.state == "broken"


def test_a_failure_in_whoever_counts_batches_does_not_stop_them(engine: ScoringEngine) -> None:
    def fail(report: BatchReport) -> None:
        raise ZeroDivisionError

    engine.on_batch = fail
    assert logits(engine.submit(pairs("咳嗽"))) == [0.0]
    assert engine.counts.worker_deaths == 0


# The end


def test_closing_fails_what_waits(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    running = engine.submit(pairs("slow"))
    eventually(lambda: scorer.batches)
    waiting = engine.submit(pairs("咳嗽"))
    admission = engine.admit(10)
    worker = engine._thread
    assert worker is not None
    closing = threading.Thread(target=engine.close)
    closing.start()
    for future in (waiting, running):
        with pytest.raises(NotReady, match=r"^the scoring engine is closed$") as refused:
            future.result(timeout=5)
        assert refused.value.state == "closed"
    scorer.released.set()
    closing.join(timeout=5)
    assert not worker.is_alive()  # it waited for the batch that ran
    with pytest.raises(NotReady, match="closed"):
        admission.submit(pairs("咳嗽")).result(timeout=1)
    with pytest.raises(NotReady, match="closed"):
        engine.admit(1)
    assert (engine.backlog_tokens, engine.backlog_requests) == (0, 0)
    assert not engine.ready()
    assert [len(batch) for batch in scorer.batches] == [1]


def test_many_threads_with_good_bad_and_cancelled_requests_leave_nothing_behind(engine: ScoringEngine) -> None:
    wrong: list[Any] = []

    def hammer(seed: int) -> None:
        for n in range(40):
            kind = (seed * 7 + n) % 10
            request = pairs("咳嗽" * (1 + n % 30), f"烧{seed}{n}", "raise" if kind == 3 else "发")
            future = engine.submit(request)
            if kind == 5:
                future.cancel()
                continue
            try:
                if logits(future) != right(request):
                    wrong.append((seed, n))
            except RuntimeError:
                if kind != 3:
                    wrong.append((seed, n, "failed"))

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    eventually(lambda: engine.backlog_requests == 0 and engine.backlog_tokens == 0)
