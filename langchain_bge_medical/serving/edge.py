"""What every request passes: its id, size, key and rate, and what becomes of errors. Nothing of it knows a route."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import math
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import ClientDisconnect

from langchain_bge_medical.serving.schemas import Limits, Problem
from langchain_bge_medical.serving.telemetry import Call, Telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Open to everybody, whatever the keys: what a balancer asks, and the page, which asks for a key itself.
_OPEN = ("/", "/health", "/ready", "/openapi.json")
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_NO_STORE = (b"cache-control", b"no-store")
# Of a body that is too large so much is still read.
_THROW_AWAY_BYTES = 64_000_000
# Time for a body to come in: who sends a byte now and then holds a connection for nothing.
_BODY_S = 30.0


class Keys:
    """API keys, and how often each may ask."""

    def __init__(self, keys: Sequence[str], *, per_second: float | None = None) -> None:
        """Take the keys and the rate.

        Args:
            keys: Any of them opens; none at all means open to everybody.
            per_second: Requests a second of one key, or of one address where there are no keys; bursts of up to
                ten seconds' worth pass. `None` is without limit.
        """
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._per_second = per_second
        self._burst = max(1.0, 10 * (per_second or 0))
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def check(self, authorization: str, api_key: str, address: str) -> None:
        """Let a request pass or refuse it.

        Raises:
            Problem: 401 without a key that is known, 429 beyond the rate.
        """
        who = address.encode()
        if self._digests:
            scheme, _, token = authorization.partition(" ")
            # Either opens: some clients send `Bearer None` beside the header that they were given the key for.
            given = [*([token.strip()] if scheme.lower() == "bearer" else []), api_key]
            digests = [hashlib.sha256(key.encode("latin-1")).digest() for key in given]  # the bytes that were sent
            # All are compared, in constant time, so that the time tells nothing about any of them.
            right = [
                digest for digest in digests if any([hmac.compare_digest(digest, known) for known in self._digests])
            ]
            if not right:
                raise Problem(401, "invalid_api_key", "a valid API key is needed: Authorization: Bearer KEY")
            who = right[0]
        if self._per_second is not None:
            self._take(who, self._per_second)

    def _take(self, who: bytes, per_second: float) -> None:
        now = time.monotonic()
        left, since = self._buckets.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - since) * per_second)
        self._buckets[who] = (max(left - 1, 0) if left >= 1 else left, now)
        while len(self._buckets) > 10_000:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = (1 - left) / per_second
            raise Problem(429, "rate_limited", "too many requests with this key", retry_after_s=wait)


class Edge:
    """The outermost layer: see the module's first line."""

    def __init__(
        self, app: ASGIApp, *, telemetry: Telemetry, limits: Limits, keys: Keys, tracer: Tracer | None = None
    ) -> None:
        """Wrap an app."""
        self._app = app
        self._telemetry = telemetry
        self._limits = limits
        self._keys = keys
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(_request_id(headers))
        scope.setdefault("state", {})["call"] = call
        status = 499  # until something is sent: the client went away

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_added(message["headers"], call)]}
            await send(message)

        body = _Body(receive, self._limits.body_bytes)
        try:
            with self._span(scope, headers, call):
                try:
                    self._check(scope, headers)
                    await self._app(scope, body.receive, send_on)
                except Problem as problem:
                    if problem.status == 413:
                        await body.throw_away()
                    await refuse(problem, call, send_on)
                except (ClientDisconnect, asyncio.CancelledError):
                    call.outcome = "disconnected"
                    raise
                except Exception as error:
                    self._telemetry.failed(call, error)
                    if status != 499:  # begun already: all that is left is to break off
                        raise BrokenOff from None
                    await refuse(Problem(500, "internal_error", "something went wrong here"), call, send_on)
        except (ClientDisconnect, BrokenOff):
            pass
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
            self._telemetry.finished(call, route=route, method=method, status=status)

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        path = scope["path"]
        if path not in _OPEN and not path.startswith("/web/") and scope["method"] != "OPTIONS":
            address = scope["client"][0] if scope.get("client") else ""
            self._keys.check(headers.get(b"authorization", ""), headers.get(b"x-api-key", ""), address)
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", "application/json").partition(";")[0].strip().lower()
            if kind != "application/json" and not kind.endswith("+json"):
                raise Problem(415, "unsupported_media_type", "send JSON, with Content-Type: application/json")

    @contextlib.contextmanager
    def _span(self, scope: Scope, headers: dict[bytes, str], call: Call) -> Any:
        """Trace the request, if there is a tracer: sizes, times and the outcome, no texts and no paths as sent."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        carrier = {"traceparent": headers.get(b"traceparent", ""), "tracestate": headers.get(b"tracestate", "")}
        span_settings: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(
            "request", context=extract(carrier), kind=SpanKind.SERVER, **span_settings
        ) as span:
            try:
                yield
            finally:
                route = getattr(scope.get("route"), "path", "other")
                span.update_name(f"{scope['method']} {route}")
                told: dict[str, Any] = {"request.id": call.id, "dialect": call.dialect, "documents": call.documents}
                told |= {"characters": call.characters, "tokens": call.tokens, "outcome": call.outcome}
                told |= {f"ms.{stage}": milliseconds for stage, milliseconds in call.stages_ms.items()}
                span.set_attributes({"http.route": route, **{f"bge_medical.{k}": v for k, v in told.items()}})


class _Body:
    """A request's body on its way in, up to a limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._taken = 0
        self._complete = False
        self._deadline = anyio.current_time() + _BODY_S

    async def receive(self) -> Message:
        if self._complete:  # what is waited for now is the client's going away
            return await self._receive()
        with anyio.move_on_after(self._deadline - anyio.current_time()) as scope:
            message = await self._receive()
        if scope.cancelled_caught:
            raise Problem(408, "body_too_slow", f"the body did not come in within {_BODY_S:.0f} s")
        self._taken += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._taken > self._limit:
            raise _too_large(self._limit)
        return message

    async def throw_away(self) -> None:
        """Read what is left of a body that is refused: a client that is cut off does not get to see why."""
        with anyio.move_on_after(5):
            while not self._complete and self._taken < _THROW_AWAY_BYTES:
                message = await self._receive()
                self._taken += len(message.get("body", b""))
                self._complete = not message.get("more_body", False)


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"the body is larger than {limit} bytes")


class BrokenOff(Exception):
    """An answer that was begun cannot be finished."""


async def refuse(problem: Problem, call: Call, send: Send) -> None:
    """Send a refusal in the words of the dialect that was spoken."""
    call.outcome = problem.code
    headers = [(b"content-type", b"application/json")]
    if problem.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after_s))).encode()))
        headers.append((b"retry-after-ms", str(max(1, math.ceil(problem.retry_after_s * 1_000))).encode()))
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.allow is not None:
        headers.append((b"allow", problem.allow.encode()))
    body = json.dumps(refusal(problem, call), ensure_ascii=False).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refusal(problem: Problem, call: Call) -> dict[str, Any]:
    """Return the body of a refusal."""
    if call.dialect == "tei":
        kinds = {400: "Validation", 413: "Validation", 422: "Validation", 429: "Overloaded", 503: "Unhealthy"}
        return {"error": problem.message, "error_type": kinds.get(problem.status, "Backend")}
    error = {"message": problem.message, "type": problem.code, "param": problem.param, "code": problem.status}
    # Not all clients keep the status, so the message carries what they need: LiteLLM makes a 429 a 500.
    message = f"{problem.message} (status {problem.status})"
    return {"id": call.id, "message": message, "detail": problem.message, "error": error}


def _request_id(headers: dict[bytes, str]) -> str:
    """Return the sender's id if it is a UUID, which can hold no words, else a new one."""
    given = headers.get(b"x-request-id", "").lower()
    return given if _UUID.fullmatch(given) else str(uuid.uuid4())


def _added(present: Sequence[tuple[bytes, bytes]], call: Call) -> list[tuple[bytes, bytes]]:
    added = [*_HEADERS, (b"x-request-id", call.id.encode())]
    if not any(name.lower() == b"cache-control" for name, _ in present):
        added.append(_NO_STORE)
    return added
