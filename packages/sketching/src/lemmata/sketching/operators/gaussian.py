"""The Gaussian sketch: the sharpest, against which the fast ones are measured."""

import math

import torch
from torch import Tensor

from lemmata.sketching.operators.counter import normals
from lemmata.sketching.operators.operator import SketchOperator

__all__ = ["GaussianSketch"]

_DRAWN = 1 << 19  # entries made at once


class GaussianSketch(SketchOperator):
    r"""A sketch of independent normal entries of variance $1 / m$.

    Its distortion is $\sqrt{d / m}$ for any data; it costs $2 m n d$ operations and the making of $m n$
    normal numbers.

    Args:
        m: Rows of the sketch; 2 d to 4 d is the usual choice.
        n: Rows of the data.
        seed: Any integer.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Examples:
        >>> S = GaussianSketch(200, 1000, seed=1)
        >>> float((S @ torch.ones(1000)).square().sum() / 1000).__round__(1)
        1.0
    """

    @property
    def kind(self) -> str:
        """`gaussian`."""
        return "gaussian"

    def _columns(self, offset: int, rows: int, like: Tensor) -> Tensor:
        """Return r columns of S, a tensor (m, r)."""
        index = torch.arange(offset, offset + rows, device=like.device)
        drawn = normals(self.seed, index, self.shape[0], stream=self._stream)
        return drawn.div_(math.sqrt(self.shape[0])).to(like.dtype)

    def _rows_at_once(self, columns: int) -> int:  # noqa: ARG002 - the entries made at once are m times the rows
        return max(1, _DRAWN // self.shape[0])

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        return self._columns(row_offset, block.shape[0], block) @ block

    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        return self._columns(row_offset, rows, y).T @ y
