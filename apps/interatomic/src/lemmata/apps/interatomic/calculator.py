"""A trained potential, or a committee of them, as an ASE calculator: energies, forces and stress.

The neighbour list holds pairs up to a skin beyond the cutoff and is made anew only when an atom has moved
half a skin; at every step the pairs beyond the cutoff are dropped and the rest is put in one fixed order,
so that results do not depend on when the list was made. Several members make a committee: their mean is the
prediction, and their spread says how far to trust it.
"""

from collections.abc import Sequence
from pathlib import Path

import ase
import numpy as np
import numpy.typing as npt
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch_geometric.data import Data

from lemmata.apps.interatomic.graphs import neighbours
from lemmata.apps.interatomic.models.potential import Potential
from lemmata.apps.interatomic.trained import load_potential

__all__ = ["InteratomicCalculator", "SkinList"]


class InteratomicCalculator(Calculator):
    """Energies (eV), forces (eV/A) and stress (eV/A^3, ASE's sign) of trained potentials.

    Args:
        models: A potential, a checkpoint, a run's folder or an exported file, or several for a committee.
        device: Where to compute.
        dtype: Precision of the network; float64 keeps molecular dynamics free of rounding noise.
        skin: How far beyond the cutoff the neighbour list reaches, in A.

    Raises:
        FileNotFoundError: Where a path does not exist.
        ValueError: Where no model is given, a member knows other elements than the first, or the skin is
            negative; while calculating, where an element is unknown to the model.

    `stresses` are the atoms' shares of the stress, which sum to it. `results` of a committee hold
    `energy_std` and `forces_std` (root of the summed variance of each atom's force components) besides.
    """

    implemented_properties = [  # noqa: RUF012 - as the base class has it
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "stresses",
    ]

    def __init__(
        self,
        models: Potential | Path | str | Sequence[Potential | Path | str],
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # ASE is annotated in part
        several = [models] if isinstance(models, Potential | Path | str) else list(models)
        if not several:
            raise ValueError("`models` must hold at least one potential")
        if not skin >= 0:
            raise ValueError(f"`skin` (={skin}) must be at least 0 A")
        self.members = [_ready(model, device, dtype) for model in several]
        first = self.members[0]
        for member in self.members[1:]:
            if set(member.elements) != set(first.elements):
                raise ValueError(
                    "`models` know different elements: "
                    f"{sorted(first.elements)} and {sorted(member.elements)}"
                )
        self.neighbours = SkinList(max(member.cutoff for member in self.members), skin)
        self.device, self.dtype = device, dtype

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results` for a structure.

        Args:
            atoms: The structure.
            properties: What is asked for; stress costs a little more than forces.
            system_changes: What changed since the last call, as ASE tells it.

        Raises:
            ValueError: Where an element is unknown to the model.
        """
        super().calculate(atoms, list(properties), list(system_changes))  # type: ignore[no-untyped-call] # likewise
        now = self.atoms
        if now is None:
            raise ValueError("`atoms` must be given with the first calculation")
        stress = bool({"stress", "stresses"} & set(properties)) and bool(now.pbc.all())
        data = self.neighbours.data(now, self.dtype).to(self.device)
        found = [member(data, forces=True, stress=stress) for member in self.members]
        energies = np.array([float(one.energy) for one in found])
        forces = np.stack([_numpy(one.forces) for one in found])
        self.results = {
            "energy": float(energies.mean()),
            "free_energy": float(energies.mean()),
            "energies": self._isolated(now.numbers)
            + np.mean([_numpy(one.atomic_energy) for one in found], axis=0),
            "forces": forces.mean(axis=0),
        }
        if len(found) > 1:
            self.results["energy_std"] = float(energies.std(ddof=1))
            self.results["forces_std"] = np.sqrt(forces.var(axis=0, ddof=1).sum(axis=-1))
        if stress:
            mean = np.mean([_numpy(one.stress)[0] for one in found], axis=0)
            self.results["stress"] = full_3x3_to_voigt_6_stress(mean)
            shares = np.mean([_numpy(one.atomic_virial) for one in found], axis=0)
            self.results["stresses"] = full_3x3_to_voigt_6_stress(shares / now.get_volume())

    def _isolated(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the isolated atoms' energies, which the committee's members may have found differently."""
        tables = [
            dict(zip(member.elements, member.config["reference_energies"], strict=True))
            for member in self.members
        ]
        energies: npt.NDArray[np.float64] = np.mean(
            [[table[int(number)] for number in numbers] for table in tables], axis=0
        )
        return energies


class SkinList:
    """Pairs of neighbours within a cutoff, remembered with a skin while atoms move little.

    Args:
        cutoff: In A.
        skin: How much farther the remembered pairs reach, in A.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.built = 0
        self._made_for: ase.Atoms | None = None
        self._pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def data(self, atoms: ase.Atoms, dtype: torch.dtype) -> Data:
        """Return the graph of a structure, its pairs in an order that does not depend on the past.

        Args:
            atoms: The structure.
            dtype: Precision of positions and cell.
        """
        if self._is_stale(atoms):
            self._rebuild(atoms)
        assert self._pairs is not None  # noqa: S101 - `_rebuild` has set it
        edge_index, shift = self._pairs
        source, target = edge_index
        cell = atoms.cell.array
        vectors = atoms.positions[source] - atoms.positions[target] + shift @ cell
        near = (vectors * vectors).sum(axis=-1) < self.cutoff**2
        return Data(
            pos=torch.as_tensor(atoms.positions, dtype=dtype),
            z=torch.as_tensor(atoms.numbers, dtype=torch.long),
            edge_index=torch.as_tensor(edge_index[:, near]),
            shift=torch.as_tensor(shift[near], dtype=dtype),
            cell=torch.as_tensor(cell, dtype=dtype)[None],
            pbc=torch.as_tensor(np.asarray(atoms.pbc))[None],
        )

    def _is_stale(self, atoms: ase.Atoms) -> bool:
        """Tell whether the remembered pairs may miss one."""
        made_for = self._made_for
        if (
            made_for is None
            or len(made_for) != len(atoms)
            or not np.array_equal(made_for.pbc, atoms.pbc)
            or not np.array_equal(made_for.cell.array, atoms.cell.array)
        ):
            return True
        moved = atoms.positions - made_for.positions
        # Two atoms that each move half a skin can meet from cutoff + skin.
        return bool((moved * moved).sum(axis=-1).max(initial=0.0) > (self.skin / 2) ** 2)

    def _rebuild(self, atoms: ase.Atoms) -> None:
        """Make the list anew; its order does not depend on how it was found."""
        reach = self.cutoff + self.skin
        self._pairs = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, reach)
        self._made_for = atoms.copy()
        self._made_for.calc = None
        self.built += 1


def _ready(model: Potential | Path | str, device: str, dtype: torch.dtype) -> Potential:
    """Return a potential in evaluation mode on the device, its parameters without gradients."""
    loaded = model if isinstance(model, Potential) else load_potential(model, device=device, dtype=dtype)
    potential = loaded.to(device=device, dtype=dtype).eval()
    for parameter in potential.parameters():
        parameter.requires_grad_(False)
    return potential


def _numpy(values: torch.Tensor | None) -> npt.NDArray[np.float64]:
    """Return a prediction as float64."""
    if values is None:
        raise TypeError("the potential has not returned what it was asked for")
    return values.detach().cpu().double().numpy()
