r"""A potential by convolutions over positions and orientations: directions without tensor products.

Each atom holds functions on a grid of orientations, and kernels see what is invariant of an edge and two
orientations. The grid stands in a frame of each configuration, the principal axes of its edges, so that
energies are exactly invariant under rotations; forces are their derivatives, the frame's motion included.
Where two axes have equal variance, as in methane or a cubic crystal, the frame and with it the energy jumps:
choose `frame="fixed"` for those, which is invariant up to an error that falls with the number of
orientations.

References:
    E. J. Bekkers, S. Vadgama, R. D. Hesselink, P. A. van der Linden, D. W. Romero, Fast, Expressive SE(n)
    Equivariant Networks through Weight-Sharing in Position-Orientation Space, ICLR 2024, arXiv:2310.02970.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.interatomic.models.frame import edge_frames
from lemmata.apps.interatomic.models.potential import Graph, Potential
from lemmata.equivariant.nn import PolynomialCutoff
from lemmata.equivariant.position_orientation.network import PositionOrientationNet

__all__ = ["PositionOrientationPotential"]


class PositionOrientationPotential(Potential):
    """A position-orientation network whose scalars are the atoms' energies.

    Args:
        elements: Atomic numbers.
        cutoff: Radius of neighbourhoods, A.
        hidden: Channels.
        layers: Number of blocks.
        n_orientations: Size of the grid; with `frame="data"` a multiple of 4.
        degree: Of the polynomials of the attributes.
        frame: `data` for a grid that each configuration's principal axes carry, `fixed` for one that stays,
            and `random` for one that is turned at random while training.
        common: `reference_energies`, `scale`, `shift`, `average_neighbours` and `zbl`, as of `Potential`.

    Raises:
        ValueError: Where a number is out of range.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        *,
        hidden: int = 64,
        layers: int = 5,
        n_orientations: int = 20,
        degree: int = 3,
        frame: str = "data",
        **common: Any,
    ) -> None:
        options: dict[str, Any] = {
            "hidden": hidden,
            "layers": layers,
            "n_orientations": n_orientations,
            "degree": degree,
            "frame": frame,
        }
        super().__init__("position-orientation", elements, cutoff, options=options, **common)
        if frame not in ("data", "fixed", "random"):
            raise ValueError(f"`frame` (={frame!r}) must be 'data', 'fixed' or 'random'")
        if frame == "data" and n_orientations % 4:
            raise ValueError(
                f"`n_orientations` (={n_orientations}) must be a multiple of 4 with `frame` 'data'"
            )
        self.envelope = PolynomialCutoff(cutoff)
        self.net = PositionOrientationNet(
            len(self.elements),
            0,
            hidden,
            1,
            0,
            layers,
            n_orientations,
            degree=degree,
            cutoff=cutoff,
            frame=cast("Literal['data', 'fixed', 'random']", frame),
        )
        self.frame = frame

    def atomic_energies(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Return the atoms' interaction energies in units of `scale`.

        Args:
            graph: The configurations.
        """
        kinds = torch.nn.functional.one_hot(graph.species, len(self.elements)).to(graph.vectors.dtype)
        rotation = None
        if self.frame == "data":
            rotation = edge_frames(graph, self.envelope(graph.distances)).rotation[:, 0]
        energies, _ = self.net(
            kinds,
            None,
            graph.vectors.new_zeros(graph.species.shape[0], 3),
            torch.stack([graph.source, graph.target]),
            graph.batch,
            edge_vec=graph.vectors,
            num_graphs=graph.n_graphs,
            rotation=rotation,
        )
        atomic: Tensor = energies[:, 0]
        return atomic
