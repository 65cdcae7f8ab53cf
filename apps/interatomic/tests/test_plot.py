"""The verb plot: curves of a run, a simulation again, bad input; and the demo's own checks."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write

from lemmata.apps.interatomic.demo import demo
from lemmata.apps.interatomic.md import md
from lemmata.apps.interatomic.plot import plot


def test_a_run_is_drawn_with_its_numbers(trained_run: Path, tmp_path: Path) -> None:
    written = {path.name for path in plot(trained_run, out=tmp_path / "plots")}
    assert {"losses.png", "forces.svg", "energies.csv"} <= written
    with (tmp_path / "plots" / "forces.csv").open() as file:
        drawn = [float(row["val_forces_mae"]) for row in csv.DictReader(file) if row["val_forces_mae"]]
    with (trained_run / "metrics.csv").open() as file:
        logged = [float(row["val_forces_mae"]) for row in csv.DictReader(file) if row["val_forces_mae"]]
    assert drawn == logged


def test_a_simulation_is_drawn_again(stored: Callable[..., Path], tmp_path: Path) -> None:
    write(tmp_path / "start.xyz", molecule("O2"))
    md(stored(), str(tmp_path / "start.xyz"), out=tmp_path / "md", picoseconds=0.02)
    first = (tmp_path / "md" / "plots" / "dynamics.csv").read_text()
    with pytest.raises(FileExistsError):
        plot(tmp_path / "md")
    plot(tmp_path / "md", force=True)
    assert (tmp_path / "md" / "plots" / "dynamics.csv").read_text() == first


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none"):
        plot(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,train_loss\n1,not a number\n")
    with pytest.raises(ValueError, match="not a table of numbers"):
        plot(tmp_path)
    with pytest.raises(ValueError, match=r"`frames` \(=3\)"):
        demo(out=tmp_path / "demo", frames=3)
    assert not (tmp_path / "demo").exists()
