r"""Every coupling at once with fixed strengths: products of functions on the sphere, on flat features.

Features with `C` copies of each degree are `C` functions on the sphere. Their products, the pointwise one for
even $l_1 + l_2 + l_3$ and the Poisson bracket for odd sums, reach every coupling that parities allow, each
with a strength that nobody chooses; parities decide which of both an entry of the output takes. Weights by
degree, before and after, in `R` terms make the strengths learnable:

$$z_{l_3} = \sum_{r=1}^{R} c^r_{l_3} \sum_{l_1 l_2} s_{l_1 l_2 l_3}\,
w(a^r_{l_1} x_{l_1}, b^r_{l_2} y_{l_2}).$$

The map does not depend on how it is computed: by transforms to a grid, or by one table of coefficients.

Axis letters used below: `Z` samples, `R` terms, `C` channels, `I`, `J` and `K` components.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3.irreps import Irreps
from lemmata.equivariant.tensor_product.blocks import (
    FeatureLayout,
    groups_of,
    join_blocks,
    split_groups,
)
from lemmata.equivariant.tensor_product.channelwise import Bilinear, Run, channelwise_product
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.degrees import degrees_of_components
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct
from lemmata.equivariant.tensor_product.matrices import FilterMatrices, OuterProducts, outer_rows
from lemmata.equivariant.tensor_product.matrix import MatrixTensorProduct
from lemmata.equivariant.tensor_product.sparse import Nonzeros, SparseMap, sparse_maps, sparse_rows
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct

__all__ = ["DenseFeatures", "MixtureMethod", "MixtureProduct", "dense_features"]

MixtureMethod = Literal["dense", "sparse", "grid", "fourier", "matrix", "vector_signal"]


class DenseFeatures(NamedTuple):
    """What a product of functions on the sphere takes and gives.

    Attributes:
        channels1: Copies of the first input.
        channels2: Copies of the second: as many, or 1.
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second.
        lmax_out: Largest degree of the output.
        odd: Whether each entry of the output takes the bracket, which odd sums of degrees couple to.
    """

    channels1: int
    channels2: int
    lmax1: int
    lmax2: int
    lmax_out: int
    odd: tuple[bool, ...]


def dense_features(irreps1: Irreps, irreps2: Irreps, irreps_out: Irreps) -> DenseFeatures:
    """Check that irreps are functions on the sphere, and return their sizes.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input.
        irreps_out: Of the output.

    Raises:
        ValueError: Where an input mixes natural and unnatural parity or lacks a degree, multiplicities
            differ, or an entry of the output cannot be reached.

    Examples:
        >>> dense_features(Irreps("8x0e + 8x1o"), Irreps("0e + 1o"), Irreps("8x0e + 8x1o + 8x1e")).odd
        (False, False, True)
    """
    channels1, lmax1, natural1 = _function(irreps1, "irreps1")
    channels2, lmax2, natural2 = _function(irreps2, "irreps2")
    if channels2 not in (1, channels1) or any(mul != channels1 for mul, _ in irreps_out):
        raise ValueError(
            f"a product channel by channel needs equal multiplicities, or 1 for the second input, got "
            f"{irreps1} of `irreps1`, {irreps2} of `irreps2` and {irreps_out} of `irreps_out`"
        )
    odd = []
    for _, ir in irreps_out:
        odd.append(ir.p * (-1) ** ir.l != natural1 * natural2)
        # An odd sum needs degrees of at least 1, and one less than the largest sum.
        reached = 0 < ir.l < lmax1 + lmax2 and min(lmax1, lmax2) > 0 if odd[-1] else ir.l <= lmax1 + lmax2
        if not reached:
            raise ValueError(
                f"{ir} of `irreps_out` (={irreps_out}) cannot be reached from {irreps1} and {irreps2}"
            )
    lmax_out = max((ir.l for _, ir in irreps_out), default=0)
    return DenseFeatures(channels1, channels2, lmax1, lmax2, lmax_out, tuple(odd))


class MixtureProduct(ConstantModule):
    """The product of functions on the sphere, on flat features.

    Args:
        irreps1: Of the first input: as many copies of each degree from 0 on, all of natural or all of
            unnatural parity.
        irreps2: Of the second input: as many copies, or one.
        irreps_out: Of the output.
        method: `"grid"`, `"fourier"` (even sums only), `"dense"` or `"sparse"`, which compute the same map;
            `"vector_signal"` (odd sums only, the same map too); `"matrix"`, which has strengths of its own.
        rank: Number of terms with weights by degree; None for the product as it is.
        layout: How copies and components are stored.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Raises:
        ValueError: As `dense_features`; where the method cannot reach an entry of the output, or the rank is
            below 1.
    """

    coefficients: Tensor

    def __init__(
        self,
        irreps1: Irreps,
        irreps2: Irreps,
        irreps_out: Irreps,
        *,
        method: MixtureMethod,
        rank: int | None = None,
        layout: FeatureLayout = "mul_ir",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if rank is not None and rank < 1:
            raise ValueError(f"`degree_rank` (={rank}) must be at least 1, or None")
        self.sizes = dense_features(irreps1, irreps2, irreps_out)
        self.irreps1, self.irreps2, self.irreps_out = irreps1, irreps2, irreps_out
        self.method, self.rank, self.layout = method, rank, layout
        self.groups1 = groups_of(irreps1, range(len(irreps1)))
        self.groups2 = groups_of(irreps2, range(len(irreps2)))
        product = _fixed_product(self.sizes, method, torch.float64)
        self.product: nn.Module | None = None
        self.runs = (Run(1, 1, sum(entry.ir.dim for entry in irreps_out)),)
        if method in ("dense", "sparse"):
            coupling_IKJ = _coefficients(product, self.sizes, irreps_out)
            self._register_table(coupling_IKJ, dtype, device)
        else:
            self.product = product.to(dtype=dtype or torch.get_default_dtype(), device=device)
        for name, lmax in (("degrees1", self.sizes.lmax1), ("degrees2", self.sizes.lmax2)):
            self.register_buffer(name, degrees_of_components(lmax).to(device), persistent=False)
        entries = torch.tensor(
            [n for n, entry in enumerate(irreps_out) for _ in range(entry.ir.dim)], dtype=torch.int64
        )
        self.register_buffer("entries", entries.to(device), persistent=False)

    degrees1: Tensor
    degrees2: Tensor
    entries: Tensor

    @property
    def weight_numel(self) -> int:
        """Number of weights: for each term, by degree of each input and by entry of the output."""
        return sum(self._weight_sizes())

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the product.

        Args:
            x: First input, shape `(Z, irreps1.dim)`.
            y: Second input, shape `(Z, irreps2.dim)`.
            weight: Of all samples, shape `(weight_numel,)`, or of each, `(Z, weight_numel)`: terms of the
                first input by degree and channel, then of the second, then of the output by entry.
        """
        x_ZIC = split_groups(self.irreps1, self.groups1, x, self.layout)[0]
        y_ZJC = split_groups(self.irreps2, self.groups2, y, self.layout)[0]
        if self.rank is None:
            rows = self._product(x_ZIC, y_ZJC)
        else:
            rows = self._weighted(x_ZIC, y_ZJC, weight, self.rank)
        blocks = torch.split(rows, [entry.ir.dim for entry in self.irreps_out], dim=1)
        return join_blocks([block[:, None] for block in blocks], self.layout)

    def _weighted(self, x_ZIC: Tensor, y_ZJC: Tensor, weight: Tensor, rank: int) -> Tensor:
        """Return the sum of all terms; terms take part as channels."""
        samples, channels = x_ZIC.shape[0], self.sizes.channels1
        lead = weight.shape[:-1] if weight.ndim > 1 else (1,)
        first, second, out = torch.split(weight, self._weight_sizes(), dim=-1)
        first_ZIRC = first.reshape(*lead, -1, rank, channels).index_select(1, self.degrees1)
        second_ZJRC = second.reshape(*lead, -1, rank, self.sizes.channels2).index_select(1, self.degrees2)
        out_ZKRC = out.reshape(*lead, -1, rank, channels).index_select(1, self.entries)
        x_ZIRC, y_ZJRC = x_ZIC[:, :, None] * first_ZIRC, y_ZJC[:, :, None] * second_ZJRC
        if self.sizes.channels2 < channels and rank > 1:
            y_ZJRC = y_ZJRC.expand(-1, -1, -1, channels)
        rows = self._product(x_ZIRC.flatten(2), y_ZJRC.flatten(2))
        return (rows.reshape(samples, rows.shape[1], rank, channels) * out_ZKRC).sum(2)

    def _product(self, x_ZIC: Tensor, y_ZJC: Tensor) -> Tensor:
        """Return the product, `(Z, K, C)`."""
        if self.product is None:
            if torch.compiler.is_compiling():
                return self._plain_rows(x_ZIC, y_ZJC)
            one = x_ZIC.new_ones((1, 1, x_ZIC.shape[2]))
            bilinear = self._bilinear(y_ZJC.shape[2])
            return channelwise_product(x_ZIC, y_ZJC, one, bilinear, self.runs)
        x_ZCI, y_ZCJ = x_ZIC.mT.contiguous(), y_ZJC.mT.contiguous()
        if isinstance(self.product, CompleteTensorProduct):
            even, odd = self.product(x_ZCI, y_ZCJ)
        elif isinstance(self.product, MatrixTensorProduct):
            even, odd = self.product.by_parity(x_ZCI, y_ZCJ)
        else:
            even = odd = self.product(x_ZCI, y_ZCJ)
        degrees = [
            (odd if is_odd else even, ir.l)
            for is_odd, (_, ir) in zip(self.sizes.odd, self.irreps_out, strict=True)
        ]
        return torch.cat([block[..., l * l : (l + 1) ** 2] for block, l in degrees], dim=-1).mT

    def _register_table(
        self, coupling_IKJ: Tensor, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> None:
        """Register the coefficients, as one table or as nonzeros."""
        if self.method == "dense":
            self.register_constant(
                "coefficients", coupling_IKJ.transpose(1, 2).contiguous(), dtype=dtype, device=device
            )
            return
        self._lengths = {}
        for name, (values, index, pairs, length) in sparse_maps(coupling_IKJ).items():
            self.register_constant(f"{name}_values", values, dtype=dtype, device=device)
            self.register_buffer(f"{name}_index", index.to(device), persistent=False)
            self.register_buffer(f"{name}_pairs", pairs.to(device), persistent=False)
            self._lengths[name] = length

    def _plain_rows(self, x_ZIC: Tensor, y_ZJC: Tensor) -> Tensor:
        """Return the product by operations that the compiler traces."""
        if self.method == "sparse":
            values, index, pairs = (self.get_buffer(f"row_{name}") for name in ("values", "index", "pairs"))
            return sparse_rows(x_ZIC, y_ZJC, values, index, pairs, self._lengths["row"])
        return outer_rows(x_ZIC, y_ZJC.expand(-1, -1, x_ZIC.shape[2]), self.coefficients.flatten(0, 1))

    def _bilinear(self, channels2: int) -> Bilinear:
        """Return the map for a second input of some channels."""
        if self.method == "sparse":
            return Nonzeros(
                *(
                    SparseMap(
                        self.get_buffer(f"{name}_values"),
                        self.get_buffer(f"{name}_index"),
                        self.get_buffer(f"{name}_pairs"),
                        length,
                    )
                    for name, length in self._lengths.items()
                )
            )
        components1, components2, _ = self.coefficients.shape
        if channels2 == 1:
            return FilterMatrices(self.coefficients.permute(1, 2, 0).reshape(components2, -1), components1)
        return OuterProducts(self.coefficients.flatten(0, 1), components1)

    def _weight_sizes(self) -> list[int]:
        """Return the number of weights of both inputs and of the output."""
        rank = self.rank or 0
        return [
            rank * (self.sizes.lmax1 + 1) * self.sizes.channels1,
            rank * (self.sizes.lmax2 + 1) * self.sizes.channels2,
            rank * len(self.irreps_out) * self.sizes.channels1,
        ]


def _function(irreps: Irreps, name: str) -> tuple[int, int, int]:
    """Return copies, largest degree and naturalness (1 or -1) of functions on the sphere."""
    natural = {ir.p * (-1) ** ir.l for _, ir in irreps}
    if len(natural) > 1:
        raise ValueError(
            f"`{name}` (={irreps}) mixes natural parity, (-1)^l in degree l, and unnatural parity: multiply "
            "each by itself, or both with `CompleteTensorProduct(unnatural1=True)`"
        )
    muls = {mul for mul, _ in irreps}
    if [ir.l for _, ir in irreps] != list(range(len(irreps))) or len(muls) != 1 or 0 in muls:
        raise ValueError(
            f"`{name}` (={irreps}) must hold as many copies of each degree 0, 1, ... in order, to be "
            "functions on the sphere"
        )
    return irreps[0].mul, len(irreps) - 1, natural.pop()


def _fixed_product(sizes: DenseFeatures, method: MixtureMethod, dtype: torch.dtype) -> nn.Module:
    """Return the product on dense features.

    Raises:
        ValueError: Where it does not reach an entry of the output.
    """
    degrees = (sizes.lmax1, sizes.lmax2, sizes.lmax_out)
    shared = sizes.channels2 == 1
    if method == "matrix":
        return MatrixTensorProduct(*degrees, shared_y=shared, dtype=dtype)
    if not any(sizes.odd) and method != "vector_signal":
        transform: Literal["fourier", "grid"] = "fourier" if method == "fourier" else "grid"
        return GauntTensorProduct(
            *degrees, degree_weights=False, method=transform, shared_y=shared, dtype=dtype
        )
    if method == "fourier" or (method == "vector_signal" and not all(sizes.odd)):
        reach = "even" if method == "fourier" else "odd"
        raise ValueError(
            f"`method` (={method!r}) only reaches couplings with an {reach} sum of degrees, and `irreps_out` "
            "asks for others: use 'grid', 'dense' or 'auto'"
        )
    if all(sizes.odd):
        return VectorSignalTensorProduct(*degrees, kind="bracket", shared_y=shared, dtype=dtype)
    return CompleteTensorProduct(*degrees, degree_weights=False, shared_y=shared, dtype=dtype)


@torch.no_grad()
def _coefficients(product: nn.Module, sizes: DenseFeatures, irreps_out: Irreps) -> Tensor:
    """Return the coefficients of a product, `(I, K, J)`, by applying it to all pairs of unit features."""
    first = torch.eye((sizes.lmax1 + 1) ** 2, dtype=torch.float64)
    second = torch.eye((sizes.lmax2 + 1) ** 2, dtype=torch.float64)
    shape = (len(first), len(second), 1)
    x = first[:, None, None].expand(*shape, -1)
    y = second[None, :, None].expand(*shape, -1)
    both = product(x, y)
    even, odd = both if isinstance(both, tuple) else (both, both)
    parts = [
        (odd if is_odd else even)[:, :, 0, ir.l * ir.l : (ir.l + 1) ** 2]
        for is_odd, (_, ir) in zip(sizes.odd, irreps_out, strict=True)
    ]
    table = torch.cat(parts, dim=-1).transpose(1, 2)
    return torch.where(table.abs() > 1e-12, table, 0.0)
