r"""The spectral convolution of the Fourier neural operator, and band-limited resampling.

A spectral convolution multiplies the low Fourier coefficients of a field by learned matrices,

$$(K v)(x) = \mathcal{F}^{-1}\big( R(k)\, \mathcal{F} v(k) \big)(x), \qquad |k_j| \le \lfloor m_j/2 \rfloor,$$

and thereby acts on functions: the same weights apply on every grid. Use it as the global layer of a neural
operator, or alone as a learned convolution with a kernel as large as the domain.

Axis letters: `B` batch, `C` channels in, `O` channels out, `M` kept frequencies of all axes together.

References:
    Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart, A. Anandkumar, "Fourier Neural
    Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv:2010.08895.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lemmata.operators.neural.fourier import analyse, synthesise

__all__ = ["Init", "SpectralConv", "fourier_resample", "require_field", "require_positive"]

Init = Literal["unit", "fno"]


class SpectralConv(nn.Module):
    r"""Multiply the low Fourier coefficients of a field by learned complex matrices, one a frequency.

    `modes` `m_j` along axis `j` means the `2 (m_j // 2) + 1` frequencies `-(m_j // 2) .. m_j // 2`;
    of the last axis the non-negative half is stored, since the field is real. The set is symmetric, so that
    the layer can commute with reflections; a set that holds `-m/2` without `m/2` cannot.

    Coefficients are those of the trigonometric interpolant, independent of the number of points, so that one
    set of weights means the same operator on every grid, also from one grid to another (`output_shape`).
    A coefficient array that is not that of a real field is projected onto the nearest one that is.

    Equals `rfftn` (`norm="forward"`), a product with the weights at the kept frequencies and `irfftn`, but
    computes no other frequency (see `lemmata.operators.neural.fourier`) and no complex number:
    weights are real, with real and imaginary part on the trailing axis, so that optimisers, `.double()`,
    distributed training and `torch.compile` treat them as any other parameter.

    Shapes: `(batch, in_channels, *grid) -> (batch, out_channels, *output_shape)`; the weight is
    `(*frequencies, in_channels, out_channels, 2)`. Costs O(C N K) for the transforms along an axis that
    keeps K frequencies and O(C^2 M) for the product.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        modes: Number of modes along each axis, whose count is the dimension (1 to 3); an integer means one
            axis.
        bias: Add a learned constant to each output channel.
        weight_std: Standard deviation of real and of imaginary parts; overrides `init`.
        init: `"unit"` draws normal weights of variance `1 / (2 in_channels)`, which keeps the variance of
            a band-limited field; `"fno"` is the uniform draw on `[0, 1 / (in_channels out_channels)]` of
            the first publication, which shrinks it by about `sqrt(in_channels)` a layer.
        strict: Raise where a grid is too coarse for the modes, instead of using those it can represent.
        generator: Source of the initial weights; torch's global one where `None`.

    Raises:
        ValueError: Where a number of channels or modes is not a positive integer, there are no or more than
            three axes, `weight_std` is not positive, or `init` is unknown.

    Examples:
        >>> conv = SpectralConv(3, 5, modes=(8, 8))
        >>> conv(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 5, 32, 32])
        >>> conv(torch.randn(2, 3, 32, 32), output_shape=(48, 40)).shape
        torch.Size([2, 5, 48, 40])
        >>> conv.weight.shape
        torch.Size([9, 5, 3, 5, 2])

    References:
        Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", 2021,
        arXiv:2010.08895.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: int | Sequence[int],
        *,
        bias: bool = False,
        weight_std: float | None = None,
        init: Init = "unit",
        strict: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        if init not in get_args(Init):
            raise ValueError(f"`init` (={init!r}) must be one of {', '.join(get_args(Init))}")
        if weight_std is not None and not (0 < weight_std < math.inf):
            raise ValueError(f"`weight_std` (={weight_std}) must be positive and finite")
        self.modes = _checked_modes(modes)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight_std = weight_std
        self.init = init
        self.strict = strict
        self.orders = tuple(m // 2 for m in self.modes)
        frequencies = (*(2 * k + 1 for k in self.orders[:-1]), self.orders[-1] + 1)
        self.weight = nn.Parameter(torch.empty(*frequencies, in_channels, out_channels, 2))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters(generator=generator)

    @property
    def dim(self) -> int:
        """Number of axes of the fields."""
        return len(self.modes)

    @torch.no_grad()
    def reset_parameters(self, *, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew and set the bias to zero.

        Args:
            generator: Source of the weights; torch's global one where `None`.
        """
        if self.weight_std is None and self.init == "fno":
            self.weight.uniform_(0, 1 / (self.in_channels * self.out_channels), generator=generator)
        else:
            std = self.weight_std or math.sqrt(1 / (2 * self.in_channels))
            self.weight.normal_(0, std, generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def forward(
        self, x: Shaped[Tensor, "batch channel *grid"], output_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channel_out *grid_out"]:
        """Apply the convolution.

        Half-precision fields, and all fields under autocast, are transformed in float32.

        Args:
            x: Real field on a periodic grid.
            output_shape: Number of points of the output along each axis; the input's where `None`.

        Returns:
            The output field, in the dtype of `x`.

        Raises:
            TypeError: Where the field is not real floating, or is not of the weights' precision.
            ValueError: Where its rank or number of channels is not the layer's, `output_shape` is not one
                positive number an axis, or a grid is too coarse and the layer `strict`.
        """
        require_field(x, self.in_channels, self.dim)
        shape = x.shape[2:] if output_shape is None else _checked_shape(output_shape, self.dim)
        orders = self._usable_orders(x.shape[2:], shape)
        with torch.autocast(x.device.type, enabled=False):
            field, weight = _at_least_single(x), _at_least_single(self.weight)
            if field.dtype != weight.dtype:
                raise TypeError(
                    f"`x` is {x.dtype}, but the weights are {self.weight.dtype}: convert one of them"
                )
            coefficients = _contract(analyse(field, orders), self._usable_weight(weight, orders))
            if self.bias is not None:
                zero = tuple(orders[:-1])  # where -K .. K holds the constant; the last axis begins with it
                coefficients[(0, *zero, 0)] += self.bias
            return synthesise(coefficients, shape).to(x.dtype)

    def _usable_orders(self, *shapes: Sequence[int]) -> list[int]:
        """Return the highest frequency along each axis that the layer keeps and all grids can represent."""
        orders = [min(k, *(n // 2 for n in axis)) for k, *axis in zip(self.orders, *shapes, strict=True)]
        if self.strict and tuple(orders) != self.orders:
            grids = " -> ".join(str(tuple(shape)) for shape in shapes)
            raise ValueError(f"`modes` (={self.modes}) must be at most the number of points (={grids})")
        return orders

    def _usable_weight(
        self, weight: Float[Tensor, "*modes c o 2"], orders: Sequence[int]
    ) -> Float[Tensor, "*kept c o 2"]:
        for axis, (kept, order) in enumerate(zip(orders[:-1], self.orders[:-1], strict=True)):
            weight = weight.narrow(axis, order - kept, 2 * kept + 1)
        return weight.narrow(self.dim - 1, 0, orders[-1] + 1)

    def extra_repr(self) -> str:
        """Describe the layer in a model's printout."""
        return (
            f"{self.in_channels}, {self.out_channels}, modes={self.modes}, bias={self.bias is not None}"
            f"{', strict=True' if self.strict else ''}"
        )


def fourier_resample(
    x: Shaped[Tensor, "*any"], output_shape: Sequence[int], *, dims: Sequence[int] | None = None
) -> Float[Tensor, "*out"]:
    """Evaluate the trigonometric interpolant of a periodic field on another grid.

    Exact for fields that hold no frequency above half the smaller number of points; what the new grid cannot
    represent is cut off, not folded back. Equals `scipy.signal.resample` along each axis.

    Args:
        x: Real field, periodic along `dims`.
        output_shape: New number of points along each of `dims`.
        dims: Axes to resample; the last `len(output_shape)` ones where `None`.

    Returns:
        The field at the points of the new grid, in the dtype of `x`.

    Raises:
        TypeError: Where `x` is not real floating.
        ValueError: Where `output_shape` is not one positive integer for each of `dims`, an axis does not
            exist, is named twice, or holds no points.

    Examples:
        >>> x = torch.cos(2 * math.pi * torch.arange(4.0) / 4)
        >>> fourier_resample(x, (8,)).round(decimals=4) + 0.0
        tensor([ 1.0000,  0.7071,  0.0000, -0.7071, -1.0000, -0.7071,  0.0000,  0.7071])
    """
    _require_real(x)
    axes = range(-len(output_shape), 0) if dims is None else dims
    shape = _checked_shape(output_shape, len(axes))
    if not all(-x.ndim <= d < x.ndim for d in axes) or len({d % max(x.ndim, 1) for d in axes}) != len(axes):
        raise ValueError(f"`dims` (={tuple(axes)}) must be different axes of `x`, which has {x.ndim}")
    if any(x.shape[d] == 0 for d in axes):
        raise ValueError(f"`x` (of shape {tuple(x.shape)}) must hold points along `dims` (={tuple(axes)})")
    with torch.autocast(x.device.type, enabled=False):
        y = _at_least_single(x)
        for dim, n in zip(axes, shape, strict=True):
            if n != x.shape[dim]:
                y = _resample_axis(y, n, dim)
        return y.to(x.dtype)


def require_positive(**values: object) -> None:
    """Raise unless every named value is a positive integer.

    Args:
        **values: Values by the name of their parameter.

    Raises:
        ValueError: Naming the first parameter that is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` (={value!r}) must be a positive integer")


def require_field(x: Shaped[Tensor, "..."], channels: int, dim: int) -> None:
    """Raise unless a tensor is a real field with the channels and axes that a layer expects.

    Args:
        x: Tensor to check.
        channels: Number of channels expected.
        dim: Number of grid axes expected.

    Raises:
        TypeError: Where it is not real floating.
        ValueError: Where its rank or number of channels differs, or an axis holds no points.
    """
    _require_real(x)
    if x.ndim != dim + 2:
        raise ValueError(
            f"`x` (of shape {tuple(x.shape)}) must be (batch, channel, *grid) with {dim} grid axes,"
            " one for each of `modes`"
        )
    if x.shape[1] != channels:
        raise ValueError(f"`x` (of shape {tuple(x.shape)}): expected {channels} channels, got {x.shape[1]}")
    if 0 in x.shape[2:]:
        raise ValueError(f"`x` (of shape {tuple(x.shape)}) must hold at least one point along each grid axis")


def _contract(
    x_2MBC: Float[Tensor, "2 *modes b c"], weight_MCO2: Float[Tensor, "*modes c o 2"]
) -> Float[Tensor, "2 *modes b o"]:
    """Multiply complex matrices, one a frequency, by one batched product of real ones.

    The rows are real and imaginary parts of the input, the columns those of the weight (which needs no copy),
    and the four products they make are combined afterwards, where there is least data.
    """
    _, *modes, b, c = x_2MBC.shape
    m, o = math.prod(modes), weight_MCO2.shape[-2]
    rows = x_2MBC.reshape(2, m, b, c).transpose(0, 1).reshape(m, 2 * b, c)
    products = torch.bmm(rows, weight_MCO2.reshape(m, c, 2 * o)).view(m, 2, b, o, 2)
    real_row, imaginary_row = products.unbind(1)
    (rr, ri), (ir, ii) = real_row.unbind(-1), imaginary_row.unbind(-1)
    return torch.stack([rr - ii, ri + ir]).view(2, *modes, b, o)


def _resample_axis(x: Float[Tensor, "*any"], n: int, dim: int) -> Float[Tensor, "*out"]:
    smaller = min(n, x.shape[dim])
    spectrum = torch.fft.rfft(x, dim=dim, norm="forward").narrow(dim, 0, smaller // 2 + 1)
    if smaller % 2 == 0:
        # The frequency N/2 of the smaller grid is one bin there and two, N/2 and -N/2, on the larger.
        below, last = spectrum.split([smaller // 2, 1], dim)
        spectrum = torch.cat([below, last * (0.5 if smaller < n else 2.0)], dim)
    resampled: Tensor = torch.fft.irfft(spectrum, n=n, dim=dim, norm="forward")
    return resampled


def _at_least_single(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    return x.to(torch.float32) if x.dtype in {torch.float16, torch.bfloat16} else x


def _require_real(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"`x` is {x.dtype}: expected a real floating-point field")


def _checked_modes(modes: int | Sequence[int]) -> tuple[int, ...]:
    given = (modes,) if isinstance(modes, int) else tuple(modes)
    if not 1 <= len(given) <= 3:
        raise ValueError(f"`modes` (={given}) must hold one integer for each of 1 to 3 axes")
    for m in given:
        require_positive(modes=m)
    return given


def _checked_shape(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    if len(shape) != dim or any(n < 1 for n in shape):
        raise ValueError(f"`output_shape` (={tuple(shape)}) must hold {dim} positive integers")
    return tuple(shape)
