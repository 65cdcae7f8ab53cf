r"""Frames as graphs: atoms within a cutoff are joined, through periodic images where the cell repeats.

Edges follow PyTorch Geometric: `edge_index[0]` is the source $j$, `edge_index[1]` the target $i$, and

$$r_{ij} = x_j - x_i + S_{ij} \, C,$$

with the cell's vectors as the rows of $C$ and integers $S_{ij}$ that say which image of $j$ is meant. An atom
of a small cell is joined to its own images, and to several of another atom's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from torch.utils.data import Dataset
from torch_geometric.data import Data

from lemmata.apps.interatomic.frames import CONFIG_TYPE, CONFIG_WEIGHT
from lemmata.apps.interatomic.neighbours import neighbours

__all__ = ["AtomGraphs", "neighbours", "to_data"]


def to_data(atoms: Atoms, cutoff: float, *, dtype: torch.dtype = torch.float32) -> Data:
    """Turn a frame into a graph, with the labels it has.

    Args:
        atoms: Positions in Å. Labels are its calculator's results (`energy` in eV, `forces` in eV/Å, `stress`
            in eV/Å³ with ASE's sign) and nothing else; nothing is computed.
        cutoff: Atoms nearer than this are joined, in Å.
        dtype: Type of positions, cell, forces and stress. Energies are float64 whatever it is: a total energy
            of some thousand eV loses a meV in float32.

    Returns:
        `pos` `(N, 3)`, `z` `(N,)` atomic numbers, `edge_index` `(2, E)` sorted by target, then source, then
        image, `shift` `(E, 3)` integers as `dtype`, `cell` `(1, 3, 3)`, `pbc` `(1, 3)`, `energy` `(1,)`,
        `forces` `(N, 3)`, `stress` `(1, 3, 3)`, their `energy_weight`, `forces_weight`, `stress_weight`
        `(1,)`, which are 0 where the label is absent (its place then holds zeros), `weight` `(1,)`, the
        frame's own `config_weight`, and `config_type`, a string.

    Raises:
        ValueError: Where `cutoff` is not positive.

    Examples:
        >>> from ase.build import bulk
        >>> graph = to_data(bulk("Ar", a=5.26), cutoff=4.0)  # one atom, twelve images of it
        >>> graph.edge_index.shape, graph.energy_weight.item()
        (torch.Size([2, 12]), 0.0)
    """
    results = getattr(atoms.calc, "results", {})
    edge_index, shift = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    energy, forces, stress = (results.get(name) for name in ("energy", "forces", "stress"))

    def weight(label: Any) -> torch.Tensor:
        return torch.tensor([0.0 if label is None else 1.0], dtype=dtype)

    return Data(
        z=torch.from_numpy(atoms.numbers.astype(np.int64)),
        pos=torch.from_numpy(atoms.positions).to(dtype, copy=True),
        edge_index=torch.from_numpy(edge_index),
        shift=torch.from_numpy(shift).to(dtype),
        cell=torch.from_numpy(atoms.cell.array).to(dtype, copy=True)[None],
        pbc=torch.from_numpy(atoms.pbc.copy())[None],
        energy=torch.tensor([0.0 if energy is None else float(energy)], dtype=torch.float64),
        forces=torch.as_tensor(np.zeros((len(atoms), 3)) if forces is None else forces).to(dtype, copy=True),
        stress=torch.from_numpy(np.zeros((3, 3)) if stress is None else _full(stress)).to(dtype)[None],
        energy_weight=weight(energy),
        forces_weight=weight(forces),
        stress_weight=weight(stress),
        weight=torch.tensor([float(atoms.info.get(CONFIG_WEIGHT, 1.0))], dtype=dtype),
        config_type=str(atoms.info.get(CONFIG_TYPE, "default")),
    )


class AtomGraphs(Dataset[Data]):
    """Frames as a data set of graphs, each built when it is first asked for and kept from then on.

    Args:
        frames: Frames with their labels.
        cutoff: Atoms nearer than this are joined, in Å.
        dtype: Type of positions, cell, forces and stress.
        keep: Keep the graphs in memory; a frame's is else built each time, for 0.1 ms.
    """

    def __init__(
        self, frames: Sequence[Atoms], cutoff: float, *, dtype: torch.dtype = torch.float32, keep: bool = True
    ) -> None:
        self.frames = list(frames)
        self.cutoff = cutoff
        self.dtype = dtype
        self.keep = keep
        self._graphs: list[Data | None] = [None] * len(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Data:
        graph = self._graphs[index]
        if graph is None:
            graph = to_data(self.frames[index], self.cutoff, dtype=self.dtype)
            if self.keep:
                self._graphs[index] = graph
        return graph


def _full(stress: Float[np.ndarray, "..."]) -> Float[np.ndarray, "3 3"]:
    """Return a stress of six numbers in Voigt's order, or of nine, as a symmetric matrix."""
    flat = np.asarray(stress, np.float64).reshape(-1)
    if flat.size == 6:
        flat = flat[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    full = flat.reshape(3, 3)
    return (full + full.T) / 2
