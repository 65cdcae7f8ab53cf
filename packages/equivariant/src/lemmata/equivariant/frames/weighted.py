r"""Frames that move continuously, through symmetric clouds too.

No finite set of principal axes does: near two equal variances the axes turn by any angle while the cloud
hardly moves, and a canonical choice that is continuous does not exist. Here every tuple of $d - 1$ points
makes a frame, by the Gram-Schmidt process, with a weight that vanishes where the process breaks down. The
first axis points from the origin to a point $i$, with weight in proportion to $|x_i|^2$; the next to what of
a point $j$ is orthogonal to it, $r_{ij}$, with weight in proportion to $|r_{ij}|^2$ among all $j$; and so on;
the last axis is their cross product. Weights are normalised level by level, so that the weight of an axis
does not depend on how well the next ones are determined.

Averages of a continuous network over these frames are continuous in the positions everywhere, where
positions are all that goes in: a frame that is ill-defined sees a cloud that does not depend on the choice.
Vectors from outside (velocities, for example) bring back a jump at clouds on a line, and there alone in three
dimensions.

The price is the number of frames, $N^{d-1}$ times the choices of signs. `candidates` caps it at
$k^{d-1}$: at each level the $k$ largest weights stay, each less the one that comes next, so that a
point enters and leaves with weight zero. This is continuous unless more than $k$ points are equally far
out, as in clouds more symmetric than $k$; beyond, weights are even among the first $k$, and a jump is back.

Axis letters used below: `B` clouds, `F` frames, `M` tuples of points so far, `N` points, `K` candidates, `d`
dimensions.

References:
    N. Dym, H. Lawrence, J. W. Siegel, Equivariant Frames and the Impossibility of Continuous
    Canonicalization, ICML 2024, arXiv:2402.16077.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.frames.clouds import Clouds, centroids, gather_clouds, offsets_from, padded, scaled
from lemmata.equivariant.frames.pca import Frames, Group, axis_signs

__all__ = ["weighted_frames"]


def weighted_frames(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    group: Group = "SE",
    weights: Tensor | None = None,
    batch: Tensor | None = None,
    num_clouds: int | None = None,
    candidates: int | None = None,
    flips: bool = True,
) -> Frames:
    """Return frames made by tuples of points, with weights.

    Args:
        x: As `pca_frames`.
        mask: As `pca_frames`.
        group: As `pca_frames`.
        weights: As `pca_frames`; they enter the weights of the frames too.
        batch: As `pca_frames`. Clouds are padded to the largest: an accelerator has to be waited for.
        num_clouds: As `pca_frames`.
        candidates: The largest number of points that make each axis; all where None.
        flips: Use all signs of the axes. Without them there are fewer frames, 1 for each tuple under SE and 2
            under E, and averages are continuous for scalars alone.

    Returns:
        Frames with weights. The gap is the smallest share, over the levels, of the second moment that lies
        outside of the axes so far; in three dimensions 0 for points on a line alone. Axes that nothing
        determines are zero.

    Raises:
        ValueError: As `pca_frames`, and where `candidates` is not positive.
        TypeError: As `pca_frames`.

    Examples:
        >>> frames = weighted_frames(torch.randn(10, 5, 3), flips=False)
        >>> frames.rotation.shape, torch.allclose(frames.weight.sum(-1), torch.ones(10))
        (torch.Size([10, 25, 3, 3]), True)
    """
    if candidates is not None and candidates < 1:
        raise ValueError(f"`candidates` (={candidates}) must be at least 1")
    clouds = padded(gather_clouds(x, mask, weights, batch, num_clouds))
    signs = axis_signs(x.shape[-1], group, x.device)
    with torch.autocast(x.device.type, enabled=False):
        centroid = centroids(clouds)
        origin = centroid if group in {"SE", "E", "T"} else torch.zeros_like(centroid)
        if group == "T":
            eye = torch.eye(x.shape[-1], dtype=origin.dtype, device=origin.device)
            ones = torch.ones_like(origin[..., 0])
            return Frames(eye.expand(*ones.shape[:-1], 1, *eye.shape), origin, ones[..., 0], ones[..., :1])
        if not flips:
            signs = signs[(signs[:, :-1] > 0).all(-1)]
        found = _tuples(clouds, scaled(clouds, offsets_from(clouds, origin)), candidates)
        axes = torch.cat([found.axes, _orthogonal(found.axes)[..., None]], dim=-1)
        rotation = (axes[..., None, :, :] * signs.to(axes.dtype)[:, None, :]).flatten(-4, -3)
    weight = (found.weight / len(signs)).repeat_interleave(len(signs), dim=-1)
    return Frames(rotation, origin, found.gap, weight)


class _Tuples(NamedTuple):
    """Axes made by tuples of points, `(*B, M, d, levels)`, their weights `(*B, M)`, and the gap `(*B,)`."""

    axes: Float[Tensor, "*batch m d level"]
    weight: Float[Tensor, "*batch m"]
    gap: Float[Tensor, "*batch"]


def _tuples(clouds: Clouds, offsets: Float[Tensor, "*batch n d"], candidates: int | None) -> _Tuples:
    """Run the Gram-Schmidt process over all tuples of d - 1 points."""
    lead, d = offsets.shape[:-2], offsets.shape[-1]
    floor = (10 * torch.finfo(offsets.dtype).eps) ** 2
    whole = _moment(clouds, offsets[..., None, :, :])[..., 0]
    residual, weight = offsets[..., None, :, :], offsets.new_ones(*lead, 1)
    axes, gap = offsets.new_zeros(*lead, 1, d, 0), torch.ones_like(whole)
    for _ in range(d - 1):
        share = (weight * _moment(clouds, residual)).sum(-1) / torch.where(whole > 0, whole, 1.0)
        gap = torch.minimum(gap, share)
        lengths = residual.square().sum(-1)
        reliable = lengths > floor
        sizes = clouds.weights[..., None, :] * torch.where(reliable, lengths - floor, 0.0)
        new = residual * torch.where(reliable, lengths, 1.0).rsqrt()[..., None] * reliable[..., None]
        sizes, index = _keep(sizes, candidates)
        new = new.gather(-2, index[..., None].expand(*index.shape, d))
        total = sizes.sum(-1, keepdim=True)
        even = torch.full_like(sizes, 1 / sizes.shape[-1])
        shares = torch.where(total > 0, sizes / torch.where(total > 0, total, 1.0), even)
        weight = (weight[..., None] * shares).flatten(-2)
        axes = axes[..., None, :, :].expand(*axes.shape[:-2], index.shape[-1], *axes.shape[-2:])
        new, axes = new.flatten(-3, -2), axes.flatten(-4, -3)
        # Once more, where a short residual kept digits of the axes before it.
        new = _unit(new - (axes @ (axes.mT @ new[..., None]))[..., 0])
        axes = torch.cat([axes, new[..., None]], dim=-1)
        if axes.shape[-1] < d - 1:
            residual = offsets[..., None, :, :]
            for _ in range(2):
                residual = residual - (residual @ axes) @ axes.mT
    return _Tuples(axes, weight, gap)


def _moment(clouds: Clouds, residual: Float[Tensor, "*batch m n d"]) -> Float[Tensor, "*batch m"]:
    """Return the weighted sum of squared lengths of what is left of the points."""
    return (clouds.weights[..., None, :] * residual.square().sum(-1)).sum(-1)


def _keep(sizes: Tensor, candidates: int | None) -> tuple[Tensor, Tensor]:
    """Return the largest sizes, each less the one that comes next, and where they are."""
    if candidates is None or candidates >= sizes.shape[-1]:
        index = torch.arange(sizes.shape[-1], device=sizes.device)
        return sizes, index.expand(sizes.shape)
    largest, index = sizes.topk(candidates + 1, dim=-1)
    return largest[..., :-1] - largest[..., -1:], index[..., :-1]


def _unit(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return vectors of length 1, or zero where there is none."""
    squares = x.square().sum(-1, keepdim=True)
    return x * torch.where(squares > 0, squares, 1.0).rsqrt()


def _orthogonal(axes: Float[Tensor, "*batch d level"]) -> Float[Tensor, "*batch d"]:
    """Return the vector orthogonal to d - 1 axes that makes the determinant positive."""
    d = axes.shape[-2]
    if d == 3:
        normal: Tensor = torch.linalg.cross(axes[..., 0], axes[..., 1])
        return normal
    minors = [
        torch.linalg.det(torch.cat([axes[..., :i, :], axes[..., i + 1 :, :]], dim=-2)) * (-1) ** (i + d - 1)
        for i in range(d)
    ]
    return torch.stack(minors, dim=-1)
