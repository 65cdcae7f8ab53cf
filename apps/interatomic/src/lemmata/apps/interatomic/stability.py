"""How a trajectory keeps: drift of the energy, stretched bonds, runaway temperature.

A potential with small force errors can still blow up a simulation after a picosecond, so a trajectory is
judged by what it did: the drift of the total energy without a thermostat, and how long it went before a
bond tore or the temperature ran away.
"""

from dataclasses import dataclass

import ase
import numpy as np
import numpy.typing as npt
from ase.data import covalent_radii

__all__ = ["Bonds", "drift", "survival"]

# A bond is broken when it is this much longer than in the reference, in A; a temperature has run away at
# this multiple of the set point.
STRETCH, RUNAWAY = 0.5, 3.0


@dataclass(frozen=True)
class Bonds:
    """The bonds of a reference structure, and how far a later one has stretched them.

    Args:
        pairs: Indices, `(bonds, 2)`.
        shifts: Cells between the two atoms, `(bonds, 3)`.
        lengths: In the reference, in A.
    """

    pairs: npt.NDArray[np.int64]
    shifts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.float64]

    @classmethod
    def of(cls, reference: ase.Atoms, *, tolerance: float = 1.2) -> "Bonds":
        """Find the bonds of a structure: pairs closer than `tolerance` times their covalent radii.

        Args:
            reference: The structure.
            tolerance: Factor on the sum of the radii.

        Examples:
            >>> from ase.build import molecule
            >>> len(Bonds.of(molecule("CH3CH2OH")).lengths)
            8
        """
        from lemmata.apps.interatomic.graphs import neighbours

        radii = covalent_radii[reference.numbers]
        reach = 2 * tolerance * float(radii.max(initial=0.0))
        if not reach:
            return cls(np.empty((0, 2), int), np.empty((0, 3), int), np.empty(0))
        (source, target), shift = neighbours(reference.positions, reference.cell.array, reference.pbc, reach)
        lengths = _lengths(reference, source, target, shift)
        # Each pair once, and no atom with itself within its own cell.
        once = (source < target) | ((source == target) & (_leading_sign(shift) > 0))
        bonded = once & (lengths < tolerance * (radii[source] + radii[target]))
        return cls(np.stack([source, target], axis=1)[bonded], shift[bonded], lengths[bonded])

    def current(self, atoms: ase.Atoms) -> npt.NDArray[np.float64]:
        """Return the lengths now, in A."""
        return _lengths(atoms, self.pairs[:, 0], self.pairs[:, 1], self.shifts)

    def stretch(self, atoms: ase.Atoms) -> float:
        """Return how much longer than in the reference the most stretched bond is, in A; 0 without bonds.

        A hydrogen may change its partner, as the one between the two oxygens of an enol does all the time:
        what counts for its bond is the distance to the nearest heavier atom.

        Args:
            atoms: The structure now, its atoms unwrapped as dynamics leaves them.
        """
        stretches = self.current(atoms) - self.lengths
        light = atoms.numbers == 1
        for bond in np.flatnonzero((stretches > STRETCH) & light[self.pairs].any(axis=1)):
            one, other = self.pairs[bond]
            hydrogen = one if light[one] else other
            heavier = np.flatnonzero(~light)
            if len(heavier):
                distances = atoms.get_distances(hydrogen, heavier, mic=bool(atoms.pbc.any()))
                stretches[bond] = min(stretches[bond], distances.min() - self.lengths[bond])
        return float(stretches.max(initial=0.0))


def drift(
    picoseconds: npt.NDArray[np.float64], energies: npt.NDArray[np.float64], atoms: int
) -> float | None:
    """Return the slope of the total energy in meV per atom and ps, by least squares.

    Args:
        picoseconds: Times.
        energies: Total energies, potential and kinetic, in eV.
        atoms: Number of atoms.

    Returns:
        The slope; None with fewer than two times.

    Examples:
        >>> drift(np.array([0.0, 1.0, 2.0]), np.array([5.0, 5.02, 5.04]), 10)
        2.0
    """
    if len(picoseconds) < 2 or np.ptp(picoseconds) == 0:
        return None
    times = picoseconds - picoseconds.mean()
    slope = float(times @ (energies - energies.mean()) / (times @ times))
    return round(1000 * slope / atoms, 12)


def survival(
    picoseconds: npt.NDArray[np.float64],
    stretches: npt.NDArray[np.float64],
    temperatures: npt.NDArray[np.float64],
    target: float,
) -> float | None:
    """Return the time at which a bond tore or the temperature ran away; None where neither happened.

    Args:
        picoseconds: Times.
        stretches: The most stretched bond at each, in A beyond the reference.
        temperatures: In K.
        target: The temperature set, in K.

    Examples:
        >>> survival(np.array([0.0, 1.0]), np.array([0.1, 0.7]), np.array([300.0, 310.0]), 300.0)
        1.0
    """
    lost = (stretches > STRETCH) | (temperatures > RUNAWAY * target) | ~np.isfinite(temperatures)
    return float(picoseconds[lost][0]) if lost.any() else None


def _lengths(
    atoms: ase.Atoms,
    source: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    shift: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return the distances of pairs."""
    vectors = atoms.positions[source] - atoms.positions[target] + shift @ atoms.cell.array
    lengths: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=-1)
    return lengths


def _leading_sign(shift: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sign of the first entry of each row that is not zero."""
    signs: npt.NDArray[np.int64] = np.sign(shift @ np.array([10**8, 10**4, 1]))
    return signs
