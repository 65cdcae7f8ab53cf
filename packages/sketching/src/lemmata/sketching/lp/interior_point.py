r"""A primal-dual interior point method for regression with absolute values or Huber's loss.

Both duals ask for a vector in a box that is orthogonal to the columns of the matrix,

$$\max_y \; b^\top y - \frac{\kappa}{2} \|y\|^2 \quad \text{with} \quad Q^\top y = 0, \; -c \le y \le c,$$

with $\kappa = 0$ for $\sum_i c_i |r_i|$ and $\kappa = 1$ for Huber's loss with thresholds $c_i$. The method
starts at $y = 0$, which is feasible, and keeps $Q^\top y = 0$: every iterate is a lower bound. A step factors
one matrix of d columns, and uses it twice, to predict how far complementarity can fall and to correct for the
curvature of the path. About twenty steps reach ten digits, whatever the size.

It ends on the facet: the answer of a linear programme is a vertex, which solves d equations exactly.

References:
    S. Portnoy, R. Koenker, "The Gaussian hare and the Laplacian tortoise: computability of squared-error
    versus absolute-error estimators", 1997.
    S. Mehrotra, "On the implementation of a primal-dual interior point method", 1992.

Axis letters: n rows, d columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Iterate", "factor", "interior_point", "land_on_piece", "land_on_vertex"]

_BACK_OFF = 0.9995  # of the way to the border


@dataclass(frozen=True, eq=False)
class Iterate:
    """Where a solver ended.

    Args:
        z: Coordinates of the fit.
        y: A dual vector.
        iterations: Steps taken.
    """

    z: Float[Tensor, " d"]
    y: Float[Tensor, " n"]
    iterations: int


def interior_point(
    Q: Float[Tensor, "n d"],
    b: Float[Tensor, " n"],
    c: Float[Tensor, " n"],
    z: Float[Tensor, " d"],
    *,
    kappa: float,
    tol: float,
    max_iter: int,
) -> Iterate:
    """Solve to a duality gap of `tol` times the cost, or until rounding stops progress.

    Args:
        Q: Orthonormal columns.
        b: Right-hand side, of moderate size.
        c: Bounds of the box, positive.
        z: Where to start.
        kappa: 0 or 1, as above.
        tol: Relative gap.
        max_iter: Most steps.
    """
    y, r = torch.zeros_like(b), b - Q @ z
    # Multipliers of the two sides of the box: r = kappa y + u - v, both positive.
    u = r.clamp(min=0) + 0.1 * r.abs().mean()
    v = u - r
    best = Iterate(z, y, 0)
    least = _gap(r, y, c, kappa)[0]
    for iteration in range(1, max_iter + 1):
        upper, lower = c - y, c + y
        h = 1 / (kappa + u / upper + v / lower)
        rest = r - kappa * y - u + v
        L = factor(Q, h)

        def direction(
            centre: Tensor | float,
            bend_u: Tensor | float,
            bend_v: Tensor | float,
            *,
            L: Tensor = L,
            h: Tensor = h,
            u: Tensor = u,
            v: Tensor = v,
            upper: Tensor = upper,
            lower: Tensor = lower,
            rest: Tensor = rest,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            target_u, target_v = (centre + bend_u) / upper - u, (centre - bend_v) / lower - v
            right = rest - target_u + target_v
            dz = torch.cholesky_solve((Q.mT @ (h * right))[:, None], L)[:, 0]
            dy = h * (right - Q @ dz)
            return dz, dy, target_u + u * dy / upper, target_v - v * dy / lower

        dz, dy, du, dv = direction(0.0, 0.0, 0.0)
        primal, dual = _lengths(u, du, v, dv, upper, lower, dy, joint=kappa > 0)
        now = (u * upper + v * lower).mean() / 2
        then = (u + primal * du) * (upper - dual * dy) + (v + primal * dv) * (lower + dual * dy)
        centre = now * (then.mean() / 2 / now) ** 3
        dz, dy, du, dv = direction(centre, du * dy, dv * dy)
        primal, dual = _lengths(u, du, v, dv, upper, lower, dy, joint=kappa > 0)
        z, u, v, y = z + primal * dz, u + primal * du, v + primal * dv, y + dual * dy
        r = b - Q @ z
        gap, cost = _gap(r, y, c, kappa)
        if not bool(torch.isfinite(gap)):
            break
        # Past the tolerance go on while it is cheap: a gross error makes the cost, so the tolerance, large.
        slower = bool(gap > least / 2)
        if bool(gap < least):
            best, least = Iterate(z, y, iteration), gap
        if slower and bool(least <= tol * cost):
            break
    return best


def factor(Q: Tensor, h: Tensor) -> Tensor:
    """Return the Cholesky factor of Q^T diag(h) Q, with as little added to its diagonal as it takes."""
    gram = Q.mT @ (h[:, None] * Q)
    L: Tensor
    L, info = torch.linalg.cholesky_ex(gram)
    ridge = torch.finfo(gram.dtype).eps * gram.diagonal().abs().max()
    while bool(info > 0) and bool(torch.isfinite(ridge)) and bool(ridge > 0):
        L, info = torch.linalg.cholesky_ex(
            gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        )
        ridge = 100 * ridge
    return L


def land_on_vertex(
    Q: Float[Tensor, "n d"], b: Float[Tensor, " n"], c: Float[Tensor, " n"], iterate: Iterate
) -> Iterate:
    """Return the vertex of least absolute values next to an iterate: d residuals are zero, exactly.

    The rows are those with most room in the box, made independent by the pivots of an elimination.
    """
    n, d = Q.shape
    room = c - iterate.y.abs()
    candidates = torch.topk(room, min(n, 4 * d)).indices
    pivots = torch.linalg.lu_factor_ex(room[candidates, None] * Q[candidates]).pivots
    order = torch.arange(len(candidates), device=Q.device)
    for step, pivot in enumerate((pivots[:d] - 1).tolist()):
        order[[step, pivot]] = order[[pivot, step]]
    rows = candidates[order[:d]]
    LU, swaps, info = torch.linalg.lu_factor_ex(Q[rows])
    if bool(info != 0):
        return iterate
    z = torch.linalg.lu_solve(LU, swaps, b[rows, None])[:, 0]
    y = c * torch.sign(b - Q @ z)
    y[rows] = 0
    y[rows] = -torch.linalg.lu_solve(LU, swaps, (Q.mT @ y)[:, None], adjoint=True)[:, 0]
    return Iterate(z, y, iterate.iterations)


def land_on_piece(
    Q: Float[Tensor, "n d"], b: Float[Tensor, " n"], c: Float[Tensor, " n"], iterate: Iterate
) -> Iterate:
    """Return the minimum of the quadratic piece of Huber's cost on which an iterate lies."""
    r = b - Q @ iterate.z
    inner = (r.abs() <= c).to(Q.dtype)
    y = torch.maximum(torch.minimum(r, c), -c)
    dz = torch.cholesky_solve((Q.mT @ y)[:, None], factor(Q, inner))[:, 0]
    return Iterate(iterate.z + dz, y - inner * (Q @ dz), iterate.iterations)


def _gap(r: Tensor, y: Tensor, c: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return the duality gap and the cost; no row's part of the gap is negative, so that nothing cancels."""
    size = r.abs()
    inner = torch.minimum(size, c)
    loss = c * size if kappa == 0 else inner * (size - inner / 2)
    return (loss - r * y + kappa / 2 * y * y).clamp(min=0).sum(), loss.sum()


def _lengths(
    u: Tensor, du: Tensor, v: Tensor, dv: Tensor, upper: Tensor, lower: Tensor, dy: Tensor, *, joint: bool
) -> tuple[Tensor, Tensor]:
    """Return how far the primal and the dual step may go; a quadratic term ties them together."""

    def length(value: Tensor, change: Tensor) -> Tensor:
        return torch.where(change < 0, -value / change, torch.inf).amin()

    primal = (_BACK_OFF * torch.minimum(length(u, du), length(v, dv))).clamp(max=1.0)
    dual = (_BACK_OFF * torch.minimum(length(upper, -dy), length(lower, dy))).clamp(max=1.0)
    return (torch.minimum(primal, dual),) * 2 if joint else (primal, dual)
