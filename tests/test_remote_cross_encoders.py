"""Rerank servers as a cross-encoder: our own service, a TEI-shaped and a Cohere-shaped one, all on loopback."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from pydantic import SecretStr

from langchain_bge_medical import BGERerankerCompressor, RemoteCrossEncoder, RemoteRerankerError
from langchain_bge_medical.cross_encoders import BGECrossEncoder, sigmoid
from langchain_bge_medical.remote_cross_encoders import remote_reranker
from tests.ports import free_port

TEXTS = [f"{text}{i}" for i, text in enumerate("发热咳嗽咳痰胸痛偏头痛耳痛腹泻呕吐")]
PAIRS = [(query, text) for text in TEXTS for query in ("发热", "头痛")]
KEY, CANARY = "s3cret", "CANARY"


def shared(query: str, document: str) -> float:
    """The logit of the fake servers: digits keep documents apart."""
    return len(set(query) & set(document)) - 2.0 + int("".join(filter(str.isdigit, document)) or 0) / 100


class FakeServer:
    """TEI's `/rerank` and `/info`, and Cohere's `/v2/rerank`, over `shared`; `fault` may answer in their place."""

    def __init__(self, *, limit: int = 32, revision: str | None = "abc", has_info: bool = True) -> None:
        self.limit, self.revision, self.has_info = limit, revision, has_info
        self.added = 0.0  # to each score: another model
        self.posts: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.fault: Callable[[int], Any] = lambda number: None
        self._lock = threading.Lock()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        with self._lock:
            number = len(self.posts)
            self.posts.append(body)
        fault = self.fault(number)
        if fault == "hang":
            time.sleep(1.0)
        elif fault is not None:
            return fault  # type: ignore[no-any-return]
        texts = body["texts"] if path == "/rerank" else body["documents"]
        if len(texts) > self.limit:
            return 422, {}, {"error": f"batch size {len(texts)}: {texts}", "error_type": "Validation"}
        scores = [shared(body["query"], text) + self.added for text in texts]
        order = sorted(range(len(texts)), key=lambda i: -scores[i])
        if path == "/rerank":
            return 200, {}, [{"index": i, "score": scores[i]} for i in order]
        return 200, {}, {"results": [{"index": i, "relevance_score": sigmoid(scores[i])} for i in order]}

    def info(self) -> tuple[int, dict[str, str], Any]:
        if not self.has_info:
            return 404, {}, {}
        info = {"model_id": "m", "model_sha": self.revision, "max_client_batch_size": self.limit}
        return 200, {}, {**info, "model_type": {"reranker": {}}}

    def restart(self, revision: str, added: float) -> None:
        """Answer the next request with 503, and have another model from then on."""

        def fault(_: int) -> tuple[int, dict[str, str], Any]:
            self.revision, self.added, self.fault = revision, added, lambda _: None
            return 503, {"retry-after-ms": "1"}, {}

        self.fault = fault


@contextlib.contextmanager
def serving(server: FakeServer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(*server.info())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.keys.append(self.headers["authorization"])
            self.answer(*server.post(self.path, body))

        def answer(self, status: int, headers: dict[str, str], body: Any) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a client that no longer waits
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@contextlib.contextmanager
def remote(*urls: str, **settings: Any) -> Iterator[RemoteCrossEncoder]:
    encoder = RemoteCrossEncoder(list(urls), **settings)
    try:
        yield encoder
    finally:
        encoder.close()


def nobody_there() -> str:
    return f"http://127.0.0.1:{free_port()}"


EXPECTED = [shared(*pair) for pair in PAIRS]


def test_the_compressor_ranks_by_our_own_service_as_by_the_same_model_beside_it(tiny_reranker: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from tests.serving_kit import make_app, running

    local = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32")
    documents = [Document(page_content=text) for _, text in PAIRS] + [Document(page_content="发热、咳嗽" * 60)]
    here = BGERerankerCompressor(cross_encoder=local, top_n=None).compress_documents(documents, "发热头痛")
    with running(make_app(local)) as url, remote(url) as encoder:
        there = BGERerankerCompressor(cross_encoder=encoder, top_n=None).compress_documents(documents, "发热头痛")
        with remote(url, dialect="cohere") as cohere, remote(url, dialect="tei") as tei:
            assert tei.logits(PAIRS) == pytest.approx(local.logits(PAIRS), abs=1e-5)
            assert cohere.score(PAIRS) == pytest.approx(local.score(PAIRS), abs=1e-6)
            assert not hasattr(cohere, "logits")
            assert not hasattr(cohere, "pair_logits")
    assert [d.metadata["recall_rank"] for d in there] == [d.metadata["recall_rank"] for d in here]
    logits = [[d.metadata["relevance_logit"] for d in found] for found in (here, there)]
    assert logits[1] == pytest.approx(logits[0], abs=1e-5)
    cut = [[d.metadata.get("rerank_truncated") for d in found] for found in (here, there)]
    assert cut[0] == cut[1]
    assert ["document"] in cut[1]


class SaysIts(BaseCrossEncoder):
    """No logits; the score of a text is the number that it ends with."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [float(document.split()[-1]) for _, document in text_pairs]


def test_scores_that_our_own_service_hands_on_from_one_that_gives_no_logits_arrive_as_they_were() -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from tests.serving_kit import make_app, running

    scores = [0.95, 0.6, 0.05, 1.0, 0.0]
    texts = [f"{score}" for score in scores]
    with running(make_app(SaysIts())) as url:
        for dialect in ("score", "tei", "cohere"):
            with remote(url, dialect=dialect) as encoder:
                assert encoder.score([("q", text) for text in texts]) == pytest.approx(scores, abs=1e-6)
        body = {"query": "q", "documents": texts, "raw_scores": True}
        infinity = httpx.post(f"{url}/rerank", json=body).json()["results"]
    ranked = [(result["index"], sigmoid(result["relevance_score"])) for result in infinity]
    assert [index for index, _ in ranked] == [3, 0, 1, 2, 4]
    assert [score for _, score in ranked] == pytest.approx([1.0, 0.95, 0.6, 0.05, 0.0], abs=1e-6)


def test_a_model_that_does_not_know_a_text_is_fused_with_recall_through_the_service_too(tiny_reranker: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from tests.serving_kit import SharedCharacters, make_app, running

    learnt = {"肺炎"}

    class KnowsWhatItLearnt(SharedCharacters):
        def knows(self, document: str) -> bool:
            return document in learnt

    with running(make_app(KnowsWhatItLearnt())) as url, remote(url) as encoder:
        compressor = BGERerankerCompressor(cross_encoder=encoder)
        known = compressor.compress_documents([Document(page_content="肺炎")], "肺")
        unknown = compressor.compress_documents([Document(page_content="感冒")], "肺")
        learnt.add("感冒")
        by_now = compressor.compress_documents([Document(page_content="感冒")], "肺")
    assert "rerank_fused" not in known[0].metadata
    assert unknown[0].metadata["rerank_fused"] is True
    assert "rerank_fused" not in by_now[0].metadata


def test_tei_is_recognised_and_gets_no_more_texts_than_it_takes_one_query_at_a_time() -> None:
    server = FakeServer(limit=5)
    with serving(server) as url, remote(url, api_key=KEY) as encoder:
        assert encoder.logits(PAIRS) == EXPECTED
        assert encoder.score(PAIRS) == [sigmoid(logit) for logit in EXPECTED]
        assert encoder.revision == "abc"
    assert max(len(post["texts"]) for post in server.posts) == 5
    assert {post["query"] for post in server.posts} == {"发热", "头痛"}
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_a_server_without_info_is_spoken_to_as_cohere_and_its_scores_are_taken_as_they_are() -> None:
    server = FakeServer(has_info=False)
    with serving(server) as url, contextlib.closing(remote_reranker(f"{url},{url}/v2#rerank-v3.5")) as encoder:
        assert encoder.score(PAIRS) == [sigmoid(logit) for logit in EXPECTED]
        kept = BGERerankerCompressor(cross_encoder=encoder, top_n=1).compress_documents(
            [Document(page_content="耳"), Document(page_content="头痛")], "头痛"
        )
    assert kept[0].page_content == "头痛"
    assert kept[0].metadata["relevance_logit"] is None
    assert {post["model"] for post in server.posts} == {"rerank-v3.5"}


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"retry-after": "0.05"}, {"error": "Model is overloaded", "error_type": "Overloaded"}),
        (500, {}, {}),
        (424, {}, {"error_type": "Backend"}),
        (503, {"retry-after-ms": "50"}, {}),
        "hang",
        (200, {}, b"<html>"),
        (200, {"content-encoding": "gzip"}, b"[]"),
        (200, {}, [{"index": 0, "score": 1.0}, {"index": 0, "score": 1.0}]),
        (200, {}, [{"index": i, "score": float("nan")} for i in range(5)]),
    ],
    ids=["429", "500", "424", "503", "time-out", "no JSON", "no gzip", "one index twice", "NaN"],
)
def test_no_pair_is_lost_or_swapped_whatever_passes_in_between(fault: Any) -> None:
    server = FakeServer(limit=5)
    server.fault = lambda number: fault if number % 3 == 0 else None
    with serving(server) as url, remote(url, timeout_s=0.3, max_tries=8) as encoder:
        assert encoder.logits(PAIRS) == EXPECTED


def test_a_dead_endpoint_and_one_that_fails_now_and_then_lose_nothing() -> None:
    server = FakeServer(limit=3)
    server.fault = lambda number: (500, {}, {}) if number % 4 == 1 else None
    with serving(server) as url, remote(nobody_there(), url) as encoder:
        assert encoder.logits(PAIRS) == EXPECTED
        assert encoder.logits(PAIRS) == EXPECTED


def test_work_is_spread_over_the_endpoints_and_goes_on_when_one_dies_between_calls() -> None:
    first, second = FakeServer(limit=2), FakeServer(limit=2)
    with serving(first) as one:
        with serving(second) as other:
            encoder = RemoteCrossEncoder([one, other])
            assert encoder.logits(PAIRS) == EXPECTED
            assert first.posts
            assert second.posts
        assert encoder.logits(PAIRS) == EXPECTED
        encoder.close()


def test_retry_after_is_honoured() -> None:
    server = FakeServer()
    server.fault = lambda number: (429, {"retry-after": "0.6"}, {}) if number == 0 else None
    with serving(server) as url, remote(url) as encoder:
        started = time.monotonic()
        encoder.logits(PAIRS[:1])
        assert time.monotonic() - started >= 0.6


def test_what_is_too_large_for_an_unnamed_limit_is_halved_and_a_refusal_is_told_without_waiting() -> None:
    server = FakeServer(limit=3)
    server.info = lambda: (404, {}, {})  # type: ignore[method-assign]
    with serving(server) as url, remote(url, dialect="tei") as encoder:
        assert encoder.logits(PAIRS) == EXPECTED
        server.fault = lambda number: (401, {}, {"error": CANARY})
        posts = len(server.posts)
        with pytest.raises(RemoteRerankerError, match=r"127\.0\.0\.1:\d+: refused with status 401; is the API key"):
            encoder.logits(PAIRS[:1])
        assert len(server.posts) == posts + 1
        server.fault = lambda number: (422, {}, {"error": "missing field `texts`"})
        with pytest.raises(RemoteRerankerError, match=r"refused with status 422; is the dialect right\?"):
            encoder.logits(PAIRS[:1])


def test_another_model_at_one_of_the_endpoints_is_not_mixed_in(caplog: pytest.LogCaptureFixture) -> None:
    right, wrong = FakeServer(limit=2), FakeServer(limit=2, revision="other")
    with serving(right) as one, serving(wrong) as other, remote(one, other) as encoder:
        assert encoder.revision == "abc"
        assert encoder.logits(PAIRS) == EXPECTED
    assert not wrong.posts
    assert "serves m (other, tei)" in caplog.text


def test_a_server_that_takes_one_query_a_request_goes_with_one_that_takes_several() -> None:
    class Ours(FakeServer):
        def info(self) -> tuple[int, dict[str, str], Any]:
            return 200, {}, {**super().info()[2], "bundled": False}

        def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
            self.posts.append(body)
            scores = map(shared, body["queries"], body["documents"])
            return 200, {}, {"data": [{"index": i, "score": score} for i, score in enumerate(scores)]}

    several, one_query = Ours(limit=5), FakeServer(limit=5)
    with serving(several) as one, serving(one_query) as other, remote(one, other) as encoder:
        assert encoder.logits(PAIRS) == EXPECTED
        assert encoder.logits(PAIRS) == EXPECTED
    assert several.posts
    assert one_query.posts


def test_while_servers_are_updated_no_call_gets_scores_of_two_models(caplog: pytest.LogCaptureFixture) -> None:
    def added() -> float:
        [same] = {round(logit - old, 6) for logit, old in zip(encoder.logits(PAIRS), EXPECTED, strict=True)}
        return same

    first, second = FakeServer(limit=1), FakeServer(limit=1)
    with serving(first) as one, serving(second) as other, remote(one, other) as encoder:
        assert added() == 0
        assert first.posts
        assert second.posts
        first.restart("new", 100.0)
        end = time.monotonic() + 20
        while encoder.revision != "new" and time.monotonic() < end:
            assert added() in (0, 100)
        asked = len(second.posts)
        assert added() == 100
        assert len(second.posts) == asked
        second.revision, second.added = "new", 100.0
        while len(second.posts) == asked and time.monotonic() < end:
            assert added() == 100
        assert len(second.posts) > asked
    assert "serves m (new) now" in caplog.text


def test_after_giving_up_whichever_server_is_back_first_says_what_the_model_is() -> None:
    first, second = FakeServer(), FakeServer()
    with serving(first) as one, serving(second) as other, remote(one, other, max_tries=2) as encoder:
        first.restart("new", 100.0)
        second.fault = lambda number: (503, {"retry-after-ms": "200"}, {}) if number == 0 else None
        assert encoder.logits(PAIRS[:1]) == [EXPECTED[0] + 100]
        encoder.max_tries = 1
        first.fault = lambda number: (503, {"retry-after": "60"}, {})
        with pytest.raises(RemoteRerankerError, match=r"serves m \(abc, tei\) where http.* serves m \(new, tei\)"):
            encoder.logits(PAIRS[:1])
        time.sleep(0.6)  # as long as the second is left alone, at most
        assert encoder.logits(PAIRS) == EXPECTED


def test_after_giving_up_calls_fail_at_once_until_something_goes_well() -> None:
    server = FakeServer()
    with serving(server) as url, remote(url, max_tries=3) as encoder:
        assert encoder.logits(PAIRS[:1])
        server.fault = lambda number: (500, {}, {})
        with pytest.raises(RemoteRerankerError, match=r"tried 3 times; last: http://127.*: status 500"):
            encoder.logits(PAIRS[:1])
        posts = len(server.posts)
        with pytest.raises(RemoteRerankerError):
            encoder.logits(PAIRS[:1])
        assert len(server.posts) == posts + 1
        server.fault = lambda number: None
        assert encoder.logits(PAIRS) == EXPECTED


def test_nothing_of_the_texts_or_the_key_gets_into_errors_logs_and_representations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = FakeServer()
    server.fault = lambda number: (500 if number % 2 else 400, {}, {"error": f"bad text: {CANARY}"})
    with serving(server) as url, remote(url, api_key=KEY, max_tries=2) as encoder:
        for query in (CANARY, CANARY + "\ud800"):
            with pytest.raises(RemoteRerankerError) as caught:
                encoder.logits([(query, CANARY + query)])
            assert CANARY not in str(caught.value)
        with pytest.raises(ValueError, match="the document of pair 1 is blank"):
            encoder.logits([(CANARY, CANARY), (CANARY, " ")])
        assert KEY not in repr(encoder) + str(vars(encoder))
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpcore")]
    assert not any(word in message for message in ours for word in (CANARY, KEY))


def test_it_pickles_as_its_settings() -> None:
    server = FakeServer()
    with serving(server) as url, remote(url, api_key=KEY, pairs_per_request=2) as encoder:
        encoder.logits(PAIRS)
        copy = pickle.loads(pickle.dumps(encoder))
        assert copy.logits(PAIRS) == EXPECTED
        copy.close()
    assert server.keys[-1] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"urls": []}, "at least one"),
        ({"urls": "gpu1:8000"}, "http://host:8000"),
        ({"urls": "http://me:pw@gpu1"}, "use api_key"),
        ({"urls": ["http://gpu1", "http://gpu2:abc"]}, "http://host:8000: .*'abc'"),
        ({"urls": "http://gpu1:80000"}, "http://host:8000: .*out of range"),
        ({"urls": "http://gpu1\n"}, "http://host:8000: .*non-printable"),
        ({"urls": "http://gpu..1"}, "http://host:8000: .*label empty"),
        ({"urls": "http://gpu1", "dialect": "grpc"}, "dialect must be one of auto, score, tei, cohere"),
        ({"urls": "http://gpu1", "api_key": "密钥"}, "api_key must be letters, digits and signs of ASCII"),
        ({"urls": "http://gpu1", "api_key": SecretStr("key\n")}, "api_key must be letters, digits and signs of ASCII"),
        ({"urls": "http://gpu1", "timeout_s": 0}, "must be positive"),
        ({"urls": "http://gpu1", "pairs_per_request": 0}, "at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RemoteCrossEncoder(**settings)


def test_without_pairs_nobody_is_asked() -> None:
    with remote(nobody_there(), dialect="tei", max_tries=1) as encoder:
        assert encoder.score([]) == []


def test_a_key_that_is_refused_when_the_server_is_asked_what_it_is_is_told_without_its_answer() -> None:
    server = FakeServer()
    server.info = lambda: (403, {}, {"error": CANARY})  # type: ignore[method-assign]
    with serving(server) as url, remote(url, api_key=KEY) as encoder:
        with pytest.raises(
            RemoteRerankerError, match=r"status 403.* when asked for /info; is the API key right"
        ) as raised:
            encoder.logits(PAIRS)
        assert CANARY not in str(raised.value)
        assert KEY not in str(raised.value)
    assert not server.posts


def test_a_server_that_wants_to_be_left_alone_for_long_is_not_waited_for() -> None:
    server = FakeServer()
    server.fault = lambda number: (429, {"retry-after": "86400"}, {})
    with serving(server) as url, remote(url) as encoder:
        started = time.monotonic()
        with pytest.raises(RemoteRerankerError, match=r"tried 1 time; last: .*429"):
            encoder.logits(PAIRS[:1])
        assert time.monotonic() - started < 5
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    "said", [{}, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {"retry-after": "-5"}, {"retry-after": "nan"}]
)
def test_when_to_come_back_is_taken_only_where_it_is_a_number_of_seconds(said: dict[str, str]) -> None:
    server = FakeServer()
    server.fault = lambda number: (429, said, {}) if number == 0 else None
    with serving(server) as url, remote(url) as encoder:
        assert encoder.logits(PAIRS[:2]) == EXPECTED[:2]
    assert len(server.posts) >= 2
