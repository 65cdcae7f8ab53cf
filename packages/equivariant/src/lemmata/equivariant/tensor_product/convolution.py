r"""The Gaunt product with a filter on an edge: rotate, multiply by a function of latitude, rotate back.

The filter $\sum_l w_l Y_l(\hat r)$ of an edge is a function of the angle to $\hat r$ alone. In a frame whose
polar axis is $\hat r$ it has no component but $m = 0$, and the product leaves every $m$ to itself: a small
matrix for each order in place of one for all components, in $O(L^3)$ a channel. The frame is free up to a
turn about $\hat r$, and by equivariance the result does not depend on that turn: two smooth choices of frame,
one for each hemisphere, give one smooth function of $\hat r$, without a singular direction.

After S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis via
Gaunt Tensor Products, 2024, arXiv:2401.10216.

Axis letters used below: `E` edges, `C` channels, `L` degrees, `K` orders m, `G` latitudes.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3 import fibonacci_sphere, solid_harmonics, spherical_harmonics, unit_vectors
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct, Weight, degree_scales

__all__ = ["GauntConvolution", "RotatedProduct", "frame_of_direction"]

Method = Literal["auto", "rotation", "product"]

ROTATION_PAYS = 10
"""Least degree from which the rotation is quicker than the grid, on one core of a CPU with 32 channels."""


class GauntConvolution(nn.Module):
    r"""Multiplies features by filters on edges, in $O(L^3)$ where edges are rotated to the polar axis.

    Equals `GauntTensorProduct` with the edges' spherical harmonics, component-normalised, as second input.

    Args:
        lmax_in: Largest degree of the input.
        lmax_filter: Largest degree of the filters.
        lmax_out: Largest degree of the output.
        channels: Channels with degree weights of their own; None for any number of channels with shared ones.
        degree_weights: Whether the module has degree weights to learn, ones at first.
        method: `rotation` (to the frame of the edge and back), `product` (harmonics of the edge, and the
            product that `GauntTensorProduct` finds best) or `auto`: the rotation from degree ROTATION_PAYS on
            where `channelwise`, else the product. The attribute `method` tells which it is.
        channelwise: Whether weights of the filters differ by channel, so that each channel has a filter of
            its own; by default where `channels` is given, and where weights are given at `forward`
            (`degree_weights=False`). Any weights work with either; it is `auto` and the method of the
            product that count with it.
        normalization: As `GauntTensorProduct`.
        dtype: Of weights and constants; torch's default where None.
        device: Of weights and constants.

    Raises:
        ValueError: As `GauntTensorProduct`, and where the method is unknown.

    Examples:
        >>> convolution = GauntConvolution(1, 3, 2, channels=8)
        >>> convolution(torch.randn(20, 8, 4), torch.randn(20, 3)).shape
        torch.Size([20, 8, 9])

    References:
        S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products, 2024, arXiv:2401.10216.
    """

    def __init__(
        self,
        lmax_in: int,
        lmax_filter: int,
        lmax_out: int,
        *,
        channels: int | None = None,
        degree_weights: bool = True,
        method: Method = "auto",
        channelwise: bool | None = None,
        normalization: Literal["component", "none"] = "component",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if method not in get_args(Method):
            raise ValueError(f"`method` (={method!r}) must be one of {', '.join(get_args(Method))}")
        if channelwise is None:
            channelwise = channels is not None or not degree_weights
        if method == "auto":
            large = min(lmax_in, lmax_filter, lmax_out) >= ROTATION_PAYS
            method = "rotation" if channelwise and large else "product"
        self.lmax_in, self.lmax_filter, self.lmax_out = lmax_in, lmax_filter, lmax_out
        self.method = method
        self.product = GauntTensorProduct(
            lmax_in,
            lmax_filter,
            lmax_out,
            channels=channels,
            degree_weights=degree_weights,
            method="grid" if method == "rotation" else "auto",  # the rotation needs its weights alone
            shared_y=not channelwise,
            normalization=normalization,
            dtype=dtype,
            device=device,
        )
        if method == "rotation":
            scale = degree_scales(lmax_in, lmax_filter, lmax_out) if normalization == "component" else None
            self.rotated = RotatedProduct(
                lmax_in, lmax_filter, lmax_out, scale=scale, dtype=dtype, device=device
            )

    @property
    def weight_numel(self) -> int:
        """How many degree weights a channel has: the last size of `weight` in `forward`."""
        return self.product.weight_numel

    def forward(
        self,
        x: Float[Tensor, "edge channel dim_in"],
        vectors: Float[Tensor, "edge 3"],
        weight: Weight | None = None,
    ) -> Float[Tensor, "edge channel dim_out"]:
        """Return the features of each edge, multiplied by its filter.

        Args:
            x: Features, one row an edge, `(E, C, (lmax_in + 1)**2)`.
            vectors: Edges, `(E, 3)`, of any length; a zero vector has a filter of degree 0 alone.
            weight: Degree weights to use in place of the module's own, as `GauntTensorProduct`; those of the
                filter are usually functions of the edge's length.

        Returns:
            The products, `(E, C, (lmax_out + 1)**2)`.
        """
        if self.method == "product":
            degrees = list(range(self.lmax_filter + 1))
            y = spherical_harmonics(degrees, vectors, normalize=True, normalization="component")
            product: Tensor = self.product(x, y[:, None], weight)
            return product
        weight1, weight2, weight_out = self.product.weights_by_degree(weight)
        x = x if weight1 is None else x * (weight1 @ self.product.expand1)
        z: Tensor = self.rotated(x, unit_vectors(vectors), weight2)
        return z if weight_out is None else z * (weight_out @ self.product.expand_out)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"method={self.method!r}"


class RotatedProduct(ConstantModule):
    r"""Multiply functions on the sphere by functions of the angle to a direction.

    Args:
        lmax_in: Largest degree of the input.
        lmax_filter: Largest degree of the filters.
        lmax_out: Largest degree of the product that is kept.
        scale: Factors of the components of the result, `(lmax_out + 1)**2`, float64; ones where None.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.
    """

    points: Tensor
    inverses: Tensor
    filters: Tensor
    to_latitudes: Tensor
    from_latitudes: Tensor

    def __init__(
        self,
        lmax_in: int,
        lmax_filter: int,
        lmax_out: int,
        *,
        scale: Float[Tensor, " dim"] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.lmax_in, self.lmax_out = lmax_in, lmax_out
        self.mmax = min(lmax_in, lmax_out)  # other orders are lost or never made
        count = (lmax_in + lmax_filter + lmax_out) // 2 + 1
        cosine, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(count))
        longest = max(lmax_in, lmax_filter, lmax_out)
        meridian = torch.stack([torch.zeros_like(cosine), cosine, (1 - cosine**2).sqrt()], dim=-1)
        harmonics_GM = solid_harmonics(longest, meridian)
        degrees, orders = torch.arange(longest + 1), torch.arange(-self.mmax, self.mmax + 1)
        latitude_KLG = harmonics_GM[:, (degrees * (degrees + 1)) + orders.abs()[:, None]].permute(1, 2, 0)
        latitude_KLG = latitude_KLG * (degrees >= orders.abs()[:, None])[..., None]
        # The integral over longitudes of the square of cos(m phi) or sin(m phi).
        longitude_K = math.pi * (1 + (orders == 0).to(torch.float64))
        projection_KGL = latitude_KLG[:, : lmax_out + 1].mT * weights[:, None] * longitude_K[:, None, None]
        if scale is not None:
            projection_KGL = projection_KGL * scale[(degrees * (degrees + 1))[: lmax_out + 1]]
        polar_L = (2 * degrees[: lmax_filter + 1].to(torch.float64) + 1).sqrt()
        # A degree's harmonics at these points tell its coefficients, as well conditioned as twice that many
        # would: half of the sphere suffices, for a degree has one parity.
        turned = max(lmax_in, lmax_out)
        points = fibonacci_sphere(6 * (2 * turned + 1))[: 3 * (2 * turned + 1)]
        harmonics_PM = solid_harmonics(turned, points)
        inverses = [torch.linalg.pinv(harmonics_PM[:, l * l : (l + 1) ** 2]) for l in range(turned + 1)]
        constants = {
            "points": points,
            "inverses": torch.cat(inverses),
            "to_latitudes": latitude_KLG[:, : lmax_in + 1],
            "from_latitudes": projection_KGL,
            "filters": latitude_KLG[self.mmax, : lmax_filter + 1] * polar_L[:, None],
        }
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)

    def forward(
        self,
        x: Float[Tensor, "edge channel dim_in"],
        directions: Float[Tensor, "edge 3"],
        weight: Float[Tensor, "*#edge_channel degree"] | None = None,
    ) -> Float[Tensor, "edge channel dim_out"]:
        """Return the coefficients of the products.

        Args:
            x: Coefficients of the functions.
            directions: Unit vectors, or zero.
            weight: Of each degree of the filter, broadcasting to `(E, C, lmax_filter + 1)`; ones where None.
        """
        turns = self._turns(frame_of_direction(directions))
        x_KBL = self._to_orders([x[..., l * l : (l + 1) ** 2] @ turns[l] for l in range(self.lmax_in + 1)])
        shape = x.shape[:-1]
        values_KBG = torch.bmm(x_KBL, self.to_latitudes)
        product_KBG = values_KBG * self._filters(directions, weight).expand(*shape, -1).flatten(0, 1)
        z_KBL = torch.bmm(product_KBG, self.from_latitudes)
        # Orders side by side in memory: products of small matrices are slow on other strides.
        z_BLK = z_KBL.permute(1, 2, 0).reshape(*shape, self.lmax_out + 1, 2 * self.mmax + 1)
        degrees = []
        for l in range(self.lmax_out + 1):
            m = min(l, self.mmax)
            orders = z_BLK[..., l, self.mmax - m : self.mmax + m + 1]
            degrees.append(orders @ turns[l][..., l - m : l + m + 1].mT)
        return torch.cat(degrees, dim=-1)

    def _turns(self, frames: Tensor) -> list[Tensor]:
        """Return the matrices by which rotations act on each degree, as `o3.wigner_d`."""
        lmax = max(self.lmax_in, self.lmax_out)
        harmonics_EPM = solid_harmonics(lmax, self.points @ frames.mT)
        places = [slice(l * l, (l + 1) ** 2) for l in range(lmax + 1)]
        return [(self.inverses[place] @ harmonics_EPM[..., place]).mT for place in places]

    def _to_orders(self, degrees: list[Tensor]) -> Tensor:
        """Return coefficients by order, row and degree, zero where there are none."""
        padded = []
        for l, coefficients in enumerate(degrees):
            pad = self.mmax - l  # negative where there are more orders than are kept
            padded.append(nn.functional.pad(coefficients, (pad, pad)))
        return torch.stack(padded, dim=-1).flatten(0, 1).transpose(0, 1)

    def _filters(self, directions: Tensor, weight: Tensor | None) -> Tensor:
        """Return the filters' values by edge, channel or one, and latitude."""
        there = (directions != 0).any(-1)[:, None, None]
        filters = self.filters.sum(0) if weight is None else weight @ self.filters
        constant = self.filters[0] if weight is None else weight[..., :1] * self.filters[0]
        return torch.where(there, filters, constant)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"lmax_in={self.lmax_in}, lmax_out={self.lmax_out}"


def frame_of_direction(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return rotations that take the polar axis y to unit vectors; smooth on each half of the sphere.

    No choice is continuous on the whole sphere. In the upper half (`y >= 0`) this one turns about the
    shortest arc, in the lower half the same after half a turn about the x axis. A zero vector gives the
    identity.

    Args:
        directions: Unit vectors.

    Examples:
        >>> frame_of_direction(torch.tensor([0.0, -1.0, 0.0])) @ torch.tensor([0.0, 1.0, 0.0])
        tensor([ 0., -1.,  0.])
    """
    sign = torch.where(directions[..., 1] < 0, -1.0, 1.0).to(directions.dtype)
    x, y, z = (directions * sign[..., None]).unbind(-1)
    y = torch.where((directions == 0).all(-1), 1.0, y)
    inverse = 1 / (1 + y)
    rows = (
        (1 - x * x * inverse, x * sign, -x * z * inverse * sign),
        (-x, y * sign, -z * sign),
        (-x * z * inverse, z * sign, (1 - z * z * inverse) * sign),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
