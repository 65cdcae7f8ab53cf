"""Figures: each draws what it was given, says the same in its table, and is written three times."""

import math
from pathlib import Path

import numpy as np
import pytest

from lemmata.apps.kit.plots import save_figure, style
from lemmata.apps.language_model import figures, plot, records, train

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("One for sorrow, two for joy, three for a girl.\n" * 40)
    return train(
        folder / "text.txt",
        out=folder / "run",
        optimizer="lion",
        steps=6,
        validate_every=2,
        context=16,
        batch_size=4,
        model={"width": 16, "depth": 2, "heads": 2, "experts": 4, "singular_values_every": 3},
        trainer={"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
    )


class TestPlot:
    def test_a_run_is_drawn_with_all_it_recorded(self, run: Path) -> None:
        files = plot(run)
        stems = {path.stem for path in files}
        assert stems == {"losses", "expert_load", "update_singular_values", "weights"}
        assert sorted(path.name for path in files) == sorted(
            f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg", "csv")
        )
        assert all(path.stat().st_size > 0 for path in files)

    def test_the_records_of_a_run(self, run: Path) -> None:
        curves = records.read_curves(run)
        kept = [place for place, loss in enumerate(curves["val_loss"]) if math.isfinite(loss)]
        assert [curves["step"][place] for place in kept] == [2, 4, 6]
        assert [curves["tokens"][place] for place in kept] == [128, 256, 384]
        loads = records.read_loads(run)
        assert loads is not None
        assert list(loads[1]) == ["block 1", "block 2"]
        for shares in loads[1].values():
            np.testing.assert_allclose(shares.sum(axis=1), 1.0)
        counts = records.read_singular_values(run)
        assert counts is not None
        assert counts.sum() > 0
        weights = records.read_weights(run)
        assert (weights.optimizer, weights.bound) == ("lion", 10.0)
        assert records.read_config(run).depth == 2

    def test_plots_are_not_replaced_unasked(self, run: Path, tmp_path: Path) -> None:
        plot(run, out=tmp_path / "plots")
        with pytest.raises(FileExistsError, match="--force"):
            plot(run, out=tmp_path / "plots")
        plot(run, out=tmp_path / "plots", force=True)

    def test_folders_that_hold_nothing_to_draw(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"found none of compare\.json, refine\.json, metrics\.csv"
        ):
            plot(tmp_path)
        (tmp_path / "compare.json").write_text("{}")
        with pytest.raises(ValueError, match="not the results of a comparison"):
            plot(tmp_path)
        (tmp_path / "compare.json").write_text("{")
        with pytest.raises(ValueError, match="is not JSON"):
            plot(tmp_path)
        (tmp_path / "compare.json").unlink()
        (tmp_path / "metrics.csv").write_text("step,val_loss\n0,abc\n")
        with pytest.raises(ValueError, match="not a table of numbers"):
            plot(tmp_path)
