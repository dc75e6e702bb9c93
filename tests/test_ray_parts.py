"""What the Ray modules do on either side of Ray, without a cluster: files, parts, settings, health, the commands."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from typer.testing import CliRunner

from langchain_bge_medical import cli
from langchain_bge_medical.distributed import ray_data
from langchain_bge_medical.distributed.ray_data import (
    EmbeddedDocuments,
    JobFailedError,
    JobMismatchError,
    Progress,
    SourceError,
    embed_documents,
    rerank_file,
)
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.model_files import ModelNotFoundError
from langchain_bge_medical.serving.scheduler import NotReady, Overloaded
from langchain_bge_medical.vectorstores import identity
from tests.conftest import RECORDS, HashEmbeddings, record_documents
from tests.serving_kit import SharedCharacters, running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray Serve's own, at its import
    from langchain_bge_medical.distributed import ray_serve
    from langchain_bge_medical.distributed.ray_serve import DeploymentError, Replicas, Reranker

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ROWS: list[dict[str, Any]] = [
    {"id": i, "query": f"发热{i}\u2028咳嗽", "documents": [d.page_content for d in record_documents()[i % 3 :]]}
    for i in range(11)
]


def in_order(parts: Sequence[int], worker: type, *, actors: int, cpus: int, gpus: float) -> Iterator[int]:
    """In Ray's place: one worker in this process, which gets what Ray would give it."""
    one = worker()
    for part in parts:
        done = one({"part": np.array([part])})
        if done["problem"][0]:
            raise JobFailedError(done["problem"][0])
        yield done["rows"][0]


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(ray_data, "_mapped", in_order)
    yield
    torch.set_num_threads(threads)


def compressor() -> BGERerankerCompressor:
    return BGERerankerCompressor(cross_encoder=SharedCharacters(), top_n=3)


def written(folder: Path, name: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    file = folder / name
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=4)
        return file
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n \n"
    file.write_bytes(gzip.compress(lines.encode()) if file.suffix == ".gz" else lines.encode())
    return file


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_reading_from_the_place_of_any_row_gives_that_row_and_those_behind_it(name: str, tmp_path: Path) -> None:
    source = written(tmp_path, name)
    places = list(ray_data._placed(source))
    assert [row for _, row in places] == ROWS == list(ray_data._rows(source))
    for number, (start, _) in enumerate(places):
        assert list(ray_data._placed(source, start)) == places[number:]
        assert list(ray_data._rows_of(source, start, 3)) == ROWS[number : number + 3]


@pytest.mark.parametrize("line", ['{"query": CANARY', '["CANARY"]', "\ufffd"])
def test_a_line_that_is_no_object_is_named_by_its_place_and_not_quoted(line: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"query": "a", "documents": []}\n' + line + "\n", "utf-8")
    with pytest.raises(SourceError, match="starts at byte 32 is no JSON object") as raised:
        rerank_file(file, tmp_path / "out", compressor)
    assert "CANARY" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rows.jsonl", "is no JSON object in a line"),
        ("rows.jsonl.gz", "is no gzip file, or a damaged one"),
        ("rows.parquet", "is no Parquet file, or a damaged one"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_and_its_folder_takes_the_repaired_one(
    name: str, says: str, tmp_path: Path, without_ray: None
) -> None:
    source, folder = written(tmp_path, name), tmp_path / "out"
    whole = source.read_bytes()
    for bad in (b"CANARY", whole[:-9], whole[:40] + b"\0CANARY" + whole[47:]):
        source.write_bytes(bad)
        with pytest.raises(SourceError, match=says) as raised:
            rerank_file(source, folder, compressor)
        assert "CANARY" not in str(raised.value)
        assert str(source) in str(raised.value)
    source.write_bytes(whole)
    assert len(rerank_file(source, folder, compressor).read_bytes().splitlines()) == len(ROWS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_a_job_does_only_the_parts_that_are_missing_and_gives_what_the_compressor_gives(
    name: str, tmp_path: Path, without_ray: None
) -> None:
    source, folder, told = written(tmp_path, name), tmp_path / "out", list[Progress]()
    result = rerank_file(source, folder, compressor, rows_per_part=4, settings="one")
    here = compressor()
    expected = [
        {"query": row["query"], "id": row["id"], "results": here.rerank(row["query"], row["documents"])} for row in ROWS
    ]
    assert [json.loads(line) for line in result.read_bytes().splitlines()] == expected
    whole = result.read_bytes()
    (folder / "part-00000001.jsonl").unlink()
    assert rerank_file(source, folder, compressor, rows_per_part=4, settings="one", on_progress=told.append) == result
    assert (told, result.read_bytes()) == ([Progress(done=3, total=3, rows=4, resumed=2)], whole)
    for settings, rows in (("two", 4), ("one", 5)):
        with pytest.raises(JobMismatchError, match="begun with another file or other settings"):
            rerank_file(source, folder, compressor, rows_per_part=rows, settings=settings)
    assert result.read_bytes() == whole


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"documents": ["CANARY"]}, "row 6: needs a query that is not blank"),
        ({"query": " \n", "documents": ["CANARY"]}, "row 6: needs a query that is not blank"),
        ({"query": "CANARY"}, "row 6: needs a query that is not blank and documents, a list of texts"),
        ({"query": "CANARY", "documents": "CANARY"}, "row 6: needs a query that is not blank and documents, a list"),
        ({"query": "CANARY", "documents": ["头痛", 7]}, "row 6: documents must be texts"),
    ],
)
def test_a_row_that_cannot_be_reranked_is_named_by_its_number_before_anything_is_begun(
    row: dict[str, Any], says: str, tmp_path: Path, without_ray: None
) -> None:
    source = written(tmp_path, "rows.jsonl", [*ROWS[:5], row])
    with pytest.raises(SourceError, match=says) as raised:
        rerank_file(source, tmp_path / "out", compressor, rows_per_part=2)
    assert str(raised.value).startswith(f"{source}: row 6: ")
    assert "CANARY" not in str(raised.value)
    written(tmp_path, "rows.jsonl", ROWS[:5])
    result = rerank_file(source, tmp_path / "out", compressor, rows_per_part=2)
    assert len(result.read_bytes().splitlines()) == 5


def test_a_model_that_cannot_be_had_is_told_in_the_words_of_who_looked_for_it(
    tmp_path: Path, without_ray: None
) -> None:
    def nowhere() -> BGERerankerCompressor:
        return BGERerankerCompressor(model_name=str(tmp_path / "nowhere"))

    with pytest.raises(ModelNotFoundError) as expected:
        nowhere().warmup()
    with pytest.raises(JobFailedError) as raised:
        rerank_file(written(tmp_path, "rows.jsonl", ROWS), tmp_path / "out", nowhere)
    assert str(raised.value) == str(expected.value)


def test_what_fails_in_the_model_is_named_by_its_kind_and_says_nothing_of_the_text(tmp_path: Path) -> None:
    def fail(part: int) -> int:
        raise RuntimeError(f"cannot read CANARY in {part}")

    done = ray_data._done({"part": np.array([3, 4])}, fail)
    assert done == {"rows": [0, 0], "problem": ["part 3: RuntimeError", "part 4: RuntimeError"]}


def test_other_columns_are_kept_and_what_json_does_not_know_is_written_as_text(
    tmp_path: Path, without_ray: None
) -> None:
    import pyarrow
    import pyarrow.parquet

    day = datetime.datetime(2026, 11, 27, 8, 30)
    source = tmp_path / "rows.parquet"
    row = {"query": "头痛", "documents": ["偏头痛"], "at": day, "raw": b"x"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), source)
    [found] = rerank_file(source, tmp_path / "out", compressor).read_text("utf-8").splitlines()
    assert {**json.loads(found), "results": None} == {
        "query": "头痛", "at": "2026-11-27T08:30:00", "raw": "b'x'", "results": None
    }  # fmt: skip


def test_halves_of_emoji_are_replaced_wherever_they_stand_in_a_row(tmp_path: Path, without_ray: None) -> None:
    source = tmp_path / "rows.jsonl"
    kept = {"note\ud83d": ["\ud83d", "\ud83d\ude00"]}
    row: dict[str, Any] = {"query": "头痛\ud83d", "documents": ["偏头痛\ude00"], **kept}
    source.write_text(json.dumps(row), "utf-8")
    [found] = rerank_file(source, tmp_path / "out", compressor).read_text("utf-8").splitlines()
    expected = compressor().rerank(row["query"], row["documents"])
    assert json.loads(found) == {"query": "头痛\ufffd", "note\ufffd": ["\ufffd", "\U0001f600"], "results": expected}


def test_embedded_documents_have_their_vectors_from_the_job_and_others_from_the_model(
    tmp_path: Path, without_ray: None
) -> None:
    documents = record_documents()
    texts = [document.page_content for document in documents]
    told: list[Progress] = []
    made = embed_documents(documents, tmp_path, HashEmbeddings, documents_per_part=4, on_progress=told.append)
    assert [(progress.done, progress.rows) for progress in told] == [(1, 4), (2, 6)]
    again = embed_documents(documents, tmp_path, HashEmbeddings, documents_per_part=4, on_progress=told.append)
    assert len(told) == 2  # nothing was left to do
    for embeddings in (made, again):
        asked = [texts[5], "没有见过", texts[0], "没有见过"]
        assert np.allclose(embeddings.embed_documents(asked), HashEmbeddings().embed_documents(asked), atol=1e-6)
        assert embeddings._model.embedded == ["没有见过"]
        assert embeddings.embed_query("头痛") == HashEmbeddings().embed_query("头痛")
        assert embeddings.model_name == "hash"
    sized = embed_documents(documents, tmp_path / "sized", lambda: DeterministicFakeEmbedding(size=8))
    assert identity(sized)["dimensions"] == "8"
    with pytest.raises(ValueError, match="there are no documents to embed"):
        embed_documents([], tmp_path / "none", HashEmbeddings)
    with pytest.raises(JobMismatchError):
        embed_documents([*documents, Document(page_content="新的")], tmp_path, HashEmbeddings, documents_per_part=4)
    assert isinstance(made, EmbeddedDocuments)


def test_without_parts_ray_is_not_asked() -> None:
    assert list(ray_data._mapped([], object, actors=1, cpus=1, gpus=0)) == []
    assert not ray.is_initialized()


@pytest.mark.parametrize("wrong", [(0, 1), (3, 2), (1, 1, 0), (1, 1, 1, -0.5)])
def test_replicas_that_cannot_be_are_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least 1, got|needs a CPU at least"):
        Replicas(*wrong)


class Engine:
    """As much of the engine as a replica asks; does as it is told."""

    def __init__(self) -> None:
        self.started = False
        self.answer: Any = []
        self.is_ready = True
        self.asked: list[Any] = []

    def start(self) -> None:
        self.started = True

    def ready(self) -> bool:
        return self.is_ready

    def submit(self, pairs: list[tuple[str, str]]) -> Future[Any]:
        self.asked.append(pairs)
        future: Future[Any] = Future()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            future.set_result(self.answer)
        return future


@pytest.fixture
def replica() -> Iterator[tuple[Reranker, Engine, SimpleNamespace]]:
    threads = torch.get_num_threads()
    engine = Engine()
    service = SimpleNamespace(engine=engine, draining=False)
    yield Reranker(lambda: SimpleNamespace(state=SimpleNamespace(service=service)), ("a", "b"), 1), engine, service  # type: ignore[arg-type, return-value]
    torch.set_num_threads(threads)


def health(reranker: Reranker) -> str:
    try:
        asyncio.run(reranker.check_health())
    except RuntimeError as error:
        return str(error)
    return "sound"


def test_a_replica_is_sound_if_it_scores_the_probe_or_is_merely_busy_or_on_its_way_out(
    replica: tuple[Reranker, Engine, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker, engine, service = replica
    assert engine.started
    assert reranker.__serve_build_asgi_app__().state.service is service
    assert health(reranker) == "sound"
    assert engine.asked == [[("a", "b")]]
    engine.answer = Overloaded(1.0)
    assert health(reranker) == "sound"
    engine.is_ready = False
    assert health(reranker) == "the queue does not move"
    engine.answer = NotReady("broken")
    assert health(reranker) == "the engine is broken"
    engine.answer = NotReady("closed")
    assert health(reranker) == "the engine is closed"
    service.draining = True
    assert health(reranker) == "sound"
    monkeypatch.setattr(ray_serve, "_PROBE_TIMEOUT_S", 0.01)
    engine.answer = None  # never comes
    assert health(reranker) == "the queue does not move"
    engine.is_ready = True
    assert health(reranker) == "sound"


def test_the_application_scales_only_between_different_bounds_and_options_go_before_what_is_chosen_here() -> None:
    def deployed(*replicas: Any, **options: Any) -> Any:
        bound = ray_serve.application(lambda: None, ("a", "b"), *replicas, **options)  # type: ignore[arg-type, return-value]
        return bound._bound_deployment

    assert deployed()._deployment_config.num_replicas == 1
    assert deployed()._deployment_config.autoscaling_config is None
    scaled = deployed(Replicas(2, 5, 3, 0.5), health_check_period_s=2)
    scale = scaled._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas) == (2, 5)
    assert (scaled.ray_actor_options["num_cpus"], scaled.ray_actor_options["num_gpus"]) == (3, 0.5)
    assert scaled._deployment_config.health_check_period_s == 2


def test_the_application_for_yaml_takes_the_settings_by_name_and_refuses_others() -> None:
    assert cli.ray_application({"fetch_k": 20, "replicas": {"least": 1, "most": 4}}) is not None
    with pytest.raises(ValueError, match="rerankr"):
        cli.ray_application({"rerankr": "bundled"})
    with pytest.raises(ValueError, match="the least and the most"):
        cli.ray_application({"replicas": {"least": 3, "most": 2}})


def test_a_replica_sends_no_patients_words_to_langsmith_whatever_its_environment_says(
    tmp_path: Path, tiny_reranker_of_512: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from langchain_core.tracers.langchain import wait_for_all_tracers
    from langsmith.utils import get_env_var

    kb, received = tmp_path / "kb.jsonl", list[bytes]()
    kb.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS), "utf-8")

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"] or 0)))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(ray_serve, "application", lambda build, probe, replicas: build)
        build: Any = cli.ray_application({"kb": str(kb), "reranker": str(tiny_reranker_of_512)})
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        get_env_var.cache_clear()
        try:
            with running(build()) as url:
                assert httpx.post(f"{url}/ask", json={"query": "发热,咳嗽"}, timeout=30).status_code == 200
            wait_for_all_tracers()
        finally:
            collector.shutdown()
            get_env_var.cache_clear()
    assert received == []
    assert "LANGSMITH_TRACING is ignored" in capsys.readouterr().err


class Serve:
    """In Ray Serve's place: notes where it was started, and fails as a replica would that finds no model."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message
        self.started: dict[str, Any] = {}
        self.ended = False
        self.when_it_runs: Callable[[], None] = lambda: None

    def start(self, **options: Any) -> None:
        self.started = options

    def run(self, app: Any, **options: Any) -> None:
        self.started |= options
        if self.message is not None:
            raise RuntimeError("Deploying application failed")
        self.when_it_runs()

    def status(self) -> Any:
        deployments = {"Reranker": SimpleNamespace(message=self.message)}
        return SimpleNamespace(applications={ray_serve.APP_NAME: SimpleNamespace(deployments=deployments)})

    def shutdown(self) -> None:
        self.ended = True


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            "Traceback:\n  File x, line 3\nlangchain_bge_medical.model_files.ModelNotFoundError: no model 'x': look\n",
            "ModelNotFoundError: no model 'x': look",
        ),
        ("The deployment wants more than there is.", "The deployment wants more than there is."),
    ],
)
def test_a_deployment_that_fails_says_what_the_last_replica_said(
    message: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_serve, "serve", Serve(message))
    monkeypatch.setattr(ray_serve, "connect", lambda address: None)
    with pytest.raises(DeploymentError) as raised:
        ray_serve.run(object(), host="127.0.0.1", port=1)  # type: ignore[arg-type]
    assert str(raised.value) == says


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Ray Serve that starts nothing; SIGTERM is handled as before, afterwards."""
    service, handler = Serve(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray_serve, "serve", service)
    monkeypatch.setattr(ray_serve, "connect", lambda address: None)
    monkeypatch.setattr(ray_serve, "application", lambda build, probe, replicas: replicas)
    yield service
    signal.signal(signal.SIGTERM, handler)


def test_serve_on_ray_runs_until_sigterm_and_ends_the_cluster_that_it_started(served: Serve) -> None:
    served.when_it_runs = lambda: os.kill(os.getpid(), signal.SIGTERM)
    done = CliRunner().invoke(cli.app, ["serve", "--ray", "--replicas", "1-4", "--port", "8123", "--host", "::1"])
    assert done.exit_code == 0
    assert "http://[::1]:8123/ (1-4 replicas on Ray)" in done.stderr
    assert served.started["http_options"] == {"host": "::1", "port": 8123}
    assert served.ended


def test_serve_on_a_cluster_that_was_there_leaves_the_service_there(served: Serve) -> None:
    done = CliRunner().invoke(cli.app, ["serve", "--address", "auto", "--replicas", "2"])
    assert (done.exit_code, served.ended) == (0, False)
    assert "http://127.0.0.1:8000/ (2-2 replicas on Ray)" in done.stderr


def no_cluster(address: str | None) -> None:
    raise ConnectionError("there is no cluster")


def test_mistakes_about_ray_are_named(served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        error = CliRunner().invoke(cli.app, arguments).exception
        assert isinstance(error, cli.UserError), error
        return str(error)

    for wrong in ("4-1", "many", "0"):
        assert "--replicas is a number, or the least and the most" in refused("serve", "--ray", "--replicas", wrong)
    served.message = "ValueError: no GPU"
    assert refused("serve", "--ray") == "ValueError: no GPU"
    bad = tmp_path / "rows.jsonl.gz"
    bad.write_bytes(b"no gzip")
    assert f"{bad}: is no gzip file" in refused("rerank", "--input", str(bad), "--out", str(tmp_path / "out"))
    source = str(written(tmp_path, "rows.jsonl"))
    monkeypatch.setattr(ray_serve, "connect", no_cluster)  # a file that is not there is told before Ray is started
    assert "there is no such file" in refused("rerank", "--input", source + "l", "--out", str(tmp_path / "out"))
    for command in (("serve",), ("rerank", "--input", source, "--out", str(tmp_path / "out"))):
        assert refused(*command, "--address", "10.0.0.1:1") == "--address 10.0.0.1:1: there is no cluster"


def test_the_rerank_command_writes_what_the_compressor_gives_and_refuses_a_folder_of_another_model(
    served: Serve, without_ray: None, tmp_path: Path, tiny_reranker_of_512: Path
) -> None:
    source, folder = written(tmp_path, "rows.jsonl"), tmp_path / "out[x]"
    command = ["rerank", "--input", str(source), "--out", str(folder), "--dtype", "float32", "--top-n", "2"]
    done = CliRunner().invoke(cli.app, [*command, "--reranker", str(tiny_reranker_of_512), "--json"])
    assert json.loads(done.stdout) == {"path": str(folder / "results.jsonl")}
    done = CliRunner().invoke(cli.app, [*command, "--reranker", str(tiny_reranker_of_512)])
    assert done.stdout == f"{folder / 'results.jsonl'}\n"
    here = BGERerankerCompressor(model_name=str(tiny_reranker_of_512), dtype="float32", top_n=2)
    for row, line in zip(ROWS, (folder / "results.jsonl").read_bytes().splitlines(), strict=True):
        results = json.loads(line)["results"]
        expected = here.rerank(row["query"], row["documents"])
        assert [result["index"] for result in results] == [result["index"] for result in expected]
    error = CliRunner().invoke(cli.app, command).exception
    assert isinstance(error, cli.UserError)
    assert "other settings" in str(error)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("serve", "--ray"), "serve --ray needs: pip install 'langchain-bge-medical[ray]'"),
        (("rerank", "--input", __file__, "--out", "y"), "this needs: pip install 'langchain-bge-medical[ray]'"),
    ],
)
def test_without_ray_the_command_says_what_to_install(
    command: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import langchain_bge_medical.distributed as package

    for name in ("ray_data", "ray_serve"):
        monkeypatch.delattr(package, name)
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}")
    monkeypatch.setitem(sys.modules, "ray", None)
    error = CliRunner().invoke(cli.app, command).exception
    assert isinstance(error, cli.UserError)
    assert str(error) == says
