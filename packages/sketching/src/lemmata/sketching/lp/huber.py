"""Regression with Huber's loss: squares for small residuals, absolute values for large ones."""

from torch import Tensor

from lemmata.sketching.lp.regression import LpResult

__all__ = ["huber_regression"]


def huber_regression(
    A: Tensor,
    b: Tensor,
    delta: float,
    weights: Tensor | None = None,
    *,
    tol: float = 1e-10,
    max_iter: int = 200,
    rcond: float | None = None,
) -> LpResult:
    """Minimise the sum of `weights` rho(A x - b), rho(r) = r^2 / 2 up to `delta`, then linear."""
    raise NotImplementedError
