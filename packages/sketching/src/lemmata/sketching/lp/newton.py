r"""Newton's method for the sum of p-th powers of residuals, 1 < p < infinity.

*Below two* the second derivative is infinite at 0. The loss is smoothed, $|r|^p \to (r^2 + \mu^2)^{p/2}$, and
$\mu$ falls as steps succeed. The equation linearised is not $y = \rho'(r)$ but
$y\, (r^2 + \mu^2)^{1 - p/2} = r$ with $y$ a variable of its own (Chan, Golub and Mulet): its weights lie
between those of reweighted least squares ($y = 0$) and Newton's ($y = \rho'(r)$), every step descends, and
ten to thirty steps suffice where Newton's own method stalls.

*Above two* the exponent grows by halves from 2 to p, a step or two each, so that p = 100 is as safe as p = 4.

Every step's $y$ is orthogonal to the columns, so every step gives a lower bound. Steps go to the minimum
along their line, which costs n operations an evaluation where the step itself costs n d^2.

References:
    T. F. Chan, G. H. Golub, P. Mulet, "A nonlinear primal-dual method for total variation-based image
    restoration", 1999.

Axis letters: n rows, d columns.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.interior_point import Iterate, factor
from lemmata.sketching.lp.losses import lp_weights

__all__ = ["newton_above_two", "newton_below_two"]

_SHRINK = 0.3  # of the smoothing, after a good step; 0.1 is a third faster for p > 1.1 and fails next to 1
_GROWTH = 1.5
_NEAR = 0.3  # the gap below which the exponent grows
_LINE_EVALUATIONS = 30


def newton_below_two(
    Q: Float[Tensor, "n d"],
    b: Float[Tensor, " n"],
    z: Float[Tensor, " d"],
    p: float,
    *,
    tol: float,
    max_iter: int,
) -> Iterate:
    """Minimise the sum of |b - Q z|^p for 1 < p < 2, to a relative gap of `tol` and then to rounding.

    Args:
        Q: Orthonormal columns.
        b: Right-hand side, of moderate size.
        z: Where to start.
        p: Exponent.
        tol: Relative gap.
        max_iter: Most steps.
    """
    r = b - Q @ z
    y = torch.zeros_like(r)
    mu = 0.1 * r.abs().mean().item()
    best, least, last = Iterate(z, y, 0), torch.inf, torch.inf
    for iteration in range(1, max_iter + 1):
        length = torch.hypot(r, torch.full_like(r, mu))
        y = torch.maximum(torch.minimum(y, length ** (p - 1)), -(length ** (p - 1)))
        weight = length ** (p - 2)
        h = weight * (1 - (2 - p) * y * r / length**p)
        gradient = Q.mT @ (weight * r)
        dz = torch.cholesky_solve(gradient[:, None], factor(Q, h))[:, 0]
        move = Q @ dz
        y = weight * r - h * move
        gap = _relative_gap(r, y, p)
        if gap < least:
            best, least = Iterate(z, y, iteration), gap
        # Past the tolerance go on while that is cheap: a small gap leaves half the digits of z.
        if (least <= tol and gap > last / 2) or not bool(torch.isfinite(dz).all()):
            break
        last = gap
        t = _along(r, move, p, mu)
        small = bool(gradient @ dz <= 0.1 / p * (length**p).sum())
        z = z + t * dz
        r = b - Q @ z
        if t > 0.5 and small:
            mu = mu * _SHRINK
    return _settle(Q, b, best, p)


def newton_above_two(
    Q: Float[Tensor, "n d"],
    b: Float[Tensor, " n"],
    z: Float[Tensor, " d"],
    p: float,
    *,
    tol: float,
    max_iter: int,
) -> Iterate:
    """Minimise the sum of |b - Q z|^p for p > 2, to a relative gap of `tol` and then to rounding.

    Args:
        Q: Orthonormal columns.
        b: Right-hand side, of moderate size.
        z: Where to start.
        p: Exponent.
        tol: Relative gap.
        max_iter: Most steps.
    """
    exponent, near = 2.0, True
    best, least = Iterate(z, torch.zeros_like(b), 0), torch.inf
    for iteration in range(1, max_iter + 1):
        exponent = min(p, _GROWTH * exponent) if near else exponent
        dz, y, r = _newton_step(Q, b, z, exponent)
        if not bool(torch.isfinite(dz).all()):
            break
        gap = _relative_gap(r, y, exponent)
        near = gap <= _NEAR
        if exponent == p and gap < least:
            best, least = Iterate(z, y, iteration), gap
        if least <= tol:
            break
        z = z + _along(r, Q @ dz, exponent, 0.0) * dz
    return _settle(Q, b, best, p)


def _newton_step(Q: Tensor, b: Tensor, z: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return Newton's step, its dual vector and the residual."""
    r = b - Q @ z
    size = r.abs().amax()
    # Powers of residuals relative to the largest cannot overflow. The floor matters for p < 2 only.
    u = r / size
    weight = lp_weights(u, p) if p >= 2 else lp_weights(u, p, 1e-15)
    dz = torch.cholesky_solve((Q.mT @ (weight * u))[:, None], factor(Q, (p - 1) * weight))[:, 0]
    return size * dz, weight * u - (p - 1) * weight * (Q @ dz), r


def _settle(Q: Tensor, b: Tensor, iterate: Iterate, p: float) -> Iterate:
    """Take Newton's full steps while they halve the gradient."""
    y, least = iterate.y, torch.inf
    z = iterate.z
    best = z
    for _ in range(8):
        r = b - Q @ z
        size = r.abs().amax()
        slope = torch.linalg.vector_norm(Q.mT @ (torch.sign(r) * (r / size).abs() ** (p - 1))).item()
        if not slope < least / 2:
            break
        best, least = z, slope
        dz, new, _ = _newton_step(Q, b, z, p)
        if not bool(torch.isfinite(dz).all()):
            break
        y = new if _relative_gap(r, new, p) <= _relative_gap(r, y, p) else y
        z = z + dz
    return Iterate(best, y, iterate.iterations)


def _relative_gap(r: Tensor, y: Tensor, p: float) -> float:
    """Return 1 - bound / cost from |y|_q, with both vectors scaled to stay in range."""
    u, v = r / r.abs().amax(), y / y.abs().amax()
    q = p / (p - 1)
    log_bound = p * ((u * v).sum().clamp(min=1e-300).log() - (v.abs() ** q).sum().log() / q)
    gap = -torch.expm1(log_bound - (u.abs() ** p).sum().log())
    return gap.item() if bool(torch.isfinite(gap)) else torch.inf


def _along(r: Tensor, move: Tensor, p: float, mu: float) -> float:
    """Return the t that minimises the sum of ((r - t move)^2 + mu^2)^(p/2), to a hundredth or better."""
    low, high, t = 0.0, torch.inf, 1.0
    for _ in range(_LINE_EVALUATIONS):
        e = r - t * move
        scale = e.abs().amax().item() + mu
        if scale == 0:
            break
        e = e / scale
        length = torch.hypot(e, torch.full_like(e, mu / scale)).clamp(min=1e-300)
        weight = length ** (p - 2)
        slope = -(weight * e * move).sum().item() * scale
        curvature = (weight * (1 + (p - 2) * (e / length) ** 2) * move * move).sum().item()
        low, high = (t, high) if slope < 0 else (low, t)
        following = t - slope / curvature if curvature > 0 else 2 * t
        if abs(following - t) <= 0.01 * t:
            return following
        if high == torch.inf:
            following = min(max(following, 1.2 * t), 4 * t)
        elif not low < following < high:
            following = (low + high) / 2
        t = following
    return t
