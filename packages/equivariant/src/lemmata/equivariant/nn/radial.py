r"""Radial bases and cutoff functions: how distances enter an equivariant network.

A basis turns a distance into a few smooth functions of it; a cutoff function multiplies them so that energies
and forces go to zero smoothly where neighbours leave. All are functions of distances in the unit of the
cutoff, elementwise, for any shape. Values and derivatives of every order are finite at distance 0 and exact.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule

__all__ = ["BesselBasis", "ChebyshevBasis", "CosineCutoff", "GaussianBasis", "PolynomialCutoff"]


class BesselBasis(ConstantModule):
    r"""The radial eigenfunctions of a ball, which vanish at its surface.

    $$b_n(r) = \sqrt{\tfrac 2 c}\, \frac{\sin(n \pi r / c)}{r}, \qquad
    b_n(0) = \sqrt{\tfrac 2 c}\, \frac{n \pi} c.$$

    Not cut off: beyond `cutoff` the functions go on, so multiply by a cutoff function.

    Args:
        count: Number of functions, $n = 1 \dots$ `count`.
        cutoff: The radius $c$, in the unit of the distances.
        trainable: Let the frequencies $n \pi / c$ be learnt.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Raises:
        ValueError: Where `count` is not positive or `cutoff` not positive and finite.

    Examples:
        >>> BesselBasis(3, cutoff=5.0)(torch.tensor([0.0, 5.0])).round(decimals=4) + 0.0
        tensor([[0.3974, 0.7948, 1.1922],
                [0.0000, 0.0000, 0.0000]])

    References:
        J. Gasteiger, J. Groß, S. Günnemann, Directional Message Passing for Molecular Graphs, 2020,
        arXiv:2003.03123.
    """

    frequencies: Tensor

    def __init__(
        self,
        count: int,
        cutoff: float,
        *,
        trainable: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.count = _positive_count(count)
        self.cutoff = _positive_radius(cutoff)
        frequencies = torch.arange(1, count + 1, dtype=torch.float64) * (math.pi / cutoff)
        if trainable:
            self.frequencies = nn.Parameter(
                frequencies.to(dtype=dtype or torch.get_default_dtype(), device=device)
            )
        else:
            self.register_constant("frequencies", frequencies, dtype=dtype, device=device)

    def forward(self, r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the functions at distances.

        Args:
            r: Distances, at least 0.
        """
        return math.sqrt(2 / self.cutoff) * self.frequencies * _sinc(r.unsqueeze(-1) * self.frequencies)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"count={self.count}, cutoff={self.cutoff:g}"


class GaussianBasis(ConstantModule):
    r"""Gaussians with evenly spaced centres, $\exp(-(r - \mu_n)^2 / 2 \sigma^2)$.

    Args:
        count: Number of functions.
        cutoff: Centre of the last function, in the unit of the distances.
        start: Centre of the first.
        width: The standard deviation $\sigma$; by default the distance between centres.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Raises:
        ValueError: Where `count` is below 2, or `cutoff` does not exceed `start`, or `width` is not positive.

    Examples:
        >>> GaussianBasis(3, cutoff=2.0)(torch.tensor(1.0))
        tensor([0.6065, 1.0000, 0.6065])
    """

    centres: Tensor

    def __init__(
        self,
        count: int,
        cutoff: float,
        *,
        start: float = 0.0,
        width: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if count < 2:
            raise ValueError(f"`count` (={count}) must be at least 2")
        if not start < cutoff < math.inf:
            raise ValueError(f"`cutoff` (={cutoff}) must be finite and exceed `start` (={start})")
        width = (cutoff - start) / (count - 1) if width is None else width
        if not 0 < width < math.inf:
            raise ValueError(f"`width` (={width}) must be positive and finite")
        self.count, self.cutoff, self.width = count, float(cutoff), float(width)
        centres = torch.linspace(start, cutoff, count, dtype=torch.float64)
        self.register_constant("centres", centres, dtype=dtype, device=device)

    def forward(self, r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the functions at distances.

        Args:
            r: Distances.
        """
        steps = (r.unsqueeze(-1) - self.centres) / self.width
        return torch.exp(-0.5 * steps * steps)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"count={self.count}, cutoff={self.cutoff:g}, width={self.width:g}"


class ChebyshevBasis(nn.Module):
    r"""Chebyshev polynomials of the distance, $T_n(1 - 2 r / c)$ for $n = 0 \dots$ `count` - 1.

    Beyond `cutoff` the distance is taken as `cutoff`, where polynomials would grow without bound.

    Args:
        count: Number of functions, the constant one included.
        cutoff: The radius $c$, in the unit of the distances.

    Raises:
        ValueError: Where `count` is not positive or `cutoff` not positive and finite.

    Examples:
        >>> ChebyshevBasis(4, cutoff=2.0)(torch.tensor([0.0, 0.5, 2.0]))
        tensor([[ 1.0000,  1.0000,  1.0000,  1.0000],
                [ 1.0000,  0.5000, -0.5000, -1.0000],
                [ 1.0000, -1.0000,  1.0000, -1.0000]])
    """

    def __init__(self, count: int, cutoff: float) -> None:
        super().__init__()
        self.count = _positive_count(count)
        self.cutoff = _positive_radius(cutoff)

    def forward(self, r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the functions at distances.

        Args:
            r: Distances, at least 0.
        """
        x = 1 - 2 * (r / self.cutoff).clamp(max=1)
        terms = [torch.ones_like(x), x]
        while len(terms) < self.count:
            terms.append(2 * x * terms[-1] - terms[-2])
        return torch.stack(terms[: self.count], dim=-1)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"count={self.count}, cutoff={self.cutoff:g}"


class PolynomialCutoff(nn.Module):
    r"""The polynomial that falls from 1 to 0 with two vanishing derivatives at the cutoff; 0 beyond.

    $$1 - \tfrac{(p+1)(p+2)} 2 u^p + p (p+2) u^{p+1} - \tfrac{p (p+1)} 2 u^{p+2}, \qquad u = r / c < 1.$$

    At the origin its first $p - 1$ derivatives vanish.

    Args:
        cutoff: The radius $c$, in the unit of the distances.
        p: The exponent.

    Raises:
        ValueError: Where `cutoff` is not positive and finite or `p` below 2.

    Examples:
        >>> PolynomialCutoff(5.0)(torch.tensor([0.0, 2.5, 5.0, 7.0]))
        tensor([1.0000, 0.8555, 0.0000, 0.0000])

    References:
        J. Gasteiger, J. Groß, S. Günnemann, Directional Message Passing for Molecular Graphs, 2020,
        arXiv:2003.03123.
    """

    def __init__(self, cutoff: float, p: int = 6) -> None:
        super().__init__()
        self.cutoff = _positive_radius(cutoff)
        if p < 2:
            raise ValueError(f"`p` (={p}) must be at least 2")
        self.p = p

    def forward(self, r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the factor at distances.

        Args:
            r: Distances, at least 0.
        """
        u, p = r / self.cutoff, self.p
        inside = u < 1
        # Large distances would overflow, and their derivatives turn 0 times infinity into NaN.
        u = torch.where(inside, u, 0.0)
        tail = (p + 1) * (p + 2) / 2 - p * (p + 2) * u + p * (p + 1) / 2 * u * u
        return torch.where(inside, 1 - tail * u**p, 0.0)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"cutoff={self.cutoff:g}, p={self.p}"


class CosineCutoff(nn.Module):
    r"""Half a cosine from 1 to 0, $\tfrac 1 2 (1 + \cos(\pi r / c))$, and 0 beyond; its slope is continuous.

    Args:
        cutoff: The radius $c$, in the unit of the distances.

    Raises:
        ValueError: Where `cutoff` is not positive and finite.

    Examples:
        >>> CosineCutoff(5.0)(torch.tensor([0.0, 2.5, 5.0, 7.0]))
        tensor([1.0000, 0.5000, 0.0000, 0.0000])

    References:
        J. Behler, M. Parrinello, Generalized Neural-Network Representation of High-Dimensional
        Potential-Energy Surfaces, 2007.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = _positive_radius(cutoff)

    def forward(self, r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the factor at distances.

        Args:
            r: Distances.
        """
        # The square of the half angle's cosine: no cancellation near the cutoff.
        u = (r / self.cutoff).clamp(max=1)
        return torch.where(u < 1, torch.cos(math.pi / 2 * u) ** 2, 0.0)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"cutoff={self.cutoff:g}"


def _sinc(x: Tensor) -> Tensor:
    """Return `sin(x) / x`, smooth at 0: `torch.sinc` has no second derivative there, and poor ones nearby."""
    small = x.abs() < 0.1
    square = torch.where(small, x, 0.0) ** 2
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    away = torch.where(small, 1.0, x)
    return torch.where(small, series, torch.sin(away) / away)


def _positive_count(count: int) -> int:
    """Return a number of functions, or raise."""
    if count < 1:
        raise ValueError(f"`count` (={count}) must be at least 1")
    return count


def _positive_radius(cutoff: float) -> float:
    """Return a radius, or raise."""
    if not 0 < cutoff < math.inf:
        raise ValueError(f"`cutoff` (={cutoff}) must lie in (0, inf)")
    return float(cutoff)
