"""Dynamics: energy is kept, runs resume bit for bit, torn bonds end a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.optimize import BFGS

from lemmata.apps.interatomic.calculator import InteratomicCalculator
from lemmata.apps.interatomic.dynamics import STATE, TRAJECTORY, Ensemble, simulate
from lemmata.apps.interatomic.models.potential import Potential
from lemmata.apps.interatomic.stability import drift

Make = Callable[..., Potential]


@pytest.fixture
def start(morse: Make) -> Callable[[], Atoms]:
    # A tetrahedron whose six pairs all sit at the minimum.
    atoms = Atoms("C4", 0.46 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    atoms.calc = InteratomicCalculator(morse(8.0))
    BFGS(atoms, logfile=None).run(fmax=0.01)

    def again() -> Atoms:
        copy = atoms.copy()
        copy.calc = InteratomicCalculator(morse(8.0))
        return copy

    return again


def test_energy_is_kept_without_a_thermostat(start: Callable[[], Atoms], tmp_path: Path) -> None:
    samples = simulate(start(), tmp_path, ensemble="nve", temperature=300, picoseconds=0.4, timestep=0.25)
    assert len(samples.total) == 161
    assert abs(drift(samples.picoseconds, samples.total, 4) or 0.0) < 1
    assert np.ptp(samples.potential) > 100 * np.ptp(samples.total)
    assert len(read(tmp_path / TRAJECTORY, ":")) == 161


def test_a_thermostat_holds_the_temperature(start: Callable[[], Atoms], tmp_path: Path) -> None:
    samples = simulate(
        start(), tmp_path, ensemble="nvt", temperature=300, picoseconds=2, timestep=0.5, friction=0.1
    )
    # 12 degrees of freedom: single temperatures scatter by 40 %, the mean of two picoseconds by far less.
    assert samples.temperature[100:].mean() == pytest.approx(300, rel=0.2)


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    ensemble: Ensemble, start: Callable[[], Atoms], tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    options = {"ensemble": ensemble, "temperature": 300.0, "timestep": 0.5, "save_every": 3}
    whole = simulate(start(), tmp_path / "whole", picoseconds=0.1, **options)
    simulate(start(), tmp_path / "parts", picoseconds=0.04, **options)
    # What a kill leaves behind: a trajectory that is ahead of the state.
    with (tmp_path / "parts" / TRAJECTORY).open("a") as file:
        file.write("4\nhalf a fra")
    parts = simulate(start(), tmp_path / "parts", picoseconds=0.1, resume=True, **options)
    for name, column in whole.columns().items():
        assert np.array_equal(column, parts.columns()[name], equal_nan=True), name
    trajectories = [(tmp_path / run / TRAJECTORY).read_bytes() for run in ("whole", "parts")]
    assert trajectories[0] == trajectories[1]


def test_a_torn_bond_ends_the_run(start: Callable[[], Atoms], tmp_path: Path) -> None:
    samples = simulate(start(), tmp_path, ensemble="nve", temperature=60_000, picoseconds=5, timestep=0.25)
    assert samples.stretch[-1] > 0.5
    assert samples.picoseconds[-1] < 1


def test_a_committees_spread_is_recorded(morse: Make, start: Callable[[], Atoms], tmp_path: Path) -> None:
    atoms = start()
    atoms.calc = InteratomicCalculator([morse(8.0), morse(8.1)])
    samples = simulate(atoms, tmp_path, ensemble="nve", temperature=300, picoseconds=0.02, timestep=0.25)
    assert (samples.spread > 0).all()


def test_a_state_of_other_atoms_is_refused(start: Callable[[], Atoms], tmp_path: Path) -> None:
    options = {"ensemble": "nve", "temperature": 300.0, "timestep": 0.5, "picoseconds": 0.01}
    with pytest.raises(FileNotFoundError, match=STATE):
        simulate(start(), tmp_path, resume=True, **options)
    simulate(start(), tmp_path, **options)
    other = start()
    other.numbers[0] = 1
    with pytest.raises(ValueError, match="other atoms"):
        simulate(other, tmp_path, resume=True, **options)
