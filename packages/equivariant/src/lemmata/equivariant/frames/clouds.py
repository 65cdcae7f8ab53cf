"""Sums over the points of clouds, whether they are stored dense or ragged.

Frames need a handful of sums: centroids, second and third moments, the largest coordinate. `gather_clouds`
checks what the user gave and returns what the functions here compute them from, so that the rest is written
once.

Axis letters used below: `B` clouds (any number of axes), `N` points, `d` dimensions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "Clouds",
    "centroids",
    "gather_clouds",
    "offsets_from",
    "padded",
    "scaled",
    "second_moments",
    "seen_from",
    "totals",
]


class Clouds(NamedTuple):
    """Points, their weights and what cloud each belongs to.

    Attributes:
        points: Shape `(*B, N, d)`, at least float32, zero where padded.
        weights: Shape `(*B, N)`, zero where padded.
        batch: Index of each point's cloud, for ragged clouds, whose points are `(N, d)`.
        num_clouds: Number of ragged clouds; 0 for dense ones.
    """

    points: Float[Tensor, "*batch n d"]
    weights: Float[Tensor, "*batch n"]
    batch: Int[Tensor, " n"] | None
    num_clouds: int


def gather_clouds(
    x: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    batch: Tensor | None,
    num_clouds: int | None,
) -> Clouds:
    """Check the points of clouds and what belongs to them.

    Args:
        x: Points, shape `(*B, N, d)`; with `batch` `(N, d)`.
        mask: True where a point exists, shape `(*B, N)`.
        weights: Weights of the points, of the same shape.
        batch: Index of each point's cloud, shape `(N,)`.
        num_clouds: Number of clouds where `batch` is given.

    Raises:
        ValueError: Where there are fewer than 2 points or dimensions, or a shape does not fit.
        TypeError: Where the points are not real floating-point numbers.
    """
    if not x.is_floating_point():
        raise TypeError(f"`x` must be of a floating-point dtype, got {x.dtype}")
    if x.ndim < 2 or x.shape[-1] < 2:
        raise ValueError(f"`x` must have shape (..., N, d) with d of at least 2, got {tuple(x.shape)}")
    if x.shape[-2] < 2 and batch is None:
        raise ValueError(f"`x` has {x.shape[-2]} points: a cloud has no frame with fewer than 2")
    for name, given in (("mask", mask), ("weights", weights)):
        if given is not None and given.shape != x.shape[:-1]:
            raise ValueError(f"`{name}` must have shape {tuple(x.shape[:-1])}, got {tuple(given.shape)}")
    if batch is None and num_clouds is not None:
        raise ValueError("`num_clouds` belongs to `batch`, which is None")
    if batch is not None:
        num_clouds = _check_batch(x, mask, batch, num_clouds)
        batch = batch.long()
    points = x.float() if x.dtype.itemsize < 4 else x
    present = torch.ones_like(points[..., 0]) if weights is None else weights.to(points.dtype)
    if mask is not None:
        # What lies in the padding may be anything, NaN too.
        points = torch.where(mask[..., None], points, 0.0)
        present = torch.where(mask, present, 0.0)
    return Clouds(points, present, batch, num_clouds or 0)


def _check_batch(x: Tensor, mask: Tensor | None, batch: Tensor, num_clouds: int | None) -> int:
    """Check what belongs to ragged clouds, and return their number."""
    if mask is not None:
        raise ValueError("`mask` is for dense clouds, and `batch` for ragged ones: give one of them")
    if x.ndim != 2 or batch.shape != x.shape[:1]:
        raise ValueError(
            f"`batch` must have shape (N,) for points (N, d), got {tuple(batch.shape)} for {tuple(x.shape)}"
        )
    if num_clouds is None:
        return int(batch.amax()) + 1 if len(batch) else 0
    return num_clouds


def totals(clouds: Clouds, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*result"]:
    """Return weighted sums over the points of each cloud: `(*B, N, c)` to `(*B, c)`.

    Args:
        clouds: The clouds.
        values: Values at their points.
    """
    weighted = values * clouds.weights[..., None]
    if clouds.batch is None:
        return weighted.sum(-2)
    return weighted.new_zeros(clouds.num_clouds, values.shape[-1]).index_add(0, clouds.batch, weighted)


def centroids(clouds: Clouds) -> Float[Tensor, "*batch 1 d"]:
    """Return weighted means; zero for clouds without weight.

    Args:
        clouds: The clouds.
    """
    weight = totals(clouds, torch.ones_like(clouds.points[..., :1]))[..., None, :]
    share = torch.where(weight > 0, weight, 1.0).reciprocal()
    # Twice: far from zero, a sum of the coordinates themselves would lose digits.
    first = totals(clouds, clouds.points.detach())[..., None, :] * share
    return first + totals(clouds, offsets_from(clouds, first))[..., None, :] * share


def offsets_from(clouds: Clouds, origin: Float[Tensor, "*batch 1 d"]) -> Float[Tensor, "*points d"]:
    """Return the points as seen from an origin of each cloud.

    Args:
        clouds: The clouds.
        origin: The origins.
    """
    return clouds.points - _spread(clouds, origin)


def scaled(clouds: Clouds, offsets: Float[Tensor, "*points d"]) -> Float[Tensor, "*points d"]:
    """Return offsets divided by the largest coordinate of their cloud, a constant for autograd.

    Args:
        clouds: The clouds.
        offsets: As `offsets_from` returns.
    """
    present = torch.where((clouds.weights > 0)[..., None], offsets, 0.0)
    sizes = present.detach().abs().amax(-1, keepdim=True)
    if clouds.batch is None:
        largest = sizes.amax(-2, keepdim=True)
    else:
        start = sizes.new_zeros(clouds.num_clouds, 1)
        largest = start.scatter_reduce(0, clouds.batch[:, None], sizes, "amax")[:, None]
    return present / _spread(clouds, torch.where(largest > 0, largest, 1.0))


def second_moments(clouds: Clouds, offsets: Float[Tensor, "*points d"]) -> Float[Tensor, "*batch d d"]:
    """Return the weighted sums of outer products.

    Args:
        clouds: The clouds.
        offsets: As `offsets_from` returns.
    """
    weighted = offsets * clouds.weights[..., None]
    if clouds.batch is None:
        return weighted.mT @ offsets
    d = offsets.shape[-1]
    outer = weighted[:, :, None] * offsets[:, None, :]
    return outer.new_zeros(clouds.num_clouds, d, d).index_add(0, clouds.batch, outer)


def seen_from(
    clouds: Clouds, offsets: Float[Tensor, "*points d"], axes: Float[Tensor, "*batch d d"]
) -> Float[Tensor, "*points d"]:
    """Return coordinates along the columns of each cloud's axes.

    Args:
        clouds: The clouds.
        offsets: As `offsets_from` returns.
        axes: The axes.
    """
    if clouds.batch is None:
        return offsets @ axes
    return torch.einsum("nd,nde->ne", offsets, axes[clouds.batch])


def padded(clouds: Clouds) -> Clouds:
    """Return the same clouds dense, padded to the largest where they were ragged.

    Args:
        clouds: The clouds.
    """
    if clouds.batch is None:
        return clouds
    order = clouds.batch.argsort(stable=True)
    counts = clouds.batch.bincount(minlength=clouds.num_clouds)
    longest = max(2, int(counts.amax())) if clouds.num_clouds else 2
    batch = clouds.batch[order]
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[batch]
    points = clouds.points.new_zeros(clouds.num_clouds, longest, clouds.points.shape[-1])
    weights = clouds.weights.new_zeros(clouds.num_clouds, longest)
    points = points.index_put((batch, place), clouds.points[order])
    return Clouds(points, weights.index_put((batch, place), clouds.weights[order]), None, 0)


def _spread(clouds: Clouds, values: Tensor) -> Tensor:
    """Return a value of each cloud, `(*B, 1, c)`, at each of its points."""
    return values if clouds.batch is None else values[clouds.batch, 0]
