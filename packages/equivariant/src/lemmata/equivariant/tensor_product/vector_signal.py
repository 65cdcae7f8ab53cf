r"""Products of functions on the sphere by way of vector fields: the couplings that pointwise products miss.

Features of degrees up to $L$ are a function $f$ on the sphere. A pointwise product $fg$ reaches only
couplings with even $l_1 + l_2 + l_3$: it has no cross product and cannot tell left from right. Vector fields
made from $f$ and $g$ and multiplied point by point reach the odd ones:

- `bracket`, the cheapest: the Poisson bracket $\{f, g\} = \hat r \cdot (\nabla f \times \nabla g)$, with

$$\{Y_{l_1}, Y_{l_2}\}_{l_3} = \pm \sqrt{\tfrac{(2l_1+1)(2l_2+1)(2l_3+1)}{4 \pi}\, l_1(l_1+1)\, l_2(l_2+1)}
\begin{pmatrix} l_1 & l_2 & l_3 \\ 1 & -1 & 0 \end{pmatrix} w_{l_1 l_2 l_3}$$

  for odd sums, $w$ being the 3j symbol in the real basis, and zero for even ones. Where all degrees are
  at least 1, no odd one vanishes up to $l = 10$.
- `cross`: $F \times G$ for $F = f \hat r + \tilde\nabla f$, $\tilde\nabla Y_l = \nabla Y_l / \sqrt{l(l+1)}$,
  expanded in the same two families of vector spherical harmonics.
- `dot`: $F \cdot G$, even sums, with other strengths than $fg$ has.

Gradients are tangential and come from Cartesian derivatives: no factor $1 / \sin \beta$ appears.

Axis letters used below: `C` channels, `N` components `(lmax + 1)**2`, `G` grid points, `P` parts of a field.

References:
    Y. Xie, A. Daigavane, M. Kotak, T. Smidt, The Price of Freedom: Exploring Expressivity and Runtime
    Tradeoffs in Equivariant Tensor Products, 2025, arXiv:2506.13523.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.s2 import S2Grid
from lemmata.equivariant.tensor_product.degrees import (
    WeightedProduct,
    component_scale,
    degrees_of_components,
)

__all__ = [
    "BRACKET",
    "Terms",
    "VectorSignalTensorProduct",
    "contract_fields",
    "field_constants",
    "multiply_fields",
]

# One part of a product of fields: (part of the first, part of the second, sign) for each of its terms. Parts
# are along latitude, along longitude and radial, a right-handed frame.
Terms = tuple[tuple[int, int, int], ...]
BRACKET: Terms = ((0, 1, 1), (1, 0, -1))
PRODUCTS: dict[str, tuple[Terms, ...]] = {
    "bracket": (BRACKET,),
    "cross": (((1, 2, 1), (2, 1, -1)), ((2, 0, 1), (0, 2, -1)), BRACKET),
    "dot": (((0, 0, 1), (1, 1, 1), (2, 2, 1)),),
}


class VectorSignalTensorProduct(WeightedProduct):
    r"""Multiplies two functions on the sphere by way of vector fields, in $O(L^4)$ by dense transforms.

    Inputs are dense features of natural parity, $(-1)^l$ in degree $l$. `bracket` and `cross` return the
    unnatural block, parity $(-1)^{l+1}$; `dot` the natural one. Where one input is unnatural, the output's
    parity is the other one.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        kind: Which product, as the module's description says.
        channels: Channels with weights of their own; None for any number of channels.
        degree_weights: Whether numbers by degree are learnt, before and after, ones at first. `cross` and
            `dot` have independent ones for tangential and radial parts.
        normalization: `component` scales gradients by $1 / \sqrt{l(l+1)}$ in every kind, so that all degrees
            count alike, and gives outputs variance 1 where the inputs' components are independent with
            variance 1. `none` leaves the formulas above.
        shared_y: Whether the second input has one channel for all of the first one's, as filters on edges
            have: the module's own weights of y are then the same for all channels.
        dtype: Of weights and constants; torch's default where None.
        device: Of weights and constants.

    Raises:
        ValueError: Where `lmax_out` cannot be reached, a degree is negative, or a name is unknown.

    Examples:
        >>> bracket = VectorSignalTensorProduct(1, 1, 1, dtype=torch.float64)
        >>> x, y = torch.eye(4, dtype=torch.float64)[1:3, None]  # degree 0, then x and y of degree 1
        >>> bracket(x, y).abs().round(decimals=4)  # their cross product lies along z
        tensor([[0.0000, 0.0000, 0.0000, 0.7071]], dtype=torch.float64)
    """

    transform1: Tensor
    transform2: Tensor
    projection: Tensor

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        *,
        kind: Literal["bracket", "cross", "dot"] = "bracket",
        channels: int | None = None,
        degree_weights: bool = False,
        normalization: Literal["component", "none"] = "component",
        shared_y: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if kind not in PRODUCTS:
            raise ValueError(f"`kind` (={kind!r}) must be one of {', '.join(PRODUCTS)}")
        # The tangential and the radial part of a field have weights of their own.
        families = () if kind == "bracket" else (2,)
        super().__init__(
            lmax1,
            lmax2,
            lmax_out,
            copies=(families, families, families if kind == "cross" else ()),
            channels=channels,
            degree_weights=degree_weights,
            normalization=normalization,
            shared_y=shared_y,
            dtype=dtype,
            device=device,
        )
        self.kind = kind
        self._terms = PRODUCTS[kind]
        unit = kind != "bracket" or normalization == "component"
        parts = slice(0, 2) if kind == "bracket" else slice(0, 3)
        parts_out = slice(0, 3) if kind == "cross" else slice(2, 3)
        # Products that couple odd sums have a degree less than the pointwise product.
        degree = max(lmax1 + lmax2 + lmax_out - (kind != "dot"), lmax1, lmax2, lmax_out)
        fields = [field_constants(lmax, degree, unit=unit)[0][:, parts] for lmax in (lmax1, lmax2)]
        projection = field_constants(lmax_out, degree, unit=True)[1][:, parts_out]
        if normalization == "component":
            scale = component_scale(
                lambda place: contract_fields(fields[0], fields[1], projection[place], self._terms), lmax_out
            )
            projection = projection * scale[:, None, None]
        # Parts side by side, so that one matmul transforms them all.
        self.register_constant("transform1", fields[0].flatten(1), dtype=dtype, device=device)
        self.register_constant("transform2", fields[1].flatten(1), dtype=dtype, device=device)
        self.register_constant("projection", projection.flatten(1).mT, dtype=dtype, device=device)

    def forward(
        self,
        x: Float[Tensor, "*#batch channel dim1"],
        y: Float[Tensor, "*#batch #channel dim2"],
        weight: Tensor | None = None,
    ) -> Float[Tensor, "*batch channel dim"]:
        """Return the product.

        Args:
            x: Dense features, `(..., C, (lmax1 + 1)**2)`.
            y: Dense features, `(..., C or 1, (lmax2 + 1)**2)`.
            weight: Degree weights to use in place of the module's own, `(..., C or 1, weight_numel)`: those
                of x, of y and of the output side by side, tangential before radial where there are both.

        Returns:
            Dense features, `(..., C, (lmax_out + 1)**2)`, of the other parity where the kind is `bracket` or
            `cross`.
        """
        weight1, weight2, weight_out = self.component_weights(weight)
        first = self._field(x, self.transform1, weight1)
        second = self._field(y, self.transform2, weight2)
        parts = [multiply_fields(first, second, terms) for terms in self._terms]
        if self.kind != "cross":
            out: Tensor = parts[0] @ self.projection
            return out if weight_out is None else out * weight_out
        tangential = torch.cat(parts[:2], dim=-1)
        if weight_out is None:
            both: Tensor = torch.cat([tangential, parts[2]], dim=-1) @ self.projection
            return both
        points = 2 * parts[2].shape[-1]
        weighted: Tensor = (tangential @ self.projection[:points]) * weight_out[0]
        return weighted + (parts[2] @ self.projection[points:]) * weight_out[1]

    def _field(self, x: Tensor, transform: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
        """Return the parts of an input's field on the grid, each `(..., C, G)`."""
        if self.kind == "bracket":
            return ((x if weight is None else x * weight) @ transform).chunk(2, dim=-1)
        if weight is None:
            return (x @ transform).chunk(3, dim=-1)
        points = 2 * (transform.shape[-1] // 3)
        tangential = (x * weight[0]) @ transform[:, :points]
        return (*tangential.chunk(2, dim=-1), (x * weight[1]) @ transform[:, points:])

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{super().extra_repr()}, kind={self.kind!r}"


def field_constants(
    lmax: int, degree: int, *, unit: bool
) -> tuple[Float[Tensor, "dim part point"], Float[Tensor, "dim part point"]]:
    r"""Return the fields of the harmonics on a grid, and the same times the grid's weights.

    Args:
        lmax: Largest degree of the harmonics.
        degree: Largest degree that the grid integrates exactly.
        unit: Whether gradients are scaled by $1 / \sqrt{l(l+1)}$, which makes them orthonormal.

    Returns:
        Two constants, float64, with three parts: gradient along latitude and longitude, and value.
    """
    grid = S2Grid(lmax, lmax_product=degree, dtype=torch.float64)
    harmonics = torch.eye((lmax + 1) ** 2, dtype=torch.float64)
    parts = [*grid.gradient_to_grid(harmonics), grid.to_grid(harmonics)]
    field = torch.stack([part.flatten(1) for part in parts], dim=1)
    if unit:
        degrees = degrees_of_components(lmax)
        field[:, :2] *= (degrees * (degrees + 1)).clamp(min=1).to(torch.float64).rsqrt()[:, None, None]
    return field, field * grid.weights.repeat_interleave(grid.n_lon)


def multiply_fields(first: tuple[Tensor, ...], second: tuple[Tensor, ...], terms: Terms) -> Tensor:
    """Return one part of a product of two fields, point by point.

    Args:
        first: Parts of the first field.
        second: Parts of the second field.
        terms: Which parts are multiplied and added.
    """
    (i, j, sign), *rest = terms
    product = first[i] * second[j] * sign if sign != 1 else first[i] * second[j]
    for i, j, sign in rest:
        product = torch.addcmul(product, first[i], second[j], value=sign)
    return product


def contract_fields(
    first: Float[Tensor, "dim1 part1 point"],
    second: Float[Tensor, "dim2 part2 point"],
    projection: Float[Tensor, "part_out point"],
    product: tuple[Terms, ...],
) -> Float[Tensor, "dim1 dim2"]:
    """Return the coefficients of one output component of a product of fields.

    Args:
        first: Fields of the first input's components.
        second: Fields of the second input's components.
        projection: What the product is integrated with, part by part.
        product: Terms of each part.
    """
    total = first.new_zeros(first.shape[0], second.shape[0])
    for weight, terms in zip(projection, product, strict=True):
        for i, j, sign in terms:
            total += sign * (first[:, i] * weight) @ second[:, j].mT
    return total
