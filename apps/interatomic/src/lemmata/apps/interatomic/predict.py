"""Predict energies, forces and stress of the structures in a file."""

from pathlib import Path

__all__ = ["predict"]


def predict(
    checkpoint: Path,
    file: Path,
    *,
    out: Path | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    force: bool = False,
) -> Path:
    """Predict energies, forces and stress of the structures in a file, and write them beside it.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that export wrote.
        file: Structures in any format that ASE reads.
        out: Extended-XYZ file to write; the file's name with -predicted.xyz where not given.
        batch_size: Structures at once.
        device: Where to compute.
        force: Replace an existing file.

    Returns:
        The file written: energies in eV, forces in eV/A and, for periodic structures, stress in eV/A^3.

    Raises:
        FileExistsError: Where the file to write exists and `force` is not given.
        FileNotFoundError: Where checkpoint or file do not exist.
        ValueError: Where the file cannot be read, or an element is unknown to the potential.
    """
    import ase.io
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    from lemmata.apps.interatomic.scoring import score
    from lemmata.apps.interatomic.structures import read_structures
    from lemmata.apps.interatomic.trained import load_potential
    from lemmata.apps.kit.files import new_output, write_atomically

    out = file.with_name(f"{file.stem}-predicted.xyz") if out is None else out
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")
    if batch_size < 1:
        raise ValueError(f"`batch_size` (={batch_size}) must be at least 1")
    frames = read_structures(file)
    scored = score(load_potential(checkpoint, device=device), frames, batch_size=batch_size)
    for number, atoms in enumerate(frames):
        results = {"energy": scored.energy[number], "forces": scored.forces[scored.frame == number]}
        if np.isfinite(scored.stress[number]).all():
            results["stress"] = scored.stress[number]
        atoms.calc = SinglePointCalculator(atoms, **results)
    with write_atomically(new_output(out, force=force)) as draft:
        ase.io.write(draft, frames, format="extxyz")
    _say(out, len(frames))
    return out


def _say(out: Path, count: int) -> None:
    """Say what was written where."""
    from rich.console import Console

    Console().print(f"Wrote predictions for {count} structures to {out}", highlight=False)
