"""The verb relax: it ends at the minimum that is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from lemmata.apps.interatomic.relax import relax

Store = Callable[..., Path]


def test_a_pair_ends_at_the_minimum(stored: Store, tmp_path: Path) -> None:
    write(tmp_path / "far.xyz", Atoms("C2", [[0, 0, 0], [0, 0, 1.6]]))
    # Without the factor that ends the potential at its cutoff, which moves the minimum, this would be 1.3 A.
    found = relax(stored(cutoff=50.0), str(tmp_path / "far.xyz"), out=tmp_path / "near.xyz", fmax=1e-4)
    assert found["converged"] is True
    before, after = read(tmp_path / "near.xyz", ":")
    assert after.get_distance(0, 1) == pytest.approx(1.3, abs=2e-3)
    assert after.get_potential_energy() == pytest.approx(found["energy after (eV)"])
    assert before.get_potential_energy() > after.get_potential_energy()
    assert np.abs(after.get_forces()).max() < 1e-4


def test_a_cell_is_relaxed_where_asked(stored: Store, tmp_path: Path) -> None:
    write(tmp_path / "crystal.xyz", bulk("Ar", a=2.4, cubic=True))
    found = relax(stored(), str(tmp_path / "crystal.xyz"), out=tmp_path / "relaxed.xyz", cell=True, fmax=1e-3)
    assert found["converged"] is True
    before, after = read(tmp_path / "relaxed.xyz", ":")
    assert abs(after.get_volume() - before.get_volume()) > 0.1


def test_bad_input_changes_nothing(stored: Store, tmp_path: Path) -> None:
    out = tmp_path / "relaxed.xyz"
    with pytest.raises(ValueError, match=r"`fmax` \(=0\)"):
        relax(stored(), "CO2", out=out, fmax=0)
    with pytest.raises(ValueError, match="not periodic"):
        relax(stored(), "CO2", out=out, cell=True)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(FileExistsError):
        relax(stored(), "CO2", out=out)
    assert out.read_text() == "mine"
