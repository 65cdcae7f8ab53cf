r"""The two passes of sketch-and-precondition as mergeable sums.

With $B = A R^{-1}$, well conditioned, a pass over the rows adds up $B^\top B$ and $B^\top b$; another adds up
the residual and $g = B^\top (b - A x)$. Sums over different rows merge by `+`, on whichever machine they were
made.

Axis letters: d columns, r rank, c targets, k penalties.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.least_squares.preconditioner import Preconditioner
from lemmata.sketching.sparse_rows import csr_rows

__all__ = ["PreconditionedGram", "ResidualSums"]

_ENTRIES = 1 << 18  # numbers of a block worked on at once, which stay in the cache
_PANEL = 64  # columns of a Gram matrix that are worth a product of their own


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
        for rows, b in _pieces(factor.dtype, block, targets, weights):
            basis = preconditioner.right(rows)
            _add_gram(gram, basis)
            cross.addmm_(basis.T, b)
            target += b.square().sum(0)
        return cls(gram.triu() + gram.triu(1).T, cross, target, block.shape[0])

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
        if ridge and not preconditioner.ridge:
            return self._solve_with_penalty(preconditioner, ridge)
        lower = self.cholesky(preconditioner, ridge)
        z: Tensor = torch.cholesky_solve(self.cross, lower)
        return preconditioner.solve(z)

    def ridge_path(
        self, preconditioner: Preconditioner, ridges: Float[Tensor, " k"]
    ) -> Float[Tensor, "k d c"]:
        r"""Return the solutions for many penalties from one singular value decomposition.

        With $B^\top B = L L^\top$ the product $L^\top R$ is a triangular factor of the data, as accurate as
        that of QR, and its singular values are the data's. Penalties must be at least 0.

        Raises:
            ValueError: Where the preconditioner was made with a penalty.
        """
        if preconditioner.ridge:
            raise ValueError(f"`preconditioner.ridge` (={preconditioner.ridge}) must be 0 for a path")
        triangle, rotated = self._triangle(preconditioner)
        u, sigma, vh = torch.linalg.svd(triangle, full_matrices=False)
        shrunk = sigma / (sigma.square() + ridges.to(sigma)[:, None])
        path: Tensor = vh.T @ (shrunk[..., None] * (u.T @ rotated))
        return path

    def cholesky(self, preconditioner: Preconditioner, ridge: float = 0.0) -> Float[Tensor, "r r"]:
        r"""Return the lower factor of $B^\top B + \rho R^{-\top} R^{-1}$.

        Raises:
            ValueError: Where `ridge` is negative or the sums are not positive definite: the sketch does not
                belong to the rows.
        """
        if not (0 <= ridge < math.inf):
            raise ValueError(f"`ridge` (={ridge}) must lie in [0, inf)")
        gram = self.gram
        if ridge:
            d = preconditioner.shape[1]
            root = math.sqrt(ridge) * torch.eye(d, dtype=gram.dtype, device=gram.device)
            root = preconditioner.solve_t(root)
            gram = gram + root @ root.T
        lower: Tensor
        lower, info = torch.linalg.cholesky_ex(gram)
        if bool(info) or not bool(lower.diagonal().isfinite().all()):
            raise ValueError(
                "the preconditioned Gram matrix is not positive definite: `preconditioner` was made from a "
                "sketch of other rows, of too few rows, or with a larger ridge"
            )
        return lower

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, which `torch.load` reads with `weights_only=True`."""
        return dict(vars(self))

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
        if not (0 <= ridge < math.inf):
            raise ValueError(f"`ridge` (={ridge}) must lie in [0, inf)")
        triangle, rotated = self._triangle(preconditioner)
        d = triangle.shape[1]
        penalty = math.sqrt(ridge) * torch.eye(d, dtype=triangle.dtype, device=triangle.device)
        stacked = torch.cat((triangle, penalty))
        scale = torch.linalg.vector_norm(stacked, dim=0)
        q, r = torch.linalg.qr(stacked / scale)
        z: Tensor = torch.linalg.solve_triangular(r, q[: len(rotated)].T @ rotated, upper=True)
        x: Tensor = z / scale[:, None]
        return x


@dataclass(frozen=True)
class ResidualSums:
    r"""Sums over rows of the squared residual and of $g = (A R^{-1})^\top (b - A x)$.

    `projected` is added up in the new coordinates: $R^{-\top} (A^\top r)$ would multiply by the condition
    number what rounding left where $A^\top r$ cancels.

    Args:
        residual_squares: Squared lengths of the residuals, shape (c,).
        projected: $g$, shape (r, c).
        leverage_squares: Squared residuals weighted by the rows' squared lengths in the new coordinates,
            shape (c,): what rounding in $g$ grows with.
        rows: Rows added.
    """

    residual_squares: Tensor
    projected: Tensor
    leverage_squares: Tensor
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
        x = x.to(factor.dtype)
        squares, leverage = factor.new_zeros(c), factor.new_zeros(c)
        projected = factor.new_zeros((preconditioner.rank, c))
        for rows, b in _pieces(factor.dtype, block, targets, weights):
            basis, residual = preconditioner.right(rows), b - rows @ x
            square = residual.square()
            squares += square.sum(0)
            leverage += basis.square().sum(1) @ square
            projected.addmm_(basis.T, residual)
        return cls(squares, projected, leverage, block.shape[0])

    def __add__(self, other: "ResidualSums") -> "ResidualSums":
        """Merge sums over different rows."""
        return ResidualSums(
            self.residual_squares + other.residual_squares,
            self.projected + other.projected,
            self.leverage_squares + other.leverage_squares,
            self.rows + other.rows,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, which `torch.load` reads with `weights_only=True`."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "ResidualSums":
        """Build from what `state_dict` returned."""
        return cls(**state)


def _pieces(
    dtype: torch.dtype, block: Tensor, targets: Tensor, weights: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a block into dense pieces of rows and targets, multiplied by the weights' roots."""
    step = max(512, _ENTRIES // block.shape[1])
    for start in range(0, block.shape[0], step):
        stop = min(start + step, block.shape[0])
        strided = block.layout == torch.strided
        rows = (block[start:stop] if strided else csr_rows(block, start, stop).to_dense()).to(dtype)
        b = targets[start:stop].to(dtype)
        if weights is not None:
            root = weights[start:stop].to(dtype).sqrt()[:, None]
            rows, b = rows * root, b * root
        yield rows, b


def _add_gram(gram: Tensor, basis: Tensor) -> None:
    """Add the product of a matrix with itself, on and above the diagonal: 9/16 of it in eight panels."""
    r = len(gram)
    panel = max(_PANEL, -(-r // 8))
    for start in range(0, r, panel):
        left = basis[:, start : start + panel]
        gram[start : start + panel, start:].addmm_(left.T, basis[:, start:])
