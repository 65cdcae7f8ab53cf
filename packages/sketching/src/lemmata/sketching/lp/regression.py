"""Regression in the l_p norm, 1 <= p < infinity, with a certificate of how good the answer is."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LpResult", "lp_regression"]


@dataclass(frozen=True)
class LpResult:
    """A regression in a norm other than the Euclidean, and its certificate.

    Args:
        x: Coefficients, (d,) or (d, c).
        cost: The sum of weighted losses at `x`, () or (c,), float64.
        gap: `cost` less a lower bound on what any coefficients cost, () or (c,), float64.
        iterations: Steps taken, of the slowest right-hand side.
        status: "converged", or why it stopped before.
        rank: Rank of the matrix.
    """

    x: Tensor
    cost: Tensor
    gap: Tensor
    iterations: int
    status: str
    rank: int


def lp_regression(
    A: Tensor,
    b: Tensor,
    p: float,
    weights: Tensor | None = None,
    method: str = "auto",
    *,
    tol: float = 1e-10,
    max_iter: int = 200,
    x0: Tensor | None = None,
    rcond: float | None = None,
) -> LpResult:
    """Minimise the sum of `weights` |A x - b|^p."""
    raise NotImplementedError
