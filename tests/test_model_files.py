from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from langchain_core.documents import Document
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from langchain_bge_medical.document_loaders import MedicalKBLoader
from langchain_bge_medical.embeddings import BGEEmbeddings, unread_tokens
from langchain_bge_medical.model_files import (
    ModelNotFoundError,
    bundled_knowledge_base,
    loading,
    model_folder,
    read_config,
    resolved_revision,
)
from langchain_bge_medical.vectorstores import IndexMismatchError, build_index, identity, load_index
from tests.conftest import RECORDS

TEXTS = [record["symptoms"] for record in RECORDS] + ["头痛", "a", "x" * 500]
ASK_THE_HUB = """
import sys
from langchain_bge_medical.model_files import ModelNotFoundError, model_folder
try:
    model_folder(sys.argv[1], revision=sys.argv[2] or None, kind="reranker")
except ModelNotFoundError as error:
    print(error)
"""


@pytest.fixture
def folder(tiny_embedding_model: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny_embedding_model, tmp_path / "model"))


@pytest.fixture(scope="module")
def embeddings(tiny_embedding_model: Path) -> BGEEmbeddings:
    return BGEEmbeddings(str(tiny_embedding_model), device="cpu")


class Refusing(BaseHTTPRequestHandler):
    """A proxy of an organisation that lets nobody out."""

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask_the_hub(cache: Path, name: str = "nobody/no-such-model", revision: str = "", **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", ASK_THE_HUB, name, revision],
        env={**kept, "HF_HUB_CACHE": str(cache), **environment},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return result.stdout


def test_a_hub_name_without_a_network_raises_within_seconds_and_names_model_cache_and_ways_out(tmp_path: Path) -> None:
    started = time.monotonic()
    message = ask_the_hub(tmp_path, HF_HUB_OFFLINE="1")
    assert time.monotonic() - started < 20
    assert message.startswith(f"model 'nobody/no-such-model' is not in the cache ({tmp_path})")
    assert "hf download nobody/no-such-model --local-dir FOLDER" in message
    assert 'model_name="bundled"' in message


def test_a_revision_that_is_not_to_be_had_is_named(tmp_path: Path) -> None:
    assert "at revision 'abc123' is not in the cache" in ask_the_hub(tmp_path, revision="abc123", HF_HUB_OFFLINE="1")


def test_a_proxy_that_refuses_is_reported_like_a_missing_network(tmp_path: Path, proxy: str) -> None:
    message = ask_the_hub(tmp_path, HTTPS_PROXY=proxy, https_proxy=proxy)
    assert message.startswith("model 'nobody/no-such-model' is not in the cache")
    assert 'model_name="bundled"' in message


@pytest.mark.parametrize("name", ["a b/c", "BAAI/x\ty", "-/-"])
def test_what_cannot_be_a_hub_name_is_reported_like_one_that_does_not_exist(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is not in the cache") as error:
        model_folder(name, kind="reranker")
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    "name", ["./nope", "/nope/nope", "~/nope-nope", "~nobody-here/x", "nope", "a/b/c", "C:\\models"]
)
def test_a_folder_that_is_not_there_is_named_with_the_ways_out(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no such folder, and it is no hub name") as error:
        model_folder(name, kind="embeddings")
    for part in (repr(name), "BAAI/bge-reranker-v2-m3", 'model_name="bundled"'):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["", "."])
def test_a_blank_name_is_no_model(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model .*: \. holds no config\.json"):
        model_folder(name, kind="reranker")


def test_a_folder_without_a_configuration_is_named_with_the_way_out(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json, so it is no model's folder") as error:
        model_folder(str(folder), kind="embeddings")
    assert str(folder) in str(error.value)
    assert "pass the folder that" in str(error.value)


def test_a_folder_with_pickled_weights_only_is_refused_and_they_are_not_read(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (ran,))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ModelNotFoundError, match=r"holds no \*\.safetensors weights.*never read") as error:
        BGEEmbeddings(str(folder))
    assert str(folder) in str(error.value)
    assert "save_pretrained()" in str(error.value)
    assert not ran.exists()


def test_a_revision_of_something_that_is_not_on_the_hub_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="not on the hub, so revision='main' means nothing"):
        model_folder(str(folder), revision="main", kind="embeddings")


def test_a_folder_in_the_home_directory_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert model_folder("~/model", kind="embeddings") == folder


def test_a_folder_goes_before_a_hub_name_that_looks_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/{folder.name}"
    assert name.count("/") == 1
    assert model_folder(name, kind="embeddings") == Path(name)


def test_a_snapshot_in_the_hub_cache_is_used_without_a_network_and_known_by_its_commit(
    tiny_embedding_model: Path, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--me--tiny"
    shutil.copytree(tiny_embedding_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert ask_the_hub(tmp_path, "me/tiny", HF_HUB_OFFLINE="1") == ""
    assert resolved_revision(repository / "snapshots" / commit) == commit


def test_the_resolved_revision_of_a_folder_is_the_sha256_of_its_weights(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert resolved_revision(folder) == f"sha256:{digest[:16]}"


def test_the_configuration_is_read(folder: Path) -> None:
    assert read_config(folder)["model_type"] == "xlm-roberta"


def test_vectors_are_those_of_plain_transformers_mean_pooled_and_scaled(
    embeddings: BGEEmbeddings, tiny_embedding_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_embedding_model)
    model = AutoModel.from_pretrained(tiny_embedding_model).eval()
    for text, vector in zip(TEXTS[:6], embeddings.embed_documents(TEXTS[:6]), strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_weights_with_the_prefix_of_a_larger_model_and_old_names_of_norms_are_all_there(
    embeddings: BGEEmbeddings, folder: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {f"roberta.{re.sub('LayerNorm.*', lambda norm: old[norm[0]], name)}": tensors[name] for name in tensors}
    assert "roberta.encoder.layer.1.output.LayerNorm.gamma" in renamed
    save_file(
        {name: tensor for name, tensor in renamed.items() if "pooler" not in name},
        folder / "model.safetensors", {"format": "pt"},
    )  # fmt: skip
    assert BGEEmbeddings(str(folder)).embed_query("头痛") == pytest.approx(embeddings.embed_query("头痛"), abs=1e-6)


def test_vectors_have_length_one_and_the_order_of_the_texts(embeddings: BGEEmbeddings) -> None:
    vectors = embeddings.embed_documents(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(vectors[::-1], embeddings.embed_documents(TEXTS[::-1]), atol=1e-5)
    assert all(type(value) is float for value in vectors[0])


def test_a_query_has_the_vector_of_the_same_document(embeddings: BGEEmbeddings) -> None:
    assert embeddings.embed_query("头痛") == pytest.approx(embeddings.embed_documents(["头痛"])[0], abs=1e-6)


def test_the_instruction_stands_before_a_query_and_not_before_documents(tiny_embedding_model: Path) -> None:
    instructed = BGEEmbeddings(str(tiny_embedding_model), device="cpu", query_instruction="症状:")
    said, document = instructed.embed_query("头痛"), instructed.embed_documents(["症状:头痛", "头痛"])
    assert said == pytest.approx(document[0], abs=1e-6)
    assert said != pytest.approx(document[1], abs=1e-3)


def test_texts_that_are_cut_are_counted_and_never_shown(
    embeddings: BGEEmbeddings, caplog: pytest.LogCaptureFixture
) -> None:
    whole = "痛" * 128  # the model reads 130 tokens, two of them the ends
    assert embeddings.embed_documents([whole, "头痛"])
    assert caplog.messages == []
    cut = embeddings.embed_documents(["头痛", whole + "烧", "a" * 129, "烧" + whole])
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("3 of 4 texts have more than the 130 tokens that model ")
    assert "痛" not in record.getMessage()
    assert cut[1] == pytest.approx(embeddings.embed_documents([whole])[0], abs=1e-6)


def test_the_bundled_cards_that_the_bundled_model_learned_cut_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    cards = [document.page_content for document in MedicalKBLoader(bundled_knowledge_base()).lazy_load()]
    *_, longest = sorted(cards, key=len)
    embeddings = BGEEmbeddings("bundled", device="cpu")
    with caplog.at_level(logging.INFO, "langchain_bge_medical.embeddings"):
        embeddings.embed_documents([longest])
        embeddings.embed_documents([longest, longest + "。"])
    assert [(record.levelname, record.getMessage()[:6]) for record in caplog.records] == [
        ("INFO", "1 of 1"),
        ("WARNING", "2 of 2"),
    ]


def test_what_a_model_does_not_read_is_known_without_its_weights(
    embeddings: BGEEmbeddings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unread = unread_tokens(str(folder))
    assert unread is not None
    assert [unread("痛" * number) for number in (0, 128, 129, 500)] == [0, 0, 1, 372]
    for text in TEXTS:
        caplog.clear()
        embeddings.embed_documents([text])
        assert bool(caplog.messages) == bool(unread(text))
    SentenceTransformer(str(folder), device="cpu").save(str(folder / "saved"), create_model_card=False)
    (folder / "saved" / "sentence_bert_config.json").write_text('{"max_seq_length": 64}', "utf-8")
    of_64 = unread_tokens(str(folder / "saved"))
    assert of_64 is not None
    assert [of_64("痛" * number) for number in (62, 63)] == [0, 1]
    caplog.clear()
    BGEEmbeddings(str(folder / "saved"), device="cpu").embed_documents(["痛" * 62, "痛" * 63])
    assert caplog.messages[0].startswith("1 of 2 texts have more than the 64 tokens")
    of_bundled = unread_tokens("bundled")
    assert of_bundled is not None
    assert of_bundled("cough " * 150) < of_bundled("咳嗽" * 450)


def test_what_is_not_here_does_not_say_how_much_it_reads(folder: Path) -> None:
    assert unread_tokens("nobody/not-in-the-cache") is None
    assert unread_tokens("/nowhere") is None
    (folder / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        unread_tokens(str(folder))


def test_no_texts_give_no_vectors(embeddings: BGEEmbeddings) -> None:
    assert embeddings.embed_documents([]) == []


@pytest.mark.parametrize("text", ["", " ", "\n", "\x00", "头\ud800痛", "😀" * 1_000])
def test_odd_texts_have_vectors_too(text: str, embeddings: BGEEmbeddings) -> None:
    assert np.linalg.norm(embeddings.embed_query(text)) == pytest.approx(1, abs=1e-5)


def test_embeddings_pickle_as_their_settings_and_load_again_by_themselves(embeddings: BGEEmbeddings) -> None:
    pickled = pickle.dumps(embeddings)
    assert len(pickled) < 1_000
    again = pickle.loads(pickled)
    assert repr(again) == repr(embeddings)
    assert identity(again) == identity(embeddings)
    assert again.embed_query("头痛") == pytest.approx(embeddings.embed_query("头痛"), abs=1e-6)


def test_threads_take_turns_and_get_their_own_vectors(embeddings: BGEEmbeddings) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(embeddings.embed_query, TEXTS * 3))
    np.testing.assert_allclose(found, embeddings.embed_documents(TEXTS) * 3, atol=1e-5)


def test_code_in_a_models_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    with pytest.raises(ModelNotFoundError, match=r"evil\.Evil"):
        BGEEmbeddings(str(folder))
    assert not (tmp_path / "ran").exists()


def test_an_index_knows_the_weights_it_was_built_with(
    folder: Path, tiny_reranker: Path, embeddings: BGEEmbeddings, tmp_path: Path
) -> None:
    build_index([Document(page_content=text) for text in TEXTS], BGEEmbeddings(str(folder)), tmp_path / "i")
    assert (
        load_index(tmp_path / "i", BGEEmbeddings(str(folder))).similarity_search("头痛", k=1)[0].page_content == "头痛"
    )
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(IndexMismatchError, match="revision=sha256:"):
        load_index(tmp_path / "i", BGEEmbeddings(str(folder)))


def test_texts_are_in_no_log_record(tiny_embedding_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "langchain_bge_medical"):
        BGEEmbeddings(str(tiny_embedding_model), device="cpu").embed_query("canary7741")
    assert "canary7741" not in caplog.text


def test_a_lack_of_memory_is_not_told_as_a_damaged_model(tmp_path: Path) -> None:
    for short in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")):
        with pytest.raises(type(short)), loading("model", tmp_path):
            raise short
    says = r"'model' could not be loaded from .* \(KeyError: 'weight'\)"
    with pytest.raises(ModelNotFoundError, match=says), loading("model", tmp_path):
        raise KeyError("weight")


def test_weights_that_give_no_finite_vector_are_said_to_be_broken(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.LayerNorm.weight.fill_(1e30)  # finite, and too large to multiply
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="gave a vector that is not all finite; its weights are broken"):
        BGEEmbeddings(str(folder)).embed_query("头痛")


def test_only_the_latest_queries_are_remembered_and_all_have_their_vectors(
    tiny_embedding_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langchain_bge_medical import embeddings as module

    monkeypatch.setattr(module, "_REMEMBERED_QUERIES", 2)
    model = BGEEmbeddings(str(tiny_embedding_model))
    texts = ["头痛", "发热", "咳嗽", "头痛"]
    assert np.allclose(model.embed_queries(texts), model.embed_documents(texts), atol=1e-6)
    assert len(model._queries) == 2
    assert repr(model) == f"BGEEmbeddings({str(tiny_embedding_model)!r}, revision=None, device=None)"
