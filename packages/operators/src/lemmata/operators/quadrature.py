"""Quadrature weights: from point values to integrals, on grids and on scattered points.

Axis letters used below: `D` dimension of the box, `N` points.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Shaped
from scipy.spatial import ConvexHull, Voronoi
from torch import Tensor

from lemmata.operators.grids import box_lengths, positive_integers

__all__ = ["Rule", "gauss_points", "quadrature_weights"]

Rule = Literal["uniform", "trapezoid", "simpson", "gauss", "voronoi"]


def quadrature_weights(
    points: Shaped[Tensor, "..."] | int | Sequence[int],
    length: float | Sequence[float],
    rule: Rule = "uniform",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "..."]:
    """Return weights `w_j` with `sum_j w_j f(x_j)` close to the integral of `f` over the box.

    The first argument is a grid's shape, or a tensor of scattered points.

    - `"uniform"`: equal weights. Right to all orders for periodic functions on a periodic grid, second
      order on cell centres; for random points it is Monte Carlo.
    - `"trapezoid"`: both ends included; second order. In one dimension it also takes points at any
      distances, and integrates from the first to the last of them.
    - `"simpson"`: both ends included; exact for cubics. An even number of points ends in the three-eighths
      rule.
    - `"gauss"`: for the points of `gauss_points`; exact to degree `2 N - 1`.
    - `"voronoi"`: for scattered points in the box; each weighs its Voronoi cell cut by the box. Coincident
      points share their cell.

    Args:
        points: Shape of a grid (an integer is one axis), or points `(n, dim)` (`(n,)` is one dimension).
        length: Length of the box `[0, length]` along each axis; one number stands for all axes.
        rule: One of the rules above.
        dtype: Floating type of the result; that of the points, or torch's default, where `None`.
        device: Device of the result; that of the points, or torch's default, where `None`.

    Returns:
        Weights of the grid's shape, or `(n,)` for points.

    Raises:
        ValueError: Where the rule does not fit a grid or points, an axis has too few points for it, or points
            lie outside the box.
        TypeError: Where points are not of a floating type.

    Examples:
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
    shape = positive_integers(points, "points")
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
    """Return the Gauss-Legendre points that `quadrature_weights(..., rule="gauss")` is for.

    Args:
        shape: Points along each axis; an integer is one axis.
        length: Length of the box along each axis; one number stands for all axes.
        dtype: Floating type; torch's default where `None`.
        device: Device; torch's default where `None`.

    Returns:
        Coordinates `(dim, *shape)` in `[0, length]`.

    Examples:
        >>> x = gauss_points(3, 2.0, dtype=torch.float64)
        >>> w = quadrature_weights(3, 2.0, "gauss", dtype=torch.float64)
        >>> round(float((w * x[0] ** 5).sum()), 12)  # 2^6 / 6
        10.666666666667
    """
    shape = positive_integers(shape, "shape")
    lengths = box_lengths(length, len(shape))
    axes = [
        torch.from_numpy(0.5 * size * (np.polynomial.legendre.leggauss(n)[0] + 1.0))
        for n, size in zip(shape, lengths, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return points.to(device=device, dtype=dtype or torch.get_default_dtype())


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
    """Return the weights of Simpson's rule in units of the step, exact for cubics at any `n >= 3`."""
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
    """Return the weights of the Gauss-Legendre rule for an interval of length `n`."""
    return torch.from_numpy(np.polynomial.legendre.leggauss(n)[1]) * (n / 2.0)


_GRID_RULES = {"uniform": _uniform, "trapezoid": _trapezoid, "simpson": _simpson, "gauss": _gauss}


_GRID_RULES = {"uniform": _uniform, "trapezoid": _trapezoid, "simpson": _simpson, "gauss": _gauss}


def _steps(n: int, rule: Rule) -> int:
    """Return the number of steps that `n` points divide the axis into."""
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


_ON_FACE = 1e-7  # points nearer to a face than this fraction of the box lie on it: the rounding of float32
