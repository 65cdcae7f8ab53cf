r"""A sketch turned into coordinates in which tall data is well conditioned.

If $S A = Q R$ for a sketch $S$ that keeps lengths within $1 \pm t$, then $A R^{-1}$ has singular values
within $[1/(1 + t), 1/(1 - t)]$ however ill conditioned $A$ is. `Preconditioner` is $R^{-1}$: applied to
blocks of rows from the right, to coefficients from the left, and small enough to be sent to every worker.

References:
    V. Rokhlin, M. Tygert, A fast randomized algorithm for overdetermined linear least-squares regression,
    2008.

Axis letters: n rows of the data, m rows of the sketch, d columns, r rank, c targets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Preconditioner"]


@dataclass(frozen=True)
class Preconditioner:
    r"""The inverse $R^{-1}$ (d, r) of a sketch's triangular factor, or its pseudo-inverse.

    Columns are scaled to unit length before the factorisation, so that neither `rcond` nor the rank depends
    on their units. At full rank `factor` is the triangle $R$ and both sides use substitution: a product with
    an explicit inverse has no backward stability to offer. Otherwise `factor` is
    $R^{-1} = D^{-1} V \Sigma^{-1}$ from a singular value decomposition of the scaled sketch, as stable since
    each of its columns is a multiple of an orthonormal one, and `solve` removes what lies along `null`: the
    solution has minimum norm.

    Args:
        factor: The triangle $R$ (d, d) at full rank, otherwise the pseudo-inverse (d, r).
        null: Orthonormal basis (d, d - r) of the directions that the data does not see.
        condition: Frobenius norm of the inverse of the factor with unit columns: its condition number up to
            a factor between $1 / \sqrt{d}$ and $\sqrt{d}$.
        shape: Rows and columns of the data.
        sketch_rows: Rows of the sketch, m.
        ridge: The penalty that was appended to the sketch.

    Examples:
        >>> a = torch.randn(100, 3, dtype=torch.float64) * torch.tensor([1.0, 1e6, 1e-6])
        >>> basis = Preconditioner.from_sketch(a, n=100).right(a)
        >>> bool((basis.T @ basis).allclose(torch.eye(3, dtype=torch.float64)))
        True
    """

    factor: Tensor
    null: Tensor
    condition: float
    shape: tuple[int, int]
    sketch_rows: int
    ridge: float = 0.0

    @classmethod
    def from_sketch(
        cls, sketch_of_A: Tensor, *, n: int, rcond: float | None = None, ridge: float = 0.0
    ) -> "Preconditioner":
        r"""Factorise a sketch.

        Args:
            sketch_of_A: $S A$, shape (m, d), or $A$ itself.
            n: Rows of the data, which bound the rank.
            rcond: Singular values of the scaled sketch below `rcond` times the largest count as zero.
                Default: the unit of rounding of the sketch's type times d. (Times n, as libraries do for
                all rows, would call a matrix of a million rows and condition 1e10 deficient.)
            ridge: Penalty $\rho \ge 0$ of $\rho \lVert x \rVert^2$, in the units of the unscaled columns.

        Raises:
            ValueError: Where the sketch is not a matrix, has no columns or is not finite, or `ridge` or
                `rcond` is out of range.
            TypeError: Where the sketch is not real and floating.
        """
        _check_sketch(sketch_of_A, ridge, rcond)
        m, d = sketch_of_A.shape
        tolerance = torch.finfo(sketch_of_A.dtype).eps * d if rcond is None else rcond
        y = sketch_of_A.detach().to(torch.float64)
        if ridge:
            y = torch.cat((y, math.sqrt(ridge) * _identity(d, y)))
        scale = _column_norms(y)
        r = torch.linalg.qr(y / scale, mode="r").R
        condition = _inverse_norm(r)
        if condition * math.sqrt(d) * tolerance < 1:  # the largest singular value is at most sqrt(d)
            return cls(r * scale, y.new_empty((d, 0)), condition, (n, d), m, float(ridge))
        _, sigma, vh = torch.linalg.svd(r, full_matrices=True)
        rank = int((sigma > tolerance * sigma[0]).sum()) if len(sigma) else 0
        rank = rank if ridge else min(rank, n)
        condition = float(torch.linalg.vector_norm(1 / sigma[:rank]))
        if rank == d:
            return cls(r * scale, y.new_empty((d, 0)), condition, (n, d), m, float(ridge))
        inverse = vh[:rank].T / sigma[:rank] / scale[:, None]
        null = torch.linalg.qr(vh[rank:].T / scale[:, None]).Q
        return cls(inverse, null, condition, (n, d), m, float(ridge))

    @property
    def rank(self) -> int:
        """Numerical rank of the data, r."""
        return self.shape[1] - self.null.shape[1]

    @property
    def distortion(self) -> float:
        r"""What a sketch of this size is expected to distort, $\sqrt{r / m}$; 0 where it holds all rows."""
        if self.sketch_rows == self.shape[0]:
            return 0.0
        return min(math.sqrt(self.rank / self.sketch_rows), 1.0)

    def right(self, block: Float[Tensor, "rows d"]) -> Float[Tensor, "rows r"]:
        r"""Return rows in the new coordinates, `block` times $R^{-1}$, in float64; dense or CSR rows."""
        dense = (block if block.layout == torch.strided else block.to_dense()).to(self.factor.dtype)
        if self.null.shape[1]:
            return dense @ self.factor
        # The transposed system reads row-major blocks in the order that BLAS wants.
        return _substitute(self.factor.T, dense.T, upper=False).T

    def solve(self, z: Float[Tensor, "r c"]) -> Float[Tensor, "d c"]:
        r"""Return coefficients of the original columns, $R^{-1} z$."""
        if self.null.shape[1]:
            x = self.factor @ z
            return x - self.null @ (self.null.T @ x)
        return _substitute(self.factor, z, upper=True)

    def solve_t(self, g: Float[Tensor, "d c"]) -> Float[Tensor, "r c"]:
        r"""Return $R^{-\top} g$, the adjoint of `solve`."""
        if self.null.shape[1]:
            return self.factor.T @ (g - self.null @ (self.null.T @ g))
        return _substitute(self.factor.T, g, upper=False)

    def forward(self) -> Float[Tensor, "r d"]:
        r"""Return $R$ itself: the triangle, or the pseudo-inverse of what `solve` multiplies with."""
        if not self.null.shape[1]:
            return self.factor
        matrix: Tensor = torch.linalg.pinv(self.solve(_identity(self.rank, self.factor)), rtol=0.0)
        return matrix

    def to(self, device: Any) -> "Preconditioner":
        """Return it on another device."""
        return Preconditioner(
            **{**vars(self), "factor": self.factor.to(device), "null": self.null.to(device)}
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, which `torch.load` reads with `weights_only=True`."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Preconditioner":
        """Build from what `state_dict` returned."""
        n, d = state["shape"]
        return cls(**{**state, "shape": (int(n), int(d))})


def _check_sketch(y: Tensor, ridge: float, rcond: float | None) -> None:
    """Refuse what cannot be factorised."""
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"`sketch_of_A` (shape {tuple(y.shape)}) must be a matrix with at least one column")
    if not y.dtype.is_floating_point:
        raise TypeError(f"`sketch_of_A` (dtype {y.dtype}) must be real and floating")
    if not (0 <= ridge < math.inf):
        raise ValueError(f"`ridge` (={ridge}) must lie in [0, inf)")
    if rcond is not None and not (0 <= rcond < 1):
        raise ValueError(f"`rcond` (={rcond}) must lie in [0, 1)")
    if not bool(y.isfinite().all()):
        raise ValueError("`sketch_of_A` must be finite: the data holds nan or inf, or overflows")


def _column_norms(y: Tensor) -> Tensor:
    """Return the columns' lengths without overflow, 1 for a column of zeros."""
    largest = y.abs().amax(0) if len(y) else y.new_zeros(y.shape[1])
    largest = torch.where(largest > 0, largest, 1)
    norm = torch.linalg.vector_norm(y / largest, dim=0) * largest
    return torch.where(norm > 0, norm, 1)


def _inverse_norm(r: Tensor) -> float:
    """Return the Frobenius norm of a triangle's inverse, inf where there is none."""
    if r.shape[0] < r.shape[1] or not bool((r.diagonal() != 0).all()):
        return math.inf
    norm = float(torch.linalg.vector_norm(_substitute(r, _identity(len(r), r), upper=True)))
    return norm if math.isfinite(norm) else math.inf


def _identity(size: int, like: Tensor) -> Tensor:
    """Return an identity matrix of a tensor's type and device."""
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _substitute(triangle: Tensor, y: Tensor, *, upper: bool) -> Tensor:
    """Solve a triangular system."""
    solution: Tensor = torch.linalg.solve_triangular(triangle, y, upper=upper)
    return solution
