"""Grids in physical units, quadrature weights on them, and Fourier features of coordinates.

An operator acts on functions, so a grid here is a set of points in a box of given length, never a range of
indices: two grids of one box sample the same functions, and a sum over points becomes an integral by its
quadrature weights.

Axis letters used below: ``D`` dimension of the box, ``N`` points, ``M`` frequencies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Shaped
from scipy.spatial import ConvexHull, Voronoi
from torch import Tensor, nn

__all__ = [
    "FourierFeatures",
    "Grid",
    "Layout",
    "Rule",
    "box_lengths",
    "gauss_points",
    "grid",
    "quadrature_weights",
]

Layout = Literal["periodic", "nodes", "interior", "cells"]
Rule = Literal["uniform", "trapezoid", "simpson", "gauss", "voronoi"]


@dataclass(frozen=True)
class Grid:
    """A tensor-product grid of the box ``[0, length_1] x ... x [0, length_d]``.

    The layout says where the ``N`` points of an axis of length ``L`` lie:

    - ``"periodic"``: ``x_j = j L / N``; the point ``L`` is the point ``0`` again and is left out.
    - ``"nodes"``: ``x_j = j L / (N - 1)``, both ends included.
    - ``"interior"``: ``x_j = (j + 1) L / (N + 1)``; the field is zero on the boundary, which is left out.
    - ``"cells"``: ``x_j = (j + 1/2) L / N``, the centres of ``N`` equal cells.

    Args:
        shape: Number of points along each axis.
        length: Length of the box along each axis, in physical units.
        layout: One of the four layouts above.

    Raises:
        ValueError: Where the shape is empty or not positive, a length is not positive and finite, their
            numbers differ, the layout is unknown, or ``"nodes"`` has an axis of fewer than two points.

    Example:
        >>> Grid((4,), (2.0,), "cells").coordinates()
        tensor([[0.2500, 0.7500, 1.2500, 1.7500]])
        >>> Grid((5, 3), (1.0, 1.0), "nodes").spacing
        (0.25, 0.5)
    """

    shape: tuple[int, ...]
    length: tuple[float, ...]
    layout: Layout

    def __post_init__(self) -> None:
        shape = _positive_integers(self.shape, "shape")
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
            dtype: Floating type; torch's default where ``None``. Points are computed in float64 either way.
            device: Device; torch's default where ``None``.

        Returns:
            A tuple of ``dim`` vectors.
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
            dtype: Floating type; torch's default where ``None``.
            device: Device; torch's default where ``None``.

        Returns:
            Coordinates ``(dim, *shape)`` in physical units.
        """
        return torch.stack(torch.meshgrid(*self.axes(dtype=dtype, device=device), indexing="ij"))

    def weights(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Float[Tensor, "*grid"]:
        """Return the quadrature weight of every point.

        Nodes take the trapezoidal rule, the other layouts the spacing. The weights sum to the volume, except
        for ``"interior"``, which is the trapezoidal rule for functions that vanish on the boundary left out.

        Args:
            dtype: Floating type; torch's default where ``None``.
            device: Device; torch's default where ``None``.

        Returns:
            Weights of shape ``shape``.
        """
        rule = _trapezoid if self.layout == "nodes" else _uniform
        vectors = [rule(n) * h for n, h in zip(self.shape, self.spacing, strict=True)]
        return _outer(vectors).to(device=device, dtype=dtype or torch.get_default_dtype())

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
            ``{"shape": [...], "length": [...], "layout": "..."}``.
        """
        return {"shape": list(self.shape), "length": list(self.length), "layout": self.layout}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Grid":
        """Rebuild a grid from what ``to_dict`` returned.

        Args:
            entry: A mapping with the keys ``shape``, ``length`` and ``layout``.

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
        endpoint: Include both ends (layout ``"nodes"``); otherwise the grid is periodic.

    Returns:
        A :class:`Grid`.

    Example:
        >>> grid(4, 2.0).coordinates()
        tensor([[0.0000, 0.5000, 1.0000, 1.5000]])
        >>> grid((3, 3), endpoint=True).spacing
        (0.5, 0.5)
    """
    shape = _positive_integers(shape, "shape")
    return Grid(shape, box_lengths(length, len(shape)), "nodes" if endpoint else "periodic")


def box_lengths(length: float | Sequence[float], dim: int) -> tuple[float, ...]:
    """Return the length of a box along each axis.

    Args:
        length: One number for all axes, or one for each.
        dim: Number of axes.

    Returns:
        A tuple of ``dim`` floats.

    Raises:
        ValueError: Where there is not one length for each axis, or one is not positive and finite.

    Example:
        >>> box_lengths(2, 3)
        (2.0, 2.0, 2.0)
    """
    lengths = tuple(map(float, length)) if isinstance(length, Sequence) else (float(length),) * dim
    if len(lengths) != dim:
        raise ValueError(f"`length` (={length}) must have one entry for each of {dim} axes")
    if not all(0 < size < math.inf for size in lengths):
        raise ValueError(f"`length` (={length}) must be positive and finite")
    return lengths


def quadrature_weights(
    points: Shaped[Tensor, "..."] | int | Sequence[int],
    length: float | Sequence[float],
    rule: Rule = "uniform",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "..."]:
    """Return weights ``w_j`` with ``sum_j w_j f(x_j)`` close to the integral of ``f`` over the box.

    The first argument is a grid's shape, or a tensor of scattered points.

    - ``"uniform"``: equal weights. Right to all orders for periodic functions on a periodic grid, second
      order on cell centres; for random points it is Monte Carlo.
    - ``"trapezoid"``: both ends included; second order. In one dimension it also takes points at any
      distances, and integrates from the first to the last of them.
    - ``"simpson"``: both ends included; exact for cubics. An even number of points ends in the three-eighths
      rule.
    - ``"gauss"``: for the points of :func:`gauss_points`; exact to degree ``2 N - 1``.
    - ``"voronoi"``: for scattered points in the box; each weighs its Voronoi cell cut by the box. Coincident
      points share their cell.

    Args:
        points: Shape of a grid (an integer is one axis), or points ``(n, dim)`` (``(n,)`` is one dimension).
        length: Length of the box ``[0, length]`` along each axis; one number stands for all axes.
        rule: One of the rules above.
        dtype: Floating type of the result; that of the points, or torch's default, where ``None``.
        device: Device of the result; that of the points, or torch's default, where ``None``.

    Returns:
        Weights of the grid's shape, or ``(n,)`` for points.

    Raises:
        ValueError: Where the rule does not fit a grid or points, an axis has too few points for it, or points
            lie outside the box.
        TypeError: Where points are not of a floating type.

    Example:
        >>> quadrature_weights(5, 1.0, "simpson") * 12
        tensor([1., 4., 2., 4., 1.])
        >>> quadrature_weights(torch.tensor([0.1, 0.5, 0.6]), 1.0, "voronoi")
        tensor([0.3000, 0.2500, 0.4500])
    """
    if rule not in get_args(Rule):
        raise ValueError(f"`rule` (={rule!r}) must be one of {', '.join(get_args(Rule))}")
    if isinstance(points, Tensor):
        weights = _point_weights(points, length, rule)
        return weights.to(device=device or points.device, dtype=dtype or points.dtype)
    shape = _positive_integers(points, "points")
    lengths = box_lengths(length, len(shape))
    if rule == "voronoi":
        raise ValueError("rule 'voronoi' is for points (n, dim), not for a grid's shape")
    vectors = [
        _GRID_RULES[rule](n) * (size / _steps(n, rule)) for n, size in zip(shape, lengths, strict=True)
    ]
    return _outer(vectors).to(device=device, dtype=dtype or torch.get_default_dtype())


def gauss_points(
    shape: int | Sequence[int],
    length: float | Sequence[float],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, " dim *grid"]:
    """Return the Gauss-Legendre points that ``quadrature_weights(..., rule="gauss")`` is for.

    Args:
        shape: Points along each axis; an integer is one axis.
        length: Length of the box along each axis; one number stands for all axes.
        dtype: Floating type; torch's default where ``None``.
        device: Device; torch's default where ``None``.

    Returns:
        Coordinates ``(dim, *shape)`` in ``[0, length]``.

    Example:
        >>> x = gauss_points(3, 2.0, dtype=torch.float64)
        >>> w = quadrature_weights(3, 2.0, "gauss", dtype=torch.float64)
        >>> round(float((w * x[0] ** 5).sum()), 12)  # 2^6 / 6
        10.666666666667
    """
    shape = _positive_integers(shape, "shape")
    lengths = box_lengths(length, len(shape))
    axes = [
        torch.from_numpy(0.5 * size * (np.polynomial.legendre.leggauss(n)[0] + 1.0))
        for n, size in zip(shape, lengths, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return points.to(device=device, dtype=dtype or torch.get_default_dtype())


class FourierFeatures(nn.Module):
    r"""Random Fourier features ``[cos(2 pi B x / L), sin(2 pi B x / L)]`` of coordinates, ``B`` normal.

    Coordinates alone make a network prefer slow functions; these features let it see details of a chosen
    scale. Their inner product over ``count`` tends to the Gaussian kernel
    ``exp(-2 pi^2 scale^2 |x - y|^2 / L^2)``. ``B`` is a buffer: it is saved and moved with the module, and
    not trained.

    Args:
        dim: Dimension of the coordinates.
        count: Number of frequencies ``M``; there are ``2 M`` features.
        length: Length of the box along each axis; one number stands for all axes.
        scale: Standard deviation of the frequencies, in cycles over the box.
        periodic: Round frequencies to whole cycles, so that features are periodic in the box.
        axis: The axis that holds the coordinates: ``-1`` for points ``(..., dim)``, ``-dim - 1`` for fields
            ``(batch, dim, *grid)``.
        generator: Source of randomness.

    Raises:
        ValueError: Where ``dim`` or ``count`` is not positive, or ``scale`` is not positive and finite.

    Example:
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
        self.dim = _positive_integers(dim, "dim")[0]
        self.count = _positive_integers(count, "count")[0]
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
            x: Coordinates in physical units, with ``dim`` entries along ``axis``.

        Returns:
            The same shape with ``2 * count`` entries along ``axis``: all cosines, then all sines.

        Raises:
            ValueError: Where ``axis`` does not hold ``dim`` entries.
        """
        if x.shape[self.axis] != self.dim:
            raise ValueError(
                f"expected {self.dim} coordinates along axis {self.axis}, got shape {tuple(x.shape)}"
            )
        phase = x.movedim(self.axis, -1) @ self.frequencies.mT
        return torch.cat([phase.cos(), phase.sin()], dim=-1).movedim(-1, self.axis)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the brackets."""
        return f"dim={self.dim}, count={self.count}, axis={self.axis}"


# An axis of length L has n + _INTERVALS steps, and its first point lies _FIRST steps from the origin.
_INTERVALS = {"periodic": 0, "nodes": -1, "interior": 1, "cells": 0}
_FIRST = {"periodic": 0.0, "nodes": 0.0, "interior": 1.0, "cells": 0.5}


def _positive_integers(value: Any, name: str) -> tuple[int, ...]:
    """Return an integer or a sequence of them as a tuple, or raise ``ValueError``."""
    values = (value,) if isinstance(value, int | np.integer) else tuple(value)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in values)
    if not values or not whole or min(values) < 1:
        raise ValueError(f"`{name}` (={value}) must be a positive integer or a non-empty sequence of them")
    return tuple(int(n) for n in values)


def _uniform(n: int) -> Float[Tensor, " n"]:
    """Return the weights of the rectangle rule in units of the step."""
    return torch.ones(n, dtype=torch.float64)


def _trapezoid(n: int) -> Float[Tensor, " n"]:
    """Return the weights of the trapezoidal rule in units of the step."""
    if n < 2:
        raise ValueError(f"rule 'trapezoid' needs at least 2 points along every axis, got {n}")
    weights = torch.ones(n, dtype=torch.float64)
    weights[0] = weights[-1] = 0.5
    return weights


def _simpson(n: int) -> Float[Tensor, " n"]:
    """Return the weights of Simpson's rule in units of the step, exact for cubics at any ``n >= 3``."""
    if n < 3:
        raise ValueError(f"rule 'simpson' needs at least 3 points along every axis, got {n}")
    weights = torch.zeros(n, dtype=torch.float64)
    last = n - 1 if n % 2 == 1 else n - 4  # an odd number of steps leaves the last three to the 3/8 rule
    for start in range(0, last, 2):
        weights[start : start + 3] += torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 3.0
    if last < n - 1:
        weights[last:] += torch.tensor([3.0, 9.0, 9.0, 3.0], dtype=torch.float64) / 8.0
    return weights


def _gauss(n: int) -> Float[Tensor, " n"]:
    """Return the weights of the Gauss-Legendre rule for an interval of length ``n``."""
    return torch.from_numpy(np.polynomial.legendre.leggauss(n)[1]) * (n / 2.0)


_GRID_RULES = {"uniform": _uniform, "trapezoid": _trapezoid, "simpson": _simpson, "gauss": _gauss}


def _steps(n: int, rule: Rule) -> int:
    """Return the number of steps that ``n`` points divide the axis into."""
    return n - 1 if rule in {"trapezoid", "simpson"} else n


def _outer(vectors: Sequence[Tensor]) -> Float[Tensor, "*grid"]:
    """Return the product of one vector an axis."""
    product = vectors[0]
    for vector in vectors[1:]:
        product = product.unsqueeze(-1) * vector
    return product


def _point_weights(points: Tensor, length: float | Sequence[float], rule: Rule) -> Float[Tensor, " n"]:
    """Return the weights of scattered points, in float64 on the CPU."""
    if not points.is_floating_point():
        raise TypeError(f"`points` must be of a floating type, got {points.dtype}")
    x_ND = points.detach().cpu().double()
    x_ND = x_ND.unsqueeze(-1) if x_ND.ndim == 1 else x_ND
    if x_ND.ndim != 2 or x_ND.numel() == 0:
        raise ValueError(f"`points` must be (n,) or (n, dim) with n > 0, got shape {tuple(points.shape)}")
    lengths = box_lengths(length, x_ND.shape[1])
    box = torch.tensor(lengths, dtype=torch.float64)
    margin = _ON_FACE * box
    outside = int(((x_ND < -margin) | (x_ND > box + margin) | ~x_ND.isfinite()).any(dim=1).sum())
    if outside:
        raise ValueError(f"{outside} of {len(x_ND)} points lie outside the box [0, {lengths}]")
    if rule == "uniform":
        return torch.full((len(x_ND),), math.prod(lengths) / len(x_ND), dtype=torch.float64)
    if rule == "trapezoid" and x_ND.shape[1] == 1:
        return _trapezoid_at(x_ND[:, 0])
    if rule == "voronoi":
        return torch.from_numpy(_voronoi(x_ND.numpy(), box.numpy()))
    raise ValueError(f"rule {rule!r} is for a grid's shape, not for points of dimension {x_ND.shape[1]}")


def _trapezoid_at(x_N: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the trapezoidal weights of points on a line, in any order."""
    if len(x_N) < 2:
        raise ValueError(f"rule 'trapezoid' needs at least 2 points, got {len(x_N)}")
    sorted_N, order = x_N.sort()
    half = sorted_N.diff() / 2.0
    weights = torch.zeros_like(x_N)
    weights[order[:-1]] += half
    weights[order[1:]] += half
    return weights


def _voronoi(x_ND: npt.NDArray[np.float64], box: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the volumes of the Voronoi cells of points, cut by the box.

    The diagram of the points and all their mirror images in the faces has the faces among its cell walls, so
    no cell is cut by hand. A point on a face is its own mirror image: its cell is symmetric and half of it
    counts.
    """
    distinct, inverse, counts = np.unique(x_ND, axis=0, return_inverse=True, return_counts=True)
    on_face = np.stack([distinct <= _ON_FACE * box, distinct >= (1.0 - _ON_FACE) * box])
    distinct = np.where(on_face[0], 0.0, np.where(on_face[1], box, distinct))
    if x_ND.shape[1] == 1:
        walls = np.concatenate([[0.0], (distinct[1:, 0] + distinct[:-1, 0]) / 2.0, box])
        volumes = np.diff(walls)
    else:
        diagram = Voronoi(_with_mirror_images(distinct, box))
        own = diagram.point_region[: len(distinct)]
        cells = [ConvexHull(diagram.vertices[diagram.regions[region]]).volume for region in own]
        volumes = np.array(cells) * 0.5 ** on_face.sum(axis=(0, 2))
    return (volumes / counts)[inverse.ravel()]


def _with_mirror_images(
    x_ND: npt.NDArray[np.float64], box: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return points of the box, followed by their images in its faces, edges and corners."""
    for axis, size in enumerate(box):
        coordinate = x_ND[:, axis]
        below, above = x_ND.copy(), x_ND.copy()
        # A point on a face is its own image there; its next image keeps its cell symmetric.
        below[:, axis] = np.where(coordinate == 0.0, -2.0 * size, -coordinate)
        above[:, axis] = np.where(coordinate == size, 3.0 * size, 2.0 * size - coordinate)
        x_ND = np.concatenate([x_ND, below, above])
    return x_ND


_ON_FACE = 1e-7  # points nearer to a face than this fraction of the box lie on it: the rounding of float32
