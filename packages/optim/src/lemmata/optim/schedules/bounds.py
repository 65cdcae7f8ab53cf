"""Bounds."""

from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["last_iterate_bound", "optimal_schedule"]


def last_iterate_bound(
    lrs: Shaped[Tensor, "..."], norms: Shaped[Tensor, "..."], distance: float | Tensor
) -> Float[Tensor, ""]:
    """Return the bound on the suboptimality of the last iterate."""
    raise NotImplementedError


def optimal_schedule(norms: Shaped[Tensor, "..."], distance: float | Tensor) -> Float[Tensor, " steps"]:
    """Return the learning rates that minimise the bound."""
    raise NotImplementedError
