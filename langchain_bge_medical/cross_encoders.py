"""(query, document) pairs → logits and scores. Owns the model: device, dtype, batches, memory, lock, cache."""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_bge_medical.digests import document_digest, take_file
from langchain_bge_medical.model_files import (
    FAMILIES,
    ModelNotFoundError,
    check_names,
    first_position,
    loading,
    model_folder,
    read_config,
    resolved_revision,
    shapes,
)
from langchain_bge_medical.pair_tokenizer import LongDocuments, PairTokenizer, TokenSequence
from langchain_bge_medical.score_cache import CachedLogit, ScoreCache

if TYPE_CHECKING:
    import torch

    from langchain_bge_medical.packed.encoder import PackedEncoder
    from langchain_bge_medical.packed.team import Team

logger = logging.getLogger(__name__)

DType = Literal["auto", "float32", "float16", "bfloat16", "int8"]
# Tokens in one batch. A CPU's core wants what flows between two layers to stay in its cache, a GPU wants to be fed.
_BATCH_TOKENS_CORE, _BATCH_TOKENS_GPU = 1_024, 32_768
# FlagReranker's default.
_USUAL_MAX_LENGTH = 512
# Of a classification head: BERT's and most others', RoBERTa's, decoders'.
_LAST_OF_HEADS = (".classifier.weight", ".classifier.out_proj.weight", ".score.weight")
# Pairs that are tokenised before a GPU gets them, at a time.
_PAIRS_TOKENISED = 256
# Batches that a model is given at a time, for each that it runs side by side.
_BATCHES_AHEAD = 8


class PairLogit(NamedTuple):
    """What the model says of one pair, and how much of it the model did not see."""

    logit: float
    query_tokens_cut: int
    document_tokens_cut: int


class _Launched(NamedTuple):
    """Logits that a GPU may still be computing."""

    pairs: int
    order: list[int]
    """The pair that each logit belongs to."""
    logits: list[torch.Tensor]

    def best(self) -> list[float]:
        """Wait, and return the best logit of each pair's windows."""
        best = [-math.inf] * self.pairs
        for pair, logit in zip(self.order, (logit for some in self.logits for logit in some.tolist()), strict=True):
            # Not max(), which may drop a NaN.
            best[pair] = best[pair] if logit <= best[pair] or math.isnan(best[pair]) else logit
        return best


class _Model(Protocol):
    """A loaded model: token ids → logits."""

    pads: bool
    """Whether the sequences of a batch are filled up to the longest one."""
    side_by_side: int
    """How many batches it computes at once."""
    batch_tokens: int
    """How many tokens a batch should have."""

    def __call__(self, batches: Sequence[Sequence[TokenSequence]]) -> list[torch.Tensor]:
        """Return a logit per sequence of each batch, perhaps before it is computed.

        Raises what torch raises when memory runs out.
        """
        ...


class BGECrossEncoder(BaseCrossEncoder):
    """A BGE reranker (or any sequence-classification cross-encoder with one label), ready to score.

    Models of BERT's or RoBERTa's shape, as all BGE rerankers of encoder type are, run without any padding: the
    pairs of a batch lie end to end, on CPUs with weights laid out for the processor and on CUDA with
    FlashAttention. Others run in padded batches, through `sentence_transformers.CrossEncoder`. Both read
    safetensors only, and no remote code.

    May be used from several threads: calls take turns, but for pairs that the cache knows. Pickles as its
    settings; the copy loads the weights again when first used.

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
        max_length: int | None = None,
        device: str | None = None,
        dtype: DType = "auto",
        batch_tokens: int | None = None,
        long_documents: LongDocuments = "cut",
        cache: ScoreCache | None = None,
    ) -> None:
        """Load the model.

        Args:
            model_name: Hub name, local folder, or `"bundled"`. Another model is never loaded instead.
            revision: Commit, tag or branch on the hub. Pin a commit wherever scores must not change.
            max_length: Tokens of query, document and special tokens together that the model reads at once; `None`
                takes 512, or all that the model can read if that is less.
            device: `"cpu"`, `"cuda:0"`, …; `None` takes CUDA, else XPU, else the CPU. MPS only when named:
                rerankers hang and leak there.
            dtype: Of the weights. `auto` is bfloat16 where the CPU or GPU computes in it (AMX or AVX512-BF16;
                Ampere and newer), float16 on other GPUs, float32 elsewhere. `int8` quantises weights by output
                channel and activations by token as they come, on the CPU only. The head computes in float32 in
                all of them, so that half precision does not tie scores.
            batch_tokens: Tokens in one batch, padding included where there is any; `None` chooses by device. A
                CPU computes a batch on each core. When a batch does not fit into memory, the encoder goes on
                with half as many.
            long_documents: `"cut"` reads what fits into `max_length`; `"windows"` reads up to 8,192 tokens of a
                document in overlapping windows of that size, and the pair's logit is the best window's.
            cache: Logits of pairs seen before; holds no text.

        Raises:
            ModelNotFoundError: If the model cannot be had, is no reranker, has no trained head, or its files are
                damaged or do not belong together.
            ValueError: If a setting is out of its range, or `max_length` is more than the model can read.
        """
        for name, value, kinds in (("dtype", dtype, DType), ("long_documents", long_documents, LongDocuments)):
            if value not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, got {value!r}")
        if max_length is not None and max_length < 16:
            raise ValueError(f"max_length must be at least 16 tokens, got {max_length}")
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self.model_name = model_name
        self.revision = revision
        self.max_length = max_length
        self.device = device
        self.dtype: DType = dtype
        self.batch_tokens = batch_tokens
        self.long_documents: LongDocuments = long_documents
        self.cache = cache
        self._lock = threading.RLock()
        self._model: _Model | None = None
        self._loaded()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _model=None)

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
        that are left and is cut at the end too, or read in windows.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            One `PairLogit` per pair, in the order given. For texts of more than 32 characters per token of
            `max_length` the counts are lower bounds.

        Raises:
            ValueError: As `logits`.
            MemoryError: If the memory of the device does not even hold a batch of one.
        """
        pairs = [(query, document) for query, document in checked_pairs(text_pairs)]
        if not pairs:
            return []
        self._loaded()
        keys = self._keys(pairs)
        known = self._known(keys)
        wanted = list(dict.fromkeys(pair for pair in pairs if keys[pair] not in known))
        if wanted:
            waits = self._device.startswith("cuda")
            encoded = {} if waits else dict(zip(wanted, self._tokenizer(wanted), strict=True))
            with self._lock:
                # Another thread may have scored them while this one waited.
                known.update(self._known({pair: keys[pair] for pair in wanted}, counted=False))
                wanted = [pair for pair in wanted if keys[pair] not in known]
                launched = []
                # A GPU computes some while the next are tokenised.
                for some in _parts(wanted, _PAIRS_TOKENISED if waits else len(wanted)):
                    encoded |= zip(some, self._tokenizer(some), strict=True) if waits else ()
                    launched.append(self._launch([encoded[pair].sequences for pair in some]))
                best = [logit for one in launched for logit in one.best()]
                fresh = {
                    keys[pair]: CachedLogit(logit, encoded[pair].query_tokens_cut, encoded[pair].document_tokens_cut)
                    for pair, logit in zip(wanted, best, strict=True)
                }
                for i, pair in enumerate(pairs):
                    if keys[pair] in fresh and not math.isfinite(fresh[keys[pair]].logit):
                        logit = fresh[keys[pair]].logit
                        raise ValueError(
                            f"model {self.model_name!r} returned {logit} for pair {i}; its weights are broken"
                        )
                if self.cache is not None:
                    self.cache.set_many(fresh)
            known.update(fresh)
        return [PairLogit(*known[keys[pair]]) for pair in pairs]

    def token_counts(self, text_pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return how many tokens the model will have to read for each pair.

        Args:
            text_pairs: `(query, document)` pairs. May be empty.

        Returns:
            One count per pair, in the order given, special tokens included and what is cut left out; 0 for a
            pair that the cache knows.

        Raises:
            ValueError: If a pair is not two texts, or one of them is blank.
        """
        pairs = [(query, document) for query, document in checked_pairs(text_pairs)]
        if not pairs:
            return []
        self._loaded()
        keys = self._keys(pairs)
        known = self._known(keys, counted=False)
        wanted = list(dict.fromkeys(pair for pair in pairs if keys[pair] not in known))
        counts = {pair: encoded.tokens for pair, encoded in zip(wanted, self._tokenizer(wanted), strict=True)}
        return [counts.get(pair, 0) for pair in pairs]

    @property
    def token_budget(self) -> int:
        """Tokens that keep the device busy for a batch, or for one on each core, padding included."""
        model = self._loaded()
        return self._budget * model.side_by_side

    @property
    def pads(self) -> bool:
        """Whether the pairs of a batch are filled up to the longest one, so that like lengths should share one."""
        return self._loaded().pads

    @property
    def loaded_dtype(self) -> str | None:
        """What the loaded model computes in, e.g. `bfloat16` where `dtype="auto"`; `None` before it is loaded."""
        return self._loaded_dtype if self._model is not None else None

    def knows(self, document: str) -> bool:
        """Return whether the model may be trusted with this document's rank alone.

        The bundled reranker was trained on one small knowledge base and lists the digests of its texts; on
        any other text its ranks are to be fused with the first stage's. Every other model knows everything.
        """
        self._loaded()
        return self._known_documents is None or document_digest(document) in self._known_documents

    def _loaded(self) -> _Model:
        if self._model is None:
            with self._lock:
                if self._model is None:
                    self._load()
        model = self._model
        assert model is not None  # noqa: S101 - for the type checker
        return model

    def _load(self) -> None:
        folder = model_folder(self.model_name, revision=self.revision, kind="reranker")
        _check_reranker(folder, self.model_name)
        device = self.device or _best_device()
        if self.dtype == "int8" and device != "cpu":
            raise ValueError(f"dtype='int8' runs on the CPU only, not on {device!r}")
        dtype = _resolved(self.dtype, device)
        with loading(self.model_name, folder):
            model, tokenizer, config = _open(folder, device, dtype, int8=self.dtype == "int8")
            limit = min(tokenizer.model_max_length, position_limit(config))
        if self.max_length is None:
            self.max_length = min(_USUAL_MAX_LENGTH, limit)
        if self.max_length > limit:
            raise ValueError(f"model {self.model_name!r} reads at most {limit} tokens, max_length is {self.max_length}")
        with loading(self.model_name, folder):
            self._tokenizer = PairTokenizer(tokenizer, self.max_length, self.long_documents)
        self._budget = self.batch_tokens or model.batch_tokens
        self._device = device
        self._loaded_dtype = "int8" if self.dtype == "int8" else dtype
        digests = folder / "known_documents.txt"
        self._known_documents = frozenset(digests.read_text("utf-8").split()) if digests.is_file() else None
        if self.cache is not None:
            kind = f"{dtype} {'int8' if self.dtype == 'int8' else ''}"
            settings = (kind, str(self.max_length), self.long_documents, "query at most 3/4")
            self._key_fields = [*_identity(folder, self.model_name), *(part.encode() for part in settings)]
        self._model = model

    def _keys(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """Return what a pair is known by: its key in the cache, or without one itself."""
        if self.cache is None:
            return {pair: pair for pair in pairs}
        return dict(zip(pairs, self.cache.keys(self._key_fields, pairs), strict=True))

    def _known(self, keys: dict[tuple[str, str], Any], *, counted: bool = True) -> dict[Any, CachedLogit]:
        return {} if self.cache is None else dict(self.cache.get_many(list(keys.values()), counted=counted))

    def _launch(self, windows: Sequence[Sequence[TokenSequence]]) -> _Launched:
        """Run the model in batches of similar length within the budget, and with a smaller one if memory is short."""
        model = self._loaded()
        flat = [(i, sequence) for i, some in enumerate(windows) for sequence in some]
        # Longest first, so that too large a budget fails at once and not at the end.
        waiting = sorted(range(len(flat)), key=lambda place: len(flat[place][1].input_ids), reverse=True)
        order: list[int] = []
        done: list[torch.Tensor] = []
        while waiting:
            lengths = [len(flat[place][1].input_ids) for place in waiting]
            number = _fitting(lengths, self._budget * model.side_by_side * _BATCHES_AHEAD, pads=False)
            planned = _plan(lengths[:number], self._budget, pads=model.pads, side_by_side=model.side_by_side)
            out = _run(model, [[flat[waiting[place]][1] for place in batch] for batch in planned])
            if out is None:
                self._halve([[lengths[place] for place in batch] for batch in planned])
                continue
            order += [flat[waiting[place]][0] for batch in planned for place in batch]
            done += out
            del waiting[:number]
        return _Launched(len(windows), order, done)

    def _halve(self, batches: Sequence[Sequence[int]]) -> None:
        """Make batches smaller than these, given by the lengths in them."""
        longest = max(max(batch) for batch in batches)
        if len(batches) == len(batches[0]) == 1:
            raise MemoryError(
                f"out of memory: {self._device} has not enough for one pair of {longest} tokens; lower max_length "
                f"(now {self.max_length}), take a smaller dtype, or free what else is on the device"
            )
        _free_memory(self._device)
        largest = max(sum(batch) for batch in batches)
        self._budget = max(1, min(self._budget, largest) // 2)
        logger.warning("%s ran out of memory; batches are of %d tokens from now on", self._device, self._budget)


class _PackedModel:
    """A BERT- or RoBERTa-shaped model, through this package's own forward pass."""

    pads = False

    def __init__(self, encoder: PackedEncoder, team: Team | None) -> None:
        self._encoder, self._team = encoder, team
        self.side_by_side = team.size if team else 1
        self.batch_tokens = _BATCH_TOKENS_CORE * team.cores_each if team else _BATCH_TOKENS_GPU

    def __call__(self, batches: Sequence[Sequence[TokenSequence]]) -> list[torch.Tensor]:
        return self._team.map(self._one, batches) if self._team else [self._one(batch) for batch in batches]

    def _one(self, batch: Sequence[TokenSequence]) -> torch.Tensor:
        import torch

        from langchain_bge_medical.packed.encoder import Sequences

        packed = Sequences(
            [token for sequence in batch for token in sequence.input_ids],
            [kind for sequence in batch for kind in sequence.token_type_ids],
            [len(sequence.input_ids) for sequence in batch],
        )
        with torch.inference_mode():
            return self._encoder(packed)


class _PaddedModel:
    """Any other model, through sentence-transformers."""

    pads = True
    side_by_side = 1

    def __init__(self, model: Any, device: str) -> None:
        self._model, self._device = model, device
        self.batch_tokens = 2 * _BATCH_TOKENS_CORE if device == "cpu" else _BATCH_TOKENS_GPU

    def __call__(self, batches: Sequence[Sequence[TokenSequence]]) -> list[torch.Tensor]:
        return [self._one(batch) for batch in batches]

    def _one(self, batch: Sequence[TokenSequence]) -> torch.Tensor:
        import torch

        tokenizer = self._model.tokenizer
        width = max(len(sequence.input_ids) for sequence in batch)
        both = [(sequence, width - len(sequence.input_ids)) for sequence in batch]
        features: dict[str, torch.Tensor] = {}
        ids = [sequence.input_ids + [tokenizer.pad_token_id] * gap for sequence, gap in both]
        mask = [[1] * (width - gap) + [0] * gap for _, gap in both]
        features["input_ids"] = torch.tensor(ids, device=self._device)
        features["attention_mask"] = torch.tensor(mask, device=self._device)
        if "token_type_ids" in tokenizer.model_input_names:
            types = [sequence.token_type_ids + [0] * gap for sequence, gap in both]
            features["token_type_ids"] = torch.tensor(types, device=self._device)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(features)["scores"].float().squeeze(-1)
        return logits


def _open(folder: Path, device: str, dtype: str, *, int8: bool) -> tuple[_Model, Any, Any]:
    """Return the model, its tokenizer and its config."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from langchain_bge_medical.packed.encoder import PackedEncoder, can_pack
    from langchain_bge_medical.packed.team import Team
    from langchain_bge_medical.packed.weights import SafetensorsWeights

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    weights = SafetensorsWeights(folder)
    where = torch.device(device)
    if where.type in ("cpu", "cuda") and can_pack(config, weights.names) and _is_plain(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.inference_mode():
            encoder = PackedEncoder(config, weights, device=where, dtype=getattr(torch, dtype), int8=int8)
        return _PackedModel(encoder, Team() if where.type == "cpu" else None), tokenizer, config
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": torch.float32 if int8 else getattr(torch, dtype), "use_safetensors": True},
        activation_fn=torch.nn.Identity(),
    )
    heads = [
        path
        for path, module in model.named_modules()
        if type(module) is torch.nn.Linear and path.split(".model.", 1)[-1].startswith(("classifier", "score"))
    ]
    model.set_keep_in_fp32_modules(heads)
    if int8:
        _quantize(model)
    model.eval()
    return _PaddedModel(model, device), model.tokenizer, model.config


def _is_plain(folder: Path) -> bool:
    """Return whether the model is a transformer and nothing else, as far as sentence-transformers was told."""
    modules = folder / "modules.json"
    return not modules.is_file() or len(json.loads(modules.read_text("utf-8"))) == 1


def _resolved(dtype: DType, device: str) -> str:
    """Return what `auto` means on a device, and what goes with `int8`."""
    import torch

    if dtype not in ("auto", "int8"):
        return dtype
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.startswith("xpu"):
        return "float16"
    supported = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    return "bfloat16" if device == "cpu" and any(check() for check in supported if check) else "float32"


def _parts(pairs: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    for start in range(0, len(pairs), max(1, size)):
        yield pairs[start : start + size]


def _fitting(lengths: Sequence[int], budget: int, *, pads: bool) -> int:
    """Return how many of the sequences, longest first, go into a batch; at least one."""
    tokens = 0
    for number, length in enumerate(lengths):
        tokens = (number + 1) * lengths[0] if pads else tokens + length
        if tokens > budget and number:
            return number
    return len(lengths)


def _plan(lengths: Sequence[int], budget: int, *, pads: bool, side_by_side: int) -> list[list[int]]:
    """Return batches of places in `lengths`, which go from long to short.

    For batches that are computed in turn: neighbours, as many as fit. For those side by side: as many batches as
    keep all busy, of as equal a size as can be (longest processing time first, Graham 1969), none much over budget.
    """
    batches: list[list[int]] = []
    if side_by_side == 1:
        while (start := sum(map(len, batches))) < len(lengths):
            number = _fitting(lengths[start:], budget, pads=pads)
            batches.append([*range(start, start + number)])
        return batches
    rounds = -(-sum(lengths) // (budget * side_by_side))
    batches = [[] for _ in range(min(len(lengths), rounds * side_by_side))]
    least = [(0, number) for number in range(len(batches))]
    for place, length in enumerate(lengths):
        tokens, number = least[0]
        batches[number].append(place)
        heapq.heapreplace(least, (tokens + length, number))
    return batches


def _run(model: _Model, batches: Sequence[Sequence[TokenSequence]]) -> list[torch.Tensor] | None:
    """Return the logits, or `None` if memory ran out. By returning, what the failed attempt held is let go."""
    try:
        return model(batches)
    except (RuntimeError, MemoryError) as error:
        words = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words:
            return None
        raise


def _free_memory(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("xpu"):
        torch.xpu.empty_cache()


def sigmoid(logit: float) -> float:
    """Return the logistic function of `logit`, in double precision, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)


def checked_pairs(text_pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Return the pairs as they are.

    Raises:
        ValueError: If one is not two texts, or has a blank one; names its position, never the text.
    """
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
    config = read_config(folder)
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else "nothing"
    if "auto_map" in config:
        raise ModelNotFoundError(
            f"model {model_name!r} needs code of its own (auto_map), which is never run; use another"
        )
    if not architecture.endswith("ForSequenceClassification"):
        raise ModelNotFoundError(
            f"model {model_name!r} is {architecture}, no reranker: it has no trained classification head, and every "
            f"score would be near 0.5. For an embedding model use the reranker of the same family"
        )
    parameters = shapes(folder)
    labels = config.get("num_labels", len(config.get("id2label") or {0: ""}))
    # The last layer of the head has a row for each label, whatever the config says.
    rows = [shape[0] for name, shape in parameters.items() if f".{name}".endswith(_LAST_OF_HEADS) and shape]
    if labels != 1 or any(number != 1 for number in rows):
        raise ModelNotFoundError(
            f"model {model_name!r} has {labels if labels != 1 else rows[0]} labels; a reranker has one"
        )
    if not any(key.startswith(("classifier", "score")) for key in parameters):
        raise ModelNotFoundError(
            f"model {model_name!r} calls itself {architecture}, but its weights hold no classification head; every "
            f"score would be near 0.5"
        )
    if family := FAMILIES.get(str(config.get("model_type"))):
        check_names(parameters, family, family.head_parameters(), f"model {model_name!r}: {folder}")


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"


def position_limit(config: Any) -> int:
    """Return how many tokens the position table of a model holds, by its transformers config."""
    table = getattr(config, "max_position_embeddings", None)
    if table is None:
        return 1 << 30
    return int(table) - first_position(config)


def _quantize(model: Any) -> None:
    """Quantise all linear layers but the head, as the packed encoder does."""
    import torch

    from langchain_bge_medical.packed.linear import Int8Linear

    class Int8(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            bias = linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.out_features)
            self._linear = Int8Linear(linear.weight.detach(), bias.detach())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._linear(x.flatten(0, -2)).view(*x.shape[:-1], -1)

    heads = set(model.keep_in_fp32_modules)
    for path, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and path not in heads:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Int8(module))


def _identity(folder: Path, model_name: str) -> list[bytes]:
    """Return what tells a model's files from all others': the hub's name and commit, or a digest of everything."""
    if folder.parent.name == "snapshots":
        return [model_name.encode(), resolved_revision(folder).encode()]
    digest = hashlib.blake2b(digest_size=32)
    for file in sorted(folder.glob("*")):
        if file.suffix in (".json", ".safetensors", ".model", ".txt") and file.is_file():
            digest.update(file.name.encode() + b"\0")
            take_file(digest, file)
    return [digest.digest()]
