"""Tall matrices that arrive in pieces: blocks of rows, read as often as a method needs them.

Axis letters: n rows in all, d columns, r rows of a block.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.operators.operator import SketchOperator, SketchState
from lemmata.sketching.sparse_rows import csr_append, csr_from_scipy, csr_rows

__all__ = ["RowBlocks", "as_row_blocks", "sketch_and_apply"]

_ROWS = 8192

Pass = Iterable[tuple[int, Tensor]]


class RowBlocks:
    """A matrix of `shape` (n, d) that is read in blocks of rows, any number of times.

    Iterating gives pairs `(row_offset, block)`, a block being a dense or a sparse CSR tensor of shape
    (r, d). Blocks may come in any order and size, and rows may be missing where a worker holds a part.
    `passes` counts the iterations begun: what a certificate reports is what was counted.

    Args:
        factory: A function without arguments that starts a fresh pass: an iterable of pairs. It is pickled
            with the object.
        shape: (n, d).
        dtype: Type of the blocks.
        device: Device of the blocks.

    Raises:
        ValueError: In a pass, at a block that lies outside the matrix or has other columns.
        TypeError: In a pass, at a block that is no tensor of `dtype`.

    Examples:
        >>> blocks = RowBlocks.from_tensor(torch.arange(10.0)[:, None], rows=4)
        >>> [(offset, len(block)) for offset, block in blocks]
        [(0, 4), (4, 4), (8, 2)]
        >>> blocks.passes
        1
    """

    def __init__(
        self,
        factory: Callable[[], Pass],
        shape: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        if min(shape) < 0:
            raise ValueError(f"`shape` (={tuple(shape)}) must not be negative")
        if not dtype.is_floating_point:
            raise TypeError(f"`dtype` (={dtype}) must be a real floating type")
        self.factory = factory
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = dtype
        self.device = torch.device(device)
        self.passes = 0

    @classmethod
    def from_tensor(cls, a: Tensor, rows: int = _ROWS) -> "RowBlocks":
        """Cut a dense or sparse CSR tensor (n, d) into blocks of `rows` rows, without a copy."""
        _check_rows(rows)
        if a.ndim != 2 or a.layout not in {torch.strided, torch.sparse_csr}:
            raise ValueError(
                f"`a` ({a.layout}, shape {tuple(a.shape)}) must be a matrix, dense or sparse CSR"
            )
        n, d = a.shape
        return cls(_TensorPass(a, rows), (n, d), dtype=a.dtype, device=a.device)

    @classmethod
    def from_memmap(cls, path: Path | str, rows: int = _ROWS) -> "RowBlocks":
        """Read a `.npy` file of a matrix block by block; it is not mapped, so memory holds a block only.

        Raises:
            ValueError: Where the file holds no matrix, or ends early.
            TypeError: Where it does not hold real floating point numbers.
        """
        _check_rows(rows)
        header: Any = np.load(path, mmap_mode="r")
        if header.ndim != 2:
            raise ValueError(f"{path} holds an array of shape {header.shape}, not a matrix")
        if header.dtype.kind != "f" or header.dtype.itemsize > 8:
            raise TypeError(f"{path} holds {header.dtype}, which must be a real floating type of torch")
        n, d = header.shape
        file = _FilePass(Path(path), header.dtype, (n, d), header.offset, not header.flags.c_contiguous, rows)
        return cls(file, (n, d), dtype=torch.from_numpy(np.empty(0, header.dtype.newbyteorder("="))).dtype)

    @classmethod
    def from_iterable(
        cls,
        factory: Callable[[], Iterable[Tensor]],
        shape: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> "RowBlocks":
        """Read the blocks that a function's iterable gives, one under the other.

        A pass raises a ValueError where the blocks have more or fewer rows than `shape` says.
        """
        return cls(_IterablePass(factory, int(shape[0])), shape, dtype=dtype, device=device)

    @classmethod
    def from_scipy(cls, a: Any, rows: int = _ROWS) -> "RowBlocks":
        """Cut a SciPy sparse matrix or array into sparse CSR blocks, which share its memory."""
        return cls.from_tensor(csr_from_scipy(a), rows)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Start a pass."""
        self.passes += 1
        return self._checked(self.factory())

    def _checked(self, blocks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Tensor]]:
        n, d = self.shape
        for offset, block in blocks:
            given = getattr(block, "dtype", type(block).__name__)
            if given != self.dtype:
                raise TypeError(f"the block at row {offset} is of {given}, not a tensor of {self.dtype}")
            if block.ndim != 2 or block.shape[1] != d:
                raise ValueError(f"the block at row {offset} has shape {tuple(block.shape)}, not (r, {d})")
            if offset < 0 or offset + block.shape[0] > n:
                raise ValueError(f"rows {offset}:{offset + block.shape[0]} outside a matrix of {n} rows")
            yield offset, block

    def map(
        self,
        function: Callable[[Tensor], Tensor],
        columns: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> "RowBlocks":
        """Apply a function to every block as it is read.

        Args:
            function: From a block (r, d) to one of r rows.
            columns: Columns it gives; by default d.
            dtype: Type it gives; by default the type of the blocks.

        Examples:
            >>> blocks = RowBlocks.from_tensor(torch.ones(5, 3)).map(lambda block: block[:, :1] * 2, 1)
            >>> blocks.shape, float(sum(block.sum() for _, block in blocks))
            ((5, 1), 10.0)
        """
        shape = (self.shape[0], self.shape[1] if columns is None else columns)
        return RowBlocks(_MappedPass(self, function), shape, dtype=dtype or self.dtype, device=self.device)

    def augment(self, b: Any) -> "RowBlocks":
        """Append a right-hand side as columns, so that one pass serves both.

        Args:
            b: A dense tensor (n,) or (n, c), or `RowBlocks` whose blocks have the same rows.

        Raises:
            ValueError: Where `b` has other rows.

        Examples:
            >>> RowBlocks.from_tensor(torch.ones(5, 3)).augment(torch.zeros(5)).shape
            (5, 4)
        """
        targets = b if isinstance(b, RowBlocks) else RowBlocks.from_tensor(b.reshape(b.shape[0], -1))
        if targets.shape[0] != self.shape[0]:
            raise ValueError(f"`b` (of {targets.shape[0]} rows) must have {self.shape[0]} rows")
        dtype = torch.promote_types(self.dtype, targets.dtype)
        source = targets if isinstance(b, RowBlocks) else b.reshape(b.shape[0], -1)
        shape = (self.shape[0], self.shape[1] + targets.shape[1])
        return RowBlocks(_AugmentedPass(self, source, dtype), shape, dtype=dtype, device=self.device)


def sketch_and_apply(
    operator: SketchOperator,
    blocks: RowBlocks,
    progress: Callable[[int, int], Any] | None = None,
    *,
    state: SketchState | None = None,
    check_finite: bool = False,
) -> SketchState:
    """Sketch a matrix in one pass over its blocks; the state's `value` is S A where all rows came.

    Args:
        operator: The sketch.
        blocks: The matrix, or what a worker holds of it.
        progress: Called after each block with the rows seen so far and all rows.
        state: A sketch under way, which is continued in place; blocks it has seen are passed over.
        check_finite: Look for NaN and infinities.

    Returns:
        The state, mergeable with those of other parts.

    Raises:
        ValueError: Where the blocks have not the operator's n rows, rows come twice, or are not finite.

    Examples:
        >>> from lemmata.sketching.operators import SparseSign
        >>> state = sketch_and_apply(SparseSign(20, 100), RowBlocks.from_tensor(torch.ones(100, 3)))
        >>> state.complete, tuple(state.value.shape)
        (True, (20, 3))
    """
    if blocks.shape[0] != operator.shape[1]:
        raise ValueError(f"`blocks` (of {blocks.shape[0]} rows) must have {operator.shape[1]} rows")
    if state is None:
        state = SketchState.start(operator, blocks.shape[1], device=blocks.device)
    for offset, block in blocks:
        if not state.has_seen(offset, offset + block.shape[0]):
            state.update(operator, block, offset, check_finite=check_finite)
        if progress is not None:
            progress(sum(stop - start for start, stop in state.rows_seen), blocks.shape[0])
    return state


def as_row_blocks(a: Any, rows: int = _ROWS) -> RowBlocks:
    """Return a matrix as `RowBlocks`: a tensor, a NumPy array or memory map, a SciPy sparse matrix.

    Raises:
        TypeError: Where it is none of these, or not of real floating point numbers.
    """
    if isinstance(a, RowBlocks):
        return a
    if isinstance(a, Tensor):
        return RowBlocks.from_tensor(a, rows)
    if isinstance(a, np.ndarray):
        _check_rows(rows)
        dtype = torch.from_numpy(np.empty(0, a.dtype.newbyteorder("="))).dtype
        return RowBlocks(_ArrayPass(a, rows), a.shape, dtype=dtype)
    if hasattr(a, "tocsr"):
        return RowBlocks.from_scipy(a, rows)
    raise TypeError(f"`a` (a {type(a).__name__}) must be a tensor, RowBlocks, NumPy array or SciPy matrix")


def _check_rows(rows: int) -> None:
    if rows <= 0:
        raise ValueError(f"`rows` (={rows}) must be at least 1")


@dataclass(frozen=True, eq=False)
class _TensorPass:
    """A pass over a tensor: views of its rows."""

    a: Tensor
    rows: int

    def __call__(self) -> Pass:
        n = self.a.shape[0]
        for start in range(0, n, self.rows):
            stop = min(n, start + self.rows)
            yield start, csr_rows(self.a, start, stop) if self.a.is_sparse_csr else self.a[start:stop]


@dataclass(frozen=True, eq=False)
class _ArrayPass:
    """A pass over a NumPy array, copying what must not be written."""

    a: Any
    rows: int

    def __call__(self) -> Pass:
        for start in range(0, self.a.shape[0], self.rows):
            block = self.a[start : start + self.rows]
            if not block.flags.writeable or not block.dtype.isnative or isinstance(block, np.memmap):
                block = np.array(block, dtype=block.dtype.newbyteorder("="), subok=False)
            yield start, torch.from_numpy(block)


@dataclass(frozen=True, eq=False)
class _FilePass:
    """A pass over the numbers of a file, read by position: a memory map would count as memory in use."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    position: int
    by_columns: bool
    rows: int

    def __call__(self) -> Pass:
        n, d = self.shape
        with self.path.open("rb", buffering=0) as file:
            for start in range(0, n, self.rows):
                r = min(n, start + self.rows) - start
                if self.by_columns:
                    block = np.empty((d, r), self.dtype)
                    for j, column in enumerate(block):
                        self._read(file, j * n + start, column)
                    block = block.T
                else:
                    block = np.empty((r, d), self.dtype)
                    self._read(file, start * d, block.reshape(-1))
                yield start, torch.from_numpy(block.astype(self.dtype.newbyteorder("="), copy=False))

    def _read(self, file: Any, first: int, out: Any) -> None:
        file.seek(self.position + first * self.dtype.itemsize)
        view, done = memoryview(out).cast("B") if out.size else b"", 0
        while done < len(view):
            read = file.readinto(view[done:])
            if not read:
                raise ValueError(f"{self.path} ends before its {self.shape[0]} rows")
            done += read


@dataclass(frozen=True, eq=False)
class _IterablePass:
    """A pass over blocks that come one under the other."""

    factory: Callable[[], Iterable[Tensor]]
    n: int

    def __call__(self) -> Pass:
        offset = 0
        for block in self.factory():
            yield offset, block
            offset += block.shape[0]
        if offset != self.n:
            raise ValueError(f"the blocks ended after {offset} of {self.n} rows")


@dataclass(frozen=True, eq=False)
class _MappedPass:
    """A pass over another's blocks through a function."""

    source: RowBlocks
    function: Callable[[Tensor], Tensor]

    def __call__(self) -> Pass:
        for offset, block in self.source:
            mapped = self.function(block)
            if mapped.shape[0] != block.shape[0]:
                raise ValueError(
                    f"the function made {mapped.shape[0]} rows of {block.shape[0]} at row {offset}"
                )
            yield offset, mapped


@dataclass(frozen=True, eq=False)
class _AugmentedPass:
    """A pass over another's blocks with more columns behind their own."""

    source: RowBlocks
    targets: Tensor | RowBlocks
    dtype: torch.dtype

    def __call__(self) -> Pass:
        for offset, block, target in self._pairs():
            wide, beside = block.to(self.dtype), target.to(block.device, self.dtype)
            yield offset, csr_append(wide, beside) if block.is_sparse_csr else torch.cat((wide, beside), 1)

    def _pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        if isinstance(self.targets, Tensor):
            for offset, block in self.source:
                yield offset, block, self.targets[offset : offset + block.shape[0]]
            return
        for (offset, block), (other, target) in zip(self.source, self.targets, strict=True):
            if offset != other or block.shape[0] != target.shape[0]:
                ends = offset + block.shape[0], other + target.shape[0]
                raise ValueError(f"rows {offset}:{ends[0]} meet rows {other}:{ends[1]} of `b`")
            yield offset, block, target
