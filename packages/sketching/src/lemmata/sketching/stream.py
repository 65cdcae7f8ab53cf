"""Tall matrices that arrive in pieces: blocks of rows, read as often as a method needs them.

Axis letters: n rows in all, d columns.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["RowBlocks", "as_row_blocks"]

_ROWS = 8192


class RowBlocks:
    """A matrix of `shape` (n, d) that is read in blocks of rows, any number of times.

    Iterating gives pairs `(row_offset, block)`, a block being a dense or a sparse CSR tensor of shape
    (rows, d). `passes` counts the iterations begun: what a certificate reports is what was counted.

    Args:
        factory: A function without arguments that starts a fresh pass: an iterable of pairs.
        shape: (n, d).
        dtype: Type of the blocks.
        device: Device of the blocks.

    Examples:
        >>> blocks = RowBlocks.from_tensor(torch.arange(10.0)[:, None], rows=4)
        >>> [(offset, len(block)) for offset, block in blocks]
        [(0, 4), (4, 4), (8, 2)]
        >>> blocks.passes
        1
    """

    def __init__(
        self,
        factory: Callable[[], Iterable[tuple[int, Tensor]]],
        shape: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        self.factory = factory
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = dtype
        self.device = torch.device(device)
        self.passes = 0

    @classmethod
    def from_tensor(cls, a: Tensor, rows: int = _ROWS) -> "RowBlocks":
        """Cut a dense or sparse CSR tensor into blocks of `rows` rows, without a copy where it is dense."""
        n, d = a.shape

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for start in range(0, n, rows):
                yield start, a[start : start + rows]

        return cls(blocks, (n, d), dtype=a.dtype, device=a.device)

    @classmethod
    def from_memmap(cls, path: Path | str, rows: int = _ROWS) -> "RowBlocks":
        """Read a `.npy` file of a matrix block by block."""
        raise NotImplementedError

    @classmethod
    def from_iterable(
        cls,
        factory: Callable[[], Iterable[Tensor]],
        shape: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> "RowBlocks":
        """Read the blocks that a function's iterable gives, one under the other."""
        raise NotImplementedError

    @classmethod
    def from_scipy(cls, a: Any, rows: int = _ROWS) -> "RowBlocks":
        """Cut a SciPy sparse matrix into sparse CSR blocks."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Start a pass."""
        self.passes += 1
        return iter(self.factory())

    def map(self, function: Callable[[Tensor], Tensor], columns: int | None = None) -> "RowBlocks":
        """Apply a function of a block to every block; it keeps the number of rows."""
        raise NotImplementedError

    def augment(self, b: "Tensor | RowBlocks") -> "RowBlocks":
        """Append a right-hand side (n,) or (n, c) as columns, so that one pass serves both."""
        raise NotImplementedError


def as_row_blocks(a: Any, rows: int = _ROWS) -> RowBlocks:
    """Return a tensor, a NumPy array in memory map, a SciPy sparse matrix or `RowBlocks` as `RowBlocks`."""
    if isinstance(a, RowBlocks):
        return a
    if isinstance(a, Tensor):
        return RowBlocks.from_tensor(a, rows)
    if isinstance(a, np.ndarray):
        return RowBlocks.from_tensor(torch.from_numpy(a), rows)
    return RowBlocks.from_scipy(a, rows)
