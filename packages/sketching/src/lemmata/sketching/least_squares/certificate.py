r"""What a solution of least squares is known to satisfy.

Axis letters: d columns, r rank, c targets.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.least_squares.gram import PreconditionedGram, ResidualSums
from lemmata.sketching.least_squares.preconditioner import Preconditioner

__all__ = ["LstsqCertificate", "certify"]


@dataclass(frozen=True)
class LstsqCertificate:
    r"""What was checked of a solution, and what it cost.

    Args:
        excess_bound: Bound on $\lVert A (x - x^\star) \rVert_2$ for each target, shape (c,) or (); None where
            no pass was made to find it.
        gram_condition: Condition number of $(A R^{-1})^\top A R^{-1}$, which tells how good the sketch was;
            measured by `cqrrt`, the theory's figure otherwise.
        rank: Numerical rank of the data.
        passes: Passes over the rows.
        iterations: Steps of the iteration, 0 for direct methods.
        method: The method that ran.
        status: `"converged"`, `"iteration limit"`, `"pass limit"` or `"approximate"` (sketch and solve).
    """

    excess_bound: Tensor | None
    gram_condition: float
    rank: int
    passes: int
    iterations: int
    method: str
    status: str


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
    r"""Bound the distance of a solution from the best one, from sums over the rows.

    With $g = B^\top r$ for $B = A R^{-1}$, $\lVert A (x - x^\star) \rVert = \lVert (B^\top B)^{-1/2} g \rVert$.

    Args:
        preconditioner: The one both sums were made with.
        gram: Sums of the second pass.
        residual: Sums of a pass with the solution; without it there is no bound.
        x: The solution, wanted where `ridge` is positive.
        ridge: The penalty that was solved with.
        passes: Passes made over the rows.
        iterations: Steps of the iteration.
        method: Name of the method.
        status: How it ended.
    """
    lower = gram.cholesky(preconditioner, ridge)
    sigma = torch.linalg.svdvals(lower)
    condition = float((sigma[0] / sigma[-1]) ** 2) if len(sigma) else 1.0
    bound = None
    if residual is not None:
        g = residual.projected
        if ridge and x is not None:
            g = g - ridge * preconditioner.solve_t(x.to(g.dtype))
        smallest = float(sigma[-1]) if len(sigma) else 1.0
        eps = torch.finfo(g.dtype).eps
        size = gram.target.sqrt() + preconditioner.condition * residual.residual_squares.sqrt()
        rounding = eps * math.sqrt(max(preconditioner.rank, 1)) * size
        bound = torch.linalg.vector_norm(g, dim=0) / smallest + rounding
    return LstsqCertificate(bound, condition, preconditioner.rank, passes, iterations, method, status)
