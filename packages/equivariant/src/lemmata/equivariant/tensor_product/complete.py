r"""All couplings at the cost of a grid: the pointwise product and the Poisson bracket side by side.

Two functions on the sphere have two products that a grid computes: $fg$, whose couplings are those with even
$l_1 + l_2 + l_3$, and $\{f, g\} = \hat r \cdot (\nabla f \times \nabla g)$, whose couplings are the odd ones.
None of either vanishes (checked for all triples up to degree 6 in the claims), so that together they reach
every coupling of a Clebsch-Gordan product, by three transforms of each input and two projections.

Parity decides which block an output goes to. Dense features of *natural* parity have parity $(-1)^l$ in
degree $l$, those of *unnatural* parity the other one. With $n$ and $u$ for the two,

$$z_n = x_n y_n + x_u y_u + \{x_n, y_u\} + \{x_u, y_n\}, \qquad
z_u = x_n y_u + x_u y_n + \{x_n, y_n\} + \{x_u, y_u\}.$$

Axis letters used below: `C` channels, `N` components `(lmax + 1)**2`, `G` grid points.

References:
    Y. Xie, A. Daigavane, M. Kotak, T. Smidt, The Price of Freedom: Exploring Expressivity and Runtime
    Tradeoffs in Equivariant Tensor Products, 2025, arXiv:2506.13523.
"""

from typing import Literal

import torch
from torch import Tensor

from lemmata.equivariant.tensor_product.degrees import WeightedProduct, component_scale
from lemmata.equivariant.tensor_product.vector_signal import (
    BRACKET,
    Terms,
    contract_fields,
    field_constants,
    multiply_fields,
)

__all__ = ["CompleteTensorProduct"]

Blocks = tuple[Tensor, Tensor]


class CompleteTensorProduct(WeightedProduct):
    r"""Multiplies dense features by all couplings; returns the natural and the unnatural block.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of both outputs.
        unnatural1: Whether the first input is a pair of blocks, natural and unnatural, as the output is.
        unnatural2: Whether the second input is a pair.
        channels: Channels with weights of their own; None for any number of channels.
        degree_weights: Whether numbers by degree are learnt, before and after, ones at first; independent
            ones for the pointwise product and the bracket, and for each block.
        normalization: `component` scales gradients by $1 / \sqrt{l(l+1)}$, so that all degrees count alike,
            and gives outputs variance 1 where the inputs' components are independent with variance 1. `none`
            leaves the formulas above.
        shared_y: Whether the second input has one channel for all of the first one's, as filters on edges
            have: the module's own weights of y are then the same for all channels.
        dtype: Of weights and constants; torch's default where None.
        device: Of weights and constants.

    Raises:
        ValueError: Where `lmax_out` cannot be reached or a degree is negative.

    Examples:
        >>> product = CompleteTensorProduct(2, 2, 2, channels=8)
        >>> x, y = torch.randn(2, 5, 8, 9)
        >>> natural, unnatural = product(x, y)
        >>> natural.shape, unnatural.shape
        (torch.Size([5, 8, 9]), torch.Size([5, 8, 9]))
        >>> again = CompleteTensorProduct(2, 2, 2, unnatural1=True, channels=8)
        >>> again((natural, unnatural), y)[0].shape
        torch.Size([5, 8, 9])
    """

    transform1: Tensor
    transform2: Tensor
    projection: Tensor
    projection_bracket: Tensor

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        *,
        unnatural1: bool = False,
        unnatural2: bool = False,
        channels: int | None = None,
        degree_weights: bool = True,
        normalization: Literal["component", "none"] = "component",
        shared_y: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        blocks1, blocks2 = 1 + unnatural1, 1 + unnatural2
        super().__init__(
            lmax1,
            lmax2,
            lmax_out,
            # Sets: pointwise or bracket, then natural or unnatural.
            copies=((2, blocks1), (2, blocks2), (2, max(blocks1, blocks2))),
            channels=channels,
            degree_weights=degree_weights,
            normalization=normalization,
            shared_y=shared_y,
            dtype=dtype,
            device=device,
        )
        self.unnatural1 = unnatural1
        self.unnatural2 = unnatural2
        unit = normalization == "component"
        lmaxs = (lmax1, lmax2, lmax_out)
        degree = sum(lmaxs)
        values = [field_constants(lmax, degree, unit=unit) for lmax in lmaxs]
        # A bracket has a degree less than a product, so that its own grid has fewer points.
        slopes = [field_constants(lmax, max(degree - 1, *lmaxs), unit=unit) for lmax in lmaxs]
        value1, value2, projection = values[0][0][:, 2], values[1][0][:, 2], values[2][1][:, 2]
        slope1, slope2, projection_bracket = slopes[0][0][:, :2], slopes[1][0][:, :2], slopes[2][1][:, 2]
        if unit:
            # Independent terms that meet in an output, one from each pair of input blocks.
            terms = blocks1 * blocks2
            scale = component_scale(lambda place: (value1 * projection[place]) @ value2.mT, lmax_out)
            scale_bracket = component_scale(
                lambda place: contract_fields(slope1, slope2, projection_bracket[place, None], (BRACKET,)),
                lmax_out,
            )
            projection = projection * scale[:, None] / terms**0.5
            projection_bracket = projection_bracket * scale_bracket[:, None] / terms**0.5
        constants = {
            "transform1": torch.cat([slope1.flatten(1), value1], dim=1),
            "transform2": torch.cat([slope2.flatten(1), value2], dim=1),
            "projection": projection.mT,
            "projection_bracket": projection_bracket.mT,
        }
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)
        self._points = [2 * slope1.shape[-1], value1.shape[-1]]
        self._pointwise = _across_blocks(((0, 0, 1),), 1, blocks1, blocks2)
        self._bracket = _across_blocks(BRACKET, 2, blocks1, blocks2)

    def forward(self, x: Tensor | Blocks, y: Tensor | Blocks, weight: Tensor | None = None) -> Blocks:
        """Return the natural and the unnatural block of the product.

        Args:
            x: Natural features `(..., C, (lmax1 + 1)**2)`; where `unnatural1`, the natural and the unnatural.
            y: Natural features `(..., C or 1, (lmax2 + 1)**2)`; where `unnatural2`, a pair.
            weight: Degree weights to use in place of the module's own, `(..., C or 1, weight_numel)`: those
                of x, of y and of the outputs side by side, each for the pointwise product, then the bracket.
                Where an input is a pair, within these for the natural block, then the unnatural; for the
                outputs, for products of blocks of equal parity, then of different parity.

        Returns:
            Two tensors, `(..., C, (lmax_out + 1)**2)`.

        Raises:
            TypeError: Where an input is a pair and should not be, or the other way round.
        """
        weight1, weight2, weight_out = self.component_weights(weight)
        first, second = _blocks(x, self.unnatural1, "x"), _blocks(y, self.unnatural2, "y")
        slopes1, values1 = torch.split(self.transform1, self._points, dim=-1)
        slopes2, values2 = torch.split(self.transform2, self._points, dim=-1)
        # One product after the other, so that less is held at a time.
        fields = _fields(first, values1, weight1, 0), _fields(second, values2, weight2, 0)
        pointwise = [multiply_fields(*fields, terms) @ self.projection for terms in self._pointwise]
        fields = _fields(first, slopes1, weight1, 1), _fields(second, slopes2, weight2, 1)
        bracket = [multiply_fields(*fields, terms) @ self.projection_bracket for terms in self._bracket]
        if weight_out is not None:
            # A product of blocks of equal parity is natural, their bracket unnatural.
            pointwise = [out * weight_out[0, block] for block, out in enumerate(pointwise)]
            bracket = [out * weight_out[1, block] for block, out in enumerate(bracket)]
        if len(pointwise) == 1:
            return pointwise[0], bracket[0]
        return pointwise[0] + bracket[1], pointwise[1] + bracket[0]

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{super().extra_repr()}, unnatural1={self.unnatural1}, unnatural2={self.unnatural2}"


def _blocks(x: Tensor | Blocks, pair: bool, name: str) -> list[Tensor]:
    """Return the blocks of an input, natural first."""
    if isinstance(x, Tensor) == pair:
        expected = "a pair, the natural and the unnatural block" if pair else "one tensor, natural features"
        raise TypeError(f"`{name}` must be {expected}, got {type(x).__name__}")
    return [x] if isinstance(x, Tensor) else list(x)


def _fields(
    blocks: list[Tensor], transform: Tensor, weight: Tensor | None, branch: int
) -> tuple[Tensor, ...]:
    """Return values on the grid, or slopes along latitude and longitude, block after block."""
    weighted = blocks if weight is None else [x * w for x, w in zip(blocks, weight[branch], strict=True)]
    return tuple(part for x in weighted for part in (x @ transform).chunk(1 + branch, dim=-1))


def _across_blocks(terms: Terms, parts: int, blocks1: int, blocks2: int) -> list[Terms]:
    """Return the terms of products of blocks of equal parity, then of different parity where there are."""
    found: list[Terms] = []
    for different in (False, True):
        pairs = [(a, b) for a in range(blocks1) for b in range(blocks2) if (a != b) == different]
        if pairs:
            found.append(
                tuple((parts * a + i, parts * b + j, sign) for a, b in pairs for i, j, sign in terms)
            )
    return found
