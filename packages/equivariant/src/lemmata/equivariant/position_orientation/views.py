r"""A graph as it is seen from frames: what turns a grid of orientations without touching the grid.

A network whose grid is turned by $R$ returns what the network with the grid as it is returns for the graph
turned by $R^T$, turned back by $R$. So frames are chosen for each graph, vectors are taken into them, and
results out of them. Several frames of a graph are copies of it in a larger one, over which results are
averaged.

Axis letters used below: `N` points, `E` edges, `G` graphs, `F` frames, `D` dimension of space.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lemmata.equivariant.o3.rotation import rand_rotation

__all__ = ["View", "leave_view", "random_rotations", "view_from"]


class View(NamedTuple):
    """A graph, or copies of it side by side, seen from frames.

    Attributes:
        inputs: Scalars `(F * N, S)` and vectors `(F * N, V, D)` of the points.
        edge_index: Shape `(2, F * E)`.
        edge_vec: Shape `(F * E, D)`.
        turn: Rotations whose columns are the axes, for each point, shape `(F, N, D, D)`; None where those of
            space are used.
    """

    inputs: tuple[Tensor, Tensor]
    edge_index: Tensor
    edge_vec: Tensor
    turn: Tensor | None


def view_from(
    rotation: Tensor | None,
    scalars: Tensor,
    vectors: Tensor,
    edge_index: Tensor,
    edge_vec: Tensor,
    batch: Tensor | None,
) -> View:
    """Return a graph seen from the frames of its parts.

    Args:
        rotation: Rotations whose columns are the axes, shape `(G, F, D, D)`; None for those of space.
        scalars: Shape `(N, S)`.
        vectors: Shape `(N, V, D)`.
        edge_index: Shape `(2, E)`.
        edge_vec: Shape `(E, D)`.
        batch: The graph of each point, shape `(N,)`; all in one where None.
    """
    if rotation is None:
        return View((scalars, vectors), edge_index, edge_vec, None)
    rotation = rotation.to(edge_vec.dtype)
    frames, points = rotation.shape[1], len(scalars)
    turn = rotation.expand(points, -1, -1, -1) if batch is None else rotation[batch]
    turn_FNDD = turn.transpose(0, 1)
    seen_vectors = vectors @ turn_FNDD
    seen_edges = edge_vec[:, None] @ turn_FNDD[:, edge_index[1]]
    shift = points * torch.arange(frames, device=edge_index.device)
    copies = (edge_index[:, None] + shift[:, None]).flatten(1)
    inputs = scalars.repeat(frames, 1), seen_vectors.flatten(0, 1)
    return View(inputs, copies, seen_edges.flatten(0, 1).squeeze(-2), turn_FNDD)


def leave_view(view: View, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return what was found as it is seen from outside, averaged over frames.

    Args:
        view: Of the graph.
        scalars: Shape `(F * N, S)`.
        vectors: Shape `(F * N, V, D)`.
    """
    if view.turn is None:
        return scalars, vectors
    frames, points = view.turn.shape[:2]
    vectors = vectors.reshape(frames, points, *vectors.shape[1:]) @ view.turn.mT
    return scalars.reshape(frames, points, scalars.shape[-1]).mean(0), vectors.mean(0)


def random_rotations(count: int, dim: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform rotations of space or the plane, of the dtype and device of a tensor.

    Args:
        count: Number of rotations.
        dim: 2 or 3.
        like: A tensor.
        generator: Source of the random numbers, on any device.
    """
    device = like.device if generator is None else generator.device
    if dim == 3:
        return rand_rotation(count, generator=generator, dtype=like.dtype, device=device).to(like.device)
    angle = 2 * torch.pi * torch.rand(count, generator=generator, dtype=like.dtype, device=device)
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([cos, -sin, sin, cos], dim=-1)
    return rows.reshape(count, 2, 2).to(like.device)
