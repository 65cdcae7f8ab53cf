r"""l_p sensitivities: the largest share of the cost that a row can take.

$\sigma_i = \max_x \frac{|a_i x|^p}{\lVert A x \rVert_p^p}$, or one over
$\min \{\lVert A x \rVert_p^p : a_i x = 1\}$: a convex problem a row. By duality also
$\sigma_i = \min \{\lVert y \rVert_q^p : A^\top y = a_i\}$ with $1/p + 1/q = 1$; any such $y$ proves an upper
bound. For p = 2 it is the leverage score. The sum is at most $d$ for $p \le 2$ and at most $d^{p/2}$ else.

References:
    D. P. Woodruff, T. Yasuda, Sharper bounds for l_p sensitivity sampling, 2023.

Axis letters: n rows, d columns, r rank, b rows worked on at once.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.leverage import check_matrix, triangular_factor, warn_of_rank, whitening
from lemmata.sketching.lp.lewis import check_exponent, lewis_fixed_point
from lemmata.sketching.stream import as_row_blocks

__all__ = ["lp_sensitivities"]

_MOST_ROWS = 2000
_GAP = 1e-8  # relative, between a sensitivity's two bounds
_MOST_STEPS = 500
_HALVINGS = 40
_BATCH_NUMBERS = 1 << 22  # of residuals times columns: 32 MiB of a weighted copy of the matrix
_SMOOTHING = 1e-11  # at the end, relative to a typical residual
_NEGLIGIBLE = 1e-250


def lp_sensitivities(A: Tensor, p: float, method: str = "exact") -> Float[Tensor, " n"]:
    r"""Return the l_p sensitivity of every row.

    `"exact"` solves one problem a row: a linear program for p = 1, else Newton's method on many rows at once,
    until the duality gap is below 1e-8; what is returned is the upper bound. `"upper"` returns the least of
    the bounds that Lewis weights $w$ and leverage scores $\tau$ give: $w_i$ and $\tau_i^{p/2}$ for
    $p \le 2$, $d^{p/2-1} w_i$ and $n^{p/2-1} \tau_i^{p/2}$ for $p > 2$, and 1.

    Args:
        A: Matrix, shape (n, d), dense or sparse CSR. Computed in float64 in any case.
        p: Exponent in [1, inf).
        method: `"exact"`, for up to 2000 rows, or `"upper"`.

    Returns:
        Sensitivities in [0, 1] in the type of A; all-zero rows have 0.

    Raises:
        ValueError: Where A has no rows or columns or is not finite, p is not in [1, inf), the method is
            unknown, or exact sensitivities of more than 2000 rows are asked for.
        TypeError: Where A is not of a real floating type.

    Warns:
        RuntimeWarning: With the rank, where that is below d; with the gap, where Newton's method ends before.

    Examples:
        >>> A = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 0.0]])
        >>> lp_sensitivities(A, p=1)
        tensor([1.0000, 0.7500, 0.2500, 0.0000])

    References:
        Woodruff and Yasuda 2023.
    """
    check_matrix(A)
    check_exponent(p)
    if method not in ("exact", "upper"):
        raise ValueError(f'`method` (={method!r}) must be "exact" or "upper"')
    if method == "exact" and p != 2 and len(A) > _MOST_ROWS:
        raise ValueError(f'`A` has {len(A)} rows, more than {_MOST_ROWS}: take method="upper"')
    dense = (A.to_dense() if A.layout == torch.sparse_csr else A).detach().double()
    whiten = whitening(triangular_factor(as_row_blocks(dense)), A.dtype)
    warn_of_rank(whiten.shape[1], A.shape[1])
    # A change of basis changes nothing: work with (nearly) orthonormal columns.
    white = dense @ whiten
    leverage = white.square().sum(1)
    out = torch.zeros_like(leverage)
    scored = (leverage > _NEGLIGIBLE).nonzero()[:, 0]
    if len(scored):
        out[scored] = _scores(white[scored], leverage[scored], float(p), method)
    return out.clamp(max=1).to(A.dtype)


def _scores(white: Tensor, leverage: Tensor, p: float, method: str) -> Tensor:
    """Return the sensitivities of rows that are not zero."""
    if p == 2:
        return leverage
    if method == "upper":
        n, rank = white.shape
        excess = max(0.0, p / 2 - 1)
        by_lewis = rank**excess * lewis_fixed_point(white, p, None, 1e-6, 400).weights
        return torch.minimum(by_lewis, n**excess * leverage ** (p / 2))
    return _by_linear_programs(white) if p == 1 else _by_newton(white, p)


def _by_linear_programs(white: Tensor) -> Tensor:
    """Return l_1 sensitivities: one over the largest c such that white^T z = c white_i with |z| <= 1."""
    import numpy as np
    from scipy.optimize import linprog

    matrix = white.cpu().numpy()
    n, rank = matrix.shape
    objective = np.append(np.zeros(n), -1.0)
    bounds = [(-1.0, 1.0)] * n + [(0.0, None)]
    zero = np.zeros(rank)
    out = np.empty(n)
    for i, row in enumerate(matrix):
        size = float(np.linalg.norm(row))
        equations = np.column_stack((matrix.T, -row / size))
        solved = linprog(objective, A_eq=equations, b_eq=zero, bounds=bounds, method="highs")
        if not solved.success or solved.fun is None:
            raise RuntimeError(f"the linear program of row {i} was not solved: {solved.message}")
        out[i] = -size / solved.fun
    return torch.from_numpy(out).to(white)


def _by_newton(white: Tensor, p: float) -> Tensor:
    """Return sensitivities for p > 1, of an orthonormal matrix, in batches of rows."""
    n, rank = white.shape
    batch = max(1, _BATCH_NUMBERS // (n * rank))
    parts = [_newton_batch(white, white[start : start + batch], p) for start in range(0, n, batch)]
    sensitivities, gaps = (torch.cat(side) for side in zip(*parts, strict=True))
    worst = gaps.max().item()
    if worst > 100 * _GAP:
        warnings.warn(
            f"a sensitivity is known up to a factor of 1 + {worst:.1e} only", RuntimeWarning, stacklevel=4
        )
    return sensitivities


def _newton_batch(white: Tensor, targets: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Minimise the l_p norm of white x under target x = const for each target; return bounds and gaps.

    For p < 2 second derivatives are infinite at zero residuals: |r|^p is smoothed to (r^2 + mu^2)^(p/2), and
    mu goes to almost zero.
    """
    n = len(white)
    x = targets / targets.square().sum(1, keepdim=True)  # solves the problem for p = 2
    x = x / _norm(x @ white.mT, p)
    typical = n ** (-1 / p)
    mu = typical if p < 2 else 0.0
    upper, gap = _certify(white, targets, x, p, mu)
    for _ in range(_MOST_STEPS):
        x, moving = _newton_step(white, targets, x, p, mu)
        if moving:
            continue
        upper_now, gap_now = _certify(white, targets, x, p, mu)
        better = gap_now < gap
        upper, gap = torch.where(better, upper_now, upper), torch.where(better, gap_now, gap)
        if bool((gap <= _GAP).all()) or mu <= _SMOOTHING * typical:
            break
        mu /= 10
    return upper, gap


def _norm(residuals: Tensor, p: float) -> Tensor:
    """Return the l_p norm of each row, shape (b, 1), without overflow."""
    largest = residuals.abs().amax(1, keepdim=True)
    ratio: Tensor = (residuals / largest).abs().pow(p).sum(1, keepdim=True) ** (1 / p)
    return largest * ratio


def _certify(white: Tensor, targets: Tensor, x: Tensor, p: float, mu: float) -> tuple[Tensor, Tensor]:
    """Return the upper bound that the dual point of x proves, and its relative distance to the lower one."""
    residuals = x @ white.mT
    norm = _norm(residuals, p) / (targets * x).sum(1, keepdim=True)
    slopes = _slopes(residuals, p, mu)
    # At the (smoothed) optimum the slopes give a multiple of the target; make it the target itself.
    found = slopes @ white
    multiple = (found * targets).sum(1, keepdim=True) / targets.square().sum(1, keepdim=True)
    dual = (slopes + (targets * multiple - found) @ white.mT) / multiple
    upper = _norm(dual, p / (p - 1))
    return upper[:, 0] ** p, (upper * norm)[:, 0] ** p - 1


def _slopes(residuals: Tensor, p: float, mu: float) -> Tensor:
    """Return the derivative of (r^2 + mu^2)^(p/2) / p."""
    return (residuals.square() + mu**2).clamp(min=1e-300) ** (p / 2 - 1) * residuals


def _newton_step(white: Tensor, targets: Tensor, x: Tensor, p: float, mu: float) -> tuple[Tensor, bool]:
    """Return the next points, and whether any of them moves to some purpose."""
    residuals = x @ white.mT
    squares = residuals.square() + mu**2
    power = squares.clamp(min=1e-300) ** (p / 2 - 2)  # the one power that first and second derivatives share
    cost = (power * squares.square()).sum(1)
    gradient = (power * squares * residuals) @ white
    curvature = power * (mu**2 + (p - 1) * residuals.square())
    hessian = (white * curvature[:, :, None]).mT @ white
    ridge = 1e-13 * hessian.diagonal(dim1=1, dim2=2).sum(1) + 1e-300
    hessian = hessian + ridge[:, None, None] * torch.eye(white.shape[1], dtype=x.dtype, device=x.device)
    factor, _ = torch.linalg.cholesky_ex(hessian)
    solved = torch.cholesky_solve(torch.stack((gradient, targets), -1), factor)
    # The constraint is eliminated: the multiplier keeps target x where it is.
    along = (targets[:, :, None] * solved).sum(1)
    direction = solved[:, :, 1] * (along[:, :1] / along[:, 1:]) - solved[:, :, 0]
    decrement = -(gradient * direction).sum(1)
    step = _line_search(residuals, direction @ white.mT, cost, p * decrement, p, mu)
    moving = decrement > (1e-3 if mu > 1e-9 else 1e-12) * cost
    return x + step[:, None] * direction, bool(moving.any())


def _line_search(
    residuals: Tensor, moves: Tensor, cost: Tensor, slope: Tensor, p: float, mu: float
) -> Tensor:
    """Halve each row's step until the cost falls by a tenth of what its slope promises, or by rounding."""
    step = torch.ones_like(cost)
    rows = torch.arange(len(cost), device=cost.device)
    for _ in range(_HALVINGS):
        tried = residuals[rows] + step[rows, None] * moves[rows]
        now = (tried.square() + mu**2).pow(p / 2).sum(1)
        rows = rows[now > (1 + 1e-13) * cost[rows] - 0.1 * step[rows] * slope[rows]]
        if not len(rows):
            break
        step[rows] /= 2
    return step
