r"""Norms of vectors without overflow, and projections onto their balls.

The nearest point of $\{y : \|y\|_q \le r\}$ to $x$ has the signs of $x$ and magnitudes that solve
$y + \mu\, y^{q-1} = |x|$ entry by entry, with the one multiplier $\mu \ge 0$ at which the norm is $r$. For
$q = 1$ that is soft thresholding at a level found by sorting; for other finite $q$ both equations are solved
by iterations that converge from one side.

References:
    J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, Efficient Projections onto the $\ell_1$-Ball for
    Learning in High Dimensions, ICML 2008.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "by_largest",
    "dual_exponent",
    "largest",
    "length",
    "project_ball",
    "safe_norm",
    "shrink_onto_sphere",
]

ROUNDS = 200  # far more than Newton's iteration takes on a convex function of one variable


def dual_exponent(p: float) -> float:
    """Return the exponent $q$ with $1/p + 1/q = 1$.

    Args:
        p: An exponent of at least 1; may be infinite.

    Returns:
        The exponent of the dual norm.

    Examples:
        >>> dual_exponent(1.0), dual_exponent(2.0), dual_exponent(3.0), dual_exponent(float("inf"))
        (inf, 2.0, 1.5, 1.0)
    """
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def length(
    x: Float[Tensor, "..."],
    exponent: float = 2,
    dim: tuple[int, ...] | None = None,
    *,
    keepdim: bool = False,
) -> Float[Tensor, "..."]:
    """Return vector norms, of all entries by default."""
    norm: Tensor = torch.linalg.vector_norm(x, exponent, dim, keepdim=keepdim)
    return norm


def largest(x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the largest magnitude, or zero; an infinity norm would take ten times as long."""
    if not x.numel():
        return x.new_zeros(())
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high)


def by_largest(x: Float[Tensor, "..."], biggest: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Divide by the largest magnitude unless it is zero, so that squares neither underflow nor overflow."""
    return x / torch.where(biggest > 0, biggest, 1)


def safe_norm(x: Float[Tensor, "..."], exponent: float) -> Float[Tensor, ""]:
    """Return the norm of all entries as one vector, without overflow of their powers."""
    biggest = largest(x)
    if exponent == math.inf:
        return biggest
    return biggest * length(by_largest(x, biggest), exponent)


def project_ball(x: Float[Tensor, "..."], exponent: float, radius: float) -> Float[Tensor, "..."]:
    """Return the nearest point of the ball of the $q$-norm, all entries of the tensor being one vector.

    Args:
        x: The tensor.
        exponent: The exponent $q$ of the norm, from 1 to infinity.
        radius: The ball's radius; not negative, may be infinite.

    Returns:
        The nearest tensor whose norm is at most `radius`.

    Examples:
        >>> project_ball(torch.tensor([3.0, 1.0]), 1.0, 2.0)
        tensor([2., 0.])
        >>> project_ball(torch.tensor([3.0, 4.0]), 2.0, 1.0)
        tensor([0.6000, 0.8000])
    """
    if exponent == math.inf:
        return x.clamp(-radius, radius)
    norm = safe_norm(x, exponent)
    if exponent == 2:
        return shrink_onto_sphere(x, norm, radius)
    if x.numel() == 0 or bool(norm <= radius):
        return x.clone()
    if radius == 0:
        return torch.zeros_like(x)
    magnitude = x.abs().flatten()
    if exponent == 1:
        projected = (magnitude - _threshold(magnitude, radius)).clamp(min=0)
    else:
        projected = _solve_multiplier(magnitude.double(), exponent, radius).to(x.dtype)
    return projected.view(x.shape) * x.sign()


def shrink_onto_sphere(
    x: Float[Tensor, "..."], norm: Float[Tensor, "..."], radius: float
) -> Float[Tensor, "..."]:
    """Scale vectors that are longer than a radius down to it.

    Args:
        x: The vectors.
        norm: Their lengths, in a shape that broadcasts with theirs.
        radius: The greatest length allowed.

    Returns:
        The vectors, none longer than `radius`.

    Examples:
        >>> shrink_onto_sphere(torch.tensor([[3.0, 4.0], [0.0, 0.5]]), torch.tensor([[5.0], [0.5]]), 1.0)
        tensor([[0.6000, 0.8000],
                [0.0000, 0.5000]])
    """
    return x * torch.where(norm > radius, radius / norm, 1.0)


def _threshold(magnitude: Float[Tensor, " n"], radius: float) -> Float[Tensor, ""]:
    """Return the level at which soft thresholding gives magnitudes that sum to the radius."""
    ordered = magnitude.sort(descending=True).values
    excess = ordered.cumsum(0) - radius
    count = torch.arange(1, len(ordered) + 1, device=ordered.device, dtype=ordered.dtype)
    # The entries that stay positive are those above the level their own prefix would give.
    last = int((ordered * count > excess).sum()) - 1
    return excess[last] / count[last]


def _solve_multiplier(magnitude: Float[Tensor, " n"], exponent: float, radius: float) -> Float[Tensor, " n"]:
    r"""Return the magnitudes of the projection, by bisection of the multiplier.

    In units of the radius the largest entry $y$ of the projection has $y^{q-1} \ge 1/n$, hence
    $\mu \le n \max|x|$: the bisection knows where to end.
    """
    magnitude = magnitude / radius
    low, high = 0.0, float(len(magnitude) * magnitude.max())
    resolution = high * torch.finfo(magnitude.dtype).eps
    while high - low > resolution:
        middle = (low + high) / 2
        if _norm_at(magnitude, exponent, middle) > 1:
            low = middle
        else:
            high = middle
    return radius * _shrunk(magnitude, exponent, high)


def _norm_at(magnitude: Float[Tensor, " n"], exponent: float, multiplier: float) -> float:
    """Return the norm of the magnitudes that a multiplier gives."""
    return float(torch.linalg.vector_norm(_shrunk(magnitude, exponent, multiplier), exponent))


def _shrunk(magnitude: Float[Tensor, " n"], exponent: float, multiplier: float) -> Float[Tensor, " n"]:
    r"""Solve $y + \mu y^{q-1} = a$ for $y \ge 0$ entry by entry.

    In the unknown $z = y^{\min(1, q-1)}$ the left side is convex and increases, so Newton's iteration from a
    point to the right of the root falls towards it.
    """
    inner = min(1.0, exponent - 1)
    powers = (1 / inner, (exponent - 1) / inner)  # of z, in the two terms; both at least 1
    z = torch.minimum(magnitude**inner, (magnitude / multiplier) ** (1 / powers[1]))
    for _ in range(ROUNDS):
        value = z ** powers[0] + multiplier * z ** powers[1] - magnitude
        slope = powers[0] * z ** (powers[0] - 1) + multiplier * powers[1] * z ** (powers[1] - 1)
        following = torch.where(slope > 0, (z - value / slope).clamp(min=0), z)
        if bool((following >= z).all()):
            break
        z = torch.minimum(z, following)
    return z ** powers[0]
