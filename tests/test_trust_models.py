from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from langchain_bge_medical.cross_encoders import BGECrossEncoder
from langchain_bge_medical.embeddings import BGEEmbeddings
from langchain_bge_medical.model_files import ModelNotFoundError

Lie = Callable[[Path], object]


def config(**changes: object) -> Lie:
    def lie(folder: Path) -> None:
        kept = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps({key: value for key, value in kept.items() if value != "gone"}))

    return lie


def written(name: str, content: object) -> Lie:
    return lambda folder: (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def weights(part: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Lie:
    def lie(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        for name in [name for name in tensors if part in name]:
            changed = change(tensors.pop(name))
            if changed is not None:
                tensors[name] = changed
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return lie


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def no_frame(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))


def like(tensor: torch.Tensor, value: float) -> torch.Tensor:
    return torch.full_like(tensor, value)


OF_BOTH: dict[str, tuple[Lie, str]] = {
    "config cut off": (written("config.json", "{"), r"config\.json is damaged"),
    "config a list": (written("config.json", []), "it holds no object"),
    "config deep": (written("config.json", "[" * 100_000), r"config\.json is damaged"),
    "model of no type": (config(model_type="gone"), "could not be loaded|no reranker"),
    "model of another type": (config(model_type="nope"), "could not be loaded"),
    "kernel from the hub": (config(_attn_implementation_internal="evil/kernel"), "attention kernel of its own"),
    "no tokenizer": (no_tokenizer, "holds no tokenizer"),
    "broken tokenizer": (written("tokenizer.json", "{}"), "could not be loaded"),
    "tokenizer cut off": (written("tokenizer.json", "{"), "could not be loaded"),
    "layers that are not there": (config(num_hidden_layers=99), r"weights of 2 layers, its config\.json says 99"),
    "a weight that is not there": (weights("layer.1.output.dense.weight", lambda _: None), "no weights of .*layer.1"),
    "words made up": (weights("word_embeddings", lambda _: None), "no weights of .*embeddings.word_embeddings.weight"),
    "a norm made up in all layers": (
        weights("attention.output.LayerNorm", lambda _: None),
        "no weights of .*layer.0.attention.output.LayerNorm.weight",
    ),
    "another width": (config(hidden_size=32), r"config\.json says \[151, 32\]"),
    "another vocabulary": (config(vocab_size=5), r"config\.json says \[5, 16\]"),
    "heads that do not fit": (config(num_attention_heads=3), "could not be loaded"),
    "a length in words": (config(max_position_embeddings="many"), "says .'many', 16"),
    "no padding": (config(pad_token_id=None), "could not be loaded"),
    "weights cut off": (truncated, r"model\.safetensors is damaged"),
    "weights of text": (written("model.safetensors", "x" * 100), r"model\.safetensors is damaged"),
    "a module of code": (written("modules.json", "{"), "could not be loaded"),
    "NaN in attention": (weights("layer.0.attention.self.query.weight", lambda t: like(t, float("nan"))), "nan|finite"),
    "infinite words": (weights("word_embeddings", lambda t: like(t, float("inf"))), "nan|finite"),
}
OF_A_RERANKER: dict[str, tuple[Lie, str]] = {
    "three labels by number": (config(num_labels=3, id2label="gone"), "has 3 labels"),
    "two labels in the weights": (weights("out_proj", lambda t: torch.cat([t, t])), "has 2 labels"),
    "half a head": (weights("classifier.dense", lambda _: None), "no weights of classifier.dense.weight"),
    "a tokenizer for single texts": (no_frame, "could not be loaded.*nothing between query and document"),
    "architectures no list": (config(architectures=3), "no reranker"),
    "auto_map": (config(auto_map={"AutoConfig": "evil.C"}), "auto_map"),
}


def refused(make: Callable[[str], Any], model: Path, lie: Lie, says: str, folder: Path) -> None:
    shutil.copytree(model, folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    lie(folder)
    with pytest.raises((ModelNotFoundError, ValueError), match=says) as caught:
        make(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


@pytest.mark.filterwarnings("ignore")  # what libraries say besides
@pytest.mark.parametrize("name", [*OF_BOTH, *OF_A_RERANKER])
def test_a_reranker_s_folder_that_lies_is_one_clear_error(name: str, tiny_reranker: Path, tmp_path: Path) -> None:
    lie, says = {**OF_BOTH, **OF_A_RERANKER}[name]

    def score(folder: str) -> None:
        BGECrossEncoder(folder, device="cpu").score([("发热", "咳嗽")])

    refused(score, tiny_reranker, lie, says, tmp_path / "model")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OF_BOTH)
def test_an_embedding_model_s_folder_that_lies_is_one_clear_error(
    name: str, tiny_embedding_model: Path, tmp_path: Path
) -> None:
    lie, says = OF_BOTH[name]
    refused(lambda folder: BGEEmbeddings(folder, device="cpu"), tiny_embedding_model, lie, says, tmp_path / "model")


def test_code_named_by_an_embedding_model_or_a_tokenizer_is_not_run(tiny_embedding_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_embedding_model, tmp_path / "model"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config(auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"})(folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    written("tokenizer_config.json", {**tokenizer, "auto_map": {"AutoTokenizer": ["evil.T", None]}})(folder)
    BGEEmbeddings(str(folder), device="cpu").embed_query("发热")
    assert not (tmp_path / "ran").exists()


def test_nothing_phones_home_while_both_bundled_models_load_and_answer() -> None:
    code = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        print("went out:", event, args, flush=True)
        raise ConnectionError("this process has no network")
sys.addaudithook(watch)
from langchain_core.documents import Document
from langchain_bge_medical import BGEEmbeddings, BGERerankerCompressor
from langchain_bge_medical.vectorstores import build_index
documents = [Document(page_content=text) for text in ("发热、咳嗽", "头痛", "腹泻")]
found = build_index(documents, BGEEmbeddings()).similarity_search("我发烧咳嗽", k=3)
print(BGERerankerCompressor(model_name="bundled", top_n=1).compress_documents(found, "我发烧咳嗽")[0].page_content)
try:
    import socket; socket.create_connection(("localhost", 9))
except ConnectionError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    best, went_out, error = run.stdout.splitlines()
    assert best in ("发热、咳嗽", "头痛", "腹泻")
    assert went_out.startswith("went out: socket.getaddrinfo ('localhost'")  # the watch works, and this was the first
    assert error == "this process has no network"
