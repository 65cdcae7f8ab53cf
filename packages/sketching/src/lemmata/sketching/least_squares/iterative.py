r"""Solvers that only multiply with the data: preconditioned LSQR, and heavy ball done twice.

Both start from the sketched solution. LSQR from zero is not forward stable; from there it is. The heavy ball
needs no inner products, whose rounding would end it early, and repeated once on the residual it is backward
stable. Every step is one pass over the rows, since a block is multiplied from both sides while it is at hand.

References:
    C. C. Paige, M. A. Saunders, LSQR: An algorithm for sparse linear equations and sparse least squares,
    1982.
    E. N. Epperly, Fast and forward stable randomized algorithms for linear least-squares problems, 2024.
    E. N. Epperly, M. Meier, Y. Nakatsukasa, Fast randomized least-squares solvers can be just as accurate and
    stable as classical direct solvers, 2024.

Axis letters: n rows, d columns, r rank, c targets.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lemmata.sketching.least_squares.preconditioner import Preconditioner
from lemmata.sketching.least_squares.problem import Problem

__all__ = ["Iterate", "heavy_ball", "lsqr"]


@dataclass(frozen=True)
class Iterate:
    """Where an iteration ended.

    Args:
        x: Coefficients, shape (d, c).
        iterations: Steps made.
        limited: Whether the steps allowed ran out.
    """

    x: Tensor
    iterations: int
    limited: bool


def lsqr(
    problem: Problem,
    preconditioner: Preconditioner,
    x: Tensor,
    size: Tensor,
    *,
    ridge: float,
    tol: float,
    steps: int,
) -> Iterate:
    r"""Run LSQR on $A R^{-1}$ with the residual of `x` as right-hand side, for all targets at once.

    A target is done where $\lVert B^\top r \rVert \le$ `tol` $\lVert r \rVert$ or $\lVert r \rVert \le$ `tol`
    $\lVert b \rVert$ by the recurrences, or where a step no longer changes the solution.

    Args:
        problem: The rows.
        preconditioner: $R^{-1}$.
        x: Start, shape (d, c).
        size: Lengths of the targets, shape (c,), roughly.
        ridge: Penalty.
        tol: Tolerance.
        steps: The most steps, each one pass; one more pass begins the iteration.
    """
    u, back = problem.sweep(x, ridge=ridge)
    u, back = -u, -back  # the right-hand side is b - A x
    phi = beta = torch.linalg.vector_norm(u, dim=0)
    u = u / _safe(beta)
    v = preconditioner.solve_t(back) / _safe(beta)
    alpha = torch.linalg.vector_norm(v, dim=0)
    v = v / _safe(alpha)
    w, y, rho = v, torch.zeros_like(v), alpha
    active = (alpha * beta > tol * phi) & (phi > tol * size)
    count = 0
    while count < steps and bool(active.any()):
        count += 1
        u, back = problem.sweep(preconditioner.solve(v), u, alpha, ridge=ridge)
        beta = torch.linalg.vector_norm(u, dim=0)
        u = u / _safe(beta)
        v = preconditioner.solve_t(back) / _safe(beta) - beta * v
        alpha = torch.linalg.vector_norm(v, dim=0)
        v = v / _safe(alpha)
        length = torch.hypot(rho, beta)
        cosine, sine = rho / _safe(length), beta / _safe(length)
        step = torch.where(active, cosine * phi / _safe(length), 0)
        y = y + step * w
        moved = step.abs() * torch.linalg.vector_norm(w, dim=0) > _eps(y) * torch.linalg.vector_norm(y, dim=0)
        w = v - sine * alpha / _safe(length) * w
        rho, phi = -cosine * alpha, sine * phi
        active = active & (phi * (alpha * cosine).abs() > tol * phi) & (phi > tol * size) & moved
    return Iterate(x + preconditioner.solve(y), count, bool(active.any()))


def heavy_ball(
    problem: Problem, preconditioner: Preconditioner, x: Tensor, *, ridge: float, tol: float, steps: int
) -> Iterate:
    r"""Correct `x` twice by the heavy ball on the preconditioned normal equations.

    With $t^2 = r / m$ the distortion squared, step $(1 - t^2)^2$ and momentum $t^2$ are best for a spectrum
    within $[(1 + t)^{-2}, (1 - t)^{-2}]$, and the error falls by $t$ a step.

    Args:
        problem: The rows.
        preconditioner: $R^{-1}$.
        x: Start, shape (d, c).
        ridge: Penalty.
        tol: A correction ends where its residual has fallen by this.
        steps: The most steps of the two corrections together, each one pass; two more begin them.
    """
    count, limited = 0, False
    for _ in range(2):
        gradient, _ = problem.gradient(x, ridge=ridge)
        y, made, limited = _correct(problem, preconditioner, gradient, ridge, tol, steps - count)
        x, count = x + preconditioner.solve(y), count + made
    return Iterate(x, count, limited)


def _correct(
    problem: Problem, preconditioner: Preconditioner, gradient: Tensor, ridge: float, tol: float, steps: int
) -> tuple[Tensor, int, bool]:
    """Solve the preconditioned normal equations; return the solution, steps, and whether they ran out."""
    momentum = preconditioner.distortion**2
    c = preconditioner.solve_t(gradient)
    first = torch.linalg.vector_norm(c, dim=0)
    y = before = torch.zeros_like(c)
    best, residual, since = first, c, 0
    patience = 4 + (math.ceil(4 * math.log(2) / -math.log(momentum)) if 0 < momentum < 1 else 4)
    for count in range(steps):
        y, before = y + (1 - momentum) ** 2 * residual + momentum * (y - before), y
        residual = c - preconditioner.solve_t(problem.normal(preconditioner.solve(y), ridge=ridge))
        size = torch.linalg.vector_norm(residual, dim=0)
        since = 0 if bool((size < 0.5 * best).any()) else since + 1
        best = torch.where(size < 0.5 * best, size, best)
        # At the level of rounding the residual halves no more, and out of a poor sketch's reach it grows.
        if bool((size <= tol * first).all()) or since >= patience or bool((size > 1e3 * first).any()):
            return y, count + 1, False
    return y, max(steps, 0), True


def _safe(value: Tensor) -> Tensor:
    """Return a divisor that is not zero."""
    return torch.where(value == 0, 1, value)


def _eps(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps
