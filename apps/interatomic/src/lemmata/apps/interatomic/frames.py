r"""Labelled frames from extended-XYZ files, and back: names of labels, checks, a report of what was dropped.

A frame is an `ase.Atoms` whose labels are the results of its calculator: `energy` in eV, `forces` in eV/Å and
`stress` in eV/Å³ with ASE's sign, $\sigma = V^{-1} \, \partial E / \partial \epsilon$, negative in a crystal
under pressure. A file may call them otherwise; its virials $-V \sigma$ are turned into stresses.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from lemmata.apps.interatomic.extxyz import RawFrame, iterate_frames
from lemmata.apps.interatomic.neighbours import neighbours

__all__ = ["Dropped", "Keys", "Report", "is_isolated_atom", "read_frames", "write_frames"]

# Names that are recognised, the likeliest first. A name of the author's own goes before the plain one, which
# ASE writes for whatever calculator happened to be attached.
KNOWN_KEYS: dict[str, tuple[str, ...]] = {
    "energy": (
        *("REF_energy", "ref_energy", "dft_energy", "DFT_energy", "energy", "Energy"),
        *("TotEnergy", "total_energy", "potential_energy", "free_energy"),
    ),
    "forces": ("REF_forces", "ref_forces", "dft_forces", "DFT_forces", "forces", "Forces", "force"),
    "stress": (
        *("REF_stress", "ref_stress", "dft_stress", "DFT_stress", "stress"),
        *("REF_virial", "REF_virials", "ref_virial", "dft_virial", "DFT_virial", "virial", "virials"),
    ),
}
NO_LABEL = "none"
CONFIG_TYPE, CONFIG_WEIGHT = "config_type", "config_weight"
CLOSEST = 0.1


@dataclass(frozen=True)
class Keys:
    """What a file calls its labels; None for a label it does not have.

    Args:
        energy: Total energy in eV.
        forces: Forces in eV/Å.
        stress: Stress in eV/Å³, or virial in eV where `virial` is in the name.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Return the names by label."""
        return {"energy": self.energy, "forces": self.forces, "stress": self.stress}


@dataclass(frozen=True)
class Dropped:
    """A frame that was left out.

    Args:
        frame: Its number in the file, from 0.
        line: Its first line, from 1.
        reason: Why.
    """

    frame: int
    line: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What reading a file found.

    Args:
        file: The file.
        read: Number of frames in it.
        kept: Number of frames that were kept.
        keys: What it calls its labels.
        labelled: Number of kept frames with each label.
        dropped: The frames that were not kept.
        notices: What a reader should know, a sentence each.
    """

    file: str
    read: int
    kept: int
    keys: Keys
    labelled: Mapping[str, int] = field(default_factory=dict)
    dropped: tuple[Dropped, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How many frames were dropped for each reason."""
        return dict(Counter(drop.reason for drop in self.dropped))


def read_frames(
    path: Path | str,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    max_force: float = 100.0,
    require: Sequence[str] = ("energy", "forces"),
    progress: bool = False,
) -> tuple[list[Atoms], Report]:
    """Read the labelled frames of an extended-XYZ file.

    Frames whose numbers are not finite, whose forces are absurd, or that lack every label are dropped and
    reported. A frame that has some of the labels keeps those.

    Args:
        path: The file.
        energy_key: Name of the energies, in eV; `none` to do without, recognised among the usual where None.
        forces_key: Name of the forces, in eV/Å, likewise.
        stress_key: Name of the stresses, in eV/Å³ and with ASE's sign, or of the virials, in eV, likewise.
        max_force: Frames with a force longer than this are dropped, in eV/Å.
        require: Labels that at least one frame must have, unless they are `none`.
        progress: Show a progress bar.

    Returns:
        The frames, with labels as results of their calculators and what else the file tells of them in
        `info`; and a report.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is empty, truncated or cannot be read, a label is missing (the message
            lists the names that are there), a cell is singular along a direction that repeats, a label has
            the wrong shape, or no frame is left.
    """
    if not max_force > 0:
        raise ValueError(f"`max_force` (={max_force}) must be positive, in eV/Å")
    raw = list(iterate_frames(path, progress=progress))
    keys, notices = _choose_keys(
        raw, path, {"energy": energy_key, "forces": forces_key, "stress": stress_key}, require
    )
    frames: list[Atoms] = []
    dropped: list[Dropped] = []
    for entry in raw:
        _check_cell(entry)
        _check_weight(entry)
        labels = _labels(entry, keys)
        reason = _fault(entry.atoms, labels, max_force, labelled=bool(require))
        if reason is None:
            frames.append(_with_labels(entry.atoms, labels))
        else:
            dropped.append(Dropped(entry.frame, entry.line, reason))
    report = Report(
        file=str(path),
        read=len(raw),
        kept=len(frames),
        keys=keys,
        labelled={name: sum(name in a.calc.results for a in frames if a.calc) for name in KNOWN_KEYS},
        dropped=tuple(dropped),
        notices=notices,
    )
    if not frames:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in report.reasons.items())
        raise ValueError(f"{path}: none of {len(raw)} frames can be used: {reasons}")
    return frames, report


def write_frames(path: Path | str, frames: Iterable[Atoms]) -> Path:
    """Write frames as extended XYZ, atomically, with labels as `energy`, `forces` and `stress`.

    Positions and forces have eight decimals. Results of other names, arrays and constraints are not written.

    Args:
        path: The file; one that is there is replaced.
        frames: The frames.

    Returns:
        The path.
    """
    from ase.io.extxyz import write_xyz

    from lemmata.apps.kit.files import write_atomically

    with write_atomically(path) as draft, draft.open("w", encoding="utf-8") as file:
        write_xyz(file, [_with_labels(atoms, _canonical(atoms)) for atoms in frames])
    return Path(path)


def is_isolated_atom(atoms: Atoms) -> bool:
    """Tell whether a frame is a free atom: one that does not repeat, or whose `config_type` calls it so.

    Args:
        atoms: The frame.

    Examples:
        >>> is_isolated_atom(Atoms("H")), is_isolated_atom(Atoms("H", cell=[3, 3, 3], pbc=True))
        (True, False)
    """
    kind = str(atoms.info.get(CONFIG_TYPE, "")).lower().replace("_", "").replace(" ", "")
    return len(atoms) == 1 and (not atoms.pbc.any() or kind == "isolatedatom")


def _choose_keys(
    raw: Sequence[RawFrame], path: Path | str, asked: Mapping[str, str | None], require: Sequence[str]
) -> tuple[Keys, tuple[str, ...]]:
    """Return what the file calls its labels, as asked for or recognised."""
    found = Counter(name for entry in raw for name in _names(entry.atoms))
    chosen: dict[str, str | None] = {}
    notices = []
    for label, name in asked.items():
        if name == NO_LABEL:
            chosen[label] = None
            continue
        candidates = [key for key in KNOWN_KEYS[label] if found[key]] if name is None else [name]
        if name is not None and not found[name]:
            raise ValueError(f"{path}: `{label}_key` (={name!r}) is in no frame; found {_listed(found)}")
        if not candidates and label in require:
            raise ValueError(
                f"{path}: no {label} found; name what the file has for it with `{label}_key`: "
                f"found {_listed(found)}"
            )
        chosen[label] = candidates[0] if candidates else None
        if len(candidates) > 1 and found[candidates[0]] < len(raw):
            notices.append(f"{label} is read from {candidates[0]}, not from {', '.join(candidates[1:])}")
    if require and not any(chosen.values()):
        raise ValueError(
            "`energy_key`, `forces_key` and `stress_key` are all `none`; expected a label to learn"
        )
    return Keys(**chosen), tuple(notices)


def _names(atoms: Atoms) -> list[str]:
    """Return the names of everything that a frame holds beside species and positions."""
    arrays = [name for name in atoms.arrays if name not in {"numbers", "positions"}]
    return [*atoms.info, *arrays, *getattr(atoms.calc, "results", {})]


def _listed(found: Mapping[str, int]) -> str:
    """Return names for a message."""
    return ", ".join(sorted(found)) or "nothing beside species and positions"


def _check_cell(entry: RawFrame) -> None:
    """Raise where a direction repeats that has no length of its own."""
    atoms = entry.atoms
    if not np.isfinite(atoms.cell.array).all():
        raise ValueError(f"{entry.where}: the cell is not finite")
    repeating = atoms.cell.array[atoms.pbc]
    if len(repeating) and np.linalg.svd(repeating, compute_uv=False)[-1] < 1e-6:
        raise ValueError(
            f"{entry.where}: the cell {atoms.cell.array.tolist()} is singular, yet pbc is "
            f"{atoms.pbc.tolist()}; expected independent vectors where it is True"
        )


def _check_weight(entry: RawFrame) -> None:
    """Raise where the weight that a frame gives itself is none."""
    weight = entry.atoms.info.get(CONFIG_WEIGHT, 1.0)
    if not isinstance(weight, Real) or not 0 <= float(weight) < np.inf:
        raise ValueError(f"{entry.where}: {CONFIG_WEIGHT} (={weight!r}) must be a number of at least 0")


def _labels(entry: RawFrame, keys: Keys) -> dict[str, np.ndarray]:
    """Return the labels that a frame has, in float64."""
    atoms = entry.atoms
    results: dict[str, Any] = getattr(atoms.calc, "results", {})
    shapes: dict[str, list[tuple[int, ...]]] = {
        "energy": [()],
        "forces": [(len(atoms), 3)],
        "stress": [(6,), (9,), (3, 3)],
    }
    labels: dict[str, np.ndarray] = {}
    for label, key in ((label, key) for label, key in keys.to_dict().items() if key is not None):
        places: tuple[dict[str, Any], ...] = (results, atoms.info, atoms.arrays)
        value: Any = next((place[key] for place in places if key in place), None)
        if value is None or (isinstance(value, str) and value.lower() in {"none", "null", ""}):
            continue
        try:
            number = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{entry.where}: {key} (={value!r}) is not a number") from error
        number = number.reshape(()) if number.size == 1 and label == "energy" else number
        if number.shape not in shapes[label]:
            raise ValueError(f"{entry.where}: {key} has the shape {number.shape}, expected {shapes[label]}")
        labels[label] = number
    if "stress" in labels:
        stress = _stress(labels.pop("stress"), atoms, virial="virial" in str(keys.stress).lower())
        labels.update({} if stress is None else {"stress": stress})
    return labels


def _stress(value: np.ndarray, atoms: Atoms, *, virial: bool) -> np.ndarray | None:
    """Return a stress in Voigt's order; None where the frame has no volume it could refer to."""
    volume = abs(np.linalg.det(atoms.cell.array))
    if not atoms.pbc.any() or volume < 1e-6:
        return None
    if value.size == 9:
        full = value.reshape(3, 3)
        value = ((full + full.T) / 2).reshape(-1)[[0, 4, 8, 5, 2, 1]]
    return -value / volume if virial else value


def _fault(atoms: Atoms, labels: Mapping[str, np.ndarray], max_force: float, *, labelled: bool) -> str | None:
    """Return why a frame cannot be used; None where it can."""
    if not len(atoms):
        return "no atoms"
    if not np.isfinite(atoms.positions).all():
        return "positions that are not finite"
    if labelled and not labels:
        return "no label"
    for name, value in labels.items():
        if not np.isfinite(value).all():
            return f"{name} that is not finite" if name != "forces" else "forces that are not finite"
    if "forces" in labels and np.linalg.norm(labels["forces"], axis=1).max() > max_force:
        return f"a force above {max_force:g} eV/Å"
    return f"atoms closer than {CLOSEST} Å" if _coincide(atoms) else None


def _coincide(atoms: Atoms) -> bool:
    """Tell whether two atoms are at one place, where no force is defined."""
    (source, target), shift = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, 1.0)
    vectors = atoms.positions[source] - atoms.positions[target] + shift @ atoms.cell.array
    return bool((np.linalg.norm(vectors, axis=1) < CLOSEST).any())


def _canonical(atoms: Atoms) -> dict[str, np.ndarray]:
    """Return the labels among the results of a frame's calculator."""
    results: dict[str, Any] = getattr(atoms.calc, "results", {})
    return {name: np.asarray(results[name], np.float64) for name in KNOWN_KEYS if name in results}


def _with_labels(atoms: Atoms, labels: Mapping[str, np.ndarray]) -> Atoms:
    """Return a frame with nothing but its geometry, its labels, and what else the file tells of it."""
    from ase.calculators.singlepoint import SinglePointCalculator

    names = {key for keys in KNOWN_KEYS.values() for key in keys}
    info = {key: value for key, value in atoms.info.items() if key not in names}
    clean = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
    if labels:
        results = {name: float(value) if name == "energy" else value for name, value in labels.items()}
        clean.calc = SinglePointCalculator(clean, **results)
    return clean
