"""Relax a structure with a trained potential."""

from pathlib import Path
from typing import Any

__all__ = ["relax"]


def relax(
    checkpoint: Path,
    structure: str,
    *,
    out: Path = Path("relaxed.xyz"),
    frame: int = -1,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    device: str = "cpu",
    force: bool = False,
) -> dict[str, Any]:
    """Move atoms, and with --cell the cell, until no force is larger than fmax.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that export wrote.
        structure: A file that ASE reads, or a molecule that ASE knows by name.
        out: Extended XYZ file to write: the first and the relaxed structure, with energies and forces.
        frame: Which frame of the file to start from; the last by default.
        fmax: Largest force that remains, in eV/A.
        steps: After how many steps to give up.
        cell: Relax the cell too.
        device: Where to compute.
        force: Replace an existing file.

    Returns:
        Energies before and after, the largest force that remains, steps, and whether it converged.

    Raises:
        FileExistsError: Where the file exists and `force` is not given.
        FileNotFoundError: Where checkpoint or structure do not exist.
        ValueError: Where an argument is out of range, or a cell is to be relaxed that there is not.
    """
    import ase.io
    import numpy as np
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from lemmata.apps.interatomic.calculator import InteratomicCalculator
    from lemmata.apps.interatomic.structures import read_structure
    from lemmata.apps.kit.files import new_output, write_atomically
    from lemmata.apps.kit.tables import Table

    if not 0 < fmax < float("inf"):
        raise ValueError(f"`fmax` (={fmax}) must be positive and finite")
    if steps < 1:
        raise ValueError(f"`steps` (={steps}) must be at least 1")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")
    atoms = read_structure(structure, frame)
    if cell and not atoms.pbc.all():
        raise ValueError(f"`cell` is given, but {structure} is not periodic along all three axes")
    atoms.calc = InteratomicCalculator(checkpoint, device=device)
    before = _with_results(atoms)
    moved: Any = FrechetCellFilter(atoms) if cell else atoms
    optimizer = BFGS(moved, logfile=None)
    converged = bool(optimizer.run(fmax=fmax, steps=steps))
    after = _with_results(atoms)
    with write_atomically(new_output(out, force=force)) as draft:
        ase.io.write(draft, [before, after], format="extxyz")
    found: dict[str, Any] = {
        "energy before (eV)": float(before.get_potential_energy()),
        "energy after (eV)": float(after.get_potential_energy()),
        "largest force (eV/A)": float(np.linalg.norm(after.get_forces(), axis=1).max()),
        "steps": int(optimizer.nsteps),
        "converged": converged,
    }
    Table(["quantity", "value"], [[name, value] for name, value in found.items()]).print()
    return found


def _with_results(atoms: Any) -> Any:
    """Return a copy that keeps energy and forces as they are now."""
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()
    copy.calc = SinglePointCalculator(
        copy, energy=float(atoms.get_potential_energy()), forces=atoms.get_forces()
    )
    return copy
