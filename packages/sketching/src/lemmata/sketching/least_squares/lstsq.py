r"""Least squares for very tall matrices: the accuracy of Householder QR at a fraction of its cost.

A sketch of the rows gives coordinates in which the data is well conditioned; there a Gram matrix loses
nothing. So two passes over the rows, all of them products of blocks, solve what normal equations cannot.
Where the matrix is sparse, wide, or only multiplies, an iteration in the same coordinates takes a few dozen.

References:
    V. Rokhlin, M. Tygert, A fast randomized algorithm for overdetermined linear least-squares regression,
    2008.
    E. N. Epperly, Fast and forward stable randomized algorithms for linear least-squares problems, 2024.

Axis letters: n rows, m rows of the sketch, d columns, r rank, c targets.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.least_squares.certificate import LstsqResult
from lemmata.sketching.least_squares.implicit import NormalEquations, attach
from lemmata.sketching.least_squares.problem import Problem, product
from lemmata.sketching.least_squares.solvers import (
    Solution,
    check_sketched,
    solve_directly,
    solve_iteratively,
    solve_sketched,
)
from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.operators.sparse_sign import SparseSign

__all__ = ["default_sketch", "lstsq", "sketched_qr"]

_METHODS = ("auto", "cqrrt", "lsqr", "fossils", "sketch_and_solve")
_EPS = torch.finfo(torch.float64).eps
_SMALLEST = 128  # rows of a sketch below which it is at the mercy of chance
_COLUMNS = 2000  # from here on a pass in d^2 operations a row costs more than the iteration's few dozen in d


def lstsq(
    A: Any,
    b: Any,
    *,
    method: str = "auto",
    sketch: SketchOperator | None = None,
    ridge: float = 0.0,
    rcond: float | None = None,
    tol: float | None = None,
    max_passes: int | None = None,
    weights: Tensor | None = None,
    minimum_norm: bool = False,
    certify: bool = False,
    seed: int = 0,
) -> LstsqResult:
    r"""Minimise $\sum_i w_i (a_i^\top x - b_i)^2 + \rho \lVert x \rVert^2$; equals `scipy.linalg.lstsq`.

    Where columns depend on one another the solution is the one of minimum norm. Work is in float64; `x` has
    the dtype of A. Gradients flow to a dense A, to b and to the weights.

    Args:
        A: Shape (n, d): a dense or sparse CSR tensor, a SciPy sparse matrix, a NumPy array, `RowBlocks`, or
            any object with `shape`, `@` and `.T @` (matrix-free methods only).
        b: Targets, a tensor (n,) or (n, c), or `RowBlocks` cut like A.
        method: `"cqrrt"`: two passes, a Gram matrix in the sketch's coordinates. `"lsqr"`: an iteration from
            the sketched solution. `"fossils"`: the heavy ball done twice, backward stable, matrix-free.
            `"sketch_and_solve"`: one pass, an approximation. `"auto"`: `lsqr` for operators, for more than
            2000 columns and for rows so sparse that it costs less, otherwise `cqrrt`.
        sketch: Operator with n columns; default `SparseSign` with 4 d rows, at least 128. Data with no more
            rows than that is factorised itself.
        ridge: Penalty $\rho \ge 0$.
        rcond: Singular values of the sketch with unit columns below `rcond` times the largest count as zero;
            default d times the unit of rounding of the data's dtype.
        tol: Tolerance of the iterations; default 10 units of rounding of float64.
        max_passes: The most passes over the rows; an iteration stops there and says so.
        weights: Weights $w$ (n,) of the squared residuals.
        minimum_norm: Accept fewer rows than columns without a penalty: the solution has minimum norm.
        certify: Make one more pass, with the solution, which bounds its error tightly.
        seed: Seed of the default sketch.

    Returns:
        The solution, the length of its residual, and the certificate.

    Raises:
        ValueError: Where shapes do not match, an argument is out of range, entries are not finite, n < d
            without `ridge` or `minimum_norm`, or `max_passes` does not suffice.
        TypeError: Where data is not real floating point.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> A = torch.randn(10_000, 5, generator=generator, dtype=torch.float64)
        >>> result = lstsq(A, A.sum(1), certify=True)
        >>> bool(result.x.allclose(torch.ones(5, dtype=torch.float64)))
        True
        >>> result.certificate.passes, result.certificate.rank, result.certificate.status
        (3, 5, 'converged')
    """
    _check_arguments(method, ridge, tol, max_passes)
    if _differentiates(A) or (
        isinstance(A, Tensor) and A.layout == torch.strided and _differentiates(weights)
    ):
        A, b, weights = _premultiply(A, b, weights)
    elif _differentiates(weights):
        raise TypeError("`weights` (requires_grad=True) has gradients only where `A` is dense")
    problem = Problem(A, b, weights)
    n, d = problem.shape
    if n < d and not ridge and not minimum_norm:
        raise ValueError(
            f"`A` has fewer rows ({n}) than columns ({d}): use `ridge` > 0, or `minimum_norm=True` for the "
            "solution of minimum norm"
        )
    method = _choose(problem, A, max_passes) if method == "auto" else method
    sketch = default_sketch(problem, seed) if sketch is None else _check_sketch(sketch, n, d)
    rcond = d * torch.finfo(problem.dtype).eps if rcond is None else rcond
    if method == "sketch_and_solve":
        found = _sketch_and_solve(problem, sketch, A, b, ridge, rcond, check=certify)
        return found.result(vector=problem.vector)
    if method == "cqrrt":
        found = solve_directly(
            problem, sketch, ridge=ridge, rcond=rcond, check=certify, max_passes=max_passes
        )
    else:
        found = solve_iteratively(
            problem,
            sketch,
            method=method,
            ridge=ridge,
            rcond=rcond,
            tol=10 * _EPS if tol is None else tol,
            check=certify,
            max_passes=max_passes,
        )
    return _differentiable(problem, found, A, b).result(vector=problem.vector)


def sketched_qr(A: Any, sketch: SketchOperator | None = None, *, seed: int = 0) -> Float[Tensor, "d d"]:
    r"""Return an upper triangular R for which $A R^{-1}$ is well conditioned, in one pass over the rows.

    It is the factor of an unpivoted QR of the sketch, with non-negative diagonal, in float64. Where columns
    depend on one another entries of the diagonal are zero up to rounding; `Preconditioner.from_sketch` finds
    the rank instead.

    Args:
        A: Shape (n, d), n >= d, as in `lstsq`.
        sketch: Operator with n columns; default as in `lstsq`.
        seed: Seed of the default sketch.

    Raises:
        ValueError: Where A has fewer rows than columns or entries that are not finite.

    Examples:
        >>> A = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.linalg.cond(A @ torch.linalg.inv(sketched_qr(A))) < 3)
        True
    """
    problem = Problem(A, torch.zeros(int(A.shape[0]), 0, dtype=torch.float64))
    n, d = problem.shape
    if n < d:
        raise ValueError(f"`A` has fewer rows ({n}) than columns ({d}): it has no square triangular factor")
    sketch = default_sketch(problem, seed) if sketch is None else _check_sketch(sketch, n, d)
    y, _ = problem.sketch(sketch, targets=False)
    r: Tensor = torch.linalg.qr(y, mode="r").R
    return r * torch.where(r.diagonal() < 0, -1, 1)[:, None]


def _check_arguments(method: str, ridge: float, tol: float | None, max_passes: int | None) -> None:
    if method not in _METHODS:
        raise ValueError(f"`method` (={method!r}) must be one of {', '.join(_METHODS)}")
    if not (0 <= ridge < math.inf):
        raise ValueError(f"`ridge` (={ridge}) must lie in [0, inf)")
    if tol is not None and not (0 < tol < 1):
        raise ValueError(f"`tol` (={tol}) must lie in (0, 1)")
    if max_passes is not None and max_passes < 1:
        raise ValueError(f"`max_passes` (={max_passes}) must be at least 1")


def _check_sketch(sketch: SketchOperator, n: int, d: int) -> SketchOperator:
    if sketch.shape[1] != n:
        raise ValueError(f"`sketch` (shape {sketch.shape}) must have as many columns as `A` has rows, {n}")
    if sketch.shape[0] <= min(n, d) and sketch.shape[0] < n:
        raise ValueError(f"`sketch` (shape {sketch.shape}) must have more rows than `A` has columns, {d}")
    return sketch


def default_sketch(problem: Problem, seed: int) -> SketchOperator | None:
    """Return the sketch of the default size, None where the data has no more rows than that."""
    n, d = problem.shape
    m = max(4 * d, _SMALLEST)
    return SparseSign(m, n, seed=seed) if m < n else None


def _choose(problem: Problem, a: Any, max_passes: int | None) -> str:
    """Choose a method by what the data is and what the methods cost."""
    n, d = problem.shape
    if max_passes == 1:
        return "sketch_and_solve"
    if problem.matrix_free or d > _COLUMNS:
        return "lsqr"
    if problem.sparse:
        nonzeros = a.values().numel() if isinstance(a, Tensor) else a.nnz
        # About 50 steps of 4 operations a nonzero and target, at a third of the speed of a product of blocks.
        return "lsqr" if 600 * nonzeros * problem.targets < 2.25 * n * d**2 else "cqrrt"
    return "cqrrt"


def _sketch_and_solve(
    problem: Problem,
    sketch: SketchOperator | None,
    a: Any,
    b: Any,
    ridge: float,
    rcond: float,
    *,
    check: bool,
) -> Solution:
    """Solve the sketched problem; its gradients flow through the sketch."""
    y, yb = problem.sketch(sketch, targets=True)
    found = solve_sketched(
        y, yb, problem.shape[0], ridge=ridge, rcond=rcond, passes=problem.passes, sketched=sketch is not None
    )
    x = found.x
    if _differentiates(a, b):
        b = b.reshape(problem.shape[0], -1).to(torch.float64)
        yb = b if sketch is None else sketch.partial(b, 0)
        if _differentiates(a):
            a = a.to(torch.float64)
            y = a if sketch is None else sketch.partial(a, 0)
        x = attach(y, yb, x, NormalEquations(found.preconditioner, found.cholesky, y.matmul))
    found = replace(found, x=x.to(problem.dtype))
    return check_sketched(problem, found, ridge) if check else found


def _differentiates(*tensors: Any) -> bool:
    """Tell whether gradients with respect to any of the arguments are wanted."""
    wanted = any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors)
    return wanted and torch.is_grad_enabled()


def _premultiply(a: Tensor, b: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, None]:
    """Multiply rows by the roots of their weights, so that gradients flow to all three."""
    if weights is None:
        return a, b, None
    Problem(a, b, weights)  # refuses what does not fit
    root = weights.to(a.dtype).sqrt()
    return a * root[:, None], b * (root if b.ndim == 1 else root[:, None]), None


def _differentiable(problem: Problem, found: Solution, a: Any, b: Any) -> Solution:
    """Attach gradients to the solution where they are wanted."""
    if not _differentiates(a, b):
        return found
    if isinstance(a, Tensor) and a.layout != torch.strided and a.requires_grad:
        raise TypeError("`A` (sparse, requires_grad=True) has no gradients: make it dense")
    targets = b.reshape(problem.shape[0], -1).to(problem.dtype)
    dense = isinstance(a, Tensor) and a.layout == torch.strided and problem.root is None
    normal = NormalEquations(found.preconditioner, found.cholesky, lambda w: _weighted_product(problem, w))
    return replace(found, x=attach(a if dense else None, targets, found.x, normal))


def _weighted_product(problem: Problem, w: Tensor) -> Tensor:
    """Return the weights times A w, by a pass over the rows."""
    out = w.new_empty((problem.shape[0], w.shape[1]))
    for offset, block, _ in problem.pieces():
        part = product(block, w.to(torch.float64))
        stop = offset + int(block.shape[0])
        out[offset:stop] = (part if problem.root is None else problem.root[offset:stop] * part).to(out)
    return out
