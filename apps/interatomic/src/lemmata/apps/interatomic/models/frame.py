r"""A potential of a plain message-passing network, made invariant by averaging over frames.

The network sees the components of edge vectors, as a network for images sees pixels: nothing in it knows of
rotations. It is evaluated in every frame of a configuration, and the energies are averaged. The frames are
made of the principal axes of the edges, each edge weighted by its envelope, with all their signs: eight views
whose average is invariant under rotations and reflections. Edges of no weight do not count, so that energies
stay smooth at the cutoff, and the frames stay attached to the edges, so that forces are the energies'
derivatives.

Where two axes have equal variance, as in methane or a cubic crystal, frames and energies jump: this model is
for molecules without such symmetry.

References:
    O. Puny, M. Atzmon, H. Ben-Hamu, I. Misra, A. Grover, E. J. Smith, Y. Lipman, Frame Averaging for
    Invariant and Equivariant Network Design, ICLR 2022, arXiv:2110.03336.

Axis letters used below: `F` frames, `N` atoms, `E` edges, `C` channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.apps.interatomic.models.potential import Graph, Potential
from lemmata.equivariant.frames import Frames, pca_frames
from lemmata.equivariant.nn import BesselBasis, PolynomialCutoff

__all__ = ["FramePotential", "edge_frames"]


class FramePotential(Potential):
    """Plain message passing on the components of edge vectors, averaged over frames.

    Args:
        elements: Atomic numbers.
        cutoff: Radius of neighbourhoods, A.
        channels: Width.
        layers: Rounds of messages.
        radial_functions: Number of Bessel functions.
        common: `reference_energies`, `scale`, `shift`, `average_neighbours` and `zbl`, as of `Potential`.

    Raises:
        ValueError: Where a number is out of range.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        *,
        channels: int = 64,
        layers: int = 3,
        radial_functions: int = 8,
        **common: Any,
    ) -> None:
        options = {"channels": channels, "layers": layers, "radial_functions": radial_functions}
        super().__init__("frame", elements, cutoff, options=options, **common)
        for name, value in options.items():
            if value < 1:
                raise ValueError(f"`{name}` (={value}) must be a positive integer")
        self.basis = BesselBasis(radial_functions, cutoff)
        self.envelope = PolynomialCutoff(cutoff, p=5)
        self.embedding = nn.Embedding(len(self.elements), channels)
        self.layers = nn.ModuleList(
            PlainLayer(channels, radial_functions + 3, self.average_neighbours) for _ in range(layers)
        )
        self.readout = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))

    def atomic_energies(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Return the atoms' interaction energies in units of `scale`.

        Args:
            graph: The configurations.
        """
        envelope = self.envelope(graph.distances)
        rotation = edge_frames(graph, envelope).rotation[graph.batch[graph.target]]
        # A view's components are those along its axes, the columns of its rotation.
        seen_FE3 = torch.einsum("ea,efab->feb", graph.vectors / graph.distances[:, None], rotation)
        radial = self.basis(graph.distances).expand(seen_FE3.shape[0], -1, -1)
        edges_FED = torch.cat([seen_FE3, radial], dim=-1)
        features_FNC = self.embedding(graph.species).expand(seen_FE3.shape[0], -1, -1)
        for layer in self.layers:
            features_FNC = layer(features_FNC, edges_FED, envelope, graph.source, graph.target)
        energies: Tensor = self.readout(features_FNC).squeeze(-1).mean(0)
        return energies


class PlainLayer(nn.Module):
    """One round of messages that know nothing of rotations.

    Args:
        channels: Width.
        edge_width: Numbers at each edge.
        average_neighbours: Mean number of an atom's neighbours.
    """

    def __init__(self, channels: int, edge_width: int, average_neighbours: float) -> None:
        super().__init__()
        self.damping = average_neighbours**-0.5
        self.sent = nn.Linear(channels, channels)
        self.received = nn.Linear(channels, channels, bias=False)
        self.edge = nn.Linear(edge_width, channels, bias=False)
        self.message = nn.Linear(channels, channels)
        self.update = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(
        self,
        features_FNC: Float[Tensor, "frame atom channel"],
        edges_FED: Float[Tensor, "frame edge width"],
        envelope: Float[Tensor, " edge"],
        source: Tensor,
        target: Tensor,
    ) -> Float[Tensor, "frame atom channel"]:
        """Return the features after the round.

        Args:
            features_FNC: Of the atoms, in each view.
            edges_FED: What is seen of the edges in each view.
            envelope: Factor of each edge's message, which vanishes at the cutoff.
            source: Sender of each edge.
            target: Receiver of each edge.
        """
        silu = nn.functional.silu
        sent, received = self.sent(features_FNC), self.received(features_FNC)
        joined = sent.index_select(1, source) + received.index_select(1, target) + self.edge(edges_FED)
        messages = silu(self.message(silu(joined))) * (envelope * self.damping)[:, None]
        sums = torch.zeros_like(sent).index_add(1, target, messages)
        update: Tensor = self.update(torch.cat([features_FNC, sums], dim=-1))
        return features_FNC + update


def edge_frames(graph: Graph, weights: Float[Tensor, " edge"]) -> Frames:
    """Return the frames that the principal axes of each configuration's edges make, with all their signs.

    They are those of the vectors about zero, so that they do not depend on where atoms or cells are.

    Args:
        graph: The configurations.
        weights: Of the edges.

    Returns:
        Eight frames of each configuration; the identity's axes, if any, where there are no edges.
    """
    # Only axes matter, so that each axis stands for both of an edge's directions.
    return pca_frames(
        graph.vectors, group="O", weights=weights, batch=graph.batch[graph.target], num_clouds=graph.n_graphs
    )
