r"""Between features of points and functions on the sphere at each point.

A scalar is the constant function, a vector $v$ the function $v \cdot o$ of the orientation $o$. Back, a
function's mean is a scalar and $\frac 1 O \sum_o f(o)\, o$ a vector. Points can also be lifted by their
edges, each of which has a position and an orientation of its own, so that no grid is needed.

Axis letters used below: `N` points, `O` orientations, `C` channels, `D` dimension of space, `E` edges.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "OrientedPoints",
    "edges_to_points",
    "scalars_to_sphere",
    "sphere_to_scalars",
    "sphere_to_vectors",
    "vectors_to_sphere",
]


def scalars_to_sphere(
    scalars: Float[Tensor, "*batch C"], orientations: Float[Tensor, "O D"]
) -> Float[Tensor, "*batch O C"]:
    """Return constant functions of the orientation.

    Args:
        scalars: A value for each channel.
        orientations: Unit vectors of the grid.

    Examples:
        >>> scalars_to_sphere(torch.ones(5, 2), torch.eye(3)).shape
        torch.Size([5, 3, 2])
    """
    return scalars[..., None, :].expand(*scalars.shape[:-1], len(orientations), scalars.shape[-1])


def vectors_to_sphere(
    vectors: Float[Tensor, "*batch C D"], orientations: Float[Tensor, "O D"]
) -> Float[Tensor, "*batch O C"]:
    r"""Return the functions $v \cdot o$.

    Args:
        vectors: A vector for each channel.
        orientations: Unit vectors of the grid.

    Examples:
        >>> vectors_to_sphere(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.eye(3)).squeeze()
        tensor([1., 2., 3.])
    """
    return orientations @ vectors.mT


def sphere_to_scalars(values: Float[Tensor, "*batch O C"]) -> Float[Tensor, "*batch C"]:
    """Return the mean over orientations.

    Args:
        values: Functions of the orientation.
    """
    return values.mean(-2)


def sphere_to_vectors(
    values: Float[Tensor, "*batch O C"], orientations: Float[Tensor, "O D"]
) -> Float[Tensor, "*batch C D"]:
    r"""Return the vectors $\frac 1 O \sum_o f(o)\, o$.

    Of $f(o) = v \cdot o$ this is $v / D$, exactly so on grids that integrate polynomials of degree 2, as
    those of the regular polyhedra do.

    Args:
        values: Functions of the orientation.
        orientations: Unit vectors of the grid.

    Examples:
        >>> from lemmata.equivariant.position_orientation.grids import OrientationGrid
        >>> o = OrientationGrid(12, kind="icosahedron").vectors
        >>> v = torch.tensor([[3.0, 6.0, 9.0]])
        >>> sphere_to_vectors(vectors_to_sphere(v, o), o)
        tensor([[1.0000, 2.0000, 3.0000]])
    """
    return values.mT @ orientations / len(orientations)


class OrientedPoints(NamedTuple):
    """Points with an orientation each, and which of them see which.

    Attributes:
        origin: The node at which a point lies, shape `(P,)`.
        orientation: Unit vectors, shape `(P, D)`; zero where the edge has no length.
        edge_index: Sender and receiver of each pair of points, shape `(2, Q)`.
        edge_vec: From receiver to sender, shape `(Q, D)`.
    """

    origin: Tensor
    orientation: Tensor
    edge_index: Tensor
    edge_vec: Tensor


def edges_to_points(
    edge_index: Int[Tensor, "2 E"], edge_vec: Float[Tensor, "E D"], num_nodes: int
) -> OrientedPoints:
    r"""Make each edge $j \to i$ a point at $i$ that looks towards $j$, for `PointCloudConv`.

    A point sees all points at its own node, itself included, hence angles between edges, and all points at
    the node it looks at. The orientations turn with the cloud, so what is made of them is equivariant
    without any grid. With $k$ neighbours a node, there are $2 E k$ pairs.

    Args:
        edge_index: Senders $j$ and receivers $i$.
        edge_vec: $x_j - x_i$, in the unit of the positions.
        num_nodes: Number of nodes.

    Examples:
        >>> pos = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
        >>> edges = torch.tensor([[0, 1], [1, 0]])
        >>> points = edges_to_points(edges, pos[edges[0]] - pos[edges[1]], 2)
        >>> points.orientation.tolist(), points.edge_index.tolist()
        ([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[0, 1, 1, 0], [0, 1, 0, 1]])
    """
    source, target = edge_index
    length = torch.linalg.vector_norm(edge_vec, dim=-1, keepdim=True)
    orientation = edge_vec / torch.where(length > 0, length, 1.0)
    here, here_receivers = _points_at(target, target, num_nodes)
    there, there_receivers = _points_at(source, target, num_nodes)
    pairs = torch.stack([torch.cat([here, there]), torch.cat([here_receivers, there_receivers])])
    # Points at a receiver's own node have no distance to it; those at the node it looks at have its edge's.
    gaps = torch.cat([edge_vec.new_zeros(len(here), edge_vec.shape[-1]), edge_vec[there_receivers]])
    return OrientedPoints(target, orientation, pairs, gaps)


def _points_at(nodes: Tensor, places: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """For each entry of `nodes` return the points placed there, and the entries' indices beside them."""
    order = places.argsort(stable=True)
    counts = torch.bincount(places, minlength=num_nodes)
    starts = counts.cumsum(0) - counts
    receivers = torch.arange(len(nodes), device=nodes.device).repeat_interleave(counts[nodes])
    ends = counts[nodes].cumsum(0)
    within = torch.arange(len(receivers), device=nodes.device) - (ends - counts[nodes])[receivers]
    return order[starts[nodes[receivers]] + within], receivers
