"""Products along paths, channel by channel, as matrix products.

Axis letters used below: `Z` samples, `I` and `J` components of the inputs, `M` rows of products, `C`
channels, `D` pairs of components.
"""

import torch
from torch import Tensor

from lemmata.equivariant.tensor_product.channelwise import BLOCK_ELEMENTS, Bilinear

__all__ = ["FilterMatrices", "OuterProducts", "filter_matrices", "outer_rows"]


class FilterMatrices(Bilinear):
    """Products with a filter of one channel: a matrix for each sample, which multiplies all channels.

    Args:
        coupling: Shape `(J, M * I)`.
        components: `I`.
    """

    def __init__(self, coupling: Tensor, components: int) -> None:
        self.coupling, self.components = coupling, components

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products."""
        return torch.bmm(filter_matrices(y, self.coupling, self.components), x)

    def to_first(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return the gradient in the first input."""
        return torch.bmm(filter_matrices(y, self.coupling, self.components).mT, rows)

    def to_second(self, rows: Tensor, x: Tensor, channels: int) -> Tensor:  # noqa: ARG002 - it has one
        """Return the gradient in the second input."""
        return (torch.bmm(rows, x.mT).flatten(1) @ self.coupling.mT)[..., None]

    def plain_rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products by operations that record gradients and that the compiler traces."""
        return self.rows(x, y)

    def block(self, channels: int) -> int:
        """Return how many samples fit the cache."""
        rows = self.coupling.shape[1] // self.components
        return max(BLOCK_ELEMENTS // max(1, rows * (channels + self.components)), 8)


class OuterProducts(Bilinear):
    """Products of as many channels as there are in the first input: outer products times one matrix.

    Args:
        coupling: Shape `(I * J, M)`.
        components: `I`.
    """

    def __init__(self, coupling: Tensor, components: int) -> None:
        self.coupling, self.components = coupling, components

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products."""
        return outer_rows(x, y, self.coupling)

    def to_first(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return the gradient in the first input."""
        return (self._pairs(rows) * y.mT[..., None, :]).sum(3).mT

    def to_second(self, rows: Tensor, x: Tensor, channels: int) -> Tensor:  # noqa: ARG002 - x tells
        """Return the gradient in the second input."""
        return (self._pairs(rows) * x.mT[..., :, None]).sum(2).mT

    def plain_rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products by operations that record gradients and that the compiler traces."""
        return self.rows(x, y)

    def block(self, channels: int) -> int:
        """Return how many samples fit the cache."""
        return max(BLOCK_ELEMENTS // max(1, sum(self.coupling.shape) * channels), 1)

    def _pairs(self, rows: Tensor) -> Tensor:
        """Return the gradient in the outer product, shape `(Z, C, I, J)`."""
        pairs = rows.mT @ self.coupling.mT
        return pairs.reshape(*pairs.shape[:2], self.components, self.coupling.shape[0] // self.components)


def filter_matrices(y_ZJC: Tensor, coupling: Tensor, components: int) -> Tensor:
    """Return the matrix of each sample's filter, shape `(Z, M, I)`.

    Args:
        y_ZJC: Filters of one channel.
        coupling: Shape `(J, M * I)`.
        components: `I`.
    """
    rows = coupling.shape[1] // components
    return (y_ZJC[..., 0] @ coupling).reshape(y_ZJC.shape[0], rows, components)


def outer_rows(x_ZIC: Tensor, y_ZJC: Tensor, coupling: Tensor) -> Tensor:
    """Return outer products times couplings of shape `(I * J, M)`: `(Z, M, C)`."""
    outer_ZCD = (x_ZIC.mT[..., :, None] * y_ZJC.mT[..., None, :]).flatten(2)
    return (outer_ZCD @ coupling).mT
