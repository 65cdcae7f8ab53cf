r"""What every sketch is: a random matrix that is applied, never stored, and the same on every machine.

Axis letters: m rows of the sketch, n rows of the data, d columns of the data, r rows of a block.
"""

import copy
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.operators.product import Product, TransposedProduct
from lemmata.sketching.sparse_rows import csr_from_scipy, csr_matrix, csr_rows

__all__ = ["SketchOperator", "SketchState"]

Ranges = tuple[tuple[int, int], ...]

_DENSE = 1 << 22  # elements of a dense piece made on the way


class SketchOperator(ABC):
    r"""A random $m \times n$ matrix $S$ with $E[S^\top S] = I$, applied to tall matrices.

    Every entry is a function of `(kind, seed, shape)` alone: two machines, devices or chunkings of the rows
    build the same $S$, and $S A$ is the sum of `partial` over any cut of the rows of $A$ in any order.
    Gradients with respect to dense data flow through `apply`, `partial`, `apply_t` and `partial_t`, to any
    order.

    A family defines `kind`, `_partial` and `_partial_t`, and may choose `_rows_at_once`.

    Args:
        m: Rows of the sketch.
        n: Rows of the data.
        seed: Any integer.
        dtype: What the sketch computes in, at least: data of a wider type is computed in its own.
        device: Where `to_dense` makes the entries; elsewhere they are made where the data lies.

    Raises:
        ValueError: Where `m` or `n` is not positive.
        TypeError: Where `dtype` is not float32 or float64.
    """

    def __init__(
        self, m: int, n: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, device: Any = "cpu"
    ) -> None:
        for name, value in (("m", m), ("n", n)):
            if value <= 0:
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        _check_precision(dtype)
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

    @property
    def _stream(self) -> int:
        """The family of random words that is this kind's own, so that kinds of one seed are independent."""
        return zlib.crc32(self.kind.encode())

    def _rows_at_once(self, columns: int) -> int:
        """Return how many rows of `columns` columns `_partial` takes at a time."""
        return max(64, (1 << 18) // max(1, columns))

    def apply(self, a: Any, *, check_finite: bool = False) -> Tensor:
        """Return S A in the dtype of A.

        Args:
            a: A dense tensor (n,) or (n, d), a sparse CSR tensor, `RowBlocks`, a SciPy sparse matrix, or a
                `scipy.sparse.linalg.LinearOperator` with an adjoint, which sees m vectors in batches.
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
            state = sketch_and_apply(self, a, check_finite=check_finite)
            if not state.complete:
                raise ValueError(f"`a` gave rows {state.rows_seen} only, of {self.shape[1]}")
            return state.value.to(a.dtype)
        if hasattr(a, "tocsr"):
            return self.apply(csr_from_scipy(a), check_finite=check_finite)
        if hasattr(a, "rmatmat") and not check_finite:
            return self._apply_linear_operator(a)
        raise TypeError(f"`a` (a {type(a).__name__}) must be a tensor, RowBlocks or a SciPy sparse matrix")

    def _apply_linear_operator(self, a: Any) -> Tensor:
        """Return S A as the transpose of the operator's adjoint times that of S, some rows of S at a time."""
        m, n = self.shape
        if a.shape[0] != n:
            raise ValueError(f"`a` (of shape {tuple(a.shape)}) must have {n} rows")
        out = torch.empty(m, a.shape[1], dtype=torch.float64)
        step = max(1, _DENSE // n)
        for start in range(0, m, step):
            stop = min(m, start + step)
            unit = torch.zeros(m, stop - start, dtype=torch.float64)
            unit[torch.arange(start, stop), torch.arange(stop - start)] = 1
            out[start:stop] = torch.as_tensor(a.rmatmat(self.apply_t(unit).numpy())).T
        return out

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
                f"`block` ({block.layout}, {block.ndim} axes) must be a dense vector or matrix, or sparse CSR"
            )
        matrix = block if block.ndim == 2 else block[:, None]
        out: Tensor = Product.apply(matrix, self, row_offset, dtype)
        return out if block.ndim == 2 else out[:, 0]

    def _sum_dense(self, block: Tensor, row_offset: int, dtype: torch.dtype) -> Tensor:
        step = self._rows_at_once(block.shape[1])
        out = block.new_zeros((self.shape[0], block.shape[1]), dtype=dtype)
        if block.shape[1]:
            for start in range(0, block.shape[0], step):
                out += self._partial(block[start : start + step].to(dtype), row_offset + start)
        return out

    def _sum_csr(self, block: Tensor, row_offset: int, dtype: torch.dtype) -> Tensor:
        """Return S times a sparse CSR block, of whose pieces the columns in use are made dense."""
        rows, columns = block.shape
        entries = block.values().numel() / max(1, rows)
        step = min(
            self._rows_at_once(1), int(max(_DENSE / max(1, columns), math.sqrt(_DENSE / max(1, entries))))
        )
        out = block.values().new_zeros((self.shape[0], columns), dtype=dtype)
        for start in range(0, rows, max(1, step)):
            part = csr_rows(block, start, min(rows, start + max(1, step)))
            used, narrow = torch.unique(part.col_indices(), return_inverse=True)
            if used.numel():
                values = part.values().to(dtype)
                dense = csr_matrix(
                    part.crow_indices(), narrow, values, (part.shape[0], used.numel())
                ).to_dense()
                out.index_add_(1, used, self._partial(dense, row_offset + start))
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
        matrix = y if y.ndim == 2 else y[:, None]
        out: Tensor = TransposedProduct.apply(matrix, self, row_offset, rows, dtype)
        return out if y.ndim == 2 else out[:, 0]

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
        return self.apply_t(torch.eye(self.shape[0], dtype=self.dtype, device=self.device)).T

    def to(self, *, dtype: torch.dtype | None = None, device: Any = None) -> "SketchOperator":
        """Return the same operator computing in another dtype, or making its entries on another device."""
        moved = copy.copy(self)
        if dtype is not None:
            _check_precision(dtype)
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


@dataclass
class SketchState:
    """What has been added up so far of S A, and from which rows of A.

    Two states of one operator that saw different rows are merged by `+`; rows that both saw are refused.

    Args:
        kind: The operator's `kind`.
        seed: The operator's seed.
        shape: The operator's shape (m, n).
        value: The sum of partial sketches, shape (m, d).
        rows_seen: Disjoint ranges of rows `(start, stop)` that the sum holds, in order.

    Examples:
        >>> from lemmata.sketching.operators.sparse_sign import SparseSign
        >>> S, A = SparseSign(20, 100), torch.ones(100, 2, dtype=torch.float64)
        >>> here, there = SketchState.start(S, 2), SketchState.start(S, 2)
        >>> here.update(S, A[:30], 0)
        >>> there.update(S, A[60:], 60)
        >>> (here + there).rows_seen
        ((0, 30), (60, 100))
    """

    kind: str
    seed: int
    shape: tuple[int, int]
    value: Tensor
    rows_seen: Ranges = ()

    @classmethod
    def start(cls, operator: SketchOperator, columns: int, *, device: Any = "cpu") -> "SketchState":
        """Return the sketch of no rows yet, of a matrix of so many columns."""
        value = torch.zeros(operator.shape[0], columns, dtype=operator.dtype, device=device)
        return cls(operator.kind, operator.seed, operator.shape, value)

    @property
    def complete(self) -> bool:
        """Whether every row has been seen."""
        return self.rows_seen == ((0, self.shape[1]),)

    def has_seen(self, start: int, stop: int) -> bool:
        """Whether the sum holds all of rows `start : stop`."""
        return any(first <= start and stop <= last for first, last in self.rows_seen)

    def update(
        self, operator: SketchOperator, block: Tensor, row_offset: int, *, check_finite: bool = False
    ) -> None:
        """Add a block of rows (r, d), or (r,) where d is 1, in place.

        Raises:
            ValueError: Where the operator is not the state's, the columns are not d, or rows come again.
        """
        self._check_same((operator.kind, operator.seed, operator.shape, self.value.shape[1]))
        columns = block.shape[1] if block.ndim == 2 else 1
        if columns != self.value.shape[1]:
            raise ValueError(f"`block` (of {columns} columns) must have {self.value.shape[1]} columns")
        rows_seen = _merge_ranges(self.rows_seen, ((row_offset, row_offset + block.shape[0]),))
        part = operator.partial(block.detach(), row_offset, check_finite=check_finite)
        self.value += part.reshape(self.value.shape)
        self.rows_seen = rows_seen

    def __add__(self, other: "SketchState") -> "SketchState":
        """Merge two states of the same operator that saw different rows."""
        self._check_same((other.kind, other.seed, other.shape, other.value.shape[1]))
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
        """Take over a copy of what `state_dict` returned for the same operator.

        Raises:
            ValueError: Where it was saved for another operator or another number of columns.
        """
        m, n = state["shape"]
        value = state["value"]
        self._check_same((state["kind"], state["seed"], (m, n), value.shape[1]))
        self.value = value.to(self.value, copy=True)
        self.rows_seen = tuple((int(start), int(stop)) for start, stop in state["rows_seen"])

    def _check_same(self, other: tuple[Any, ...]) -> None:
        mine = (self.kind, self.seed, self.shape, self.value.shape[1])
        names = ("kinds", "seeds", "shapes", "numbers of columns")
        for name, ours, theirs in zip(names, mine, other, strict=True):
            if ours != theirs:
                raise ValueError(f"cannot merge sketches with different {name}: {ours} and {theirs}")


def _merge_ranges(first: Ranges, second: Ranges) -> Ranges:
    """Return the union of ranges as sorted, disjoint ranges that do not touch; overlaps are refused."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(piece for piece in first + second if piece[0] < piece[1]):
        if merged and start < merged[-1][1]:
            raise ValueError(f"rows {start}:{min(stop, merged[-1][1])} were sketched already")
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return tuple(merged)


def _check_precision(dtype: torch.dtype) -> None:
    if dtype not in {torch.float32, torch.float64}:
        raise TypeError(f"`dtype` (={dtype}) must be torch.float32 or torch.float64")


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
