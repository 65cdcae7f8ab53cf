"""Lower bounds on the optimal cost from sums over rows, for data that are read in passes."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DualSums", "NewtonSums", "huber_weights", "lp_weights"]


def lp_weights(residual: Tensor, p: float, mu: float = 0.0) -> Tensor:
    """Return the weights of iteratively reweighted least squares, (r^2 + mu^2)^(p / 2 - 1)."""
    raise NotImplementedError


def huber_weights(residual: Tensor, delta: float) -> Tensor:
    """Return the weights of iteratively reweighted least squares, min(1, delta / |r|)."""
    raise NotImplementedError


@dataclass(frozen=True)
class NewtonSums:
    """What a first pass at given coefficients sums up: cost, gradient and curvature."""


@dataclass(frozen=True)
class DualSums:
    """What a second pass sums up: the value and the size of a dual feasible vector."""
