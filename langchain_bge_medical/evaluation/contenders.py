"""Ways to score the same pairs with the same weights, each driven as its own documentation says: ours and others'."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

Pairs = Sequence[tuple[str, str]]
Score = Callable[[Pairs], Sequence[float]]

_USUAL_MAX_LENGTH = 512
# Pairs that static quantisation is calibrated with, in batches; none of them is measured.
_CALIBRATION_BATCHES, _CALIBRATION_BATCH = 6, 8


def max_length(model: Path) -> int:
    """Return the tokens of a pair that everyone reads: 512, or fewer where the model can't."""
    return min(_USUAL_MAX_LENGTH, int(tokenizer_of(model).model_max_length))


@dataclass(frozen=True)
class Contender:
    """A way to score pairs.

    Attributes:
        name: As it stands in the table.
        load: Takes the model's folder, a folder for what is made from it, and the setting; returns what scores.
        settings: What may be chosen, batch sizes mostly; the fastest of them counts.
        needs: Modules that must be importable.
        prepare: Makes what `load` reads, once; takes the two folders and some pairs to calibrate with.
    """

    name: str
    load: Callable[[Path, Path, Any], Score]
    settings: tuple[Any, ...] = (None,)
    needs: tuple[str, ...] = ()
    prepare: Callable[[Path, Path, Pairs], None] | None = None

    @property
    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]


def _ours(dtype: str, device: str, model: Path, made: Path, setting: Any) -> Score:
    from langchain_bge_medical.cross_encoders import BGECrossEncoder

    encoder = BGECrossEncoder(str(model), max_length=max_length(model), dtype=dtype, device=device)  # type: ignore[arg-type]
    return encoder.logits


@lru_cache(maxsize=1)
def _cross_encoder(model: Path, dtype: str, device: str) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(model), device=device, max_length=max_length(model), model_kwargs={"dtype": getattr(torch, dtype)},
        activation_fn=torch.nn.Identity(), local_files_only=True,
    )  # fmt: skip


def _sentence_transformers(device: str, model: Path, made: Path, setting: tuple[str, int]) -> Score:
    dtype, batch_size = setting
    encoder = _cross_encoder(model, dtype, device)
    return lambda pairs: encoder.predict(list(pairs), batch_size=batch_size, show_progress_bar=False).tolist()


def _torchao(model: Path, made: Path, setting: tuple[str, int]) -> Score:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    dtype, batch_size = setting
    encoder = _cross_encoder(model, dtype, "cpu")
    quantize_(encoder, Int8DynamicActivationInt8WeightConfig())
    return lambda pairs: encoder.predict(list(pairs), batch_size=batch_size, show_progress_bar=False).tolist()


def _flag_embedding(device: str, model: Path, made: Path, batch_size: int) -> Score:
    reranker = _flag_reranker(model, device)
    return lambda pairs: list(reranker.compute_score(list(pairs), batch_size=batch_size))


@lru_cache(maxsize=1)
def _flag_reranker(model: Path, device: str) -> Any:
    from FlagEmbedding import FlagReranker

    return FlagReranker(str(model), use_fp16=device != "cpu", devices=[device], max_length=max_length(model))


def _prepare_openvino(model: Path, made: Path, pairs: Pairs) -> None:
    import openvino

    if (made / "openvino.xml").exists():
        return
    wrapped, example = _traceable(model)
    shape = [-1, -1]
    graph = openvino.convert_model(
        wrapped, example_input=example, input=[(name, shape, openvino.Type.i64) for name in example]
    )
    openvino.save_model(graph, made / "openvino.xml", compress_to_fp16=False)


def _prepare_openvino_int8(model: Path, made: Path, pairs: Pairs) -> None:
    import nncf
    import openvino

    if (made / "openvino_int8.xml").exists():
        return
    _prepare_openvino(model, made, pairs)
    batches = list(_padded_batches(model, pairs, _CALIBRATION_BATCH))[:_CALIBRATION_BATCHES]
    graph = openvino.Core().read_model(made / "openvino.xml")
    # What sentence-transformers' export_static_quantized_openvino_model does.
    quantized = nncf.quantize(
        graph, nncf.Dataset([features for _, features in batches]), model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches), advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alpha=0.95),
    )  # fmt: skip
    openvino.save_model(quantized, made / "openvino_int8.xml", compress_to_fp16=False)


def _openvino(file: str, precision: str, model: Path, made: Path, batch_size: int) -> Score:
    compiled = _compiled(made / file, precision)
    return _batched(model, batch_size, lambda features: compiled(features)[0])


@lru_cache(maxsize=1)
def _compiled(file: Path, precision: str) -> Any:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(file, "CPU", settings)


def _prepare_onnx(model: Path, made: Path, pairs: Pairs) -> None:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if (made / "model_int8.onnx").exists():
        return
    wrapped, example = _traceable(model)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        wrapped, tuple(example.values()), input_names=list(example), output_names=["logits"],
        dynamic_shapes=(free,) * len(example), dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None  # noqa: S101 - with dynamo=True it never is
    program.save(made / "model.onnx", external_data=True)
    quantize_dynamic(made / "model.onnx", made / "model_int8.onnx", weight_type=QuantType.QInt8, per_channel=True)


def _onnx(file: str, model: Path, made: Path, batch_size: int) -> Score:
    session = _session(made / file)
    return _batched(model, batch_size, lambda features: session.run(None, features)[0])


@lru_cache(maxsize=1)
def _session(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def _flashrank(model: Path, made: Path, setting: Any) -> Score:
    from flashrank import Ranker, RerankRequest

    # FlashRank knows models by name only: this one's files under one of its names.
    name, file = "ms-marco-MultiBERT-L-12", "flashrank-MultiBERT-L12_Q.onnx"
    folder = made / "flashrank" / name
    if not folder.exists():
        folder.mkdir(parents=True)
        for part in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(model / part, folder / part)
        special = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
        tokens = {key: value for key, value in special.items() if key.endswith("_token") and isinstance(value, str)}
        (folder / "special_tokens_map.json").write_text(json.dumps(tokens), "utf-8")
        (folder / file).symlink_to(made / "model_int8.onnx")
    ranker = Ranker(name, cache_dir=str(made / "flashrank"), max_length=max_length(model), log_level="WARNING")

    def score(pairs: Pairs) -> list[float]:
        passages = [{"id": i, "text": document} for i, (_, document) in enumerate(pairs)]
        ranked = ranker.rerank(RerankRequest(query=pairs[0][0], passages=passages))
        scores = {passage["id"]: float(passage["score"]) for passage in ranked}
        return [math.log(scores[i] / (1 - scores[i])) for i in range(len(pairs))]

    return score


_HALF_AND_WHOLE = tuple((dtype, size) for dtype in ("bfloat16", "float32") for size in (4, 8, 16, 32))
_SIZES = (1, 4, 8, 16)
_GPU_SIZES = (16, 32, 64, 128, 256)
_ONNX = ("onnxruntime", "onnx", "onnxscript")


def _ours_in(device: str, *dtypes: str) -> tuple[Contender, ...]:
    return tuple(Contender(f"ours, {dtype}", partial(_ours, dtype, device)) for dtype in dtypes)


def _cross_encoders(device: str, settings: tuple[tuple[str, int], ...]) -> tuple[Contender, ...]:
    load = partial(_sentence_transformers, device)
    return (
        Contender("CrossEncoder.predict, as it comes", load, (("float32", 32),)),
        Contender("CrossEncoder.predict, best", load, settings),
    )


OURS = _ours_in("cpu", "auto", "int8", "float32")
PEERS = (
    *_cross_encoders("cpu", _HALF_AND_WHOLE),
    Contender("CrossEncoder + torchao int8", _torchao, (("bfloat16", 8), ("float32", 8)), ("torchao",)),
    Contender("FlagReranker, best", partial(_flag_embedding, "cpu"), (4, 8, 32), ("FlagEmbedding",)),
    Contender(
        "OpenVINO bf16, best", partial(_openvino, "openvino.xml", "bf16"), _SIZES, ("openvino",), _prepare_openvino
    ),
    Contender(
        "OpenVINO int8 (NNCF), best", partial(_openvino, "openvino_int8.xml", "bf16"), _SIZES, ("openvino", "nncf"),
        _prepare_openvino_int8,
    ),
    Contender("ONNX Runtime fp32, best", partial(_onnx, "model.onnx"), _SIZES, _ONNX, _prepare_onnx),
    Contender("ONNX Runtime int8, best", partial(_onnx, "model_int8.onnx"), _SIZES, _ONNX, _prepare_onnx),
    Contender("FlashRank (int8), as it comes", _flashrank, (None,), ("flashrank", *_ONNX), _prepare_onnx),
)  # fmt: skip


def contenders_on(device: str) -> tuple[tuple[Contender, ...], tuple[Contender, ...]]:
    """Return ours and the others that run on a device, e.g. `cpu` or `cuda`."""
    if device == "cpu":
        return OURS, PEERS
    peers = (
        *_cross_encoders(device, tuple(("bfloat16", size) for size in _GPU_SIZES)),
        Contender("FlagReranker (fp16), best", partial(_flag_embedding, device), _GPU_SIZES, ("FlagEmbedding",)),
    )
    return _ours_in(device, "auto", "float16"), peers


def _traceable(model: Path) -> tuple[Any, dict[str, Any]]:
    """Return the model in float32 as a module of two or three inputs and one output, with an example of its inputs."""
    import torch
    from transformers import AutoModelForSequenceClassification

    names = _inputs(tokenizer_of(model))

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)

        def logits(self, *inputs: torch.Tensor) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).logits

    class Pair(Logits):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.logits(input_ids, attention_mask)

    class Typed(Logits):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
            return self.logits(input_ids, attention_mask, token_type_ids)

    ids = torch.randint(5, 100, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    example = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return (Typed if len(names) == 3 else Pair)().eval(), {name: example[name] for name in names}


def _inputs(tokenizer: Any) -> list[str]:
    return [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokenizer.model_input_names]


@lru_cache(maxsize=1)
def tokenizer_of(model: Path) -> Any:
    """Return the tokenizer in the model's folder; read once."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True)


def _padded_batches(model: Path, pairs: Pairs, size: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Yield positions and features of batches sorted by length, as sentence-transformers does for these runtimes."""
    import numpy as np

    tokenizer = tokenizer_of(model)
    queries, documents = zip(*pairs, strict=True)
    names = _inputs(tokenizer)
    encoded = tokenizer(
        list(queries), list(documents), truncation="only_second", max_length=max_length(model),
        return_token_type_ids="token_type_ids" in names,
    )  # fmt: skip
    order = sorted(range(len(pairs)), key=lambda i: -len(encoded["input_ids"][i]))
    for start in range(0, len(pairs), size):
        some = order[start : start + size]
        width = max(len(encoded["input_ids"][i]) for i in some)
        features = {name: np.zeros((len(some), width), dtype=np.int64) for name in names}
        features["input_ids"][:] = tokenizer.pad_token_id
        for name in names:
            for row, i in enumerate(some):
                features[name][row, : len(encoded[name][i])] = encoded[name][i]
        yield some, features


def _batched(model: Path, size: int, run: Callable[[dict[str, Any]], Any]) -> Score:
    def score(pairs: Pairs) -> list[float]:
        logits = [0.0] * len(pairs)
        for positions, features in _padded_batches(model, pairs, size):
            for i, logit in zip(positions, run(features).ravel().tolist(), strict=True):
                logits[i] = logit
        return logits

    return score
