"""Where files are: bundled with the package, or for a model also in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from langchain_bge_medical.digests import take_file

BUNDLED = "bundled"
RESOURCES = Path(__file__).parent / "resources"
_BUNDLED_FOLDERS = {
    "reranker": RESOURCES / "bundled_reranker",
    "embeddings": RESOURCES / "bundled_embeddings",
}
# Configuration, tokenizer and safetensors weights: nothing that could run code when it is read.
_SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_OTHER_BACKENDS = ["onnx/*", "openvino/*"]
# One of these is a tokenizer's vocabulary. Without any, transformers makes up an empty one, and all texts look alike.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
_IN_A_LAYER = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
_IN_A_LAYER += ["attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"]
_LAYER = re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\..+")
# Whose positions are numbered from pad_token_id + 1, besides those with RoBERTa in the name.
_POSITIONS_AFTER_PAD = (
    "camembert",
    "mpnet",
    "longformer",
    "data2vec-text",
    "ibert",
    "lilt",
    "luke",
    "markuplm",
    "xmod",
)


class ModelFamily(NamedTuple):
    """What the parameters of a family of post-LayerNorm encoders are called."""

    prefix: str
    """Of the encoder's."""
    head: tuple[str, str]
    """A reranker's two linear layers, with a tanh between them."""

    def encoder_parameters(self, layers: int) -> list[str]:
        """Return the names of the parameters of an encoder with so many layers."""
        embeddings = f"{self.prefix}.embeddings"
        names = [f"{embeddings}.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
        both = [f"{embeddings}.LayerNorm"]
        both += [f"{self.prefix}.encoder.layer.{number}.{part}" for number in range(layers) for part in _IN_A_LAYER]
        return names + _weights_and_biases(both)

    def head_parameters(self) -> list[str]:
        """Return the names of the parameters of the head."""
        return _weights_and_biases(self.head)


# Whose parameters are known by name, so that it can be told whether all are there. transformers makes up what is not.
_ROBERTA = ModelFamily("roberta", ("classifier.dense", "classifier.out_proj"))
FAMILIES = {
    "bert": ModelFamily("bert", ("bert.pooler.dense", "classifier")),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
}


class ModelNotFoundError(OSError):
    """A model whose files are neither here nor to be had, or are not what was asked for."""


def model_folder(
    model_name: str,
    *,
    revision: str | None = None,
    kind: Literal["reranker", "embeddings"],
    download: bool = True,
) -> Path:
    """Return the local folder with the files of a model, downloading them if it is a hub name.

    Args:
        model_name: `"bundled"`, a folder, or a hub name like `BAAI/bge-reranker-v2-m3`.
        revision: Commit, tag or branch on the hub; `None` is the newest. Not for folders.
        kind: Which of the bundled models `"bundled"` means.
        download: Whether a hub's model that is not in the cache is downloaded.

    Returns:
        A folder with `config.json` and safetensors weights.

    Raises:
        ModelNotFoundError: If the model cannot be had, has no safetensors weights, or its files are damaged or do
            not belong together. The message names the model, where it was looked for, and the ways out.
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
        return _checked(_from_hub(model_name, revision, download), model_name)
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
    """Return the model's `config.json`.

    Raises:
        ModelNotFoundError: If it is no JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelNotFoundError(f"{folder / 'config.json'} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise ModelNotFoundError(f"{folder / 'config.json'} is damaged: it holds no object")
    return config


def _weights_and_biases(modules: Iterable[str]) -> list[str]:
    return [f"{name}.{what}" for name in modules for what in ("weight", "bias")]


def first_position(config: Any) -> int:
    """Return the number of the first token's position in the table of a model, by its transformers config."""
    after_pad = "roberta" in config.model_type or config.model_type in _POSITIONS_AFTER_PAD
    return int(config.pad_token_id) + 1 if after_pad else 0


@contextmanager
def loading(model_name: str, folder: Path) -> Iterator[None]:
    """Turn whatever a library raises over a model's files into one sentence that names model and folder.

    Raises:
        ModelNotFoundError: For anything but a lack of memory.
    """
    try:
        yield
    except (ModelNotFoundError, MemoryError):
        raise
    except Exception as error:
        if "out of memory" in str(error).lower():
            raise
        said = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"model {model_name!r} could not be loaded from {folder} ({type(error).__name__}: {said}); "
            f"get its files again, or pass another model"
        ) from error


def resolved_revision(folder: Path) -> str:
    """Return what exactly the folder holds: the hub's commit, or the SHA-256 of the weights."""
    if folder.parent.name == "snapshots":  # the hub cache names a snapshot's folder by its commit
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        take_file(digest, file)
    return f"sha256:{digest.hexdigest()[:16]}"


def _expanded(model_name: str) -> Path:
    try:
        return Path(model_name).expanduser()
    except RuntimeError:  # ~name where there is no such user
        return Path(model_name)


def _from_hub(model_name: str, revision: str | None, download: bool) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(
            snapshot_download(
                model_name,
                revision=revision,
                allow_patterns=_SAFE_FILES,
                ignore_patterns=_OTHER_BACKENDS,
                local_files_only=not download,
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
    config = read_config(folder)
    if "_attn_implementation_internal" in config:  # CVE-2026-4372: transformers would run code from the hub
        raise ModelNotFoundError(f"model {model_name!r} names an attention kernel of its own, which is never run")
    if not any(any(where.glob(name)) for where in (folder, *_folders(folder)) for name in _VOCABULARIES):
        raise ModelNotFoundError(f"model {model_name!r}: {folder} holds no tokenizer ({', '.join(_VOCABULARIES)})")
    if str(config.get("model_type")) in FAMILIES:
        _check_parameters(shapes(folder), config, f"model {model_name!r}: {folder}")
    return folder


def shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of each parameter in the folder's safetensors files, by its name.

    Raises:
        ModelNotFoundError: If one of them is damaged.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "np") as tensors:
                found.update({name: tensors.get_slice(name).get_shape() for name in tensors.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise ModelNotFoundError(f"{file} is damaged ({error}); get it again") from None
    return found


def check_names(found: Iterable[str], family: ModelFamily, wanted: Iterable[str], model: str) -> None:
    """Refuse a model without all of the parameters wanted: transformers would make up random ones, anew at each load.

    Raises:
        ModelNotFoundError: Names the model and the first that is missing.
    """
    # As transformers reads them: old files have other names for a norm's, those of an encoder alone no prefix.
    old = {"gamma": "weight", "beta": "bias"}
    renamed = (re.sub("(?<=LayerNorm\\.)(gamma|beta)$", lambda match: old[match[1]], name) for name in found)
    bare = {name.removeprefix(f"{family.prefix}.") for name in renamed}
    missing = [name for name in wanted if name.removeprefix(f"{family.prefix}.") not in bare]
    if missing:
        raise ModelNotFoundError(f"{model} has no weights of {missing[0]}; get its files again")


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _check_parameters(found: dict[str, list[int]], config: dict[str, Any], model: str) -> None:
    """Refuse a model of a known family without all layers that it says it has, or of other sizes."""
    layers = {int(match[1]) for match in map(_LAYER.fullmatch, found) if match}
    number = config.get("num_hidden_layers")
    if not isinstance(number, int) or sorted(layers) != list(range(number)):
        raise ModelNotFoundError(f"{model} has weights of {len(layers)} layers, its config.json says {number}")
    family = FAMILIES[config["model_type"]]
    check_names(found, family, family.encoder_parameters(number), model)
    width = config.get("hidden_size")
    for kind, rows in (
        ("word_embeddings", config.get("vocab_size")),
        ("position_embeddings", config.get("max_position_embeddings")),
        ("attention.self.query", width),
    ):
        for name, shape in found.items():
            if name.endswith(f"{kind}.weight") and shape != [rows, width]:
                raise ModelNotFoundError(f"{model} has {name} of {shape}, its config.json says {[rows, width]}")
