"""Placeholder of the final signature; the network follows."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lemmata.apps.interatomic.models.potential import Graph, Potential, sum_by
from lemmata.equivariant.nn import BesselBasis, PolynomialCutoff

__all__ = ["TensorProductPotential"]


class TensorProductPotential(Potential):
    """A sum of pair terms, until the network is in its place.

    Args:
        elements: Atomic numbers.
        cutoff: Radius of neighbourhoods, A.
        channels: Width.
        common: `reference_energies`, `scale`, `shift` and `zbl`, as of `Potential`.
    """

    def __init__(
        self, elements: Sequence[int], cutoff: float = 5.0, *, channels: int = 32, **common: Any
    ) -> None:
        super().__init__("tensor-product", elements, cutoff, options={"channels": channels}, **common)
        self.basis = BesselBasis(8, cutoff)
        self.envelope = PolynomialCutoff(cutoff)
        self.radial = nn.Sequential(nn.Linear(8 + 2, channels), nn.SiLU(), nn.Linear(channels, 1))

    def atomic_energies(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Return the atoms' interaction energies in units of `scale`."""
        import torch

        kinds = torch.stack([graph.species[graph.source], graph.species[graph.target]], -1)
        features = torch.cat([self.basis(graph.distances), kinds.to(graph.distances)], -1)
        pairs = self.radial(features)[:, 0] * self.envelope(graph.distances)
        return sum_by(pairs, graph.target, len(graph.species))
