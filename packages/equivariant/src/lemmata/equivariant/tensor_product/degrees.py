r"""What fixed bilinear products on dense features share: checks, weights by degree, normalisation.

A fixed product couples degrees $l_1, l_2$ to $l_3$ with strengths of its own that nobody chooses. What is
left to learn are numbers by degree, before and after: $z = w_3 \cdot T(w_1 \cdot x,\, w_2 \cdot y)$.

Axis letters used below: `C` channels, `N` components `(lmax + 1)**2`.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule

__all__ = ["FixedProduct", "WeightedProduct", "component_scale", "degrees_of_components"]


def degrees_of_components(lmax: int) -> Tensor:
    """Return the degree of each component of dense features.

    Args:
        lmax: The largest degree.

    Examples:
        >>> degrees_of_components(2)
        tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])
    """
    degrees = torch.arange(lmax + 1)
    return degrees.repeat_interleave(2 * degrees + 1)


class FixedProduct(ConstantModule):
    """Base of fixed bilinear products: the sizes they share, checked.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        channels: Channels with weights of their own; None for any number of channels with shared weights.
        normalization: `component` or `none`.

    Raises:
        ValueError: Where a degree is negative or cannot be reached, `channels` is below 1, or the
            normalisation is unknown.
    """

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        channels: int | None,
        normalization: Literal["component", "none"],
    ) -> None:
        super().__init__()
        for name, lmax in (("lmax1", lmax1), ("lmax2", lmax2), ("lmax_out", lmax_out)):
            if lmax < 0:
                raise ValueError(f"`{name}` (={lmax}) must be at least 0")
        if lmax_out > lmax1 + lmax2:
            raise ValueError(
                f"`lmax_out` (={lmax_out}) cannot be reached: degrees up to `lmax1` (={lmax1}) and `lmax2`"
                f" (={lmax2}) couple to at most {lmax1 + lmax2}"
            )
        if channels is not None and channels < 1:
            raise ValueError(f"`channels` (={channels}) must be at least 1, or None")
        if normalization not in ("component", "none"):
            raise ValueError(f"`normalization` (={normalization!r}) must be 'component' or 'none'")
        self.lmax1 = lmax1
        self.lmax2 = lmax2
        self.lmax_out = lmax_out
        self.channels = channels
        self.normalization = normalization

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"lmax1={self.lmax1}, lmax2={self.lmax2}, lmax_out={self.lmax_out}, channels={self.channels}"


class WeightedProduct(FixedProduct):
    """Base of fixed products with several sets of weights by degree, their own or given with the input.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        copies: Sets of weights of the first input, the second and the output, as leading sizes.
        channels: Channels with weights of their own; None for any number of channels with shared weights.
        degree_weights: Whether there are weights to learn.
        normalization: `component` or `none`.
        shared_y: Whether the second input's own weights are the same for all channels.
        dtype: Of the weights; torch's default where None.
        device: Of the weights.
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
        copies: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        channels: int | None,
        degree_weights: bool,
        normalization: Literal["component", "none"],
        shared_y: bool,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        super().__init__(lmax1, lmax2, lmax_out, channels, normalization)
        self._copies = copies
        self._lmaxs = (lmax1, lmax2, lmax_out)
        for name, lmax, sets in zip(("1", "2", "_out"), self._lmaxs, copies, strict=True):
            rows = 1 if channels is None or (shared_y and name == "2") else channels
            ones = torch.ones(*sets, rows, lmax + 1, dtype=dtype, device=device)
            self.register_parameter(f"weight{name}", nn.Parameter(ones) if degree_weights else None)
            one_hot = nn.functional.one_hot(degrees_of_components(lmax), lmax + 1).mT
            self.register_constant(f"expand{name}", one_hot.to(torch.float64), dtype=dtype, device=device)

    @property
    def weight_numel(self) -> int:
        """How many degree weights a channel has: the last size of `weight` in `forward`."""
        return sum(math.prod(sets) * (lmax + 1) for sets, lmax in zip(self._copies, self._lmaxs, strict=True))

    def component_weights(self, weight: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the weights of each component, sets first; None for ones.

        Args:
            weight: Weights to use in place of the module's own, `(..., C or 1, weight_numel)`.

        Raises:
            ValueError: Where the last size of `weight` is not `weight_numel`.
        """
        expand = (self.expand1, self.expand2, self.expand_out)
        given: list[Tensor | None] = [self.weight1, self.weight2, self.weight_out]
        if weight is not None:
            if weight.shape[-1] != self.weight_numel:
                raise ValueError(
                    f"`weight`: expected last dimension {self.weight_numel}, got shape {tuple(weight.shape)}"
                )
            sizes = [math.prod(s) * (lmax + 1) for s, lmax in zip(self._copies, self._lmaxs, strict=True)]
            given = [
                part.reshape(*part.shape[:-1], *sets, -1).movedim(
                    tuple(range(-1 - len(sets), -1)), tuple(range(len(sets)))
                )
                for part, sets in zip(torch.split(weight, sizes, dim=-1), self._copies, strict=True)
            ]
        # A product with zeros and ones: quicker than indexing, forwards and backwards.
        first, second, out = (None if w is None else w @ e for w, e in zip(given, expand, strict=True))
        return first, second, out


def component_scale(
    coefficients: Callable[[int], Float[Tensor, "dim1 dim2"]], lmax_out: int
) -> Float[Tensor, " dim_out"]:
    r"""Return what each output component is multiplied by so that it has variance 1.

    Inputs are taken as independent, each component of variance 1. An output component is then a sum of
    squared coefficients, the same for all components of a degree because the product is equivariant, so that
    one component, $m = 0$, tells it.

    Args:
        coefficients: From the place of an output component, `l * (l + 1)` for $m = 0$ of degree `l`, to its
            coefficients, float64.
        lmax_out: The largest degree of the output.

    Returns:
        The scale, float64; 1 for degrees that nothing couples to.
    """
    scales = []
    for l in range(lmax_out + 1):
        variance = coefficients(l * (l + 1)).square().sum()
        scale = torch.where(variance > 1e-20, variance.clamp(min=1e-20).rsqrt(), 1.0)
        scales.append(scale.expand(2 * l + 1))
    return torch.cat(scales)
