"""Token ids of many pairs, end to end → one logit each: a post-LayerNorm encoder's forward pass without padding."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from langchain_bge_medical.model_files import FAMILIES, first_position
from langchain_bge_medical.packed.attention import Attention, attention_for
from langchain_bge_medical.packed.linear import EpilogueLinear, Int8Linear, Linear, PlainLinear, PrepackedLinear
from langchain_bge_medical.packed.weights import Weights

# oneDNN makes a kernel for each number of rows it meets, half a millisecond each; few numbers, few kernels.
_ROWS_ROUNDED_TO = 32


class Sequences(NamedTuple):
    """Sequences that lie end to end in one row."""

    input_ids: Sequence[int]
    token_type_ids: Sequence[int]
    """As many."""
    lengths: Sequence[int]
    """Of each sequence, none of them 0; they add up to the number of ids. Equal neighbours are fastest."""


def can_pack(config: Any, names: Collection[str]) -> bool:
    """Return whether `PackedEncoder` computes what a model computes.

    Args:
        config: The model's transformers config.
        names: Of its parameters.
    """
    family = FAMILIES.get(config.model_type)
    if family is None or config.num_labels != 1:
        return False
    known = (
        config.hidden_act == "gelu"
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "add_cross_attention", False)
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
    )
    return known and {*family.encoder_parameters(config.num_hidden_layers), *family.head_parameters()} <= set(names)


class _Norm(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class _AfterAttention(NamedTuple):
    """The part of a layer that knows no sequences."""

    out: Linear
    out_norm: _Norm
    up: Linear
    down: Linear
    down_norm: _Norm

    def __call__(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = self.out_norm(self.out(attended).add_(x))
        return self.down_norm(self.down(self.up(x)).add_(x))


class PackedEncoder:
    """A BERT- or RoBERTa-shaped encoder with a head of one output, over sequences without padding.

    All tokens of a batch go through the linear layers as one matrix; only attention knows where a sequence ends.
    After the last attention only the first token of each sequence goes on, since the head reads no other. The
    head is float32, or scores in half precision would tie.

    A logit depends on its own sequence alone, beyond rounding.
    """

    def __init__(
        self,
        config: Any,
        weights: Weights,
        *,
        device: torch.device,
        dtype: torch.dtype,
        int8: bool = False,
    ) -> None:
        """Lay the weights out for the device.

        Args:
            config: The model's transformers config, one that `can_pack`.
            weights: Gives each parameter by name, and is asked for each once.
            device: Where to compute.
            dtype: Of the weights and of what flows between layers.
            int8: Compute the layers' products in int8, on a CPU. `dtype` is then that of attention and
                embeddings, and float32 flows between layers.
        """
        self._device = device
        self._weights = weights
        self._flow = torch.float32 if int8 else dtype
        self._attention_dtype = dtype
        self._attention = attention_for(device, dtype)
        self._heads = config.num_attention_heads
        self._eps = config.layer_norm_eps
        family = FAMILIES[config.model_type]
        self._first_position = first_position(config)

        embeddings = f"{family.prefix}.embeddings"
        self._words = self._tensor(f"{embeddings}.word_embeddings.weight", dtype)
        self._positions = self._tensor(f"{embeddings}.position_embeddings.weight", dtype)
        self._types = self._tensor(f"{embeddings}.token_type_embeddings.weight", dtype)
        self._norm = self._make_norm(f"{embeddings}.LayerNorm", self._flow)

        if device.type == "cpu":
            _keep_freed_memory()
        kind: Any = PlainLinear
        if int8:
            kind = Int8Linear
        elif device.type == "cpu" and PrepackedLinear.works(dtype):
            kind = PrepackedLinear
        elif device.type == "cuda" and dtype is not torch.float32:
            kind = EpilogueLinear
        layers = [f"{family.prefix}.encoder.layer.{number}" for number in range(config.num_hidden_layers)]
        *inner, last = layers
        self._layers = [(self._make_qkv(name, kind), self._make_rest(name, kind, self._flow)) for name in inner]
        self._last_qkv: Linear | None = None
        if device.type == "cpu":
            # A few rows only, so that float32 costs nothing and the scores gain.
            self._last_flow = torch.float32
            parts = [f"{last}.attention.self.{part}" for part in ("query", "key", "value")]
            self._first_token = _FirstTokenAttention([self._both(part, torch.float32) for part in parts], self._heads)
            self._last = self._make_rest(last, PlainLinear, torch.float32)
        else:
            self._last_flow = self._flow
            self._last_qkv, self._last = self._make_qkv(last, kind), self._make_rest(last, kind, self._flow)
        self._head = [PlainLinear(*self._both(name, torch.float32)) for name in family.head]
        del self._weights

    def __call__(self, sequences: Sequences) -> torch.Tensor:
        """Return the logits.

        Args:
            sequences: At least one.

        Returns:
            `(sequences,)`, float32, on the device.
        """
        lengths = torch.tensor(sequences.lengths)
        starts = lengths.cumsum(0) - lengths
        positions = torch.arange(len(sequences.input_ids)) - starts.repeat_interleave(lengths) + self._first_position
        first = self._to_device(starts)
        attend = self._attention(sequences.lengths, self._device)
        x = self._norm(self._embed(sequences, positions).to(self._flow))
        for qkv, rest in self._layers:
            x = rest(x, self._attended(attend, qkv(x)))
        if self._last_qkv is None:
            attended = self._first_token(x, sequences.lengths)
        else:
            attended = self._attended(attend, self._last_qkv(x))[first]
        x = self._last(x[first].to(self._last_flow), attended).float()
        dense, out = self._head
        return out(torch.tanh(dense(x))).squeeze(-1)

    def _embed(self, sequences: Sequences, positions: torch.Tensor) -> torch.Tensor:
        columns = [torch.tensor(sequences.input_ids), positions]
        if len(self._types) > 1:
            columns.append(torch.tensor(sequences.token_type_ids))
        rows = torch.stack(columns)
        if self._device.type == "cpu":
            # Any row will do for the ones that round the number up: nobody looks at them.
            rows = F.pad(rows, (0, -rows.shape[1] % _ROWS_ROUNDED_TO))
        ids, positions, *types = self._to_device(rows)
        x = F.embedding(ids, self._words).add_(F.embedding(positions, self._positions))
        return x.add_(F.embedding(types[0], self._types) if types else self._types[0])

    def _attended(self, attend: Attention, qkv: torch.Tensor) -> torch.Tensor:
        split = qkv.to(self._attention_dtype).view(len(qkv), 3, self._heads, -1)
        return attend(split).flatten(1).to(self._flow)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        return self._weights(name, dtype).to(self._device)

    def _both(self, name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return self._tensor(f"{name}.weight", dtype), self._tensor(f"{name}.bias", dtype)

    def _make_norm(self, name: str, dtype: torch.dtype) -> _Norm:
        return _Norm(*self._both(name, dtype), self._eps)

    def _make_qkv(self, name: str, kind: Any) -> Linear:
        parts = [self._both(f"{name}.attention.self.{part}", self._flow) for part in ("query", "key", "value")]
        made: Linear = kind(*(torch.cat(some) for some in zip(*parts, strict=True)))
        return made

    def _make_rest(self, name: str, kind: Any, dtype: torch.dtype) -> _AfterAttention:
        return _AfterAttention(
            kind(*self._both(f"{name}.attention.output.dense", dtype)),
            self._make_norm(f"{name}.attention.output.LayerNorm", dtype),
            kind(*self._both(f"{name}.intermediate.dense", dtype), gelu=True),
            kind(*self._both(f"{name}.output.dense", dtype)),
            self._make_norm(f"{name}.output.LayerNorm", dtype),
        )


class _FirstTokenAttention:
    """What the first token of each sequence attends to, without keys and values for all the others.

    For one query q, the scores q·(W x + b) are (Wᵀq)·x and a constant that softmax ignores; and the weighted sum of
    the values V x + c is V times the weighted sum of the x, plus c. So that the two big products of a layer's
    attention become small ones. On a CPU, in float32.
    """

    def __init__(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], heads: int) -> None:
        """Take weight and bias of query, key and value."""
        (query, query_bias), (key, _), (value, self._value_bias) = parts
        size = len(query) // heads
        self._heads = heads
        self._query, self._query_bias = query / math.sqrt(size), query_bias / math.sqrt(size)
        self._key = key.view(heads, size, -1)
        self._value = value.view(heads, size, -1).transpose(1, 2).contiguous()

    def __call__(self, x: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Take `(tokens, width)` and return `(sequences, width)`."""
        rows = torch.split(x[: sum(lengths)], list(lengths))
        first = torch.stack([some[0] for some in rows]).float()
        query = F.linear(first, self._query, self._query_bias).view(len(first), self._heads, -1)
        probes = torch.bmm(query.transpose(0, 1), self._key).transpose(0, 1)
        pooled = torch.empty_like(probes)
        for some, probe, out in zip(rows, probes, pooled, strict=True):
            wide = some.float()
            torch.mm(torch.softmax(probe @ wide.t(), dim=-1), wide, out=out)
        values = torch.bmm(pooled.transpose(0, 1), self._value).transpose(0, 1).flatten(1)
        return values + self._value_bias


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of what flows between layers instead of returning it after each step.

    Fresh pages cost more than many of the operations on them. By mallopt(3), freeing one mapped block raises the size
    from which blocks are mapped, and returned, to its own; 32 MiB is the most. Nothing is written to this one.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
