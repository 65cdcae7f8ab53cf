r"""Normalisation by the root mean square of each irrep.

Every block of `mul` copies of an irrep is divided by the root of the mean of its squares, over copies and
components, which no rotation or reflection changes, and multiplied by a learnt scale for each copy.

Axis letters used below: `C` channels, `M` components `(lmax + 1)**2`, `L` degrees.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3.irreps import Irreps

__all__ = ["ChannelRMSNorm", "EquivariantRMSNorm"]


class EquivariantRMSNorm(nn.Module):
    r"""Divide each entry of flat features by its root mean square.

    $$y_{u m} = \frac{g_u\, x_{u m}}{\sqrt{\operatorname{mean}_{u m} x_{u m}^2 + \epsilon}}.$$

    Args:
        irreps: Irreps of the input and output; every entry is a block.
        eps: Added to the mean square.
        affine: Learn the scales $g$, one at first.
        centre: Subtract from the entries `0e` their mean over copies first.
        dtype: Of the scales; torch's default where None.
        device: Of the scales.

    Raises:
        ValueError: Where `eps` is not positive.

    Examples:
        >>> EquivariantRMSNorm("2x1o")(torch.tensor([0.0, 3.0, 4.0, 0.0, 0.0, 0.0])).square().mean()
        tensor(1.0000, grad_fn=<MeanBackward0>)
    """

    weight: nn.Parameter | None

    def __init__(
        self,
        irreps: Irreps | str,
        *,
        eps: float = 1e-6,
        affine: bool = True,
        centre: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.irreps = Irreps(irreps)
        self.eps = _positive(eps)
        self.centre = centre
        if affine:
            self.weight = nn.Parameter(torch.ones(self.irreps.num_irreps, dtype=dtype, device=device))
        else:
            self.register_parameter("weight", None)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return the normalised features.

        Args:
            x: Features with irreps `irreps`.

        Raises:
            ValueError: Where the last dimension is not that of `irreps`.
        """
        self.irreps.check(x, "x")
        blocks, first = [], 0
        for place, (mul, ir) in zip(self.irreps.slices(), self.irreps, strict=True):
            if mul:
                block = x[..., place]
                if self.centre and ir.is_scalar():
                    block = block - block.mean(-1, keepdim=True)
                factor = ((block * block).mean(-1, keepdim=True) + self.eps).rsqrt()
                if self.weight is not None:
                    factor = factor * self.weight[first : first + mul].repeat_interleave(ir.dim)
                blocks.append(block * factor)
                first += mul
        return torch.cat(blocks, dim=-1) if blocks else x

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.irreps}, eps={self.eps:g}, affine={self.weight is not None}, centre={self.centre}"


class ChannelRMSNorm(ConstantModule):
    """Divide each degree of dense features by its root mean square: `EquivariantRMSNorm` for that layout.

    Args:
        channels: Number of channels.
        lmax: The largest degree.
        eps: Added to the mean square.
        affine: Learn a scale, one at first, for each degree and channel.
        centre: Subtract from degree 0 its mean over channels first; equivariant under reflections whatever
            the parity.
        dtype: Of the scales and constants; torch's default where None.
        device: Of the scales and constants.

    Raises:
        ValueError: Where `channels` or `eps` is not positive or `lmax` is negative.

    Examples:
        >>> y = ChannelRMSNorm(4, lmax=1, affine=False)(5 * torch.randn(3, 4, 4))
        >>> y[..., 1:].square().mean((-1, -2))
        tensor([1.0000, 1.0000, 1.0000])
    """

    weight: nn.Parameter | None
    degrees: Tensor
    average: Tensor

    def __init__(
        self,
        channels: int,
        lmax: int,
        *,
        eps: float = 1e-6,
        affine: bool = True,
        centre: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"`channels` (={channels}) must be at least 1")
        if lmax < 0:
            raise ValueError(f"`lmax` (={lmax}) must be at least 0")
        self.channels, self.lmax, self.eps, self.centre = channels, lmax, _positive(eps), centre
        if affine:
            self.weight = nn.Parameter(torch.ones(channels, lmax + 1, dtype=dtype, device=device))
        else:
            self.register_parameter("weight", None)
        degrees = torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)])
        self.register_buffer("degrees", degrees.to(device), persistent=False)
        # (component, component of the same degree) -> 1 / (channels * (2l + 1)).
        average = (degrees[:, None] == degrees).double() / (channels * (2 * degrees + 1))
        self.register_constant("average", average, dtype=dtype, device=device)

    def forward(self, x: Float[Tensor, "*batch channel dim"]) -> Float[Tensor, "*batch channel dim"]:
        """Return the normalised features.

        Args:
            x: Dense features.
        """
        if self.centre:
            mean = x[..., :1].mean(-2, keepdim=True)
            x = x - nn.functional.pad(mean, (0, x.shape[-1] - 1))
        mean_square = (x * x).sum(-2, keepdim=True) @ self.average
        y = x * (mean_square + self.eps).rsqrt()
        return y if self.weight is None else y * self.weight[:, self.degrees]

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.channels}, lmax={self.lmax}, eps={self.eps:g}, affine={self.weight is not None}"


def _positive(eps: float) -> float:
    """Return a number, or raise where it is not positive."""
    if not eps > 0:
        raise ValueError(f"`eps` (={eps}) must be positive")
    return eps
