"""Offline jobs on a real Ray cluster on this machine: killed, resumed, and equal to what one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

from langchain_bge_medical.distributed.ray_data import (
    JobMismatchError,
    Progress,
    SourceError,
    embed_documents,
    rerank_file,
)
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.vectorstores import build_index
from tests.conftest import HashEmbeddings, record_documents
from tests.serving_kit import SharedCharacters

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys, ray
from tests.test_ray_data import compressor
from langchain_bge_medical.distributed.ray_data import rerank_file
ray.init(address=sys.argv[3], log_to_driver=False)
rerank_file(sys.argv[1], sys.argv[2], compressor, rows_per_part=3)
"""


def compressor() -> BGERerankerCompressor:
    return BGERerankerCompressor(cross_encoder=SharedCharacters(seconds_per_batch=0.1), top_n=3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(ROOT)
    context = ray.init(
        "local", num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False
    )
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    texts = [document.page_content for document in record_documents()]
    queries = ["发热咳嗽", "头痛畏光", "腹泻呕吐", "耳痛", "踝部肿痛"]
    return [{"id": i, "query": f"{queries[i % 5]}{i}", "documents": texts[i % 3 :]} for i in range(40)]


@pytest.fixture(scope="module")
def source(rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", "utf-8")
    return file


def test_a_job_that_is_killed_goes_on_and_ends_with_what_one_process_would_have_made(
    cluster: str, source: Path, rows: list[dict[str, object]], tmp_path: Path
) -> None:
    job = subprocess.Popen([sys.executable, "-c", PROGRAM, str(source), str(tmp_path), cluster], cwd=ROOT)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("part-*.jsonl"))) < 3:
        assert time.monotonic() < end
        assert job.poll() is None
        time.sleep(0.02)
    job.kill()
    job.wait()
    time.sleep(1)  # until Ray has ended its actors too
    written = {file: file.stat().st_mtime_ns for file in tmp_path.glob("part-*.jsonl")}
    assert 3 <= len(written) < 14
    told: list[Progress] = []
    result = rerank_file(source, tmp_path, compressor, rows_per_part=3, actors=2, on_progress=told.append)
    assert all(file.stat().st_mtime_ns == at for file, at in written.items())
    assert (told[0].resumed, told[-1].done, told[-1].total) == (len(written), 14, 14)
    here = compressor()
    expected = [
        {"query": row["query"], "id": row["id"], "results": here.rerank(str(row["query"]), row["documents"])}  # type: ignore[arg-type]
        for row in rows
    ]
    assert [json.loads(line) for line in result.read_text("utf-8").splitlines()] == expected
    with pytest.raises(JobMismatchError, match="begun with another file or other settings"):
        rerank_file(source, tmp_path, compressor, rows_per_part=3, settings="another model")


def test_parquet_is_read_and_a_bad_row_is_named(
    cluster: str, rows: list[dict[str, object]], source: Path, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:8]), file, row_group_size=3)
    result = rerank_file(file, tmp_path / "one", compressor, rows_per_part=5)
    found = [json.loads(line) for line in result.read_text("utf-8").splitlines()]
    assert [row["id"] for row in found] == list(range(8))
    lines = source.read_text("utf-8").splitlines()[:8]
    lines[6] = json.dumps({"query": " ", "documents": ["CANARY"]})
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(lines), "utf-8")
    with pytest.raises(SourceError, match="row 7: needs a query that is not blank"):
        rerank_file(bad, tmp_path / "two", compressor, rows_per_part=5)


def test_an_index_of_vectors_made_side_by_side_is_the_one_that_one_process_makes(cluster: str, tmp_path: Path) -> None:
    documents = record_documents()
    embeddings = embed_documents(documents, tmp_path, HashEmbeddings, actors=2, documents_per_part=2)
    index = build_index(documents, embeddings, tmp_path / "kb.index")
    alone = build_index(documents, HashEmbeddings())
    for query in ("发热咳嗽", "踝部肿痛"):
        found = [store.similarity_search_with_score(query, k=6) for store in (index, alone)]
        assert [document.id for document, _ in found[0]] == [document.id for document, _ in found[1]]
        assert [score for _, score in found[0]] == pytest.approx([score for _, score in found[1]], abs=1e-6)
    assert embeddings._model.embedded == []
