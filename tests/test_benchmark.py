from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from langchain_bge_medical import cli
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.evaluation.benchmark import (
    QUERY,
    WorkerFailed,
    make_pairs,
    make_shape,
    run_benchmark,
    spearman,
)
from langchain_bge_medical.evaluation.contenders import OURS, PEERS, Contender
from tests.conftest import RECORDS
from tests.fake_contenders import broken, converted, made_before, slow

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


def test_the_command_prints_one_json_document(tmp_path: Path) -> None:
    command = ["benchmark", "--shape", "tiny", "--documents", "6", "--rounds", "1", "--only", "none"]
    done = CliRunner().invoke(cli.app, [*command, "--folder", str(tmp_path), "--json"])
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["rows"]] == ["ours, auto", "ours, int8", "ours, float32"]
    assert (report["model"], report["pairs"]) == ("tiny", 6)


def test_the_bundled_reranker_which_reads_fewer_tokens_than_others_is_timed_beside_them(tmp_path: Path) -> None:
    command = ["benchmark", "--documents", "2", "--rounds", "1", "--only", "as it comes", "--folder", str(tmp_path)]
    report = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).stdout)
    assert report["rows"][-1]["name"] == "CrossEncoder.predict, as it comes"
    assert report["rows"][-1]["spearman"] == 1.0


def test_a_mistake_is_named() -> None:
    for options, says in (
        (["--shape", "huge"], "--shape: there is no shape 'huge'"),
        (["--lengths", "9", "3"], "--lengths are the shortest and the longest"),
    ):
        done = CliRunner().invoke(cli.app, ["benchmark", *options])
        assert isinstance(done.exception, cli.UserError)
        assert says in str(done.exception)
