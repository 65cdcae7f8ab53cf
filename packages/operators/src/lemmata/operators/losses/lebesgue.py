"""Lebesgue norms of fields and relative errors in them, with quadrature weights.

Relative errors are taken sample by sample and then averaged, so that small and large fields count the same.
"""

import math

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lemmata.operators.losses.errors import (
    Reduction,
    check_exponent,
    check_relative,
    difference,
    real_field,
    relative_error,
    root,
)

__all__ = ["RelativeLp", "lp_norm", "relative_lp"]


def lp_norm(
    u: Shaped[Tensor, "..."], p: float = 2.0, *, weights: Shaped[Tensor, "..."] | None = None
) -> Float[Tensor, " batch"]:
    """Return each sample's norm `(sum_j w_j |u_j|^p)^(1/p)` over channels and points.

    Args:
        u: Fields `(batch, channels, *grid)`. Half precision is summed in float32.
        p: Exponent, at least 1; `math.inf` is the largest magnitude, which weights do not change.
        weights: Quadrature weights `(*grid)`, or `(batch, *grid)` for points of each sample's own; ones
            where `None`.

    Returns:
        One norm a sample.

    Raises:
        ValueError: Where `p < 1` or shapes do not fit.
        TypeError: Where fields are not real.

    Examples:
        >>> import torch
        >>> lp_norm(torch.tensor([[[3.0, 4.0]]]), weights=torch.tensor([1.0, 0.5]))
        tensor([4.1231])
    """
    check_exponent(p)
    u = real_field(u, "u", least=2)
    magnitude = u.abs()
    if p == math.inf:
        return magnitude.flatten(1).amax(1) if magnitude[0:1].numel() else magnitude.new_zeros(len(u))
    power = u.square() if p == 2 else magnitude if p == 1 else magnitude.pow(p)
    if weights is not None:
        power = power * _fitted(weights, u)
    return root(power.flatten(1).sum(1), p)


def relative_lp(
    prediction: Shaped[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    p: float = 2.0,
    *,
    weights: Shaped[Tensor, "..."] | None = None,
    eps: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Return the error's `L^p` norm over the target's, sample by sample, then reduced over the batch.

    Args:
        prediction: Fields `(batch, channels, *grid)`.
        target: Fields of the same shape.
        p: Exponent, at least 1, or `math.inf`.
        weights: Quadrature weights `(*grid)` or `(batch, *grid)`; equal ones where `None`.
        eps: Smallest norm to divide by. With 0 the target is checked, which waits for the device; compiled
            code skips the check and returns `inf` or NaN for a zero target.
        reduction: `"mean"` or `"sum"` over the batch, or `"none"` for one error a sample.

    Returns:
        A scalar, or one error a sample.

    Raises:
        ValueError: Where a target's norm is zero and `eps` is too, shapes differ, or the mean is over no
            sample.
        TypeError: Where fields are not real.

    Examples:
        >>> import torch
        >>> relative_lp(torch.full((2, 1, 4), 1.1), torch.ones(2, 1, 4))
        tensor(0.1000)
    """
    check_relative(eps, reduction)
    error = difference(prediction, target)
    return relative_error(
        lp_norm(error, p, weights=weights), lp_norm(target, p, weights=weights), eps, reduction
    )


class RelativeLp(nn.Module):
    """Relative `L^p` error of a batch: `relative_lp` as a module.

    Args:
        p: Exponent, at least 1, or `math.inf`.
        reduction: `"mean"`, `"sum"` or `"none"`.
        weights: Quadrature weights `(*grid)`, kept in a buffer that is moved but not saved.
        eps: Smallest norm to divide by.

    Raises:
        ValueError: Where an argument does not fit, or weights are negative.

    Examples:
        >>> import torch
        >>> RelativeLp()(torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8))
        tensor(1.)
    """

    weights: Tensor | None

    def __init__(
        self,
        p: float = 2.0,
        reduction: Reduction = "mean",
        weights: Shaped[Tensor, "..."] | None = None,
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        check_exponent(p)
        check_relative(eps, reduction)
        if weights is not None and bool((weights < 0).any()):
            raise ValueError("`weights` must not be negative")
        self.p = p
        self.reduction: Reduction = reduction
        self.eps = eps
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, prediction: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the relative error; see `relative_lp`.

        Args:
            prediction: Fields `(batch, channels, *grid)`.
            target: Fields of the same shape.

        Returns:
            A scalar, or one error a sample.
        """
        return relative_lp(
            prediction, target, self.p, weights=self.weights, eps=self.eps, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"p={self.p:g}, reduction={self.reduction!r}, eps={self.eps:g}"


def _fitted(weights: Tensor, u: Tensor) -> Float[Tensor, "..."]:
    """Return weights that broadcast against fields."""
    if weights.shape == u.shape[2:]:
        return weights.to(u)
    if weights.shape == (len(u), *u.shape[2:]):
        return weights.unsqueeze(1).to(u)
    raise ValueError(
        f"`weights` has shape {tuple(weights.shape)}, expected {tuple(u.shape[2:])} or one such a sample"
    )
