"""The verb md: what it writes, resumption, bad input."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write

from lemmata.apps.interatomic.md import md

Store = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> str:
    corner = 0.46
    atoms = Atoms(
        "C4",
        [[corner] * 3, [corner, -corner, -corner], [-corner, corner, -corner], [-corner, -corner, corner]],
    )
    write(tmp_path / "start.xyz", atoms)
    return str(tmp_path / "start.xyz")


def test_report_samples_and_plots_are_written(stored: Store, start: str, tmp_path: Path) -> None:
    report = md(stored(depth=8.0, cutoff=50.0), start, out=tmp_path / "run", picoseconds=0.2, timestep=0.25)
    assert report["kept"] is True
    assert report["steps"] == 800
    assert abs(report["drift (meV/atom/ps)"]) < 1
    assert json.loads((tmp_path / "run" / "report.json").read_text())["atoms"] == 4
    with (tmp_path / "run" / "samples.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 81
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {
        f"{name}.{suffix}" for name in ("dynamics", "distances") for suffix in ("png", "svg", "csv")
    }


def test_a_longer_run_goes_on_from_a_shorter_one(stored: Store, start: str, tmp_path: Path) -> None:
    model = stored(depth=8.0)
    md(model, start, out=tmp_path / "parts", ensemble="nvt", picoseconds=0.05)
    md(model, start, out=tmp_path / "parts", ensemble="nvt", picoseconds=0.1, resume=True)
    md(model, start, out=tmp_path / "whole", ensemble="nvt", picoseconds=0.1)
    parts, whole = ((tmp_path / run / "samples.csv").read_text() for run in ("parts", "whole"))
    assert parts == whole


def test_a_committee_is_followed(stored: Store, start: str, tmp_path: Path) -> None:
    members = [stored("second", depth=8.2)]
    report = md(stored(depth=8.0), start, out=tmp_path / "run", picoseconds=0.01, committee=members)
    assert report["largest committee spread (eV/A)"] > 0


def test_bad_input_changes_nothing(stored: Store, start: str, tmp_path: Path, unchecked: None) -> None:
    model, out = stored(depth=8.0), tmp_path / "run"
    with pytest.raises(ValueError, match=r"`timestep` \(=0\)"):
        md(model, start, out=out, timestep=0)
    with pytest.raises(ValueError, match=r"`ensemble` \(='npt'\)"):
        md(model, start, out=out, ensemble="npt")
    with pytest.raises(FileNotFoundError, match="absent"):
        md(Path("absent"), start, out=out)
    assert not out.exists()
    out.mkdir()
    (out / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        md(model, start, out=out)
    assert (out / "kept.txt").read_text() == "mine"
