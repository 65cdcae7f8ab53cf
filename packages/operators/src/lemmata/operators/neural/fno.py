r"""The Fourier neural operator: pointwise maps and spectral convolutions, stacked.

A neural operator learns a map between functions, here from fields sampled on a regular grid to fields on the
same or another grid. Use it for solution operators of partial differential equations with smooth solutions,
on periodic boxes as it is, on others with `domain_padding`. One block is

$$v' = \sigma\big( K v + W v + b \big),$$

with the spectral convolution `K` for what is global and a pointwise linear map `W` for what is local.

References:
    Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart, A. Anandkumar, "Fourier Neural
    Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv:2010.08895.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from lemmata.operators.grids import Layout
from lemmata.operators.neural.spectral import SpectralConv, fourier_resample, require_field, require_positive

__all__ = ["FNO", "Pointwise", "Skip", "SpectralBlock"]

Skip = Literal["linear", "soft-gating", "identity"]

# Of `Grid`, on the unit box: x_j = (j + first) / (n + intervals). A `Grid` itself is not traced by compilers.
_COORDINATES: dict[Layout, tuple[float, int]] = {
    "periodic": (0, 0),
    "nodes": (0, -1),
    "interior": (1, 1),
    "cells": (0.5, 0),
}


class FNO(nn.Module):
    """Map fields to fields by spectral blocks between two pointwise networks.

    The input, with the coordinates as further channels, is lifted pointwise to `width` channels, passes
    `depth` blocks, and is brought down pointwise to the output's channels. Nothing depends on the number of
    points: a model trained on one grid runs on any other.

    Shapes: `(batch, in_channels, *grid) -> (batch, out_channels, *output_shape)`.

    Args:
        in_channels: Channels of the input field.
        out_channels: Channels of the output field.
        width: Channels between the blocks.
        modes: Modes kept along each axis, whose count is the dimension (see `SpectralConv`).
        depth: Number of blocks.
        lift_width: Hidden channels of the pointwise network before the blocks; `2 * width` where `None`.
        head_width: Hidden channels of the one after them; `2 * width` where `None`.
        coordinates: Append the position on the unit box as channels. The name of a layout (see `Grid`) says
            where the points are. `"periodic"` appends cosine and sine of `2 pi x` along each axis: `x`
            itself jumps where the box closes, and a jump has Fourier coefficients that differ between grids
            by O(1/N), which a model trained on one of them cannot know. The other layouts append `x`.
            `True` stands for `"periodic"` without and `"nodes"` with `domain_padding`. With `False`
            the model commutes with translations of the grid.
        domain_padding: Fraction of the domain, for all axes or one for each, by which it is extended with
            zeros before and cut after the blocks, for fields that are not periodic. A fraction and not a
            number of points, so that it is the same length on every grid, up to rounding to whole points.
        block: Called with `width` and `modes` (and `generator` where one is given) for each block;
            `functools.partial(SpectralBlock, ...)` sets a block's options. The activation after the last
            `SpectralBlock` is left out, as in the publication: the network after it begins linearly.
        generator: Source of the initial weights; torch's global one where `None`.

    Raises:
        ValueError: Where a number is not a positive integer, there are no or more than three axes, a layout
            is unknown, or a fraction is negative or not one for each axis.

    Examples:
        >>> model = FNO(1, 1, width=8, modes=(6, 6), depth=2)
        >>> model(torch.randn(2, 1, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
        >>> model(torch.randn(2, 1, 33, 20)).shape
        torch.Size([2, 1, 33, 20])

    References:
        Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", 2021,
        arXiv:2010.08895.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        modes: int | Sequence[int] = (16, 16),
        depth: int = 4,
        *,
        lift_width: int | None = None,
        head_width: int | None = None,
        coordinates: bool | Layout = True,
        domain_padding: float | Sequence[float] = 0.0,
        block: Callable[..., nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        lift_width = 2 * width if lift_width is None else lift_width
        head_width = 2 * width if head_width is None else head_width
        require_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            width=width,
            depth=depth,
            lift_width=lift_width,
            head_width=head_width,
        )
        self.modes = (modes,) if isinstance(modes, int) else tuple(modes)
        self.in_channels = in_channels
        self.domain_padding = _checked_padding(domain_padding, self.dim)
        self.layout = _checked_layout(coordinates, padded=any(self.domain_padding))
        options: dict[str, Any] = {} if generator is None else {"generator": generator}
        build = SpectralBlock if block is None else block
        self.blocks = nn.ModuleList(build(width, self.modes, **options) for _ in range(depth))
        _end_linearly(self.blocks[-1])
        lifted = in_channels + _position_channels(self.layout) * self.dim
        self.lift = _pointwise_network(lifted, lift_width, width, options)
        self.head = _pointwise_network(width, head_width, out_channels, options)

    @property
    def dim(self) -> int:
        """Number of axes of the fields."""
        return len(self.modes)

    def forward(
        self, x: Shaped[Tensor, "batch channel *grid"], output_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channel_out *grid_out"]:
        """Apply the operator.

        Args:
            x: Real field.
            output_shape: Number of points of the output along each axis; the input's where `None`. The last
                block changes the grid.

        Returns:
            The output field.

        Raises:
            TypeError: Where the field is not real floating, or is not of the weights' precision.
            ValueError: Where its rank or number of channels is not the model's, or `output_shape` is not
                one positive integer for each axis.
        """
        require_field(x, self.in_channels, self.dim)
        if output_shape is not None and len(output_shape) != self.dim:
            raise ValueError(
                f"`output_shape` (={tuple(output_shape)}) must hold {self.dim} positive integers"
            )
        if self.layout is not None:
            x = _append_coordinates(x, self.layout)
        shape = x.shape[2:] if output_shape is None else tuple(output_shape)
        v = self._pad(self.lift(x))
        for block in self.blocks[:-1]:
            v = block(v)
        v = self.blocks[-1](v, None if output_shape is None else self._padded(shape))
        return self.head(_crop(v, shape))  # type: ignore[no-any-return]  # a module's call is untyped

    def _pad(self, v: Float[Tensor, "batch width *grid"]) -> Float[Tensor, "batch width *padded"]:
        grid = v.shape[2:]
        missing = [p - n for p, n in zip(self._padded(grid), grid, strict=True)]
        if not any(missing):
            return v
        return functional.pad(v, [side for q in reversed(missing) for side in (0, q)])

    def _padded(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(n + round(p * n) for n, p in zip(shape, self.domain_padding, strict=True))


class SpectralBlock(nn.Module):
    r"""Add a spectral convolution and a pointwise map, and apply an activation.

    $$v' = \sigma\big( \mathrm{norm}(K v) + S v \big), \qquad
    v'' = \sigma\big( \mathrm{MLP}(v') + g \odot v' \big),$$

    the second with `channel_mlp` only. With `preactivation` the first is
    $v' = K u + S u, \; u = \sigma(\mathrm{norm}(v))$, and the second has no activation outside.

    Shapes: `(batch, width, *grid) -> (batch, width, *output_shape)`.

    Args:
        width: Channels of input and output.
        modes: Modes kept along each axis.
        conv: Called as `conv(width, width, modes)` for `K`; what it returns, as `K(v, output_shape)`.
        activation: Called without arguments for the activation.
        skip: `S`: `"linear"` is a pointwise linear map with bias, `"soft-gating"` a factor a channel,
            `"identity"` the field itself.
        channel_mlp: Hidden channels, as a multiple of `width`, of a pointwise network after the
            convolution, with a gated skip of its own; none where `None`.
        norm: `"instance"` normalises each channel of each sample over the grid.
        preactivation: Apply norm and activation before the convolution.
        generator: Source of the initial weights; torch's global one where `None`. It is passed on to
            `conv` where given.

    Raises:
        ValueError: Where a number is not positive, or `skip` or `norm` is unknown.

    Examples:
        >>> block = SpectralBlock(8, (6, 6), channel_mlp=0.5)
        >>> block(torch.randn(2, 8, 16, 16), output_shape=(32, 32)).shape
        torch.Size([2, 8, 32, 32])
    """

    def __init__(
        self,
        width: int,
        modes: int | Sequence[int],
        *,
        conv: Callable[..., nn.Module] = SpectralConv,
        activation: Callable[[], nn.Module] = nn.GELU,
        skip: Skip = "linear",
        channel_mlp: float | None = None,
        norm: Literal["instance"] | None = None,
        preactivation: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_positive(width=width)
        if skip not in get_args(Skip):
            raise ValueError(f"`skip` (={skip!r}) must be one of {', '.join(get_args(Skip))}")
        if norm not in {None, "instance"}:
            raise ValueError(f"`norm` (={norm!r}) must be 'instance' or None")
        if channel_mlp is not None and not (0 < channel_mlp < math.inf):
            raise ValueError(f"`channel_mlp` (={channel_mlp}) must be positive and finite")
        options: dict[str, Any] = {} if generator is None else {"generator": generator}
        norm_layer = nn.GroupNorm(width, width) if norm == "instance" else nn.Identity()
        self.before = nn.Sequential(norm_layer, activation()) if preactivation else nn.Identity()
        self.conv = conv(width, width, modes, **options)
        self.norm = nn.Identity() if preactivation else norm_layer
        self.skip = _skip(skip, width, options)
        self.mlp: nn.Module = nn.Identity()
        if channel_mlp is not None:
            self.mlp = _ChannelMLP(width, max(1, round(channel_mlp * width)), activation(), options)
        self.activation: nn.Module = nn.Identity() if preactivation else activation()

    def forward(
        self, v: Float[Tensor, "batch width *grid"], output_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "batch width *grid_out"]:
        """Apply the block.

        Args:
            v: Field of `width` channels.
            output_shape: Number of points of the output along each axis; the input's where `None`.

        Returns:
            Field of `width` channels.
        """
        v = self.before(v)
        local = v if output_shape is None else fourier_resample(v, output_shape)
        v = self.norm(self.conv(v, output_shape)) + self.skip(local)
        return self.activation(self.mlp(v))  # type: ignore[no-any-return]  # a module's call is untyped


class Pointwise(nn.Module):
    """Map the channels at each point linearly: a convolution with a kernel of one point, in any dimension.

    Equals `torch.nn.Conv1d` with `kernel_size=1` on the flattened grid, with its initial weights.

    Shapes: `(batch, in_channels, *grid) -> (batch, out_channels, *grid)`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        generator: Source of the initial weights; torch's global one where `None`.

    Raises:
        ValueError: Where a number of channels is not a positive integer.

    Examples:
        >>> Pointwise(3, 5)(torch.randn(2, 3, 4, 4, 4)).shape
        torch.Size([2, 5, 4, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        bound = 1 / math.sqrt(in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.uniform_(self.bias, -bound, bound, generator=generator)

    def forward(self, v: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch channel_out *grid"]:
        """Apply the map.

        Args:
            v: Field of `in_channels` channels.

        Returns:
            Field of `out_channels` channels.

        Raises:
            TypeError: Where the field is not of the weights' precision, outside autocast.
        """
        if v.dtype != self.weight.dtype and not torch.is_autocast_enabled(v.device.type):
            raise TypeError(f"`v` is {v.dtype}, but the weights are {self.weight.dtype}: convert one of them")
        batch, channels, *grid = v.shape
        columns = v.reshape(batch, channels, math.prod(grid))
        weight = self.weight.expand(batch, -1, -1)
        return torch.baddbmm(self.bias[:, None], weight, columns).view(batch, len(self.bias), *grid)

    def extra_repr(self) -> str:
        """Describe the layer in a model's printout."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class _Gate(nn.Module):
    """Multiply each channel by a learned factor, one at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, v: Float[Tensor, "batch width *grid"]) -> Float[Tensor, "batch width *grid"]:
        return v * self.weight.view(-1, *[1] * (v.ndim - 2))


class _ChannelMLP(nn.Module):
    """Apply an activation, then a pointwise network beside a gated skip."""

    def __init__(self, width: int, hidden: int, activation: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.activation = activation
        self.network = _pointwise_network(width, hidden, width, options)
        self.gate = _Gate(width)

    def forward(self, v: Float[Tensor, "batch width *grid"]) -> Float[Tensor, "batch width *grid"]:
        v = self.activation(v)
        return self.network(v) + self.gate(v)  # type: ignore[no-any-return]  # a module's call is untyped


def _skip(kind: Skip, width: int, options: dict[str, Any]) -> nn.Module:
    if kind == "linear":
        return Pointwise(width, width, **options)
    return _Gate(width) if kind == "soft-gating" else nn.Identity()


def _pointwise_network(channels: int, hidden: int, out: int, options: dict[str, Any]) -> nn.Sequential:
    return nn.Sequential(Pointwise(channels, hidden, **options), nn.GELU(), Pointwise(hidden, out, **options))


def _end_linearly(block: nn.Module) -> None:
    if isinstance(block, SpectralBlock):
        block.activation = nn.Identity()


def _append_coordinates(
    x: Float[Tensor, "batch channel *grid"], layout: Layout
) -> Float[Tensor, "batch more *grid"]:
    """Append the position on the unit box, axis by axis; vectors until they are copied once."""
    batch, _, *shape = x.shape
    first, intervals = _COORDINATES[layout]
    channels = []
    for axis, n in enumerate(shape):
        points = (torch.arange(n, dtype=torch.float64, device=x.device) + first) / max(n + intervals, 1)
        angle = 2 * math.pi * points
        features = [angle.cos(), angle.sin()] if layout == "periodic" else [points]
        trailing = [1] * (len(shape) - 1 - axis)
        channels += [f.to(x.dtype).view(n, *trailing).expand(batch, 1, *shape) for f in features]
    return torch.cat([x, *channels], 1)


def _position_channels(layout: Layout | None) -> int:
    return 0 if layout is None else 2 if layout == "periodic" else 1


def _crop(
    v: Float[Tensor, "batch width *padded"], shape: Sequence[int]
) -> Float[Tensor, "batch width *grid"]:
    for axis, n in enumerate(shape, start=2):
        v = v.narrow(axis, 0, n)
    return v


def _checked_padding(fractions: float | Sequence[float], dim: int) -> tuple[float, ...]:
    given = tuple(fractions) if isinstance(fractions, Sequence) else (fractions,) * dim
    if len(given) != dim or not all(0 <= p < math.inf for p in given):
        raise ValueError(
            f"`domain_padding` (={fractions}) must be one or {dim} fractions of the domain, >= 0"
        )
    return given


def _checked_layout(coordinates: bool | Layout, *, padded: bool) -> Layout | None:
    if coordinates is True:
        return "nodes" if padded else "periodic"
    if coordinates is False:
        return None
    if coordinates not in get_args(Layout):
        raise ValueError(
            f"`coordinates` (={coordinates!r}) must be a bool or one of {', '.join(get_args(Layout))}"
        )
    return coordinates
