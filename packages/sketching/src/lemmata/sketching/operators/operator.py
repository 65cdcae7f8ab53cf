r"""What every sketch is: a random matrix that is applied, never stored, and the same on every machine.

Axis letters: m rows of the sketch, n rows of the data, d columns of the data, r rows of a block.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.sparse_rows import csr_from_scipy, csr_matrix, csr_rows

__all__ = ["SketchOperator", "SketchState"]


class SketchOperator(ABC):
    r"""A random $m \times n$ matrix $S$ with $E[S^\top S] = I$, applied to tall matrices.

    Every entry is a function of `(kind, seed, shape)` alone: two machines, devices or chunkings of the rows
    build the same $S$, and $S A$ is the sum of `partial` over any cut of the rows of $A$ in any order.
    Gradients with respect to dense data flow through `apply`, `partial`, `apply_t` and `partial_t`, to any
    order.

    A family defines `kind`, `_partial` and `_partial_t`, and may widen `_rows_at_once`.

    Args:
        m: Rows of the sketch.
        n: Rows of the data.
        seed: Any integer.
        dtype: What the sketch computes in, at least: data of a wider type is computed in its own.
        device: Where `to_dense` makes the entries; elsewhere they are made where the data lies.

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
        _check_dtype("dtype", dtype)
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
        """Return columns `row_offset : row_offset + r` of S times a dense block (r, d) of the right dtype."""

    @abstractmethod
    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        """Return rows `row_offset : row_offset + rows` of the transpose of S times a dense `y` (m, c)."""

    def _partial_csr(self, block: Tensor, row_offset: int) -> Tensor:
        """Return what `_partial` does for a sparse CSR block: by its columns that are not empty."""
        used, columns = torch.unique(block.col_indices(), return_inverse=True)
        narrow = csr_matrix(block.crow_indices(), columns, block.values(), (block.shape[0], used.numel()))
        out = block.values().new_zeros(self.shape[0], block.shape[1])
        if used.numel():
            out[:, used] = self._partial(narrow.to_dense(), row_offset)
        return out

    def _rows_at_once(self, columns: int) -> int:
        """Return how many rows of `columns` columns `_partial` takes at a time."""
        return max(64, (1 << 18) // max(1, columns))

    def apply(self, a: Any, *, check_finite: bool = False) -> Tensor:
        """Return S A in the dtype of A.

        Args:
            a: A dense tensor (n,) or (n, d), a sparse CSR tensor, `RowBlocks` or a SciPy sparse matrix.
            check_finite: Look for NaN and infinities first.

        Returns:
            A dense tensor, (m,) or (m, d), on the device of the data.

        Raises:
            ValueError: Where the rows of A are not n, or `check_finite` finds a row that is not finite.
            TypeError: Where A is not real floating point.
        """
        if not isinstance(a, Tensor):
            return self._apply_foreign(a, check_finite=check_finite)
        if a.ndim not in {1, 2} or a.shape[0] != self.shape[1]:
            raise ValueError(f"`a` (of shape {tuple(a.shape)}) must have {self.shape[1]} rows")
        return self.partial(a, 0, check_finite=check_finite).to(a.dtype)

    def _apply_foreign(self, a: Any, *, check_finite: bool) -> Tensor:
        from lemmata.sketching.stream import RowBlocks, sketch_and_apply

        if isinstance(a, RowBlocks):
            return sketch_and_apply(self, a, check_finite=check_finite).value.to(a.dtype)
        if hasattr(a, "tocsr"):
            return self.apply(csr_from_scipy(a), check_finite=check_finite)
        raise TypeError(f"`a` (a {type(a).__name__}) must be a tensor, RowBlocks or a SciPy sparse matrix")

    def partial(self, block: Tensor, row_offset: int, *, check_finite: bool = False) -> Tensor:
        """Return what rows `row_offset : row_offset + r` of the data contribute to S A.

        Args:
            block: A dense tensor (r,) or (r, d), or a sparse CSR tensor.
            row_offset: Where the block begins in the data.
            check_finite: Look for NaN and infinities first.

        Returns:
            A dense tensor, (m,) or (m, d), in the operator's dtype or the block's where that is wider.

        Raises:
            ValueError: Where the block reaches beyond n, or `check_finite` finds a row that is not finite.
            TypeError: Where the block is not real floating point.
        """
        _check_dtype("block", block.dtype)
        self._check_rows(row_offset, block.shape[0])
        if check_finite:
            _check_finite(block, row_offset)
        dtype = torch.promote_types(self.dtype, block.dtype)
        if block.layout == torch.sparse_csr:
            return self._sum_csr(block, row_offset, dtype)
        if block.layout != torch.strided or block.ndim not in {1, 2}:
            raise ValueError(
                f"`block` ({block.layout}, {block.ndim} axes) must be a dense vector or matrix or a CSR tensor"
            )
        if block.ndim == 1:
            return _Product.apply(block[:, None], self, row_offset, dtype)[:, 0]
        return _Product.apply(block, self, row_offset, dtype)

    def _sum_dense(self, block: Tensor, row_offset: int, dtype: torch.dtype) -> Tensor:
        step = self._rows_at_once(block.shape[1])
        out = block.new_zeros((self.shape[0], block.shape[1]), dtype=dtype)
        if block.shape[1]:
            for start in range(0, block.shape[0], step):
                out += self._partial(block[start : start + step].to(dtype), row_offset + start)
        return out

    def _sum_csr(self, block: Tensor, row_offset: int, dtype: torch.dtype) -> Tensor:
        rows, columns = block.shape
        step = self._rows_at_once(block.values().numel() // max(1, rows))
        out = block.values().new_zeros((self.shape[0], columns), dtype=dtype)
        for start in range(0, rows, step):
            part = csr_rows(block, start, min(rows, start + step))
            out += self._partial_csr(part.to(dtype), row_offset + start)
        return out

    def apply_t(self, y: Tensor) -> Tensor:
        """Return the transpose of S times `y`, (m,) or (m, c), in the dtype of `y`."""
        return self.partial_t(y, 0, self.shape[1]).to(y.dtype)

    def partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        """Return rows `row_offset : row_offset + rows` of the transpose of S times `y`, (m,) or (m, c)."""
        _check_dtype("y", y.dtype)
        self._check_rows(row_offset, rows)
        if y.ndim not in {1, 2} or y.shape[0] != self.shape[0]:
            raise ValueError(f"`y` (of shape {tuple(y.shape)}) must have {self.shape[0]} rows")
        dtype = torch.promote_types(self.dtype, y.dtype)
        if y.ndim == 1:
            return _TransposedProduct.apply(y[:, None], self, row_offset, rows, dtype)[:, 0]
        return _TransposedProduct.apply(y, self, row_offset, rows, dtype)

    def _sum_t(self, y: Tensor, row_offset: int, rows: int, dtype: torch.dtype) -> Tensor:
        step = self._rows_at_once(y.shape[1])
        wide, out = y.to(dtype), y.new_zeros((rows, y.shape[1]), dtype=dtype)
        if y.shape[1]:
            for start in range(0, rows, step):
                stop = min(rows, start + step)
                out[start:stop] = self._partial_t(wide, row_offset + start, stop - start)
        return out

    def to_dense(self) -> Tensor:
        """Return the m x n matrix itself."""
        identity = torch.eye(self.shape[0], dtype=self.dtype, device=self.device)
        return self.apply_t(identity).T

    def to(self, *, dtype: torch.dtype | None = None, device: Any = None) -> "SketchOperator":
        """Return the same operator computing in another dtype, or making its entries on another device."""
        moved = copy.copy(self)
        if dtype is not None:
            _check_dtype("dtype", dtype)
            moved.dtype = dtype
        if device is not None:
            moved.device = torch.device(device)
        return moved

    def as_linear_operator(self) -> Any:
        """Return a `scipy.sparse.linalg.LinearOperator` on NumPy arrays, with its adjoint."""
        from scipy.sparse.linalg import LinearOperator

        def forward(x: Any) -> Any:
            return self.apply(torch.as_tensor(np.asarray(x, dtype=np.float64))).numpy()

        def backward(y: Any) -> Any:
            return self.apply_t(torch.as_tensor(np.asarray(y, dtype=np.float64))).numpy()

        return LinearOperator(
            self.shape, matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=np.float64
        )

    def __matmul__(self, a: Any) -> Tensor:
        return self.apply(a)

    def __repr__(self) -> str:
        m, n = self.shape
        return f"{type(self).__name__}({m}, {n}, seed={self.seed}, dtype={self.dtype})"

    def _check_rows(self, row_offset: int, rows: int) -> None:
        if row_offset < 0 or rows < 0 or row_offset + rows > self.shape[1]:
            raise ValueError(
                f"rows {row_offset}:{row_offset + rows} outside operator with {self.shape[1]} columns"
            )


class _Product(torch.autograd.Function):
    """A block of columns of S times a dense matrix; its derivative is the transposed product."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, operator: SketchOperator, offset: int, dtype: torch.dtype) -> Tensor:
        ctx.operator, ctx.offset, ctx.rows, ctx.dtype = operator, offset, block.shape[0], block.dtype
        return operator._sum_dense(block, offset, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        back = _TransposedProduct.apply(gradient, ctx.operator, ctx.offset, ctx.rows, gradient.dtype)
        return back.to(ctx.dtype), None, None, None


class _TransposedProduct(torch.autograd.Function):
    """The transpose of a block of columns of S times a dense matrix."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, operator: SketchOperator, offset: int, rows: int, dtype: torch.dtype
    ) -> Tensor:
        ctx.operator, ctx.offset, ctx.dtype = operator, offset, y.dtype
        return operator._sum_t(y, offset, rows, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        back = _Product.apply(gradient, ctx.operator, ctx.offset, gradient.dtype)
        return back.to(ctx.dtype), None, None, None, None


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
    rows_seen: tuple[tuple[int, int], ...] = ()

    @classmethod
    def start(cls, operator: SketchOperator, columns: int, *, device: Any = "cpu") -> "SketchState":
        """Return the sketch of no rows yet of a matrix with so many columns."""
        value = torch.zeros(operator.shape[0], columns, dtype=operator.dtype, device=device)
        return cls(operator.kind, operator.seed, operator.shape, value)

    @property
    def complete(self) -> bool:
        """Whether every row has been seen."""
        return self.rows_seen == ((0, self.shape[1]),)

    def update(
        self, operator: SketchOperator, block: Tensor, row_offset: int, *, check_finite: bool = False
    ) -> None:
        """Add a block of rows.

        Raises:
            ValueError: Where the operator is not the state's, or the rows were seen before.
        """
        self._check_same(SketchState.start(operator, 0))
        rows_seen = _merge_ranges(self.rows_seen, ((row_offset, row_offset + block.shape[0]),))
        self.value += operator.partial(block, row_offset, check_finite=check_finite)
        self.rows_seen = rows_seen

    def __add__(self, other: "SketchState") -> "SketchState":
        """Merge two states of the same operator that saw different rows."""
        self._check_same(other)
        rows_seen = _merge_ranges(self.rows_seen, other.rows_seen)
        return SketchState(self.kind, self.seed, self.shape, self.value + other.value, rows_seen)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and a tensor, which `torch.load` reads with `weights_only=True`."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "shape": self.shape,
            "value": self.value,
            "rows_seen": self.rows_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        m, n = state["shape"]
        rows_seen = tuple((int(start), int(stop)) for start, stop in state["rows_seen"])
        found = SketchState(str(state["kind"]), int(state["seed"]), (m, n), state["value"], rows_seen)
        self._check_same(found)
        self.value, self.rows_seen = found.value, found.rows_seen

    def _check_same(self, other: "SketchState") -> None:
        for name in ("kind", "seed", "shape"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                plural = f"{name}s"
                raise ValueError(f"cannot merge sketches with different {plural}: {mine} and {theirs}")


def _merge_ranges(
    first: tuple[tuple[int, int], ...], second: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """Return the union of ranges as sorted, disjoint, maximal ranges; overlaps are refused."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(piece for piece in first + second if piece[0] < piece[1]):
        if merged and start < merged[-1][1]:
            overlap = min(stop, merged[-1][1])
            raise ValueError(f"rows {start}:{overlap} were sketched already")
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return tuple(merged)


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise TypeError(f"`{name}` (of {dtype}) must be a real floating type")


def _check_finite(block: Tensor, row_offset: int) -> None:
    """Raise a ValueError that names the first row with a NaN or an infinity."""
    if block.layout == torch.sparse_csr:
        bad = torch.nonzero(~torch.isfinite(block.values()))
        if not bad.numel():
            return
        row = int(torch.searchsorted(block.crow_indices(), bad[0, 0], right=True)) - 1
    else:
        bad = torch.nonzero(~torch.isfinite(block).reshape(block.shape[0], -1).all(1))
        if not bad.numel():
            return
        row = int(bad[0, 0])
    raise ValueError(f"row {row_offset + row} is not finite")
