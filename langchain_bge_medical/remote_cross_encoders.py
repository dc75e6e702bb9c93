"""(query, document) pairs → scores from rerank servers: dialects, batches, retries and failover. No model here."""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import SecretStr

from langchain_bge_medical.cross_encoders import PairLogit, checked_pairs, sigmoid
from langchain_bge_medical.digests import text_digest
from langchain_bge_medical.well_formed import well_formed

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

Dialect = Literal["auto", "score", "tei", "cohere"]
Pair = tuple[str, str]
T = TypeVar("T")

# Pairs in one request where the server takes more or does not say: small enough to be answered before the time is up,
# and several are under way at once, which a server that batches puts together again.
_PAIRS_PER_REQUEST = 64
_REQUESTS_AT_ONCE = 4  # of each endpoint
# UTF-8 bytes of text in one request; TEI refuses bodies of more than 2 MB unless told otherwise.
_BYTES_PER_REQUEST = 1_000_000
_CONNECT_S = 5.0
# Back-off: doubling from the first to the longest, each drawn between half of it and all of it.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0
# A server that wants to be left alone for longer than this is not waited for.
_LONGEST_RETRY_AFTER_S = 60.0
# Busy, starting, or broken for now: the same request may go well later, or elsewhere.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# TEI's 424 is "the backend failed".
_PASSING_TEI = _PASSING | {424}
_TOO_MUCH = frozenset({413, 422})
_UNKNOWN_TEXTS = 100_000


class RemoteRerankerError(RuntimeError):
    """A rerank server that could not be reached, refused, or gave an answer that is no ranking.

    The message names the server and the status, and holds nothing that was sent or received.
    """


@dataclass(frozen=True)
class _Served:
    """What an endpoint said of itself."""

    url: str
    dialect: Dialect
    model: str | None
    revision: str | None
    pairs_per_request: int

    def goes_with(self, other: _Served) -> bool:
        """Return whether the scores of both may stand in one ranking, as far as the two say."""
        comparable = bool(self.revision) == bool(other.revision)
        same = (self.revision or self.model) == (other.revision or other.model)
        return (self.dialect == "cohere") == (other.dialect == "cohere") and (same or not comparable)


@dataclass
class _Endpoint:
    """One server, and how it has been doing."""

    url: str
    dialect: Dialect
    asked: bool = False
    served: _Served | None = None
    failures: int = 0
    rests_until: float = 0.0
    under_way: int = 0


class _Passing(Exception):
    """A failure that may pass: what it was, and when the server wants to be asked again."""

    def __init__(self, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class _Refused(Exception):
    """A status that the same request will get again."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url}: refused with status {status}")
        self.status = status


class RemoteCrossEncoder(BaseCrossEncoder):
    """A cross-encoder that runs somewhere else: this package's service, TEI, vLLM, Cohere, Jina, or one like them.

    Goes wherever a cross-encoder goes, `BGERerankerCompressor(cross_encoder=...)` for one, whose queue puts
    the pairs of concurrent calls together and keeps the waiting off the event loop.

    Pairs travel in requests of the size that the server takes, several at once. A request that fails in a way
    that may pass (429, 5xx, a time-out, a lost connection, an answer that is no ranking) goes to the next
    endpoint, and after all of them failed again after a wait: what `Retry-After` says, else doubling. One that
    is too large for the server (413, 422) is halved. Scores come back complete and in order, or not at all.

    Endpoints have to serve the same model. Where they say which one it is, another one is refused. When an endpoint
    comes back with another one than before, as in an update, all have to serve that from then on, and a call during
    which that happens is scored again: no call gets scores of two models.

    Dialects:

    - `"score"`: `/score` of this package's service and of vLLM: pairs of any queries share a request, and the
      scores are logits. Our service says what the model did not see the end of as well.
    - `"tei"`: `/rerank` of Text Embeddings Inference (and our service): one query a request; logits.
    - `"cohere"`: `/v2/rerank` of Cohere; with `https://api.jina.ai/v1` Jina; Infinity, Xinference, LiteLLM and
      others too. One query a request; scores as the server gives them, and no logits.
    - `"auto"`: asks `/info`: our service is `score`, TEI is `tei`, what has no `/info` is `cohere`.

    Texts go to the servers named here and nowhere else; redirects are not followed. Pickles as its settings.

    Example:
        ```python
        remote = RemoteCrossEncoder(["http://gpu1:8000", "http://gpu2:8000"], api_key="...")
        reranker = BGERerankerCompressor(cross_encoder=remote, top_n=5)
        ```
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        dialect: Dialect = "auto",
        model: str | None = None,
        api_key: str | SecretStr | None = None,
        pairs_per_request: int | None = None,
        timeout_s: float = 60.0,
        max_tries: int = 5,
    ) -> None:
        """Take the servers; they are asked nothing before the first pair.

        Args:
            urls: Base URL of one server or of several with the same model. One that ends in `/rerank` or `/score`
                is used as it is.
            dialect: What they speak, see the class.
            model: The model's name, for servers with several, e.g. `rerank-v3.5`.
            api_key: Sent as `Authorization: Bearer`.
            pairs_per_request: At most; `None` takes 64, or less where `/info` says so.
            timeout_s: How long a server may be silent before its answer. Connecting may take 5 s.
            max_tries: How often a request is sent, times the number of endpoints, before it is given up. After
                that and until something goes well, calls try each endpoint once, without waiting.

        Raises:
            ValueError: If a setting is out of its range, a URL is not one of http or https, or no request can carry
                the key.
        """
        import httpx

        given = [urls] if isinstance(urls, str) else list(urls)
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect must be one of {', '.join(get_args(Dialect))}, got {dialect!r}")
        parts = [urlsplit(url) for url in given]
        if not given or any(part.scheme not in ("http", "https") or not part.hostname for part in parts):
            raise ValueError("urls must be addresses like http://host:8000, at least one")
        if any(part.username or part.password for part in parts):
            raise ValueError("urls must not hold a user or a password, which would be shown; use api_key")
        try:
            for url, part in zip(given, parts, strict=True):
                httpx.URL(url, port=part.port).raw_host.decode("ascii").encode("idna")
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError(f"urls must be addresses like http://host:8000: {error}") from None
        if pairs_per_request is not None and pairs_per_request < 1:
            raise ValueError(f"pairs_per_request must be at least 1, got {pairs_per_request}")
        if timeout_s <= 0 or max_tries < 1:
            raise ValueError(f"timeout_s and max_tries must be positive, got {timeout_s} and {max_tries}")
        key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        if key is not None and not sendable(key.get_secret_value()):
            raise ValueError("api_key must be letters, digits and signs of ASCII, without blanks")
        self.urls = given
        self.dialect: Dialect = dialect
        self.model = model
        self.api_key = key
        self.pairs_per_request = pairs_per_request
        self.timeout_s = timeout_s
        self.max_tries = max_tries
        self._set_up()

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._endpoints = [_Endpoint(url.rstrip("/"), self.dialect) for url in self.urls]
        self._agreed: _Served | None = None
        self._turns = itertools.count()
        self._given_up = False
        self._unknown: OrderedDict[bytes, None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    def __repr__(self) -> str:
        return f"RemoteCrossEncoder({[endpoint.url for endpoint in self._endpoints]}, dialect={self.dialect!r})"

    # What it is asked

    def score(self, text_pairs: list[Pair]) -> list[float]:
        """Score how relevant each document is to its query.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            A score per pair, in the order given: the sigmoid of the logit where the server gives logits, else what
            the server gives, which is in [0, 1] for most.

        Raises:
            ValueError: If a pair is not two texts, or one of them is blank; names its position, never the text.
            RemoteRerankerError: If no endpoint could score a pair.
        """
        scores = self._scores(text_pairs)
        return [sigmoid(score) for score, _ in scores] if self.gives_logits else [score for score, _ in scores]

    @property
    def pair_logits(self) -> Callable[[Sequence[Pair]], list[PairLogit]]:
        """Score pairs as `BGECrossEncoder.pair_logits` does; the attribute is missing where servers give no logits.

        The counts of tokens that were cut are 1 for "some": servers don't say how many, TEI and vLLM not even that.

        Raises:
            AttributeError: If the servers' dialect is Cohere's.
            RemoteRerankerError: If none could be asked which dialect it speaks, or scoring fails.
        """
        if not self.gives_logits:
            raise AttributeError("the server gives scores and no logits")
        return self._pair_logits

    @property
    def logits(self) -> Callable[[Sequence[Pair]], list[float]]:
        """Score pairs as `BGECrossEncoder.logits` does; missing as `pair_logits` is.

        Raises:
            AttributeError: As `pair_logits`.
            RemoteRerankerError: As `pair_logits`.
        """
        pair_logits = self.pair_logits
        return lambda text_pairs: [pair.logit for pair in pair_logits(text_pairs)]

    @property
    def gives_logits(self) -> bool:
        """Whether the servers give logits; asks them if need be.

        Raises:
            RemoteRerankerError: If none could be asked.
        """
        if self.dialect == "auto":
            return self._known().dialect != "cohere"
        return self.dialect != "cohere"

    @property
    def revision(self) -> str | None:
        """What exactly ranks: the commit or digest that the servers name, or `None` if they don't; asks them.

        Raises:
            RemoteRerankerError: If none could be asked.
        """
        return self._known().revision

    def knows(self, document: str) -> bool:
        """Return whether the servers' model may be trusted with this document's rank alone, as far as they said."""
        with self._lock:
            return text_digest(document) not in self._unknown

    def close(self) -> None:
        """Close the connections; the next call opens them anew."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _pair_logits(self, text_pairs: Sequence[Pair]) -> list[PairLogit]:
        return [
            PairLogit(logit, int("query" in cut), int("document" in cut)) for logit, cut in self._scores(text_pairs)
        ]

    # Pairs → requests → scores

    def _scores(self, text_pairs: Sequence[Pair]) -> list[tuple[float, tuple[str, ...]]]:
        wanted = [(well_formed(query), well_formed(document)) for query, document in checked_pairs(text_pairs)]
        pairs = list(dict.fromkeys(wanted))
        if not pairs:
            return []
        for _ in range(1 + self.max_tries):
            known = self._known()
            requests = _requests(pairs, self.pairs_per_request or known.pairs_per_request, known.dialect == "score")
            answers = self._answers(requests)
            if self._agreed is known:  # else some of the scores may be of the model before
                break
        else:
            raise RemoteRerankerError("the servers went over to another model whenever they were asked")
        found = {
            pair: score
            for request, scores in zip(requests, answers, strict=True)
            for pair, score in zip(request, scores, strict=True)
        }
        return [found[pair] for pair in wanted]

    def _answers(self, requests: list[list[Pair]]) -> list[list[tuple[float, tuple[str, ...]]]]:
        at_once = min(len(requests), _REQUESTS_AT_ONCE * len(self._endpoints))
        if at_once == 1:
            return [self._answer(request) for request in requests]
        with ThreadPoolExecutor(at_once, thread_name_prefix="bge-remote") as pool:
            futures = [pool.submit(self._answer, request) for request in requests]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()

    def _answer(self, pairs: list[Pair]) -> list[tuple[float, tuple[str, ...]]]:
        """Return a score per pair of a request; halve what is too large for the server."""
        try:
            return self._tried(lambda endpoint: self._ask(endpoint, pairs))
        except _Refused as refused:
            if refused.status in _TOO_MUCH and len(pairs) > 1:
                half = len(pairs) // 2
                return [*self._answer(pairs[:half]), *self._answer(pairs[half:])]
            key, dialect = "; is the API key right?", "; is the dialect right?"
            hints = {401: key, 403: key, 404: dialect, 422: dialect}
            raise RemoteRerankerError(f"{refused}{hints.get(refused.status, '')}") from None

    def _ask(self, endpoint: _Endpoint, pairs: list[Pair]) -> list[tuple[float, tuple[str, ...]]]:
        self._meet(endpoint)
        if endpoint.dialect == "score":
            return self._ask_score(endpoint, pairs)
        ask = self._ask_tei if endpoint.dialect == "tei" else self._ask_cohere
        # Beside an endpoint that takes several queries in a request, this one may be given what was meant for that.
        parts = _requests(pairs, len(pairs), mixed=False)
        found = {pair: score for part in parts for pair, score in zip(part, ask(endpoint, part), strict=True)}
        return [found[pair] for pair in pairs]

    def _ask_score(self, endpoint: _Endpoint, pairs: list[Pair]) -> list[tuple[float, tuple[str, ...]]]:
        body = {
            "model": self.model or (endpoint.served and endpoint.served.model) or "default",
            "queries": [query for query, _ in pairs],
            "documents": [document for _, document in pairs],
            "use_activation": False,
        }
        answer = self._sent(endpoint, "/score", body)
        rows = answer.get("data") if isinstance(answer, dict) else None
        ordered = _in_order(rows, len(pairs))
        with self._lock:
            for (_, document), row in zip(pairs, ordered, strict=True):
                if row.get("known") is False:
                    self._unknown[text_digest(document)] = None
                else:
                    self._unknown.pop(text_digest(document), None)
            while len(self._unknown) > _UNKNOWN_TEXTS:
                self._unknown.popitem(last=False)
        return [(_number(row.get("score")), _cut(row)) for row in ordered]

    def _ask_tei(self, endpoint: _Endpoint, pairs: list[Pair]) -> list[tuple[float, tuple[str, ...]]]:
        body = {
            "query": pairs[0][0],
            "texts": [document for _, document in pairs],
            "raw_scores": True,
            "truncate": True,
        }
        ordered = _in_order(self._sent(endpoint, "/rerank", body), len(pairs))
        return [(_number(row.get("score")), ()) for row in ordered]

    def _ask_cohere(self, endpoint: _Endpoint, pairs: list[Pair]) -> list[tuple[float, tuple[str, ...]]]:
        body: dict[str, Any] = {
            "query": pairs[0][0],
            "documents": [document for _, document in pairs],
            "top_n": len(pairs),
        }
        if self.model is not None:
            body["model"] = self.model
        answer = self._sent(endpoint, "/rerank" if endpoint.url.endswith(("/v1", "/v2")) else "/v2/rerank", body)
        ordered = _in_order(answer.get("results") if isinstance(answer, dict) else None, len(pairs))
        return [(_number(row.get("relevance_score")), _cut(row)) for row in ordered]

    # Endpoints

    def _known(self) -> _Served:
        """Return what the endpoints have to serve, asking one if need be."""
        if self._agreed is None:
            try:
                self._tried(self._meet)
            except _Refused as refused:
                raise RemoteRerankerError(f"{refused} when asked for /info; is the API key right?") from None
        assert self._agreed is not None  # noqa: S101 - for the type checker; `_meet` set it
        return self._agreed

    def _meet(self, endpoint: _Endpoint) -> None:
        """Ask an endpoint what it is, at first and whenever it was gone, and compare that with what was agreed on."""
        if endpoint.asked:
            return
        info = {} if self.dialect == "cohere" or endpoint.url.endswith(("/rerank", "/score")) else self._info(endpoint)
        if endpoint.dialect == "auto":
            endpoint.dialect = _dialect_of(endpoint.url, info)
        limit = info.get("max_client_batch_size")
        most = min(limit, _PAIRS_PER_REQUEST) if isinstance(limit, int) and limit > 0 else _PAIRS_PER_REQUEST
        names = _text(info.get("model_id")), _text(info.get("model_sha"))
        served = _Served(endpoint.url, endpoint.dialect, *names, most)
        with self._lock:
            before, endpoint.served = endpoint.served, served
            agreed = self._agreed
            # One that had what was agreed on was updated. After giving up, nobody else may ever come back.
            updated = before is not None and agreed is not None and before.goes_with(agreed)
            if agreed is None or (not served.goes_with(agreed) and (updated or self._given_up)):
                if agreed is not None:
                    logger.warning("%s serves %s (%s) now, all have to", served.url, served.model, served.revision)
                self._agreed = agreed = served
                for other in self._endpoints:
                    other.asked = False
            endpoint.asked = served.goes_with(agreed)
        if not endpoint.asked:
            what = (
                f"serves {served.model} ({served.revision}, {served.dialect}) where {agreed.url} serves "
                f"{agreed.model} ({agreed.revision}, {agreed.dialect}); their scores do not go together"
            )
            logger.warning("%s %s", endpoint.url, what)
            raise _Passing(what)

    def _info(self, endpoint: _Endpoint) -> dict[str, Any]:
        try:
            info = self._sent(endpoint, "/info", None)
        except _Refused as refused:
            if refused.status in (404, 405):
                return {}
            raise
        return info if isinstance(info, dict) and "model_id" in info else {}

    def _tried(self, work: Callable[[_Endpoint], T]) -> T:
        """Do something with one endpoint after the other until it goes well.

        Raises:
            RemoteRerankerError: If it did not.
            _Refused: At a status that will not pass.
        """
        last, asked = "", 0
        tries = (1 if self._given_up else self.max_tries) * len(self._endpoints)
        for _ in range(tries):
            endpoint = self._next(wait=not self._given_up)
            if endpoint is None:
                break
            asked += 1
            try:
                done = work(endpoint)
            except _Passing as failure:
                last = f"{endpoint.url}: {failure}"
                self._failed(endpoint, failure.retry_after_s)
                continue
            finally:
                with self._lock:
                    endpoint.under_way -= 1
            endpoint.failures, endpoint.rests_until, self._given_up = 0, 0.0, False
            return done
        self._given_up = True
        times = "1 time" if asked == 1 else f"{asked} times"
        tried = f"tried {times}" if last else "all endpoints want to be left alone for longer than is waited"
        raise RemoteRerankerError(f"no rerank server answered, {tried}{'; last: ' + last if last else ''}")

    def _next(self, *, wait: bool) -> _Endpoint | None:
        """Return the endpoint to ask next: the least busy of those that do not rest, else the first to be back."""
        while True:
            with self._lock:
                now, turn, number = time.monotonic(), next(self._turns), len(self._endpoints)
                turns = [self._endpoints[(turn + i) % number] for i in range(number)]
                rested = [endpoint for endpoint in turns if endpoint.rests_until <= now] or ([] if wait else turns)
                if rested:
                    endpoint = min(rested, key=lambda endpoint: (endpoint.under_way, endpoint.failures))
                    endpoint.under_way += 1
                    return endpoint
                rest = min(endpoint.rests_until for endpoint in turns) - now
            if rest > _LONGEST_RETRY_AFTER_S:
                return None
            # Those who wait for the same one do not come back at the same moment.
            time.sleep(max(rest, 0.001) + random.uniform(0, min(0.25, rest / 4)))  # noqa: S311 - jitter

    def _failed(self, endpoint: _Endpoint, retry_after_s: float | None) -> None:
        with self._lock:
            longest = min(_FIRST_WAIT_S * 2**endpoint.failures, _LONGEST_WAIT_S)
            endpoint.failures += 1
            endpoint.asked = False  # who comes back may be another one
            rest = random.uniform(longest / 2, longest) if retry_after_s is None else retry_after_s  # noqa: S311 - jitter
            endpoint.rests_until = max(endpoint.rests_until, time.monotonic() + rest)

    def _sent(self, endpoint: _Endpoint, path: str, body: dict[str, Any] | None) -> Any:
        """Send a body, or ask for what is there, and return the JSON that comes back.

        Raises:
            _Passing: If it may go well another time.
            _Refused: At any other status that is not 200.
        """
        import httpx

        url = endpoint.url if endpoint.url.endswith(("/rerank", "/score")) else endpoint.url + path
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        try:
            if body is None:
                response = self._http().get(url, headers=headers)
            else:
                response = self._http().post(
                    url, content=json.dumps(body, ensure_ascii=False).encode(), headers=headers
                )
        except httpx.RequestError as error:
            raise _Passing(type(error).__name__) from None
        if response.status_code == 200:
            try:
                return response.json()
            except ValueError:
                raise _Passing("the answer is no JSON") from None
        if response.status_code in (_PASSING_TEI if endpoint.dialect == "tei" else _PASSING):
            raise _Passing(f"status {response.status_code}", _retry_after_s(response.headers))
        raise _Refused(endpoint.url, response.status_code)

    def _http(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                at_once = _REQUESTS_AT_ONCE * len(self._endpoints)
                self._client = httpx.Client(
                    timeout=httpx.Timeout(self.timeout_s, connect=min(_CONNECT_S, self.timeout_s), pool=None),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=at_once),
                    follow_redirects=False,
                )
            return self._client


def _dialect_of(url: str, info: dict[str, Any]) -> Dialect:
    if "bundled" in info or url.endswith("/score"):  # this package's service says whether its model is the bundled one
        return "score"
    return "tei" if info else "cohere"


def is_remote(reranker: str) -> bool:
    """Return whether the name of a reranker is the address of a server."""
    return reranker.startswith(("http://", "https://"))


def sendable(key: str) -> bool:
    """Return whether a request can carry a key: letters, digits and signs of ASCII, without blanks."""
    return re.fullmatch("[!-~]+", key) is not None


def remote_reranker(addresses: str, *, api_key: str | None = None) -> RemoteCrossEncoder:
    """Return an encoder for addresses as they are written on a command line.

    Args:
        addresses: One URL or several, with commas between them; after `#` the model's name where the server wants one,
            e.g. `https://api.jina.ai/v1#jina-reranker-v2-base-multilingual`.
        api_key: As `RemoteCrossEncoder`.

    Returns:
        The encoder.

    Raises:
        ValueError: As `RemoteCrossEncoder`.
    """
    urls, _, model = addresses.partition("#")
    return RemoteCrossEncoder([url.strip() for url in urls.split(",")], model=model or None, api_key=api_key)


def _requests(pairs: list[Pair], most: int, mixed: bool) -> list[list[Pair]]:
    """Return the pairs in the parts that are sent; without `mixed` each has one query only."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault("" if mixed else pair[0], []).append(pair)
    requests: list[list[Pair]] = []
    for group in groups.values():
        size = 0
        current: list[Pair] = []
        for pair in group:
            own = len(pair[1].encode()) + (len(pair[0].encode()) if mixed else 0)
            if current and (len(current) == most or size + own > _BYTES_PER_REQUEST):
                requests.append(current)
                current, size = [], 0
            current.append(pair)
            size += own
        requests.append(current)
    return requests


def _in_order(rows: Any, number: int) -> list[dict[str, Any]]:
    """Return the rows of an answer by their index.

    Raises:
        _Passing: If there is not exactly one for each of `number` texts.
    """
    found = {}
    if isinstance(rows, list):
        found = {row["index"]: row for row in rows if isinstance(row, dict) and type(row.get("index")) is int}
    if not isinstance(rows, list) or len(rows) != number or sorted(found) != list(range(number)):
        raise _Passing(f"the answer is no ranking of {number} texts")
    return [found[i] for i in range(number)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Passing("the answer has a score that is not a finite number")
    return float(value)


def _cut(row: dict[str, Any]) -> tuple[str, ...]:
    said = row.get("truncated")
    return tuple(part for part in said if isinstance(part, str)) if isinstance(said, list) else ()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _retry_after_s(headers: Any) -> float | None:
    """Return the seconds of `Retry-After-Ms` or `Retry-After`; dates, which rerank servers do not send, are ignored."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
