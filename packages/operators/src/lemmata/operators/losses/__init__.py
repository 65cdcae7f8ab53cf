"""Norms of functions and relative errors in them: Lebesgue, Sobolev of any real order, and Bochner norms.

A loss on point values depends on the grid; a norm of the function does not. At equal fields, where a norm has
no derivative, its gradient here is zero, and never NaN.
"""

from lemmata.operators.losses.bochner import BochnerNorm, bochner_norm
from lemmata.operators.losses.lebesgue import RelativeLp, lp_norm, relative_lp
from lemmata.operators.losses.sobolev import (
    RelativeH1,
    RelativeSobolev,
    SobolevNorm,
    relative_h1,
    relative_sobolev,
    sobolev_norm,
)

__all__ = [
    "BochnerNorm",
    "RelativeH1",
    "RelativeLp",
    "RelativeSobolev",
    "SobolevNorm",
    "bochner_norm",
    "lp_norm",
    "relative_h1",
    "relative_lp",
    "relative_sobolev",
    "sobolev_norm",
]
