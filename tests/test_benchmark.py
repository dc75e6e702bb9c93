from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from typer.testing import CliRunner

from langchain_bge_medical import cli
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.evaluation import contenders
from langchain_bge_medical.evaluation.benchmark import (
    QUERY,
    WorkerFailed,
    _Worker,
    make_pairs,
    make_shape,
    plot,
    run_benchmark,
    spearman,
)
from langchain_bge_medical.evaluation.contenders import OURS, PEERS, Contender
from langchain_bge_medical.model_files import BUNDLED, model_folder
from tests.conftest import RECORDS
from tests.fake_contenders import broken, converted, killed, made_before, slow

TEXTS = [f"{record['disease']},{record['symptoms']}。{record['description']}" for record in RECORDS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shape("tiny", tmp_path_factory.mktemp("shapes"), [*TEXTS, QUERY])


def test_pairs_are_of_many_lengths_and_the_same_every_time() -> None:
    pairs = make_pairs(TEXTS, 50, shortest=40, longest=300)
    lengths = [len(document) for _, document in pairs]
    assert len(pairs) == 50
    assert 30 <= min(lengths) <= 42
    assert 290 <= max(lengths) <= 300
    assert len(set(lengths)) > 30
    assert lengths != sorted(lengths)
    assert {query for query, _ in pairs} == {QUERY}
    assert pairs == make_pairs(TEXTS, 50, shortest=40, longest=300)
    assert len(make_pairs(TEXTS, 7)) == 7


def test_a_shape_is_a_model_that_scores_and_is_made_once(tiny: Path) -> None:
    pairs = make_pairs(TEXTS, 6)
    logits = BGECrossEncoder(str(tiny), dtype="float32").logits(pairs)
    assert len(set(logits)) == 6
    assert BGECrossEncoder(str(tiny)).token_counts([(QUERY, "头痛")]) == [len(QUERY) + 2 + 4]
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    assert make_shape("tiny", tiny.parent, TEXTS) == tiny
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="there is no shape 'huge'; there are bge-reranker-v2-m3"):
        make_shape("huge", tiny.parent, TEXTS)


def test_contenders_are_timed_in_turns_with_their_best_setting_and_failures_are_named(
    tiny: Path, tmp_path: Path
) -> None:
    pairs = make_pairs(TEXTS, 12)
    peers = [
        Contender("sleeper", slow, (0.4, 0.1, 0.2)),
        Contender("breaker", broken),
        Contender("absent", slow, needs=("a_module_that_nobody_has",)),
        Contender("converter", converted, prepare=made_before),
    ]
    ours = [Contender("ours", slow, (0.05,))]
    report = run_benchmark(tiny, pairs, rounds=3, ours=ours, peers=peers, made=tmp_path)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["ours", "sleeper", "converter"]
    assert report["skipped"] == {
        "breaker": "OSError: its licence has run out",
        "absent": "a_module_that_nobody_has not installed",
    }
    sleeper, first = rows["sleeper"], rows["ours"]
    assert sleeper["setting"] == 0.1
    assert 0.1 <= sleeper["fastest"] <= sleeper["seconds"] <= sleeper["slowest"] < 0.4
    assert (sleeper["rounds"], first["rounds"]) == (3, 6)
    assert sleeper["pairs_per_s"] == pytest.approx(12 / sleeper["seconds"], rel=0.01)
    assert 1 < sleeper["times_as_long"] < 4
    assert first["times_as_long"] == first["spearman"] == sleeper["spearman"] == 1.0
    assert report["tokens"] == sum(BGECrossEncoder(str(tiny)).token_counts(pairs))
    assert first["matrix_share"] > sleeper["matrix_share"] > 0
    assert first["peak_mib"] > 10
    assert report["matrix_gflops"]["float32"] > 1
    with pytest.raises(WorkerFailed, match="nothing ran beside ours"):
        run_benchmark(tiny, pairs, ours=ours, peers=[Contender("breaker", broken)], made=tmp_path)


def test_spearman_is_that_of_ranks_with_ties_shared() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    # By hand: ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman([1, 1], [1, 2]) == 1.0


def test_every_peer_says_what_it_needs_or_needs_nothing_beyond_our_own_dependencies() -> None:
    names = [contender.name for contender in (*OURS, *PEERS)]
    assert len(set(names)) == len(names)
    for contender in PEERS:
        assert contender.needs or contender.name.startswith("CrossEncoder.predict")


def reference(model: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """The oracle: sentence-transformers in float32, one pair at a time."""
    encoder = CrossEncoder(
        str(model), device="cpu", max_length=contenders.max_length(model), activation_fn=torch.nn.Identity(),
        model_kwargs={"dtype": torch.float32},
    )  # fmt: skip
    return [float(encoder.predict([pair])[0]) for pair in pairs]


# What computes in float32; the others round.
EXACT = (
    "ours, float32",
    ("CrossEncoder.predict, as it comes", ("float32", 32)),
    ("CrossEncoder.predict, best", ("float32", 32)),
    "FlagReranker, best",
    "ONNX Runtime fp32, best",
)


@pytest.mark.filterwarnings("default")  # what other libraries warn of is theirs
@pytest.mark.parametrize("contender", [*OURS, *PEERS], ids=lambda contender: contender.name)
def test_every_contender_that_is_installed_scores_the_same_pairs_as_one_pair_at_a_time_in_float32(
    contender: Contender, tmp_path: Path
) -> None:
    if contender.missing:
        pytest.skip(f"{', '.join(contender.missing)} not installed; make benchmark installs it")
    model, pairs = model_folder(BUNDLED, kind="reranker"), make_pairs(TEXTS, 12)
    if contender.prepare is not None:
        contender.prepare(model, tmp_path, pairs)
        made = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
        contender.prepare(model, tmp_path, pairs)
        assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == made
    expected = reference(model, pairs)
    for setting in dict.fromkeys((contender.settings[0], contender.settings[-1])):
        logits = contender.load(model, tmp_path, setting)(pairs)
        if (contender.name, setting) in EXACT or contender.name in EXACT:
            assert logits == pytest.approx(expected, abs=1e-3)
        assert spearman(logits, expected) > 0.9
    contenders._cross_encoder.cache_clear()  # torchao changes what is in it


@pytest.mark.parametrize("named", ["tiny", BUNDLED])
def test_what_is_converted_for_other_runtimes_is_the_model_in_batches_sorted_by_length(named: str, tiny: Path) -> None:
    model = tiny if named == "tiny" else model_folder(named, kind="reranker")
    pairs = make_pairs(TEXTS, 7)
    wrapped, example = contenders._traceable(model)
    assert len(example) == (2 if named == "tiny" else 3)  # the bundled one tells the two texts apart by their types
    widths = []

    def run(features: dict[str, Any]) -> Any:
        assert list(features) == list(example)
        widths.append(features["input_ids"].shape)
        with torch.inference_mode():
            return wrapped(*(torch.tensor(column) for column in features.values())).numpy()

    assert contenders._batched(model, 3, run)(pairs) == pytest.approx(reference(model, pairs), abs=1e-4)
    assert [rows for rows, _ in widths] == [3, 3, 1]
    assert sorted(widths, key=lambda shape: -shape[1]) == widths


def test_a_process_that_dies_is_a_failure_that_says_how_it_ended(tmp_path: Path) -> None:
    with (
        _Worker(Contender("killed", killed), tmp_path, tmp_path) as worker,
        pytest.raises(WorkerFailed, match="its process ended with -9"),
    ):
        worker.load(None, make_pairs(TEXTS, 2))


def some_report() -> dict[str, Any]:
    row = {
        "setting": None, "seconds": 0.25, "fastest": 0.2, "slowest": 0.4, "rounds": 5, "pairs_per_s": 48.0,
        "times_as_long": 1.0, "matrix_share": 0.61, "spearman": 1.0, "load_s": 1.0, "peak_mib": 321,
    }  # fmt: skip
    other = {**row, "name": "[other]", "setting": "bfloat16 8", "seconds": 1.5, "slowest": 2.0, "times_as_long": 6.0}
    return {
        "model": "tiny", "pairs": 12, "tokens": 3_456, "gflop": 7.5, "threads": 2, "processor": "A processor",
        "device": "cpu",
        "matrix_gflops": {"bfloat16": 900.0, "float32": 400.0}, "rows": [{**row, "name": "ours, auto"}, other],
        "skipped": {"absent": "a_module not installed"},
    }  # fmt: skip


def test_the_report_for_people_has_every_figure_and_why_others_were_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    cli._show_benchmark(some_report())
    printed = " ".join(capsys.readouterr().out.split())
    for shown in (
        "12 pairs, 3,456 tokens",
        "A processor",
        "900.0 GFLOP/s in bfloat16",
        "absent: a_module not installed",
    ):
        assert shown in printed
    cli._show_benchmark({**some_report(), "device": "A GPU"})
    assert "A GPU; the machine's own products" in " ".join(capsys.readouterr().out.split())


def test_a_benchmark_on_a_gpu_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "gpu"):
        failed = CliRunner().invoke(cli.app, ["benchmark", "--shape", "tiny", "--device", device])
        assert isinstance(failed.exception, cli.UserError)
        assert f"--device is cpu, or cuda where torch sees a GPU, got '{device}'" in str(failed.exception)


def test_on_a_gpu_the_same_are_timed_as_on_a_cpu_but_for_what_has_no_gpu_there() -> None:
    ours, peers = contenders.contenders_on("cuda")
    assert ours[0].name == OURS[0].name
    assert contenders.contenders_on("cpu") == (OURS, PEERS)
    assert {peer.name for peer in peers} & {peer.name for peer in PEERS} == {
        "CrossEncoder.predict, as it comes",
        "CrossEncoder.predict, best",
    }


def test_a_plot_has_a_bar_for_each_row_and_without_matplotlib_it_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot(some_report(), tmp_path / "times.svg")
    monkeypatch.undo()
    pytest.importorskip("matplotlib", reason="make benchmark installs it")
    plot(some_report(), tmp_path / "times.svg")
    drawn = (tmp_path / "times.svg").read_text("utf-8")
    assert drawn.count("#1a7f5a") == drawn.count("#9aa5b1") == 1


def test_the_command_prints_one_json_document(tmp_path: Path) -> None:
    command = ["benchmark", "--shape", "tiny", "--documents", "6", "--rounds", "1", "--only", "none"]
    done = CliRunner().invoke(cli.app, [*command, "--folder", str(tmp_path), "--json"])
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["rows"]] == ["ours, auto", "ours, int8", "ours, float32"]
    assert (report["model"], report["pairs"]) == ("tiny", 6)


@pytest.mark.long  # it is timed at its full length
def test_the_bundled_reranker_which_reads_fewer_tokens_than_others_is_timed_beside_them(tmp_path: Path) -> None:
    command = ["benchmark", "--documents", "2", "--rounds", "1", "--only", "as it comes", "--folder", str(tmp_path)]
    report = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).stdout)
    assert report["rows"][-1]["name"] == "CrossEncoder.predict, as it comes"
    assert report["rows"][-1]["spearman"] == 1.0


def test_a_mistake_is_named_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(options: list[str]) -> str:
        done = CliRunner().invoke(cli.app, ["benchmark", *options])
        assert isinstance(done.exception, cli.UserError)
        return str(done.exception)

    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))  # there, whether it is or not
    sys.modules["matplotlib"].__spec__ = ModuleSpec("matplotlib", None)
    for options, says in (
        (["--shape", "huge"], "--shape: there is no shape 'huge'"),
        (["--lengths", "9", "3"], "--lengths are the shortest and the longest"),
        (["--plot", "times.jpeg"], "--plot is a .png or .svg file in a folder that is there, got times.jpeg"),
        (["--plot", "/no/such/folder/times.png"], "--plot is a .png or .svg file in a folder that is there"),
    ):
        assert says in refused(options)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert refused(["--plot", "times.png"]) == "--plot needs: pip install matplotlib"
