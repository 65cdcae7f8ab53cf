"""Tall matrices that arrive in pieces: blocks of rows, read as often as a method needs them.

Axis letters: n rows in all, d columns, r rows of a block.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.operators.operator import SketchOperator, SketchState
from lemmata.sketching.sparse_rows import csr_from_scipy, csr_rows

__all__ = ["RowBlocks", "as_row_blocks", "sketch_and_apply"]

_ROWS = 8192


class RowBlocks:
    """A matrix of `shape` (n, d) that is read in blocks of rows, any number of times.

    Iterating gives pairs `(row_offset, block)`, a block being a dense or a sparse CSR tensor of shape
    (r, d). `passes` counts the iterations begun: what a certificate reports is what was counted.

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
        """Cut a dense or sparse CSR tensor into blocks of `rows` rows, without a copy."""
        n, d = a.shape

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for start in range(0, n, rows):
                stop = min(n, start + rows)
                yield start, csr_rows(a, start, stop) if a.layout == torch.sparse_csr else a[start:stop]

        return cls(blocks, (n, d), dtype=a.dtype, device=a.device)

    @classmethod
    def from_memmap(cls, path: Path | str, rows: int = _ROWS) -> "RowBlocks":
        """Read a `.npy` file of a matrix block by block."""
        with Path(path).open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            start_of_data = file.tell()
        n, d = shape

        def blocks() -> Iterator[tuple[int, Tensor]]:
            with Path(path).open("rb") as file:
                file.seek(start_of_data)
                for start in range(0, n, rows):
                    block = np.empty((min(n, start + rows) - start, d), dtype)
                    file.readinto(block)
                    yield start, torch.from_numpy(block)

        return cls(blocks, (n, d), dtype=torch.from_numpy(np.empty(0, dtype)).dtype)

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

        def blocks() -> Iterator[tuple[int, Tensor]]:
            offset = 0
            for block in factory():
                yield offset, block
                offset += block.shape[0]

        return cls(blocks, shape, dtype=dtype, device=device)

    @classmethod
    def from_scipy(cls, a: Any, rows: int = _ROWS) -> "RowBlocks":
        """Cut a SciPy sparse matrix into sparse CSR blocks."""
        return cls.from_tensor(csr_from_scipy(a), rows)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Start a pass."""
        self.passes += 1
        return iter(self.factory())

    def map(self, function: Callable[[Tensor], Tensor], columns: int | None = None) -> "RowBlocks":
        """Apply a function of a block to every block; it keeps the number of rows."""

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for offset, block in self:
                yield offset, function(block)

        d = self.shape[1] if columns is None else columns
        return RowBlocks(blocks, (self.shape[0], d), dtype=self.dtype, device=self.device)

    def augment(self, b: Tensor) -> "RowBlocks":
        """Append a right-hand side (n,) or (n, c) as columns, so that one pass serves both."""
        targets = b.reshape(b.shape[0], -1)

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for offset, block in self:
                yield offset, torch.cat((block, targets[offset : offset + block.shape[0]].to(block)), 1)

        shape = (self.shape[0], self.shape[1] + targets.shape[1])
        return RowBlocks(blocks, shape, dtype=self.dtype, device=self.device)


def sketch_and_apply(
    operator: SketchOperator,
    blocks: RowBlocks,
    progress: Callable[[int, int], None] | None = None,
    *,
    check_finite: bool = False,
) -> SketchState:
    """Sketch a matrix in one pass over its blocks: the state's `value` is S A.

    Args:
        operator: The sketch.
        blocks: The matrix.
        progress: Called after each block with the rows seen so far and all rows.
        check_finite: Look for NaN and infinities.

    Returns:
        The state after all rows, mergeable with those of other parts.
    """
    state = SketchState.start(operator, blocks.shape[1], device=blocks.device)
    done = 0
    for offset, block in blocks:
        state.update(operator, block, offset, check_finite=check_finite)
        done += block.shape[0]
        if progress is not None:
            progress(done, blocks.shape[0])
    return state


def as_row_blocks(a: Any, rows: int = _ROWS) -> RowBlocks:
    """Return a tensor, a NumPy array in memory map, a SciPy sparse matrix or `RowBlocks` as `RowBlocks`."""
    if isinstance(a, RowBlocks):
        return a
    if isinstance(a, Tensor):
        return RowBlocks.from_tensor(a, rows)
    if isinstance(a, np.ndarray):
        return RowBlocks.from_tensor(torch.from_numpy(a), rows)
    return RowBlocks.from_scipy(a, rows)
