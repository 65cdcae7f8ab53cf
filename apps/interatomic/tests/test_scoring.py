"""Errors of predictions: against errors that were put in on purpose."""

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from lemmata.apps.interatomic.calculator import InteratomicCalculator
from lemmata.apps.interatomic.models.potential import Potential
from lemmata.apps.interatomic.scoring import score, table_rows

Make = Callable[..., Potential]


def labelled(atoms: Atoms, potential: Potential, energy_off: float, force_off: float, kind: str) -> Atoms:
    atoms.calc = InteratomicCalculator(potential)
    results = {
        "energy": atoms.get_potential_energy() + energy_off,
        "forces": atoms.get_forces() + force_off,
    }
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["config_type"] = kind
    return atoms


def test_errors_that_were_put_in_are_found(morse: Make) -> None:
    potential = morse().double()
    frames = [
        labelled(molecule("H2O"), potential, 0.003, 0.01, "water"),
        labelled(molecule("CO2"), potential, -0.006, 0.03, "gas"),
        labelled(bulk("Ar", a=4.0, cubic=True), potential, 0.0, 0.0, "gas"),
    ]
    rows = {row["of"]: row for row in table_rows(score(potential, frames, batch_size=2))}
    assert rows["water"]["E MAE (meV/atom)"] == pytest.approx(1.0)
    assert rows["water"]["F MAE (meV/A)"] == pytest.approx(10.0)
    assert rows["gas"]["frames"] == 2
    assert rows["gas"]["E RMSE (meV/atom)"] == pytest.approx(2 / np.sqrt(2))
    assert rows["all"]["E MAE (meV/atom)"] == pytest.approx(1.0)
    assert rows["all"]["S MAE (meV/A^3)"] == pytest.approx(0.0, abs=1e-6)
    assert rows["C atoms"]["F MAE (meV/A)"] == pytest.approx(30.0)
    assert rows["H atoms"]["F MAE (meV/A)"] == pytest.approx(10.0)


def test_frames_without_labels_do_not_count(morse: Make) -> None:
    potential = morse().double()
    frames = [labelled(molecule("H2O"), potential, 0.003, 0.01, "a"), molecule("H2O")]
    [row, *_] = table_rows(score(potential, frames))
    assert row["E MAE (meV/atom)"] == pytest.approx(1.0)
    [row, *_] = table_rows(score(potential, [molecule("H2O")]))
    assert row["E MAE (meV/atom)"] is None
    assert row["F MAE (meV/A)"] is None


def test_batches_do_not_change_predictions(morse: Make) -> None:
    frames = [molecule(name) for name in ("H2O", "CH4", "CO2", "C6H6")]
    one, all_at_once = (score(morse().double(), frames, batch_size=size) for size in (1, 9))
    np.testing.assert_allclose(one.energy, all_at_once.energy, rtol=1e-13)
    np.testing.assert_allclose(one.forces, all_at_once.forces, atol=1e-12)
    assert np.isnan(one.stress).all()


def test_nothing_to_predict_is_an_error(morse: Make) -> None:
    with pytest.raises(ValueError, match="no frames"):
        score(morse(), [])
