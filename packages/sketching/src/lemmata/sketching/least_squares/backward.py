r"""How far a solution of least squares is from solving a nearby problem exactly.

References:
    R. Karlson, B. Waldén, Estimation of optimal backward perturbation bounds for the linear least squares
    problem, 1997.

Axis letters: n rows, d columns, r rank, c targets.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.least_squares.lstsq import default_sketch
from lemmata.sketching.least_squares.preconditioner import Preconditioner
from lemmata.sketching.least_squares.problem import Problem
from lemmata.sketching.least_squares.solvers import pass_gram, pass_residual

__all__ = ["backward_error"]


def backward_error(A: Any, b: Any, x: Tensor, *, seed: int = 0) -> Float[Tensor, "..."]:
    r"""Estimate the smallest relative perturbation of A for which `x` solves the problem exactly.

    Karlson's and Waldén's estimate of the least $\lVert E \rVert_F$ for which $x$ minimises
    $\lVert (A + E) x - b \rVert$,

    $$\eta = \lVert (\lVert x \rVert^2 A^\top A + \lVert r \rVert^2 I)^{-1/2} A^\top r \rVert,$$

    is within a small constant factor. It is made in three passes, from $g = (A R^{-1})^\top r$ and the
    singular values of an accurate triangular factor of A, and returned relative to $\lVert A \rVert_F$: a
    backward stable solution has a few units of rounding.

    Args:
        A: Shape (n, d), as in `lstsq`; not an operator.
        b: Targets (n,) or (n, c).
        x: Solution (d,) or (d, c).
        seed: Seed of the sketch.

    Returns:
        Shape () or (c,), float64.

    Raises:
        ValueError: Where shapes do not match or A only multiplies.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> A, b = torch.randn(2, 1000, 4, dtype=torch.float64, generator=generator)
        >>> x = torch.linalg.lstsq(A, b).solution
        >>> bool((backward_error(A, b, x) < 1e-14).all() and (backward_error(A, b, x + 1e-6) > 1e-8).all())
        True
    """
    problem = Problem(A, b)
    if problem.matrix_free:
        raise ValueError("`A` must be readable by rows: an operator that only multiplies is not enough")
    d, c = problem.shape[1], problem.targets
    if tuple(x.shape) != ((d,) if problem.vector else (d, c)):
        raise ValueError(f"`x` (shape {tuple(x.shape)}) must have {d} rows and the columns of `b`")
    x = x.detach().reshape(d, c).to(torch.float64)
    y, _ = problem.sketch(default_sketch(problem, seed), targets=False)
    preconditioner = Preconditioner.from_sketch(y, n=problem.shape[0])
    gram = pass_gram(problem, preconditioner)
    sums = pass_residual(problem, preconditioner, x)
    lower = gram.cholesky(preconditioner)
    u, sigma, _ = torch.linalg.svd(lower.T @ preconditioner.forward(), full_matrices=False)
    # A = Q L^T R for some orthonormal Q, so that Q^T r = L^-1 g and A^T r = V sigma U^T L^-1 g.
    rotated = u.T @ torch.linalg.solve_triangular(lower, sums.projected, upper=False)
    squares = x.square().sum(0) * sigma[:, None].square() + sums.residual_squares
    tiny = torch.finfo(squares.dtype).tiny
    error: Tensor = torch.linalg.vector_norm(sigma[:, None] * rotated / (squares + tiny).sqrt(), dim=0)
    error = error / torch.linalg.vector_norm(sigma).clamp_min(tiny)
    return error[0] if problem.vector else error
