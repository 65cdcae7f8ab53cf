"""A card says what is in a set, in JSON, and in a terminal of any width."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from lemmata.apps.interatomic.card import make_card, print_card, read_card
from lemmata.apps.interatomic.frames import Dropped, Keys, Report
from lemmata.apps.interatomic.reference import measure
from lemmata.apps.interatomic.splitting import Split

REPORT = Report(
    file="[a].xyz",
    read=5,
    kept=3,
    keys=Keys("energy", "forces"),
    labelled={"energy": 3},
    dropped=(Dropped(1, 6, "no label"), Dropped(2, 9, "no label")),
    notices=("energy is read from [bold]E[/bold]",),
)


def water(energy: float | None, forces: object = None, **info: str) -> Atoms:
    atoms = molecule("H2O")
    results = {"energy": energy, "forces": forces}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
    atoms.info |= info
    return atoms


def card_of(train: list[Atoms], **options: object) -> dict[str, object]:
    parts = {"train": train, "validation": [], "test": []}
    reference = measure(train, 5.0, isolated={1: -2.0, 8: -3.0})
    return make_card(parts, reference, [REPORT], source="a", split=Split(), **options)  # type: ignore[arg-type]


def test_statistics_are_those_of_the_training_frames() -> None:
    forces = np.array([[3.0, 0, 0], [0, 4.0, 0], [0, 0, 0]])
    card = card_of(
        [water(-7.3, forces, config_type="hot"), water(-7.6, config_type="hot"), water(None, -forces)]
    )
    assert card["energy"] == pytest.approx(
        {"mean_per_atom": -0.15, "std_per_atom": 0.05, "min_per_atom": -0.2, "max_per_atom": -0.1}
    )
    assert card["forces"] == pytest.approx({"rms": np.sqrt(25 / 9), "max": 4.0})
    assert card["species"]["H"] == {"atoms": 6, "rms_force": pytest.approx(np.sqrt(16 / 6))}
    assert card["species"]["O"] == {"atoms": 3, "rms_force": pytest.approx(np.sqrt(3.0))}
    assert card["parts"]["train"] == {
        "frames": 3,
        "atoms": 9,
        "labelled": {"energy": 2, "forces": 2, "stress": 0},
        "kinds": {"hot": 2, "default": 1},
    }
    assert card["scale"] == pytest.approx(np.sqrt(25 / 9))
    assert card["dropped"]["reasons"] == {"no label": 2}
    assert card["dropped"]["frames"][1] == {"file": "[a].xyz", "frame": 2, "line": 9, "reason": "no label"}
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_card_is_shown_as_it_is(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    print_card(card_of([water(-7.0), water(-7.1)]), console)
    shown = " ".join(console.export_text().split())
    assert "[bold]E[/bold]" in shown  # text of a file is not markup
    assert "2 with no label" in shown


def test_a_set_without_energies_or_forces_has_a_card() -> None:
    card = card_of([water(None, np.zeros((3, 3)))])
    assert card["energy"] is None
    assert card["forces"] == {"rms": 0.0, "max": 0.0}
    card = card_of([water(-7.0)])
    assert card["forces"] is None
    assert card["species"]["H"]["rms_force"] is None


def test_other_files_and_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    with pytest.raises(FileNotFoundError):
        read_card(tmp_path)
    for text, message in (
        ("[]", "is not the card of a data set"),
        ('{"format": "x"}', "is not the card of a data set"),
        ('{"format": "lemmata-atoms", "version": 2}', "has version 2, expected 1; prepare it again"),
        ("{", "is not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_card(tmp_path)
