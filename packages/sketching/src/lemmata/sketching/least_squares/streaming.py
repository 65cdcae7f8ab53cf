r"""Least squares of rows that are seen once: a sketch that grows, merges and is solved at any time.

Axis letters: m rows of the sketch, d columns, c targets.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.least_squares.certificate import LstsqResult
from lemmata.sketching.least_squares.solvers import solve_sketched
from lemmata.sketching.operators.operator import SketchState
from lemmata.sketching.operators.sparse_sign import SparseSign

__all__ = ["SketchedLeastSquares"]

_ROWS = (
    1 << 62
)  # rows of data that the sketch has columns for: an entry depends on its column, not on their number


class SketchedLeastSquares:
    r"""Sketch rows and targets in one pass, on any number of machines, and solve the sketched problem.

    With m rows of sketch the cost $\lVert A x - b \rVert^2$ exceeds the least one by a factor of about
    $1 + d / (m - d)$: an approximation, and the only thing that one pass can give. `lstsq` solves exactly in
    two. Rows are known by their numbers: workers pass disjoint ranges, in any order, and merge.

    Args:
        d: Columns.
        n_targets: Targets, c.
        sketch_rows: Rows of the sketch, m; default 8 d, at least 128.
        seed: Seed of the sketch, the same on all workers.
        device: Where the sketch is kept.

    Raises:
        ValueError: Where `d` or `n_targets` is less than 1, or `sketch_rows` not greater than `d`.

    Examples:
        >>> A = torch.randn(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> first, second = SketchedLeastSquares(3), SketchedLeastSquares(3)
        >>> _ = first.partial_fit(A[:1000], A[:1000].sum(1), 0)
        >>> _ = second.partial_fit(A[1000:], A[1000:].sum(1), 1000)
        >>> first.merge(second).solve().x.round(decimals=9)
        tensor([1., 1., 1.], dtype=torch.float64)
    """

    def __init__(
        self,
        d: int,
        n_targets: int = 1,
        sketch_rows: int | None = None,
        *,
        seed: int = 0,
        device: Any = "cpu",
    ) -> None:
        for name, value in (("d", d), ("n_targets", n_targets)):
            if value < 1:
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        sketch_rows = max(8 * d, 128) if sketch_rows is None else sketch_rows
        if sketch_rows <= d:
            raise ValueError(f"`sketch_rows` (={sketch_rows}) must be greater than `d` (={d})")
        self.d = d
        self.n_targets = n_targets
        self.operator = SparseSign(sketch_rows, _ROWS, min(8, sketch_rows), seed=seed)
        self.state = SketchState.start(self.operator, d + n_targets, device=device)
        self.vector = False

    @property
    def rows_seen(self) -> int:
        """Rows added so far."""
        return sum(stop - start for start, stop in self.state.rows_seen)

    def partial_fit(self, block: Tensor, target: Tensor, row_offset: int) -> "SketchedLeastSquares":
        """Add rows, and return itself.

        Args:
            block: Rows of the data, shape (rows, d), dense or sparse CSR.
            target: Their targets, shape (rows,) or (rows, c).
            row_offset: Number of the first row.

        Raises:
            ValueError: Where shapes do not match, entries are not finite, or rows were added before.
            TypeError: Where an argument is not real floating point.
        """
        rows = int(block.shape[0])
        columns = target.reshape(rows, -1) if target.ndim in {1, 2} and target.shape[0] == rows else target
        if tuple(block.shape) != (rows, self.d) or tuple(columns.shape) != (rows, self.n_targets):
            raise ValueError(
                f"`block` (shape {tuple(block.shape)}) and `target` (shape {tuple(target.shape)}) must have "
                f"the same rows, and {self.d} and {self.n_targets} columns"
            )
        part = SketchState.start(self.operator, self.d + self.n_targets, device=self.state.value.device)
        part.rows_seen = ((row_offset, row_offset + rows),) if rows else ()
        sketches = [self.operator.partial(x, row_offset, check_finite=True) for x in (block, columns)]
        part.value = torch.cat([sketch.to(part.value) for sketch in sketches], 1)
        self.state = self.state + part
        self.vector = target.ndim == 1
        return self

    def merge(self, other: "SketchedLeastSquares") -> "SketchedLeastSquares":
        """Return the sketch of the rows of both, which must be different rows of the same sketch.

        Raises:
            ValueError: Where the sketches differ or saw the same rows.
        """
        if (self.d, self.n_targets) != (other.d, other.n_targets):
            raise ValueError(
                f"`other` has {other.d} columns and {other.n_targets} targets, not {self.d} and "
                f"{self.n_targets}"
            )
        merged = SketchedLeastSquares(
            self.d,
            self.n_targets,
            self.operator.shape[0],
            seed=self.operator.seed,
            device=self.state.value.device,
        )
        merged.state = self.state + other.state
        merged.vector = self.vector or other.vector
        return merged

    def solve(self, ridge: float = 0.0, *, rcond: float | None = None) -> LstsqResult:
        r"""Solve the sketched problem.

        Args:
            ridge: Penalty $\rho \ge 0$.
            rcond: As for `lstsq`.

        Returns:
            A result as of `lstsq(method="sketch_and_solve")`, in float64.

        Raises:
            ValueError: Where no row or fewer rows than columns were added, without a penalty.
        """
        if self.rows_seen < self.d and not ridge:
            raise ValueError(
                f"the sketch has seen {self.rows_seen} rows for {self.d} columns: add rows or use `ridge` > 0"
            )
        y, yb = self.state.value[:, : self.d], self.state.value[:, self.d :]
        # Few rows are sketched as well as many, so the number of rows bounds the rank alone.
        found = solve_sketched(y, yb, self.rows_seen, ridge=ridge, rcond=rcond, passes=1, sketched=True)
        return found.result(vector=self.vector)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and a tensor, which `torch.load` reads with `weights_only=True`."""
        return {"d": self.d, "n_targets": self.n_targets, "vector": self.vector, **self.state.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: Where it is of another sketch.
        """
        if (state["d"], state["n_targets"]) != (self.d, self.n_targets):
            raise ValueError(
                f"`state` has {state['d']} columns and {state['n_targets']} targets, not {self.d} and "
                f"{self.n_targets}"
            )
        self.state.load_state_dict(state)
        self.vector = bool(state["vector"])
