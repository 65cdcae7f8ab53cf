r"""How a frame acts on what goes into a network and on what comes out.

What a tensor holds is said by a word: `"positions"` and `"vectors"` (on the last axis), `"matrices"` (on the
last two), irreps such as `"8x0e + 4x1o"` (on the last axis, in three dimensions) or `"scalars"`, which stay.
A frame $(R, t)$ takes positions to $(x - t) R$, vectors to $v R$ and matrices to $R^T M R$, written for rows;
the way back is the inverse.

Tensors of dense clouds start with the axes of their batch and gain the axis of the frames behind these. In
graph batches, as PyTorch Geometric stores them, the axis of the frames comes first, so that each frame
yields a copy of the whole batch; `batch` tells what cloud each row belongs to.

Axis letters used below: `B` clouds (any number of axes), `F` frames, `N` rows, `M` what lies between, `d`
dimensions, `D` length of irreps.
"""

import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lemmata.equivariant.frames.pca import Frames
from lemmata.equivariant.o3.irreps import Irreps

__all__ = ["Kind", "check_kind", "frame_from", "frame_mean", "frame_to"]

Kind = str | Irreps
NAMES = ("positions", "vectors", "matrices", "scalars")


def frame_to(
    x: Shaped[Tensor, "*shape"], frames: Frames, kind: Kind = "positions", *, batch: Tensor | None = None
) -> Shaped[Tensor, "*framed"]:
    """Return a tensor as it is seen from each frame, in its own dtype.

    Args:
        x: Shape `(*B, ..., d)`, `(*B, ..., d, d)` for matrices, `(*B, ..., D)` for irreps; with `batch` `(N,
            ..., d)` and so on.
        frames: Of the clouds.
        kind: What the tensor holds.
        batch: Index of each row's cloud, shape `(N,)`.

    Returns:
        Shape `(*B, F, ..., d)`; with `batch` `(F, N, ..., d)`.

    Raises:
        ValueError: Where the kind is unknown or the shape does not fit it.

    Examples:
        >>> from lemmata.equivariant.frames import pca_frames
        >>> x = torch.randn(10, 7, 3)
        >>> frames = pca_frames(x)
        >>> frame_to(x, frames).shape
        torch.Size([10, 4, 7, 3])
    """
    kind = check_kind(kind)
    _check_shape(x, frames, kind, batch)
    if kind == "scalars":
        return _repeat(x, frames, batch)
    with torch.autocast(x.device.type, enabled=False):
        values = x.to(torch.promote_types(x.dtype, frames.rotation.dtype))
        if kind == "positions":
            values = values - _origin(values, frames, batch)
        turn = _representation(frames.rotation, kind)
        seen = _rows(values, turn, frames, batch)
        if kind == "matrices":
            seen = _rows_of_framed(seen.mT, turn, frames, batch).mT
    return seen.to(x.dtype)


def frame_from(
    y: Shaped[Tensor, "*framed"], frames: Frames, kind: Kind = "positions", *, batch: Tensor | None = None
) -> Shaped[Tensor, "*framed"]:
    """Return what was computed in each frame as it is seen from outside; the inverse of `frame_to`.

    Args:
        y: Shape `(*B, F, ..., d)`; with `batch` `(F, N, ..., d)`.
        frames: Of the clouds.
        kind: What the tensor holds.
        batch: Index of each row's cloud, shape `(N,)`.

    Returns:
        The same shape.

    Raises:
        ValueError: Where the kind is unknown or the shape does not fit it.

    Examples:
        >>> from lemmata.equivariant.frames import pca_frames
        >>> x = torch.randn(7, 3, dtype=torch.float64)
        >>> frames = pca_frames(x)
        >>> torch.allclose(frame_from(frame_to(x, frames), frames), x.expand(4, 7, 3))
        True
    """
    kind = check_kind(kind)
    _check_shape(y, frames, kind, batch, framed=True)
    if kind == "scalars":
        return y
    with torch.autocast(y.device.type, enabled=False):
        values = y.to(torch.promote_types(y.dtype, frames.rotation.dtype))
        back = _representation(frames.rotation, kind).mT
        seen = _rows_of_framed(values, back, frames, batch)
        if kind == "matrices":
            seen = _rows_of_framed(seen.mT, back, frames, batch).mT
        if kind == "positions":
            origin = _origin(seen.select(0 if batch is not None else frames.gap.ndim, 0), frames, batch)
            seen = seen + (origin if batch is not None else origin.unsqueeze(frames.gap.ndim))
    return seen.to(y.dtype)


def frame_mean(
    y: Shaped[Tensor, "*framed"], frames: Frames, *, batch: Tensor | None = None
) -> Shaped[Tensor, "*shape"]:
    """Return the average over frames, weighted where the frames are.

    Args:
        y: Shape `(*B, F, ...)`; with `batch` `(F, N, ...)`.
        frames: Of the clouds.
        batch: Index of each row's cloud, shape `(N,)`.

    Returns:
        Shape `(*B, ...)`; with `batch` `(N, ...)`.
    """
    axis = 0 if batch is not None else frames.gap.ndim
    if frames.weight is None:
        return y.mean(axis)
    weight = frames.weight if batch is None else frames.weight[batch].T
    weight = weight.reshape(*weight.shape, *[1] * (y.ndim - weight.ndim))
    return (y * weight).sum(axis).to(y.dtype)


def check_kind(kind: Kind) -> Kind:
    """Return a kind's word, or its irreps.

    Args:
        kind: A word or irreps.

    Raises:
        ValueError: Where it is neither.
    """
    if isinstance(kind, str) and kind not in NAMES:
        try:
            return Irreps(kind)
        except ValueError:
            raise ValueError(
                f"kind {kind!r} is unknown: expected one of {', '.join(map(repr, NAMES))} or irreps"
            ) from None
    return kind


def _check_shape(
    x: Tensor, frames: Frames, kind: Kind, batch: Tensor | None, *, framed: bool = False
) -> None:
    """Raise where a tensor cannot be of its kind."""
    d, lead = frames.rotation.shape[-1], frames.gap.shape
    if isinstance(kind, Irreps):
        if d != 3:
            raise ValueError(f"irreps (={kind}) live in 3 dimensions, and the frames have {d}")
        kind.check(x, "x")
    tail = {"positions": (d,), "vectors": (d,), "matrices": (d, d)}.get(str(kind), ())
    if batch is None:
        start = (*lead, frames.rotation.shape[-3]) if framed else tuple(lead)
    else:
        start = (frames.rotation.shape[-3], len(batch)) if framed else (len(batch),)
    middle = x.ndim - len(start) - len(tail)
    if middle < 0 or tuple(x.shape[: len(start)]) != start or tuple(x.shape[x.ndim - len(tail) :]) != tail:
        expected = ", ".join(map(str, (*start, "...", *tail)))
        raise ValueError(f"{kind} must have shape ({expected}) for these frames, got {tuple(x.shape)}")


def _representation(rotation: Float[Tensor, "*batch f d d"], kind: Kind) -> Float[Tensor, "*batch f m m"]:
    """Return the matrix by which rows of a kind enter the frame from the right."""
    return kind.d_from_matrix(rotation) if isinstance(kind, Irreps) else rotation


def _origin(x: Tensor, frames: Frames, batch: Int[Tensor, " n"] | None) -> Tensor:
    """Return origins shaped to be subtracted from positions `(*B, ..., d)` or `(N, ..., d)`."""
    origin = frames.origin if batch is None else frames.origin[batch]
    lead = origin.ndim - 2
    return origin.reshape(*origin.shape[:lead], *[1] * (x.ndim - lead - 1), origin.shape[-1])


def _rows(x: Tensor, turn: Tensor, frames: Frames, batch: Int[Tensor, " n"] | None) -> Tensor:
    """Multiply rows `(*B, ..., d)` or `(N, ..., d)` by the matrices of each frame."""
    if batch is not None:
        return torch.einsum("n...d,nfde->fn...e", x, turn[batch])
    lead = frames.gap.ndim
    rows = x.reshape(*x.shape[:lead], 1, math.prod(x.shape[lead:-1]), x.shape[-1]) @ turn
    return rows.reshape(*rows.shape[: lead + 1], *x.shape[lead:])


def _rows_of_framed(y: Tensor, turn: Tensor, frames: Frames, batch: Int[Tensor, " n"] | None) -> Tensor:
    """Multiply rows `(*B, F, ..., d)` or `(F, N, ..., d)` by the matrix of their own frame."""
    if batch is not None:
        return torch.einsum("fn...d,nfde->fn...e", y, turn[batch])
    lead = frames.gap.ndim + 1
    rows = y.reshape(*y.shape[:lead], math.prod(y.shape[lead:-1]), y.shape[-1]) @ turn
    return rows.reshape(y.shape)


def _repeat(x: Tensor, frames: Frames, batch: Tensor | None) -> Tensor:
    """Return a tensor once for each frame, without copying it."""
    count = frames.rotation.shape[-3]
    if batch is not None:
        return x.expand(count, *x.shape)
    lead = frames.gap.ndim
    return x.unsqueeze(lead).expand(*x.shape[:lead], count, *x.shape[lead:])
