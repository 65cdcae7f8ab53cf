"""What fields look like: periodic or not, Darcy-like or not, and the grid they probably lie on."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lemmata.apps.pde_surrogate.formats.source import ArraySource
from lemmata.operators.grids import Grid, Layout

__all__ = ["guess_grid", "is_periodic", "looks_like_darcy"]

_COORDINATES = (("x", "x-coordinate", "lon", "longitude"), ("y", "y-coordinate", "lat", "latitude"), ("z",))


def is_periodic(fields: Float[Tensor, "n channel *grid"]) -> tuple[bool, ...]:
    """Guess along which axes fields are periodic.

    Across the seam of a periodic field the second difference is of the size it has elsewhere; a field that
    vanishes at both ends closes too, but with a kink.

    Args:
        fields: Fields `(n, channels, *grid)`.

    Returns:
        One guess an axis; `False` where an axis has fewer than five points.

    Examples:
        >>> x = torch.arange(32) / 32
        >>> wave, bump = torch.sin(2 * torch.pi * x), x * (1 - x)
        >>> is_periodic(wave[None, None]), is_periodic(bump[None, None])
        ((True,), (False,))
    """
    return tuple(_closes(fields.movedim(2 + axis, -1)) for axis in range(fields.ndim - 2))


def looks_like_darcy(inputs: Float[Tensor, "n c_in *grid"], targets: Float[Tensor, "n c_out *grid"]) -> bool:
    """Guess whether fields are permeabilities and pressures of Darcy flow with a positive source.

    Args:
        inputs: Input fields.
        targets: Target fields.

    Returns:
        Whether inputs are one channel of no negative value in two dimensions and targets are positive but
        for a few dips.
    """
    if inputs.ndim != 4 or inputs.shape[1] != 1 or targets.shape[1] != 1 or bool((inputs < 0).any()):
        return False
    return bool((targets.flatten(1).mean(1) > 0).all()) and bool((targets < 0).float().mean() < 0.05)


def guess_grid(
    fields: Float[Tensor, "n channel *grid"],
    others: Sequence[ArraySource],
    *,
    length: float | Sequence[float] | None,
    layout: Layout | None,
) -> tuple[Grid, str]:
    """Place fields on a grid: as told, by coordinate arrays, or by their look.

    Args:
        fields: Fields `(n, channels, *grid)`.
        others: Arrays of the file that are no fields; coordinates are looked for among them.
        length: Length of the box, one for all axes or one each; `None` guesses.
        layout: Layout of the grid; `None` guesses.

    Returns:
        The grid, and what was assumed (empty where nothing was).

    Raises:
        ValueError: Where the number of lengths is not the number of axes, or a length is not positive.
    """
    shape = tuple(fields.shape[2:])
    axes = [_coordinates(others, axis, points) for axis, points in enumerate(shape)]
    assumed = []
    if layout is None:
        layout = _layout(fields, axes)
        assumed.append(f"layout {layout!r} ({_reason(fields)})")
    if length is None:
        lengths = [_length(axis, layout) for axis in axes]
        found = ", ".join(f"{value:g}" for value in lengths)
        assumed.append(f"length {found} ({'from coordinates' if axes[0] is not None else 'no coordinates'})")
    else:
        lengths = (
            [float(length)] * len(shape) if isinstance(length, (int, float)) else list(map(float, length))
        )
    grid = Grid(shape, tuple(lengths), layout)
    return grid, "grid: assumed " + " and ".join(assumed) if assumed else ""


def _closes(fields: Shaped[Tensor, "..."]) -> bool:
    if fields.shape[-1] < 5:
        return False
    wrapped = torch.cat([fields, fields[..., :2]], dim=-1).double()
    second = wrapped.diff(n=2, dim=-1)
    seam, inside = second[..., -2:], second[..., :-2]
    return float(seam.square().mean().sqrt()) <= 2 * float(inside.square().mean().sqrt())


def _coordinates(
    others: Sequence[ArraySource], axis: int, points: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]] | None":
    for source in others:
        size = int(np.prod(source.shape))
        if source.name.lower() in _COORDINATES[axis] and size == points >= 2 and source.dtype.kind in "iuf":
            values = source.read().astype(np.float64).reshape(-1)
            steps = np.diff(values)
            if np.isfinite(values).all() and (steps > 0).all() and np.ptp(steps) <= 1e-3 * steps.mean():
                return values
    return None


def _layout(fields: Tensor, axes: "Sequence[np.ndarray[tuple[int], np.dtype[np.float64]] | None]") -> Layout:
    first = axes[0]
    if first is not None and abs(first[0] - (first[1] - first[0]) / 2) < 0.01 * (first[1] - first[0]):
        return "cells"
    return "periodic" if all(is_periodic(fields)) else "nodes"


def _reason(fields: Tensor) -> str:
    periodic = is_periodic(fields)
    return "looks periodic" if all(periodic) else "does not look periodic"


def _length(axis: "np.ndarray[tuple[int], np.dtype[np.float64]] | None", layout: Layout) -> float:
    if axis is None:
        return 1.0
    intervals = {"periodic": len(axis), "cells": len(axis), "nodes": len(axis) - 1, "interior": len(axis) + 1}
    return float((axis[-1] - axis[0]) / (len(axis) - 1) * intervals[layout])
