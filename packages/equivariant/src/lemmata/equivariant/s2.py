r"""Functions on the sphere: coefficients of spherical harmonics, and values on a grid.

The grid has Gauss-Legendre nodes in $\cos \beta$, where $\beta$ is the angle to the polar axis y, and
equispaced longitudes about it. `n_lat` latitudes and `n_lon` longitudes integrate every polynomial of
degree up to `min(2 n_lat - 1, n_lon - 1)` exactly, so projections of products lose nothing where the grid
is sized for the degree of the whole integrand.

Axis letters used below: `G` grid points, `M` components `(lmax + 1)**2`.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3.solid_harmonics import directional_derivative, solid_harmonics

__all__ = ["S2Grid"]


class S2Grid(ConstantModule):
    """Transforms between orthonormal spherical-harmonic coefficients and values on the sphere.

    Args:
        lmax: Largest degree of the coefficients.
        lmax_product: Largest degree of what `from_grid` integrates exactly, the projecting harmonic included:
            `l1 + l2 + l3` for projecting a product of functions of degrees `l1` and `l2` to `l3`. By default
            `2 * lmax`, which makes `from_grid` the inverse of `to_grid`.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

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
        points, latitude, longitude, weights = _grid(self.n_lat, self.n_lon)
        flat = points.flatten(0, 1)
        constants = {
            "points": points,
            "weights": weights,
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
        return self._on_grid(coefficients @ self.harmonics.mT)

    def from_grid(self, values: Float[Tensor, "*batch n_lat n_lon"]) -> Float[Tensor, "*batch dim"]:
        """Return the coefficients, by quadrature, of functions given on the grid.

        Args:
            values: On the grid.
        """
        return (values * self.weights[:, None]).flatten(-2) @ self.harmonics

    def gradient_to_grid(
        self, coefficients: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch n_lat n_lon"], Float[Tensor, "*batch n_lat n_lon"]]:
        r"""Return the surface gradient on the grid: along $\beta$, and along longitude over $\sin \beta$.

        Args:
            coefficients: Of the orthonormal harmonics.
        """
        return (
            self._on_grid(coefficients @ self.slope_latitude.mT),
            self._on_grid(coefficients @ self.slope_longitude.mT),
        )

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
