"""The verb scan: paths with the geometry that was asked for, energies beside a reference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from lemmata.apps.interatomic.scan import dihedral_path, scan, straight_path

Store = Callable[..., Path]
# Carbon, carbon, oxygen, hydrogen of ethanol as ASE numbers them.
HYDROXYL = [0, 1, 2, 3]


def test_a_dihedral_turns_through_the_circle_and_nothing_else_changes() -> None:
    start = molecule("CH3CH2OH")
    path = dihedral_path(start, HYDROXYL, 13)
    angles = np.array([atoms.get_dihedral(*HYDROXYL) for atoms in path])
    steps = np.diff(angles) % 360
    np.testing.assert_allclose(steps, 30, atol=1e-6)
    np.testing.assert_allclose(path[0].positions, path[-1].positions, atol=1e-9)
    for atoms in path:
        assert atoms.get_distance(2, 3) == pytest.approx(start.get_distance(2, 3))
        still = [index for index in range(9) if index != 3]
        np.testing.assert_allclose(atoms.positions[still], start.positions[still], atol=1e-12)


def test_a_bond_of_a_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="lies in a ring"):
        dihedral_path(molecule("C6H6"), [0, 1, 2, 3], 5)
    with pytest.raises(ValueError, match="0 and 2 are not bonded"):
        dihedral_path(molecule("CH3CH2OH"), [1, 0, 2, 3], 5)
    with pytest.raises(ValueError, match="four different atoms"):
        dihedral_path(molecule("C6H6"), [0, 1, 2, 2], 5)


def test_a_path_joins_its_ends() -> None:
    start, end = molecule("CH3CH2OH"), molecule("CH3CH2OH")
    end.set_dihedral(*HYDROXYL, 180, indices=[3])
    end.rotate(40, "z")
    end.translate([1.0, 2.0, 3.0])
    path = straight_path(start, end, 7)
    assert len(path) == 7
    distances = start.get_all_distances(), path[0].get_all_distances()
    np.testing.assert_allclose(*distances, atol=1e-9)
    np.testing.assert_allclose(path[-1].get_all_distances(), end.get_all_distances(), atol=1e-9)
    with pytest.raises(ValueError, match="same order"):
        straight_path(start, molecule("H2O"), 5)


def test_a_scan_writes_the_profile_beside_a_reference(stored: Store, tmp_path: Path) -> None:
    found = scan(
        stored(), "CH3CH2OH", out=tmp_path / "scan", dihedral=HYDROXYL, points=5, reference="GFN2-xTB"
    )
    assert 0.01 < found["barrier, GFN2-xTB (eV)"] < 0.2  # 1 kcal/mol is what turning a hydroxyl group costs
    lines = (tmp_path / "scan" / "profile.csv").read_text().splitlines()
    assert lines[0] == "degrees,model,GFN2-xTB"
    assert len(lines) == 6
    assert len(read(tmp_path / "scan" / "path.xyz", ":")) == 5
    assert (tmp_path / "scan" / "plots" / "profile.png").exists()


def test_a_band_goes_over_the_saddle(stored: Store, tmp_path: Path) -> None:
    # A tetrahedron turns inside out: its apex crosses the plane of the base. A band may spread the base.
    base = [[0.75, 0, 0], [-0.375, 0.65, 0], [-0.375, -0.65, 0]]
    start, end = (Atoms("C4", [*base, [0, 0, height]]) for height in (1.06, -1.06))
    write(tmp_path / "start.xyz", start)
    write(tmp_path / "end.xyz", end)
    barriers = [
        scan(
            stored(),
            str(tmp_path / "start.xyz"),
            to=str(tmp_path / "end.xyz"),
            out=tmp_path / f"scan-{band}",
            points=7,
            band=band,
        )["barrier, model (eV)"]
        for band in (False, True)
    ]
    assert 0.1 < barriers[1] < barriers[0]


def test_bad_input_changes_nothing(stored: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        scan(stored(), "CH3CH2OH", out=tmp_path / "scan")
    with pytest.raises(ValueError, match=r"`points` \(=2\)"):
        scan(stored(), "CH3CH2OH", out=tmp_path / "scan", dihedral=HYDROXYL, points=2)
    assert not (tmp_path / "scan").exists()
