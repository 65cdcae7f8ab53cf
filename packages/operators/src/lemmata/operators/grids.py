"""Grids in physical units, and Fourier features of coordinates.

An operator acts on functions, so a grid here is a set of points in a box of given length, never a range of
indices: two grids of one box sample the same functions, and a sum over points becomes an integral by its
quadrature weights.

Axis letters used below: `D` dimension of the box, `N` points, `M` frequencies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "FourierFeatures",
    "Grid",
    "Layout",
    "box_lengths",
    "grid",
]

Layout = Literal["periodic", "nodes", "interior", "cells"]


@dataclass(frozen=True)
class Grid:
    """A tensor-product grid of the box `[0, length_1] x ... x [0, length_d]`.

    The layout says where the `N` points of an axis of length `L` lie:

    - `"periodic"`: `x_j = j L / N`; the point `L` is the point `0` again and is left out.
    - `"nodes"`: `x_j = j L / (N - 1)`, both ends included.
    - `"interior"`: `x_j = (j + 1) L / (N + 1)`; the field is zero on the boundary, which is left out.
    - `"cells"`: `x_j = (j + 1/2) L / N`, the centres of `N` equal cells.

    Args:
        shape: Number of points along each axis.
        length: Length of the box along each axis, in physical units.
        layout: One of the four layouts above.

    Raises:
        ValueError: Where the shape is empty or not positive, a length is not positive and finite, their
            numbers differ, the layout is unknown, or `"nodes"` has an axis of fewer than two points.

    Examples:
        >>> Grid((4,), (2.0,), "cells").coordinates()
        tensor([[0.2500, 0.7500, 1.2500, 1.7500]])
        >>> Grid((5, 3), (1.0, 1.0), "nodes").spacing
        (0.25, 0.5)
    """

    shape: tuple[int, ...]
    length: tuple[float, ...]
    layout: Layout

    def __post_init__(self) -> None:
        shape = positive_integers(self.shape, "shape")
        length = box_lengths(self.length, len(shape))
        if self.layout not in get_args(Layout):
            raise ValueError(f"`layout` (={self.layout!r}) must be one of {', '.join(get_args(Layout))}")
        if self.layout == "nodes" and min(shape) < 2:
            raise ValueError(f"`shape` (={shape}) must be at least 2 along every axis for layout 'nodes'")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "length", length)

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def volume(self) -> float:
        """Volume of the box."""
        return math.prod(self.length)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring points along each axis."""
        return tuple(
            length / (n + _INTERVALS[self.layout]) for n, length in zip(self.shape, self.length, strict=True)
        )

    def axes(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> tuple[Float[Tensor, " _"], ...]:
        """Return the points along each axis, one vector an axis.

        Args:
            dtype: Floating type; torch's default where `None`. Points are computed in float64 either way.
            device: Device; torch's default where `None`.

        Returns:
            A tuple of `dim` vectors.
        """
        first = _FIRST[self.layout]
        dtype = dtype or torch.get_default_dtype()
        return tuple(
            ((torch.arange(n, dtype=torch.float64) + first) * h).to(device=device, dtype=dtype)
            for n, h in zip(self.shape, self.spacing, strict=True)
        )

    def coordinates(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Float[Tensor, " dim *grid"]:
        """Return the coordinates of every point, one channel an axis.

        Args:
            dtype: Floating type; torch's default where `None`.
            device: Device; torch's default where `None`.

        Returns:
            Coordinates `(dim, *shape)` in physical units.
        """
        return torch.stack(torch.meshgrid(*self.axes(dtype=dtype, device=device), indexing="ij"))

    def weights(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Float[Tensor, "*grid"]:
        """Return the quadrature weight of every point.

        Nodes take the trapezoidal rule, the other layouts the spacing. The weights sum to the volume, except
        for `"interior"`, which is the trapezoidal rule for functions that vanish on the boundary left out.

        Args:
            dtype: Floating type; torch's default where `None`.
            device: Device; torch's default where `None`.

        Returns:
            Weights of shape `shape`.
        """
        weights = torch.ones((), dtype=torch.float64)
        for n, step in zip(self.shape, self.spacing, strict=True):
            vector = torch.full((n,), step, dtype=torch.float64)
            if self.layout == "nodes":
                vector[[0, -1]] /= 2.0
            weights = weights.unsqueeze(-1) * vector
        return weights.to(device=device, dtype=dtype or torch.get_default_dtype())

    def with_shape(self, shape: Sequence[int]) -> "Grid":
        """Return the grid of the same box and layout with another number of points.

        Args:
            shape: Number of points along each axis.

        Returns:
            A new grid.
        """
        return Grid(tuple(shape), self.length, self.layout)

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as JSON types.

        Returns:
            `{"shape": [...], "length": [...], "layout": "..."}`.
        """
        return {"shape": list(self.shape), "length": list(self.length), "layout": self.layout}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Grid":
        """Rebuild a grid from what `to_dict` returned.

        Args:
            entry: A mapping with the keys `shape`, `length` and `layout`.

        Returns:
            The grid.

        Raises:
            ValueError: Where a key is missing.
        """
        missing = {"shape", "length", "layout"} - entry.keys()
        if missing:
            raise ValueError(f"`entry` lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(entry))}")
        return cls(tuple(entry["shape"]), tuple(entry["length"]), entry["layout"])


def grid(shape: int | Sequence[int], length: float | Sequence[float] = 1.0, endpoint: bool = False) -> Grid:
    """Return the grid of a periodic box, or with both ends of every axis.

    Args:
        shape: Points along each axis; an integer is a one-dimensional grid.
        length: Length along each axis; one number stands for all axes.
        endpoint: Include both ends (layout `"nodes"`); otherwise the grid is periodic.

    Returns:
        A `Grid`.

    Examples:
        >>> grid(4, 2.0).coordinates()
        tensor([[0.0000, 0.5000, 1.0000, 1.5000]])
        >>> grid((3, 3), endpoint=True).spacing
        (0.5, 0.5)
    """
    shape = positive_integers(shape, "shape")
    return Grid(shape, box_lengths(length, len(shape)), "nodes" if endpoint else "periodic")


def box_lengths(length: float | Sequence[float], dim: int) -> tuple[float, ...]:
    """Return the length of a box along each axis.

    Args:
        length: One number for all axes, or one for each.
        dim: Number of axes.

    Returns:
        A tuple of `dim` floats.

    Raises:
        ValueError: Where there is not one length for each axis, or one is not positive and finite.

    Examples:
        >>> box_lengths(2, 3)
        (2.0, 2.0, 2.0)
    """
    lengths = tuple(map(float, length)) if isinstance(length, Sequence) else (float(length),) * dim
    if len(lengths) != dim:
        raise ValueError(f"`length` (={length}) must have one entry for each of {dim} axes")
    if not all(0 < size < math.inf for size in lengths):
        raise ValueError(f"`length` (={length}) must be positive and finite")
    return lengths


class FourierFeatures(nn.Module):
    r"""Random Fourier features `[cos(2 pi B x / L), sin(2 pi B x / L)]` of coordinates, `B` normal.

    Coordinates alone make a network prefer slow functions; these features let it see details of a chosen
    scale. Their inner product over `count` tends to the Gaussian kernel
    `exp(-2 pi^2 scale^2 |x - y|^2 / L^2)`. `B` is a buffer: it is saved and moved with the module, and
    not trained.

    Args:
        dim: Dimension of the coordinates.
        count: Number of frequencies `M`; there are `2 M` features.
        length: Length of the box along each axis; one number stands for all axes.
        scale: Standard deviation of the frequencies, in cycles over the box.
        periodic: Round frequencies to whole cycles, so that features are periodic in the box.
        axis: The axis that holds the coordinates: `-1` for points `(..., dim)`, `-dim - 1` for fields
            `(batch, dim, *grid)`.
        generator: Source of randomness.

    Raises:
        ValueError: Where `dim` or `count` is not positive, or `scale` is not positive and finite.

    Examples:
        >>> features = FourierFeatures(2, 8, generator=torch.Generator().manual_seed(0))
        >>> features(torch.zeros(5, 2)).shape
        torch.Size([5, 16])

    References:
        M. Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
        Domains, 2020, arXiv:2006.10739.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        count: int,
        *,
        length: float | Sequence[float] = 1.0,
        scale: float = 1.0,
        periodic: bool = False,
        axis: int = -1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim = positive_integers(dim, "dim")[0]
        self.count = positive_integers(count, "count")[0]
        if not 0 < scale < math.inf:
            raise ValueError(f"`scale` (={scale}) must be positive and finite")
        self.axis = axis
        device = generator.device if generator is not None else None
        cycles_MD = scale * torch.randn(count, dim, dtype=torch.float64, generator=generator, device=device)
        if periodic:
            cycles_MD = cycles_MD.round()
        lengths = torch.tensor(box_lengths(length, dim), dtype=torch.float64, device=device)
        angular_MD = 2.0 * math.pi * cycles_MD / lengths
        self.register_buffer("frequencies", angular_MD.to(torch.get_default_dtype()))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the features of coordinates.

        Args:
            x: Coordinates in physical units, with `dim` entries along `axis`.

        Returns:
            The same shape with `2 * count` entries along `axis`: all cosines, then all sines.

        Raises:
            ValueError: Where `axis` does not hold `dim` entries.
        """
        if x.shape[self.axis] != self.dim:
            raise ValueError(
                f"expected {self.dim} coordinates along axis {self.axis}, got shape {tuple(x.shape)}"
            )
        phase = x.movedim(self.axis, -1) @ self.frequencies.mT
        return torch.cat([phase.cos(), phase.sin()], dim=-1).movedim(-1, self.axis)

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"dim={self.dim}, count={self.count}, axis={self.axis}"


# An axis of length L has n + _INTERVALS steps, and its first point lies _FIRST steps from the origin.
_INTERVALS = {"periodic": 0, "nodes": -1, "interior": 1, "cells": 0}
_FIRST = {"periodic": 0.0, "nodes": 0.0, "interior": 1.0, "cells": 0.5}


def positive_integers(value: Any, name: str) -> tuple[int, ...]:
    """Return an integer or a sequence of them as a tuple, or raise `ValueError`."""
    values = (value,) if isinstance(value, int | np.integer) else tuple(value)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in values)
    if not values or not whole or min(values) < 1:
        raise ValueError(f"`{name}` (={value}) must be a positive integer or a non-empty sequence of them")
    return tuple(int(n) for n in values)
