r"""The Matern correlation of any smoothness, in logarithms: no overflow for large smoothness or distance."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.special.second_kind import log_kv

__all__ = ["log_matern"]


def log_matern(
    r: Float[Tensor, "..."], nu: Float[Tensor, "..."] | float, lengthscale: Float[Tensor, "..."] | float
) -> Float[Tensor, "..."]:
    r"""Return the logarithm of the Matern correlation.

    $\log \frac{2^{1-\nu}}{\Gamma(\nu)} z^\nu K_\nu(z)$ with $z = \sqrt{2\nu}\, r / \ell$.

    Differentiable in all three, so that the smoothness can be learned too.

    Args:
        r: Distances, not negative, in the unit of `lengthscale`.
        nu: Smoothness, positive: 0.5 is the exponential, infinity the squared exponential.
        lengthscale: Lengths, positive.

    Returns:
        Logarithms of correlations, 0 at distance zero.

    Raises:
        ValueError: Where a distance is negative, or a smoothness or length is not positive.

    Examples:
        >>> log_matern(torch.tensor([0.0, 3.0]), 0.5, 2.0)
        tensor([ 0.0000, -1.5000])
    """
    nu = torch.as_tensor(nu, dtype=r.dtype, device=r.device)
    lengthscale = torch.as_tensor(lengthscale, dtype=r.dtype, device=r.device)
    for name, value in (("nu", nu), ("lengthscale", lengthscale)):
        if not torch.compiler.is_compiling() and not bool((value > 0).all()):
            raise ValueError(f"`{name}` must be positive, its smallest value is {value.min().item():g}")
    if not torch.compiler.is_compiling() and bool((r < 0).any()):
        raise ValueError(f"`r` must not be negative, its smallest value is {r.min().item():g}")
    order = nu.double()
    z = torch.sqrt(2 * order) * r.double() / lengthscale
    zero = z == 0
    away = torch.where(zero, 1.0, z)
    value = (1 - order) * math.log(2) - torch.lgamma(order) + order * torch.log(away) + log_kv(order, away)
    return torch.where(zero, 0.0, value).to(r.dtype)
