"""Follow the energy along a path: a turned dihedral, or the way from one structure to another."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import ase
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    ase = "ase"

__all__ = ["dihedral_path", "scan", "straight_path"]


def scan(
    checkpoint: Path,
    structure: str,
    *,
    out: Path = Path("runs/interatomic-scan"),
    dihedral: list[int] | None = None,
    to: str | None = None,
    points: int = 25,
    frame: int = -1,
    band: bool = False,
    reference: Literal["none", "GFN2-xTB", "GFN1-xTB"] = "none",
    device: str = "cpu",
    force: bool = False,
) -> dict[str, Any]:
    """Follow the energy along a path, beside a reference where one is named.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that export wrote.
        structure: A file that ASE reads, or a molecule that ASE knows by name: where the path starts.
        out: Folder to write: path.xyz, profile.csv, plots.
        dihedral: Four atom indices, from 0: turn what is bonded to the third and fourth through 360 degrees.
        to: A structure with the same atoms in the same order: where the path ends.
        points: Structures on the path.
        frame: Which frame of the files to take; the last by default.
        band: Relax the path between two structures as a nudged elastic band before measuring along it.
        reference: Compute the profile by this method too.
        device: Where to compute.
        force: Replace what the folder holds.

    Returns:
        Barrier in eV, and with a reference its barrier, and the mean and largest difference of the profiles.

    Raises:
        FileExistsError: Where the folder is not empty and `force` is not given.
        FileNotFoundError: Where a file does not exist.
        ValueError: Where not exactly one of `dihedral` and `to` is given, or they do not fit the structure.
    """
    import ase.io
    import numpy as np

    from lemmata.apps.interatomic import figures
    from lemmata.apps.interatomic.calculator import InteratomicCalculator
    from lemmata.apps.interatomic.structures import read_structure
    from lemmata.apps.kit.files import new_output, write_atomically, write_json
    from lemmata.apps.kit.tables import Table

    if (dihedral is None) == (to is None):
        raise ValueError("give exactly one of `dihedral` and `to`")
    if points < 3:
        raise ValueError(f"`points` (={points}) must be at least 3")
    start = read_structure(structure, frame)
    calculator = InteratomicCalculator(checkpoint, device=device)
    if dihedral is not None:
        path, place, unit = dihedral_path(start, dihedral, points), np.linspace(0, 360, points), "degrees"
    else:
        path = straight_path(start, read_structure(str(to), frame), points, calculator if band else None)
        place, unit = np.linspace(0, 1, points), "fraction of the path"
    new_output(out, force=force).mkdir(exist_ok=True)
    profiles = {"model": _energies(path, calculator)}
    if reference != "none":
        profiles[reference] = _energies(path, _reference(reference))
    relative = {name: energies - energies[0] for name, energies in profiles.items()}
    with write_atomically(out / "path.xyz") as draft:
        ase.io.write(draft, path, format="extxyz")
    rows = [list(row) for row in zip(place, *relative.values(), strict=True)]
    with write_atomically(out / "profile.csv") as draft:
        draft.write_text(Table([unit, *relative], rows).to_csv(), encoding="utf-8")
    figures.save([figures.draw_profile(place, relative, unit)], out / "plots")
    found = {f"barrier, {name} (eV)": float(energies.max()) for name, energies in relative.items()}
    if reference != "none":
        difference = np.abs(relative["model"] - relative[reference])
        found |= {
            "mean difference (eV)": float(difference.mean()),
            "largest difference (eV)": float(difference.max()),
        }
    write_json(out / "profile.json", found)
    Table(["quantity", "value"], [[name, value] for name, value in found.items()]).print()
    return found


def dihedral_path(start: "ase.Atoms", dihedral: Sequence[int], points: int) -> "list[ase.Atoms]":
    """Return copies of a structure with a dihedral turned through a full circle.

    Args:
        start: The structure.
        dihedral: Four atom indices.
        points: Number of copies; the last equals the first.

    Raises:
        ValueError: Where the indices are not four different atoms, or the bond in the middle lies in a ring.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    from lemmata.apps.interatomic.stability import Bonds

    a, b, c, d = _four(dihedral, len(start))
    pairs = Bonds.of(start).pairs
    if {b, c} not in map(set, pairs.tolist()):
        raise ValueError(f"`dihedral` (={[a, b, c, d]}): atoms {b} and {c} are not bonded")
    kept = pairs[~np.isin(pairs, [b, c]).all(axis=1)]
    graph = coo_array((np.ones(len(kept)), kept.T), shape=(len(start), len(start)))
    turned = breadth_first_order(graph.tocsr(), c, directed=False, return_predecessors=False)
    if b in turned:
        raise ValueError(
            f"`dihedral` (={[a, b, c, d]}): the bond {b}-{c} lies in a ring and cannot be turned"
        )
    first = start.get_dihedral(a, b, c, d)
    path = []
    for angle in np.linspace(0, 360, points):
        atoms = start.copy()
        atoms.set_dihedral(a, b, c, d, first + angle, indices=turned.tolist())
        path.append(atoms)
    return path


def straight_path(
    start: "ase.Atoms", end: "ase.Atoms", points: int, calculator: Any = None
) -> "list[ase.Atoms]":
    """Return structures between two, as the image-dependent pair potential interpolates them.

    Args:
        start: First structure.
        end: Last structure, with the same atoms in the same order; it is turned onto the first.
        points: Number of structures, both ends included.
        calculator: Relax the path as a nudged elastic band with it; no relaxation where None.

    Raises:
        ValueError: Where the structures do not have the same atoms.
    """
    import numpy as np
    from ase.build import minimize_rotation_and_translation
    from ase.mep import NEB
    from ase.optimize import FIRE

    if not np.array_equal(start.numbers, end.numbers):
        raise ValueError(
            "`to` must have the atoms of the structure in the same order: "
            f"{start.get_chemical_formula()} and {end.get_chemical_formula()}"
        )
    if not start.pbc.any():
        minimize_rotation_and_translation(start, end)
    path = [start.copy(), *(start.copy() for _ in range(points - 2)), end.copy()]
    band = NEB(path, method="improvedtangent", climb=calculator is not None, allow_shared_calculator=True)
    band.interpolate(method="idpp")
    if calculator is not None:
        for atoms in path:
            atoms.calc = calculator
        FIRE(band, logfile=None).run(fmax=0.05, steps=300)
        for atoms in path:
            atoms.calc = None
    return path


def _four(dihedral: Sequence[int], atoms: int) -> tuple[int, int, int, int]:
    """Check and return the indices of a dihedral."""
    if len(dihedral) != 4 or len(set(dihedral)) != 4 or not all(0 <= i < atoms for i in dihedral):
        raise ValueError(f"`dihedral` (={list(dihedral)}) must be four different atoms from 0 to {atoms - 1}")
    a, b, c, d = dihedral
    return a, b, c, d


def _energies(path: "list[ase.Atoms]", calculator: Any) -> Any:
    """Return the energy of every structure, in eV."""
    import numpy as np

    energies = []
    for atoms in path:
        copy = atoms.copy()
        copy.calc = calculator
        energies.append(float(copy.get_potential_energy()))
    return np.array(energies)


def _reference(method: str) -> Any:
    """Return a reference calculator that prints nothing."""
    from tblite.ase import TBLite

    return TBLite(method=method, verbosity=0)
