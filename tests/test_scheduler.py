from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_bge_medical.cross_encoders import BGECrossEncoder, sigmoid
from langchain_bge_medical.document_compressors import BGERerankerCompressor
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


def eventually(condition: Callable[[], Any], within_s: float = 1.0) -> None:
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
    assert engine.backlog_tokens == engine.backlog_requests == 0
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
    class Logits(BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            raise AssertionError

        def logits(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return [3.0] * len(text_pairs)

    plain = ScoringEngine(lambda: TableCrossEncoder({"a": 7.5})).submit(pairs("a")).result(timeout=5)[0]
    assert (plain.score, plain.logit, plain.order) == (7.5, None, 7.5)
    logit = ScoringEngine(Logits).submit(pairs("a")).result(timeout=5)[0]
    assert (logit.score, logit.logit) == (sigmoid(3.0), 3.0)


def test_an_encoder_that_says_nothing_about_tokens_gets_all_that_waits_in_one_call() -> None:
    encoder = TableCrossEncoder({str(n): 0.5 for n in range(300)})
    engine = ScoringEngine(lambda: encoder)
    engine.submit(pairs(*map(str, range(300)))).result(timeout=5)
    assert [len(call) for call in encoder.calls] == [300]


def test_a_request_without_pairs_is_done_at_once(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    assert engine.submit([]).result(timeout=0) == []
    assert scorer.batches == []


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
    assert engine.backlog_tokens == 0
    with pytest.raises(RuntimeError, match="one submit"):
        once.compress_documents(documents, QUERY)
    with pytest.raises(ValidationError, match="engine comes with its own cross_encoder, model_name"):
        BGERerankerCompressor(engine=engine, cross_encoder=scorer, model_name="bundled")


# Batches


class Item:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens


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
    assert [(r.pairs, r.tokens, r.padded_tokens, r.requests) for r in reports] == [(2, 36, 36, 1)]
    assert reports[0].seconds >= 0


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
    assert scorer.batches == []
    assert engine.counts.overloaded == 1
    first.release()
    first.release()
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
    engine = ScoringEngine(lambda: SharedCharacters(), max_wait_s=1, max_waiting_requests=3)
    admissions = [engine.admit(1) for _ in range(3)]
    with pytest.raises(Overloaded):
        engine.admit(1)
    for admission in admissions:
        admission.release()


def test_without_a_longest_wait_everybody_is_let_in() -> None:
    engine = ScoringEngine(lambda: SharedCharacters())
    admissions = [engine.admit(10_000_000) for _ in range(5_000)]
    assert engine.backlog_requests == 5_000
    for admission in admissions:
        admission.release()


def test_the_backlog_is_what_was_estimated_until_the_pairs_are_known(engine: ScoringEngine) -> None:
    admission = engine.admit(5_000)
    assert engine.backlog_tokens == 5_000
    admission.submit(pairs("咳嗽")).result(timeout=5)
    assert engine.backlog_tokens == 0
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
    assert engine.backlog_tokens == 0


async def test_a_task_that_is_cancelled_takes_its_pairs_out_of_the_queue(engine: ScoringEngine) -> None:
    blocker = engine.submit(pairs("slow"))
    waiting = asyncio.ensure_future(asyncio.wrap_future(engine.submit(pairs("咳嗽"))))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wrap_future(blocker)
    assert engine.backlog_requests == 0


def test_past_its_deadline_a_request_is_not_scored_any_more(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    blocker = engine.submit(pairs("slow"))
    eventually(lambda: len(scorer.batches) == 1)
    late = engine.submit(pairs("咳嗽"), deadline=time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded):
        late.result(timeout=5)
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
def test_of_requests_that_share_a_batch_only_the_guilty_one_fails_and_the_next_is_served_within_a_second(
    engine: ScoringEngine, scorer: SharedCharacters, poison: str, raises: type[Exception]
) -> None:
    scorer.seconds_per_batch = 0.01
    blocker = engine.submit(pairs("first"))
    requests = [pairs("咳嗽", f"烧{i}") for i in range(7)]
    futures = [engine.submit(request) for request in requests[:4]]
    guilty = engine.submit(pairs("咳嗽", poison))
    futures += [engine.submit(request) for request in requests[4:]]
    with pytest.raises(raises):
        guilty.result(timeout=5)
    started = time.monotonic()
    assert engine.submit(pairs("咳")).result(timeout=5)[0].logit == -1.0
    assert time.monotonic() - started < 1
    assert [logits(future) for future in futures] == [right(request) for request in requests]
    blocker.result(timeout=5)
    assert engine.ready()
    assert engine.backlog_requests == 0
    assert engine.counts.worker_deaths == (2 if poison == "die" else 0)


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    request = pairs("咳嗽", "oom", "烧", "发热")
    assert logits(engine.submit(request)) == right(request)
    assert max(map(len, scorer.batches)) > 1
    assert engine.counts.failed_batches > 0


def test_a_pair_that_does_not_fit_into_memory_even_alone_fails_and_only_it(
    engine: ScoringEngine, scorer: SharedCharacters
) -> None:
    class Small(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            if any(len(document) > 200 for _, document in pairs):
                raise MemoryError
            return super().logits(pairs)

    small = ScoringEngine(Small, probe=PROBE)
    futures = [small.submit(pairs("咳" * n)) for n in (10, 300, 20)]
    assert len(futures[0].result(timeout=5)) == len(futures[2].result(timeout=5)) == 1
    with pytest.raises(MemoryError):
        futures[1].result(timeout=5)
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
    future = engine.submit(pairs(*(f"slow{n}" for n in range(1))))
    eventually(lambda: scorer.batches)
    assert engine._thread is not None
    kill(engine._thread)
    assert len(future.result(timeout=5)) == 1
    assert engine.counts.worker_deaths == 1
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

    def load() -> SharedCharacters:
        made.append(SharedCharacters())
        return made[-1]

    engine = ScoringEngine(load, probe=PROBE)
    engine.start()
    made[0].broken = RuntimeError("CUDA error: device-side assert triggered")
    assert logits(engine.submit(pairs("咳嗽", "发"))) == right(pairs("咳嗽", "发"))
    assert len(made) == 2
    assert engine.counts.reloads == 1
    assert engine.ready()
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
    started = time.monotonic()
    for i in range(3):
        with pytest.raises((RuntimeError, NotReady)):
            engine.submit(pairs(f"咳{i}")).result(timeout=5)
    eventually(lambda: engine.state == "broken")
    assert time.monotonic() - started < 1
    assert not engine.ready()
    with pytest.raises(NotReady, match="broken"):
        engine.submit(pairs("咳"))
    engine.close()


def test_one_request_that_breaks_the_model_each_time_does_not_take_the_engine_down() -> None:
    class Breakable(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            if any("break" in document for _, document in pairs):
                self.broken = RuntimeError("CUDA error: device-side assert triggered")
            return super().logits(pairs)

    engine = ScoringEngine(Breakable, probe=PROBE)
    for _ in range(3):
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
    time.sleep(0.05)
    assert not engine.ready(stuck_after_s=0.02)
    assert engine.ready()
    future.result(timeout=5)
    assert engine.ready(stuck_after_s=0.02)


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


def test_a_failure_in_whoever_counts_batches_does_not_stop_them(engine: ScoringEngine) -> None:
    def fail(report: BatchReport) -> None:
        raise ZeroDivisionError

    engine.on_batch = fail
    assert logits(engine.submit(pairs("咳嗽"))) == [0.0]
    assert engine.counts.worker_deaths == 0


# The end


def test_draining_lets_nobody_in_and_finishes_what_was_let_in(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    scorer.seconds_per_batch = 0.05
    future = engine.submit(pairs("咳嗽"))
    assert engine.drain(timeout_s=5)
    assert future.done()
    with pytest.raises(NotReady, match="draining"):
        engine.submit(pairs("咳嗽"))
    assert not engine.ready()


def test_draining_stops_waiting_after_its_time(engine: ScoringEngine) -> None:
    engine.admit(1)
    assert not engine.drain(timeout_s=0.01)


def test_closing_fails_what_waits(engine: ScoringEngine, scorer: SharedCharacters) -> None:
    running = engine.submit(pairs("slow"))
    eventually(lambda: scorer.batches)
    waiting = engine.submit(pairs("咳嗽"))
    engine.close()
    with pytest.raises(NotReady, match="closed"):
        waiting.result(timeout=1)
    with pytest.raises(NotReady, match="closed"):
        running.result(timeout=1)


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
