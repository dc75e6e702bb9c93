"""What fails and what the user sees, each by making it fail: `python -m tests.failures > examples/failures.md`."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.retrievers import BaseRetriever
from transformers import XLMRobertaForSequenceClassification

from langchain_bge_medical.chains import build_answer_chain
from langchain_bge_medical.confidence import Calibration
from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.document_compressors import BGERerankerCompressor
from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.score_cache import ScoreCache
from langchain_bge_medical.vectorstores import build_index, load_index
from tests.conftest import HashEmbeddings, make_tokenizer, record_documents, tiny_config

HEAD = """# What fails, and what the user sees

Each line was made by making it fail: `python -m tests.failures > examples/failures.md`, and a test compares. Paths are
shortened. Nothing is skipped, cut or swapped in silence; no message holds a patient's words.

| What fails | What the user sees |
| --- | --- |
"""
GOOD = {"name": "普通感冒", "symptom": ["鼻塞"], "desc": "数日自愈。"}


class Broken(BaseCrossEncoder):
    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        raise ConnectionError("the model is gone")


class Fixed(BaseRetriever):
    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return [Document(id=d.id, page_content=d.page_content, metadata=d.metadata) for d in self.documents]


def load(folder: Path, content: bytes | str, name: str = "kb.json", **options: Any) -> object:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return MedicalKBLoader(folder / name, **options).load()


def link(folder: Path) -> object:
    (folder / "kb").mkdir()
    (folder / "kb" / "a.json").symlink_to("/etc/hostname")
    return MedicalKBLoader(folder / "kb").load()


def index(folder: Path, spoil: Callable[[Path], object], model: str = "hash") -> object:
    build_index(record_documents(), HashEmbeddings(), folder / "index")
    spoil(folder / "index")
    return load_index(folder / "index", HashEmbeddings(model_name=model))


def flip(folder: Path, pattern: str) -> None:
    [file] = folder.glob(pattern)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def full_disk(folder: Path) -> object:
    """Let no file grow beyond 300 bytes for a moment."""
    import resource

    build_index(record_documents()[:1], HashEmbeddings(), folder / "index")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        build_index(record_documents(), HashEmbeddings(), folder / "index")
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = len(load_index(folder / "index", HashEmbeddings()).index_to_docstore_id)
        return f"`OSError`: {error} (it has {left} document)"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return "nothing"


def model(folder: Path, spoil: Callable[[Path], object]) -> object:
    tokenizer = make_tokenizer()
    torch.manual_seed(7)
    with contextlib.redirect_stderr(io.StringIO()):
        XLMRobertaForSequenceClassification(tiny_config(tokenizer)).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    spoil(folder / "model")
    return BGECrossEncoder(str(folder / "model"), device="cpu").score([("发热", "咳嗽")])


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def halved(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def answer(query: str, reply: str | None = None, fails_at: int | None = None) -> str:
    llm = None if reply is None else FakeListChatModel(responses=[reply], error_on_chunk_number=fails_at)
    pneumonia = record_documents()[0]
    pneumonia.metadata["relevance_score"] = 0.9
    said: str = build_answer_chain(Fixed(documents=[pneumonia]), llm).invoke(query)["answer"]
    return said


def rerank(query: str, **settings: Any) -> object:
    kept = BGERerankerCompressor(cross_encoder=Broken(), top_n=1, **settings).compress_documents(
        record_documents(), query
    )
    return f"the order of recall, each with metadata rerank_failed={kept[0].metadata['rerank_failed']}"


def other_file(folder: Path) -> object:
    (folder / "scores.db").write_text("x" * 5_000)
    return ScoreCache(folder / "scores.db")


def calibration(folder: Path, content: str) -> object:
    (folder / "calibration.json").write_text(content)
    return Calibration.load(folder / "calibration.json")


ROWS: dict[str, Callable[[Path], object]] = {
    "The knowledge base is not there": lambda f: MedicalKBLoader(f / "kb.json").load(),
    "A record lacks its symptoms": lambda f: load(f, json.dumps([GOOD, {"name": "甲", "desc": "乙"}])),
    "JSON cut off": lambda f: load(f, json.dumps([GOOD], ensure_ascii=False)[:-9]),
    "NaN in JSON": lambda f: load(f, '[{"name": "甲", "symptom": ["痛"], "desc": "乙", "weight": NaN}]'),
    "A key twice in a record": lambda f: load(f, '[{"name": "甲", "name": "乙", "symptom": ["痛"], "desc": "丙"}]'),
    "JSON nested a hundred thousand deep": lambda f: load(f, "[" * 100_000),
    "Two encodings in one file": lambda f: load(f, "甲\n".encode() + "乙\n".encode("gb18030") + b"\xff"),
    "gzip cut off": lambda f: load(f, gzip.compress(json.dumps([GOOD]).encode())[:-9], "kb.json.gz"),
    "gzip that unpacks to a line without end": lambda f: load(
        f, gzip.compress(json.dumps(GOOD).encode() + b'\n{"a":"' + b"a" * (17 << 20), 1), "kb.jsonl.gz"
    ),
    "A workbook that is none": lambda f: load(f, b"PK\x03\x04" + b"x" * 99, "kb.xlsx"),
    "A link out of the folder": link,
    "A byte of an index changed": lambda f: index(f, lambda i: flip(i, "index-*")),
    "A file of an index missing": lambda f: index(f, lambda i: next(i.glob("documents-*")).unlink()),
    "An index of another embedding model": lambda f: index(f, lambda i: None, model="other"),
    "No index in the folder": lambda f: load_index(f / "index", HashEmbeddings()),
    "The disk is full while an index is saved": full_disk,
    "No such model folder": lambda f: BGECrossEncoder(str(f / "model")),
    "Pickled weights": lambda f: model(f, pickled),
    "Weights cut off": lambda f: model(f, halved),
    "A model without tokenizer": lambda f: model(f, no_tokenizer),
    "A model with code of its own": lambda f: model(f, lambda m: configure(m, auto_map={"AutoModel": "a.B"})),
    "A model of several labels": lambda f: model(f, lambda m: configure(m, id2label={"0": "no", "1": "yes"})),
    "A model that lacks layers": lambda f: model(f, lambda m: configure(m, num_hidden_layers=24)),
    "A cache file of another kind": other_file,
    "A calibration cut off": lambda f: calibration(f, '{"format": 1'),
    "The reranker fails": lambda f: rerank("头痛"),
    'The reranker fails, `on_error="passthrough"`': lambda f: rerank("头痛", on_error="passthrough"),
    "A blank question": lambda f: answer(" "),
    "A question of a million characters": lambda f: answer("头痛" * 500_000),
    "A question that nothing matches": lambda f: answer("你好"),
    "The chat model names a dose": lambda f: answer("发热咳嗽", "可能是社区获得性肺炎[1],请服用阿莫西林500mg。"),
    "The chat model's server is down": lambda f: answer("发热咳嗽", "可能是", fails_at=1),
    "Somebody does not want to live": lambda f: answer("我不想活了"),
    "Somebody is beaten": lambda f: answer("我老公打我"),
}


def seen(make: Callable[[Path], object]) -> str:
    """What a user sees when `make` is tried: the error, or the answer's first two lines."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            said = " ".join(str(make(Path(name))).split("\n")[:2]).strip()
        except Exception as error:
            said = f"`{type(error).__name__}`: {error}"
        said = said.replace(f"{name}{os.sep}", "").replace(name, ".")
    said = re.sub(r"-[0-9a-f]{12}\.", "-….", said)
    return " ".join(said.split()).replace("|", "\\|").replace("<", "&lt;")


def table() -> str:
    return HEAD + "".join(f"| {what} | {seen(make)} |\n" for what, make in ROWS.items())


if __name__ == "__main__":
    logging.disable()
    sys.stdout.write(table())
