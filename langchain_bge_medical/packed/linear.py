"""A weight matrix laid out once for the machine it will run on: as it is, prepacked by oneDNN, or in int8."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn import functional as F

# The layout that oneDNN chooses depends a little on the number of rows; this many are usual in one batch.
_USUAL_ROWS = 1_024
_TINY = torch.finfo(torch.float32).tiny


class Linear(Protocol):
    """`x @ weight.T + bias`, then GELU if it was asked for when it was made."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Take `(rows, in)` and return `(rows, out)` in the dtype of `x`."""
        ...


def _onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]


class PlainLinear:
    """torch's own; for GPUs in float32, and for dtypes that oneDNN lacks here."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, gelu: bool = False) -> None:
        self._weight, self._bias, self._gelu = weight, bias, gelu

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear`."""
        y = F.linear(x, self._weight, self._bias)
        return F.gelu(y) if self._gelu else y


class EpilogueLinear(PlainLinear):
    """torch's own on CUDA in half precision, with GELU computed before the product leaves the chip.

    cuBLAS has GELU's tanh form there, which differs from the exact one by less than half precision rounds.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear`."""
        if not self._gelu:
            return super().__call__(x)
        y: torch.Tensor = torch._addmm_activation(self._bias, x, self._weight.t(), use_gelu=True)
        return y


class PrepackedLinear:
    """oneDNN's, with the weight reordered into its blocks once and GELU computed while a block is at hand.

    The two operators are those that `torch.compile` emits for a CPU ("mkldnn fusion"); called by hand they need
    no compiler and no warm-up, and take any number of rows.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, gelu: bool = False) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _USUAL_ROWS)
        self._bias = bias
        self._fused: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    @staticmethod
    def works(dtype: torch.dtype) -> bool:
        """Return whether this torch and this CPU have it for `dtype`."""
        ops = torch.ops.mkldnn
        if not (_onednn() and hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")):
            return False
        if dtype is torch.bfloat16:
            return bool(ops._is_mkldnn_bf16_supported())
        return dtype is torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear`."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, *self._fused)
        return y


class Int8Linear:
    """Weights in int8 with a scale per output channel, activations in int8 with a scale per token.

    A token is quantised by its own largest value (dynamic, symmetric, no calibration), so that a pair's logit does
    not depend on what shares its batch. Products are summed exactly, in int32. What goes in and out is float32:
    the passes over it around the product are faster than those over bfloat16, and round once.

    oneDNN's VNNI kernels want unsigned activations, hence the zero point of 128. Its quantised linear takes one
    scale per call, so that the tokens' own are multiplied in afterwards. Where it is missing, `torch._int_mm` does
    the same more slowly.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, gelu: bool = False) -> None:
        weight = weight.float()
        self._scale = (weight.abs().amax(dim=1) / 127).clamp_(min=_TINY)
        quantised = (weight / self._scale[:, None]).round_().to(torch.int8)
        self._bias, self._gelu = bias.float(), gelu
        self._packed: torch.Tensor | None = None
        if self.is_fused():
            self._packed = torch.ops.onednn.qlinear_prepack(quantised, None)
            self._zero_points = torch.zeros(len(quantised), dtype=torch.int32)
        else:
            self._transposed = quantised.t()

    @staticmethod
    def is_fused() -> bool:
        """Return whether there is a kernel for it here; without VNNI oneDNN would take one that is slow beyond use."""
        ops = torch.ops.onednn
        return (
            _onednn()
            and hasattr(ops, "qlinear_prepack")
            and hasattr(ops, "qlinear_pointwise")
            and torch.cpu._is_vnni_supported()
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Linear`, float32."""
        # Two reductions are faster than one over a copy of absolute values.
        largest = torch.maximum(x.amax(dim=-1, keepdim=True), x.amin(dim=-1, keepdim=True).neg_())
        scale = largest.div_(127).clamp_(min=_TINY)
        tokens = (x * scale.reciprocal()).round_().to(torch.int8)
        if self._packed is None:
            y = torch._int_mm(tokens, self._transposed).to(torch.float32).mul_(self._scale)
        else:
            y = torch.ops.onednn.qlinear_pointwise(
                tokens.view(torch.uint8).bitwise_xor_(128),  # flipping the top bit adds 128
                1.0, 128, self._packed, self._scale, self._zero_points, None,
                1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
        torch.addcmul(self._bias, y, scale, out=y)
        return torch.ops.aten.gelu_(y) if self._gelu else y
