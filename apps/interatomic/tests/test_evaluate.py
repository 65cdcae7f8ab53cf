"""The verbs evaluate, predict and compare: tables, files, bad input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from lemmata.apps.interatomic.calculator import InteratomicCalculator
from lemmata.apps.interatomic.compare import compare
from lemmata.apps.interatomic.evaluate import evaluate
from lemmata.apps.interatomic.labelled import labelled_frames
from lemmata.apps.interatomic.models.potential import Potential
from lemmata.apps.interatomic.predict import predict

Store = Callable[..., Path]
Make = Callable[..., Potential]


@pytest.fixture
def labels(morse: Make, tmp_path: Path) -> str:
    frames = []
    for name in ("H2O", "CO2", "CH3CH2OH"):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=1)
        atoms.calc = InteratomicCalculator(morse(2.0))
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    write(tmp_path / "labels.xyz", frames)
    return str(tmp_path / "labels.xyz")


def test_a_potential_that_made_the_labels_has_no_error(stored: Store, labels: str, tmp_path: Path) -> None:
    [row, *_] = evaluate(stored(depth=2.0), labels, out=tmp_path / "errors")
    assert row["E MAE (meV/atom)"] == pytest.approx(0, abs=1e-2)
    assert row["F MAE (meV/A)"] == pytest.approx(0, abs=1e-2)
    assert (tmp_path / "errors" / "errors.csv").exists()
    assert {path.stem for path in (tmp_path / "errors" / "plots").iterdir()} == {"energy", "forces"}


def test_potentials_are_ranked_and_their_disagreement_told(
    stored: Store, labels: str, tmp_path: Path
) -> None:
    models = [stored("right", depth=2.0), stored("off", depth=2.2), stored("farther", depth=3.0)]
    rows = compare(labels, checkpoints=models, out=tmp_path / "comparison")
    errors = [row["F MAE (meV/A)"] for row in rows[:3]]
    assert errors[0] < errors[1] < errors[2]
    assert rows[3]["spread of forces (meV/A)"] > 0
    # All are multiples of one potential, so that spread and error of the mean are proportional.
    assert rows[3]["correlation of spread and error"] == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "comparison" / "comparison.md").exists()


def test_predictions_are_written_as_labels(stored: Store, morse: Make, tmp_path: Path) -> None:
    write(tmp_path / "mine.xyz", [molecule("H2O"), bulk("Ar", a=3.5, cubic=True)])
    written = predict(stored(depth=2.0), tmp_path / "mine.xyz")
    assert written.name == "mine-predicted.xyz"
    water, crystal = read(written, ":")
    for atoms in (water, crystal):
        again = atoms.copy()
        again.calc = InteratomicCalculator(morse(2.0))
        assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), rel=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), again.get_forces(), atol=1e-4)
    np.testing.assert_allclose(crystal.get_stress(), again.get_stress(), atol=1e-5)
    assert "stress" not in water.calc.results
    with pytest.raises(FileExistsError):
        predict(stored(depth=2.0), tmp_path / "mine.xyz")


def test_parts_of_a_prepared_folder_are_found(labels: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "test.xyz").write_text(Path(labels).read_text())
    with pytest.raises(ValueError, match=r"card\.json"):
        labelled_frames(folder, "test")
    (folder / "card.json").write_text("{}")
    assert len(labelled_frames(folder, "test")) == 3
    with pytest.raises(FileNotFoundError, match=r"validation\.xyz"):
        labelled_frames(folder, "validation")
    with pytest.raises(ValueError, match=r"`part` \(='all'\)"):
        labelled_frames(folder, "all")


def test_bad_input_is_named(stored: Store, labels: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate(stored(), str(tmp_path / "absent.xyz"))
    with pytest.raises(ValueError, match=r"`batch_size` \(=0\)"):
        evaluate(stored(), labels, batch_size=0)
    with pytest.raises(ValueError, match="two or more"):
        compare(labels, checkpoints=[stored()])
    with pytest.raises(ValueError, match="O"):
        evaluate(stored(elements=(1, 6)), labels)
