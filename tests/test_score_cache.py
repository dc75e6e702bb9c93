from __future__ import annotations

import multiprocessing
import pickle
import sqlite3
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.score_cache import CachedLogit, ScoreCache

PAIRS = [("头痛", f"第{i}种病 发热、咳嗽、咳痰、胸痛") for i in range(100)]


def keys(cache: ScoreCache, *names: str) -> list[bytes]:
    return cache.keys([b"model"], [("q", name) for name in names])


def test_a_full_memory_forgets_what_was_used_longest_ago() -> None:
    cache = ScoreCache(max_entries=2)
    a, b, c = keys(cache, "a", "b", "c")
    cache.set_many({a: CachedLogit(1.0), b: CachedLogit(2.0)})
    cache.get_many([a])
    cache.set_many({c: CachedLogit(3.0, 4, 5)})
    assert cache.get_many([a, b, c]) == {a: CachedLogit(1.0), c: CachedLogit(3.0, 4, 5)}


def test_the_same_characters_split_otherwise_are_another_pair() -> None:
    cache = ScoreCache()
    ways = [([b"ab", b"c"], "d", "e"), ([b"a", b"bc"], "d", "e"), ([b"ab"], "cd", "e"), ([b"ab", b"c"], "de", "")]
    made = {cache.keys(fields, [(query, document)])[0] for fields, query, document in ways}
    assert len(made) == len(ways)
    assert ScoreCache(secret=b"s").keys([b"m"], [("q", "d")]) != cache.keys([b"m"], [("q", "d")])


def test_a_file_answers_after_a_restart_with_every_number_as_it_was(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "deep" / "scores.db")
    made = keys(cache, *map(str, range(1_200)))
    stored = {key: CachedLogit(i / 7, i, 2 * i) for i, key in enumerate(made)}
    cache.set_many(stored)
    assert ScoreCache(tmp_path / "deep" / "scores.db").get_many(made) == stored


def test_a_query_of_a_hundred_cached_pairs_takes_less_than_two_milliseconds_also_after_a_restart(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    def encoder() -> BGECrossEncoder:
        return BGECrossEncoder(str(tiny_reranker), max_length=128, cache=ScoreCache(tmp_path / "scores.db"))

    expected = encoder().pair_logits(PAIRS)
    taken = {}
    for name, started_anew in (("memory", False), ("file", True)):
        times = []
        cached = encoder()
        cached.pair_logits(PAIRS[:1])
        for _ in range(15):
            if started_anew:
                cached.cache = ScoreCache(tmp_path / "scores.db")
            # The processor's time of this thread: others share this machine.
            start = time.thread_time()
            found = cached.pair_logits(PAIRS)
            times.append(time.thread_time() - start)
            assert found == expected
        taken[name] = statistics.median(times)
    assert max(taken.values()) < 0.002, taken


def test_no_key_field_may_change_without_a_miss(tiny_reranker: Path, tmp_path: Path) -> None:
    import shutil

    cache = ScoreCache(tmp_path / "scores.db")
    settings: dict[str, Any] = {"max_length": 128, "dtype": "float32", "cache": cache}
    BGECrossEncoder(str(tiny_reranker), **settings).logits(PAIRS)
    other_tokenizer = shutil.copytree(tiny_reranker, tmp_path / "tokenizer")
    file = other_tokenizer / "tokenizer.json"
    file.write_text(file.read_text("utf-8") + "\n", "utf-8")
    changed: list[tuple[Path, dict[str, Any]]] = [
        (tiny_reranker, {"max_length": 127}),
        (tiny_reranker, {"dtype": "bfloat16"}),
        (tiny_reranker, {"dtype": "int8"}),
        (tiny_reranker, {"long_documents": "windows"}),
        (other_tokenizer, {}),
    ]
    for folder, change in changed:
        cache.hits = 0
        BGECrossEncoder(str(folder), **{**settings, **change}).logits(PAIRS)
        assert cache.hits == 0, change
    BGECrossEncoder(str(tiny_reranker), **settings).logits(PAIRS)
    assert cache.hits == len(PAIRS)


def test_threads_that_ask_for_the_same_pairs_have_them_scored_once(tiny_reranker: Path) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, cache=ScoreCache())
    scored: list[int] = []

    class Counting:
        pads, side_by_side, batch_tokens = False, 1, 2_048

        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self, batches: Any) -> Any:
            scored.extend(map(len, batches))
            time.sleep(0.01)
            return self.model(batches)

    encoder._model = Counting(encoder._model)
    threads = [threading.Thread(target=encoder.logits, args=(PAIRS,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(scored) == len(PAIRS)


def test_cached_pairs_do_not_wait_for_others_that_are_being_scored(tiny_reranker: Path) -> None:
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, cache=ScoreCache())
    encoder.logits(PAIRS)
    with encoder._lock:
        found: list[list[float]] = []
        thread = threading.Thread(target=lambda: found.append(encoder.logits(PAIRS)))
        thread.start()
        thread.join(timeout=5)
        assert found


def test_entries_over_age_are_not_used_and_leave_the_file(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.db", max_age_s=0.2, max_file_entries=10)
    old, new = keys(cache, "old", "new")
    cache.set_many({old: CachedLogit(1.0)})
    assert cache.get_many([old])
    time.sleep(0.25)
    assert not cache.get_many([old])
    cache.set_many({new: CachedLogit(2.0)})
    assert count(tmp_path / "scores.db") == 1


def test_a_file_keeps_to_its_bound_and_loses_the_oldest(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.db", max_file_entries=100)
    made = keys(cache, *map(str, range(300)))
    for key in made:
        cache.set_many({key: CachedLogit(0.5)})
    assert 100 <= count(tmp_path / "scores.db") <= 105
    assert set(ScoreCache(tmp_path / "scores.db").get_many(made)) >= set(made[-100:])


def count(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        number = int(connection.execute("SELECT count(*) FROM logits").fetchone()[0])
    connection.close()
    return number


def write_many(file: Path, first: int) -> None:
    cache = ScoreCache(file)
    made = keys(cache, *map(str, range(first, first + 200)))
    for i, key in enumerate(made):
        cache.set_many({key: CachedLogit(float(first + i))})


def test_several_processes_write_one_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "scores.db"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(file, first)) for first in (0, 100, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    cache = ScoreCache(file)
    made = keys(cache, *map(str, range(400)))
    assert cache.get_many(made) == {key: CachedLogit(float(i)) for i, key in enumerate(made)}


def test_a_new_file_that_another_process_is_about_to_fill_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "scores.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(ScoreCache, tmp_path / "scores.db")
        time.sleep(0.05)
        other.execute("ROLLBACK")
        cache = opened.result()
    other.close()
    (key,) = keys(cache, "a")
    cache.set_many({key: CachedLogit(1.0)})
    assert ScoreCache(tmp_path / "scores.db").get_many([key]) == {key: CachedLogit(1.0)}


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def opened(path: Path) -> ScoreCache:
        barrier.wait()
        return ScoreCache(path)

    with ThreadPoolExecutor(6) as pool:
        for attempt in range(8):
            path = tmp_path / f"{attempt}.db"
            assert len(list(pool.map(opened, [path] * 6))) == 6
            with sqlite3.connect(path) as connection:
                assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            connection.close()


def test_a_child_of_a_fork_goes_on_with_a_connection_of_its_own(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.db")
    a, b = keys(cache, "a", "b")
    cache.set_many({a: CachedLogit(1.0)})
    # What a fork does to the object, without the fork.
    cache._file._pid -= 1  # type: ignore[union-attr]
    before = cache._file._connection  # type: ignore[union-attr]
    cache.set_many({b: CachedLogit(2.0)})
    assert cache._file._connection is not before  # type: ignore[union-attr]
    assert set(ScoreCache(tmp_path / "scores.db").get_many([a, b])) == {a, b}
    before.close()


def test_no_text_is_in_the_file_or_the_memory(tiny_reranker: Path, tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.db")
    canary = "头痛欲裂三天"
    BGECrossEncoder(str(tiny_reranker), max_length=128, cache=cache).logits([(canary, "偏头痛" + canary)])
    for file in tmp_path.iterdir():
        for encoding in ("utf-8", "utf-16-le", "gb18030"):
            assert canary.encode(encoding) not in file.read_bytes()
    assert canary not in repr(cache._memory)


def test_a_file_that_fails_costs_time_and_not_the_answer(
    tiny_reranker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ScoreCache(tmp_path / "scores.db")
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, cache=cache)
    with sqlite3.connect(tmp_path / "scores.db") as connection:
        connection.execute("DROP TABLE logits")
    connection.close()
    assert len(encoder.logits(PAIRS)) == len(PAIRS)
    assert "could not be read: no such table" in caplog.text
    assert len(encoder.logits(PAIRS)) == len(PAIRS)  # from memory
    assert cache.hits == len(PAIRS)


@pytest.mark.parametrize(
    "damage",
    [
        "CAST(substr(value, 1, 7) || x'C0' || substr(value, 9) AS BLOB)",
        "CAST(substr(value, 1, 19) AS BLOB)",
        "x''",
        "'text'",
        "(SELECT value FROM logits AS other WHERE other.key <> logits.key)",
    ],
)
def test_a_damaged_entry_is_never_a_score_but_is_told_of_and_scored_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ScoreCache(tmp_path / "scores.db")
    a, b = keys(cache, "a", "b")
    cache.set_many({a: CachedLogit(1.83, 1), b: CachedLogit(-2.5)})
    with sqlite3.connect(tmp_path / "scores.db") as connection:
        connection.execute(f"UPDATE logits SET value = {damage} WHERE key = ?", (a,))
    connection.close()
    again = ScoreCache(tmp_path / "scores.db")
    assert again.get_many([a, b]) == {b: CachedLogit(-2.5)}
    assert "1 damaged entries are not used" in caplog.text
    again.set_many({a: CachedLogit(1.83, 1)})
    assert ScoreCache(tmp_path / "scores.db").get_many([a]) == {a: CachedLogit(1.83, 1)}


def test_a_child_of_a_fork_that_finds_the_file_damaged_goes_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ScoreCache(tmp_path / "scores.db", max_entries=1)
    a, b = keys(cache, "a", "b")
    cache.set_many({a: CachedLogit(1.0), b: CachedLogit(2.0)})
    for file in list(tmp_path.iterdir()):
        file.unlink()
    (tmp_path / "scores.db").write_text("x" * 5_000)
    cache._file._pid -= 1  # type: ignore[union-attr]  # as in a child
    cache.set_many({b: CachedLogit(3.0)})
    assert cache.get_many([a, b]) == {b: CachedLogit(3.0)}
    assert "could not be read" in caplog.text
    assert "is no SQLite file" in caplog.text


def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, and long enough to be told from an empty one " * 20)
    with pytest.raises(ValueError, match=r"notes\.txt: is no SQLite file"):
        ScoreCache(tmp_path / "notes.txt")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE logits (a)")
    connection.close()
    with pytest.raises(ValueError, match=r"other\.db: is an SQLite file of another kind"):
        ScoreCache(tmp_path / "other.db")
    assert (tmp_path / "notes.txt").read_text().startswith("not a database")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_entries": 0}, "max_entries must be at least 1, got 0"),
        ({"max_file_entries": 0}, "max_file_entries must be at least 1, got 0"),
        ({"max_age_s": 0.0}, r"max_age_s must be more than 0, got 0\.0"),
        ({"secret": b"x" * 65}, "secret must be at most 64 bytes, got 65"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ScoreCache(**settings)


def test_a_pickled_cache_opens_the_same_file(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.db", secret=b"s")
    (key,) = keys(cache, "a")
    cache.set_many({key: CachedLogit(1.0)})
    copy = pickle.loads(pickle.dumps(cache))
    assert len(copy) == 0
    assert copy.get_many(keys(copy, "a")) == {key: CachedLogit(1.0)}
