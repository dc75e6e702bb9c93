"""Attention within each of many sequences that lie end to end in one row, on a CPU or a GPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

# Scores that are held at once, so that they stay in a CPU's cache: 2 to 4 bytes each.
_SCORES_AT_ONCE = 1 << 20
# From here on one head's scores alone outgrow that many times over, and the kernel that holds none is faster.
_LONG = 2_048
# oneDNN makes a kernel for each shape it meets, which takes longer than to run a small one. So lengths are rounded up
# to multiples of this, and sequences go together in powers of two.
_ROUNDED_TO = 16
_LOG2_E = math.log2(math.e)
# Bounds of a row's sum of exponentials, well within what float32 and bfloat16 hold.
_LEAST, _MOST = 1e-30, 1e30

Attention = Callable[[torch.Tensor], torch.Tensor]
"""q, k, v in `(tokens, 3, heads, size)` → `(tokens, heads, size)`. Rows after the last sequence are ignored, and 0."""


def attention_for(device: torch.device, dtype: torch.dtype) -> Callable[[Sequence[int], torch.device], Attention]:
    """Return what is fastest on a device: a class that takes the sequences' lengths. All agree but for rounding."""
    if device.type == "cpu":
        return MatmulAttention if dtype is torch.bfloat16 else FusedAttention
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) and _varlen_attn() is not None:
        # FlashAttention 2 begins with Ampere.
        return VarlenAttention if torch.cuda.get_device_capability(device) >= (8, 0) else PaddedAttention
    return PaddedAttention


class FusedAttention:
    """torch's fused kernel, for a run of equally long neighbours at a time. Holds no scores."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._runs = list(_runs(lengths))

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """As `Attention`."""
        out = torch.empty_like(qkv[:, 0])
        end = 0
        for run in self._runs:
            end = run.start + run.number * run.length
            shape = (run.number, run.length)
            q, k, v = qkv[run.start : end].view(*shape, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v)
            out[run.start : end] = attended.transpose(1, 2).flatten(0, 1)
        out[end:] = 0
        return out


class MatmulAttention:
    """Two matrix products around an exponential: on a CPU in bfloat16 about twice as fast as the fused kernel.

    The exponentials are not shifted by each row's largest score, as a softmax does lest they overflow. bfloat16
    reaches as far as float32, so that this needs scores beyond 80 to go wrong; the sums tell, and then it is done
    again with a softmax. Sequences of about the same length go together, and the heads of long ones one after
    another, so that the scores stay in the cache.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._groups = list(_groups(lengths))

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """As `Attention`."""
        out = torch.zeros_like(qkv[:, 0])
        for group in self._groups:
            if group.width > _LONG:
                rows = slice(group.starts[0], group.starts[0] + group.lengths[0])
                out[rows] = FusedAttention(group.lengths[:1], qkv.device)(qkv[rows])
                continue
            for some in group.parts(qkv.shape[2]):
                self._attend(qkv, out, some)
        return out

    def _attend(self, qkv: torch.Tensor, out: torch.Tensor, group: _Group) -> None:
        count, width = len(group.starts), group.width
        heads, size = qkv.shape[2:]
        padded = qkv.new_zeros(3, count, heads, width, size)
        for i, rows in enumerate(group.rows()):
            padded[:, i, :, : group.lengths[i]] = qkv[rows].permute(1, 2, 0, 3)
        padded[0] *= _LOG2_E / math.sqrt(size)
        at_once = max(1, min(heads, _SCORES_AT_ONCE // (count * width * width)))
        for head in range(0, heads, at_once):
            q, k, v = padded[:, :, head : head + at_once].flatten(1, 2)
            weights, total = self._weights(torch.bmm(q, k.transpose(1, 2)), group)
            attended = torch.bmm(weights, v).float().div_(total).view(count, -1, width, size)
            for i, rows in enumerate(group.rows()):
                out[rows, head : head + at_once] = attended[i, :, : group.lengths[i]].transpose(0, 1)

    @staticmethod
    def _weights(scores: torch.Tensor, group: _Group) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights before they are made to add up to 1, in place of the scores, and what they add up to."""
        by_sequence = scores.view(len(group.lengths), -1, *scores.shape[1:])
        padding = [(i, length) for i, length in enumerate(group.lengths) if length < group.width]
        for i, length in padding:
            by_sequence[i, :, :, length:] = -math.inf
        weights = torch.exp2(scores)
        total = weights.sum(-1, keepdim=True, dtype=torch.float32)
        if not (total.amin().item() > _LEAST and total.amax().item() < _MOST):
            weights = torch.softmax(scores.float() / _LOG2_E, dim=-1).to(scores.dtype)
            total = torch.ones_like(total)
        return weights, total


class PaddedAttention:
    """One padded call with a mask: on any device, in any dtype."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        counts = torch.tensor(lengths)
        self._used = sum(lengths)
        self._within = (torch.arange(max(lengths))[None, :] < counts[:, None]).to(device)

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """As `Attention`."""
        padded = qkv.new_zeros(*self._within.shape, *qkv.shape[1:])
        padded[self._within] = qkv[: self._used]
        q, k, v = padded.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self._within[:, None, None, :])
        unpadded = attended.transpose(1, 2)[self._within]
        return F.pad(unpadded, (0, 0, 0, 0, 0, len(qkv) - self._used))


class VarlenAttention:
    """FlashAttention's kernel for sequences of any lengths, on CUDA in float16 or bfloat16."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._used = sum(lengths)
        self._longest = max(lengths)
        ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        # From ordinary memory the copy would wait until the device has done all that it was given before.
        self._ends = (ends.pin_memory() if device.type == "cuda" else ends).to(device, non_blocking=True)

    def __call__(self, qkv: torch.Tensor) -> torch.Tensor:
        """As `Attention`."""
        attend = _varlen_attn()
        q, k, v = qkv[: self._used].unbind(1)
        out: torch.Tensor = attend(q, k, v, self._ends, self._ends, self._longest, self._longest)
        return F.pad(out, (0, 0, 0, 0, 0, len(qkv) - self._used)) if len(qkv) > self._used else out


@cache
def _varlen_attn() -> Any:
    """Return torch's own function (2.10 and newer) or flash-attn's; `None` where there is neither."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        try:
            from flash_attn import flash_attn_varlen_func
        except ImportError:
            return None
        return flash_attn_varlen_func
    return varlen_attn


class _Run(NamedTuple):
    """Neighbours of equal length."""

    start: int
    length: int
    number: int


def _runs(lengths: Sequence[int]) -> Iterator[_Run]:
    start = 0
    for length, equal in itertools.groupby(lengths):
        number = len(list(equal))
        yield _Run(start, length, number)
        start += length * number


class _Group(NamedTuple):
    """Sequences whose lengths round up to the same width."""

    width: int
    starts: Sequence[int]
    lengths: Sequence[int]

    def rows(self) -> list[slice]:
        return [slice(start, start + length) for start, length in zip(self.starts, self.lengths, strict=True)]

    def parts(self, heads: int) -> Iterator[_Group]:
        """Yield parts of 1, 2, 4, … sequences whose scores are few enough."""
        most = max(1, _SCORES_AT_ONCE // (heads * self.width * self.width))
        first = 0
        while first < len(self.starts):
            number = min(most, len(self.starts) - first)
            number = 1 << (number.bit_length() - 1)
            some = slice(first, first + number)
            yield _Group(self.width, self.starts[some], self.lengths[some])
            first += number


def _groups(lengths: Sequence[int]) -> Iterator[_Group]:
    starts = list(itertools.accumulate(lengths, initial=0))
    widths = [-(-length // _ROUNDED_TO) * _ROUNDED_TO for length in lengths]
    for width, neighbours in itertools.groupby(range(len(lengths)), key=lambda i: widths[i]):
        members = list(neighbours)
        if width > _LONG:
            yield from (_Group(width, [starts[i]], [lengths[i]]) for i in members)
        else:
            yield _Group(width, [starts[i] for i in members], [lengths[i] for i in members])
