r"""A least-squares problem as the solvers see it: passes over weighted blocks of rows, counted.

Whatever holds the data - a tensor, sparse rows, `RowBlocks`, an operator that only multiplies - a pass gives
triples of an offset, a block and its targets, and a block can be multiplied from either side.

Axis letters: n rows, d columns, c targets.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.sparse_rows import csr_matrix, csr_rows
from lemmata.sketching.stream import RowBlocks, as_row_blocks

__all__ = ["Operator", "Problem", "adjoint", "product"]

_ROWS = 16384  # rows of a tensor in memory that one block holds
_SUM = 128  # rows of which a product with the transpose is added up at once
_ENTRIES = 1 << 18  # entries of a block that is multiplied from both sides while it is in the cache


class Operator:
    """A matrix that only multiplies, on tensors or on NumPy arrays, with weighted rows.

    Args:
        a: Any object with `shape`, `@` and `.T @`.
        root: Roots of the rows' weights, shape (n, 1).
    """

    def __init__(self, a: Any, root: Tensor | None = None) -> None:
        self.a = a
        self.shape = (int(a.shape[0]), int(a.shape[1]))
        self.root = root
        self.speaks_numpy = hasattr(a, "matvec") or type(a).__module__.split(".")[0] in {"numpy", "scipy"}

    def product(self, x: Tensor) -> Tensor:
        """Return the matrix times `x` (d, c)."""
        y = self._multiply(self.a, x)
        return y if self.root is None else self.root * y

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the transpose times `y` (n, c)."""
        return self._multiply(self.a.T, y if self.root is None else self.root * y)

    def _multiply(self, a: Any, x: Tensor) -> Tensor:
        if self.speaks_numpy:
            return torch.from_numpy(np.asarray(a @ x.cpu().numpy(), dtype=np.float64)).to(x.device)
        return torch.as_tensor(a @ x).to(x)


class Problem:
    """Minimise the weighted squares of A x - b, where A is read in passes.

    Args:
        a: A dense or sparse CSR tensor (n, d), a SciPy sparse matrix, a NumPy array, `RowBlocks`, or any
            object with `shape`, `@` and `.T @`.
        b: Targets, a tensor (n,) or (n, c), or `RowBlocks` cut like `a`.
        weights: Weights (n,) of the rows' squared residuals.

    Raises:
        ValueError: Where shapes do not match, a dimension of A is 0, or a weight is negative or not finite.
        TypeError: Where A or b is not real floating point.
    """

    def __init__(self, a: Any, b: Any, weights: Tensor | None = None) -> None:
        self.sparse = _is_sparse(a)
        self.a = _as_source(a)
        n, d = self._shape(a)
        self.vector = isinstance(b, Tensor) and b.ndim == 1
        self.b = _as_targets(b, n)
        self.shape = (n, d)
        self.targets = int(self.b.shape[1])
        self.dtype = self.a.dtype if isinstance(self.a, RowBlocks) else self.b.dtype
        self.device = self.a.device if isinstance(self.a, RowBlocks) else self.b.device
        for name, dtype in (("A", self.dtype), ("b", self.b.dtype)):
            if not dtype.is_floating_point:
                raise TypeError(f"`{name}` (dtype {dtype}) must be real floating point")
        self.root = None if weights is None else _root(weights, n)
        self.passes = 0

    @property
    def matrix_free(self) -> bool:
        """Whether A can only multiply."""
        return isinstance(self.a, Operator)

    def _shape(self, a: Any) -> tuple[int, int]:
        if len(a.shape) != 2 or 0 in a.shape:
            raise ValueError(
                f"`A` (shape {tuple(a.shape)}) must be a matrix with at least one row and column"
            )
        return int(a.shape[0]), int(a.shape[1])

    def blocks(self) -> Iterator[tuple[int, Any, Tensor]]:
        """Start a pass: give offsets, weighted blocks of A and weighted targets in float64.

        Raises:
            ValueError: Where the blocks do not add up to the shape, or those of A and b differ.
        """
        self.passes += 1
        if isinstance(self.a, Operator):
            b = self.b if isinstance(self.b, Tensor) else torch.cat([block for _, block in self.b])
            yield 0, Operator(self.a.a, self.root), self._weigh(0, b.to(torch.float64))
            return
        whole = self.b if isinstance(self.b, Tensor) else None
        targets = iter(()) if isinstance(self.b, Tensor) else iter(self.b)
        seen = 0
        for offset, block in self.a:
            rows = int(block.shape[0])
            self._check_block("A", offset, block, self.shape[1])
            b = self._matching(targets, offset, rows) if whole is None else whole[offset : offset + rows]
            yield offset, self._weigh(offset, block), self._weigh(offset, b.to(torch.float64))
            seen += rows
        if seen != self.shape[0]:
            raise ValueError(f"`A` (shape {self.shape}) gave {seen} rows in its blocks")

    def _check_block(self, name: str, offset: int, block: Tensor, columns: int) -> None:
        rows = int(block.shape[0])
        if block.ndim != 2 or block.shape[1] != columns or offset < 0 or offset + rows > self.shape[0]:
            raise ValueError(
                f"a block of `{name}` (shape {tuple(block.shape)}, from row {offset}) does not fit in "
                f"{self.shape[0]} rows and {columns} columns"
            )

    def _matching(self, targets: Iterator[tuple[int, Tensor]], offset: int, rows: int) -> Tensor:
        """Return the block of b that belongs to a block of A."""
        start, b = next(targets, (-1, torch.empty(0, 0)))
        if (start, int(b.shape[0])) != (offset, rows):
            found = f"rows {start}:{start + int(b.shape[0])}" if start >= 0 else "nothing"
            raise ValueError(f"blocks of `A` and `b` differ: rows {offset}:{offset + rows} and {found}")
        b = b.reshape(rows, -1)
        self._check_block("b", offset, b, self.targets)
        return b

    def _weigh(self, offset: int, block: Tensor) -> Tensor:
        """Multiply rows by the roots of their weights."""
        if self.root is None:
            return block
        root = self.root[offset : offset + block.shape[0]].to(block.device)
        if block.layout == torch.sparse_csr:
            starts = block.crow_indices()
            rowwise = root[:, 0].repeat_interleave(starts[1:] - starts[:-1])
            values = block.values().to(torch.float64) * rowwise
            return csr_matrix(starts, block.col_indices(), values, (block.shape[0], block.shape[1]))
        return block.to(torch.float64) * root

    def sketch(self, operator: SketchOperator | None, *, targets: bool) -> tuple[Tensor, Tensor]:
        """Return the sketches of A (m, d) and b (m, c) in float64; without an operator A and b themselves.

        Args:
            operator: The sketch.
            targets: Whether b is wanted; otherwise its sketch is empty, shape (m, 0).
        """
        n, d = self.shape
        m = n if operator is None else operator.shape[0]
        y = torch.zeros((m, d), dtype=torch.float64, device=self.device)
        yb = y.new_zeros((m, self.targets if targets else 0))
        for offset, block, b in self.blocks():
            if isinstance(block, Operator):
                self._sketch_products(operator, block, y)
            elif operator is None:
                y[offset : offset + block.shape[0]] = dense(block).to(y)
            else:
                y += operator.partial(block, offset).to(y)
            if targets and operator is None:
                yb[offset : offset + b.shape[0]] = b.to(yb)
            elif targets and operator is not None:
                yb += operator.partial(b, offset).to(yb)
        self._check_finite(y, yb)
        return y, yb

    def _sketch_products(self, operator: SketchOperator | None, block: Operator, y: Tensor) -> None:
        """Sketch the products with columns of the identity; each product after the first counts as a pass."""
        d = self.shape[1]
        for start in range(0, d, 64):
            stop = min(start + 64, d)
            columns = y.new_zeros((d, stop - start))
            columns[torch.arange(start, stop), torch.arange(stop - start)] = 1
            found = block.product(columns)
            y[:, start:stop] = found if operator is None else operator.partial(found, 0)
            self.passes += int(start > 0)

    def _check_finite(self, y: Tensor, yb: Tensor) -> None:
        """Name the first row that is not finite, by another pass, where the sketch is not."""
        if bool(y.isfinite().all()) and bool(yb.isfinite().all()):
            return
        self.name_bad_row()

    def name_bad_row(self) -> None:
        """Raise a ValueError that names the first row of A or b that is not finite."""
        for offset, block, b in self.blocks():
            for name, part in (("A", block), ("b", b)):
                if isinstance(part, Tensor):
                    bad = torch.nonzero(~dense(part).isfinite().all(1))
                    if len(bad):
                        raise ValueError(f"row {offset + int(bad[0, 0])} of `{name}` is not finite")
        raise ValueError("`A` and `b` must be finite and their squares must not overflow")

    def sweep(
        self, x: Tensor, rows: Tensor | None = None, scale: Tensor | None = None, *, ridge: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        r"""Return $u$ and $A^\top u$ in one pass, for $u = A x - w s$ with rows $w$ and a scale $s$ a column.

        The penalty's rows, $\sqrt{\rho} I$ with targets 0, are the last d rows of $u$.

        Args:
            x: Coefficients (d, c).
            rows: $w$, shape (n + d, c); default the targets.
            scale: $s$, shape (c,); default 1.
            ridge: $\rho$.
        """
        n, d = self.shape
        u = x.new_empty((n + d, x.shape[1]))
        back = torch.zeros_like(x)
        scale = x.new_ones(x.shape[1]) if scale is None else scale
        for offset, block, b in self.pieces():
            stop = offset + int(block.shape[0])
            part = product(block, x) - (b if rows is None else rows[offset:stop]) * scale
            u[offset:stop] = part
            back += adjoint(block, part)
        penalty = math.sqrt(ridge) * x
        u[n:] = penalty if rows is None else penalty - rows[n:] * scale
        return u, back + math.sqrt(ridge) * u[n:]

    def gradient(self, x: Tensor, *, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
        r"""Return $A^\top (b - A x) - \rho x$ and the squared residuals, in one pass."""
        back, squares = torch.zeros_like(x), x.new_zeros(x.shape[1])
        for _, block, b in self.pieces():
            part = b - product(block, x)
            back += adjoint(block, part)
            squares += part.square().sum(0)
        return back - ridge * x, squares

    def normal(self, x: Tensor, *, ridge: float = 0.0) -> Tensor:
        r"""Return $(A^\top A + \rho I) x$ in one pass."""
        back = ridge * x
        for _, block, _ in self.pieces():
            back += adjoint(block, product(block, x))
        return back

    def pieces(self) -> Iterator[tuple[int, Any, Tensor]]:
        """Start a pass whose blocks are small enough to be read once and multiplied from both sides."""
        for offset, block, b in self.blocks():
            if isinstance(block, Operator):
                yield offset, block, b
                continue
            for start, stop in _cuts(block):
                rows = block[start:stop] if block.layout == torch.strided else csr_rows(block, start, stop)
                yield offset + start, rows.to(torch.float64), b[start:stop]


def product(block: Any, x: Tensor) -> Tensor:
    """Return a block of rows times `x` (d, c)."""
    if isinstance(block, Operator):
        return block.product(x)
    y: Tensor = block @ x
    return y


def adjoint(block: Any, y: Tensor) -> Tensor:
    """Return the transpose of a block of rows times `y` (rows, c)."""
    if isinstance(block, Operator):
        return block.adjoint(y)
    if block.layout != torch.strided:
        x: Tensor = (y.T @ block).T
        return x
    # Where the residual is nearly orthogonal to the columns, long sums lose more than short ones.
    x = y.new_zeros((block.shape[1], y.shape[1]))
    for start in range(0, len(block), _SUM):
        x += block[start : start + _SUM].T @ y[start : start + _SUM]
    return x


def dense(block: Tensor) -> Tensor:
    """Return a block as a dense tensor."""
    return block if block.layout == torch.strided else block.to_dense()


def _cuts(block: Tensor) -> Iterator[tuple[int, int]]:
    """Give ranges of rows that hold about as many entries as fit in the cache."""
    rows = int(block.shape[0])
    entries = block.numel() if block.layout == torch.strided else block.values().numel()
    step = max(64, _ENTRIES * rows // max(entries, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _is_sparse(a: Any) -> bool:
    """Tell sparse tensors and SciPy's sparse matrices."""
    return a.layout != torch.strided if isinstance(a, Tensor) else hasattr(a, "tocsr")


def _as_source(a: Any) -> "RowBlocks | Operator":
    """Return row blocks where rows can be read, otherwise an operator."""
    if isinstance(a, Tensor):
        if a.ndim != 2:
            raise ValueError(f"`A` (shape {tuple(a.shape)}) must be a matrix")
        if a.layout not in {torch.strided, torch.sparse_csr}:
            raise TypeError(f"`A` (layout {a.layout}) must be dense or sparse CSR")
        if not a.dtype.is_floating_point:
            raise TypeError(f"`A` (dtype {a.dtype}) must be real floating point")
        return RowBlocks.from_tensor(a.detach(), _ROWS)
    if isinstance(a, RowBlocks | np.ndarray) or hasattr(a, "tocsr"):
        return as_row_blocks(a)
    if all(hasattr(a, name) for name in ("shape", "__matmul__", "T")):
        return Operator(a)
    raise TypeError(
        f"`A` (a {type(a).__name__}) must be a tensor, a SciPy sparse matrix, RowBlocks, or have "
        "shape, @ and .T @"
    )


def _as_targets(b: Any, n: int) -> "Tensor | RowBlocks":
    """Return targets with two axes, checked against the rows of A."""
    if not isinstance(b, Tensor | RowBlocks):
        raise TypeError(f"`b` (a {type(b).__name__}) must be a tensor or RowBlocks")
    if len(b.shape) not in {1, 2} or b.shape[0] != n:
        raise ValueError(
            f"`b` (shape {tuple(b.shape)}) must have as many rows as `A`, {n}, and one or two axes"
        )
    return b.detach().reshape(n, -1) if isinstance(b, Tensor) else b


def _root(weights: Tensor, n: int) -> Tensor:
    """Return the roots of weights as a column."""
    if tuple(weights.shape) != (n,):
        raise ValueError(f"`weights` (shape {tuple(weights.shape)}) must have shape ({n},), one for each row")
    weights = weights.detach().to(torch.float64)
    if not bool((weights >= 0).all() and weights.isfinite().all()):
        raise ValueError(f"`weights` (smallest {float(weights.min())}) must be finite and not negative")
    return weights.sqrt()[:, None]
