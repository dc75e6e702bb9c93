from __future__ import annotations

import json
from pathlib import Path

import pytest

from langchain_bge_medical.evaluation import capacity


def test_a_need_is_the_pairs_of_the_peak_over_what_a_device_may_be_busy_with() -> None:
    found = capacity.need(1_000, 50, per_core=10, per_gpu=1_000)
    assert found.pairs_per_s == pytest.approx(833.3)
    assert (found.cores, found.gpus) == (139, 2)
    assert capacity.need(10, 20, per_core=None, per_gpu=None).cores == 0


def test_rates_are_read_from_what_benchmark_prints_and_tables_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps({"threads": 2, "rows": [{"pairs_per_s": 30.0}]}), "utf-8")
    capacity.main(["--cpu", str(file), "--queries-per-minute", "60", "--depth", "20", "--documents", "10000"])
    printed = capsys.readouterr().out
    assert "15.0 of a core, not given of a GPU" in printed
    assert "| 60.0 | 20 | 20.0 | 3 | 0 |" in printed
    assert "| 10,000 | 0.04 | 0.09 | faiss, lists" in printed


@pytest.mark.parametrize(
    ("documents", "store"),
    [
        (1_000, "faiss, exact; or chroma"),
        (10_000_000, "faiss, lists, mapped into memory; or a milvus server"),
        (1_000_000_000, "machines of 256 GB, or quantised; words in its own BM25 index"),
    ],
)
def test_documents_go_where_they_fit(documents: int, store: str) -> None:
    found = capacity.shelf(documents, 1_024)
    assert found.store.endswith(store)
    assert found.vector_gb == round(documents * 4_096 / 1e9, 2)
    if "machines" in store:
        machines = int(found.store.split()[3])
        everything = documents * (4_096 + capacity.TEXT_BYTES)
        assert machines * capacity.ONE_MACHINE_BYTES >= everything > (machines - 1) * capacity.ONE_MACHINE_BYTES


def test_a_rate_of_a_gpu_is_that_of_the_whole_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"threads": 16, "rows": [{"pairs_per_s": 2_000.0}]}), "utf-8")
    capacity.main(["--gpu", str(file), "--queries-per-minute", "60000", "--depth", "50", "--documents", "1000"])
    assert "not given of a core, 2000.0 of a GPU" in capsys.readouterr().out
