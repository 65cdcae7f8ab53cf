r"""Sobolev norms of fields of any real order, and relative errors in them.

`H^1` asks for gradients to be right; `H^-1` is the norm in which the residual of a second-order equation
measures its error. The norm of a periodic field in the homogeneous space of order `s`, and the
inhomogeneous one with `shift > 0`, are

    |u|_s^2 = V sum_{k != 0} |2 pi k / L|^{2 s} |u_k|^2,
    ||u||_s^2 = V sum_k (shift + |2 pi k / L|^2)^s |u_k|^2,

with the volume `V` and the Fourier coefficients `u_k`, so that `s = 0` is the `L^2` norm (of the
mean-free part, where the shift is zero). The amplitude of a coefficient is thus multiplied by the power
`s / 2`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lemmata.operators.grids import box_lengths
from lemmata.operators.losses.errors import (
    Reduction,
    check_relative,
    difference,
    real_field,
    relative_error,
    root,
)

__all__ = ["RelativeH1", "RelativeSobolev", "SobolevNorm", "relative_h1", "relative_sobolev", "sobolev_norm"]

BoundedLayout = Literal["nodes", "cells", "interior"]


def sobolev_norm(
    u: Shaped[Tensor, "..."],
    order: float,
    length: float | Sequence[float],
    *,
    periodic: bool = True,
    shift: float = 0.0,
    layout: BoundedLayout = "nodes",
    strict: bool = False,
) -> Float[Tensor, " batch"]:
    """Return each sample's Sobolev norm, channels summed in squares.

    Periodic fields take any real order, by Fourier coefficients (the module's docstring has the formula).
    Others take order 1, `||u||^2 = shift int |u|^2 + int |grad u|^2`, by differences of neighbours inside
    the box: nothing wraps around, and unlike central differences they see a sawtooth.

    Args:
        u: Fields `(batch, channels, *grid)`. Half precision is computed in float32.
        order: Order `s`; any real number, negative too, for periodic fields.
        length: Length of the box along each axis; one number stands for all axes.
        periodic: Whether the field is periodic, on the grid of layout `"periodic"`.
        shift: Added to `|2 pi k / L|^2`, in one over length squared; 0 is the homogeneous norm, blind to
            the mean.
        layout: Where the points of a field that is not periodic lie, as in
            `Grid`. `"interior"` takes the boundary values to be zero.
        strict: Raise where order and shift leave the norm undefined: `order < 0`, `shift = 0` and a mean
            that is not zero to rounding. Waits for the device.

    Returns:
        One norm a sample.

    Raises:
        ValueError: Where the order, shift, lengths or the shape do not fit, or by `strict`.
        TypeError: Where fields are not real.

    Examples:
        >>> x = torch.arange(16, dtype=torch.float64) / 16
        >>> u = torch.sin(2 * torch.pi * x).reshape(1, 1, 16)
        >>> 2 * sobolev_norm(u, -1, 1.0) ** 2 * (2 * torch.pi) ** 2
        tensor([1.0000], dtype=torch.float64)
    """
    _check_sobolev(order, periodic, shift, layout)
    u = real_field(u, "u", least=3)
    lengths = box_lengths(length, u.ndim - 2)
    if not periodic:
        return root(_difference_square(u, lengths, shift, layout), 2.0)
    if strict and order < 0 and shift == 0:
        _check_mean_free(u)
    return root(_spectral_square(u, lengths, order, shift), 2.0)


def relative_sobolev(
    prediction: Shaped[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    order: float,
    length: float | Sequence[float],
    *,
    periodic: bool = True,
    shift: float = 0.0,
    layout: BoundedLayout = "nodes",
    strict: bool = False,
    eps: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Return the error's Sobolev norm over the target's, sample by sample, then reduced over the batch.

    Args:
        prediction: Fields `(batch, channels, *grid)`.
        target: Fields of the same shape.
        order: Order of the norm.
        length: Length of the box along each axis; one number stands for all axes.
        periodic: Whether fields are periodic; see `sobolev_norm`.
        shift: 0 for the homogeneous norm; see `sobolev_norm`.
        layout: Layout of fields that are not periodic.
        strict: Raise on a mean that a homogeneous norm of negative order does not see.
        eps: Smallest norm to divide by; see `relative_lp`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or one error a sample.

    Raises:
        ValueError: As `relative_lp` and `sobolev_norm`.
        TypeError: Where fields are not real.

    Examples:
        >>> u = torch.sin(torch.arange(8) * torch.pi / 4).reshape(1, 1, 8)
        >>> relative_sobolev(1.5 * u, u, order=-1.5, length=1.0)
        tensor(0.5000)
    """
    check_relative(eps, reduction)
    error = difference(prediction, target)

    def norm(u: Tensor) -> Tensor:
        return sobolev_norm(u, order, length, periodic=periodic, shift=shift, layout=layout, strict=strict)

    return relative_error(norm(error), norm(target), eps, reduction)


def relative_h1(
    prediction: Shaped[Tensor, "..."],
    target: Shaped[Tensor, "..."],
    length: float | Sequence[float],
    method: Literal["spectral", "fd"] = "spectral",
    *,
    shift: float = 1.0,
    layout: BoundedLayout = "nodes",
    eps: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Return the relative error in `||u||^2 = shift int |u|^2 + int |grad u|^2`.

    Args:
        prediction: Fields `(batch, channels, *grid)`.
        target: Fields of the same shape.
        length: Length of the box along each axis; one number stands for all axes.
        method: `"spectral"` for periodic fields, `"fd"` (finite differences) for others.
        shift: Weight of the values beside the gradients, in one over length squared.
        layout: Layout of the grid for `"fd"`.
        eps: Smallest norm to divide by; see `relative_lp`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or one error a sample.

    Raises:
        ValueError: Where the method is unknown, and as `relative_sobolev`.
        TypeError: Where fields are not real.

    Examples:
        >>> u = torch.linspace(0, 1, 5).reshape(1, 1, 5)
        >>> relative_h1(u + 0.5, u, 1.0, "fd", shift=0.0)  # the gradients agree
        tensor(0.)
    """
    return relative_sobolev(
        prediction,
        target,
        1.0,
        length,
        periodic=_is_spectral(method),
        shift=shift,
        layout=layout,
        eps=eps,
        reduction=reduction,
    )


class SobolevNorm(nn.Module):
    """Sobolev norm of each sample: `sobolev_norm` as a module.

    Args:
        order: Order of the norm.
        length: Length of the box along each axis; one number stands for all axes.
        periodic: Whether fields are periodic.
        shift: 0 for the homogeneous norm.
        layout: Layout of fields that are not periodic.
        strict: Raise on a mean that a homogeneous norm of negative order does not see.

    Raises:
        ValueError: Where an argument does not fit.

    Examples:
        >>> SobolevNorm(1, 1.0, shift=1.0)(torch.ones(2, 1, 8))  # a constant has no gradient
        tensor([1., 1.])
    """

    def __init__(
        self,
        order: float,
        length: float | Sequence[float],
        periodic: bool = True,
        shift: float = 0.0,
        *,
        layout: BoundedLayout = "nodes",
        strict: bool = False,
    ) -> None:
        super().__init__()
        _check_sobolev(order, periodic, shift, layout)
        lengths = box_lengths(length, len(length) if isinstance(length, Sequence) else 1)
        self.order = float(order)
        self.length = lengths if isinstance(length, Sequence) else lengths[0]
        self.periodic = periodic
        self.shift = float(shift)
        self.layout: BoundedLayout = layout
        self.strict = strict

    def forward(self, u: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return one norm a sample; see `sobolev_norm`.

        Args:
            u: Fields `(batch, channels, *grid)`.

        Returns:
            Norms `(batch,)`.
        """
        return sobolev_norm(
            u,
            self.order,
            self.length,
            periodic=self.periodic,
            shift=self.shift,
            layout=self.layout,
            strict=self.strict,
        )

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        kind = "periodic" if self.periodic else self.layout
        return f"order={self.order:g}, length={self.length}, {kind}, shift={self.shift:g}"


class RelativeSobolev(nn.Module):
    """Relative Sobolev error of a batch: `relative_sobolev` as a module.

    Args:
        order: Order of the norm.
        length: Length of the box along each axis; one number stands for all axes.
        periodic: Whether fields are periodic.
        shift: 0 for the homogeneous norm.
        layout: Layout of fields that are not periodic.
        strict: Raise on a mean that a homogeneous norm of negative order does not see.
        eps: Smallest norm to divide by.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: Where an argument does not fit.

    Examples:
        >>> u = torch.sin(torch.arange(8) * torch.pi / 4).reshape(1, 1, 8)
        >>> RelativeSobolev(1, 1.0)(0.75 * u, u)
        tensor(0.2500)
    """

    def __init__(
        self,
        order: float,
        length: float | Sequence[float],
        periodic: bool = True,
        shift: float = 0.0,
        *,
        layout: BoundedLayout = "nodes",
        strict: bool = False,
        eps: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_relative(eps, reduction)
        self.norm = SobolevNorm(order, length, periodic, shift, layout=layout, strict=strict)
        self.eps = eps
        self.reduction: Reduction = reduction

    def forward(
        self, prediction: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Return the relative error; see `relative_sobolev`.

        Args:
            prediction: Fields `(batch, channels, *grid)`.
            target: Fields of the same shape.

        Returns:
            A scalar, or one error a sample.
        """
        error = difference(prediction, target)
        return relative_error(self.norm(error), self.norm(target), self.eps, self.reduction)

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"reduction={self.reduction!r}, eps={self.eps:g}"


class RelativeH1(RelativeSobolev):
    """Relative error in values and gradients together: `relative_h1` as a module.

    Args:
        length: Length of the box along each axis; one number stands for all axes.
        method: `"spectral"` for periodic fields, `"fd"` (finite differences) for others.
        shift: Weight of the values beside the gradients, in one over length squared.
        layout: Layout of the grid for `"fd"`.
        eps: Smallest norm to divide by.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        ValueError: Where an argument does not fit.

    Examples:
        >>> u = torch.linspace(0, 1, 5).reshape(1, 1, 5)
        >>> RelativeH1(1.0, "fd")(0.9 * u, u)
        tensor(0.1000)
    """

    def __init__(
        self,
        length: float | Sequence[float],
        method: Literal["spectral", "fd"] = "spectral",
        *,
        shift: float = 1.0,
        layout: BoundedLayout = "nodes",
        eps: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            1.0, length, _is_spectral(method), shift, layout=layout, eps=eps, reduction=reduction
        )


def _check_sobolev(order: float, periodic: bool, shift: float, layout: str) -> None:
    """Raise `ValueError` unless the arguments of a Sobolev norm fit."""
    if not -math.inf < order < math.inf:
        raise ValueError(f"`order` (={order}) must be finite")
    if not 0 <= shift < math.inf:
        raise ValueError(f"`shift` (={shift}) must be finite and not negative")
    if layout not in {"nodes", "cells", "interior"}:
        raise ValueError(f"`layout` (={layout!r}) must be 'nodes', 'cells' or 'interior'")
    if not periodic and order != 1:
        raise ValueError(f"`order` (={order}) must be 1 for fields that are not periodic")


def _is_spectral(method: str) -> bool:
    """Return whether the method of an `H^1` norm is the periodic one."""
    if method not in {"spectral", "fd"}:
        raise ValueError(f"`method` (={method!r}) must be 'spectral' or 'fd'")
    return method == "spectral"


def _check_mean_free(u: Float[Tensor, "batch channel *grid"]) -> None:
    """Raise `ValueError` where a mean is not zero to rounding."""
    mean = u.flatten(2).mean(2).abs()
    rounding = 1e3 * torch.finfo(u.dtype).eps * u.flatten(2).abs().amax(2)
    bad = (mean > rounding).nonzero().tolist()
    if bad:
        raise ValueError(
            f"the mean of `u` is not zero in (sample, channel) {bad}: its homogeneous norm of negative order "
            "is undefined; subtract the mean, or set `shift` > 0"
        )


def _spectral_square(
    u: Float[Tensor, "batch channel *grid"], lengths: tuple[float, ...], order: float, shift: float
) -> Float[Tensor, " batch"]:
    """Return the squared norm of periodic fields by Parseval's identity on the half spectrum."""
    coefficients = torch.fft.rfftn(u, dim=tuple(range(2, u.ndim)), norm="forward")
    energy = torch.view_as_real(coefficients).square().sum(-1)
    energy = energy * _symbol(u, lengths, order, shift)
    return math.prod(lengths) * energy.flatten(1).sum(1)


def _symbol(
    u: Float[Tensor, "batch channel *grid"], lengths: tuple[float, ...], order: float, shift: float
) -> Float[Tensor, "*half"]:
    """Return `(shift + |2 pi k / L|^2)^order` on the half spectrum, doubled where a column stands for two.

    A column `k` stands for `-k` too, save for `k = 0` and, where the number of points is even,
    Nyquist's.
    """
    *front, last = u.shape[2:]
    wavenumbers = [torch.fft.fftfreq(n, 1.0 / n, dtype=u.dtype, device=u.device) for n in front]
    wavenumbers.append(torch.fft.rfftfreq(last, 1.0 / last, dtype=u.dtype, device=u.device))
    square = torch.zeros((), dtype=u.dtype, device=u.device)
    for k, length in zip(wavenumbers, lengths, strict=True):
        square = square.unsqueeze(-1) + (2.0 * math.pi / length * k).square()
    if shift > 0:
        symbol = (shift + square).pow(order)
    else:
        mean_mode = square == 0
        symbol = torch.where(mean_mode, 0.0, torch.where(mean_mode, 1.0, square).pow(order))
    column = torch.arange(last // 2 + 1, device=u.device)
    return symbol * torch.where((column == 0) | (2 * column == last), 1.0, 2.0).to(u.dtype)


def _difference_square(
    u: Float[Tensor, "batch channel *grid"], lengths: tuple[float, ...], shift: float, layout: BoundedLayout
) -> Float[Tensor, " batch"]:
    """Return `shift int |u|^2 + int |grad u|^2` for fields that are not periodic."""
    dim = u.ndim - 2
    if layout == "interior":
        u = nn.functional.pad(u, (1, 1) * dim)
    if min(u.shape[2:]) < 2:
        raise ValueError(
            f"differences need 2 or more points along every axis, got a grid {tuple(u.shape[2:])}"
        )
    spacing = [
        size / (n if layout == "cells" else n - 1) for n, size in zip(u.shape[2:], lengths, strict=True)
    ]
    total = shift * _integral(u.square(), spacing, layout, edges=None)
    for axis, h in enumerate(spacing):
        slope = u.diff(dim=axis + 2) / h
        total = total + _integral(slope.square(), spacing, layout, edges=axis)
    return total


def _integral(
    density: Float[Tensor, "batch channel *grid"],
    spacing: Sequence[float],
    layout: BoundedLayout,
    edges: int | None,
) -> Float[Tensor, " batch"]:
    """Integrate a density given at the points, or halfway between them along the axis `edges`.

    Points that include the ends weigh half there. Between cell centres lie the slopes; the outermost stand
    for half a cell more, up to the boundary.
    """
    for axis in reversed(range(len(spacing))):
        weights = torch.full((density.shape[-1],), spacing[axis], dtype=density.dtype, device=density.device)
        extra = 0.5 * spacing[axis] * ((layout == "cells") - (axis != edges))
        weights[0] += extra
        weights[-1] += extra
        density = density @ weights
    return density.sum(1)
