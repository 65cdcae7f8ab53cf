r"""The two passes of sketch-and-precondition as mergeable sums.

With $B = A R^{-1}$, well conditioned, a pass over the rows adds up $B^\top B$ and $B^\top b$; another adds up the
residual and $g = B^\top (b - A x)$. Sums of different rows merge by `+`, in any order and on any machine.

Axis letters: d columns, r rank, c targets, k penalties.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.least_squares.preconditioner import Preconditioner

__all__ = ["PreconditionedGram", "ResidualSums"]

_ROWS = 2048  # rows worked on at once: block, product and factor stay in the cache
_PANEL = 64  # columns below which a Gram matrix is one product


@dataclass(frozen=True)
class PreconditionedGram:
    r"""Sums over rows of $B^\top B$, $B^\top b$ and $b^2$, with $B = A R^{-1}$.

    Args:
        gram: $B^\top B$, shape (r, r).
        cross: $B^\top b$, shape (r, c).
        target: Squared lengths of the targets, shape (c,).
        rows: Rows added.

    Examples:
        >>> a, b = torch.randn(100, 3, dtype=torch.float64), torch.randn(100, 1, dtype=torch.float64)
        >>> basis = Preconditioner.from_sketch(a, n=100)
        >>> parts = [PreconditionedGram.partial(basis, a[i : i + 25], b[i : i + 25]) for i in (75, 0, 50, 25)]
        >>> x = sum(parts[1:], parts[0]).solve(basis)
        >>> bool(x.allclose(torch.linalg.lstsq(a, b).solution))
        True
    """

    gram: Tensor
    cross: Tensor
    target: Tensor
    rows: int

    @classmethod
    def partial(
        cls,
        preconditioner: Preconditioner,
        block: Float[Tensor, "rows d"],
        targets: Float[Tensor, "rows c"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> "PreconditionedGram":
        """Return the sums over a block of rows.

        Args:
            preconditioner: Made from a sketch of all rows, with the same weights.
            block: Rows of the data, dense or sparse CSR.
            targets: Rows of the right-hand sides.
            weights: Weights of the rows' squared residuals.
        """
        r, c = preconditioner.rank, targets.shape[1]
        factor = preconditioner.factor
        gram, cross, target = factor.new_zeros((r, r)), factor.new_zeros((r, c)), factor.new_zeros(c)
        for basis, b in _preconditioned(preconditioner, block, targets, weights):
            _add_gram(gram, basis)
            cross.addmm_(basis.T, b)
            target += b.square().sum(0)
        gram = gram.triu() + gram.triu(1).T
        return cls(gram, cross, target, block.shape[0])

    def __add__(self, other: "PreconditionedGram") -> "PreconditionedGram":
        """Merge sums over different rows, made with the same preconditioner."""
        return PreconditionedGram(
            self.gram + other.gram,
            self.cross + other.cross,
            self.target + other.target,
            self.rows + other.rows,
        )

    def solve(self, preconditioner: Preconditioner, ridge: float = 0.0) -> Float[Tensor, "d c"]:
        r"""Return the minimiser of $\lVert A x - b \rVert^2 + \rho \lVert x \rVert^2$.

        Args:
            preconditioner: The one the sums were made with.
            ridge: Penalty $\rho \ge 0$. A preconditioner made without penalty serves every penalty.

        Raises:
            ValueError: Where `ridge` is negative, or the sums are numerically singular.
        """
        if not (0 <= ridge < math.inf):
            raise ValueError(f"`ridge` (={ridge}) must lie in [0, inf)")
        if ridge and not preconditioner.ridge:
            return self._solve_with_penalty(preconditioner, ridge)
        lower = self.cholesky(preconditioner, ridge)
        return preconditioner.solve(torch.cholesky_solve(self.cross, lower))

    def ridge_path(
        self, preconditioner: Preconditioner, ridges: Float[Tensor, " k"]
    ) -> Float[Tensor, "k d c"]:
        r"""Return the solutions for many penalties from one singular value decomposition.

        $L^\top R$, with $B^\top B = L L^\top$, is a triangular factor of the data as accurate as that of QR.
        """
        if preconditioner.ridge:
            raise ValueError(
                f"`preconditioner.ridge` (={preconditioner.ridge}) must be 0 for a path of penalties"
            )
        triangle, rotated = self._triangle(preconditioner)
        u, sigma, vh = torch.linalg.svd(triangle, full_matrices=False)
        ridges = ridges.to(sigma)[:, None]
        shrunk = sigma / (sigma.square() + ridges)
        return vh.T @ (shrunk[..., None] * (u.T @ rotated))

    def cholesky(self, preconditioner: Preconditioner, ridge: float = 0.0) -> Float[Tensor, "r r"]:
        r"""Return the lower factor of $B^\top B + \rho R^{-\top} R^{-1}$.

        Raises:
            ValueError: Where it is singular: the sketch does not belong to the rows.
        """
        gram = self.gram
        if ridge:
            d = preconditioner.shape[1]
            root = preconditioner.right(math.sqrt(ridge) * torch.eye(d, dtype=gram.dtype, device=gram.device))
            gram = gram + root.T @ root
        lower, info = torch.linalg.cholesky_ex(gram)
        if bool(info):
            raise ValueError(
                "the preconditioned Gram matrix is singular: `preconditioner` was made from a sketch of "
                "other rows, from too few rows, or with a larger ridge"
            )
        return lower

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, which `torch.load` reads with `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "PreconditionedGram":
        """Build from what `state_dict` returned."""
        return cls(**state)

    def _triangle(self, preconditioner: Preconditioner) -> tuple[Tensor, Tensor]:
        """Return a factor (r, d) of the data, and the targets in its orthonormal basis."""
        lower = self.cholesky(preconditioner)
        rotated = torch.linalg.solve_triangular(lower, self.cross, upper=False)
        return lower.T @ preconditioner.forward(), rotated

    def _solve_with_penalty(self, preconditioner: Preconditioner, ridge: float) -> Tensor:
        """Append the penalty to the data's triangular factor and solve by QR with scaled columns."""
        triangle, rotated = self._triangle(preconditioner)
        d = triangle.shape[1]
        penalty = math.sqrt(ridge) * torch.eye(d, dtype=triangle.dtype, device=triangle.device)
        stacked = torch.cat((triangle, penalty))
        scale = torch.linalg.vector_norm(stacked, dim=0)
        q, r = torch.linalg.qr(stacked / scale)
        z = torch.linalg.solve_triangular(r, q[: len(rotated)].T @ rotated, upper=True)
        return z / scale[:, None]


@dataclass(frozen=True)
class ResidualSums:
    r"""Sums over rows of the squared residual and of $g = (A R^{-1})^\top (b - A x)$.

    `projected` is added up in the new coordinates: $R^{-\top} (A^\top r)$ would lose in the product with $R^{-\top}$
    what had cancelled in $A^\top r$.

    Args:
        residual_squares: Squared lengths of the residuals, shape (c,).
        projected: $g$, shape (r, c).
        rows: Rows added.
    """

    residual_squares: Tensor
    projected: Tensor
    rows: int

    @classmethod
    def partial(
        cls,
        preconditioner: Preconditioner,
        block: Float[Tensor, "rows d"],
        targets: Float[Tensor, "rows c"],
        x: Float[Tensor, "d c"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> "ResidualSums":
        """Return the sums over a block of rows for the coefficients `x`."""
        c = targets.shape[1]
        factor = preconditioner.factor
        squares, projected = factor.new_zeros(c), factor.new_zeros((preconditioner.rank, c))
        for rows, b in _weighted(factor.dtype, block, targets, weights):
            residual = b - rows @ x.to(factor.dtype)
            squares += residual.square().sum(0)
            projected.addmm_(preconditioner.right(rows).T, residual)
        return cls(squares, projected, block.shape[0])

    def __add__(self, other: "ResidualSums") -> "ResidualSums":
        """Merge sums over different rows."""
        return ResidualSums(
            self.residual_squares + other.residual_squares,
            self.projected + other.projected,
            self.rows + other.rows,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, which `torch.load` reads with `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "ResidualSums":
        """Build from what `state_dict` returned."""
        return cls(**state)


def _weighted(
    dtype: torch.dtype, block: Tensor, targets: Tensor, weights: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a block into dense pieces of rows and targets, multiplied by the weights' roots."""
    for start in range(0, block.shape[0], _ROWS):
        rows, b = block[start : start + _ROWS], targets[start : start + _ROWS].to(dtype)
        rows = (rows if rows.layout == torch.strided else rows.to_dense()).to(dtype)
        if weights is not None:
            root = weights[start : start + _ROWS].to(dtype).sqrt()[:, None]
            rows, b = rows * root, b * root
        yield rows, b


def _preconditioned(
    preconditioner: Preconditioner, block: Tensor, targets: Tensor, weights: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a block into pieces of rows in the new coordinates, with their targets."""
    for rows, b in _weighted(preconditioner.factor.dtype, block, targets, weights):
        yield preconditioner.right(rows), b


def _add_gram(gram: Tensor, basis: Tensor) -> None:
    """Add the blocks on and above the diagonal of a product with itself: three quarters of the work."""
    r = len(gram)
    if r < 2 * _PANEL:
        gram.addmm_(basis.T, basis)
        return
    half = r // 2
    gram[:half].addmm_(basis[:, :half].T, basis)
    gram[half:, half:].addmm_(basis[:, half:].T, basis[:, half:])
