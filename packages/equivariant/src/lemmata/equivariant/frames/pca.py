r"""Frames of point clouds from their principal axes: what makes any network equivariant by averaging.

A frame maps a cloud $X$ to finitely many elements of a group with $F(g X) = g F(X)$. Here an element is a
rotation $R$, whose columns are the axes, and an origin $t$; the cloud seen from it is $(x - t) R$. Principal
axes are known up to their signs, so that a cloud in $d$ dimensions has $2^d$ frames under E(d) and
$2^{d-1}$, those of determinant 1, under SE(d). O(d) and SO(d) keep the origin where it is; `"T"` moves the
origin alone. Clouds come dense, with a mask where they are padded, or ragged, with the index of each point's
cloud as PyTorch Geometric has it.

Two equal variances leave the axes undetermined: `gap` tells how far a cloud is from that. A frame then is
one of many, and what is averaged over it jumps; see `weighted_frames` for frames that do not.

Axis letters used below: `B` clouds (any number of axes), `F` frames, `N` points, `d` dimensions.

References:
    O. Puny, M. Atzmon, H. Ben-Hamu, I. Misra, A. Grover, E. J. Smith, Y. Lipman, Frame Averaging for
    Invariant and Equivariant Network Design, ICLR 2022, arXiv:2110.03336.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.equivariant.frames.clouds import (
    Clouds,
    centroids,
    gather_clouds,
    offsets_from,
    scaled,
    second_moments,
    seen_from,
    totals,
)
from lemmata.equivariant.frames.eigenvectors import symmetric_eigenvectors

__all__ = [
    "DegenerateFrameError",
    "Frames",
    "Group",
    "axis_signs",
    "detached",
    "pca_frames",
    "require_gap",
    "selected",
    "skew_frames",
]

Group = Literal["SE", "E", "SO", "O", "T"]
MAX_FRAMES = 1024
TOL = 1e-6


class Frames(NamedTuple):
    """Frames of each of a batch of clouds.

    Attributes:
        rotation: Orthogonal matrices whose columns are axes, shape `(*B, F, d, d)`.
        origin: Where the axes start, shape `(*B, 1, d)`.
        gap: How well the axes are determined, shape `(*B,)`, from 0 (not at all) to at most 1. For principal
            axes the smallest difference of two variances divided by the sum of all.
        weight: Weights of the frames, shape `(*B, F)`, which sum to 1; None where all are equal.
    """

    rotation: Float[Tensor, "*batch frame d d"]
    origin: Float[Tensor, "*batch 1 d"]
    gap: Float[Tensor, "*batch"]
    weight: Float[Tensor, "*batch frame"] | None = None


class DegenerateFrameError(ValueError):
    """A cloud does not determine its axes.

    Args:
        gap: The smallest of the clouds' gaps.
        tol: What it had to reach.

    Attributes:
        gap: As above.
    """

    def __init__(self, gap: float, tol: float) -> None:
        super().__init__(
            f"the smallest gap (={gap:.3g}) of the clouds is below `tol` (={tol:g}): two principal axes of "
            "one of them are not told apart, and frames made of them are arbitrary"
        )
        self.gap = gap
        self.tol = tol

    def __reduce__(self) -> tuple[type["DegenerateFrameError"], tuple[float, float]]:
        return type(self), (self.gap, self.tol)


def pca_frames(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    group: Group = "SE",
    tol: float = TOL,
    weights: Tensor | None = None,
    batch: Tensor | None = None,
    num_clouds: int | None = None,
    strict: bool = False,
) -> Frames:
    """Return the frames that principal axes, with all their signs, make.

    Half-precision clouds have frames in float32.

    Args:
        x: Points, shape `(*B, N, d)`; with `batch` `(N, d)`.
        mask: True where a point exists, shape `(*B, N)`; dense clouds only.
        group: `"SE"` or `"E"`: about the centroid, without or with reflections; `"SO"` or `"O"`: about zero;
            `"T"`: centroids, and axes as they are.
        tol: Gaps below it count as none: in strict mode, and in derivatives, which stay finite. Relative.
        weights: Weights of the points, not negative, of the shape of `mask`; masses, for example.
        batch: Index of each point's cloud, shape `(N,)`, in any order; a cloud of one point has gap 0.
        num_clouds: Number of clouds where `batch` is given; one more than its largest entry where None,
            for which an accelerator has to be waited for.
        strict: Raise where a gap is below `tol`.

    Returns:
        Frames, the axis of the smallest variance first; $2^d$ of them, $2^{d-1}$ for SE and SO, 1 for T.

    Raises:
        ValueError: Where the clouds have fewer than 2 points, fewer than 2 dimensions, or so many that there
            would be more than 1024 frames; or a shape or option does not fit.
        TypeError: Where the points are not real floating-point numbers.
        DegenerateFrameError: In strict mode, where a gap is below `tol`.

    Examples:
        >>> x = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0]])
        >>> frames = pca_frames(x, group="E")
        >>> frames.rotation.shape, frames.origin
        (torch.Size([4, 2, 2]), tensor([[2.6667, 0.3333]]))
        >>> pca_frames(x, group="SE").rotation.det().round()
        tensor([1., 1.])
    """
    clouds = gather_clouds(x, mask, weights, batch, num_clouds)
    signs = axis_signs(x.shape[-1], group, x.device)
    with torch.autocast(x.device.type, enabled=False):
        axes, origin, _, gap = _principal_axes(clouds, group, tol)
    rotation = axes[..., None, :, :] * signs.to(axes.dtype)[:, None, :]
    frames = Frames(rotation, origin, gap)
    if strict:
        require_gap(frames, tol)
    return frames


def skew_frames(
    x: Tensor,
    mask: Tensor | None = None,
    *,
    group: Group = "SE",
    tol: float = TOL,
    weights: Tensor | None = None,
    batch: Tensor | None = None,
    num_clouds: int | None = None,
    strict: bool = False,
) -> Frames:
    r"""Return one frame of a cloud: principal axes pointing where the cloud has its longer tail.

    The sign of an axis is that of the third moment $\sum_n w_n ((x_n - t) \cdot v)^3$. Under SE and SO the
    axis with the smallest relative moment takes the sign that makes the determinant 1, so that the normal
    of a flat cloud is determined. A quarter or an eighth of the cost of `pca_frames`, at the price of jumps
    where a moment changes its sign.

    Args:
        x: As `pca_frames`.
        mask: As `pca_frames`.
        group: As `pca_frames`.
        tol: As `pca_frames`.
        weights: As `pca_frames`.
        batch: As `pca_frames`.
        num_clouds: As `pca_frames`.
        strict: As `pca_frames`.

    Returns:
        Frames with F = 1. The gap is the smaller of that of `pca_frames` and the smallest relative third
        moment $|\sum_n w_n z_n^3| / \sum_n w_n |z_n|^3$ that a sign was read from.

    Raises:
        ValueError: As `pca_frames`.
        TypeError: As `pca_frames`.
        DegenerateFrameError: As `pca_frames`.

    Examples:
        >>> x = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0]])
        >>> skew_frames(x).rotation.shape
        torch.Size([1, 2, 2])
    """
    clouds = gather_clouds(x, mask, weights, batch, num_clouds)
    axis_signs(x.shape[-1], group, x.device)
    with torch.autocast(x.device.type, enabled=False):
        axes, origin, offsets, gap = _principal_axes(clouds, group, tol)
        if group != "T":
            signs, skewness = _skew_signs(clouds, axes, offsets)
            if group in {"SE", "SO"}:
                signs, skewness = _proper(signs, skewness)
            axes = axes * signs[..., None, :]
            gap = torch.minimum(gap, skewness.amin(-1))
    frames = Frames(axes[..., None, :, :], origin, gap)
    if strict:
        require_gap(frames, tol)
    return frames


def detached(frames: Frames) -> Frames:
    """Return frames as constants of autograd.

    Args:
        frames: Of the clouds.
    """
    weight = None if frames.weight is None else frames.weight.detach()
    return Frames(frames.rotation.detach(), frames.origin.detach(), frames.gap.detach(), weight)


def selected(frames: Frames, index: Int[Tensor, "*batch"]) -> Frames:
    """Return one frame of each cloud.

    Args:
        frames: Of the clouds.
        index: Which, from 0 to F - 1.
    """
    d = frames.rotation.shape[-1]
    places = index[..., None, None, None].expand(*index.shape, 1, d, d)
    return Frames(frames.rotation.gather(-3, places), frames.origin, frames.gap)


def require_gap(frames: Frames, tol: float) -> None:
    """Raise where a cloud does not determine its axes.

    Args:
        frames: Of the clouds.
        tol: The least gap allowed.

    Raises:
        DegenerateFrameError: Where a gap is below it.
    """
    smallest = frames.gap.detach().amin().item() if frames.gap.numel() else 1.0
    if not smallest >= tol:
        raise DegenerateFrameError(smallest, tol)


def axis_signs(d: int, group: Group, device: torch.device) -> Int[Tensor, "frame d"]:
    """Return the signs of the axes in each frame, made on the device itself.

    Args:
        d: Number of dimensions.
        group: As `pca_frames`.
        device: Of the result.

    Raises:
        ValueError: Where the group is unknown or there would be too many frames.
    """
    if group not in {"SE", "E", "SO", "O", "T"}:
        raise ValueError(f"`group` (={group!r}) must be 'SE', 'E', 'SO', 'O' or 'T'")
    free = {"T": 0, "SE": d - 1, "SO": d - 1}.get(group, d)
    if 2**free > MAX_FRAMES:
        raise ValueError(
            f"`x` has {d} dimensions and hence {2**free} frames under {group!r}: at most {MAX_FRAMES} are "
            "made"
        )
    number = torch.arange(2**free, device=device)
    signs = 1 - 2 * ((number[:, None] >> torch.arange(free, device=device)) & 1)
    rest = signs.prod(-1, keepdim=True).expand(-1, d - free) if free == d - 1 else signs.new_ones(1, d - free)
    return torch.cat([signs, rest.expand(len(signs), -1)], dim=-1)


def _principal_axes(clouds: Clouds, group: Group, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return axes `(*B, d, d)` of determinant 1, origins, points seen from them, scaled, and gaps."""
    centred = group in {"SE", "E", "T"}
    centroid = centroids(clouds)
    origin = centroid if centred else torch.zeros_like(centroid)
    offsets = scaled(clouds, offsets_from(clouds, origin))
    if group == "T":
        axes = torch.eye(offsets.shape[-1], dtype=offsets.dtype, device=offsets.device)
        gap = torch.ones_like(origin[..., 0, 0])
        return axes.expand(*gap.shape, *axes.shape), origin, offsets, gap
    covariance = second_moments(clouds, offsets)
    trace = totals(clouds, offsets.square()).sum(-1)
    values, vectors = symmetric_eigenvectors(covariance / _nonzero(trace)[..., None, None], tol)
    # The sign of the determinant is eigh's whim; a constant for autograd.
    last = torch.linalg.det(vectors.detach()).sign()[..., None, None]
    axes = torch.cat([vectors[..., :-1], vectors[..., -1:] * last], dim=-1)
    return axes, origin, offsets, values.diff(dim=-1).amin(-1)


def _skew_signs(clouds: Clouds, axes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return signs of third moments along the axes, and how large these are, relative."""
    coordinates = seen_from(clouds, offsets, axes)
    third = totals(clouds, coordinates**3)
    skewness = third.abs() / _nonzero(totals(clouds, coordinates.abs() ** 3))
    return torch.where(third < 0, -1.0, 1.0).to(axes.dtype), skewness


def _proper(signs: Tensor, skewness: Tensor) -> tuple[Tensor, Tensor]:
    """Give the axis of the smallest skewness the sign that makes the determinant 1; forget its skewness."""
    weakest = torch.zeros_like(signs).scatter(-1, skewness.argmin(-1, keepdim=True), 1.0)
    determinant = signs.prod(-1, keepdim=True)
    return signs * torch.where(weakest > 0, determinant, 1.0), skewness + weakest


def _nonzero(value: Tensor) -> Tensor:
    """Return values with zeros replaced by one, for denominators of what is zero too."""
    return torch.where(value > 0, value, 1.0)
