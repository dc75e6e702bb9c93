from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.score_cache import ScoreCache
from langchain_bge_medical.serving.scheduler import ScoringEngine
from tests.conftest import RECORDS

CALLERS = 64
Result = list[tuple[str, float]]


def calls(seed: int) -> list[tuple[str, list[Document]]]:
    """A query and documents for each caller, of 1 to 2,000 characters, many of them the same."""
    random_ = random.Random(seed)
    words = "".join("".join(record.values()) for record in RECORDS)

    def text(longest: int) -> str:
        start, length = random_.randrange(len(words) - 1), random_.randint(1, longest)
        return (words[start:] * (1 + length // (len(words) - start)))[:length].strip() or "痛"

    shared = [text(2_000) for _ in range(20)]
    return [
        (text(200), [Document(page_content=random_.choice([random_.choice(shared), text(60)])) for _ in range(size)])
        for size in (random_.randint(1, 12) for _ in range(CALLERS))
    ]


@pytest.fixture(scope="module")
def compressors(tiny_reranker: Path) -> list[BGERerankerCompressor]:
    """Compressors of several settings that share one model."""
    encoder = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32", batch_tokens=300)
    engine = ScoringEngine(lambda: encoder)
    others: list[dict[str, Any]] = [
        {"top_n": None},
        {"top_n": 3},
        {"score_threshold": 0.4, "top_n": 5},
        {"query_to_text": str.upper},
    ]
    return [BGERerankerCompressor(engine=engine, **settings) for settings in others]


def result(documents: Any) -> Result:
    return [(document.page_content, document.metadata["relevance_logit"]) for document in documents]


def assert_same(found: list[Result], expected: list[Result]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [logit for _, logit in one] == pytest.approx([logit for _, logit in other], abs=1e-5)
        ours, theirs = dict(one), dict(other)
        for text in ours.keys() & theirs.keys():
            assert ours[text] == pytest.approx(theirs[text], abs=1e-5)
        # Documents that are the same as far as the model reads tie: which of them is left out is noise.
        assert all(ours[text] == pytest.approx(one[-1][1], abs=1e-5) for text in ours.keys() - theirs.keys())


def one_after_the_other(compressors: list[BGERerankerCompressor], seed: int) -> list[Result]:
    return [
        result(compressors[i % len(compressors)].compress_documents(documents, query))
        for i, (query, documents) in enumerate(calls(seed))
    ]


def of_threads(compressors: list[BGERerankerCompressor], seed: int) -> list[Result]:
    found: dict[int, Result] = {}
    together = threading.Barrier(CALLERS)

    def call(i: int, query: str, documents: list[Document]) -> None:
        together.wait()
        found[i] = result(compressors[i % len(compressors)].compress_documents(documents, query))

    threads = [threading.Thread(target=call, args=(i, *given)) for i, given in enumerate(calls(seed))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(CALLERS)]


async def of_tasks(compressors: list[BGERerankerCompressor], seed: int) -> list[Result]:
    return [
        result(documents)
        for documents in await asyncio.gather(
            *(
                compressors[i % len(compressors)].acompress_documents(documents, query)
                for i, (query, documents) in enumerate(calls(seed))
            )
        )
    ]


def test_64_threads_over_one_model_get_the_scores_that_one_gets(compressors: list[BGERerankerCompressor]) -> None:
    assert_same(of_threads(compressors, 1), one_after_the_other(compressors, 1))


async def test_64_tasks_over_one_model_get_the_scores_that_one_gets(compressors: list[BGERerankerCompressor]) -> None:
    assert_same(await of_tasks(compressors, 2), one_after_the_other(compressors, 2))


async def test_threads_and_tasks_at_once_get_them_too(compressors: list[BGERerankerCompressor]) -> None:
    threads, tasks = await asyncio.gather(asyncio.to_thread(of_threads, compressors, 3), of_tasks(compressors, 4))
    assert_same(threads, one_after_the_other(compressors, 3))
    assert_same(tasks, one_after_the_other(compressors, 4))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 130))
async def test_threads_and_tasks_get_them_thirty_times_over(
    seed: int, compressors: list[BGERerankerCompressor]
) -> None:
    threads, tasks = await asyncio.gather(
        asyncio.to_thread(of_threads, compressors, seed), of_tasks(compressors, -seed)
    )
    assert_same(threads, one_after_the_other(compressors, seed))
    assert_same(tasks, one_after_the_other(compressors, -seed))


def test_one_encoder_and_one_cache_under_64_threads_give_the_scores_of_none(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    pairs = [[(query, document.page_content) for document in documents] for query, documents in calls(5)]
    plain = BGECrossEncoder(str(tiny_reranker), max_length=128, dtype="float32")
    cached = BGECrossEncoder(
        str(tiny_reranker), max_length=128, dtype="float32", cache=ScoreCache(tmp_path / "scores.db", max_entries=50)
    )
    found: dict[int, list[float]] = {}
    together = threading.Barrier(CALLERS)

    def call(i: int) -> None:
        together.wait()
        found[i] = cached.logits(pairs[i])

    threads = [threading.Thread(target=call, args=(i,)) for i in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(CALLERS):
        assert found[i] == pytest.approx(plain.logits(pairs[i]), abs=1e-5)


def in_child(connection: Any, compressor: BGERerankerCompressor) -> None:
    query, documents = calls(6)[0]
    connection.send(result(compressor.compress_documents(documents, query)))


@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_a_process_started_after_the_model_has_worked_gets_the_same_scores(way: str, tiny_reranker: Path) -> None:
    compressor = BGERerankerCompressor(model_name=str(tiny_reranker), max_length=128, dtype="float32", top_n=None)
    query, documents = calls(6)[0]
    expected = result(compressor.compress_documents(documents, query))
    context: Any = multiprocessing.get_context(way)
    here, there = context.Pipe()
    child = context.Process(target=in_child, args=(there, compressor))
    child.start()
    try:
        assert here.poll(60), "the child does not answer"
        assert_same([here.recv()], [expected])
    finally:
        child.kill()
        child.join()
