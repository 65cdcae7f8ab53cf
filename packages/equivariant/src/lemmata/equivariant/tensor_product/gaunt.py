r"""The Gaunt tensor product: multiply features as functions on the sphere.

A feature with one copy of each degree is a function on the sphere, and the pointwise product of two functions
is an equivariant product of features. Its coefficients are Gaunt's integrals,

$$z_{l_3 m_3} = \sum x_{l_1 m_1} y_{l_2 m_2} \int_{S^2} Y_{l_1 m_1} Y_{l_2 m_2} Y_{l_3 m_3},$$

each a multiple, by one number a triple of degrees, of Wigner's 3j symbol. Computed on a grid or in a Fourier
basis the product costs far less than one contraction a path. Per-degree weights before and after,
$w_3 (w_1 x \cdot w_2 y)$, are what it can learn: $3 (L + 1) - 2$ numbers where a product with all paths has
as many as there are triples of degrees.

**Blind to chirality.** Degrees couple only where $l_1 + l_2 + l_3$ is even, so there is no cross product of
vectors, and a network with no other product gives mirror images the same invariants. The odd couplings come
from `VectorSignalTensorProduct`, both from `CompleteTensorProduct`.

After S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis via
Gaunt Tensor Products, 2024, arXiv:2401.10216.

Axis letters used below: `C` channels, `M` components `(lmax + 1)**2`, `G` grid points, `N` degree weights.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3 import solid_harmonics
from lemmata.equivariant.tensor_product.degrees import FixedProduct, degrees_of_components
from lemmata.equivariant.tensor_product.fourier import FourierProduct
from lemmata.equivariant.tensor_product.grid_product import GridProduct, grid_size, sphere_rule

__all__ = [
    "DenseProduct",
    "GauntTensorProduct",
    "Weight",
    "degree_scales",
    "field_covariance",
    "gaunt_coefficients",
    "product_costs",
    "scales_of_covariance",
]

Method = Literal["auto", "grid", "fourier", "dense"]
Normalization = Literal["component", "none"]
Weight = Tensor | tuple[Tensor | None, Tensor | None, Tensor | None]


class GauntTensorProduct(FixedProduct):
    r"""Multiplies features as functions on the sphere, $z = w_3 \cdot ((w_1 \cdot x)\,(w_2 \cdot y))$.

    Dense features of natural parity give features of natural parity: the product couples no degrees with an
    odd sum, **so that it cannot see chirality** (see the module's description). The degree weights are
    $L_1 + L_2 + L_3 + 3$ numbers a channel, of which two only repeat what others scale.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        channels: Channels with degree weights of their own; None for any number of channels with shared ones.
        degree_weights: Whether the module has degree weights to learn, ones at first.
        method: `grid` (values on a grid of the sphere), `fourier` (FFTs on the torus), `dense` (one matrix of
            Gaunt coefficients) or `auto`: whichever of dense and grid costs less by `product_costs`. The
            attribute `method` tells which it is. All three compute the same map.
        normalization: `component` gives output components variance 1 where input components are independent
            with variance 1; `none` leaves the coefficients of the product in the orthonormal harmonics.
        shared_y: Whether the second input will have one channel for all of the first one's, as filters on
            edges have: `auto` counts with it, and the module's own weights of y are the same for all
            channels, so that y keeps its one channel. Any input works with either.
        dtype: Of weights and constants; torch's default where None.
        device: Of weights and constants.

    Raises:
        ValueError: Where `lmax_out` cannot be reached, a degree is negative, or a name is unknown.

    Examples:
        >>> product = GauntTensorProduct(3, 2, 3, channels=8)
        >>> product(torch.randn(10, 8, 16), torch.randn(10, 1, 9)).shape, product.method
        (torch.Size([10, 8, 16]), 'grid')
        >>> plain = GauntTensorProduct(1, 1, 0, degree_weights=False, normalization="none")
        >>> x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> round(plain(x, x).item() * (4 * math.pi) ** 0.5, 4)  # the scalar product of x with itself
        14.0

    References:
        S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products, 2024, arXiv:2401.10216.
    """

    weight1: nn.Parameter | None
    weight2: nn.Parameter | None
    weight_out: nn.Parameter | None
    expand1: Tensor
    expand2: Tensor
    expand_out: Tensor

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        *,
        channels: int | None = None,
        degree_weights: bool = True,
        method: Method = "auto",
        normalization: Normalization = "component",
        shared_y: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(lmax1, lmax2, lmax_out, channels, normalization)
        if method not in get_args(Method):
            raise ValueError(f"`method` (={method!r}) must be one of {', '.join(get_args(Method))}")
        if method == "auto":
            costs = product_costs(lmax1, lmax2, lmax_out, shared_y=shared_y)
            method = "dense" if costs["dense"] < costs["grid"] else "grid"
        self.method = method
        scale = degree_scales(lmax1, lmax2, lmax_out) if normalization == "component" else None
        self.product = _PRODUCTS[method](lmax1, lmax2, lmax_out, scale=scale, dtype=dtype, device=device)
        sizes = {"weight1": lmax1, "weight2": lmax2, "weight_out": lmax_out}
        for name, lmax in sizes.items():
            rows = 1 if channels is None or (shared_y and name == "weight2") else channels
            ones = torch.ones(rows, lmax + 1, dtype=dtype, device=device)
            self.register_parameter(name, nn.Parameter(ones) if degree_weights else None)
        for name, lmax in (("expand1", lmax1), ("expand2", lmax2), ("expand_out", lmax_out)):
            one_hot = nn.functional.one_hot(degrees_of_components(lmax), lmax + 1)
            self.register_constant(name, one_hot.mT.to(torch.float64), dtype=dtype, device=device)

    @property
    def weight_numel(self) -> int:
        """How many degree weights a channel has: the last size of `weight` in `forward`."""
        return self.lmax1 + self.lmax2 + self.lmax_out + 3

    def forward(
        self,
        x: Float[Tensor, "*#batch channel dim1"],
        y: Float[Tensor, "*#batch #channel dim2"],
        weight: Weight | None = None,
    ) -> Float[Tensor, "*batch channel dim_out"]:
        """Return the product of two features.

        Args:
            x: First input, `(..., C, (lmax1 + 1)**2)`.
            y: Second input, `(..., C or 1, (lmax2 + 1)**2)`.
            weight: Degree weights to use in place of the module's own: a tensor that broadcasts to `(..., C,
                weight_numel)`, with those of x, of y and of the output side by side, so that every sample may
                have its own; or the three apart, broadcasting to `(..., C, lmax + 1)`, None for ones. Weights
                of y that differ by channel give a y of one channel as many as x has.

        Returns:
            The product, `(..., C, (lmax_out + 1)**2)`.
        """
        weight1, weight2, weight_out = self.weights_by_degree(weight)
        # A product with zeros and ones: several times quicker than indexing, forwards and backwards.
        x = x if weight1 is None else x * (weight1 @ self.expand1)
        y = y if weight2 is None else y * (weight2 @ self.expand2)
        z: Tensor = self.product(x, y)
        return z if weight_out is None else z * (weight_out @ self.expand_out)

    def weights_by_degree(
        self, weight: Weight | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the degree weights of x, of y and of the output; None for ones.

        Args:
            weight: As `forward`; None for the module's own.

        Raises:
            ValueError: Where the last size of `weight` is not `weight_numel`.
        """
        if weight is None:
            return self.weight1, self.weight2, self.weight_out
        if isinstance(weight, tuple):
            return weight
        if weight.shape[-1] != self.weight_numel:
            raise ValueError(
                f"`weight`: expected last dimension {self.weight_numel}, got shape {tuple(weight.shape)}"
            )
        first, second = self.lmax1 + 1, self.lmax1 + self.lmax2 + 2
        return weight[..., :first], weight[..., first:second], weight[..., second:]

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{super().extra_repr()}, method={self.method!r}, normalization={self.normalization!r}"


def gaunt_coefficients(lmax1: int, lmax2: int, lmax3: int) -> Float[Tensor, "dim1 dim2 dim3"]:
    r"""Return $\int_{S^2} Y_{l_1 m_1} Y_{l_2 m_2} Y_{l_3 m_3}$ of orthonormal real harmonics, float64.

    For each triple of degrees a multiple of `o3.wigner_3j`, by $\sqrt{(2l_1+1)(2l_2+1)(2l_3+1) / 4\pi}$ times
    that symbol's value at $m_1 = m_2 = m_3 = 0$; exactly zero where the triangle inequality fails or
    $l_1 + l_2 + l_3$ is odd.

    Args:
        lmax1: First largest degree.
        lmax2: Second largest degree.
        lmax3: Third largest degree.

    Returns:
        The coefficients, shape `((lmax1 + 1)**2, (lmax2 + 1)**2, (lmax3 + 1)**2)`.

    Raises:
        ValueError: Where a degree is negative.

    Examples:
        >>> gaunt = gaunt_coefficients(1, 1, 0)
        >>> gaunt.shape, torch.round(gaunt[1, 1] * (4 * math.pi) ** 0.5, decimals=6)
        (torch.Size([4, 4, 1]), tensor([1.], dtype=torch.float64))
    """
    for name, lmax in (("lmax1", lmax1), ("lmax2", lmax2), ("lmax3", lmax3)):
        if lmax < 0:
            raise ValueError(f"`{name}` (={lmax}) must be at least 0")
    points, weights = sphere_rule(lmax1 + lmax2 + lmax3)
    harmonics_GM = solid_harmonics(max(lmax1, lmax2, lmax3), points)
    first, second, third = (harmonics_GM[:, : (lmax + 1) ** 2] for lmax in (lmax1, lmax2, lmax3))
    gaunt = torch.einsum("gi,gj,gk->ijk", first * weights[:, None], second, third)
    l1, l2, l3 = torch.meshgrid(
        *(degrees_of_components(lmax) for lmax in (lmax1, lmax2, lmax3)), indexing="ij"
    )
    allowed = ((l1 + l2 + l3) % 2 == 0) & (l3 >= (l1 - l2).abs()) & (l3 <= l1 + l2)
    return torch.where(allowed, gaunt, 0.0)


def degree_scales(lmax1: int, lmax2: int, lmax_out: int) -> Float[Tensor, " dim_out"]:
    r"""Return the factors that give the components of a product variance 1, by component, float64.

    For inputs whose components are independent with variance 1.

    Args:
        lmax1: Largest degree of the first function.
        lmax2: Largest degree of the second function.
        lmax_out: Largest degree of the product.

    Examples:
        >>> round(degree_scales(0, 0, 0).item() ** 2 / math.pi, 12)  # of the product with 1 / sqrt(4 pi)
        4.0
    """
    return scales_of_covariance(
        lambda t: field_covariance(lmax1, t) * field_covariance(lmax2, t), lmax_out, lmax1 + lmax2
    )


def scales_of_covariance(
    covariance: Callable[[Tensor], Tensor], lmax_out: int, degree: int
) -> Float[Tensor, " dim_out"]:
    r"""Return the factors that give a random function's coefficients variance 1, by component, float64.

    Args:
        covariance: Of the values at two points, a polynomial in the cosine of the angle between them.
        lmax_out: The largest degree of the coefficients.
        degree: Of the polynomial.
    """
    nodes, weights = (
        torch.from_numpy(a) for a in np.polynomial.legendre.leggauss((degree + lmax_out) // 2 + 1)
    )
    # Funk and Hecke: a function of the angle alone acts on each degree as one number.
    variance = 2 * math.pi * (covariance(nodes) * weights) @ _legendre(lmax_out, nodes)
    return variance.rsqrt()[degrees_of_components(lmax_out)]


def field_covariance(lmax: int, t: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    r"""Return $\sum_{l \le L} \frac{2l+1}{4\pi} P_l(t)$, the covariance of a random function.

    Args:
        lmax: The largest degree.
        t: Cosines of the angle between two points, float64.
    """
    return _legendre(lmax, t) @ (2 * torch.arange(lmax + 1, dtype=torch.float64) + 1) / (4 * math.pi)


def product_costs(lmax1: int, lmax2: int, lmax_out: int, *, shared_y: bool = False) -> dict[str, float]:
    """Return what `dense` and `grid` cost a row, in multiplications and additions: the model behind `auto`.

    Passes over arrays count too, as twelve for each number of an outer product, four for each value on the
    grid, 25 for each number of small matrices' factors; fitted to times on one core of a CPU, forwards and
    backwards, batches of 64 with 32 channels. Where y has one channel, what is computed from y alone is
    shared by 32 rows.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        shared_y: Whether the second input has one channel for all.

    Examples:
        >>> product_costs(2, 2, 2)
        {'dense': 1701.0, 'grid': 868.0}
    """
    m1, m2, m3 = ((lmax + 1) ** 2 for lmax in (lmax1, lmax2, lmax_out))
    points = grid_size(lmax1 + lmax2 + lmax_out)
    if shared_y:
        return {
            "dense": float(2 * m1 * m3 + m1 * m2 * m3 / 32 + 25 * (m1 + m3)),
            "grid": float(points * (m1 + m2 / 32 + m3 + 4)),
        }
    return {"dense": float(m1 * m2 * (m3 + 12)), "grid": float(points * (m1 + m2 + m3 + 4))}


class DenseProduct(ConstantModule):
    """Multiply two functions on the sphere by the matrix of Gaunt coefficients, for small degrees.

    Where y has one channel for several of x, the coefficients are contracted with y first, and one small
    matrix for each sample takes x to the result.

    Args:
        lmax1: Largest degree of the first function.
        lmax2: Largest degree of the second function.
        lmax_out: Largest degree of the product that is kept.
        scale: Factors of the components of the result, `(lmax_out + 1)**2`, float64; ones where None.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.
    """

    table: Tensor

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        *,
        scale: Float[Tensor, " dim"] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        gaunt = gaunt_coefficients(lmax2, lmax1, lmax_out)
        self.register_constant("table", gaunt if scale is None else gaunt * scale, dtype=dtype, device=device)

    def forward(
        self, x: Float[Tensor, "*#batch channel dim1"], y: Float[Tensor, "*#batch #channel dim2"]
    ) -> Float[Tensor, "*batch channel dim_out"]:
        """Return the coefficients of the product.

        Args:
            x: Coefficients of the first function.
            y: Coefficients of the second function, with as many channels or one.
        """
        if y.shape[-2] == 1 and x.shape[-2] > 1:
            return x @ (y.squeeze(-2) @ self.table.flatten(1)).reshape(*y.shape[:-2], *self.table.shape[1:])
        outer = (y[..., :, None] * x[..., None, :]).flatten(-2)
        return outer @ self.table.flatten(0, 1)


def _legendre(lmax: int, t: Tensor) -> Float[Tensor, "t l"]:
    """Return Legendre polynomials up to a degree."""
    points = torch.stack([torch.zeros_like(t), t, (1 - t * t).sqrt()], dim=-1)
    degrees = torch.arange(lmax + 1)
    return solid_harmonics(lmax, points, "norm")[:, degrees * (degrees + 1)]


_PRODUCTS = {"grid": GridProduct, "fourier": FourierProduct, "dense": DenseProduct}
