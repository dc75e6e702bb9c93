"""(query, document) pairs → logits and scores. Owns the model: device, dtype, truncation, batches, lock."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_bge_medical.model_files import ModelNotFoundError, model_folder, read_config
from langchain_bge_medical.score_cache import ScoreCache

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DType = Literal["auto", "float32", "float16", "bfloat16", "int8"]
# A query may take this share of max_length, the document gets the rest: FlagEmbedding's FlagReranker cuts so.
_QUERY_SHARE = 0.75
# Padded tokens in one batch. Small batches of equal length are what a CPU is fastest with; a GPU wants to be fed.
_BATCH_TOKENS_CPU, _BATCH_TOKENS_GPU = 2_048, 32_768
# A tokenizer reads whole texts before it cuts them. No tokenizer in use makes a token of more characters than this
# on average, so that nothing that could be kept is lost, and a monster text costs no more than a long one.
_CHARS_PER_TOKEN = 32


class PairLogit(NamedTuple):
    """What the model says of one pair, and how much of it the model did not see."""

    logit: float
    query_tokens_cut: int
    document_tokens_cut: int


class _Pair(NamedTuple):
    input_ids: list[int]
    token_type_ids: list[int]
    query_tokens_cut: int
    document_tokens_cut: int


class _PairTemplate(NamedTuple):
    """The special tokens around a pair, as the model's own tokenizer places them."""

    before: list[int]
    between: list[int]
    after: list[int]
    query_type: int
    document_type: int

    @classmethod
    def of(cls, tokenizer: Any) -> _PairTemplate:
        probe = tokenizer("1", "1", return_special_tokens_mask=True, return_token_type_ids=True)
        ids, types, special = probe["input_ids"], probe["token_type_ids"], probe["special_tokens_mask"]
        text = [i for i, added in enumerate(special) if not added]
        gap = next(i for i, j in itertools.pairwise(text) if j > i + 1)
        resume = text[text.index(gap) + 1]
        return cls(ids[: text[0]], ids[gap + 1 : resume], ids[text[-1] + 1 :], types[gap], types[resume])

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def fill(self, query_ids: list[int], document_ids: list[int]) -> tuple[list[int], list[int]]:
        """Return `input_ids` and `token_type_ids`."""
        head = [*self.before, *query_ids]
        tail = [*document_ids, *self.after]
        # In a BERT pair the separator between the texts counts as the query's; XLM-R has one type only.
        types = [self.query_type] * (len(head) + len(self.between)) + [self.document_type] * len(tail)
        return [*head, *self.between, *tail], types


class BGECrossEncoder(BaseCrossEncoder):
    """A BGE reranker (or any sequence-classification cross-encoder with one label), ready to score.

    Loads through `sentence_transformers.CrossEncoder`, from safetensors only and without remote code.
    May be used from several threads: calls take turns. Pickles as its settings; the copy loads the weights
    again when first used.

    Example:
        ```python
        encoder = BGECrossEncoder("bundled")
        encoder.score([("发烧咳嗽痰多", "社区获得性肺炎"), ("发烧咳嗽痰多", "踝关节扭伤")])
        ```
    """

    def __init__(
        self,
        model_name: str = "BAAI/bge-reranker-v2-m3",
        *,
        revision: str | None = None,
        max_length: int = 512,
        device: str | None = None,
        dtype: DType = "auto",
        batch_tokens: int | None = None,
        cache: ScoreCache | None = None,
    ) -> None:
        """Load the model.

        Args:
            model_name: Hub name, local folder, or `"bundled"`. Another model is never loaded instead.
            revision: Commit, tag or branch on the hub. Pin a commit wherever scores must not change.
            max_length: Tokens of query, document and special tokens together.
            device: `"cpu"`, `"cuda:0"`, …; `None` takes CUDA, else XPU, else the CPU. MPS only when named:
                rerankers hang and leak there.
            dtype: Of the weights. `auto` is float16 on CUDA and XPU, float32 elsewhere; `int8` quantises
                the linear layers dynamically, on the CPU only. The head computes in float32 in all of them,
                so that half precision does not tie scores.
            batch_tokens: Tokens in one batch, padding included; `None` chooses by device.
            cache: Logits of pairs seen before; holds no text.

        Raises:
            ModelNotFoundError: If the model cannot be had, is no reranker, or has no trained head.
            ValueError: If a setting is out of its range, or `max_length` is more than the model can read.
        """
        if dtype not in get_args(DType):
            raise ValueError(f"dtype must be one of {', '.join(get_args(DType))}, got {dtype!r}")
        if max_length < 16:
            raise ValueError(f"max_length must be at least 16 tokens, got {max_length}")
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self.model_name = model_name
        self.revision = revision
        self.max_length = max_length
        self.device = device
        self.dtype: DType = dtype
        self.batch_tokens = batch_tokens
        self.cache = cache
        self._lock = threading.RLock()
        self._model: Any = None
        self._load()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def __repr__(self) -> str:
        settings = f"max_length={self.max_length}, device={self.device!r}, dtype={self.dtype!r}"
        return f"BGECrossEncoder({self.model_name!r}, {settings})"

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score how relevant each document is to its query.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            The sigmoid of each pair's logit, in the order given; in [0, 1], higher is more relevant. It is
            not a probability: the training of BGE rerankers only orders the documents of one query.

        Raises:
            ValueError: As `logits`.
        """
        return [sigmoid(logit) for logit in self.logits(text_pairs)]

    def logits(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the raw output of the model for each pair, unbounded, in the order given.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            One float per pair; higher is more relevant. Independent of the other pairs beyond rounding
            (about 1e-6 in float32).

        Raises:
            ValueError: If a pair is not two texts, or one of them is blank (the message names its position
                and never the text), or the model returns something that is not a finite number.
        """
        return [pair.logit for pair in self.pair_logits(text_pairs)]

    def pair_logits(self, text_pairs: Sequence[tuple[str, str]]) -> list[PairLogit]:
        """Return logits as `logits` does, with what was cut from each pair.

        A query longer than three quarters of `max_length` is cut at the end; the document gets the tokens
        that are left and is cut at the end too.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            One `PairLogit` per pair, in the order given. For texts of more than 32 characters per token of
            `max_length` the counts are lower bounds.

        Raises:
            ValueError: As `logits`.
        """
        pairs = _checked_pairs(text_pairs)
        if not pairs:
            return []
        with self._lock:
            self._load()
            encoded = self._encode(pairs)
            keys = [self._cache_key(pair) for pair in encoded] if self.cache is not None else []
            known = self.cache.get_many(keys) if self.cache is not None else {}
            wanted = [i for i in range(len(encoded)) if not keys or keys[i] not in known]
            logits = {i: known[keys[i]] for i in range(len(encoded)) if keys and keys[i] in known}
            for batch in self._batches(wanted, encoded):
                for i, logit in zip(batch, self._forward([encoded[i] for i in batch]), strict=True):
                    if not math.isfinite(logit):
                        raise ValueError(
                            f"model {self.model_name!r} returned {logit} for pair {i}; its weights are broken"
                        )
                    logits[i] = logit
            if self.cache is not None:
                self.cache.set_many({keys[i]: logits[i] for i in wanted})
        return [PairLogit(logits[i], pair.query_tokens_cut, pair.document_tokens_cut) for i, pair in enumerate(encoded)]

    def token_counts(self, text_pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return how many tokens the model reads of each pair, special ones included and what is cut left out.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            One count per pair, in the order given.

        Raises:
            ValueError: If a pair is not two texts, or one of them is blank.
        """
        pairs = _checked_pairs(text_pairs)
        if not pairs:
            return []
        with self._lock:
            self._load()
            return [len(pair.input_ids) for pair in self._encode(pairs)]

    @property
    def token_budget(self) -> int:
        """Tokens that go into one batch, padding included."""
        return self.batch_tokens or (_BATCH_TOKENS_CPU if self._device == "cpu" else _BATCH_TOKENS_GPU)

    def knows(self, document: str) -> bool:
        """Return whether the model may be trusted with this document's rank alone.

        The bundled reranker was trained on one small knowledge base and lists the digests of its texts; on
        any other text its ranks are to be fused with the first stage's. Every other model knows everything.
        """
        return self._known_documents is None or _digest(document) in self._known_documents

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from sentence_transformers import CrossEncoder

        folder = model_folder(self.model_name, revision=self.revision, kind="reranker")
        _check_reranker(folder, self.model_name)
        self._device = self.device or _best_device()
        half = self._device.startswith(("cuda", "xpu"))
        name = {"auto": "float16" if half else "float32", "int8": "float32"}.get(self.dtype, self.dtype)
        if self.dtype == "int8" and self._device != "cpu":
            raise ValueError(f"dtype='int8' runs on the CPU only, not on {self._device!r}")
        model = CrossEncoder(
            str(folder),
            device=self._device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": getattr(torch, name), "use_safetensors": True},
            activation_fn=torch.nn.Identity(),
        )
        limit = min(model.tokenizer.model_max_length, _position_limit(model.config))
        if self.max_length > limit:
            raise ValueError(f"model {self.model_name!r} reads at most {limit} tokens, max_length is {self.max_length}")
        heads = [
            path
            for path, module in model.named_modules()
            if type(module) is torch.nn.Linear and path.split(".model.", 1)[-1].startswith(("classifier", "score"))
        ]
        model.set_keep_in_fp32_modules(heads)
        if self.dtype == "int8":
            _quantize(model)
        model.eval()
        self._template = _PairTemplate.of(model.tokenizer)
        digests = folder / "known_documents.txt"
        self._known_documents = frozenset(digests.read_text("utf-8").split()) if digests.is_file() else None
        if self.cache is not None:
            self._fingerprint = _fingerprint(folder, f"{name} {self.dtype} {self.max_length}")
        self._model = model

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> list[_Pair]:
        """Tokenise, each distinct text once, and cut."""
        tokenizer = self._model.tokenizer
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        room = self.max_length * _CHARS_PER_TOKEN
        # verbose=False: the warning about texts over the model's length would come for what we cut ourselves.
        ids = tokenizer(
            [_well_formed(text[:room]) for text in texts], add_special_tokens=False, truncation=False, verbose=False
        )["input_ids"]
        tokens = dict(zip(texts, ids, strict=True))
        encoded = []
        for query, document in pairs:
            query_ids, document_ids = tokens[query], tokens[document]
            query_kept = query_ids[: int(self.max_length * _QUERY_SHARE)]
            document_kept = document_ids[: self.max_length - self._template.size - len(query_kept)]
            encoded.append(
                _Pair(
                    *self._template.fill(query_kept, document_kept),
                    len(query_ids) - len(query_kept) + (len(query) > room),
                    len(document_ids) - len(document_kept) + (len(document) > room),
                )
            )
        return encoded

    def _batches(self, wanted: Iterable[int], encoded: Sequence[_Pair]) -> Iterator[list[int]]:
        """Yield positions in batches of similar length whose padded size keeps to the budget."""
        budget = self.token_budget
        batch: list[int] = []
        # Longest first, so that too large a budget fails at once and not at the end.
        for i in sorted(wanted, key=lambda i: len(encoded[i].input_ids), reverse=True):
            if batch and (len(batch) + 1) * len(encoded[batch[0]].input_ids) > budget:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _forward(self, pairs: Sequence[_Pair]) -> list[float]:
        import torch

        tokenizer = self._model.tokenizer
        width = max(len(pair.input_ids) for pair in pairs)
        features: dict[str, torch.Tensor] = {}
        ids = [pair.input_ids + [tokenizer.pad_token_id] * (width - len(pair.input_ids)) for pair in pairs]
        mask = [[1] * len(pair.input_ids) + [0] * (width - len(pair.input_ids)) for pair in pairs]
        features["input_ids"] = torch.tensor(ids, device=self._device)
        features["attention_mask"] = torch.tensor(mask, device=self._device)
        if "token_type_ids" in tokenizer.model_input_names:
            types = [pair.token_type_ids + [0] * (width - len(pair.token_type_ids)) for pair in pairs]
            features["token_type_ids"] = torch.tensor(types, device=self._device)
        with torch.inference_mode():
            scores = self._model(features)["scores"]
        logits: list[float] = scores.float().squeeze(-1).tolist()
        return logits

    def _cache_key(self, pair: _Pair) -> bytes:
        digest = hashlib.blake2b(self._fingerprint, digest_size=16)
        digest.update(b"".join(token.to_bytes(4, "little") for token in pair.input_ids))
        return digest.digest()


def sigmoid(logit: float) -> float:
    """Return the logistic function of `logit`, in double precision, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)


def _checked_pairs(text_pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    if isinstance(text_pairs, str):
        raise ValueError("text_pairs must be a list of (query, document) pairs, got one text")
    for i, pair in enumerate(text_pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"pair {i} must be (query, document), got {type(pair).__name__}")
        for name, text in zip(("query", "document"), pair, strict=True):
            if not isinstance(text, str):
                raise ValueError(
                    f"the {name} of pair {i} must be text, got {type(text).__name__}; are query and documents swapped?"
                )
            if not text.strip():
                raise ValueError(f"the {name} of pair {i} is blank")
    return text_pairs


def _check_reranker(folder: Path, model_name: str) -> None:
    """Refuse what has no trained head with one output: its scores would all sit near 0.5."""
    from safetensors import safe_open

    config = read_config(folder)
    architecture = (config.get("architectures") or ["nothing"])[0]
    if "auto_map" in config:
        raise ModelNotFoundError(
            f"model {model_name!r} needs code of its own (auto_map), which is never run; use another"
        )
    if not architecture.endswith("ForSequenceClassification"):
        raise ModelNotFoundError(
            f"model {model_name!r} is {architecture}, no reranker: it has no trained classification head, and every "
            f"score would be near 0.5. For an embedding model use the reranker of the same family"
        )
    labels = len(config.get("id2label") or {0: ""})
    if config.get("num_labels", labels) != 1:
        raise ModelNotFoundError(f"model {model_name!r} has {labels} labels; a reranker has one")
    keys: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            keys.update(tensors.keys())
    if not any(key.startswith(("classifier", "score")) for key in keys):
        raise ModelNotFoundError(
            f"model {model_name!r} calls itself {architecture}, but its weights hold no classification head; every "
            f"score would be near 0.5"
        )


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"


def _position_limit(config: Any) -> int:
    """Return how many tokens the position table holds; XLM-R numbers them from pad_token_id + 1."""
    table = getattr(config, "max_position_embeddings", None)
    if table is None:
        return 1 << 30
    return int(table) - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


def _quantize(model: Any) -> None:
    """Quantise all linear layers but the head, weights per channel and activations as they come."""
    import torch

    heads = {model.get_submodule(path) for path in model.keep_in_fp32_modules}
    linear = {name: module for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
    chosen = {name: qconfig for name, module in linear.items() if module not in heads}
    with warnings.catch_warnings():
        # torch announces that this moves to torchao. It is what torch itself still has for CPUs.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*", category=UserWarning)
        torch.ao.quantization.quantize_dynamic(model, chosen, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]


def _fingerprint(folder: Path, settings: str) -> bytes:
    """Return a digest of everything that a pair's logit depends on, except the pair."""
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for file in sorted(folder.glob("*")):
        if file.suffix in (".json", ".safetensors", ".model", ".txt") and file.is_file():
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.digest()


def _well_formed(text: str) -> str:
    """Return `text` with lone surrogates, which no tokenizer takes, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
