"""PyTorch's `.pt` dictionaries of tensors, loaded with `weights_only`: no code runs."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lemmata.apps.pde_surrogate.formats.source import ArraySource, FieldFileError, reading

__all__ = ["open_torch"]


def open_torch(path: Path) -> dict[str, ArraySource]:
    """List the tensors of a `.pt` file: a dictionary of tensors, a sequence of them, or one tensor.

    Args:
        path: The file.

    Returns:
        Tensors by key (by position in a sequence; a lone tensor by the file's stem).

    Raises:
        FieldFileError: Where the file cannot be loaded without running code, or holds no tensor.
    """
    with reading(path, "a PyTorch file of plain tensors"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = dict(_tensors(path.stem, content))
    if not tensors:
        raise FieldFileError(
            f"{path}: holds a {type(content).__name__} without tensors; expected a dictionary of tensors"
        )
    with reading(path, "a PyTorch file of plain tensors"):
        return {
            name: ArraySource(path, name, tuple(tensor.shape), _dtype(tensor), partial(_to_numpy, tensor))
            for name, tensor in tensors.items()
        }


def _tensors(name: str, content: object) -> list[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        return [(name, content)]
    if isinstance(content, dict):
        return [(str(key), value) for key, value in content.items() if isinstance(value, Tensor)]
    if isinstance(content, (list, tuple)):
        return [(str(index), value) for index, value in enumerate(content) if isinstance(value, Tensor)]
    return []


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    return _to_numpy(tensor.detach().flatten()[:0]).dtype


def _to_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()  # NumPy knows neither bfloat16 nor the 8-bit types
    array: npt.NDArray[Any] = tensor.resolve_conj().resolve_neg().numpy()
    return array
