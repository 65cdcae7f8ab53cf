"""Regression on a coreset, and how well a coreset preserves the cost of every direction."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CoresetRegression", "lp_coreset_regression", "lp_distortion"]


@dataclass(frozen=True)
class CoresetRegression:
    """A regression on sampled rows."""


def lp_coreset_regression(
    A: Tensor,
    b: Tensor,
    p: float,
    size: int,
    scheme: str = "lewis",
    generator: torch.Generator | None = None,
    *,
    evaluate: bool = True,
) -> CoresetRegression:
    """Solve l_p regression on `size` sampled rows."""
    raise NotImplementedError


def lp_distortion(
    A: Tensor,
    coreset: object,
    p: float,
    probes: int | Tensor = 500,
    *,
    refinements: int = 20,
    generator: torch.Generator | None = None,
) -> float:
    """Return the largest relative error of ||A x||_p^p that a coreset makes over refined directions x."""
    raise NotImplementedError
