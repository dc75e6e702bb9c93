from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.score_cache import CachedLogit, ScoreCache
from langchain_bge_medical.vectorstores import build_index, load_index, stored_documents
from tests.conftest import HashEmbeddings, record_documents

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill -9, fork and limits as Linux has them")
FORK = multiprocessing.get_context("fork")
MIXED = 40  # documents of an index: two files of some 20 KB


def version(number: int) -> list[Document]:
    """Documents that all say of which version they are."""
    return [Document(id=str(i), page_content=f"{number}: 头痛发热{i}" * 20) for i in range(MIXED)]


def index_forever(folder: Path, done: Connection, first: int) -> None:
    for number in range(first, first + 1_000_000):
        build_index(version(number), HashEmbeddings(), folder)
        done.send(number)


def check_index(folder: Path, at_least: int) -> int:
    """The version that is there, all of it, and not older than what was reported done."""
    found = stored_documents(load_index(folder, HashEmbeddings()))
    number = int(found[0].page_content.partition(":")[0])
    assert [d.page_content for d in found] == [d.page_content for d in version(number)]
    assert number >= at_least
    return number


def cache_forever(folder: Path, done: Connection, first: int) -> None:
    cache = ScoreCache(folder / "scores.db", max_file_entries=10_000_000)
    for number in range(first, first + 1_000_000):
        made = cache.keys([b"m"], [(str(number), str(i)) for i in range(50)])
        cache.set_many({key: CachedLogit(float(number), i) for i, key in enumerate(made)})
        done.send(number)


def check_cache(folder: Path, at_least: int) -> int:
    """Every batch that was reported is there with its own numbers, each batch whole or not at all."""
    cache = ScoreCache(folder / "scores.db")
    for number in range(max(1, at_least - 100), at_least + 2):
        made = cache.keys([b"m"], [(str(number), str(i)) for i in range(50)])
        found = cache.get_many(made)
        whole = {key: CachedLogit(float(number), i) for i, key in enumerate(made)}
        assert found == whole or (number > at_least and not found)
    with sqlite3.connect(folder / "scores.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return at_least


def calibration(number: int) -> Calibration:
    weights = {"logit_weight": number, "margin_weight": number, "findings_weight": number, "bias": number}
    rest = {"threshold": 0.1, "false_refusal_rate": 0.05, "reranker": "r", "knowledge_base": "k"}
    return Calibration.model_validate({"method": "platt", **weights, **rest, "figures": {"x": [number] * 5_000}})


def calibrate_forever(folder: Path, done: Connection, first: int) -> None:
    for number in range(first, first + 1_000_000):
        calibration(number).save(folder / "calibration.json")
        done.send(number)


def check_calibration(folder: Path, at_least: int) -> int:
    found = Calibration.load(folder / "calibration.json")
    assert found == calibration(int(found.bias))
    assert found.bias >= at_least
    return int(found.bias)


Work = Callable[[Path, Connection, int], None]
KINDS: dict[str, tuple[Work, Callable[[Path, int], int]]] = {
    "index": (index_forever, check_index),
    "cache": (cache_forever, check_cache),
    "calibration": (calibrate_forever, check_calibration),
}


def kill_at_random(kind: str, folder: Path, times: int, seed: int) -> None:
    work, check = KINDS[kind]
    random_ = random.Random(seed)
    newest = 0
    for _ in range(times):
        here, there = FORK.Pipe(duplex=False)
        child = FORK.Process(target=work, args=(folder, there, newest + 1))
        child.start()
        there.close()
        if not newest:
            newest = here.recv()
        time.sleep(random_.uniform(0, 0.04))
        child.kill()
        child.join()
        while here.poll():
            try:
                newest = here.recv()
            except EOFError:
                break
        here.close()
        newest = check(folder, newest)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_killed_at_any_moment_leaves_the_old_state_or_the_new(kind: str, tmp_path: Path) -> None:
    kill_at_random(kind, tmp_path / "it" if kind == "index" else tmp_path, times=8, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_killed_300_times_leaves_the_old_state_or_the_new(kind: str, tmp_path: Path) -> None:
    kill_at_random(kind, tmp_path / "it" if kind == "index" else tmp_path, times=300, seed=2)


def test_after_kills_an_index_leaves_nothing_behind_that_the_next_save_does_not_remove(tmp_path: Path) -> None:
    kill_at_random("index", tmp_path / "it", times=4, seed=3)
    build_index(version(0), HashEmbeddings(), tmp_path / "it")
    assert len(list((tmp_path / "it").iterdir())) == 3


# --- two at once


def build_some(folder: Path, done: Connection, first: int) -> None:
    for number in range(first, first + 25):
        build_index(version(number), HashEmbeddings(), folder)
    done.send("well")


def load_some(folder: Path, done: Connection, first: int) -> None:
    for _ in range(60):
        check_index(folder, first)
    done.send("well")


def test_two_processes_that_index_one_folder_and_two_that_load_it_take_turns(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    build_index(version(0), HashEmbeddings(), folder)
    pipes = []
    for work, first in ((build_some, 1), (build_some, 1_000), (load_some, 0), (load_some, 0)):
        here, there = FORK.Pipe(duplex=False)
        child = FORK.Process(target=work, args=(folder, there, first))
        child.start()
        there.close()
        pipes.append((here, child))
    assert [here.recv() for here, _ in pipes] == ["well"] * 4  # an EOFError here is a child that failed
    for _, child in pipes:
        child.join()
    assert check_index(folder, 0) in (25, 1_024)
    assert len(list(folder.iterdir())) == 3


def save_some(folder: Path, done: Connection, first: int) -> None:
    for number in range(first, first + 50):
        calibration(number).save(folder / "calibration.json")
        check_calibration(folder, 0)
    done.send("well")


def test_two_processes_that_save_one_calibration_never_mix_theirs(tmp_path: Path) -> None:
    pipes = []
    for first in (1, 1_000):
        here, there = FORK.Pipe(duplex=False)
        child = FORK.Process(target=save_some, args=(tmp_path, there, first))
        child.start()
        there.close()
        pipes.append((here, child))
    assert [here.recv() for here, _ in pipes] == ["well"] * 2
    for _, child in pipes:
        child.join()
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


# --- no room, no right, no clock


def in_a_process(work: Callable[[], Any], *, as_nobody: bool = False) -> str:
    """What `work` gives or raises, in a process that may be spoiled."""
    here, there = FORK.Pipe(duplex=False)

    def run() -> None:
        if as_nobody and os.geteuid() == 0:
            os.setuid(65534)
        try:
            there.send(str(work()))
        except Exception as error:
            there.send(f"{type(error).__name__}: {error}")

    child = FORK.Process(target=run)
    child.start()
    there.close()
    said: str = here.recv()
    child.join()
    return said


def limited(bytes_: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def test_a_full_disk_costs_a_cache_time_and_not_the_answer(tmp_path: Path) -> None:
    def work() -> str:
        cache = ScoreCache(tmp_path / "scores.db")
        limited(60_000)
        for number in range(50):
            made = cache.keys([b"m"], [(str(number), str(i)) for i in range(50)])
            cache.set_many({key: CachedLogit(float(number), i) for i, key in enumerate(made)})
            if len(cache.get_many(made)) != 50:
                return "lost"
        return "answered"

    assert in_a_process(work) == "answered"
    check_cache(tmp_path, 0)


def test_a_full_disk_leaves_the_old_calibration_and_nothing_else(tmp_path: Path) -> None:
    calibration(1).save(tmp_path / "calibration.json")

    def work() -> None:
        limited(5_000)
        calibration(2).save(tmp_path / "calibration.json")

    assert in_a_process(work).startswith("OSError: [Errno 27] File too large")
    assert check_calibration(tmp_path, 1) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder with an index and a calibration that nobody may write to, and everybody may read."""
    top = Path(tempfile.mkdtemp())
    build_index(record_documents(), HashEmbeddings(), top / "it")
    calibration(1).save(top / "it" / "calibration.json")
    for folder in (top, top / "it"):
        folder.chmod(0o555)
    yield top / "it"
    for folder in (top, top / "it"):
        folder.chmod(0o755)
    shutil.rmtree(top)


def test_a_folder_that_may_only_be_read_is_read_and_what_is_to_be_written_there_is_refused_by_name(
    read_only: Path,
) -> None:
    def try_(work: Callable[[], Any]) -> str:
        return in_a_process(work, as_nobody=True)

    assert try_(lambda: load_index(read_only, HashEmbeddings()).index.ntotal) == "6"
    assert try_(lambda: Calibration.load(read_only / "calibration.json").bias) == "1.0"
    said = [
        try_(lambda: build_index(record_documents(), HashEmbeddings(), read_only)),
        try_(lambda: build_index(record_documents(), HashEmbeddings(), read_only / "new")),
        try_(lambda: calibration(2).save(read_only / "calibration.json")),
        try_(lambda: ScoreCache(read_only / "scores.db")),
    ]
    assert all("ermission denied" in sentence and str(read_only) in sentence for sentence in said), said
    assert sorted(file.name.partition("-")[0] for file in read_only.iterdir()) == [
        "calibration.json", "documents", "index", "manifest.json",
    ]  # fmt: skip


def test_a_clock_that_is_set_back_or_forth_loses_no_cached_pair(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.db")
    [key] = cache.keys([b"m"], [("q", "d")])
    cache.set_many({key: CachedLogit(1.0)})
    for year in (1970, 2100):
        with sqlite3.connect(tmp_path / "scores.db") as connection:
            connection.execute("UPDATE logits SET written = ?", ((year - 1970) * 31_557_600.0,))
        connection.close()
        assert ScoreCache(tmp_path / "scores.db").get_many([key]) == {key: CachedLogit(1.0)}


def test_a_manifest_is_never_seen_half_written(tmp_path: Path) -> None:
    build_index(version(0), HashEmbeddings(), tmp_path / "it")
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=index_forever, args=(tmp_path / "it", there, 1))
    child.start()
    there.close()
    here.recv()
    for _ in range(2_000):
        json.loads((tmp_path / "it" / "manifest.json").read_text("utf-8"))
    child.kill()
    child.join()
    here.close()
