r"""Frames of graphs: orderings of the nodes that a relabelling of the graph merely relabels.

A network that reads adjacency matrices becomes invariant when it is averaged over such orderings. They are
the leaves of a search tree. At its root, nodes are coloured by their features and colours are refined as
Weisfeiler and Leman do: a node's new colour follows from its own and from how many neighbours of each colour
it has, until nothing changes. Where nodes still share a colour, the smallest class is split: each of its
nodes in turn is given a colour of its own, colours are refined again, and so on until all nodes differ; then
colours are places. Nothing of this depends on how nodes were numbered.

A leaf's weight is the chance of reaching it by a descent that chooses among children evenly. Such weights
are invariant too, and random descents estimate the average over a tree that is too large without bias.

A graph with $k$ symmetries has $k$ leaves or a multiple: one for a typical graph, $n!$ for one without edges.

Axis letters used below: `F` frames, `M` branches of the tree, `n` nodes.

References:
    O. Puny, M. Atzmon, H. Ben-Hamu, I. Misra, A. Grover, E. J. Smith, Y. Lipman, Frame Averaging for
    Invariant and Equivariant Network Design, ICLR 2022, arXiv:2110.03336.
    B. D. McKay, A. Piperno, Practical graph isomorphism, II, Journal of Symbolic Computation 60, 2014.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["GraphFrames", "graph_frames"]

ENTRIES = 1 << 23  # of the table that one step of the refinement reads


class GraphFrames(NamedTuple):
    """Orderings of a graph's nodes.

    Attributes:
        order: `order[f, k]` is the node at place `k`, shape `(F, n)`.
        weight: Of each ordering, shape `(F,)`, float64, sum 1.
        exact: Whether these are all leaves, rather than a random sample.
    """

    order: Int[Tensor, "frame n"]
    weight: Float[Tensor, " frame"]
    exact: bool


def graph_frames(
    adjacency: Tensor,
    x: Tensor | None = None,
    *,
    max_frames: int = 4096,
    generator: torch.Generator | None = None,
) -> GraphFrames:
    """Return the orderings at the leaves of a graph's individualisation-refinement tree.

    Args:
        adjacency: Weights or features of edges, shape `(n, n)` or `(n, n, c)`, directed or not; any dtype.
            Equal numbers are equal colours, so that noise makes all edges differ.
        x: Features of nodes, shape `(n,)` or `(n, c)`, compared in the same way.
        max_frames: Up to so many leaves all are returned; of more, so many random descents.
        generator: Source of random numbers for these.

    Raises:
        ValueError: Where a shape does not fit, a number is NaN or `max_frames` is not positive.

    Examples:
        >>> path = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> frames = graph_frames(path)
        >>> frames.order, frames.exact  # the ends can be told from the middle, but not from one another
        (tensor([[1, 0, 2],
                [1, 2, 0]]), True)
    """
    colours, pairs = _codes(adjacency, x)
    if max_frames < 1:
        raise ValueError(f"`max_frames` (={max_frames}) must be at least 1")
    if len(adjacency) == 0:
        return GraphFrames(colours, colours.new_ones(1, dtype=torch.float64), exact=True)
    root = _refine(colours, pairs)
    found = _leaves(root, pairs, max_frames)
    if found is not None:
        return GraphFrames(found[0].argsort(-1), found[1], exact=True)
    sample = _descend(root.expand(max_frames, -1), pairs, generator)
    weight = torch.full((max_frames,), 1 / max_frames, dtype=torch.float64, device=sample.device)
    return GraphFrames(sample.argsort(-1), weight, exact=False)


def _codes(adjacency: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return colours of nodes `(1, n)` and of ordered pairs of nodes `(n, n)`, ranks of their features."""
    n = len(adjacency) if adjacency.ndim else 0
    if adjacency.ndim not in {2, 3} or adjacency.shape[1] != n:
        raise ValueError(f"`adjacency` must have shape (n, n) or (n, n, c), got {tuple(adjacency.shape)}")
    if x is not None and (x.ndim not in {1, 2} or len(x) != n):
        raise ValueError(f"`x` must have shape ({n},) or ({n}, c), got {tuple(x.shape)}")
    for name, given in (("adjacency", adjacency), ("x", x)):
        if given is not None and given.isnan().any():
            raise ValueError(f"`{name}` contains NaN, which equals nothing")
    edges = _ranks(adjacency.flatten(0, 1)).reshape(n, n)
    nodes = edges.new_zeros(1, n) if x is None else _ranks(x)[None]
    return nodes, edges * (n * n) + edges.T


def _ranks(features: Tensor) -> Tensor:
    """Return the place of each row among the different rows in lexicographic order."""
    rows = features.detach() if features.ndim > 1 else features.detach()[:, None]
    if rows.numel() == 0:
        return torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    # Adding zero makes negative zeros positive: they are equal, but not in every comparison of rows.
    rows = rows + 0 if rows.is_floating_point() else rows.long()
    ranks: Tensor = torch.unique(rows, dim=0, return_inverse=True)[1]
    return ranks


def _leaves(root: Tensor, pairs: Tensor, max_frames: int) -> tuple[Tensor, Tensor] | None:
    """Return colours and weights of all leaves, level by level; None where there are too many."""
    colours, weight = root, torch.ones(1, dtype=torch.float64, device=root.device)
    leaves: list[tuple[Tensor, Tensor]] = []
    count = 0
    while len(colours):
        done = colours.amax(-1) == colours.shape[-1] - 1
        leaves.append((colours[done], weight[done]))
        count += int(done.sum())
        colours, weight = colours[~done], weight[~done]
        cell = _target(colours)
        branch, node = cell.nonzero(as_tuple=True)
        if count + len(node) > max_frames:
            return None
        weight = (weight / cell.sum(-1))[branch]
        colours = _refine(_individualise(colours[branch], node), pairs)
    return torch.cat([leaf for leaf, _ in leaves]), torch.cat([weight for _, weight in leaves])


def _descend(colours: Tensor, pairs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the colours of leaves reached at random."""
    device = colours.device if generator is None else generator.device
    while bool((colours.amax(-1) < colours.shape[-1] - 1).any()):
        chance = torch.rand(colours.shape, generator=generator, device=device).to(colours.device)
        node = torch.where(_target(colours), chance, -1.0).argmax(-1)
        colours = _refine(_individualise(colours, node), pairs)
    return colours


def _target(colours: Tensor) -> Tensor:
    """Return the members of the class to split, `(M, n)`: the first among the smallest of at least two."""
    n = colours.shape[-1]
    sizes = torch.zeros_like(colours).scatter_add(-1, colours, torch.ones_like(colours))
    rank = torch.where(sizes > 1, sizes, n + 1) * n + torch.arange(n, device=colours.device)
    return (colours == rank.argmin(-1, keepdim=True)) & (sizes.gather(-1, colours) > 1)


def _individualise(colours: Tensor, node: Tensor) -> Tensor:
    """Give one node of each row a colour just before that of its class."""
    return 2 * colours + 1 - torch.nn.functional.one_hot(node, colours.shape[-1])


def _refine(colours: Tensor, pairs: Tensor) -> Tensor:
    """Refine colours `(M, n)` until they are stable; they come back as ranks."""
    rows = max(1, ENTRIES // max(1, pairs.numel()))
    return torch.cat([_refine_rows(part, pairs) for part in torch.split(colours, rows)])


def _refine_rows(colours: Tensor, pairs: Tensor) -> Tensor:
    """Refine few enough rows to hold a number for each pair of nodes."""
    colours = _rank_within(colours, torch.zeros_like(colours))
    classes = colours.amax(-1)
    while True:
        # A sum of hashes stands for the multiset of neighbours: integers add up alike in any order, and a
        # collision would cost a split, not the invariance.
        signature = _mix(_mix(colours)[:, None, :] ^ pairs).sum(-1)
        colours = _rank_within(colours, signature)
        before, classes = classes, colours.amax(-1)
        if torch.equal(before, classes):
            return colours


def _rank_within(colours: Tensor, signature: Tensor) -> Tensor:
    """Return the ranks of pairs of colour and signature, row by row."""
    order = signature.argsort(-1)
    order = order.gather(-1, colours.gather(-1, order).argsort(dim=-1, stable=True))
    first, second = colours.gather(-1, order).diff(dim=-1), signature.gather(-1, order).diff(dim=-1)
    steps = torch.nn.functional.pad(((first != 0) | (second != 0)).long(), (1, 0))
    return torch.empty_like(colours).scatter(-1, order, steps.cumsum(-1))


def _mix(numbers: Tensor) -> Tensor:
    """Scatter 64-bit integers over their range, one to one but for shifts (constants of SplitMix64)."""
    numbers = (numbers + 0x1E3779B97F4A7C15) * -0x40A7B892E31B1A47
    numbers = (numbers ^ (numbers >> 30)) * -0x6B2FB644ECCEEE15
    return numbers ^ (numbers >> 27)
