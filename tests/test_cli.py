"""The command line as a user meets it: a process of its own, exact output, exit codes. Uses the bundled models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from typer.testing import CliRunner

from langchain_bge_medical.cli import _calibration, app
from langchain_bge_medical.confidence import Calibration, digest_of
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.model_files import bundled_calibration, bundled_knowledge_base, resolved_revision
from tests.conftest import RECORDS

MASTOID = "孩子发烧三天了,耳朵后面有点红肿,摸起来疼。"


def run(*arguments: str, typed: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **environment}
    settings.pop("OPENAI_API_KEY", None)
    command = [sys.executable, "-m", "langchain_bge_medical.cli", *arguments]
    return subprocess.run(command, input=typed, env=settings, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def small_kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("kb") / "kb.jsonl"
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS), "utf-8")
    return file


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    done = run("ask", MASTOID, "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)  # exactly one JSON document
    return report


def test_ask_json_has_what_the_design_promises(asked: dict[str, Any]) -> None:
    always = {"query", "model", "abstained", "triage", "results", "answer", "timings_ms"}
    clinical = {"findings", "patient", "abstention", "next_question"}
    assert set(asked) == always | clinical
    assert asked["model"] == {"reranker": "bundled", "embeddings": "bundled", "bundled": True}
    assert asked["abstained"] is False
    assert [result["rank"] for result in asked["results"]] == [1, 2, 3, 4, 5]
    for result in asked["results"]:
        promised = {"disease", "relevance_score", "confidence", "recall_rank", "department", "symptoms", "evidence"}
        assert promised <= set(result)
        assert 0 <= result["relevance_score"] <= 1
    assert set(asked["timings_ms"]) == {"recall", "rerank", "total"}
    assert all(milliseconds > 0 for milliseconds in asked["timings_ms"].values())


def test_ask_sends_a_feverish_child_with_a_swelling_behind_the_ear_to_an_ent_doctor(asked: dict[str, Any]) -> None:
    assert asked["triage"]["level"] in ("urgent", "emergency")
    assert "耳鼻喉科" in asked["triage"]["departments"]
    assert "耳鼻喉科" in asked["answer"].splitlines()[0]
    assert {"中耳炎", "急性乳突炎"} & {result["disease"] for result in asked["results"][:2]}


def test_ask_evidence_quotes_the_query_exactly(asked: dict[str, Any]) -> None:
    pieces = [piece for result in asked["results"] for piece in result["evidence"] if piece["field"] == "query"]
    assert pieces
    for piece in pieces:
        assert MASTOID[piece["start"] : piece["end"]] == piece["text"]


def test_ask_answers_end_with_the_notice_that_this_is_no_diagnosis(asked: dict[str, Any]) -> None:
    assert "不是诊断" in asked["answer"].splitlines()[-1]


def test_ask_for_people_shows_a_table_the_model_and_the_answer_in_either_language() -> None:
    done = run("ask", "I have a fever and I am coughing up phlegm", "--lang", "en", "--top-n", "2")
    assert done.returncode == 0, done.stderr
    for part in ("bundled model", "Recall rank", "Possibly related conditions", "is not a diagnosis"):
        assert part in done.stdout


def test_off_topic_questions_get_no_disease() -> None:
    report = json.loads(run("ask", "明天股市会涨吗?帮我写一首诗", "--json").stdout)
    assert report["abstained"] is True
    assert report["results"] == []
    assert "没有找到可靠匹配" in report["answer"]


def test_a_knowledge_base_of_ones_own_is_indexed_once_and_asked(small_kb: Path, tmp_path: Path) -> None:
    done = run("index", "--kb", str(small_kb), "--index", str(tmp_path / "index"))
    assert done.returncode == 0, done.stderr
    assert f"6 种疾病 → {tmp_path / 'index'}" in done.stdout
    report = json.loads(run("ask", "拉肚子 还吐", "--index", str(tmp_path / "index"), "--json").stdout)
    assert {result["disease"] for result in report["results"]} <= {record["disease"] for record in RECORDS}
    assert report["results"][0]["disease"] == "急性胃肠炎"


def test_evaluate_prints_every_stage_beside_another_reranker_and_what_the_knowledge_base_lacks(
    small_kb: Path, tmp_path: Path, tiny_reranker_of_512: Path
) -> None:
    queries = tmp_path / "queries.jsonl"
    lines = [
        {"query": "拉肚子 还吐", "relevant": ["急性胃肠炎"], "irrelevant": ["普通感冒"], "tags": ["short"]},
        {"query": "崴了脚", "relevant": ["踝关节扭伤"], "triage": "not_emergency"},
        {"query": "鼻子不通气", "relevant": ["鼻息肉"]},
        {"query": "股票", "relevant": []},
    ]
    queries.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    page, other = tmp_path / "report.html", str(tiny_reranker_of_512)
    done = run(
        *("evaluate", "--kb", str(small_kb), "--queries", str(queries), "--json"),
        *("--compare", other, "--html", str(page)),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    stages = ["bm25", "dense", "hybrid", "rerank", "blend", f"rerank {other}", f"blend {other}"]
    assert report["n"] == 3
    assert list(report["stages"]) == list(report["intervals"]) == stages
    metrics = {"hit@1", "hit@3", "hit@5", "mrr@10", "ndcg@10", "recall@50"}
    assert set(report["stages"]["rerank"]) == set(report["intervals"]["rerank"]) == metrics
    assert report["missing_from_kb"] == ["鼻息肉"]
    assert report["pairwise"]["n"] == 1
    assert report["abstention"]["n_off_topic"] == 1
    assert report["triage"]["n_other"] == 1
    assert report["tags"]["short"]["n"] == 1
    assert report["guard"]["first_stage"] == "hybrid"
    assert set(report["guard"]["stages"]) == set(stages[3:])
    assert report["guard"]["stages"]["rerank"]["verdict"] == "too few queries"
    assert report["calibration"] is None
    assert set(report["worse"]) == {"from", "stage", "queries"}
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_calibration_is_saved_beside_the_index_and_used_from_there(small_kb: Path, tmp_path: Path) -> None:
    # Like the queries that it is fitted on; of others it may be unsure, and say nothing.
    asked = "腹泻，呕吐，腹痛，发热怎么办"
    index, queries = tmp_path / "index", tmp_path / "queries.jsonl"
    lines = [
        {"query": f"{record['symptoms'].replace('、', joint)}{end}", "relevant": [record["disease"]]}
        for record in RECORDS
        for joint in "，。 "
        for end in ("", "怎么办", "？")
    ]
    off_topic = [{"query": text, "relevant": []} for text in ("股票", "天气怎么样", "你好")]
    queries.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in [*lines, *off_topic]), "utf-8")
    done = run("calibrate", "--kb", str(small_kb), "--index", str(index), "--queries", str(queries), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["path"] == str(index / "calibration.json")
    assert (figures["queries"], figures["off_topic"]) == (54, 3)
    assert figures["refused_real"] <= 0.05
    report = json.loads(run("ask", asked, "--index", str(index), "--json").stdout)
    assert [result["confidence_calibrated"] for result in report["results"]] == [True] * len(report["results"])
    assert report["results"][0]["confidence"] > max(result["confidence"] for result in report["results"][1:])


def test_the_bundled_calibration_is_of_the_bundled_reranker_and_is_used_for_the_bundled_knowledge_base_alone(
    tiny_reranker: Path,
) -> None:
    documents = MedicalKBLoader(bundled_knowledge_base()).load()
    assert _calibration(None, "bundled", documents) == Calibration.load(bundled_calibration())
    assert _calibration(None, "bundled", documents[1:]) is None
    assert _calibration(None, str(tiny_reranker), documents) is None


def test_a_calibration_of_another_model_or_knowledge_base_is_not_used_and_one_line_says_why(
    tiny_reranker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [Document(page_content=text) for text in "abc"]
    fitted = {"reranker": resolved_revision(tiny_reranker), "knowledge_base": digest_of(documents)}
    file = tmp_path / "calibration.json"
    calibration = Calibration.load(bundled_calibration()).model_copy(update=fitted)
    calibration.save(file)
    assert _calibration(tmp_path, str(tiny_reranker), documents) == calibration
    assert capsys.readouterr().err == ""
    assert _calibration(tmp_path, str(tiny_reranker), documents[1:]) is None
    why = "the knowledge base has changed since it was fitted"
    assert capsys.readouterr().err == f"warning: {file} is not used: {why}; run calibrate again\n"
    assert _calibration(tmp_path, "bundled", documents) is None
    assert "it was fitted for the reranker" in capsys.readouterr().err


def test_index_check_lists_every_problem_and_fails_only_on_errors(tmp_path: Path) -> None:
    kb = tmp_path / "kb.jsonl"
    kb.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in [*RECORDS, {"disease": "x"}]), "utf-8")
    done = run("index", "--check", "--kb", str(kb), "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["records"], report["errors"]) == (6, 1)
    assert any(p["place"].endswith("line 7") and p["level"] == "error" for p in report["problems"])
    assert "Traceback" not in done.stderr


def test_finetune_prints_one_json_document_and_writes_a_model_that_evaluate_takes(tmp_path: Path) -> None:
    records = json.loads(bundled_knowledge_base().read_text("utf-8"))[:20]
    kb, tuned, queries = tmp_path / "kb.json", tmp_path / "tuned", tmp_path / "q.jsonl"
    kb.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    queries.write_text(
        json.dumps({"query": "鼻子堵", "relevant": [records[0]["disease"]]}, ensure_ascii=False), "utf-8"
    )
    few = ("--max-steps", "1", "--batch-size", "4", "--eval-queries", "2", "--max-length", "64")
    done = run("finetune", "--kb", str(kb), "--out", str(tuned), *few, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"]["over_recall"] == "too few queries"
    assert report["base"] == "bundled"
    done = run("evaluate", "--kb", str(kb), "--queries", str(queries), "--reranker", str(tuned), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["reranker"] == str(tuned)


def test_chat_adds_what_is_said_next_to_the_picture() -> None:
    done = run("chat", typed="嗓子疼\n/sources\n还发高烧,扁桃体上有白点\n/new\n/quit\n")
    assert done.returncode == 0, done.stderr
    assert "急性扁桃体炎" in done.stdout
    assert "补充的话会与前面的合并" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ask", "头痛", "--kb", "/no/such/file"), "no knowledge base at '/no/such/file'"),
        (("ask", "头痛", "--reranker", "BAAI/bge-reranker-v2-m3"), "BAAI/bge-reranker-v2-m3"),
        (("ask", "头痛", "--embeddings", "./nowhere"), "./nowhere"),
        (("ask", "头痛", "--dtype", "float8"), "--dtype"),
        (("ask", "头痛", "--llm", "openai"), "PROVIDER:MODEL"),
        (("ask", "头痛", "--llm", "openai:gpt-4o-mini"), "OPENAI_API_KEY"),
        (("ask", "  "), "the query is blank"),
        (("evaluate", "--queries", "/no/such/file"), "/no/such/file"),
        (("evaluate", "--queries", "/"), "Is a directory: '/'"),
        (("ask", "头痛", "--index", "/dev/null"), "Not a directory: '/dev/null'"),
        (("ask", "头痛", "--top-n", "0"), "--top-n"),
        (("index",), "--index FOLDER"),
        (("calibrate", "--queries", "/no/such/file"), "--out FILE"),
        (("calibrate", "--queries", "/dev/null", "--out", "/no/such/folder/c.json"), "--out is a file in a folder"),
        (("evaluate", "--queries", "/dev/null", "--html", "/no/such/folder/r.html"), "holds no query"),
        (("finetune", "--out", "/tmp/x", "--loss", "mse"), "teacher"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("serve", "--port", "0"), ("rerank", "--input", "in", "--out", "out")])
def test_a_precision_that_there_is_not_is_refused_before_anything_is_loaded(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*arguments, "--dtype", "float8"])
    assert done.exit_code == 2
    assert "--dtype" in done.stderr


def test_what_a_terminal_cannot_show_is_escaped(small_kb: Path) -> None:
    done = run("ask", "fever and cough", "--kb", str(small_kb), "--lang", "en", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "\\u80ba\\u708e" in done.stdout  # 肺炎


def test_an_index_of_another_model_is_refused_by_name(small_kb: Path, tmp_path: Path) -> None:
    run("index", "--kb", str(small_kb), "--index", str(tmp_path))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model_name": "bundled"', '"model_name": "other/model"'))
    done = run("ask", "头痛", "--index", str(tmp_path))
    assert done.returncode == 2
    assert "other/model" in done.stderr
