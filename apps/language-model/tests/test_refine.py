"""A refinement: norms in, a schedule out that the next run follows, and both runs beside each other."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemmata.apps.language_model import refine
from lemmata.apps.language_model.records import read_norms
from lemmata.apps.language_model.schedules import read_schedule
from lemmata.optim.schedules import refine_schedule

TINY: dict[str, Any] = {
    "steps": 12,
    "validate_every": 6,
    "batch_size": 4,
    "warmup": 3,
    "model": {"width": 16, "depth": 1, "heads": 2, "experts": 4},
    "options": {"context": 16, "trainer": {"accelerator": "cpu", "devices": 1}},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("One for sorrow, two for joy, three for a girl, four for a boy.\n" * 40)
    return str(path)


@pytest.fixture(scope="module")
def refined(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return refine(data=text, out=tmp_path_factory.mktemp("refine") / "r", **TINY)


class TestRefine:
    def test_the_schedule_is_that_of_the_recorded_norms(self, refined: Path) -> None:
        norms = read_norms(refined / "runs" / "linear", 1)
        assert norms.shape == (12,)
        expected = refine_schedule(norms, p=1)
        assert read_schedule(refined / "schedule.csv") == pytest.approx(expected.tolist(), abs=1e-15)

    def test_both_runs_are_shown_and_a_warm_up_beside_them(self, refined: Path) -> None:
        results = json.loads((refined / "refine.json").read_text())
        assert list(results["losses"]) == ["linear", "refined", "linear, warm-up"]
        with (refined / "refine.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["schedule"] for row in rows] == ["linear", "refined", "linear, warm-up"]
        assert float(rows[0]["of linear's"]) == 1.0
        for row in rows:
            assert float(row["lowest loss"]) <= float(row["final loss"])
        assert {path.stem for path in (refined / "plots").iterdir()} == {"schedule", "losses"}

    def test_all_runs_begin_alike_and_then_differ(self, refined: Path) -> None:
        runs = [refined / "runs" / name for name in ("linear", "refined", "linear-warm-up")]
        norms = torch.stack([read_norms(run, 2) for run in runs])
        torch.testing.assert_close(norms[:, 0], norms[:1, 0].expand(3))
        assert len({float(x) for x in norms[:, -1]}) == 3

    def test_the_figure_holds_what_was_recorded(self, refined: Path) -> None:
        table = np.genfromtxt(refined / "plots" / "schedule.csv", delimiter=",", names=True)
        np.testing.assert_allclose(table["refined"], read_schedule(refined / "schedule.csv"))
        np.testing.assert_allclose(table["first"], 1 - np.arange(12) / 12)

    def test_sgd_is_refined_with_squares_of_the_euclidean_norm(self, text: str, tmp_path: Path) -> None:
        out = refine(data=text, out=tmp_path / "r", optimizer="sgd", **{**TINY, "warmup": 0})
        norms = read_norms(out / "runs" / "linear", 2)
        expected = refine_schedule(norms, p=2)
        assert read_schedule(out / "schedule.csv") == pytest.approx(expected.tolist(), abs=1e-15)
        assert len(json.loads((out / "refine.json").read_text())["losses"]) == 2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"steps": 2}, r"`steps` \(=2\)"),
            ({"smoothing": 1.0}, r"`smoothing` \(=1.0\) must lie in \(0, 1\)"),
            ({"warmup": -1}, r"`warmup` \(=-1\)"),
            ({"validate_every": 5}, r"`validate_every` \(=5\) must divide"),
            ({"optimizer": "nag"}, r"`optimizer` \(='nag'\)"),
        ],
    )
    def test_arguments_are_checked_first(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            refine(out=tmp_path / "r", **{**TINY, **changes})
        assert not (tmp_path / "r").exists()

    def test_results_are_not_replaced_unasked(self, refined: Path, text: str) -> None:
        with pytest.raises(FileExistsError, match="--force"):
            refine(data=text, out=refined, **TINY)
