r"""What a solution of least squares is known to satisfy.

With $B = A R^{-1}$ and $g = B^\top (b - A x)$, a solution's distance from the best one is
$\lVert A (x - x^\star) \rVert = \lVert (B^\top B)^{-1/2} g \rVert$: known as well as $g$ is.

Axis letters: d columns, r rank, c targets.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.least_squares.gram import PreconditionedGram, ResidualSums
from lemmata.sketching.least_squares.preconditioner import Preconditioner

__all__ = ["LstsqCertificate", "LstsqResult", "certify"]

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class LstsqCertificate:
    r"""What was checked of a solution, and what it cost.

    Args:
        excess_bound: Bound on $\lVert A (x - x^\star) \rVert_2$ for each target, shape (c,) or (), where
            $x^\star$ is the exact solution (with a penalty, of the problem with the penalty's rows appended).
            The cost of `x` exceeds the least cost by the square of that.
        checked: Whether a pass over the rows with the solution found the bound. Otherwise it is what an
            analysis of rounding promises, orders of magnitude wider on ill-conditioned data, or for
            `sketch_and_solve` what theory expects of the sketch.
        gram_condition: Condition number of $(A R^{-1})^\top A R^{-1}$, which tells how good the sketch was:
            measured by `cqrrt`, theory's figure elsewhere.
        rank: Numerical rank of the data.
        passes: Passes over the rows.
        iterations: Steps of the iteration, 0 for direct methods.
        method: The method that ran.
        status: `"converged"`; `"iteration limit"`, `"pass limit"` or `"stagnated"` for an iteration that did
            not; `"poor sketch"` where `gram_condition` exceeds $10^4$; `"approximate"` for a sketched
            solution.
    """

    excess_bound: Tensor
    checked: bool
    gram_condition: float
    rank: int
    passes: int
    iterations: int
    method: str
    status: str


@dataclass(frozen=True)
class LstsqResult:
    r"""A solution of least squares with its certificate.

    Args:
        x: Coefficients, shape (d,) or (d, c). Gradients flow through them.
        residual_norm: $\lVert A x - b \rVert_2$, weighted if weights were given, shape () or (c,). Two-pass
            methods know it to about $10^{-8} \lVert b \rVert$, a pass with the solution fully.
        certificate: What was checked.
    """

    x: Tensor
    residual_norm: Tensor
    certificate: LstsqCertificate


def certify(
    preconditioner: Preconditioner,
    gram: PreconditionedGram,
    residual: ResidualSums | None = None,
    x: Float[Tensor, "d c"] | None = None,
    *,
    ridge: float = 0.0,
    passes: int = 3,
    iterations: int = 0,
    method: str = "cqrrt",
    status: str = "converged",
) -> LstsqCertificate:
    r"""Bound a solution's distance from the best one, from sums over the rows.

    Args:
        preconditioner: The one both sums were made with.
        gram: Sums of the second pass.
        residual: Sums of a pass with the solution. Without them the bound is made of `gram` and of what
            rounding can have done at worst.
        x: The solution; default `gram.solve(preconditioner, ridge)`.
        ridge: The penalty that was solved with.
        passes: Passes made over the rows.
        iterations: Steps of the iteration.
        method: Name of the method.
        status: How it ended.
    """
    lower = gram.cholesky(preconditioner, ridge)
    x = gram.solve(preconditioner, ridge) if x is None else x.to(lower.dtype)
    sigma = torch.linalg.svdvals(lower)
    condition = float(sigma[0] / sigma[-1]) ** 2 if len(sigma) else 1.0
    if residual is None:
        g, allowance = _from_gram(preconditioner, gram, x)
    else:
        g, allowance = _from_residual(preconditioner, gram, residual)
    if ridge:
        g = g - ridge * preconditioner.solve_t(x)
    excess = torch.linalg.vector_norm(torch.linalg.solve_triangular(lower, g, upper=False), dim=0)
    smallest = float(sigma[-1]) if len(sigma) else 1.0
    if condition > 1e4 and status == "converged":
        status = "poor sketch"
    return LstsqCertificate(
        excess_bound=1.5 * excess + allowance / smallest,
        checked=residual is not None,
        gram_condition=condition,
        rank=preconditioner.rank,
        passes=passes,
        iterations=iterations,
        method=method,
        status=status,
    )


def residual_squares(
    preconditioner: Preconditioner, gram: PreconditionedGram, x: Float[Tensor, "d c"]
) -> Float[Tensor, " c"]:
    """Return the squared residuals that follow from the second pass, to about eps times the targets'."""
    z = preconditioner.forward() @ x.to(gram.gram.dtype)
    return (gram.target - 2 * (z * gram.cross).sum(0) + (z * (gram.gram @ z)).sum(0)).clamp_min(0)


def _from_residual(
    preconditioner: Preconditioner, gram: PreconditionedGram, residual: ResidualSums
) -> tuple[Tensor, Tensor]:
    """Return g as it was added up, and what its rounding errors come to."""
    # Substitution leaves a row with an error of eps times its length in every column of A; R^-T carries these
    # errors, weighted by the residual and averaged over the rows, to g.
    spread = (residual.leverage_squares / max(preconditioner.rank, 1)).sqrt()
    return residual.projected, _EPS * (2 * preconditioner.condition * spread + 4 * gram.target.sqrt())


def _from_gram(preconditioner: Preconditioner, gram: PreconditionedGram, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return g as the second pass knows it, and what rounding can have hidden at worst."""
    g = gram.cross - gram.gram @ (preconditioner.forward() @ x)
    length, steps = gram.target.sqrt(), math.sqrt(gram.rows) + preconditioner.rank
    residual = (residual_squares(preconditioner, gram, x) + _EPS * steps * gram.target).sqrt()
    size = math.sqrt(max(preconditioner.rank, 1)) * preconditioner.condition
    return g, _EPS * (steps * length + size * residual)
