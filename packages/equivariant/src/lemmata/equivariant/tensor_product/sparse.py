r"""Products along paths by their nonzero couplings alone.

In the real basis, components $m_1$ and $m_2$ couple to $m_3 = \pm m_1 \pm m_2$ only, so that of the
$O(L^6)$ couplings of all degrees up to `L` only $O(L^5)$ are not zero. Pairs of components that couple at all
are multiplied, and a sparse matrix sums them to the products along paths; both directions of the gradient are
such a product too. Everything is vectorised over samples and copies, and no loop runs over paths.

Axis letters used below: `Z` samples, `I` and `J` components of the inputs, `M` rows of products, `C`
channels, `U` and `V` copies, `S` nonzeros.
"""

import torch
from torch import Tensor

from lemmata.equivariant.tensor_product.channelwise import Bilinear, Run, channelwise_product
from lemmata.equivariant.tensor_product.dense import (
    ChannelwisePart,
    DenseProduct,
    FullPart,
    FullyConnectedPart,
    Part,
)

__all__ = ["Nonzeros", "SparseMap", "SparseProduct", "sparse_maps", "sparse_rows"]

BLOCK_COLUMNS = 512
"""Products of samples and channels that are in work at once on a CPU: rows long enough to add them fast."""


class SparseProduct(DenseProduct):
    """The product along the paths of a table, on flat features; arguments are `DenseProduct`'s.

    Examples:
        >>> from lemmata.equivariant.tensor_product.paths import full_paths
        >>> product = SparseProduct(full_paths("1o", "1o", keep=["1e"]))
        >>> product(torch.eye(3)[:1], torch.eye(3)[1:2], torch.empty(0)) * 2**0.5
        tensor([[0.0000, 0.0000, 1.0000]])
    """

    @staticmethod
    def part_types() -> dict[str, type[Part]]:
        """Return what computes the paths of each mode."""
        return {
            "uvw": _SparseFullyConnected,
            "uvuv": _SparseFull,
            "uvu": _SparseChannelwise,
            "uuu": _SparseChannelwise,
        }


class _SparsePart(Part):
    """Nonzero couplings, arranged for the product and for its transposes in either input."""

    def constants(self, coupling_IMJ: Tensor) -> dict[str, Tensor]:
        """Return the values of the nonzeros in the order of each map; places become buffers."""
        constants = {}
        self.one_run = (Run(1, 1, coupling_IMJ.shape[1]),)
        self.lengths: dict[str, int] = {}
        for name, (values, index, pairs, length) in sparse_maps(coupling_IMJ).items():
            self.register_buffer(f"{name}_index", index, persistent=False)
            self.register_buffer(f"{name}_pairs", pairs, persistent=False)
            constants[f"{name}_values"] = values
            self.lengths[name] = length
        return constants

    def bilinear(self) -> Bilinear:
        """Return the products along all paths."""
        return Nonzeros(*(self._map(name) for name in ("row", "first", "second")))

    def plain_rows(self, x_ZIC: Tensor, y_ZJC: Tensor) -> Tensor:
        """Return the products along all paths, by operations that the compiler traces."""
        values, index, pairs = (self.get_buffer(f"row_{name}") for name in ("values", "index", "pairs"))
        return sparse_rows(x_ZIC, y_ZJC, values, index, pairs, self.lengths["row"])

    def _map(self, name: str) -> "SparseMap":
        """Return one of the three maps."""
        return SparseMap(
            self.get_buffer(f"{name}_values"),
            self.get_buffer(f"{name}_index"),
            self.get_buffer(f"{name}_pairs"),
            self.lengths[name],
        )


class _SparseChannelwise(_SparsePart, ChannelwisePart):
    """Paths of modes `uvu` and `uuu`."""


class _SparsePairwise(_SparsePart):
    """Products of every copy with every copy."""

    def products(self, x_ZIU: Tensor, y_ZJV: Tensor) -> list[Tensor]:
        """Return the products of each segment, `(Z, M, U * V)`."""
        if self.mul2 > 1:
            shape = (self.mul1, self.mul2)
            x_ZIU = x_ZIU[..., :, None].expand(*x_ZIU.shape[:2], *shape).flatten(2)
            y_ZJV = y_ZJV[..., None, :].expand(*y_ZJV.shape[:2], *shape).flatten(2)
        one = x_ZIU.new_ones((1, 1, x_ZIU.shape[2]))
        if torch.compiler.is_compiling():
            rows = self.plain_rows(x_ZIU, y_ZJV)
        else:
            rows = channelwise_product(x_ZIU, y_ZJV, one, self.bilinear(), self.one_run)
        return list(torch.split(rows, self.rows, dim=1))


class _SparseFullyConnected(_SparsePairwise, FullyConnectedPart):
    """Paths of mode `uvw`."""


class _SparseFull(_SparsePairwise, FullPart):
    """Paths of mode `uvuv`."""


class SparseMap:
    """A bilinear map: products of pairs of components, times a sparse matrix.

    Args:
        values: Nonzeros of the matrix, shape `(S,)`.
        index: Their rows and columns, sorted, shape `(2, S)`.
        pairs: The components of both inputs that each column multiplies, shape `(2, columns)`.
        length: Number of rows.
    """

    def __init__(self, values: Tensor, index: Tensor, pairs: Tensor, length: int) -> None:
        self.values, self.index, self.pairs, self.length = values, index, pairs, length

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the map of both inputs, `(Z, length, C)`, without recording gradients."""
        samples, _, channels = x.shape
        outer = _by_component(x, channels).index_select(0, self.pairs[0])
        outer *= _by_component(y, channels).index_select(0, self.pairs[1])
        if self.values.dtype in (torch.float32, torch.float64):
            matrix = torch.sparse_coo_tensor(
                self.index,
                self.values,
                (self.length, self.pairs.shape[1]),
                is_coalesced=True,
                check_invariants=False,
            )
            rows: Tensor = torch.sparse.mm(matrix, outer)
        else:
            terms = outer.index_select(0, self.index[1]) * self.values[:, None]
            rows = terms.new_zeros((self.length, outer.shape[1])).index_add_(0, self.index[0], terms)
        return rows.view(self.length, samples, channels).transpose(0, 1)


class Nonzeros(Bilinear):
    """Products along paths from the couplings that are not zero.

    Args:
        to_row: From both inputs to the rows.
        from_first: From rows and second input to the first.
        from_second: From rows and first input to the second.
    """

    def __init__(self, to_row: SparseMap, from_first: SparseMap, from_second: SparseMap) -> None:
        self.to_row, self.from_first, self.from_second = to_row, from_first, from_second

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products."""
        return self.to_row(x, y)

    def to_first(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return the gradient in the first input."""
        return self.from_first(rows, y)

    def to_second(self, rows: Tensor, x: Tensor, channels: int) -> Tensor:
        """Return the gradient in the second input."""
        gradient = self.from_second(rows, x)
        return gradient.sum(2, keepdim=True) if channels < gradient.shape[2] else gradient

    def plain_rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products by operations that record gradients and that the compiler traces."""
        row = self.to_row
        return sparse_rows(x, y, row.values, row.index, row.pairs, row.length)

    def block(self, channels: int) -> int:
        """Return how many samples fit the cache."""
        return max(BLOCK_COLUMNS // max(channels, 1), 1)


def sparse_rows(
    x_ZIC: Tensor, y_ZJC: Tensor, values: Tensor, index: Tensor, pairs: Tensor, length: int
) -> Tensor:
    """Return what a `SparseMap` of these arguments returns, by plain operations."""
    outer = x_ZIC.index_select(1, pairs[0]) * y_ZJC.index_select(1, pairs[1])
    terms = outer.index_select(1, index[1]) * values[:, None]
    return terms.new_zeros((terms.shape[0], length, terms.shape[2])).index_add(1, index[0], terms)


def sparse_maps(coupling_IMJ: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor, int]]:
    """Return values, index, pairs and length of the maps to the rows and, transposed, to either input.

    Args:
        coupling_IMJ: Couplings of the first input, rows and second input.
    """
    first, row, second = (coupling_IMJ.abs() > 1e-12).nonzero().unbind(1)
    values = coupling_IMJ[first, row, second]
    lengths = coupling_IMJ.shape
    maps = {}
    for name, (a, b, to), length in (
        ("row", (first, second, row), lengths[1]),
        ("first", (row, second, first), lengths[0]),
        ("second", (row, first, second), lengths[2]),
    ):
        pairs, pair = torch.unique(torch.stack([a, b]), dim=1, return_inverse=True)
        order = torch.argsort(to * max(pairs.shape[1], 1) + pair)
        maps[name] = (values[order], torch.stack([to, pair])[:, order].contiguous(), pairs, length)
    return maps


def _by_component(x: Tensor, channels: int) -> Tensor:
    """Return features `(Z, I, C)`, or `(Z, I, 1)` for all channels, by component: `(I, Z * C)`."""
    turned = x.transpose(0, 1)
    return turned.expand(-1, -1, channels).reshape(turned.shape[0], x.shape[0] * channels)
