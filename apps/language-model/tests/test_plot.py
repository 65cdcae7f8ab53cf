"""Figures: each draws what it was given, says the same in its table, and is written three times."""

import math
from pathlib import Path

import numpy as np
import pytest

from lemmata.apps.kit.plots import save_figure, style
from lemmata.apps.language_model import figures

CURVES = {
    "step": [0.0, 10.0, 20.0],
    "tokens": [0.0, 1e3, 2e3],
    "seconds": [0.0, 1.0, 2.5],
    "train_loss": [4.0, 3.0, 2.5],
    "val_loss": [math.nan, 3.1, 2.6],
}


class TestFigures:
    def test_losses_over_all_that_was_recorded(self, tmp_path: Path) -> None:
        name, figure, table = figures.draw_losses({"muon": CURVES, "adamw": CURVES}, target=2.6)
        assert [axis.get_xlabel() for axis in figure.axes] == ["optimiser step", "tokens", "seconds"]
        assert table.column("val_loss") == [None, 3.1, 2.6] * 2
        assert {path.suffix for path in save_figure(figure, tmp_path / name, table)} == {
            ".png",
            ".svg",
            ".csv",
        }

    def test_progress_that_one_run_lacks_is_left_out(self) -> None:
        short = {name: CURVES[name] for name in ("step", "val_loss")}
        _, figure, table = figures.draw_losses({"a": CURVES, "b": short})
        assert len(figure.axes) == 1
        assert table.columns[:2] == ["run", "step"]

    def test_a_high_start_does_not_flatten_the_rest(self) -> None:
        losses = [9.0, 2.4, 2.3, 2.2, 2.1, 2.0]
        run = {"step": [float(k) for k in range(6)], "val_loss": losses}
        _, figure, _ = figures.draw_losses({"a": run})
        assert figure.axes[0].get_ylim()[1] < 9.0

    def test_expert_loads(self) -> None:
        shares = np.array([[0.5, 0.5], [0.75, 0.25], [0.6, 0.4]])
        with style():
            _, figure, table = figures.draw_loads([0, 10, 20], {"block 1": shares, "block 2": shares})
        assert [axis.get_title(loc="left") for axis in figure.axes] == ["block 1", "block 2"]
        assert table.column("share")[:3] == [0.5, 0.75, 0.6]

    def test_histograms_add_up_to_one(self) -> None:
        rng = np.random.default_rng(0)
        _, _, spectra = figures.draw_spectra({"muon": np.array([0.0, 1.0, 3.0]), "adamw": np.ones(3)})
        _, _, weights = figures.draw_weights({"lion": rng.normal(size=1000)}, {"lion": 10.0})
        assert spectra.column("share") == pytest.approx([0.0, 0.25, 0.75, *[1 / 3] * 3])
        assert sum(weights.column("lion")) == pytest.approx(1.0)

    def test_a_diverged_learning_rate_has_no_point(self) -> None:
        _, _, table = figures.draw_sweep({"muon": ([0.01, 0.1], [2.0, math.nan])})
        assert table.column("final loss") == [2.0, None]

    def test_the_bound_is_drawn_where_there_is_one(self) -> None:
        weights = {"lion": np.linspace(-1, 1, 50), "adamw": np.linspace(-3, 3, 50)}
        _, bounded, _ = figures.draw_weights(weights, {"lion": 2.0})
        _, free, _ = figures.draw_weights(weights, {})
        assert len(bounded.axes[0].lines) == 1 + len(free.axes[0].lines)

    def test_schedules(self) -> None:
        norms, linear = np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.5, 0.0])
        _, figure, table = figures.draw_schedules(norms, linear, linear[::-1].copy())
        assert len(figure.axes) == 2
        assert table.rows == [[1, 3.0, 1.0, 0.0], [2, 2.0, 0.5, 0.5], [3, 1.0, 0.0, 1.0]]
