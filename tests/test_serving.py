from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

import httpx
from fastapi import FastAPI
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from langchain_bge_medical.chains import NOTICE
from langchain_bge_medical.cross_encoders import sigmoid
from langchain_bge_medical.remote_cross_encoders import RemoteRerankerError
from langchain_bge_medical.serving import schemas
from langchain_bge_medical.serving.app import Limits
from tests.conftest import record_documents
from tests.serving_kit import SharedCharacters, calibration, events_of, make_app, make_medical, running
from tests.test_scheduler import eventually, kill

QUERY = "发烧咳嗽痰多"
TEXTS = ["普通感冒:鼻塞", "社区获得性肺炎:发热、咳嗽、咳痰", "踝关节扭伤", "多痰,发烧,咳嗽"]
ORDER = [3, 1, 0, 2]
SCORES = [sigmoid(SharedCharacters.logit(QUERY, TEXTS[i])) for i in ORDER]
COMPLAINT = "发烧三天,咳嗽,咳痰,没有胸痛"


class Remote:
    """A running service, and the scorer inside it."""

    def __init__(self, url: str, app: FastAPI, scorer: SharedCharacters) -> None:
        self.url, self.app, self.scorer = url, app, scorer
        self.http = httpx.Client(base_url=url, timeout=20)

    def post(self, path: str, body: Any, **settings: Any) -> httpx.Response:
        return self.http.post(path, json=body, **settings)


@contextlib.contextmanager
def service(scorer: SharedCharacters | None = None, *, wait: bool = True, **settings: Any) -> Iterator[Remote]:
    scorer = scorer or SharedCharacters()
    settings.setdefault("medical", make_medical(record_documents(), scorer))
    app = make_app(scorer, **settings)
    with running(app, wait=wait) as url:
        remote = Remote(url, app, scorer)
        with remote.http:
            yield remote


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    with service() as remote:
        yield remote


# Dialects


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_in_the_fields_of_cohere_and_jina(remote: Remote, path: str) -> None:
    answer = remote.post(path, {"model": "any", "query": QUERY, "documents": TEXTS, "top_n": 3}).json()
    assert [result["index"] for result in answer["results"]] == ORDER[:3]
    assert [result["relevance_score"] for result in answer["results"]] == SCORES[:3]
    assert [result["document"] for result in answer["results"]] == [{"text": TEXTS[i]} for i in ORDER[:3]]
    tokens = sum(len(QUERY) + len(text) + 4 for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer["meta"]["tokens"] == {"input_tokens": tokens, "output_tokens": 0}
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert (answer["object"], answer["model"]) == ("rerank", "shared-characters")


@pytest.mark.parametrize(
    ("quirk", "count"),
    [
        ({"top_n": None}, 4),
        ({"top_n": 0}, 4),  # vLLM's word for all
        ({"top_n": 99}, 4),
        ({"top_n": "2"}, 2),
        ({"return_documents": "true", "return_len": "true", "kwargs": "{}"}, 4),  # Xinference's clients
        ({"max_chunks_per_doc": 10, "priority": 3, "cache_salt": "x", "user": {}}, 4),
        ({"documents": [{"text": text, "more": 1} for text in TEXTS]}, 4),
        ({"documents": TEXTS[1]}, 1),
        ({"documents": {"text": TEXTS[1]}}, 1),
    ],
)
def test_what_real_clients_send_is_taken(remote: Remote, quirk: dict[str, Any], count: int) -> None:
    headers = {"Authorization": "Bearer None"}
    answer = remote.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, **quirk}, headers=headers).json()
    assert len(answer["results"]) == count
    assert answer["results"][0]["document"]["text"] == TEXTS[ORDER[0] if count > 1 else 1]


def test_objects_are_ranked_by_their_rank_fields_in_that_order(remote: Remote) -> None:
    documents = [{"title": "甲", "body": "鼻塞"}, {"body": "咳嗽", "title": "发烧", "n": 3}]
    answer = remote.post(
        "/v1/rerank", {"query": QUERY, "documents": documents, "rank_fields": ["title", "body", "n"]}
    ).json()
    assert [result["document"]["text"] for result in answer["results"]] == ["发烧\n咳嗽\n3", "甲\n鼻塞"]


def test_documents_are_left_out_of_the_answer_only_where_that_is_asked_for(remote: Remote) -> None:
    answer = remote.post("/v2/rerank", {"query": QUERY, "documents": TEXTS, "return_documents": False}).json()
    assert all("document" not in result for result in answer["results"])


def test_relevant_spans_are_code_points_of_the_document_as_it_was_sent(remote: Remote) -> None:
    text = "🤒😷 社区获得性肺炎:发热、咳嗽、咳痰、胸痛、发热"
    body = {"query": COMPLAINT, "documents": ["踝关节扭伤", text], "relevant_spans": {"mode": "enabled"}}
    first, second = remote.post("/v2/rerank", body).json()["results"]
    assert [text[span["start"] : span["end"]] for span in first["relevant_spans"]] == ["发热", "咳嗽", "咳痰"]
    assert all(0 <= span["score"] <= 1 for span in first["relevant_spans"])  # 胸痛 is denied, so it is no match
    assert "relevant_spans" not in second
    body["relevant_spans"] = {"mode": "enabled", "max_spans": 1}
    assert len(remote.post("/v2/rerank", body).json()["results"][0]["relevant_spans"]) == 1
    body["relevant_spans"] = {"mode": "disabled"}
    assert "relevant_spans" not in remote.post("/v2/rerank", body).json()["results"][0]


def test_texts_are_ranked_as_tei_does(remote: Remote) -> None:
    response = remote.post("/rerank", {"query": QUERY, "texts": TEXTS})
    assert response.json() == [{"index": i, "score": s} for i, s in zip(ORDER, SCORES, strict=True)]
    times = ("total", "tokenization", "queue", "inference")
    assert all(int(response.headers[f"x-{name}-time"]) >= 0 for name in times)
    raw = remote.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True}).json()
    assert raw == [
        {"index": i, "score": SharedCharacters.logit(QUERY, TEXTS[i]), "text": TEXTS[i]} for i in ORDER
    ]  # fmt: skip


def test_raw_scores_make_it_infinity_which_has_documents_as_plain_texts(remote: Remote) -> None:
    body = {"query": QUERY, "documents": TEXTS, "raw_scores": False, "return_documents": True, "top_n": 2}
    answer = remote.post("/rerank", body).json()
    assert answer["results"] == [
        {"relevance_score": s, "index": i, "document": TEXTS[i]}
        for i, s in zip(ORDER[:2], SCORES[:2], strict=True)
    ]  # fmt: skip
    assert answer["id"].startswith("infinity-")
    del body["raw_scores"]
    assert remote.post("/infinity/rerank", body).json()["results"] == answer["results"]
    raw = remote.post("/rerank", {**body, "raw_scores": True}).json()["results"]
    assert raw[0]["relevance_score"] == SharedCharacters.logit(QUERY, TEXTS[3])


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
)
def test_pairs_are_scored_in_their_order_as_vllm_does(remote: Remote, names: tuple[str, str]) -> None:
    one, many = names
    answer = remote.post("/score", {one: QUERY, many: TEXTS}).json()
    scores = [sigmoid(SharedCharacters.logit(QUERY, text)) for text in TEXTS]
    assert answer["data"] == [{"index": i, "object": "score", "score": s} for i, s in enumerate(scores)]
    each = remote.post("/v1/score", {one: ["咳", "鼻"], many: ["咳嗽", "咳嗽"], "use_activation": False}).json()
    assert [pair["score"] for pair in each["data"]] == [-1.0, -2.0]


def test_a_blank_document_has_no_score_and_goes_last_and_equal_ones_keep_their_order(remote: Remote) -> None:
    answer = remote.post("/rerank", {"query": QUERY, "documents": ["", "鼻", " ", "咳", "鼻"]}).json()
    assert [result["index"] for result in answer["results"]] == [3, 1, 4, 0, 2]
    assert [result["relevance_score"] for result in answer["results"]][3:] == [0.0, 0.0]


class Distances(BaseCrossEncoder):
    """No logits, and scores that are lower than what a blank text has otherwise."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        return [-200.0 - len(text) for _, text in text_pairs]


@pytest.mark.parametrize("encoder", [SharedCharacters(), Distances()], ids=["logits", "distances"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_blank_text_is_below_the_others_by_its_score_in_every_dialect(encoder: BaseCrossEncoder, raw: bool) -> None:
    texts = ["", "鼻", " ", "咳痰"]
    with running(make_app(encoder)) as url, httpx.Client(base_url=url) as http:
        tei = http.post("/rerank", json={"query": QUERY, "texts": texts, "raw_scores": raw}).json()
        infinity = http.post("/infinity/rerank", json={"query": QUERY, "documents": texts, "raw_scores": raw}).json()
        pairs = http.post("/score", json={"queries": QUERY, "documents": texts, "use_activation": not raw}).json()
    scores = [pair["score"] for pair in pairs["data"]]
    assert scores[0] == scores[2] <= min(scores)
    assert not raw or scores[0] < min(scores[1], scores[3])
    assert [rank["score"] for rank in tei] == sorted(scores, reverse=True)
    assert [rank["index"] for rank in tei][2:] == [0, 2]
    assert [(r["index"], r["relevance_score"]) for r in infinity["results"]] == [(r["index"], r["score"]) for r in tei]


def test_half_an_emoji_is_read_as_a_replacement_character_and_hurts_nobody(remote: Remote) -> None:
    raw = b'{"query": "\\ud83d \\u54b3", "documents": ["\\u54b3\\udc00", "\\u9f3b"], "return_documents": true}'
    response = remote.http.post("/rerank", content=raw, headers={"Content-Type": "application/json"})
    assert response.status_code == 200
    assert response.json()["results"][0]["document"]["text"] == "咳�"


def test_what_was_not_read_to_its_end_is_named(tiny_reranker: Any) -> None:
    from langchain_bge_medical.cross_encoders import BGECrossEncoder

    encoder = BGECrossEncoder(str(tiny_reranker), max_length=64)
    with running(make_app(encoder)) as url:
        body = {"query": "发热", "documents": ["咳嗽", "咳" * 100]}
        answer = httpx.post(f"{url}/rerank", json=body).json()
        by_index = {result["index"]: result for result in answer["results"]}
        assert by_index[1]["truncated"] == ["document"]
        assert "truncated" not in by_index[0]
        tei = {"query": "发热", "texts": ["咳嗽", "咳" * 100], "truncate": False}
        refused = httpx.post(f"{url}/rerank", json=tei)
        assert refused.status_code == 422
        assert refused.json()["error_type"] == "Validation"
        info = httpx.get(f"{url}/info").json()
        assert (info["max_input_length"], info["model_dtype"]) == (64, encoder.loaded_dtype)
        assert info["model_dtype"] in ("float32", "bfloat16")
        # Evidence needs the knowledge base's lexicon, which this service was not given.
        spans = httpx.post(f"{url}/rerank", json={**body, "relevant_spans": {"mode": "enabled"}})
        assert spans.status_code == 501


def test_others_look_up_what_ranks_here(remote: Remote) -> None:
    info = remote.http.get("/info").json()
    assert next(iter(info["model_type"])) == "reranker"  # what Dify looks at
    assert (info["max_input_length"], info["model_sha"], info["max_client_batch_size"]) == (512, "sha256:0", 1_000)
    assert remote.http.get("/v1/models").json()["data"][0]["id"] == "shared-characters"
    described = remote.http.get("/v1/models/bge").json()
    assert (described["model_type"], described["model_name"]) == ("rerank", "shared-characters")
    assert remote.http.get("/v1/cluster/auth").json() == {"auth": False}
    assert remote.http.get("/health").json() == {"status": "ok"}
    assert remote.http.get("/ready").json() == {"status": "ready"}


# The knowledge base


def test_a_query_alone_ranks_the_diseases_with_red_flags_evidence_and_both_places(remote: Remote) -> None:
    answer = remote.post("/rerank", {"query": COMPLAINT, "top_n": 3}).json()
    assert answer["results"][0]["disease"] == "社区获得性肺炎"
    assert [disease["rank"] for disease in answer["results"]] == [1, 2, 3]
    assert [disease["recall_rank"] for disease in answer["recalled"]] == [1, 2, 3]
    assert {"recall", "queue", "rerank", "evidence", "total"} <= set(answer["timings_ms"])
    assert answer["notice"] == NOTICE["zh"]
    said = [(finding["text"], finding["status"]) for finding in answer["findings"]]
    assert said == [("发烧", "present"), ("咳嗽", "present"), ("咳痰", "present"), ("胸痛", "absent")]
    assert "answer" not in answer
    first = answer["results"][0]
    for piece in first["evidence"]:
        source = answer["query"] if piece["field"] == "query" else first["text"]
        assert source[piece["start"] : piece["end"]] == piece["text"]
    assert {(piece["term"], piece["status"]) for piece in first["evidence"]} == {
        ("发热", "matched"), ("咳嗽", "matched"), ("咳痰", "matched"), ("胸痛", "denied"),
    }  # fmt: skip


def test_ask_answers_in_words_too_and_says_what_answered(remote: Remote) -> None:
    response = remote.post("/ask", {"query": "胸痛,出冷汗,左胳膊发麻"})
    answer = response.json()
    assert answer["triage"]["level"] == "emergency"
    assert answer["answer"].startswith("【紧急】")
    assert answer["answer"].endswith(NOTICE["zh"])
    assert answer["audit"]["id"] == answer["id"] == response.headers["x-request-id"]
    assert answer["audit"]["revision"] == "sha256:0"
    assert answer["audit"]["knowledge_base"] == {"records": 6}
    english = remote.post("/ask", {"query": COMPLAINT, "lang": "en"}).json()
    assert english["answer"].endswith(NOTICE["en"])


MODEL_ANSWER = "可能相关的疾病是社区获得性肺炎 [1]。您说的发烧和咳嗽与它相符 [1]。其次 [2]。"


def test_chat_streams_red_flags_then_documents_then_words() -> None:
    llm = GenericFakeChatModel(messages=iter([AIMessage(MODEL_ANSWER)]))
    scorer = SharedCharacters()
    with service(scorer, medical=make_medical(record_documents(), scorer, llm=llm)) as remote:
        response = remote.post("/chat", {"query": COMPLAINT, "top_n": 2})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    names = [name for name, _ in events]
    assert names[:2] == ["triage", "documents"]
    assert names[-1] == "done"
    assert set(names[2:-1]) == {"token"}
    assert names.count("token") > 3
    words = "".join(data["text"] for name, data in events if name == "token")
    assert words.startswith(MODEL_ANSWER)
    documents = dict(events)["documents"]
    assert [disease["rank"] for disease in documents["results"]] == [1, 2]
    assert documents["reranked"]


def test_what_the_red_flags_say_is_streamed_before_anything_is_searched() -> None:
    scorer = SharedCharacters()
    with service(scorer) as remote:
        events = events_of(remote.post("/chat", {"query": "胸痛,出冷汗,左胳膊发麻"}).text)
    assert [name for name, _ in events[:3]] == ["triage", "token", "documents"]
    assert events[0][1]["triage"]["level"] == "emergency"
    assert events[1][1]["text"].startswith("【紧急】")


def test_a_model_that_names_what_was_not_found_is_not_believed() -> None:
    llm = GenericFakeChatModel(messages=iter([AIMessage("您得了肺癌,请服用阿莫西林 500 毫克。")]))
    scorer = SharedCharacters()
    with service(scorer, medical=make_medical(record_documents(), scorer, llm=llm)) as remote:
        answer = remote.post("/ask", {"query": COMPLAINT}).json()["answer"]
    assert "肺癌" not in answer
    assert "阿莫西林" not in answer
    assert "社区获得性肺炎" in answer


def test_what_was_said_before_is_part_of_the_picture(remote: Remote) -> None:
    history = [{"role": "user", "content": "发烧三天。"}, {"role": "assistant", "content": "还有呢?"}]
    answer = remote.post("/ask", {"query": "还咳嗽,咳痰", "history": history}).json()
    assert answer["query"] == "发烧三天。还咳嗽,咳痰"
    matched = {p["term"] for p in answer["results"][0]["evidence"] if p["status"] == "matched"}
    assert matched == {"发热", "咳嗽", "咳痰"}


def test_without_reranking_the_order_is_that_of_recall_and_the_model_is_not_asked(remote: Remote) -> None:
    before = len(remote.scorer.batches)
    answer = remote.post("/ask", {"query": COMPLAINT, "rerank": False}).json()
    assert not answer["reranked"]
    assert [d["recall_rank"] for d in answer["results"]] == [1, 2, 3, 4, 5]
    assert {d["rank"] for d in answer["results"]} == {None}
    assert {d["relevance_score"] for d in answer["results"]} == {None}
    assert len(remote.scorer.batches) == before


@pytest.mark.parametrize(
    ("query", "reason"),
    [("xyz", "no_symptoms"), ("手机屏幕碎了,去哪里修", "no_symptoms"), ("没有发烧,也不咳嗽", "no_symptoms")],
)
def test_when_it_is_better_to_say_nothing_it_says_so_and_why(remote: Remote, query: str, reason: str) -> None:
    for answer in (remote.post("/ask", {"query": query}).json(), remote.post("/rerank", {"query": query}).json()):
        assert answer["abstained"]
        assert answer["abstention"]["reason"] == reason
        assert answer["results"] == answer["recalled"] == []
        assert answer["next_question"] is None


def test_without_a_calibration_the_confidence_is_the_score_and_says_so(remote: Remote) -> None:
    answer = remote.post("/rerank", {"query": COMPLAINT}).json()
    for disease in answer["results"] + answer["recalled"]:
        assert disease["confidence"] == disease["relevance_score"]
        assert not disease["confidence_calibrated"]


def test_with_a_calibration_both_orders_have_its_confidence() -> None:
    scorer, fitted = SharedCharacters(), calibration()
    medical = make_medical(record_documents(), scorer, calibration=fitted)
    with service(scorer, medical=medical) as remote:
        answer = remote.post("/rerank", {"query": COMPLAINT}).json()
    read = "发烧三天,咳嗽,咳痰,"  # what is denied is not read
    logits = {d["disease"]: scorer.logit(read, d["text"]) for d in answer["results"] + answer["recalled"]}
    best, second = sorted(logits.values(), reverse=True)[:2]
    for disease in answer["results"] + answer["recalled"]:
        logit = logits[disease["disease"]]
        margin = logit - (second if disease["rank"] == 1 else best)
        assert disease["confidence"] == pytest.approx(fitted.confidence(logit, margin, True))
        assert disease["confidence_calibrated"]


def test_below_the_threshold_of_a_calibration_it_says_nothing_except_red_flags() -> None:
    scorer = SharedCharacters()
    medical = make_medical(record_documents(), scorer, calibration=calibration(bias=-30.0, threshold=0.5))
    with service(scorer, medical=medical) as remote:
        answer = remote.post("/ask", {"query": COMPLAINT}).json()
        assert (answer["abstained"], answer["abstention"]["reason"], answer["results"]) == (True, "no_match", [])
        flagged = remote.post("/ask", {"query": "胸痛,出冷汗,左胳膊发麻"}).json()
        assert flagged["triage"]["level"] == "emergency"
        assert not flagged["abstained"]


def test_the_next_question_tells_the_candidates_apart_and_comes_with_a_word_for_it(remote: Remote) -> None:
    answer = remote.post("/ask", {"query": "发烧三天"}).json()
    question = answer["next_question"]
    having = {d["disease"] for d in answer["results"] if question["term"] in d["symptoms"]}
    assert 0 < len(having) < len(answer["results"])
    assert set(question["yes"]) == having
    assert question["label"] == question["term"]
    assert question["text"] in answer["answer"]
    english = remote.post("/ask", {"query": "发烧三天", "lang": "en"}).json()["next_question"]
    assert english["label"].isascii()
    refined = remote.post(
        "/ask",
        {"query": f"没有{question['term']}", "history": [{"role": "user", "content": "发烧三天"}]},
    ).json()
    assert {(f["term"], f["status"]) for f in refined["findings"]} >= {(question["term"], "absent")}
    assert refined["next_question"] is None or refined["next_question"]["term"] != question["term"]


class Words(BaseRetriever):
    """Finds all documents, and keeps what it was asked for."""

    documents: list[Document]
    asked: list[str] = Field(default_factory=list)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        self.asked.append(query)
        return self.documents


def test_neither_recall_nor_the_model_sees_what_the_patient_denies() -> None:
    scorer = SharedCharacters()
    recall = Words(documents=record_documents())
    with service(scorer, medical=make_medical(record_documents(), scorer, recall=recall)) as remote:
        answer = remote.post("/rerank", {"query": COMPLAINT}).json()
        pairs = {query for batch in remote.scorer.batches for query, document in batch if "疾病名称" in document}
    assert recall.asked[-1:] == ["发烧三天,咳嗽,咳痰,"]
    assert pairs == {"发烧三天,咳嗽,咳痰,"}
    assert answer["query"] == COMPLAINT


def test_what_sex_or_age_rule_out_is_in_neither_order_and_takes_no_place(remote: Remote) -> None:
    documents = record_documents()
    documents[0].metadata["sex"] = "female"
    scorer = SharedCharacters()
    with service(scorer, medical=make_medical(documents, scorer)) as remote:
        for body in ({"rerank": True}, {"rerank": False}):
            answer = remote.post("/ask", {"query": "我是男的,35岁," + COMPLAINT, **body}).json()
            for order in ("results", "recalled"):
                assert len(answer[order]) == 5
                assert "社区获得性肺炎" not in {d["disease"] for d in answer[order]}
            assert answer["patient"]["sex"] == "male"


@pytest.mark.parametrize("query", [COMPLAINT, "胸痛,出冷汗,左胳膊发麻", "xyz"])
def test_what_is_answered_is_what_the_document_says_with_nothing_unnamed(remote: Remote, query: str) -> None:
    answer = remote.post("/ask", {"query": query}).json()
    read = schemas.AskAnswer.model_validate(answer, strict=True)
    assert read.model_extra == {}
    written = read.model_dump()
    for name in ("findings", "triage", "abstention", "next_question", "patient"):
        assert written[name] == answer[name]
    for order in ("results", "recalled"):
        assert [disease["evidence"] for disease in written[order]] == [d["evidence"] for d in answer[order]]


# Refusals

CANARY = "患者王小明的隐私CANARY"
BAD: list[tuple[str, Any, int]] = [
    ("/rerank", {"query": CANARY, "documents": [CANARY, 7]}, 422),
    ("/rerank", {"query": CANARY, "documents": []}, 422),
    ("/rerank", {"query": " ", "documents": [CANARY]}, 422),
    ("/rerank", {"query": CANARY, "documents": [{CANARY: CANARY}]}, 422),
    ("/rerank", {"query": CANARY, "documents": [{"text": {CANARY: 1}}]}, 422),
    ("/rerank", {"query": CANARY, "documents": [CANARY], "top_n": CANARY}, 422),
    ("/rerank", {"query": CANARY, "documents": [CANARY], "top_n": -1}, 422),
    ("/rerank", {"query": CANARY, "documents": [CANARY], "relevant_spans": {"mode": CANARY}}, 422),
    ("/rerank", {"query": CANARY, "documents": [CANARY], "texts": [CANARY]}, 422),
    ("/rerank", {"query": CANARY, "texts": []}, 422),
    ("/rerank", {"query": {CANARY: CANARY}, "texts": [CANARY]}, 422),
    ("/rerank", [CANARY], 422),
    ("/rerank", CANARY, 422),
    ("/rerank", {"query": CANARY, "top_n": 1_000}, 422),
    ("/infinity/rerank", {"query": CANARY, "documents": CANARY}, 422),
    ("/score", {"queries": [CANARY, CANARY], "documents": [CANARY]}, 422),
    ("/score", {"queries": CANARY}, 422),
    ("/ask", {"query": ""}, 422),
    ("/ask", {"query": CANARY, "lang": CANARY}, 422),
    ("/ask", {"query": CANARY, "history": [{"role": CANARY, "content": CANARY}]}, 422),
    ("/chat", {"query": None}, 422),
    (f"/{CANARY}", {"query": CANARY}, 404),
    ("/rerank", {"query": CANARY, "documents": ["raise" + CANARY]}, 500),
    ("/rerank", {"query": CANARY, "documents": ["nan" + CANARY]}, 500),
]


@pytest.mark.parametrize(("path", "body", "status"), BAD)
def test_a_refusal_names_the_place_and_repeats_nothing_that_was_sent(
    remote: Remote, path: str, body: Any, status: int
) -> None:
    response = remote.post(path, body)
    assert response.status_code == status, response.text
    assert "CANARY" not in response.text
    assert "王小明" not in response.text
    refusal = response.json()
    if "texts" in body and "documents" not in body:
        assert set(refusal) == {"error", "error_type"}
    else:
        assert set(refusal) == {"id", "message", "detail", "error"}
        assert refusal["error"]["code"] == status
        assert refusal["id"] == response.headers["x-request-id"]


def test_what_tei_s_clients_send_that_is_no_json_is_refused_in_its_words(remote: Remote) -> None:
    response = remote.http.post("/rerank", content=b'{"texts": [', headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error_type"]) == (400, "Validation")


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_a_probe_may_ask_for_the_head_alone(remote: Remote, path: str) -> None:
    response = remote.http.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_null_results_are_the_usual_number_without_documents_too(remote: Remote) -> None:
    for path in ("/rerank", "/ask"):
        null, usual = (remote.post(path, {"query": COMPLAINT, **more}).json() for more in ({"top_n": None}, {}))
        assert len(null["results"]) == len(usual["results"]) > 0


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe\x00", 400),
        (b'{"query": 1' + b"0" * 5_000 + b"}", 400),
        (b'{"query":' * 100_000, 400),
        (b"[" * 200_000, 400),
        (b'{"query": NaN, "documents": ["x"]}', 422),
    ],
)
def test_what_is_no_json_is_refused_however_it_is_broken(remote: Remote, raw: bytes, status: int) -> None:
    for path in ("/rerank", "/score", "/ask"):
        response = remote.http.post(path, content=raw, headers={"Content-Type": "application/json"})
        assert response.status_code == status


def test_other_media_types_methods_and_paths_are_refused(remote: Remote) -> None:
    form = remote.http.post("/rerank", data={"query": "x"})
    assert (form.status_code, form.json()["error"]["type"]) == (415, "unsupported_media_type")
    wrong = remote.http.get("/rerank")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert remote.http.get("/nothing").status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "咳", "documents": ["x"] * 6}, "too_many_documents"),
        ({"query": "咳" * 21, "documents": ["x"]}, "query_too_long"),
        ({"query": "咳", "documents": ["x", "y" * 401]}, "document_too_long"),
        ({"query": "咳", "documents": ["y" * 399 + str(n) for n in range(5)]}, "too_many_tokens"),
        ({"query": "咳", "documents": ["y"], "junk": "x" * 6_000}, "body_too_large"),
        ({"query": "咳" * 21}, "query_too_long"),
    ],
)
def test_what_is_too_large_is_refused_before_any_work(body: Any, code: str) -> None:
    limits = Limits(body_bytes=5_000, documents=5, query_chars=20, document_chars=400, tokens=450)
    with service(limits=limits) as remote:
        before = len(remote.scorer.batches)
        response = remote.post("/rerank", body)
        assert (response.status_code, response.json()["error"]["type"]) == (413, code)
        assert len(remote.scorer.batches) == before
        assert remote.post("/rerank", {"query": "咳", "documents": ["咳"]}).status_code == 200


def test_a_query_longer_than_the_chain_takes_is_refused_even_where_the_limit_is_higher() -> None:
    with service(limits=Limits(query_chars=20_000)) as remote:
        refused = remote.post("/ask", {"query": "咳" * 10_000})
        assert (refused.status_code, refused.json()["error"]["type"]) == (413, "query_too_long")


def test_a_long_history_is_refused_as_a_whole_before_it_is_read() -> None:
    turn = {"role": "assistant", "content": "One more question: Do you have this: "}
    with service(limits=Limits(history_chars=len(turn["content"]) * 3)) as remote:
        for path in ("/ask", "/chat"):
            assert remote.post(path, {"query": "yes", "history": [turn] * 3}).status_code == 200
            refused = remote.post(path, {"query": "yes", "history": [turn] * 4})
            assert (refused.status_code, refused.json()["error"]["type"]) == (413, "history_too_long")


def test_a_body_of_fifty_megabytes_is_refused_whether_it_says_its_length_or_not() -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 1_000_000

    with service() as remote:
        headers = {"Content-Type": "application/json"}
        said = remote.http.post("/rerank", content=b"x" * 50_000_000, headers=headers)
        unsaid = remote.http.post("/rerank", content=chunks(), headers=headers)
        assert (said.status_code, unsaid.status_code) == (413, 413)
        assert remote.post("/rerank", {"query": "咳", "documents": ["咳"]}).status_code == 200


# Who may ask


def test_without_one_of_the_keys_nobody_is_let_in_and_the_probes_stay_open() -> None:
    body = {"query": "咳", "documents": ["咳"]}
    with service(api_keys=["first", "第二"]) as remote:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic first"},
            {"Authorization": "Bearer"},
            {"X-API-Key": "firs"},
        ):
            refused = remote.post("/rerank", body, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        assert remote.post("/rerank", body, headers={"Authorization": "Bearer first"}).status_code == 200
        assert remote.post("/rerank", body, headers={"X-API-Key": "first"}).status_code == 200
        for beside in ("Bearer None", "Bearer", "Basic first"):
            both = {"Authorization": beside, "X-API-Key": "first"}
            assert remote.post("/rerank", body, headers=both).status_code == 200
        wrong = {"Authorization": "Bearer first", "X-API-Key": "wrong"}
        assert remote.post("/rerank", body, headers=wrong).status_code == 200
        second = {"Authorization": "Bearer 第二".encode()}
        assert remote.post("/rerank", body, headers=second).status_code == 200
        assert remote.http.get("/metrics").status_code == remote.http.get("/info").status_code == 401
        for path in ("/health", "/ready", "/", "/openapi.json"):
            assert remote.http.get(path).status_code == 200


def test_each_key_has_its_own_rate() -> None:
    body = {"query": "咳", "documents": ["咳"]}
    with service(api_keys=["a", "b"], requests_per_second=0.5) as remote:
        statuses = [remote.post("/rerank", body, headers={"X-API-Key": "a"}) for _ in range(7)]
        assert [response.status_code for response in statuses] == [200] * 5 + [429] * 2
        assert 1 <= int(statuses[-1].headers["retry-after"]) <= 2
        assert remote.post("/rerank", body, headers={"X-API-Key": "b"}).status_code == 200
        assert remote.http.get("/health").status_code == 200


def test_pages_of_other_origins_may_not_call_unless_they_are_named(remote: Remote) -> None:
    preflight = {
        "Origin": "https://clinic.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert "access-control-allow-origin" not in remote.http.options("/rerank", headers=preflight).headers
    with service(cors_origins=["https://clinic.example/"], api_keys=["k"]) as named:
        allowed = named.http.options("/rerank", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://clinic.example"
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        # A refusal must be readable too, or the page sees a network error instead of the reason.
        refused = named.post("/rerank", {}, headers={"Origin": "https://clinic.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://clinic.example"
        other = {**preflight, "Origin": "https://evil.example"}
        assert "access-control-allow-origin" not in named.http.options("/rerank", headers=other).headers


def test_every_answer_has_an_id_and_is_kept_from_caches_and_sniffers(remote: Remote) -> None:
    ours = "0b7c2f5e-58a0-4f43-a7d5-7a4a6e2f9c11"
    for response in (
        remote.post("/rerank", {"query": "咳", "documents": ["咳"]}, headers={"X-Request-Id": ours}),
        remote.http.get("/nothing", headers={"X-Request-Id": ours}),
    ):
        assert response.headers["x-request-id"] == ours
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
    # An id in free words could hold a patient's name, and ids are logged.
    named = remote.http.get("/health", headers={"X-Request-Id": "wang-xiaoming"})
    assert named.headers["x-request-id"] != "wang-xiaoming"


def test_the_page_and_its_files_are_served_with_a_policy_that_allows_nothing_from_elsewhere(remote: Remote) -> None:
    page = remote.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for file in ("/", "/web/app.js", "/web/style.css"):
        response = remote.http.get(file)
        assert response.status_code == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-frame-options"] == "DENY"
    assert remote.http.get("/web/../app.py").status_code == 404
    assert remote.http.get("/web/%2e%2e/app.py").status_code == 404


# Under load, and when things break


def test_over_its_capacity_it_answers_200_or_429_with_a_time_and_never_429_after_work_began() -> None:
    scorer = SharedCharacters(seconds_per_token=2e-5)
    body = {"documents": ["咳嗽" * 30 + str(n) for n in range(20)]}
    with service(scorer, max_wait_s=0.2) as remote, ThreadPoolExecutor(40) as pool:
        scorer.batches.clear()
        responses = list(pool.map(lambda i: remote.post("/rerank", {"query": f"{i:03}", **body}), range(120)))
        ok = {f"{i:03}" for i, response in enumerate(responses) if response.status_code == 200}
        refused = [response for response in responses if response.status_code != 200]
        assert 5 < len(ok) < 120
        assert {response.status_code for response in refused} == {429}
        assert all(1 <= int(response.headers["retry-after"]) <= 10 for response in refused)
        assert all(0 < int(response.headers["retry-after-ms"]) <= 10_000 for response in refused)
        assert {query for batch in scorer.batches for query, _ in batch if query != "probe"} == ok
        assert "429" in refused[0].json()["message"]


@pytest.mark.parametrize("poison", ["raise", "nan", "die"])
def test_one_bad_request_among_good_ones_fails_alone(poison: str) -> None:
    with service() as remote, ThreadPoolExecutor(9) as pool:
        bodies = [{"query": QUERY, "documents": [*TEXTS, f"{i}"]} for i in range(8)]
        bodies.insert(4, {"query": QUERY, "documents": [*TEXTS, poison]})
        statuses = [r.status_code for r in pool.map(lambda body: remote.post("/rerank", body), bodies)]
        assert statuses == [200] * 4 + [500] + [200] * 4
        assert remote.post("/rerank", bodies[0]).status_code == 200
        assert remote.http.get("/ready").status_code == 200


def test_a_request_that_never_fits_into_memory_is_503_and_one_that_does_in_halves_is_200() -> None:
    class Small(SharedCharacters):
        def logits(self, pairs: Any) -> list[float]:
            if any("monster" in document for _, document in pairs):
                raise MemoryError
            return super().logits(pairs)

    with service(Small()) as remote:
        monster = remote.post("/rerank", {"query": "咳", "documents": ["monster"]})
        assert (monster.status_code, monster.json()["error"]["type"]) == (503, "out_of_memory")
        halves = remote.post("/rerank", {"query": "咳", "documents": ["oom", "咳", "嗽", "发"]})
        assert halves.status_code == 200


def test_a_killed_worker_is_replaced_and_the_request_it_was_at_is_answered() -> None:
    with service() as remote, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(remote.post, "/rerank", {"query": "咳", "documents": ["slow"]})
        engine = remote.app.state.service.engine
        eventually(lambda: any("slow" in document for batch in remote.scorer.batches for _, document in batch))
        kill(engine._thread)
        assert answer.result(timeout=10).status_code == 200
        assert remote.http.get("/ready").status_code == 200
        assert "bge_medical_worker_deaths_total 1.0" in remote.http.get("/metrics").text


def test_when_the_model_is_lost_readiness_says_so_and_requests_are_503() -> None:
    with service() as remote:
        remote.scorer.broken = RuntimeError("CUDA error")
        assert remote.post("/rerank", {"query": "咳", "documents": ["咳"]}).status_code in (500, 503)
        eventually(lambda: remote.http.get("/ready").status_code == 503)
        assert remote.http.get("/ready").json() == {"status": "broken"}
        assert remote.http.get("/health").status_code == 503
        refused = remote.post("/rerank", {"query": "咳", "documents": ["咳"]})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "service_broken")


def test_while_the_rerank_server_behind_it_is_away_requests_are_503_and_it_recovers_by_itself() -> None:
    with service() as remote:
        body = {"query": "咳", "documents": ["咳"]}
        remote.scorer.broken = RemoteRerankerError("http://gpu1:8000: no rerank server answered")
        for _ in range(4):  # more than a broken model is forgiven
            refused = remote.post("/rerank", body)
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "reranker_unavailable")
            assert refused.headers["Retry-After"] == "5"
        assert events_of(remote.post("/chat", {"query": COMPLAINT}).text)[0][0] == "triage"
        assert remote.post("/ask", {"query": COMPLAINT, "rerank": False}).status_code == 200
        assert remote.http.get("/health").status_code == 200
        remote.scorer.broken = None
        assert remote.post("/rerank", body).status_code == 200
        assert remote.app.state.service.engine.counts.reloads == 0


def test_while_the_model_loads_it_is_alive_and_not_ready() -> None:
    from langchain_bge_medical.serving.app import create_app
    from langchain_bge_medical.serving.scheduler import ScoringEngine
    from tests.serving_kit import MODEL

    gate = threading.Event()

    def load() -> SharedCharacters:
        gate.wait(10)
        return SharedCharacters()

    with running(create_app(ScoringEngine(load), MODEL), wait=False) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/ready").json() == {"status": "starting"}
        refused = httpx.post(f"{url}/rerank", json={"query": "咳", "documents": ["咳"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        gate.set()
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)


def test_past_the_deadline_the_answer_is_504_and_the_rest_is_not_scored() -> None:
    scorer = SharedCharacters(seconds_per_batch=0.1)
    with service(scorer, deadline_s=0.25) as remote:
        before = len(scorer.batches)
        started = time.monotonic()
        body = {"query": "咳", "documents": ["嗽" * 400 + str(n) for n in range(200)]}
        assert remote.post("/rerank", body).status_code == 504
        assert time.monotonic() - started < 1
        time.sleep(0.3)
        assert len(scorer.batches) - before <= 5
        assert remote.app.state.service.engine.backlog_tokens == 0


def test_when_the_client_goes_away_its_work_stops_within_a_batch() -> None:
    scorer = SharedCharacters(seconds_per_batch=0.05)
    body = json.dumps({"query": "咳", "documents": ["嗽" * 400 + str(n) for n in range(200)]}).encode()
    with service(scorer) as remote:
        before = len(scorer.batches)
        host, port = remote.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            eventually(lambda: len(scorer.batches) > before + 1)
        at_the_end = len(scorer.batches)
        engine = remote.app.state.service.engine
        eventually(lambda: engine.backlog_requests == 0)
        time.sleep(0.2)
        assert len(scorer.batches) <= at_the_end + 2
        assert remote.post("/rerank", {"query": "咳", "documents": ["咳"]}).status_code == 200


def test_a_stream_that_nobody_reads_any_more_gives_back_what_it_held_and_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scorer = SharedCharacters(seconds_per_batch=0.3)
    with service(scorer, limits=Limits(answers=1)) as remote:
        for _ in range(3):
            with remote.http.stream("POST", "/chat", json={"query": COMPLAINT}) as response:
                assert response.status_code == 200
                next(response.iter_lines())
            eventually(lambda: remote.app.state.service.engine.backlog_requests == 0)
            eventually(lambda: not remote.app.state.service.busy())
        scorer.seconds_per_batch = 2
        with remote.http.stream("POST", "/chat", json={"query": COMPLAINT}) as response:
            lines = response.iter_lines()  # dropped, it would hang up
            next(lines)
            second = remote.post("/ask", {"query": COMPLAINT})
            assert (second.status_code, second.json()["error"]["type"]) == (429, "too_many_answers")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event() -> None:
    class Breaking(BaseRetriever):
        broken: bool = False

        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            if self.broken:
                raise RuntimeError(CANARY)
            return record_documents()

    scorer, recall = SharedCharacters(), Breaking()
    with service(scorer, medical=make_medical(record_documents(), scorer, recall=recall)) as remote:
        recall.broken = True
        events = events_of(remote.post("/chat", {"query": COMPLAINT}).text)
        assert events[0][0] == "triage"
        assert events[-1][0] == "error"
        assert events[-1][1]["error"]["type"] == "internal_error"
        assert CANARY not in json.dumps(events[-1], ensure_ascii=False)


def test_where_the_chat_model_fails_the_records_answer_and_nobody_hears_what_it_was_told() -> None:
    class Broken(GenericFakeChatModel):
        def _generate(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError(CANARY)

    scorer = SharedCharacters()
    llm = Broken(messages=iter([]))
    with service(scorer, medical=make_medical(record_documents(), scorer, llm=llm)) as remote:
        streamed = remote.post("/chat", {"query": COMPLAINT}).text
        assert [name for name, _ in events_of(streamed)][:2] == ["triage", "documents"]
        assert events_of(streamed)[-1][0] == "done"
        asked = remote.post("/ask", {"query": COMPLAINT})
        assert asked.status_code == 200
        for said in (streamed, asked.text):
            assert "大模型没有应答" in said
            assert CANARY not in said


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(
            "/rerank",
            {
                "query": COMPLAINT,
                "documents": ["社区获得性肺炎:发热、咳嗽、咳痰、胸痛" * 20 + str(n) for n in range(1_000)],
                "relevant_spans": {"mode": "enabled"},
            },
            id="documents",
        ),
        pytest.param("/ask", {"query": (COMPLAINT + "。") * 470}, id="complaint"),
    ],
)
def test_health_answers_while_the_largest_requests_are_worked_on(path: str, body: dict[str, Any]) -> None:
    scorer = SharedCharacters(seconds_per_batch=0.01)
    with service(scorer, max_wait_s=1_000) as remote, ThreadPoolExecutor(2) as pool:
        work = [pool.submit(remote.post, path, body) for _ in range(2)]
        took = []
        with httpx.Client(base_url=remote.url) as probe:
            while not all(future.done() for future in work):
                started = time.perf_counter()
                assert probe.get("/health").status_code == 200
                took.append(time.perf_counter() - started)
                time.sleep(0.01)
        assert {future.result().status_code for future in work} == {200}
        took.sort()
        assert len(took) > 10
        # The bar of 50 ms is held by the load script on an idle machine; here others share the cores.
        assert took[int(len(took) * 0.9)] < 0.25


# What is told about requests


def test_no_word_of_a_request_is_in_any_log_metric_or_trace(caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from langchain_bge_medical.serving.telemetry import JSONFormatter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.WARNING)  # the client's own, in this process
    logging.getLogger("httpx").setLevel(logging.WARNING)
    good = [
        ("/v1/rerank", {"query": CANARY, "documents": [CANARY + "1", {"text": CANARY}], "model": CANARY}),
        ("/rerank", {"query": CANARY, "texts": [CANARY]}),
        ("/score", {"text_1": CANARY, "text_2": CANARY}),
        ("/ask", {"query": CANARY + "头痛", "history": [{"role": "user", "content": CANARY}]}),
        ("/chat", {"query": CANARY + "头痛"}),
        ("/rerank", {"query": CANARY + "头痛"}),
    ]
    with service(tracer=provider.get_tracer("test")) as remote:
        headers = {"X-Request-Id": "CANARY", "User-Agent": "CANARY", "Authorization": "Bearer CANARY"}
        for path, body in good:
            assert remote.post(path, body, headers=headers, params={"CANARY": "CANARY"}).status_code == 200
        for path, body, _ in BAD:
            remote.post(path, body, headers=headers)
        remote.http.get("/v1/models/CANARY")
        remote.http.request("CANARY", "/rerank")
        metrics = remote.http.get("/metrics").text
    formatter = JSONFormatter()
    logged = "\n".join(formatter.format(record) for record in caplog.records)
    traced = "\n".join(span.to_json() for span in exporter.get_finished_spans())
    assert logged.count('"event": "request"') > 30
    assert traced.count('"http.route"') > 30
    assert "bge_medical_http_requests_total" in metrics
    for told in (logged, traced, metrics, caplog.text):
        assert "CANARY" not in told
        assert "王小明" not in told


def logged_rerank(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The line of the request to /rerank; on a busy machine that of a poll of /ready comes before it."""
    lines = (getattr(record, "fields", {}) for record in caplog.records)
    return next(line for line in lines if line.get("event") == "request" and line["route"] == "/rerank")


def test_a_log_line_says_what_happened_how_large_it_was_and_where_the_time_went(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with service() as remote:
        remote.post("/rerank", {"query": QUERY, "documents": TEXTS})
    line = logged_rerank(caplog)
    assert (line["route"], line["dialect"], line["status"], line["outcome"]) == ("/rerank", "cohere", 200, "ok")
    assert (line["documents"], line["model"], line["revision"]) == (4, "shared-characters", "sha256:0")
    assert line["characters"] == len(QUERY) + sum(map(len, TEXTS))
    assert {"queue", "tokenize", "rerank", "total"} == set(line["ms"])


def test_an_unexpected_error_is_logged_by_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    with service() as remote:
        remote.post("/rerank", {"query": QUERY, "documents": ["raise"]})
    line = next(r.fields for r in caplog.records if getattr(r, "fields", {}).get("event") == "error")  # type: ignore[attr-defined]
    assert line["error"] == "RuntimeError"
    assert any("serving_kit.py" in place for place in line["at"])


def test_of_a_question_to_the_knowledge_base_what_the_patient_said_is_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "langchain_bge_medical.serving"), service() as remote:
        remote.post("/rerank", {"query": COMPLAINT})
    assert logged_rerank(caplog)["characters"] == len(COMPLAINT)


def test_text_is_logged_only_where_the_operator_asked_for_samples(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with service(text_sample=1.0) as remote:
        remote.post("/rerank", {"query": QUERY, "documents": TEXTS})
    line = logged_rerank(caplog)
    assert line["text_sample"] == QUERY


def test_metrics_are_what_prometheus_expects() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with service() as remote:
        remote.post("/rerank", {"query": QUERY, "documents": TEXTS})
        remote.post("/rerank", {"query": QUERY, "texts": []})
        text = remote.http.get("/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    count = "bge_medical_http_requests_total"
    assert samples[count, ("dialect", "cohere"), ("route", "/rerank"), ("status", "200")] == 1
    assert samples[count, ("dialect", "tei"), ("route", "/rerank"), ("status", "422")] == 1
    assert samples["bge_medical_ready",] == 1
    assert samples["bge_medical_pairs_total",] == 4
    assert samples["bge_medical_queue_tokens",] == 0
    assert samples["bge_medical_request_documents_sum",] == 4
    model = samples["bge_medical_model_info", ("model", "shared-characters"), ("revision", "sha256:0")]
    assert model == 1
    assert {"process_resident_memory_bytes", "bge_medical_stage_duration_seconds"} <= set(families)


def test_a_body_that_does_not_come_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_bge_medical.serving import edge

    monkeypatch.setattr(edge, "_BODY_S", 0.2)
    with service() as remote:
        host, port = remote.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert b"408 Request Timeout" in connection.recv(1_000)
        slow = {"query": "咳", "documents": ["slow"]}  # the time is the body's alone, not the work's
        assert remote.post("/rerank", slow).status_code == 200


def test_what_asyncio_has_to_say_about_a_lost_error_is_logged_without_the_error() -> None:
    from langchain_bge_medical.serving.telemetry import JSONFormatter

    message = f"Task exception was never retrieved\nfuture: <Task exception=RuntimeError('{CANARY}')>"
    record = logging.LogRecord("asyncio", logging.ERROR, "", 0, message, None, None)
    line = json.loads(JSONFormatter().format(record))
    assert line["message"] == "Task exception was never retrieved"


def test_while_draining_nobody_is_let_in_to_anything() -> None:
    with service() as remote:
        remote.app.state.service.draining = True
        for path, body in (
            ("/rerank", {"query": "咳", "documents": ["咳"]}),
            ("/ask", {"query": "咳", "rerank": False}),
        ):
            refused = remote.post(path, body)
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "service_draining")
        assert remote.http.get("/ready").json() == {"status": "draining"}
        assert remote.http.get("/health").status_code == 200
