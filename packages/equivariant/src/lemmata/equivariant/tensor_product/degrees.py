r"""What fixed bilinear products on dense features share: checks, weights by degree, normalisation.

A fixed product couples degrees $l_1, l_2$ to $l_3$ with strengths of its own that nobody chooses. What is
left to learn are numbers by degree, before and after: $z = w_3 \cdot T(w_1 \cdot x,\, w_2 \cdot y)$.

Axis letters used below: `C` channels, `N` components `(lmax + 1)**2`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule

__all__ = ["DegreeScaling", "FixedProduct", "component_scale", "degrees_of_components"]


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


class DegreeScaling(nn.Module):
    """Multiplies each degree of each channel by a number that is learnt; ones at first.

    Args:
        lmax: The largest degree.
        channels: How many channels have weights of their own; None for weights that all channels share.
        copies: Leading sizes: several sets of weights, met by leading axes of the input.
        dtype: Of the weights; torch's default where None.
        device: Of the weights.

    Examples:
        >>> DegreeScaling(2, channels=8)(torch.randn(5, 8, 9)).shape
        torch.Size([5, 8, 9])
    """

    degrees: Tensor

    def __init__(
        self,
        lmax: int,
        *,
        channels: int | None = None,
        copies: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*copies, channels or 1, lmax + 1, dtype=dtype, device=device))
        self.register_buffer("degrees", degrees_of_components(lmax).to(device), persistent=False)

    def forward(self, x: Float[Tensor, "*batch channel dim"]) -> Float[Tensor, "*batch_out channel_out dim"]:
        """Return the features, each degree multiplied by its weight.

        Args:
            x: Dense features of natural or unnatural parity.
        """
        return x * self.by_component()

    def by_component(self) -> Float[Tensor, "*copies channel dim"]:
        """Return the weight of each component."""
        return self.weight.index_select(-1, self.degrees)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"weight={tuple(self.weight.shape)}"


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
        self.weights1: DegreeScaling | None = None
        self.weights2: DegreeScaling | None = None
        self.weights_out: DegreeScaling | None = None

    def learn_degree_weights(
        self,
        copies1: tuple[int, ...] = (),
        copies2: tuple[int, ...] = (),
        copies_out: tuple[int, ...] = (),
        *,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        """Add weights by degree for both inputs and the output.

        Args:
            copies1: Leading sizes of the first input's weights.
            copies2: Leading sizes of the second input's weights.
            copies_out: Leading sizes of the output's weights.
            dtype: Of the weights; torch's default where None.
            device: Of the weights.
        """
        sizes = ((self.lmax1, copies1), (self.lmax2, copies2), (self.lmax_out, copies_out))
        self.weights1, self.weights2, self.weights_out = (
            DegreeScaling(lmax, channels=self.channels, copies=copies, dtype=dtype, device=device)
            for lmax, copies in sizes
        )

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"lmax1={self.lmax1}, lmax2={self.lmax2}, lmax_out={self.lmax_out}, channels={self.channels}"


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
