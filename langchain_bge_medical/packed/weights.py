"""Parameters of a model by name, straight from safetensors files into the dtype wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open

# Bytes of a file that are mapped at a time: pages count as the process's memory for as long as they are.
_MAPPED_AT_ONCE = 64 << 20


class Weights(Protocol):
    """A parameter by its name in the checkpoint, in a dtype."""

    def __call__(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return it. What the caller does to the tensor must not come back to the source."""
        ...


class SafetensorsWeights:
    """The parameters in a folder's safetensors files. Never holds one that was not asked for, nor a second copy."""

    def __init__(self, folder: Path) -> None:
        """Read the names only."""
        self._files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                self._files.update(dict.fromkeys(tensors.keys(), file))

    @property
    def names(self) -> set[str]:
        """Return the names of all parameters."""
        return set(self._files)

    def __call__(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return a parameter as a new tensor.

        Raises:
            KeyError: If there is none of that name.
        """
        file = self._files[name]
        with safe_open(file, "pt") as tensors:
            shape = tensors.get_slice(name).get_shape()
        whole = torch.empty(shape, dtype=dtype)
        # Eight bytes a value at most.
        rows = max(1, _MAPPED_AT_ONCE // (8 * max(1, whole[:1].numel())))
        for start in range(0, len(whole), rows):
            with safe_open(file, "pt") as tensors:
                whole[start : start + rows] = tensors.get_slice(name)[start : start + rows]
        return whole
