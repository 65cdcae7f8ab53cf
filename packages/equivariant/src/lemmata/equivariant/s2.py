r"""Functions on the sphere: coefficients of spherical harmonics, and values on a grid.

The grid has Gauss-Legendre nodes in $\cos \beta$, where $\beta$ is the angle to the polar axis y, and
equispaced longitudes $\alpha$ about it. `n_lat` latitudes and `n_lon` longitudes integrate every polynomial
of degree up to `min(2 n_lat - 1, n_lon - 1)` exactly, so projections of products lose nothing where the grid
is sized for the degree of the whole integrand.

Up to degree 10 a transform is one product with the dense matrix of harmonics, $O(L^4)$. Above, it goes
through the latitudes first: with $Y_{l, \pm m} = P_l^m(\beta) \, (\cos | \sin) (m \alpha)$,

$$f(\beta, \alpha) = \sum_m \Bigl( \cos(m \alpha) \sum_l P_l^m(\beta) \, c_{l, m} + \sin(m \alpha) \sum_l
P_l^m(\beta) \, c_{l, -m} \Bigr),$$

$O(L^3)$. The sum over $m$ is a product with a matrix as well: up to degrees beyond 100 that takes no longer
than a fast Fourier transform of so few longitudes, and it needs no complex numbers.

Axis letters used below: `G` grid points, `M` components `(lmax + 1)**2`, `K` latitudes, `N` longitudes, `m`
orders and `l` degrees from 0 to `lmax`, `p` cosine and sine.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3.solid_harmonics import directional_derivative, solid_harmonics

__all__ = ["S2Grid"]

LARGEST_DENSE = 10


class S2Grid(ConstantModule):
    """Transforms between orthonormal spherical-harmonic coefficients and values on the sphere.

    Args:
        lmax: Largest degree of the coefficients.
        lmax_product: Largest degree of what `from_grid` integrates exactly, the projecting harmonic included:
            `l1 + l2 + l3` for projecting a product of functions of degrees `l1` and `l2` to `l3`. By default
            `2 * lmax`, which makes `from_grid` the inverse of `to_grid`.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Attributes:
        points: The grid on the unit sphere, shape `(n_lat, n_lon, 3)`.
        weights: Weight of each point of a latitude, shape `(n_lat,)`; over the grid they sum to `4 pi`.
        separable: Whether transforms go through the latitudes, as they do above degree 10.

    Raises:
        ValueError: Where a degree is negative or `lmax_product` is below `lmax`.

    Examples:
        >>> grid = S2Grid(3, dtype=torch.float64)
        >>> c = torch.randn(16, dtype=torch.float64)
        >>> grid.to_grid(c).shape, torch.allclose(grid.from_grid(grid.to_grid(c)), c)
        (torch.Size([4, 7]), True)
    """

    points: Tensor
    weights: Tensor
    harmonics: Tensor
    slope_latitude: Tensor
    slope_longitude: Tensor
    trigonometry: Tensor
    trigonometry_slope: Tensor
    packing: Tensor
    unpacking: Tensor

    def __init__(
        self,
        lmax: int,
        *,
        lmax_product: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if lmax < 0:
            raise ValueError(f"`lmax` (={lmax}) must be at least 0")
        degree = 2 * lmax if lmax_product is None else lmax_product
        if degree < lmax:
            raise ValueError(f"`lmax_product` (={lmax_product}) must be at least `lmax` (={lmax})")
        self.lmax = lmax
        self.lmax_product = degree
        self.n_lat = degree // 2 + 1
        self.n_lon = degree + 1
        self.separable = lmax > LARGEST_DENSE
        points, latitude, longitude, weights = _grid(self.n_lat, self.n_lon)
        constants = {"points": points, "weights": weights}
        if self.separable:
            packing, unpacking = _packing(lmax)
            self.register_buffer("packing", packing.to(device), persistent=False)
            self.register_buffer("unpacking", unpacking.to(device), persistent=False)
            # At longitude 0 cosines are 1, as are the slopes of sines over m.
            start = [part[:, 0] for part in (points, latitude, longitude)]
            constants |= _legendre(lmax, *start) | _trigonometry(lmax, self.n_lon)
        else:
            flat = points.flatten(0, 1)
            constants |= {
                "harmonics": solid_harmonics(lmax, flat),
                "slope_latitude": directional_derivative(lmax, flat, latitude.flatten(0, 1)),
                "slope_longitude": directional_derivative(lmax, flat, longitude.flatten(0, 1)),
            }
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)

    def to_grid(self, coefficients: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch n_lat n_lon"]:
        """Return the values on the grid of functions given by coefficients.

        Args:
            coefficients: Of the orthonormal harmonics, `(lmax + 1)**2` on the last axis.
        """
        if self.separable:
            return self._through_latitudes(coefficients, self.harmonics, self.trigonometry)
        return self._on_grid(coefficients @ self.harmonics.mT)

    def from_grid(self, values: Float[Tensor, "*batch n_lat n_lon"]) -> Float[Tensor, "*batch dim"]:
        """Return the coefficients, by quadrature, of functions given on the grid.

        Args:
            values: On the grid.
        """
        weighted = values * self.weights[:, None]
        if self.separable:
            by_latitude = torch.einsum("...kn,pmn->...mpk", weighted, self.trigonometry)
            packed = torch.einsum("...mpk,mkl->...mpl", by_latitude, self.harmonics)
            return packed.flatten(-3)[..., self.unpacking]
        return weighted.flatten(-2) @ self.harmonics

    def gradient_to_grid(
        self, coefficients: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch n_lat n_lon"], Float[Tensor, "*batch n_lat n_lon"]]:
        r"""Return the surface gradient on the grid: along $\beta$, and along longitude over $\sin \beta$.

        Args:
            coefficients: Of the orthonormal harmonics.
        """
        if self.separable:
            return (
                self._through_latitudes(coefficients, self.slope_latitude, self.trigonometry),
                self._through_latitudes(coefficients, self.slope_longitude, self.trigonometry_slope),
            )
        return (
            self._on_grid(coefficients @ self.slope_latitude.mT),
            self._on_grid(coefficients @ self.slope_longitude.mT),
        )

    def _through_latitudes(
        self, coefficients: Tensor, legendre_mKl: Tensor, trigonometry_pmN: Tensor
    ) -> Tensor:
        """Sum over degrees at each latitude, then over orders along it."""
        packed = nn.functional.pad(coefficients, (0, 1))[..., self.packing]
        by_latitude = torch.einsum("...mpl,mkl->...mpk", packed, legendre_mKl)
        return torch.einsum("...mpk,pmn->...kn", by_latitude, trigonometry_pmN)

    def _on_grid(self, values: Tensor) -> Tensor:
        """Return values by latitude and longitude."""
        return values.reshape(*values.shape[:-1], self.n_lat, self.n_lon)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"lmax={self.lmax}, n_lat={self.n_lat}, n_lon={self.n_lon}"


def _grid(n_lat: int, n_lon: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return points, the unit tangents along both angles there, and the weight of each latitude's points."""
    nodes, weights = np.polynomial.legendre.leggauss(n_lat)
    cosine = torch.from_numpy(nodes).flip(0)[:, None]
    sine = (1 - cosine * cosine).sqrt()
    angle = 2 * math.pi / n_lon * torch.arange(n_lon, dtype=torch.float64)
    ones = torch.ones(n_lat, n_lon, dtype=torch.float64)
    s, c = angle.sin() * ones, angle.cos() * ones
    points = torch.stack([sine * s, cosine * ones, sine * c], dim=-1)
    along_latitude = torch.stack([cosine * s, -sine * ones, cosine * c], dim=-1)
    along_longitude = torch.stack([c, 0 * ones, -s], dim=-1)
    return points, along_latitude, along_longitude, torch.from_numpy(weights).flip(0) * (2 * math.pi / n_lon)


def _packing(lmax: int) -> tuple[Tensor, Tensor]:
    """Return the place of each coefficient by order, parity and degree, and the way back.

    Places without a coefficient hold the number of coefficients.
    """
    size = lmax + 1
    packing = torch.full((size, 2, size), size * size)
    for l in range(size):
        for m in range(l + 1):
            packing[m, 0, l] = l * l + l + m
            if m:
                packing[m, 1, l] = l * l + l - m
    return packing, packing.flatten().argsort()[: size * size]


def _legendre(lmax: int, points: Tensor, latitude: Tensor, longitude: Tensor) -> dict[str, Tensor]:
    """Return harmonics and slopes at longitude 0, by order, latitude and degree."""
    size = lmax + 1
    order, degree = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = degree * degree + degree

    def table(values_KM: Tensor, places_ml: Tensor) -> Tensor:
        """Gather the components of each order and degree, zero where the order exceeds the degree."""
        gathered = values_KM[:, torch.where(order <= degree, places_ml, 0)]
        return torch.where(order <= degree, gathered, 0.0).transpose(0, 1).contiguous()

    # Only sines have a slope along longitude there; those of order 0 have none at all.
    sines = table(directional_derivative(lmax, points, longitude), centre - order)
    sines[0] = 0.0
    return {
        "harmonics": table(solid_harmonics(lmax, points), centre + order),
        "slope_latitude": table(directional_derivative(lmax, points, latitude), centre + order),
        "slope_longitude": sines,
    }


def _trigonometry(lmax: int, n_lon: int) -> dict[str, Tensor]:
    """Return cosines and sines of multiples of the longitudes, and their slopes over the multiple."""
    turns = torch.arange(lmax + 1)[:, None] * torch.arange(n_lon) % n_lon
    angle = turns.double() * (2 * math.pi / n_lon)
    return {
        "trigonometry": torch.stack([angle.cos(), angle.sin()]),
        "trigonometry_slope": torch.stack([-angle.sin(), angle.cos()]),
    }
