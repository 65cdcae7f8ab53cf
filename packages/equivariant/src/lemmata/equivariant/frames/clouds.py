"""Sums over the points of clouds, whether they are stored dense or ragged.

Frames need a handful of sums: centroids, second and third moments, the largest coordinate. `gather_clouds`
checks what the user gave and returns an object that computes them, so that the rest is written once.

Axis letters used below: `B` clouds (any number of axes), `N` points, `d` dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Clouds", "gather_clouds"]


@dataclass(frozen=True)
class Clouds:
    """Points, their weights and what cloud each belongs to.

    Args:
        points: Shape `(*B, N, d)`, at least float32, zero where padded.
        weights: Shape `(*B, N)`, zero where padded.
        batch: Index of each point's cloud, for ragged clouds, whose points are `(N, d)`.
        num_clouds: Number of ragged clouds; 0 for dense ones.
    """

    points: Float[Tensor, "*batch n d"]
    weights: Float[Tensor, "*batch n"]
    batch: Int[Tensor, " n"] | None
    num_clouds: int

    def total(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*result"]:
        """Return weighted sums over the points of each cloud: `(*B, N, c)` to `(*B, c)`."""
        weighted = values * self.weights[..., None]
        if self.batch is None:
            return weighted.sum(-2)
        return weighted.new_zeros(self.num_clouds, values.shape[-1]).index_add(0, self.batch, weighted)

    def centroid(self) -> Float[Tensor, "*batch 1 d"]:
        """Return weighted means; zero for clouds without weight."""
        weight = self.total(torch.ones_like(self.points[..., :1]))[..., None, :]
        share = torch.where(weight > 0, weight, 1.0).reciprocal()
        # Twice: far from zero, a sum of the coordinates themselves would lose digits.
        first = self.total(self.points.detach())[..., None, :] * share
        return first + self.total(self.offsets(first))[..., None, :] * share

    def offsets(self, origin: Float[Tensor, "*batch 1 d"]) -> Float[Tensor, "*points d"]:
        """Return the points seen from their cloud's origin."""
        return self.points - self._spread(origin)

    def scaled(self, offsets: Float[Tensor, "*points d"]) -> Float[Tensor, "*points d"]:
        """Return offsets divided by the largest coordinate of their cloud, a constant for autograd."""
        present = torch.where((self.weights > 0)[..., None], offsets, 0.0)
        largest = self._largest(present.detach().abs()).amax(-1, keepdim=True)
        return present / self._spread(torch.where(largest > 0, largest, 1.0))

    def second_moment(self, offsets: Float[Tensor, "*points d"]) -> Float[Tensor, "*batch d d"]:
        """Return the weighted sums of outer products."""
        weighted = offsets * self.weights[..., None]
        if self.batch is None:
            return weighted.mT @ offsets
        d = offsets.shape[-1]
        outer = weighted[:, :, None] * offsets[:, None, :]
        return outer.new_zeros(self.num_clouds, d, d).index_add(0, self.batch, outer)

    def seen_from(self, offsets: Tensor, axes: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*points d"]:
        """Return coordinates along the columns of each cloud's axes."""
        if self.batch is None:
            return offsets @ axes
        return torch.einsum("nd,nde->ne", offsets, axes[self.batch])

    def padded(self) -> "Clouds":
        """Return the same clouds dense, padded to the largest where they were ragged."""
        if self.batch is None:
            return self
        order = self.batch.argsort(stable=True)
        counts = self.batch.bincount(minlength=self.num_clouds)
        longest = max(2, int(counts.amax())) if self.num_clouds else 2
        batch = self.batch[order]
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[batch]
        points = self.points.new_zeros(self.num_clouds, longest, self.points.shape[-1])
        weights = self.weights.new_zeros(self.num_clouds, longest)
        points = points.index_put((batch, place), self.points[order])
        return Clouds(points, weights.index_put((batch, place), self.weights[order]), None, 0)

    def _spread(self, values: Tensor) -> Tensor:
        """Return a value of each cloud, `(*B, 1, c)`, at each of its points."""
        return values if self.batch is None else values[self.batch, 0]

    def _largest(self, values: Tensor) -> Tensor:
        """Return the largest of values that are not negative, by columns, for each cloud: `(*B, 1, c)`."""
        if self.batch is None:
            return values.amax(-2, keepdim=True)
        start = values.new_zeros(self.num_clouds, values.shape[-1])
        return start.scatter_reduce(0, self.batch[:, None].expand_as(values), values, "amax")[:, None]


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
        if mask is not None:
            raise ValueError("`mask` is for dense clouds, and `batch` for ragged ones: give one of them")
        if x.ndim != 2 or batch.shape != x.shape[:1]:
            raise ValueError(
                f"`batch` must have shape (N,) for points (N, d), got {tuple(batch.shape)} for "
                f"{tuple(x.shape)}"
            )
        if num_clouds is None:
            num_clouds = int(batch.amax()) + 1 if len(batch) else 0
    points = x.float() if x.dtype.itemsize < 4 else x
    present = torch.ones_like(points[..., 0]) if weights is None else weights.to(points.dtype)
    if mask is not None:
        # What lies in the padding may be anything, NaN too.
        points = torch.where(mask[..., None], points, 0.0)
        present = torch.where(mask, present, 0.0)
    return Clouds(points, present, batch, num_clouds or 0)
