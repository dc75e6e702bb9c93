"""Where files are: bundled with the package, or for a model also in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

BUNDLED = "bundled"
RESOURCES = Path(__file__).parent / "resources"
_BUNDLED_FOLDERS = {
    "reranker": RESOURCES / "bundled_reranker",
    "embeddings": RESOURCES / "bundled_embeddings",
}
# Configuration, tokenizer and safetensors weights: nothing that could run code when it is read.
_SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_OTHER_BACKENDS = ["onnx/*", "openvino/*"]


class ModelNotFoundError(OSError):
    """A model whose files are neither here nor to be had, or are not what was asked for."""


def model_folder(model_name: str, *, revision: str | None = None, kind: Literal["reranker", "embeddings"]) -> Path:
    """Return the local folder with the files of a model, downloading them if it is a hub name.

    Args:
        model_name: `"bundled"`, a folder, or a hub name like `BAAI/bge-reranker-v2-m3`.
        revision: Commit, tag or branch on the hub; `None` is the newest. Not for folders.
        kind: Which of the bundled models `"bundled"` means.

    Returns:
        A folder with `config.json` and safetensors weights.

    Raises:
        ModelNotFoundError: If the model cannot be had, or has no safetensors weights. The message names
            the model, where it was looked for, and the ways out.
        ValueError: If a revision is given for something that is not on the hub.
    """
    if model_name == BUNDLED:
        folder = _BUNDLED_FOLDERS[kind]
    elif (given := _expanded(model_name)).is_dir():
        folder = given
    elif model_name.startswith((".", "/", "~")) or model_name.count("/") != 1:
        raise ModelNotFoundError(
            f"model {model_name!r}: there is no such folder, and it is no hub name (those look like "
            f'BAAI/bge-reranker-v2-m3); use model_name="bundled" for the small model that comes with this package'
        )
    else:
        return _checked(_from_hub(model_name, revision), model_name)
    if revision is not None:
        raise ValueError(f"model {model_name!r} is not on the hub, so revision={revision!r} means nothing")
    return _checked(folder, model_name)


def bundled_knowledge_base() -> Path:
    """Return the path of the knowledge base that comes with the package: 331 diseases, a JSON array."""
    return RESOURCES / "medical_knowledge.json"


def bundled_calibration() -> Path:
    """Return the path of the calibration of the bundled reranker over the bundled knowledge base."""
    return RESOURCES / "bundled_calibration.json"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the model's `config.json`."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config


def resolved_revision(folder: Path) -> str:
    """Return what exactly the folder holds: the hub's commit, or the SHA-256 of the weights."""
    if folder.parent.name == "snapshots":  # the hub cache names a snapshot's folder by its commit
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()[:16]}"


def _expanded(model_name: str) -> Path:
    try:
        return Path(model_name).expanduser()
    except RuntimeError:  # ~name where there is no such user
        return Path(model_name)


def _from_hub(model_name: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(
            snapshot_download(
                model_name, revision=revision, allow_patterns=_SAFE_FILES, ignore_patterns=_OTHER_BACKENDS
            )
        )
    # What a missing network raises differs between versions and proxies; not all of it is an OSError.
    except Exception as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFoundError(
            f"model {model_name!r}{at} is not in the cache ({constants.HF_HUB_CACHE}) and could not be downloaded "
            f"({type(error).__name__}). Either download it where there is a network "
            f"(`hf download {model_name} --local-dir FOLDER`), copy the folder here and pass its path as the "
            f'model name; or use model_name="bundled", the small model that comes with this package.'
        ) from error


def _checked(folder: Path, model_name: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"model {model_name!r}: {folder} holds no config.json, so it is no model's folder; "
            f"pass the folder that transformers' save_pretrained() or `hf download` wrote"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"model {model_name!r}: {folder} holds no *.safetensors weights. Pickled weights (*.bin, *.pt) are "
            f"never read, because reading them can run code; convert them with transformers' save_pretrained()."
        )
    for pickled in folder.glob("*/pytorch_model.bin"):  # sentence-transformers would read those of its modules
        if not any(pickled.parent.glob("*.safetensors")):
            raise ModelNotFoundError(
                f"model {model_name!r}: {pickled.parent} holds pickled weights only, which are never read; "
                f"save the model again with a current sentence-transformers."
            )
    return folder
