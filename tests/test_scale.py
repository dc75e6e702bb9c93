"""Tens of thousands of records: load, index, answer, and what it costs in memory per record.

Sixty thousand take a minute or so, and are `long`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, random, resource, sys
from langchain_bge_medical import MedicalKBLoader, build_hybrid_retriever, build_index
from langchain_bge_medical import BGERerankerCompressor, BGERerankRetriever
from tests.conftest import HashEmbeddings, TableCrossEncoder

class Length(TableCrossEncoder):
    def score(self, text_pairs):
        return [1 / (1 + abs(len(document) - 100)) for _, document in text_pairs]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

file, folder = sys.argv[1:]
embeddings = HashEmbeddings()
embeddings.embedded = type("Forget", (), {"extend": lambda self, texts: None})()
before = peak()
store = build_index(MedicalKBLoader(file).lazy_load(), embeddings, folder)
indexed = peak()
from langchain_bge_medical.vectorstores import stored_documents
recall = build_hybrid_retriever(store, stored_documents(store), fetch_k=50)
retriever = BGERerankRetriever(base_retriever=recall, compressor=BGERerankerCompressor(cross_encoder=Length({})))
found = retriever.invoke("发热 咳嗽 第1321种")
print(json.dumps({"before": before, "indexed": indexed, "answered": peak(), "count": store.index.ntotal,
                  "found": [d.metadata["disease"] for d in found]}))
"""
SYMPTOMS = ["发热", "咳嗽", "头痛", "腹痛", "皮疹", "胸闷", "乏力", "恶心", "眩晕", "耳鸣", "水肿", "心悸"]


def knowledge_base(file: Path, count: int) -> Path:
    with file.open("w", encoding="utf-8") as stream:
        for i in range(count):
            symptoms = [SYMPTOMS[(i * 7 + j * 5) % len(SYMPTOMS)] for j in range(3)]
            record = {
                "disease": f"第{i}种病",
                "symptoms": symptoms,
                "description": f"编号{i}的记录,用来试验规模。" * 5,
                "department": "内科",
            }
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    return file


def measured(tmp_path: Path, count: int) -> dict[str, int]:
    file = knowledge_base(tmp_path / f"{count}.jsonl", count)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(file), str(tmp_path / f"index-{count}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("few", [2_000, pytest.param(6_000, marks=pytest.mark.long)])
def test_ten_times_as_many_records_are_indexed_and_answered_in_a_few_kilobytes_each(few: int, tmp_path: Path) -> None:
    small, large = measured(tmp_path, few), measured(tmp_path, 10 * few)
    assert (small["count"], large["count"]) == (few, 10 * few)
    assert len(large["found"]) == 5
    more = 9 * few
    # A document is about 2 kB of Python objects, its vector 256 bytes.
    assert (large["indexed"] - small["indexed"]) / more < 6_000
    # BM25 comes on top, and the numbers that it is built from: of all everyday ways to say the symptoms too.
    assert (large["answered"] - small["answered"]) / more < 26_000
