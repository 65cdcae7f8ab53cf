"""Structures from files and by name."""

from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write

from lemmata.apps.interatomic.structures import read_structure, read_structures


def test_frames_are_chosen_and_calculators_left_behind(tmp_path: Path) -> None:
    frames = [molecule("H2O"), molecule("CO2")]
    write(tmp_path / "two.xyz", frames)
    assert read_structure(tmp_path / "two.xyz").get_chemical_formula() == "CO2"
    assert read_structure(tmp_path / "two.xyz", 0).get_chemical_formula() == "H2O"
    assert [atoms.calc for atoms in read_structures(tmp_path / "two.xyz")] == [None, None]
    with pytest.raises(ValueError, match=r"`frame` \(=2\).*2 frames"):
        read_structure(tmp_path / "two.xyz", 2)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor a molecule"):
        read_structure("unobtainium")
    (tmp_path / "noise.xyz").write_text("not atoms at all\n")
    with pytest.raises(ValueError, match=r"noise\.xyz"):
        read_structures(tmp_path / "noise.xyz")
    with pytest.raises(FileNotFoundError):
        read_structures(tmp_path / "absent.xyz")
