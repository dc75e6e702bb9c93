"""The commands in this process, over a knowledge base of six: what people see, what is refused, what is missing."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from langchain_bge_medical import cli
from langchain_bge_medical.evaluation import index_speed
from langchain_bge_medical.training.finetune import TRAINED_QUERIES
from langchain_bge_medical.training.queries import query_digest
from tests.conftest import RECORDS
from tests.test_remote_cross_encoders import FakeServer, serving

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BGE_MEDICAL_API_KEYS", "BGE_MEDICAL_RERANKER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, typed: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=typed)

    return invoke


def refused(done: Result) -> str:
    assert isinstance(done.exception, cli.UserError), done.exception
    return str(done.exception)


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("kb") / "kb.jsonl"
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS), "utf-8")
    return file


def test_an_index_is_reported_as_json_and_in_words_and_a_problem_by_its_place(
    run: Run, kb: Path, tmp_path: Path
) -> None:
    index = tmp_path / "a[b]" / "kb[red]x"
    assert json.loads(run("index", "--kb", kb, "--index", index, "--json").stdout) == {
        "index": str(index), "records": 6
    }  # fmt: skip
    assert run("index", "--kb", kb, "--index", index, "--lang", "en").stdout == f"Indexed 6 diseases → {index}\n"
    bad = tmp_path / "bad.jsonl"
    bad.write_text(kb.read_text("utf-8") + '\n{"disease": "[x]"}', "utf-8")
    done = run("index", "--check", "--kb", bad)
    assert done.exit_code == 1
    assert "error: " in done.stdout
    assert "line 7" in done.stdout
    assert "6 records, 1 errors" in done.stdout


def test_what_the_chosen_embedding_model_cuts_is_listed_but_not_of_the_bundled_knowledge_base(
    run: Run, kb: Path, tmp_path: Path, tiny_embedding_model: Path
) -> None:
    long = tmp_path / "long.jsonl"
    record = {**RECORDS[0], "disease": "长文病", "description": "长" * 300}
    long.write_text(json.dumps(record, ensure_ascii=False), "utf-8")

    def cut(*arguments: object) -> list[str]:
        problems = json.loads(run("index", "--check", "--json", *arguments).stdout)["problems"]
        return [problem["disease"] for problem in problems if "does not read" in problem["message"]]

    assert cut("--kb", long) == ["长文病"]
    assert cut("--kb", kb) == []
    (tmp_path / "short.jsonl").write_text(
        json.dumps({**record, "description": "长" * 150}, ensure_ascii=False), "utf-8"
    )
    assert cut("--kb", tmp_path / "short.jsonl") == []
    assert cut("--kb", tmp_path / "short.jsonl", "--embeddings", tiny_embedding_model) == ["长文病"]
    assert cut("--kb", long, "--embeddings", "nobody/not-in-the-cache") == []
    assert cut() == []


def test_a_calibration_of_a_server_that_gives_no_logits_is_refused_before_anything_is_reranked(
    run: Run, kb: Path, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text('{"query": "发热", "relevant": ["感冒"]}', "utf-8")
    server = FakeServer(has_info=False)
    with serving(server) as url:
        arguments = ("--kb", kb, "--queries", tmp_path / "q.jsonl", "--out", tmp_path / "c.json", "--reranker", url)
        assert "a calibration is of logits, and this server gives scores only" in refused(run("calibrate", *arguments))
    assert not server.posts


def test_the_calibration_is_told_in_words_and_queries_that_the_model_was_tuned_on_are_refused(
    run: Run, kb: Path, tmp_path: Path, tiny_reranker_of_512: Path
) -> None:
    queries, out = tmp_path / "q.jsonl", tmp_path / "c.json"
    lines = [
        {"query": f"{record['symptoms']}{end}", "relevant": [record["disease"]]}
        for record in RECORDS
        for end in ("", "怎么办", "？", "两天了", "!", "。", "很久", "呢", "啊")
    ]
    queries.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    command = ("calibrate", "--kb", kb, "--queries", queries, "--out", out, "--reranker", tiny_reranker_of_512)
    done = run(*command, "--dtype", "float32")
    assert done.exit_code == 0, done.exception
    assert "(交叉验证,54 条提问)" in done.stdout
    assert "离题的被拒 未知(文件中没有离题的)" in done.stdout
    assert f"已保存到 {out}" in done.stdout
    (tiny_reranker_of_512 / TRAINED_QUERIES).write_text(query_digest(lines[3]["query"]), "utf-8")  # type: ignore[arg-type]
    try:
        said = refused(run(*command))
    finally:
        (tiny_reranker_of_512 / TRAINED_QUERIES).unlink()
    assert "was tuned on 1 of these queries (first: line 4)" in said


def test_red_flags_are_shown_before_what_was_ranked_and_once(run: Run, kb: Path) -> None:
    said = run("ask", "突然胸口压榨样疼,出冷汗,喘不上气", "--kb", kb).stdout
    assert 0 <= said.index("【紧急】") < said.index("━")
    assert said.count("【紧急】") == 1


def test_what_no_disease_fits_is_said_in_one_line_and_chat_ends_with_the_input(run: Run, kb: Path) -> None:
    assert "没有可靠匹配。" in run("ask", "今天天气怎么样", "--kb", kb).stdout
    assert "No reliable match." in run("ask", "what is the weather like", "--kb", kb, "--lang", "en").stdout
    done = run("chat", "--kb", kb, typed="/sources\n\n")
    assert (done.exit_code, "还没有依据。" in done.stdout) == (0, True)


def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(run: Run, tmp_path: Path) -> None:
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"query": "头痛", "relevant": ["偏头痛"]}', "utf-8")
    for page in (tmp_path, tmp_path / "none" / "page.html"):
        said = refused(run("evaluate", "--queries", queries, "--html", page, "--kb", "/no/such/file"))
        assert said == f"--html is a file in a folder that is there, got {page}"


def test_a_half_of_an_emoji_in_a_query_file_does_not_keep_the_page_from_being_written(
    run: Run, kb: Path, tmp_path: Path
) -> None:
    queries, page = tmp_path / "q.jsonl", tmp_path / "page.html"
    queries.write_text(json.dumps({"query": "头痛", "relevant": ["偏头痛"], "tags": ["short\ud83d"]}), "utf-8")
    done = run("evaluate", "--queries", queries, "--html", page, "--kb", kb)
    assert done.exit_code == 0, done.exception
    assert "<td>short&#55357;</td>" in page.read_text("utf-8")


def test_too_many_words_are_refused_and_a_conversation_goes_on_without_them(run: Run, kb: Path) -> None:
    said = refused(run("ask", "头痛" * 4_001, "--kb", kb))
    assert said == "the query has 8,002 characters; at most 8,000 are taken"
    lines = ["头痛" * 4_001, "头痛," * 2_600, "还发热" * 100, "怕光", "/sources"]
    done = run("chat", "--kb", kb, typed="\n".join(lines))
    assert done.exit_code == 0, done.exception
    answers = done.stdout.split("您> ")[1:]
    assert ["太长了" in answer for answer in answers] == [True, False, True, False, False, False]
    assert "偏头痛" in answers[-2]


def test_chat_tells_of_a_reranker_that_there_is_not_before_the_patient_types_anything(run: Run, kb: Path) -> None:
    done = run("chat", "--kb", kb, "--reranker", "/no/such/folder", typed="嗓子疼\n")
    assert "/no/such/folder" in str(done.exception)
    assert done.stdout == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # inside the databases' clients
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--store", "pinecone"), "--store is faiss, chroma, milvus"),
        (("--store", "chroma:ftp://host"), "--store is faiss, chroma, milvus"),
        (("--store", "faiss:http://host"), "--store is faiss, chroma, milvus"),
        (("--store", "milvus"), "--store milvus needs --index FOLDER"),
        (("--store", "chroma:http://127.0.0.1:9"), "--store: no chroma server can be reached at http://127.0.0.1:9"),
        (("--store", "milvus:http://127.0.0.1:9"), "--store: no milvus server can be reached at http://127.0.0.1:9"),
        (("--reranker", "http://"), "--reranker: "),
        (("--llm-base-url", "http://127.0.0.1:1/v1"), "--llm-base-url needs --llm PROVIDER:MODEL"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(run: Run, kb: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(run("ask", "头痛", "--kb", kb, *arguments))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BGE_MEDICAL_RERANKER_API_KEY", ("--reranker", "http://127.0.0.1:9")),
        ("OPENAI_API_KEY", ("--llm", "openai:m", "--llm-base-url", "http://127.0.0.1:9/v1")),
    ],
)
@pytest.mark.parametrize("key", ["密钥", "key\n"])
def test_a_key_that_no_request_can_carry_is_refused_by_its_name_and_not_shown(
    run: Run, kb: Path, name: str, arguments: tuple[str, ...], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, key)
    said = refused(run("ask", "头痛", "--kb", kb, *arguments))
    assert said == f"{name}: a key is letters, digits and signs of ASCII, without blanks or line breaks"


@pytest.mark.parametrize(
    ("missing", "arguments", "says"),
    [
        ("chromadb", ("--store", "chroma", "--index", "{}"), "pip install 'langchain-bge-medical[chroma]'"),
        ("pymilvus", ("--store", "milvus", "--index", "{}"), "pip install 'langchain-bge-medical[milvus]'"),
        ("langchain_openai", ("--llm", "openai:m"), "pip install 'langchain-bge-medical[llm]'"),
        ("langchain.chat_models", ("--llm", "groq:m"), "pip install langchain langchain-groq"),
    ],
)
def test_without_its_extra_an_option_says_what_to_install(
    run: Run,
    kb: Path,
    missing: str,
    arguments: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert says in refused(run("ask", "头痛", "--kb", kb, *(a.format(tmp_path / "index") for a in arguments)))


def test_bytes_of_another_encoding_in_the_query_are_read_as_replacement_characters(run: Run, kb: Path) -> None:
    done = run("ask", "头痛\udcff", "--kb", kb, "--json")
    assert json.loads(done.stdout)["query"] == "头痛\ufffd"


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "cp1252"])
def test_json_is_json_whatever_the_terminal_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stdout)
    cli._print_json({"query": "头痛 naïve 😀"})
    stdout.seek(0)
    assert json.load(stdout) == {"query": "头痛 naïve 😀"}


def chat_models(monkeypatch: pytest.MonkeyPatch, init_chat_model: Callable[..., Any]) -> None:
    """Have LangChain's chat models made by this."""
    monkeypatch.setitem(sys.modules, "langchain", SimpleNamespace())  # type: ignore[arg-type]
    module = SimpleNamespace(init_chat_model=init_chat_model)
    monkeypatch.setitem(sys.modules, "langchain.chat_models", module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("Unsupported provider='foo'"), "--llm foo:m: Unsupported provider='foo'"),
        (ImportError("Unable to import langchain_foo"), "pip install langchain langchain-foo"),
    ],
)
def test_a_provider_that_langchain_does_not_know_or_has_no_package_for_is_one_line(
    run: Run, error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init_chat_model(*_: Any, **__: Any) -> Any:
        raise error

    chat_models(monkeypatch, init_chat_model)
    assert says in refused(run("ask", "头痛", "--llm", "foo:m"))


@pytest.mark.parametrize("url", [None, "http://gpu:11434"])
def test_the_address_of_a_chat_model_reaches_every_provider(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    chat_models(monkeypatch, lambda name, **settings: (name, settings))
    asked: Any = cli._chat_model("ollama:qwen:7b", url)
    assert asked == ("qwen:7b", {"model_provider": "ollama"} | ({"base_url": url} if url else {}))


def test_without_the_extra_serve_the_service_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import langchain_bge_medical.serving as package
    from langchain_bge_medical.serving import server

    assert server
    monkeypatch.delattr(package, "server")
    monkeypatch.setitem(sys.modules, f"{package.__name__}.server", None)
    assert refused(run("serve")) == "serve needs: pip install 'langchain-bge-medical[serve]'"


def test_without_the_extra_otel_the_service_says_so_before_it_loads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(cli.UserError, match=r"--otel: tracing needs: pip install 'langchain-bge-medical\[otel\]'"):
        cli.build_service(cli.ServiceSettings(otel=True, reranker="/no/such/folder"))


def test_the_service_warns_of_what_is_open_or_logged_and_names_a_port_that_is_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--host", "0.0.0.0", "--port", port, "--log-text-sample", "0.5")
    assert f"cannot listen at 0.0.0.0, port {port}: " in refused(done)
    for said in ("open to the network without a key", "patients' words are written to the log", "LANGSMITH_TRACING is"):
        assert said in done.stderr
    assert "LANGSMITH_TRACING" not in os.environ
    monkeypatch.setenv("BGE_MEDICAL_API_KEYS", "key")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        done = run("serve", "--host", "0.0.0.0", "--port", taken.getsockname()[1])
    assert done.stderr == ""


def test_blanks_and_line_breaks_around_the_keys_of_the_service_are_no_part_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BGE_MEDICAL_API_KEYS", "alpha, beta\n, ,")
    assert cli._api_keys() == ["alpha", "beta"]


def test_the_index_benchmark_is_told_in_lines_and_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def measured(count: int, texts: list[str], embeddings: Any, folder: Path, **_: Any) -> dict[str, Any]:
        asked.append((count, len(texts)))
        assert not folder.exists()
        return {"vectors": count, "recall_at_50": 0.99}

    monkeypatch.setattr(index_speed, "run_index_benchmark", measured)  # it takes minutes, and has tests of its own
    assert run("benchmark", "--vectors", 1_000).stdout == "vectors: 1000\nrecall_at_50: 0.99\n"
    assert json.loads(run("benchmark", "--vectors", 2_000, "--json").stdout) == {"vectors": 2_000, "recall_at_50": 0.99}
    assert [count for count, _ in asked] == [1_000, 2_000]
    assert min(texts for _, texts in asked) > 1_000


def test_on_a_terminal_progress_is_shown_and_nothing_is_lost_or_put_in_another_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(cli, "err", Console(file=shown, force_terminal=True, width=100))
    assert list(cli._counted(iter(range(7)), "embedding")) == list(range(7))
    assert "embedding" in shown.getvalue()
    with cli._progress_of("reranking") as told:
        told(SimpleNamespace(done=1, total=4))  # type: ignore[arg-type]
        told(SimpleNamespace(done=4, total=4))  # type: ignore[arg-type]
    assert "reranking" in shown.getvalue()
    assert "100%" in shown.getvalue()
