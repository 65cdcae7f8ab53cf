r"""Networks on adjacency matrices made invariant to the order of the nodes.

$$\langle \phi \rangle(A, X) = \sum_{\sigma \in F(A, X)} w_\sigma\, \phi(A_\sigma, X_\sigma)$$

over the orderings of `graph_frames`. A multilayer perceptron on the whole adjacency matrix so becomes a
network on graphs that tells apart any two graphs that are not isomorphic, if it is wide enough; message
passing does not.

Axis letters used below: `B` graphs, `F` frames, `U` different views, `n` nodes, `c` channels.

References:
    O. Puny, M. Atzmon, H. Ben-Hamu, I. Misra, A. Grover, E. J. Smith, Y. Lipman, Frame Averaging for
    Invariant and Equivariant Network Design, ICLR 2022, arXiv:2110.03336.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lemmata.equivariant.frames.graph_frames import GraphFrames, graph_frames

__all__ = ["GraphFrameAveraging"]


class GraphFrameAveraging(nn.Module):
    """A network averaged over orderings of the nodes: invariant, or equivariant for nodes' outputs.

    Views that coincide, as symmetries of a graph make them, are computed once, unless gradients with respect
    to the graph or its features are wanted. The search for orderings branches on data; `make_frames` does it
    once, beforehand.

    Args:
        module: Called once as `module(adjacency, x)`, or `module(adjacency)` where there are no features, on
            a batch `(U, n, n)` (or `(U, n, n, c)`) and `(U, n, ...)` of views.
        output: `"graph"` where it returns `(U, ...)`, `"node"` where it returns `(U, n, ...)`.
        max_frames: As `graph_frames`. Beyond, the average is estimated, and invariant in the mean only.
        generator: As `graph_frames`.

    Raises:
        ValueError: Where an option is unknown.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(25, 32), nn.Tanh(), nn.Linear(32, 2)).double()
        >>> average = GraphFrameAveraging(net)
        >>> a = torch.rand(4, 5, 5, dtype=torch.float64).round()
        >>> order = torch.tensor([3, 1, 4, 0, 2])
        >>> torch.allclose(average(a), average(a[:, order][:, :, order]))
        True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        output: Literal["graph", "node"] = "graph",
        max_frames: int = 4096,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if output not in {"graph", "node"}:
            raise ValueError(f"`output` (={output!r}) must be 'graph' or 'node'")
        if max_frames < 1:
            raise ValueError(f"`max_frames` (={max_frames}) must be at least 1")
        self.module = module
        self.output, self.max_frames, self.generator = output, max_frames, generator

    def forward(
        self,
        adjacency: Tensor,
        x: Tensor | None = None,
        mask: Tensor | None = None,
        frames: Sequence[GraphFrames] | None = None,
    ) -> Tensor:
        """Return the average over orderings.

        Args:
            adjacency: Shape `(B, n, n)` or `(B, n, n, c)`.
            x: Features of nodes, shape `(B, n, ...)`.
            mask: True where a node exists, shape `(B, n)`. Nodes that do not come last in all views, with
                zeros in place of their edges and features.
            frames: What `make_frames` returned; made anew where None.

        Returns:
            Shape `(B, ...)`; for nodes' outputs `(B, n, ...)`, in the order of the input.

        Raises:
            ValueError: Where a shape does not fit.
        """
        frames = self.make_frames(adjacency, x, mask) if frames is None else frames
        if len(frames) != len(adjacency):
            raise ValueError(f"`frames` are of {len(frames)} graphs, `adjacency` of {len(adjacency)}")
        adjacency, x = _without_padding(adjacency, x, mask)
        views = [
            _views(a, None if x is None else x[i], found)
            for i, (a, found) in enumerate(zip(adjacency, frames, strict=True))
        ]
        if not views:
            raise ValueError("`adjacency` holds no graph")
        batch = torch.cat([view.adjacency for view in views])
        if x is None:
            y = self.module(batch)
        else:
            y = self.module(batch, torch.cat([view.x for view in views if view.x is not None]))
        parts = y.split([len(view.adjacency) for view in views])
        mean = _mean_over_graphs if self.output == "graph" else _mean_over_nodes
        return torch.stack([mean(*item) for item in zip(parts, views, frames, strict=True)])

    def make_frames(
        self, adjacency: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> list[GraphFrames]:
        """Return the orderings of each graph of a batch, padding last.

        Args:
            adjacency: As `forward`.
            x: As `forward`.
            mask: As `forward`.

        Raises:
            ValueError: Where a shape does not fit.
        """
        if adjacency.ndim not in {3, 4} or adjacency.shape[1] != adjacency.shape[2]:
            raise ValueError(
                f"`adjacency` must have shape (B, n, n) or (B, n, n, c), got {tuple(adjacency.shape)}"
            )
        for name, given in (("x", x), ("mask", mask)):
            if given is not None and given.shape[:2] != adjacency.shape[:2]:
                raise ValueError(
                    f"`{name}` must start with shape {tuple(adjacency.shape[:2])}, got {tuple(given.shape)}"
                )
        frames = []
        for i, a in enumerate(adjacency):
            features = None if x is None else x[i].reshape(len(a), -1)
            present = torch.ones(len(a), dtype=torch.bool, device=a.device) if mask is None else mask[i]
            nodes = present.nonzero()[:, 0]
            found = graph_frames(
                a[nodes][:, nodes],
                None if features is None else features[nodes],
                max_frames=self.max_frames,
                generator=self.generator,
            )
            padding = (~present).nonzero()[:, 0].expand(len(found.order), -1)
            frames.append(found._replace(order=torch.cat([nodes[found.order], padding], dim=-1)))
        return frames


class _Views(NamedTuple):
    """A graph as its orderings show it, different views only, and which of them each ordering shows."""

    adjacency: Tensor
    x: Tensor | None
    which: Tensor


def _without_padding(
    adjacency: Tensor, x: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Put zeros in place of what belongs to nodes that do not exist."""
    if mask is None:
        return adjacency, x
    pairs = (mask[:, :, None] & mask[:, None, :]).reshape(*adjacency.shape[:3], *[1] * (adjacency.ndim - 3))
    adjacency = torch.where(pairs, adjacency, 0)
    return adjacency, None if x is None else torch.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, 0)


def _views(adjacency: Tensor, x: Tensor | None, frames: GraphFrames) -> _Views:
    """Return the different views of one graph."""
    order = frames.order
    seen = adjacency[order[:, :, None], order[:, None, :]]
    seen_x = None if x is None else x[order]
    if seen.requires_grad or (seen_x is not None and seen_x.requires_grad):
        # Views that are equal have different derivatives.
        return _Views(seen, seen_x, torch.arange(len(order), device=order.device))
    keys = [seen.flatten(1)] + ([] if seen_x is None else [seen_x.flatten(1)])
    which = torch.stack([torch.unique(key, dim=0, return_inverse=True)[1] for key in keys], dim=-1)
    different, which = torch.unique(which, dim=0, return_inverse=True)
    first = torch.arange(len(order), device=order.device)
    first = first.new_full((len(different),), len(order)).scatter_reduce(0, which, first, "amin")
    return _Views(seen[first], None if seen_x is None else seen_x[first], which)


def _mean_over_graphs(y: Tensor, views: _Views, frames: GraphFrames) -> Tensor:
    """Average what was returned for views of one graph."""
    weight = frames.weight.new_zeros(len(y)).index_add(0, views.which, frames.weight)
    mean: Tensor = torch.tensordot(weight.to(y.dtype), y, dims=1)
    return mean


def _mean_over_nodes(y: Tensor, views: _Views, frames: GraphFrames) -> Tensor:
    """Average what was returned for nodes, each put back in its place."""
    place = frames.order.argsort(-1)
    back = y[views.which[:, None], place]
    mean: Tensor = torch.tensordot(frames.weight.to(y.dtype), back, dims=1)
    return mean
