r"""The methods of `lstsq`, each from a problem to a solution, its squared residuals and its certificate.

Axis letters: n rows, m rows of the sketch, d columns, r rank, c targets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lemmata.sketching.least_squares.certificate import (
    LstsqCertificate,
    LstsqResult,
    certify,
    residual_squares,
)
from lemmata.sketching.least_squares.gram import PreconditionedGram, ResidualSums
from lemmata.sketching.least_squares.iterative import heavy_ball, lsqr
from lemmata.sketching.least_squares.preconditioner import Preconditioner
from lemmata.sketching.least_squares.problem import Problem
from lemmata.sketching.operators.operator import SketchOperator

__all__ = [
    "Solution",
    "check_sketched",
    "pass_gram",
    "pass_residual",
    "solve_directly",
    "solve_iteratively",
    "solve_sketched",
]

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Solution:
    """What a method found.

    Args:
        x: Coefficients, shape (d, c).
        squares: Squared residuals, shape (c,).
        certificate: What was checked.
        preconditioner: The sketch's coordinates.
        cholesky: A function that returns the factor of the normal equations in them, for derivatives.
    """

    x: Tensor
    squares: Tensor
    certificate: LstsqCertificate
    preconditioner: Preconditioner
    cholesky: Callable[[], Tensor]

    def result(self, *, vector: bool) -> LstsqResult:
        """Give targets that came as a vector back as one."""
        norm, certificate = self.squares.sqrt().to(self.x.dtype), self.certificate
        if not vector:
            return LstsqResult(self.x, norm, certificate)
        certificate = replace(certificate, excess_bound=certificate.excess_bound[0])
        return LstsqResult(self.x[:, 0], norm[0], certificate)


def solve_directly(
    problem: Problem,
    sketch: SketchOperator | None,
    *,
    ridge: float,
    rcond: float,
    check: bool,
    max_passes: int | None,
) -> Solution:
    """Solve in two passes by the Gram matrix in the sketch's coordinates, and check in a third."""
    if problem.matrix_free:
        raise ValueError("`method` (='cqrrt') reads rows; an operator needs 'lsqr' or 'fossils'")
    _check_passes("cqrrt", max_passes, 3 if check else 2)
    y, _ = problem.sketch(sketch, targets=False)
    preconditioner = Preconditioner.from_sketch(y, n=problem.shape[0], rcond=rcond, ridge=ridge)
    gram = pass_gram(problem, preconditioner)
    x = gram.solve(preconditioner, ridge).to(problem.dtype)
    sums = pass_residual(problem, preconditioner, x) if check else None
    certificate = certify(preconditioner, gram, sums, x, ridge=ridge, passes=problem.passes)
    squares = residual_squares(preconditioner, gram, x) if sums is None else sums.residual_squares
    return Solution(x, squares, certificate, preconditioner, lambda: gram.cholesky(preconditioner, ridge))


def solve_iteratively(
    problem: Problem,
    sketch: SketchOperator | None,
    *,
    method: str,
    ridge: float,
    rcond: float,
    tol: float,
    check: bool,
    max_passes: int | None,
) -> Solution:
    """Iterate from the sketched solution, then look at the gradient there, in a pass of its own."""
    y, yb = problem.sketch(sketch, targets=True)
    preconditioner = Preconditioner.from_sketch(y, n=problem.shape[0], rcond=rcond, ridge=ridge)
    start = PreconditionedGram.partial(preconditioner, y, yb).solve(preconditioner, ridge)
    outside = problem.passes + (3 if method == "fossils" else 2)
    _check_passes(method, max_passes, outside)
    steps = _steps(preconditioner.distortion, tol) * (2 if method == "fossils" else 1)
    steps = steps if max_passes is None else min(steps, max_passes - outside)
    size = torch.linalg.vector_norm(yb, dim=0)
    if method == "lsqr":
        found = lsqr(problem, preconditioner, start, size, ridge=ridge, tol=tol, steps=steps)
    else:
        found = heavy_ball(problem, preconditioner, start, ridge=ridge, tol=tol, steps=steps)
    x = found.x.to(problem.dtype)
    limited = "pass limit" if max_passes is not None and steps == max_passes - outside else "iteration limit"
    g, squares, rounding = _gradient(problem, preconditioner, x, ridge, size, check=check)
    moved = torch.linalg.vector_norm(preconditioner.forward() @ (x.to(start.dtype) - found.x), dim=0)
    length, t = torch.linalg.vector_norm(g, dim=0), preconditioner.distortion
    good = bool((length <= 10 * tol * squares.sqrt() + 10 * rounding + 4 * moved).all())
    certificate = LstsqCertificate(
        excess_bound=(1 + 2 * t) * (length + rounding),
        checked=True,
        gram_condition=_theory(t),
        rank=preconditioner.rank,
        passes=problem.passes,
        iterations=found.iterations,
        method=method,
        status="converged" if good else limited if found.limited else "stagnated",
    )
    return Solution(
        x,
        squares,
        certificate,
        preconditioner,
        lambda: pass_gram(problem, preconditioner).cholesky(preconditioner, ridge),
    )


def solve_sketched(
    y: Tensor,
    yb: Tensor,
    n: int,
    *,
    ridge: float,
    rcond: float | None,
    passes: int,
    sketched: bool,
) -> Solution:
    r"""Solve the sketched problem; state what theory expects of it.

    For a Gaussian sketch with $t^2 = r / m$ the sketched residual is $1 - t^2$ of the least one, and the
    excess $t^2 / (1 - t^2)$ of it, in squares and in the mean; the bound is twice the excess's root.

    Args:
        y: Sketch of A, shape (m, d).
        yb: Sketch of b, shape (m, c).
        n: Rows of the data.
        ridge: Penalty.
        rcond: As for `lstsq`.
        passes: Passes made.
        sketched: Whether `y` is a sketch, and not A itself.
    """
    preconditioner = Preconditioner.from_sketch(y, n=n, rcond=rcond, ridge=ridge)
    gram = PreconditionedGram.partial(preconditioner, y, yb)
    x = gram.solve(preconditioner, ridge)
    square = min(preconditioner.rank / len(y), 1.0) if sketched else 0.0
    kept = 1 - square if square < 1 else 0.0
    squares = residual_squares(preconditioner, gram, x)
    least = squares / kept if kept else torch.full_like(squares, math.inf)
    certificate = LstsqCertificate(
        excess_bound=2 * (least * square / kept).sqrt() if kept else least,
        checked=False,
        gram_condition=_theory(math.sqrt(square)),
        rank=preconditioner.rank,
        passes=passes,
        iterations=0,
        method="sketch_and_solve",
        status="approximate" if square else "converged",
    )
    squares = least / kept if kept else least
    return Solution(x, squares, certificate, preconditioner, lambda: gram.cholesky(preconditioner, ridge))


def check_sketched(problem: Problem, solution: Solution, ridge: float) -> Solution:
    """Replace what theory expects of a sketched solution by what a pass with it finds."""
    x, t = solution.x.detach(), solution.preconditioner.distortion
    size = torch.zeros_like(solution.squares)
    g, squares, rounding = _gradient(problem, solution.preconditioner, x, ridge, size, check=True)
    bound = (1 + 2 * t) * (torch.linalg.vector_norm(g, dim=0) + rounding)
    certificate = replace(solution.certificate, excess_bound=bound, checked=True, passes=problem.passes)
    return replace(solution, squares=squares, certificate=certificate)


def pass_gram(problem: Problem, preconditioner: Preconditioner) -> PreconditionedGram:
    """Make the second pass."""
    parts = (PreconditionedGram.partial(preconditioner, block, b) for _, block, b in problem.blocks())
    total = next(parts)
    for part in parts:
        total += part
    if not bool(total.target.isfinite().all() and total.cross.isfinite().all()):
        problem.name_bad_row()
    return total


def pass_residual(problem: Problem, preconditioner: Preconditioner, x: Tensor) -> ResidualSums:
    """Make the third pass."""
    parts = (ResidualSums.partial(preconditioner, block, b, x) for _, block, b in problem.blocks())
    total = next(parts)
    for part in parts:
        total += part
    return total


def _gradient(
    problem: Problem, preconditioner: Preconditioner, x: Tensor, ridge: float, size: Tensor, *, check: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return g at a solution, its squared residuals, and what rounding in g comes to."""
    x = x.to(torch.float64)
    steps = math.sqrt(problem.shape[0]) + preconditioner.rank
    if check and not problem.matrix_free:
        sums = pass_residual(problem, preconditioner, x)
        spread = (sums.leverage_squares / max(preconditioner.rank, 1)).sqrt()
        g, squares = sums.projected - ridge * preconditioner.solve_t(x), sums.residual_squares
        return g, squares, _EPS * (2 * preconditioner.condition * spread + steps * size)
    gradient, squares = problem.gradient(x, ridge=ridge)
    rounding = _EPS * (preconditioner.condition * squares.sqrt() + steps * size)
    return preconditioner.solve_t(gradient), squares, rounding


def _check_passes(method: str, max_passes: int | None, wanted: int) -> None:
    if max_passes is not None and max_passes < wanted:
        raise ValueError(
            f"`max_passes` (={max_passes}) must be at least {wanted} for `method` '{method}' here, or 1 for "
            "'sketch_and_solve'"
        )


def _steps(distortion: float, tol: float) -> int:
    """Return three times the steps that theory asks for, and some."""
    if not 0 < distortion < 1:
        return 20 if distortion == 0 else 1000
    return min(20 + math.ceil(3 * math.log(1 / min(tol, 0.1)) / math.log(1 / distortion)), 1000)


def _theory(distortion: float) -> float:
    """Return the condition number of the Gram matrix that goes with a distortion."""
    return ((1 + distortion) / (1 - distortion)) ** 2 if distortion < 1 else math.inf
