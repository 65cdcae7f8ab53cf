"""Row sampling: a sketch that keeps some rows of the data, weighted."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.operators.operator import SketchOperator

__all__ = ["RowSampling"]


class RowSampling(SketchOperator):
    r"""A sketch whose row $i$ is `weights[i]` times row `indices[i]` of the data.

    Rows drawn with replacement, $m$ of them with probabilities $q$, need weights $1 / \sqrt{m q}$; rows kept
    once each, independently, with probabilities $q$ need $1 / \sqrt{q}$.

    Args:
        indices: Rows of the data, in any order, repeated or not.
        weights: What each is multiplied by.
        n: Rows of the data.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Raises:
        ValueError: Where an index is not in [0, n), or there are not as many weights as indices.

    Examples:
        >>> S = RowSampling(torch.tensor([2, 0]), torch.tensor([1.0, 3.0]), 3)
        >>> S @ torch.tensor([[1.0], [2.0], [4.0]])
        tensor([[4.],
                [3.]])
    """

    def __init__(
        self,
        indices: Tensor,
        weights: Tensor,
        n: int,
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        super().__init__(indices.numel(), n, seed=0, dtype=dtype, device=device)
        if indices.shape != weights.shape or indices.ndim != 1:
            raise ValueError(
                f"`weights` (of shape {tuple(weights.shape)}) must be one for each of the "
                f"`indices` (of shape {tuple(indices.shape)})"
            )
        if indices.is_floating_point() or indices.is_complex():
            raise TypeError(f"`indices` (of {indices.dtype}) must be integers")
        if int(indices.min()) < 0 or int(indices.max()) >= n:
            raise ValueError(
                f"`indices` (in [{int(indices.min())}, {int(indices.max())}]) must lie in [0, {n})"
            )
        ordered = indices.detach().to("cpu", torch.int64).sort(stable=True)
        self._indices, self._order = ordered.values, ordered.indices
        self._weights = weights.detach().to("cpu", torch.float64)[self._order]

    @property
    def kind(self) -> str:
        """`row_sampling` with a digest of indices and weights."""
        digest = hashlib.sha256()
        for part in (self._indices, self._order, self._weights):
            digest.update(part.numpy().tobytes())
        return f"row_sampling({digest.hexdigest()[:16]})"

    def _hits(self, offset: int, rows: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of the sketch, rows of the block and weights of what a block holds."""
        first, last = torch.searchsorted(self._indices, torch.tensor([offset, offset + rows])).tolist()
        return (
            self._order[first:last].to(like.device),
            (self._indices[first:last] - offset).to(like.device),
            self._weights[first:last, None].to(like.device, like.dtype),
        )

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        kept, taken, weights = self._hits(row_offset, block.shape[0], block)
        out = block.new_zeros(self.shape[0], block.shape[1])
        out[kept] = block[taken] * weights
        return out

    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        kept, taken, weights = self._hits(row_offset, rows, y)
        return y.new_zeros(rows, y.shape[1]).index_add_(0, taken, y[kept] * weights)
