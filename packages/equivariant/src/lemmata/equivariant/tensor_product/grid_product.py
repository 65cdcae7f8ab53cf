r"""Products of functions on the sphere through their values on a grid.

$$z_{l m} = \sum_g w_g\, Y_{l m}(r_g) \Big(\sum x_{l_1 m_1} Y_{l_1 m_1}(r_g)\Big)
\Big(\sum y_{l_2 m_2} Y_{l_2 m_2}(r_g)\Big)$$

Matrices take coefficients to values, one multiplication multiplies the functions, matrices project. The grid
is sized for the degree `lmax1 + lmax2 + lmax_out` of the integrand, so that nothing is lost and nothing
aliased.

Axis letters used below: `G` grid points, `M` components `(lmax + 1)**2`.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3 import solid_harmonics
from lemmata.equivariant.s2 import S2Grid

__all__ = ["GridProduct", "grid_size", "sphere_rule"]


class GridProduct(ConstantModule):
    """Multiply two functions on the sphere, given and returned as orthonormal coefficients.

    Args:
        lmax1: Largest degree of the first function.
        lmax2: Largest degree of the second function.
        lmax_out: Largest degree of the product that is kept.
        scale: Factors of the components of the result, `(lmax_out + 1)**2`, float64; ones where None.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Examples:
        >>> one = torch.tensor([(4 * torch.pi) ** 0.5])  # the constant function 1
        >>> torch.allclose(GridProduct(1, 0, 1)(torch.arange(4.0), one), torch.arange(4.0), atol=1e-6)
        True
    """

    to_grid1: Tensor
    to_grid2: Tensor
    from_grid: Tensor

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
        self.lmax1, self.lmax2, self.lmax_out = lmax1, lmax2, lmax_out
        points, weights = sphere_rule(lmax1 + lmax2 + lmax_out)
        harmonics_GM = solid_harmonics(max(lmax1, lmax2, lmax_out), points)
        projection_MG = (harmonics_GM[:, : (lmax_out + 1) ** 2] * weights[:, None]).mT
        if scale is not None:
            projection_MG = projection_MG * scale[:, None]
        constants = {
            "to_grid1": harmonics_GM[:, : (lmax1 + 1) ** 2],
            "to_grid2": harmonics_GM[:, : (lmax2 + 1) ** 2],
            "from_grid": projection_MG,
        }
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)

    def forward(
        self, x: Float[Tensor, "*#batch dim1"], y: Float[Tensor, "*#batch dim2"]
    ) -> Float[Tensor, "*batch dim_out"]:
        """Return the coefficients of the product.

        Args:
            x: Coefficients of the first function.
            y: Coefficients of the second function; leading axes broadcast.
        """
        return linear(linear(x, self.to_grid1) * linear(y, self.to_grid2), self.from_grid)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"lmax1={self.lmax1}, lmax2={self.lmax2}, lmax_out={self.lmax_out}"


def sphere_rule(degree: int) -> tuple[Float[Tensor, "points 3"], Float[Tensor, " points"]]:
    """Return points and weights that integrate polynomials up to a degree exactly over the unit sphere.

    Args:
        degree: The degree.

    Examples:
        >>> points, weights = sphere_rule(4)
        >>> points.shape, round(weights.sum().item() / torch.pi, 12)
        (torch.Size([15, 3]), 4.0)
    """
    grid = S2Grid(0, lmax_product=degree, dtype=torch.float64)
    weights = grid.weights[:, None].expand(grid.n_lat, grid.n_lon)
    return grid.points.flatten(0, 1), weights.flatten()


def grid_size(degree: int) -> int:
    """Return how many points `sphere_rule` takes for a degree.

    Args:
        degree: The degree.

    Examples:
        >>> grid_size(4)
        15
    """
    return (degree // 2 + 1) * (degree + 1)
