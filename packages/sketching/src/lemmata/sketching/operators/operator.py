"""What every sketch is: a random matrix that is applied, never stored, and the same on every machine.

Axis letters: m rows of the sketch, n rows of the data, d columns of the data.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["SketchOperator", "SketchState"]


class SketchOperator(ABC):
    r"""A random $m \times n$ matrix $S$ with $E[S^\top S] = I$, applied to tall matrices.

    Every entry is a function of `(kind, seed, shape)` alone: two machines, devices or chunkings of the rows
    build the same $S$, and $S A$ is the sum of `partial` over any cut of the rows of $A$ in any order.

    Args:
        m: Rows of the sketch.
        n: Rows of the data.
        seed: Any integer.
        dtype: What the sketch computes in, at least; float32 data is summed in float64 by default.
        device: Where `to_dense` and random numbers are made; data on another device moves the sketch there.

    Raises:
        ValueError: Where `m` or `n` is not positive.
        TypeError: Where `dtype` is not a real floating type.
    """

    def __init__(
        self, m: int, n: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, device: Any = "cpu"
    ) -> None:
        for name, value in (("m", m), ("n", n)):
            if value <= 0:
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        if not dtype.is_floating_point:
            raise TypeError(f"`dtype` (={dtype}) must be a real floating type")
        self.shape = (int(m), int(n))
        self.seed = int(seed)
        self.dtype = dtype
        self.device = torch.device(device)

    @property
    @abstractmethod
    def kind(self) -> str:
        """The family with its parameters, such as `"sparse_sign(nnz_per_col=8)"`."""

    @abstractmethod
    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        """Return the columns `row_offset : row_offset + len(block)` of S times a checked block."""

    @abstractmethod
    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        """Return rows `row_offset : row_offset + rows` of the transpose of S times `y`, checked."""


@dataclass
class SketchState:
    """A sketch under way: what has been added up so far, and of which rows.

    Args:
        kind: The operator's `kind`.
        seed: The operator's seed.
        shape: The operator's shape.
        value: The sum of partial sketches, shape (m, d).
        rows_seen: Disjoint ranges of rows `(start, stop)` that the sum holds, in order.
    """

    kind: str
    seed: int
    shape: tuple[int, int]
    value: Tensor
    rows_seen: tuple[tuple[int, int], ...] = field(default=())

    def __add__(self, other: "SketchState") -> "SketchState":
        """Merge two states of the same operator that saw different rows."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and a tensor, which `torch.load` reads with `weights_only=True`."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        raise NotImplementedError
