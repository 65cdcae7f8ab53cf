"""What a potential is measured from: energies of free atoms, the scale of forces, the number of neighbours.

A total energy is mostly that of the atoms for themselves: -9400 eV for a molecule of 15 atoms whose
conformations differ by 0.1 eV. That part is subtracted in float64 before anything is computed in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from lemmata.apps.interatomic.neighbours import neighbours

__all__ = ["Reference", "average_neighbours", "fit_energies", "force_scale", "isolated_energies", "measure"]

RIDGE = 1e-12
FRAMES_TO_COUNT = 1000
STRONGEST_BOND = 20.0
ISOLATED, FITTED = "isolated atom", "least squares"


@dataclass(frozen=True)
class Reference:
    """What a potential needs to know of its training data before it is trained.

    Args:
        e0: Energy of a free atom by atomic number, in eV.
        scale: Root mean square of a component of the training forces, in eV/Å.
        average_neighbours: Mean number of edges that end at an atom.
        cutoff: The cutoff they were counted with, in Å.
        origin: Where each energy is from, by atomic number: `"isolated atom"` or `"least squares"`.
        notices: What a reader should know, a sentence each.
    """

    e0: Mapping[int, float]
    scale: float
    average_neighbours: float
    cutoff: float
    origin: Mapping[int, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers, in increasing order."""
        return tuple(sorted(self.e0))

    def to_dict(self) -> dict[str, Any]:
        """Return the reference as a card holds it, elements by symbol."""
        return {
            "elements": [chemical_symbols[z] for z in self.elements],
            "E0s": {chemical_symbols[z]: self.e0[z] for z in self.elements},
            "E0s_from": {chemical_symbols[z]: self.origin[z] for z in self.elements if z in self.origin},
            "scale": self.scale,
            "average_neighbours": self.average_neighbours,
            "cutoff": self.cutoff,
            "notices": list(self.notices),
        }

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> "Reference":
        """Read what `to_dict` returned; further entries are left alone.

        Raises:
            ValueError: Where an entry is missing.
        """
        try:
            return cls(
                e0={atomic_numbers[symbol]: float(energy) for symbol, energy in card["E0s"].items()},
                scale=float(card["scale"]),
                average_neighbours=float(card["average_neighbours"]),
                cutoff=float(card["cutoff"]),
                origin={atomic_numbers[symbol]: origin for symbol, origin in card["E0s_from"].items()},
                notices=tuple(card["notices"]),
            )
        except KeyError as error:
            raise ValueError(f"the dataset's card lacks the entry {error}") from error


def measure(
    frames: Sequence[Atoms], cutoff: float, *, isolated: Mapping[int, float] | None = None
) -> Reference:
    """Measure what a potential needs to know of its training frames.

    Args:
        frames: Training frames with labels.
        cutoff: Cutoff to count neighbours with, in Å.
        isolated: Energies of free atoms that are known, in eV by atomic number; the rest is fitted.

    Returns:
        The reference, of the elements that occur in the frames.

    Raises:
        ValueError: Where there is no frame, or `cutoff` is not positive.
    """
    if not frames:
        raise ValueError("`frames` is empty; expected at least one training frame")
    elements = sorted({int(z) for atoms in frames for z in np.unique(atoms.numbers)})
    known = {z: float(energy) for z, energy in (isolated or {}).items() if z in elements}
    fitted, notices = fit_energies(frames, known=known)
    scale, more = force_scale(frames)
    e0 = {z: {**fitted, **known}[z] for z in elements}
    return Reference(
        e0=e0,
        scale=scale,
        average_neighbours=average_neighbours(frames, cutoff),
        cutoff=float(cutoff),
        origin={z: ISOLATED if z in known else FITTED for z in elements},
        notices=(*notices, *more, *_far_off(frames, e0)),
    )


def isolated_energies(frames: Sequence[Atoms]) -> dict[int, float]:
    """Return the energies of free atoms by atomic number, in eV.

    Args:
        frames: Frames of one atom each, with their energies.

    Raises:
        ValueError: Where a frame has not one atom or no energy, or two frames of an element differ.

    Examples:
        >>> from ase.calculators.singlepoint import SinglePointCalculator
        >>> hydrogen = Atoms("H")
        >>> hydrogen.calc = SinglePointCalculator(hydrogen, energy=-13.6)
        >>> isolated_energies([hydrogen])
        {1: -13.6}
    """
    found: dict[int, float] = {}
    for number, atoms in enumerate(frames):
        energy = _label(atoms, "energy")
        if len(atoms) != 1 or energy is None:
            what = f"{len(atoms)} atoms" if len(atoms) != 1 else "no energy"
            raise ValueError(f"isolated atom {number} has {what}; expected one atom with its energy")
        z = int(atoms.numbers[0])
        if abs(found.setdefault(z, float(energy)) - float(energy)) > 1e-6:
            raise ValueError(
                f"isolated atoms of {chemical_symbols[z]} have different energies, {found[z]} and {energy} "
                "eV; expected one"
            )
    return found


def fit_energies(
    frames: Sequence[Atoms], *, known: Mapping[int, float] | None = None, ridge: float = RIDGE
) -> tuple[dict[int, float], tuple[str, ...]]:
    r"""Fit an energy of each element to the compositions of frames, by least squares in float64.

    Minimises $\sum_f (E_f - \sum_z n_{fz} e_z)^2 + \lambda \sum_z (e_z - \bar e)^2$, with $\bar e$ the mean
    energy of an atom and $\lambda$ the ridge times the largest squared singular value of $n$. The ridge
    decides what the compositions do not: of frames of one composition only the sum is determined, and every
    element then gets the same share.

    Args:
        frames: Frames; those without an energy are left out.
        known: Energies that are not fitted, in eV by atomic number.
        ridge: Strength of the ridge.

    Returns:
        Energies in eV by atomic number of the elements that are not known, and notices.

    Examples:
        >>> from ase.build import molecule
        >>> from ase.calculators.singlepoint import SinglePointCalculator
        >>> frames = [molecule(name) for name in ("H2O", "H2", "H2O2")]
        >>> for atoms, energy in zip(frames, (-12.0, -2.0, -22.0)):
        ...     atoms.calc = SinglePointCalculator(atoms, energy=energy)
        >>> {z: round(e, 6) for z, e in fit_energies(frames)[0].items()}
        {1: -1.0, 8: -10.0}
    """
    known = known or {}
    elements = sorted({int(z) for atoms in frames for z in np.unique(atoms.numbers)} - set(known))
    labelled = [(atoms, energy) for atoms in frames if (energy := _label(atoms, "energy")) is not None]
    if not elements:
        return {}, ()
    if not labelled:
        return dict.fromkeys(elements, 0.0), ("no frame has an energy: E0s are 0",)
    counts = np.array([[np.count_nonzero(a.numbers == z) for z in elements] for a, _ in labelled], float)
    rest = np.array(
        [energy - sum(known.get(int(z), 0.0) for z in atoms.numbers) for atoms, energy in labelled], float
    )
    mean = rest.sum() / max(counts.sum(), 1.0)
    singular = np.linalg.svd(counts, compute_uv=False)
    weight = np.sqrt(ridge) * max(singular[0], 1.0)
    shares, *_ = np.linalg.lstsq(
        np.vstack([counts, weight * np.eye(len(elements))]),
        np.concatenate([rest - mean * counts.sum(1), np.zeros(len(elements))]),
        rcond=None,
    )
    rank = int((singular > 1e-6 * singular[0]).sum())
    notices = []
    if rank < len(elements):
        symbols = ", ".join(chemical_symbols[z] for z in elements)
        notices.append(
            f"E0s of {symbols} are fitted to compositions of rank {rank}: only sums are determined, not "
            "each; give isolated atoms to have atomisation energies right"
        )
    return {z: float(mean + share) for z, share in zip(elements, shares, strict=True)}, tuple(notices)


def force_scale(frames: Sequence[Atoms]) -> tuple[float, tuple[str, ...]]:
    """Return the root mean square of the frames' forces by component, in eV/Å; 1 where that means nothing.

    Args:
        frames: Frames; those without forces are left out.

    Returns:
        The scale, and notices.
    """
    squares = [np.square(forces) for a in frames if (forces := _label(a, "forces")) is not None]
    count = sum(square.size for square in squares)
    scale = float(np.sqrt(sum(square.sum() for square in squares) / count)) if count else 0.0
    if scale > 1e-8:
        return scale, ()
    return 1.0, ("the scale is 1 eV/Å, as no frame has forces other than zero",)


def average_neighbours(frames: Sequence[Atoms], cutoff: float) -> float:
    """Return the mean number of edges that end at an atom, over at most 1000 frames, evenly spaced.

    Args:
        frames: Frames.
        cutoff: In Å.

    Returns:
        The mean; 1 where there are no edges at all, so that one can divide by it.
    """
    chosen = frames[:: -(-len(frames) // FRAMES_TO_COUNT)]
    edges = sum(neighbours(a.positions, a.cell.array, a.pbc, cutoff)[0].shape[1] for a in chosen)
    return edges / sum(map(len, chosen)) if edges else 1.0


def _far_off(frames: Sequence[Atoms], e0: Mapping[int, float]) -> tuple[str, ...]:
    """Return a notice where energies beyond those of free atoms are too large for any bond."""
    rest = [
        (energy - sum(e0[int(z)] for z in atoms.numbers)) / len(atoms)
        for atoms in frames
        if (energy := _label(atoms, "energy")) is not None
    ]
    if not rest or abs(mean := float(np.mean(rest))) < STRONGEST_BOND:
        return ()
    beyond = f"frames have {mean:.1f} eV an atom beyond their free atoms, more than bonds can have"
    return (f"{beyond}: are these of the same method?",)


def _label(atoms: Atoms, name: str) -> Any:
    """Return a label of a frame; None where it has none."""
    return getattr(atoms.calc, "results", {}).get(name)
