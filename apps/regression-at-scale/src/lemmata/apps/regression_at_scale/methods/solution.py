r"""A least-squares solution with its penalty, its uncertainty and its certificate.

Axis letters: d features, c targets, r rank.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.least_squares import GramPass, GramSums, Sketched
from lemmata.apps.regression_at_scale.methods.ridge import RidgeCurve, RidgePath, cross_validate, ridge_path
from lemmata.sketching.least_squares import PreconditionedGram, ResidualSums, certify

__all__ = ["Solution", "certificate_of", "penalty_of", "solve_least_squares"]


@dataclass(frozen=True)
class Solution:
    """Coefficients, and what is needed to say how sure they are.

    Args:
        coefficients: Shape (d, c).
        ridge: The penalty they were found with.
        degrees_of_freedom: Trace of the matrix that takes targets to fitted values.
        covariance_factor: Matrix T whose product with itself is the coefficients' covariance, for residuals
            of variance 1.
        gram: Sums of the second pass.
        squares: Sums of squared residuals by these sums, shape (c,).
        curve: What cross-validation found; None where the penalty was given.
    """

    coefficients: Float[Tensor, "d c"]
    ridge: float
    degrees_of_freedom: float
    covariance_factor: Float[Tensor, "d s"]
    gram: PreconditionedGram
    squares: Float[Tensor, " c"]
    curve: RidgeCurve | None = None


def penalty_of(sketched: Sketched, *, intercept: bool, standardise: bool) -> Float[Tensor, " d"]:
    """Return how strongly each squared coefficient is penalised.

    Args:
        sketched: What the first pass found.
        intercept: Whether the last feature is an intercept, which is never penalised.
        standardise: Whether features count as divided by their standard deviation.

    Returns:
        A weight a feature: 1, or its variance.
    """
    variance = sketched.variance[: sketched.features]
    penalty = variance.clone() if standardise else torch.ones_like(variance)
    if intercept:
        penalty[-1] = 0.0
    return penalty


def solve_least_squares(
    engine: Engine,
    sketched: Sketched,
    *,
    ridge: float | str = 0.0,
    penalty: Float[Tensor, " d"],
    folds: int = 5,
    one_standard_error: bool = False,
    seed: int = 0,
) -> Solution:
    r"""Minimise $\lVert A x - b \rVert^2 + \lambda \sum_j p_j x_j^2$ with one more pass over the rows.

    Args:
        engine: Runs the pass.
        sketched: What the first pass found.
        ridge: The penalty, or `"cv"` to choose it by cross-validation in the same pass.
        penalty: Weight of each squared coefficient.
        folds: Folds of the cross-validation.
        one_standard_error: Take the largest penalty within one standard error of the best.
        seed: Seed of the folds.

    Returns:
        The solution. Without penalty and at deficient rank it is the one of least norm.

    Raises:
        ValueError: Where a fold has no rows.
    """
    basis = sketched.preconditioner
    task = GramPass(basis, sketched.start, folds if ridge == "cv" else 1, seed)
    sums = GramSums.from_state(engine.run(task), sketched)
    curve = None
    if ridge == "cv":
        variance = sketched.variance[sketched.features :]
        curve = cross_validate(basis, sums, penalty, variance, one_standard_error=one_standard_error)
    chosen = curve.ridge if curve else float(ridge)
    path = ridge_path(basis, sums.gram, sums.cross(), penalty)
    found = _solution(path, chosen, sums, curve)
    if chosen or basis.rank < len(penalty):
        return found
    # Of what is added to the sketched coefficients a rounding matters little: it is small.
    lower = sums.whole().cholesky(basis)
    correction = basis.solve(torch.cholesky_solve(sums.crosses.sum(0), lower))
    return replace(found, coefficients=sketched.start + correction)


def certificate_of(
    engine: Engine, sketched: Sketched, solution: Solution, state: State | None, penalty: Float[Tensor, " d"]
) -> dict[str, Any]:
    r"""Return how far fitted values may be from the best ones, by the residuals of a pass with the solution.

    The objective's gradient in preconditioned coordinates, $g = B^\top r - \lambda R^{-\top} P x$, bounds
    $\lVert A (x - x^\star) \rVert \le \lVert g \rVert / \sigma_{\min}(B)$. The bound is stated relative to
    the target's deviations from its mean.

    Args:
        engine: Counted the passes.
        sketched: What the first pass found.
        solution: The solution.
        state: State of `DiagnosticsPass`; None where that pass was not run: the bound then allows for what
            rounding can have done at worst.
        penalty: Weight of each squared coefficient.

    Returns:
        Plain values.
    """
    basis = sketched.preconditioner
    pull = solution.ridge * basis.solve_t(penalty[:, None] * solution.coefficients)
    gram, residual = solution.gram, None
    if state is None:
        # Residuals by these sums then seem larger, never smaller.
        gram = replace(gram, cross=gram.cross - pull)
    else:
        residual = ResidualSums(state["squares"], state["projected"] - pull, state["leveraged"], gram.rows)
    found = certify(basis, gram, residual, solution.coefficients, passes=engine.passes_run)
    spread = sketched.variance[sketched.features :] * sketched.weight
    relative = found.excess_bound / spread.sqrt()
    return {
        "method": found.method,
        "bounds": "norm of A (x - x*), x* the best coefficients; relative: over the norm of b - mean(b)",
        "excess_bound": found.excess_bound.tolist(),
        "relative_excess_bound": relative.tolist(),
        "relative_bound": float(relative.max()),
        "checked": found.checked,
        "status": found.status,
        "gram_condition": found.gram_condition,
        "condition": basis.condition,
        "rank": found.rank,
        "sketch_rows": len(sketched.sketch),
        "passes": found.passes,
    }


def _solution(path: RidgePath, ridge: float, sums: GramSums, curve: RidgeCurve | None) -> Solution:
    coordinates = path.coordinates(ridge)
    return Solution(
        coefficients=path.coefficients(ridge),
        ridge=ridge,
        degrees_of_freedom=path.degrees_of_freedom(ridge),
        covariance_factor=path.covariance_factor(ridge),
        gram=sums.whole(),
        squares=sums.squares(coordinates),
        curve=curve,
    )
