r"""Powers of features as functions on the sphere: many-body features at the cost of a few matrices.

If $A = \sum_j \phi(r_j) Y(\hat r_j)$ sums one-body terms over an atom's neighbours, its power of order $\nu$
sums over all $\nu$-tuples of neighbours: a feature of $\nu + 1$ bodies. As functions on the sphere $A^\nu$ is
a power of values on a grid, so that a transform, $\nu - 1$ multiplications and a projection give what
symmetric contractions sum over all couplings of $\nu$ degrees. Like every Gaunt product these are features of
natural parity and blind to chirality.

After S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis via
Gaunt Tensor Products, 2024, arXiv:2401.10216.

Axis letters used below: `C` channels, `M` components `(lmax + 1)**2`, `G` grid points.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3 import solid_harmonics
from lemmata.equivariant.tensor_product.degrees import degrees_of_components
from lemmata.equivariant.tensor_product.gaunt import field_covariance, scales_of_covariance
from lemmata.equivariant.tensor_product.grid_product import sphere_rule

__all__ = ["GauntPower", "gaunt_power"]


def gaunt_power(
    x: Tensor,
    order: int,
    lmax_out: int,
    lmax_intermediate: int | None = None,
    *,
    all_orders: bool = False,
    normalization: str = "component",
) -> Float[Tensor, "..."]:
    """Return a power of features as functions on the sphere. `GauntPower` is the module, with weights.

    Args:
        x: Dense features of natural parity, `(..., C, (lmax + 1)**2)`.
        order: The power, at least 1.
        lmax_out: Largest degree of the result.
        lmax_intermediate: Largest degree that is kept between multiplications; None for all.
        all_orders: Whether to return the powers from 1 to `order`.
        normalization: As `GauntPower`.

    Returns:
        The power, `(..., C, (lmax_out + 1)**2)`, or all powers, `(..., order, C, (lmax_out + 1)**2)`.

    Raises:
        ValueError: As `GauntPower`, and where the last size of `x` is not a square.

    Examples:
        >>> gaunt_power(torch.randn(10, 8, 16), 3, 1).shape
        torch.Size([10, 8, 4])
        >>> gaunt_power(torch.randn(10, 8, 16), 3, 1, all_orders=True).shape
        torch.Size([10, 3, 8, 4])
    """
    lmax = math.isqrt(x.shape[-1]) - 1
    if (lmax + 1) ** 2 != x.shape[-1] or lmax < 0:
        raise ValueError(f"`x`: expected last dimension (lmax + 1)**2, got shape {tuple(x.shape)}")
    power = _power(lmax, order, lmax_out, lmax_intermediate, normalization, x.dtype, x.device)
    powers: Tensor = power(x)
    return powers if all_orders else powers.select(-3, order - 1)


class GauntPower(ConstantModule):
    r"""Raises features to powers as functions on the sphere: orders 1 to $\nu$ by one transform.

    Weights by order, channel and degree are given at `forward`, for they often depend on the sample. For
    weights by chemical species, as in many-body potentials, keep a table and look it up, as the example does.

    Args:
        lmax: Largest degree of the input.
        order: The largest power, $\nu$.
        lmax_out: Largest degree of the output.
        lmax_intermediate: Largest degree that is kept of each power before it is multiplied by the input
            again, at least `lmax`; None for all. The grid then need not grow with the order, and the result
            is $A \cdot [A \cdot [A \cdots]]$, each bracket truncated.
        normalization: `component` gives components a mean square of 1 where those of the input are
            independent standard normal numbers (exact without truncation); `none` leaves the coefficients of
            the power in the orthonormal harmonics.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Raises:
        ValueError: Where a degree is negative or cannot be reached, `order` is below 1, `lmax_intermediate`
            below `lmax`, or the normalisation is unknown.

    Examples:
        >>> power = GauntPower(3, 3, 1)
        >>> x, species = torch.randn(10, 8, 16), torch.randint(4, (10,))
        >>> power(x).shape  # orders 1, 2, 3
        torch.Size([10, 3, 8, 4])
        >>> table = torch.nn.Parameter(torch.randn(4, *power.weight_shape(channels=8)))
        >>> power(x, table[species]).shape  # their weighted sum
        torch.Size([10, 8, 4])

    References:
        S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis
        via Gaunt Tensor Products, 2024, arXiv:2401.10216.
    """

    to_grid: Tensor
    from_grid: Tensor
    scale1: Tensor
    expand: Tensor
    truncate: Tensor
    extend: Tensor

    def __init__(
        self,
        lmax: int,
        order: int,
        lmax_out: int,
        *,
        lmax_intermediate: int | None = None,
        normalization: str = "component",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check(lmax, order, lmax_out, lmax_intermediate, normalization)
        self.lmax, self.order, self.lmax_out = lmax, order, lmax_out
        # What has `(order - 1) * lmax` degrees at most is not truncated by more.
        free = lmax_intermediate is None or lmax_intermediate >= (order - 1) * lmax
        self.lmax_intermediate = None if free else lmax_intermediate
        self.normalization = normalization
        if self.lmax_intermediate is None:
            degree = order * lmax + lmax_out
        else:
            degree = self.lmax_intermediate + lmax + max(self.lmax_intermediate, lmax_out)
        points, weights = sphere_rule(degree)
        harmonics_GM = solid_harmonics(max(lmax, lmax_out, self.lmax_intermediate or 0), points)
        projection_MG = (harmonics_GM * weights[:, None]).mT
        scales = [_scale(lmax, nu, lmax_out, normalization) for nu in range(1, order + 1)]
        out = (lmax_out + 1) ** 2
        one_hot = nn.functional.one_hot(degrees_of_components(lmax_out), lmax_out + 1)
        constants = {
            "to_grid": harmonics_GM[:, : (lmax + 1) ** 2],
            "from_grid": torch.stack([projection_MG[:out] * scale[:, None] for scale in scales]),
            "scale1": scales[0][: (min(lmax, lmax_out) + 1) ** 2],
            "expand": one_hot.mT.to(torch.float64),
        }
        if self.lmax_intermediate is not None:
            kept = (self.lmax_intermediate + 1) ** 2
            constants |= {"truncate": projection_MG[:kept], "extend": harmonics_GM[:, :kept]}
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)

    def weight_shape(self, channels: int) -> tuple[int, int, int]:
        """Return the trailing shape of `weight` in `forward`: `(order, channels, lmax_out + 1)`.

        Args:
            channels: Channels of the input.
        """
        return (self.order, channels, self.lmax_out + 1)

    def forward(
        self, x: Float[Tensor, "*batch channel dim"], weight: Tensor | None = None
    ) -> Float[Tensor, "..."]:
        """Return powers of features.

        Args:
            x: Dense features, `(..., C, (lmax + 1)**2)`.
            weight: Weights that broadcast to `(..., order, C, lmax_out + 1)`.

        Returns:
            All powers, `(..., order, C, (lmax_out + 1)**2)`; with weights their weighted sum, `(..., C,
            (lmax_out + 1)**2)`.
        """
        powers = torch.stack(self._powers(x), dim=-3)
        return powers if weight is None else (powers * (weight @ self.expand)).sum(-3)

    def _powers(self, x: Tensor) -> list[Tensor]:
        """Return the coefficients of each power."""
        kept = x[..., : self.scale1.shape[0]] * self.scale1
        powers = [nn.functional.pad(kept, (0, (self.lmax_out + 1) ** 2 - kept.shape[-1]))]
        values = base = linear(x, self.to_grid)
        for nu in range(2, self.order + 1):
            if self.lmax_intermediate is not None and nu > 2:
                values = linear(linear(values, self.truncate), self.extend)
            values = values * base
            powers.append(linear(values, self.from_grid[nu - 1]))
        return powers

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return (
            f"lmax={self.lmax}, order={self.order}, lmax_out={self.lmax_out},"
            f" lmax_intermediate={self.lmax_intermediate}, normalization={self.normalization!r}"
        )


def _check(lmax: int, order: int, lmax_out: int, lmax_intermediate: int | None, normalization: str) -> None:
    """Raise where arguments do not make sense together."""
    for name, degree in (("lmax", lmax), ("lmax_out", lmax_out)):
        if degree < 0:
            raise ValueError(f"`{name}` (={degree}) must be at least 0")
    if order < 1:
        raise ValueError(f"`order` (={order}) must be at least 1")
    reached = order * lmax
    if lmax_intermediate is not None:
        if lmax_intermediate < lmax:
            raise ValueError(f"`lmax_intermediate` (={lmax_intermediate}) must be at least `lmax` (={lmax})")
        reached = min(reached, lmax_intermediate + lmax)
    if lmax_out > reached:
        raise ValueError(f"`lmax_out` (={lmax_out}) cannot be reached: powers have degrees up to {reached}")
    if normalization not in ("component", "none"):
        raise ValueError(f"`normalization` (={normalization!r}) must be 'component' or 'none'")


def _scale(lmax: int, order: int, lmax_out: int, normalization: str) -> Float[Tensor, " dim_out"]:
    """Return the factors of a power's components; ones for degrees that it does not have."""
    scale = torch.ones((lmax_out + 1) ** 2, dtype=torch.float64)
    if normalization == "component":
        reached = min(lmax_out, order * lmax)
        scale[: (reached + 1) ** 2] = scales_of_covariance(
            lambda t: _power_covariance(field_covariance(lmax, t), (lmax + 1) ** 2 / (4 * math.pi), order),
            reached,
            order * lmax,
        )
    return scale


def _power_covariance(covariance: Tensor, variance: float, order: int) -> Tensor:
    r"""Return $E[f^\nu g^\nu]$ of normal numbers of equal variance, by Hermite polynomials."""
    total = torch.zeros_like(covariance)
    for k in range(order % 2, order + 1, 2):
        j = (order - k) // 2
        coefficient = (math.factorial(order) / (2**j * math.factorial(j))) ** 2 / math.factorial(k)
        total = total + coefficient * covariance**k * variance ** (order - k)
    return total


@lru_cache(maxsize=32)
def _power(
    lmax: int,
    order: int,
    lmax_out: int,
    lmax_intermediate: int | None,
    normalization: str,
    dtype: torch.dtype,
    device: torch.device,
) -> GauntPower:
    """Return a module, made once for each set of arguments."""
    with torch.inference_mode(mode=False):
        return GauntPower(
            lmax,
            order,
            lmax_out,
            lmax_intermediate=lmax_intermediate,
            normalization=normalization,
            dtype=dtype,
            device=device,
        )
