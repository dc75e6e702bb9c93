"""One queue in front of one cross-encoder: who is let in, who is next, which pairs share a batch, what failed."""

from __future__ import annotations

import atexit
import gc
import heapq
import logging
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder

logger = logging.getLogger(__name__)

Pair = tuple[str, str]
State = Literal["starting", "ready", "broken", "closed"]

# A round: the pairs whose turn it is next, from which batches of like length are made.
_ROUND_BATCHES = 8
# Share of a batch that may be padding.
_MAX_PADDING = 0.1
# Pairs in one call of an encoder that says nothing about tokens, e.g. one behind a network.
_PAIRS_PER_CALL = 1_024
# UTF-8 bytes per token, about right for Chinese (0.75 tokens a character) and for English (4 letters a token).
_BYTES_PER_TOKEN = 4
# The thread ends when it had nothing to do for so long; the next request starts another.
_IDLE_S = 60.0
# Batches count for the measured rate with this half-life of busy time.
_RATE_HALF_LIFE_S = 5.0
# Failures in a row, of the model itself or of the thread, after which the engine gives itself up.
_MAX_STRIKES = 3
# Keeps the log-odds of a score of 0 or 1 finite, at 20.7, without making it tie with its neighbours.
_ODDS_FLOOR = 1e-9


class EngineError(Exception):
    """The engine did not score a request, for a reason that is not the request's own."""


class Overloaded(EngineError):
    """There is no room for the whole request now; nothing of it was begun."""

    def __init__(self, retry_after_s: float) -> None:
        """Take the seconds until there should be room."""
        super().__init__(f"the queue is full; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class NotReady(EngineError):
    """The engine is starting, closed or broken, as `state` says."""

    def __init__(self, state: State) -> None:
        """Take the state."""
        super().__init__(f"the scoring engine is {state}")
        self.state = state


class DeadlineExceeded(EngineError):
    """The request's time ran out before it was scored."""


class WorkerDied(EngineError):
    """Scoring this request ended the engine's thread, twice."""


class PairScore(NamedTuple):
    """What an encoder says of one pair; `logit` is None where the encoder has none."""

    score: float
    logit: float | None
    truncated: tuple[str, ...] = ()
    """What the model did not see the end of: `"query"`, `"document"`, or both."""
    tokens: int = 0
    """Tokens that the model read, or an estimate for encoders that don't count."""

    @property
    def order(self) -> float:
        """What to sort by: a saturated score ties where its logit does not."""
        return self.score if self.logit is None else self.logit


@dataclass
class BatchReport:
    """One call of the model, for metrics."""

    pairs: int
    tokens: int
    padded_tokens: int
    seconds: float
    requests: int


@dataclass
class Counts:
    """What has happened since the engine was made."""

    batches: int = 0
    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    failed_batches: int = 0
    overloaded: int = 0
    expired: int = 0
    cancelled: int = 0
    worker_deaths: int = 0
    reloads: int = 0


class _Item:
    __slots__ = ("crashes", "done", "estimate", "index", "job", "pair", "tokens")

    def __init__(self, job: _Job, index: int, pair: Pair, estimate: int) -> None:
        self.job, self.index, self.pair, self.estimate = job, index, pair, estimate
        self.tokens: int | None = None
        self.done = False
        self.crashes = 0


class _Job:
    """A request in the queue."""

    def __init__(self, admission: Admission, pairs: Sequence[Pair], estimates: Sequence[int]) -> None:
        self.admission = admission
        self.future: Future[list[PairScore]] = Future()
        items = [_Item(self, i, pair, n) for i, (pair, n) in enumerate(zip(pairs, estimates, strict=True))]
        self.scores: list[PairScore | None] = [None] * len(items)
        # Longest first, so that pairs that follow one another are of like length.
        self.items = sorted(items, key=lambda item: -item.estimate)
        self.start_tag = 0.0
        self.served = 0
        self.live = True
        self.future.add_done_callback(self._ended)

    def _ended(self, _: Future[list[PairScore]]) -> None:
        self.live = False  # asking the future takes its lock, and this is asked for every pair

    def fail(self, error: BaseException) -> None:
        if isinstance(error, StopIteration):  # asyncio's futures take none, and who awaits one would wait for ever
            stopped, error = error, RuntimeError("the model raised StopIteration")
            error.__cause__ = stopped
        # A future may be cancelled from another thread at any moment.
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return

    def deliver(self, item: _Item, score: PairScore) -> None:
        self.scores[item.index] = score
        item.done = True

    def finish(self) -> None:
        """Hand the scores over if all are there."""
        scores = [score for score in self.scores if score is not None]
        if len(scores) == len(self.scores):
            try:
                self.future.set_result(scores)
            except InvalidStateError:
                return


class Admission:
    """A request that was let in. It holds its place in the backlog until it is scored, fails, or is released.

    Attributes:
        tokens: What it counts for in the backlog.
        queue_s: Seconds between `submit` and its first batch.
        tokenize_s: Seconds that counting its tokens took, shared with the requests beside it.
        score_s: Seconds of the batches that it was in.
        read_tokens: Tokens that were read for it.
    """

    def __init__(self, engine: ScoringEngine, tokens: int, deadline: float | None) -> None:
        """Made by `ScoringEngine.admit`."""
        self._engine = engine
        self.deadline = deadline
        self.tokens = tokens
        self.queue_s = self.tokenize_s = self.score_s = 0.0
        self.read_tokens = 0
        self.submitted_at: float | None = None
        self.first_batch_at: float | None = None

    @property
    def loaded_encoder(self) -> BaseCrossEncoder | None:
        """As `ScoringEngine.loaded_encoder`."""
        return self._engine.loaded_encoder

    def submit(self, pairs: Sequence[Pair]) -> Future[list[PairScore]]:
        """Queue the request's pairs, once.

        Args:
            pairs: `(query, document)`, neither of them blank. May be empty.

        Returns:
            A future of one score per pair, in the order given. Cancelling it takes the pairs out of the queue.
            It raises what the encoder raised for this request, `DeadlineExceeded`, `WorkerDied` or `NotReady`.

        Raises:
            RuntimeError: If it was submitted or released before.
        """
        if self.submitted_at is not None or self.tokens < 0:
            raise RuntimeError("an admission is good for one submit")
        self.submitted_at = time.monotonic()
        return self._engine._enqueue(self, pairs)

    def release(self) -> None:
        """Give the place back. May be called any number of times; done by itself when the future is done."""
        self._engine._release(self)


class ScoringEngine:
    """Scores pairs for any number of threads and tasks with one encoder on one thread of its own.

    - **Admission** is of whole requests, by estimated tokens, before any work: the backlog may hold what the
      measured rate works off in `max_wait_s`. What does not fit is refused with the time until it should.
    - **Fairness**: start-time fair queueing over requests (Goyal, Vin and Cheng 1996), in tokens, so that a
      request of a thousand documents does not hold up one of five.
    - **Batches** are made of the pairs whose turn it is, of any requests, of like length, up to the encoder's
      `token_budget`, with at most a tenth of it padding. There is no waiting for company.
    - **Failures** stay with the guilty request: a batch that fails is halved until the request is found; one
      that does not fit into memory is halved until it does. A thread that dies is replaced; the requests it
      was at are tried again alone, once. Where the model is on a server, that server's being away is nobody's
      fault: requests fail until it is back.

    An encoder may offer `pair_logits` (or `logits`), `token_counts(pairs)` and `token_budget`, as
    `BGECrossEncoder` does; one without a `token_budget` gets up to 1,024 pairs in one call. One that needs no
    padding says so with `pads = False`.

    Attributes:
        counts: What has happened so far.
        on_batch: Called with a report of each batch, on the engine's thread; `None` at first.
    """

    def __init__(
        self,
        load: Callable[[], BaseCrossEncoder],
        *,
        max_wait_s: float | None = None,
        max_waiting_tokens: int = 4_000_000,
        max_waiting_requests: int = 2_048,
        probe: Pair | None = None,
    ) -> None:
        """Make the engine; the encoder is loaded by `start`, or when first needed.

        Args:
            load: Makes the encoder. Called again if the model has to be loaded anew.
            max_wait_s: How long the last one in the queue may have to wait. `None` lets everybody in.
            max_waiting_tokens: Bound of the backlog however fast the model is, since it takes memory.
            max_waiting_requests: The same in requests.
            probe: A pair that a sound model can score. With it, a failure is told apart from a broken model,
                which is loaded anew; without it every failure is the request's own.
        """
        self._load = load
        self._max_wait_s = max_wait_s
        self._max_waiting_tokens = max_waiting_tokens
        self._max_waiting_requests = max_waiting_requests
        self._probe = probe
        self.on_batch: Callable[[BatchReport], None] | None = None
        self.counts = Counts()
        self._state: State = "starting"
        self._encoder: BaseCrossEncoder | None = None
        self._loaded: BaseCrossEncoder | None = None
        self._warm = True
        self._budget: int | None = None
        self._max_length = 8_192
        self._load_lock = threading.Lock()
        self._condition = threading.Condition()
        self._arrived: list[_Job] = []
        self._jobs: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._running: list[_Item] = []
        self._batch_since: float | None = None
        self._strikes = self._lost_threads = 0
        self._virtual_time = 0.0
        self._backlog_tokens = 0
        self._backlog_requests = 0
        self._done_tokens = self._busy_s = 0.0
        _engines.add(self)

    # What others ask

    @property
    def state(self) -> State:
        """`starting` until the encoder is loaded, `ready`, `broken` or `closed`."""
        return self._state

    @property
    def backlog_tokens(self) -> int:
        """Estimated tokens of all requests that were let in and are not done."""
        return self._backlog_tokens

    @property
    def backlog_requests(self) -> int:
        """Requests that were let in and are not done."""
        return self._backlog_requests

    @property
    def tokens_per_second(self) -> float | None:
        """Measured rate, in estimated tokens; `None` before the first batch."""
        return self._done_tokens / self._busy_s if self._busy_s > 0 else None

    @property
    def token_budget(self) -> int | None:
        """Tokens that the encoder takes in one batch; `None` if it does not say, or is not loaded."""
        return self._budget

    @property
    def loaded_encoder(self) -> BaseCrossEncoder | None:
        """The encoder that is loaded, without waiting for one that is being loaded; `None` while there is none."""
        return self._loaded

    def ready(self, *, stuck_after_s: float = 60.0) -> bool:
        """Return whether a request sent now would be scored: loaded, the thread alive, the queue moving.

        Args:
            stuck_after_s: A batch that runs longer counts as one that does not move.
        """
        since = self._batch_since
        if since is not None and time.monotonic() - since > stuck_after_s:
            return False
        with self._condition:
            if self._state == "ready" and (self._arrived or self._jobs):
                self._ensure_thread()
            return self._state == "ready"

    def encoder(self) -> BaseCrossEncoder:
        """Return the encoder, loading it if need be.

        Raises:
            Exception: What `load` raises.
        """
        with self._load_lock:
            if self._encoder is None:
                self._encoder = self._loaded = encoder = self._load()
                # Asked once: on an event loop nobody must wait for an encoder that is busy.
                self._budget = getattr(encoder, "token_budget", None)
                self._max_length = getattr(encoder, "max_length", None) or 8_192
                with self._condition:
                    if self._state == "starting" and self._warm:
                        self._state = "ready"
            return self._encoder

    # What a request goes through

    def admit(self, tokens: int, *, deadline: float | None = None) -> Admission:
        """Let a request in as a whole, or not at all, before anything is done for it.

        Args:
            tokens: About how many tokens it has, as `estimate` says.
            deadline: `time.monotonic()` after which it need not be scored any more.

        Returns:
            Its place in the backlog, to `submit` its pairs with or to `release`.

        Raises:
            Overloaded: If there is no room for it now.
            NotReady: If the engine is closed or broken.
        """
        with self._condition:
            if self._state in ("closed", "broken"):
                raise NotReady(self._state)
            if self._max_wait_s is not None:
                self._check_room(tokens)
            self._backlog_tokens += tokens
            self._backlog_requests += 1
        return Admission(self, tokens, deadline)

    def submit(self, pairs: Sequence[Pair], *, deadline: float | None = None) -> Future[list[PairScore]]:
        """Admit and queue a request in one step.

        Args:
            pairs: As `Admission.submit`.
            deadline: As `admit`.

        Returns:
            As `Admission.submit`.

        Raises:
            Overloaded: As `admit`.
            NotReady: As `admit`.
        """
        return self.admit(sum(self.estimate(pairs)), deadline=deadline).submit(pairs)

    def estimate(self, pairs: Sequence[Pair]) -> list[int]:
        """Return about how many tokens the model will read of each pair, without tokenising."""
        return [min(self._max_length, estimate_tokens(pair)) for pair in pairs]

    # Its life

    def start(self) -> None:
        """Load the encoder and, with a `probe`, score a batch to warm it up and to know the rate.

        Raises:
            Exception: What `load` or the encoder raises.
        """
        self._warm = self._probe is None
        encoder = self.encoder()
        if self._probe is None:
            return
        query, document = self._probe
        budget = self._budget or 2_048
        pairs = [(query, f"{document} {i}") for i in range(max(1, budget // (2 * estimate_tokens(self._probe))))]
        for _ in range(2):  # the first pays for what is done once
            started = time.monotonic()
            score_pairs(encoder, pairs)
            seconds = time.monotonic() - started
        self._done_tokens, self._busy_s = float(sum(self.estimate(pairs))), max(seconds, 1e-6)
        with self._condition:
            self._warm = True
            if self._state == "starting":
                self._state = "ready"

    def close(self) -> None:
        """Stop after the batch that is running; what waits fails with `NotReady`."""
        with self._condition:
            self._state = "closed"
            waiting = [*self._arrived, *self._jobs]
            self._arrived, self._jobs = [], []
            thread = self._thread
            self._condition.notify_all()
        for job in waiting:
            job.fail(NotReady("closed"))
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    # Admission

    def _check_room(self, tokens: int) -> None:
        assert self._max_wait_s is not None  # noqa: S101 - for the type checker; the caller looked
        rate = self.tokens_per_second
        budget = self._budget or 2_048
        room = float(_ROUND_BATCHES * budget)
        if rate is not None:
            room = max(room, rate * self._max_wait_s)
        room = min(room, self._max_waiting_tokens)
        # Somebody too big for any backlog is let in when there is nobody else.
        over = self._backlog_tokens + tokens - room if self._backlog_tokens else 0
        if over > 0 or self._backlog_requests >= self._max_waiting_requests:
            self.counts.overloaded += 1
            # One that is larger than the room has to wait until all the others are done.
            excess = min(over, self._backlog_tokens) if over > 0 else self._backlog_tokens / self._backlog_requests
            raise Overloaded(excess / rate if rate else 1.0)

    def _enqueue(self, admission: Admission, pairs: Sequence[Pair]) -> Future[list[PairScore]]:
        estimates = self.estimate(pairs)
        job = _Job(admission, pairs, estimates)
        job.future.add_done_callback(lambda future: self._ended(admission, future))
        if not pairs:
            job.future.set_result([])
            return job.future
        with self._condition:
            if self._state in ("closed", "broken"):
                state = self._state
            else:
                state = None
                self._backlog_tokens += sum(estimates) - admission.tokens
                admission.tokens = sum(estimates)
                job.start_tag = self._virtual_time
                self._arrived.append(job)
                self._ensure_thread()
                self._condition.notify_all()
        if state is not None:
            job.fail(NotReady(state))
        return job.future

    def _ended(self, admission: Admission, future: Future[list[PairScore]]) -> None:
        if future.cancelled():
            with self._condition:
                self.counts.cancelled += 1
        self._release(admission)

    def _release(self, admission: Admission) -> None:
        with self._condition:
            if admission.tokens >= 0:
                self._backlog_tokens -= admission.tokens
                self._backlog_requests -= 1
                admission.tokens = -1
                self._condition.notify_all()

    # The thread

    def _ensure_thread(self, after_death: bool = False) -> None:
        """Start the thread if there is none that lives; the lock is held."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, args=(after_death,), name="bge-scoring", daemon=True)
            self._thread.start()

    def _work(self, after_death: bool = False) -> None:
        try:
            if after_death and self._probe is not None:
                self._check_model()
            while self._wait_for_jobs():
                if self._to_reload:
                    self._check_model()
                    continue
                try:
                    encoder = self.encoder()
                except Exception as error:
                    self._cannot_load(error)
                    continue
                batch = self._next_batch(encoder)
                if batch:
                    self._score(encoder, batch)
                del encoder  # the next one, if this is forgotten, must find room where this one was
                self._jobs = [job for job in self._jobs if job.live]
        except BaseException as death:  # what is no Exception ends a thread; the thread ends here, the engine does not
            self._on_death(death)

    @property
    def _to_reload(self) -> bool:
        """Whether the model was forgotten and is to be had anew before anybody needs it: nobody is sent meanwhile."""
        return self._probe is not None and self._encoder is None and 0 < self._strikes < _MAX_STRIKES

    def _wait_for_jobs(self) -> bool:
        """Return whether there is something to do; `False` ends the thread."""
        with self._condition:
            while self._state != "closed":
                self._jobs.extend(self._arrived)
                self._arrived = []
                if self._jobs or self._to_reload:
                    return self._state != "broken"
                if not self._condition.wait(_IDLE_S) and not self._arrived:
                    break
            if self._thread is threading.current_thread():
                self._thread = None
            return False

    def _cannot_load(self, error: Exception) -> None:
        with self._condition:
            jobs, self._jobs = self._jobs, []
        logger.error("the reranker could not be loaded (%s)", type(error).__name__)
        for job in jobs:
            job.fail(error)

    def _next_batch(self, encoder: BaseCrossEncoder) -> list[_Item]:
        """Return the pairs to score next, of one length or nearly so; among them the one whose turn it is."""
        budget = self._budget
        turn = self._in_turn(_ROUND_BATCHES * budget if budget else math.inf)
        if not turn:
            return []
        first = turn[0]
        self._virtual_time = max(self._virtual_time, first.job.start_tag + first.job.served)
        if first.crashes:
            return [first]
        turn = [item for item in turn if not item.crashes]
        if budget is None:
            for item in turn:
                item.tokens = item.estimate
            return turn
        if not self._count_tokens(encoder, turn):
            return []
        padding = _MAX_PADDING if getattr(encoder, "pads", True) else None
        return batch_around(first, turn, budget, padding)

    def _in_turn(self, tokens: float) -> list[_Item]:
        """Return the items whose turn is next, up to `tokens`, fairest first."""
        now = time.monotonic()
        heap: list[tuple[float, int, Generator[_Item, None, None], _Item]] = []
        for number, job in enumerate(self._jobs):
            if job.live and job.admission.deadline is not None and job.admission.deadline < now:
                self.counts.expired += 1
                job.fail(DeadlineExceeded("the request's time ran out before it was scored"))
            if job.live:
                rest = (item for item in job.items if not item.done)
                following = next(rest, None)
                if following is None:  # the thread died between a batch and its delivery
                    job.finish()
                else:
                    heap.append((job.start_tag + job.served, number, rest, following))
        heapq.heapify(heap)
        turn: list[_Item] = []
        taken = 0
        while heap and taken < tokens and len(turn) < _PAIRS_PER_CALL:
            tag, number, rest, item = heap[0]
            turn.append(item)
            taken += item.tokens or item.estimate
            following = next(rest, None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (tag + item.estimate, number, rest, following))
        return turn

    def _count_tokens(self, encoder: BaseCrossEncoder, items: Sequence[_Item]) -> bool:
        """Set the items' real length; return whether that went well for all of them."""
        unknown = [item for item in items if item.tokens is None]
        count = getattr(encoder, "token_counts", None)
        started = time.monotonic()
        well = True
        by_job: dict[int, list[_Item]] = {}
        for item in unknown:
            by_job.setdefault(id(item.job), []).append(item)
        for group in by_job.values():
            try:
                counts = count([item.pair for item in group]) if count else [item.estimate for item in group]
                for item, tokens in zip(group, counts, strict=True):
                    item.tokens = max(1, int(tokens))
            except Exception as error:
                well = False
                self._blame(group, error)
        seconds = time.monotonic() - started
        for group in by_job.values():
            group[0].job.admission.tokenize_s += seconds
        return well

    def _score(self, encoder: BaseCrossEncoder, items: Sequence[_Item]) -> None:
        """Score the items; if that fails, find out whose fault it is and score the others."""
        items = [item for item in items if item.job.live]
        if not items or encoder is not self._encoder:  # given up, or to be scored by another model
            return
        jobs = list({id(item.job): item.job for item in items}.values())
        pairs = list(dict.fromkeys(item.pair for item in items))
        started = time.monotonic()
        for job in jobs:
            if job.admission.first_batch_at is None:
                job.admission.first_batch_at = started
                job.admission.queue_s = started - (job.admission.submitted_at or started)
        self._running, self._batch_since = list(items), started
        try:
            scores = dict(zip(pairs, score_pairs(encoder, pairs), strict=True))
        except Exception as error:
            self._running, self._batch_since = [], None
            self.counts.failed_batches += 1
            self._split(encoder, items, error)
            return
        seconds = time.monotonic() - started
        self._running, self._batch_since, self._strikes = [], None, 0
        self._report(items, jobs, len(pairs), seconds)
        for item in items:
            item.job.served += item.estimate
            item.job.admission.read_tokens += item.tokens or item.estimate
            item.job.deliver(item, scores[item.pair]._replace(tokens=item.tokens or item.estimate))
        for job in jobs:
            job.items = [item for item in job.items if not item.done]
            if not job.items:
                job.finish()
        self._lost_threads = 0

    def _split(self, encoder: BaseCrossEncoder, items: Sequence[_Item], error: Exception) -> None:
        """Score what failed together in halves: by pairs if memory was short, else by requests."""
        if is_out_of_memory(error):
            _free_memory()
            parts = len({item.pair for item in items})
            first = set(map(id, items[: len(items) // 2]))
        else:
            jobs = list(dict.fromkeys(id(item.job) for item in items))
            parts = len(jobs)
            chosen = set(jobs[: parts // 2])
            first = {id(item) for item in items if id(item.job) in chosen}
        if parts == 1:
            self._blame(items, error)
            return
        self._score(encoder, [item for item in items if id(item) in first])
        self._score(encoder, [item for item in items if id(item) not in first])

    def _blame(self, items: Sequence[_Item], error: Exception) -> None:
        """Fail the items' requests, unless it is the model that is broken: then they are tried again, once, alone."""
        unreachable = is_unreachable(error)
        if unreachable:
            logger.error("%s", error)  # says nothing that was sent
        if self._probe is None or is_out_of_memory(error) or unreachable or self._check_model():
            guilty = list(items)
        else:
            for item in items:
                item.crashes += 1
            guilty = [item for item in items if item.crashes > 1]
        for item in guilty:
            item.job.fail(error)

    def _check_model(self) -> bool:
        """Return whether the model still scores the probe; if not, it is loaded anew.

        One on a server that cannot be asked now counts as sound: loading it anew would not bring the server back.
        """
        assert self._probe is not None  # noqa: S101 - for the type checker; callers looked
        try:
            score_pairs(self.encoder(), [self._probe])
        except Exception as error:
            if is_unreachable(error):
                return True
            logger.error("the reranker fails on every pair (%s)", type(error).__name__)
            self._forget_model()
            return False
        self._strikes = 0
        return True

    def _forget_model(self) -> None:
        """Let the model be loaded anew; after a few failures in a row, give up."""
        self._strikes += 1
        with self._load_lock:
            self._encoder = self._loaded = None
        if self._strikes >= _MAX_STRIKES:
            self._give_up()
            return
        with self._condition:
            self.counts.reloads += 1
            if self._state == "ready":
                self._state = "starting"

    def _give_up(self) -> None:
        with self._condition:
            if self._state == "closed":
                return
            self._state = "broken"
            waiting = [*self._arrived, *self._jobs]
            self._arrived, self._jobs = [], []
        logger.critical("the scoring engine gives up after %d failures in a row", _MAX_STRIKES)
        for job in waiting:
            job.fail(NotReady("broken"))

    def _on_death(self, death: BaseException) -> None:
        """Blame what was running, and start the next thread."""
        running, self._running, self._batch_since = self._running, [], None
        logger.error("the scoring thread died (%s); %d pairs were running", type(death).__name__, len(running))
        self.counts.worker_deaths += 1
        for item in running:
            item.crashes += 1
            if item.crashes > 1:
                item.job.fail(WorkerDied("scoring this request ended the engine's thread"))
        if not running:  # it is nobody's request that ends it, so that it may do so for ever
            self._lost_threads += 1
        if self._lost_threads >= _MAX_STRIKES:
            self._give_up()
        with self._condition:
            self._thread = None
            if self._state not in ("closed", "broken"):
                self._ensure_thread(after_death=True)

    def _report(self, items: Sequence[_Item], jobs: Sequence[_Job], pairs: int, seconds: float) -> None:
        tokens = sum(item.tokens or item.estimate for item in items)
        longest = max(item.tokens or item.estimate for item in items)
        estimate = sum(item.estimate for item in items)
        for job in jobs:
            job.admission.score_s += seconds
        counts = self.counts
        counts.batches += 1
        counts.pairs += len(items)
        counts.tokens += tokens
        counts.padded_tokens += longest * len(items)
        # Small batches of a quiet hour say nothing about how fast a backlog would be worked off.
        budget = self._budget or 0
        busy = self._backlog_tokens > 2 * estimate or 2 * tokens >= budget
        if busy or not self._busy_s:
            decay = 0.5 ** (seconds / _RATE_HALF_LIFE_S)
            self._done_tokens = self._done_tokens * decay + estimate
            self._busy_s = self._busy_s * decay + seconds
        if self.on_batch is not None:
            try:
                self.on_batch(BatchReport(pairs, tokens, longest * len(items), seconds, len(jobs)))
            except Exception as error:  # whoever counts batches must not stop them
                logger.error("on_batch failed (%s)", type(error).__name__)


def estimate_tokens(pair: Pair) -> int:
    """Return about how many tokens a pair has, without tokenising it."""
    return 4 + sum(len(text.encode("utf-8", "surrogatepass")) for text in pair) // _BYTES_PER_TOKEN


def batch_around(first: _Item, items: Sequence[_Item], budget: int, max_padding: float | None) -> list[_Item]:
    """Return a batch with `first` and those of like length, as many as the budget holds.

    Args:
        first: Has to be in it.
        items: Candidates, `first` among them, with their `tokens` known.
        budget: Tokens in a batch, padding included; if `first` is larger it is alone.
        max_padding: Share of a batch that may be padding; `None` if there is none, whatever the lengths.

    Returns:
        The batch, longest first.
    """

    def fits(low: int, high: int, size: int) -> bool:
        padded = size if max_padding is None else lengths[low] * (high - low + 1)
        return padded <= budget and padded - size <= (max_padding or 0) * padded

    ordered = sorted(items, key=lambda item: -(item.tokens or 0))
    lengths = [item.tokens or 0 for item in ordered]
    low = high = next(i for i, item in enumerate(ordered) if item is first)
    size = own = lengths[low]
    while True:
        wider = [(low - 1, high, low - 1)] if low > 0 else []
        wider += [(low, high + 1, high + 1)] if high + 1 < len(ordered) else []
        wider.sort(key=lambda step: abs(lengths[step[2]] - own))
        step = next(((a, b, new) for a, b, new in wider if fits(a, b, size + lengths[new])), None)
        if step is None:
            return ordered[low : high + 1]
        low, high, new = step
        size += lengths[new]


def score_pairs(encoder: BaseCrossEncoder, pairs: Sequence[Pair]) -> list[PairScore]:
    """Score pairs with whatever the encoder offers: `pair_logits`, `logits` or `score`.

    Args:
        encoder: Any LangChain cross-encoder. Without logits its own scores are taken as they are.
        pairs: `(query, document)`.

    Returns:
        One score per pair, all of them finite; `tokens` is 0.

    Raises:
        ValueError: If the encoder returns too few scores or one that is not a finite number.
    """
    from langchain_bge_medical.cross_encoders import sigmoid

    model: Any = encoder
    pairs = list(pairs)
    if hasattr(model, "pair_logits"):
        scores = [PairScore(sigmoid(pair.logit), pair.logit, _cut(pair)) for pair in model.pair_logits(pairs)]
    elif hasattr(model, "logits"):
        scores = [PairScore(sigmoid(float(logit)), float(logit)) for logit in model.logits(pairs)]
    else:
        scores = [PairScore(float(score), None) for score in model.score(pairs)]
    if len(scores) != len(pairs):
        raise ValueError(f"{type(encoder).__name__} returned {len(scores)} scores for {len(pairs)} pairs")
    if not all(math.isfinite(score.order) for score in scores):
        raise ValueError(f"{type(encoder).__name__} returned a score that is not a finite number")
    return scores


def as_logits(scores: Sequence[PairScore]) -> list[float]:
    """Return the scores of one ranking on the scale of logits, without changing who stands above whom.

    Args:
        scores: As `score_pairs` returns them.

    Returns:
        The logits; where there are none, the log-odds of the scores. If one of those lies outside [0, 1] they are no
        sigmoids, and are returned as they are.
    """
    plain = [score.score for score in scores if score.logit is None]
    squashed = all(0 <= score <= 1 for score in plain)
    return [_log_odds(score.score) if score.logit is None and squashed else score.order for score in scores]


def _log_odds(score: float) -> float:
    return math.log((score + _ODDS_FLOOR) / (1 - score + _ODDS_FLOOR))


def _cut(pair: Any) -> tuple[str, ...]:
    cut = {"query": pair.query_tokens_cut, "document": pair.document_tokens_cut}
    return tuple(name for name, tokens in cut.items() if tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was short, on whatever device."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    return named or "out of memory" in words or "can't allocate memory" in words


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error says that the model is on a server that did not answer, or refused."""
    from langchain_bge_medical.remote_cross_encoders import RemoteRerankerError

    return isinstance(error, RemoteRerankerError)


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


# A thread that is inside the model while the interpreter goes away can crash it.
_engines: weakref.WeakSet[ScoringEngine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_engines):
        engine.close()
