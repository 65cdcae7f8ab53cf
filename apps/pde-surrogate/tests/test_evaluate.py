"""Errors, the ladder of cheapened solvers, and speed-ups at equal accuracy."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemmata.apps.pde_surrogate import evaluate
from lemmata.apps.pde_surrogate.equations import make_equation
from lemmata.apps.pde_surrogate.ladder import Point, finite_errors, front, ladder, measure, speed_up
from lemmata.apps.pde_surrogate.metrics import field_errors, spectrum
from lemmata.apps.pde_surrogate.module import SurrogateModule
from lemmata.apps.pde_surrogate.scoring import held_out
from lemmata.apps.pde_surrogate.store import write_store
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid


def untrained(folder: Path, data: FieldDataset) -> Path:
    """Save a surrogate that knows its data and has learned nothing."""
    learner = SurrogateModule(size="S", overrides={"width": 4, "modes": 4, "depth": 1})
    learner.learn([data])
    checkpoint: dict[str, Any] = {
        "state_dict": learner.state_dict(),
        "hyper_parameters": dict(learner.hparams),
    }
    learner.on_save_checkpoint(checkpoint)
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_equation("darcy").dataset(6, 8, generator=torch.Generator().manual_seed(0))
    return untrained(tmp_path_factory.mktemp("run"), data)


class TestMetrics:
    @pytest.mark.parametrize("layout", ["periodic", "cells", "nodes", "interior"])
    def test_energies_add_up_to_the_mean_square(self, layout: Any) -> None:
        grid = Grid((9, 12), (1.0, 2.0), layout)
        x = torch.randn(4, 2, 9, 12, dtype=torch.float64)
        if layout == "nodes":  # the cosine basis of nodes weighs points at the ends by a half
            x[..., [0, -1], :] = 0.0
            x[..., [0, -1]] = 0.0
        found = spectrum(x, torch.zeros_like(x), grid)
        expected = x.square().sum(1).mean().item()
        assert sum(found.prediction) == pytest.approx(expected, rel=1e-10)
        assert found.error == found.prediction

    @pytest.mark.parametrize("wave", [1, 3, 5])
    def test_a_wave_lies_in_its_octave(self, wave: int) -> None:
        grid = Grid((32,), (1.0,), "periodic")
        x = torch.sin(2 * math.pi * wave * grid.coordinates(dtype=torch.float64)).unsqueeze(0)
        found = spectrum(0.5 * x, x, grid)
        [band] = [index for index, energy in enumerate(found.target) if energy > 1e-12]
        low, high = found.bands[band]
        assert low <= wave < high
        assert found.relative[band] == pytest.approx(0.5)

    def test_boundary_sees_the_boundary_alone(self) -> None:
        grid = Grid((8, 8), (1.0, 1.0), "cells")
        target = torch.ones(1, 1, 8, 8, dtype=torch.float64)
        inside = target.clone()
        inside[..., 3, 4] += 1.0
        rim = target.clone()
        rim[..., 0, :] += 2.0
        assert field_errors(inside, target, grid)["boundary"].item() == 0.0
        assert field_errors(rim, target, grid)["boundary"].item() == pytest.approx(2 * math.sqrt(8 / 28))
        assert field_errors(inside, target, grid)["max"].item() == pytest.approx(1.0)
        assert field_errors(inside, target, grid)["l2"].item() == pytest.approx(1 / 8)


class TestLadder:
    @pytest.mark.parametrize(
        ("name", "res"), [("darcy", 16), ("burgers", 32), ("poisson", 15), ("advection", 16)]
    )
    def test_rungs_go_from_accurate_to_rough(self, name: str, res: int) -> None:
        equation = make_equation(name)
        data = held_out(equation, res, 3, 0, 4)
        errors = {
            rung.resolution: finite_errors(rung, data.inputs, data.targets)
            for rung in reversed(ladder(equation, data.grid.shape))
            if "time step" not in rung.setting and "rtol" not in rung.setting
        }
        finest, coarsest = max(errors), min(errors)
        assert len(errors) >= 2
        assert errors[finest].mean() < 0.05
        assert errors[finest].mean() <= errors[coarsest].mean()

    def test_time_steppers_get_larger_steps(self) -> None:
        settings = [rung.setting for rung in ladder(make_equation("burgers"), (32,))]
        assert "32, 8 x time step" in settings
        assert "8" in settings

    def test_a_rung_that_blows_up_is_left_out(self) -> None:
        def explode(_: torch.Tensor) -> torch.Tensor:
            raise FloatingPointError

        rung = ladder(make_equation("darcy"), (8, 8))[0]
        x = torch.ones(1, 1, 8, 8)
        assert finite_errors(type(rung)("x", (8, 8), explode), x, x) is None
        assert finite_errors(type(rung)("x", (8, 8), lambda y: y * math.nan), x, x) is None

    def test_measured_times_are_a_samples(self) -> None:
        calls: list[int] = []
        single, batched = measure(lambda x: (calls.append(len(x)), x)[1], torch.ones(10, 1, 4), repeats=2)
        assert 0 <= batched <= single
        assert calls.count(10) == 2


def point(error: float, seconds: float, method: Any = "solver") -> Point:
    return Point(method, f"{error}", error, seconds, seconds / 2)


class TestSpeedUp:
    rungs = (point(0.01, 1.0), point(0.1, 0.1), point(0.2, 0.5), point(1.0, 0.01))

    def test_the_front_leaves_out_what_is_beaten(self) -> None:
        assert [p.error for p in front(self.rungs, "single")] == [0.01, 0.1, 1.0]

    def test_between_rungs_it_is_interpolated_in_log_log(self) -> None:
        found = speed_up(point(0.1 / math.sqrt(10), 0.01, "surrogate"), self.rungs, "single")
        assert found.relation == "="
        assert found.value == pytest.approx(0.1 * math.sqrt(10) / 0.01)

    def test_a_solver_that_wins_is_said_to_win(self) -> None:
        found = speed_up(point(0.1, 1.0, "surrogate"), self.rungs, "single")
        assert (found.relation, found.value) == ("=", pytest.approx(0.1))

    def test_a_cheapest_rung_that_is_more_accurate_bounds_from_above(self) -> None:
        found = speed_up(point(2.0, 1.0, "surrogate"), self.rungs, "single")
        assert (found.relation, found.value) == ("<=", pytest.approx(0.01))

    def test_a_surrogate_that_no_rung_reaches_bounds_from_below(self) -> None:
        found = speed_up(point(0.001, 0.5, "surrogate"), self.rungs, "batched")
        assert (found.relation, found.value) == (">=", pytest.approx(0.5 / 0.25))

    def test_there_must_be_a_rung(self) -> None:
        with pytest.raises(ValueError, match="no rung"):
            speed_up(point(0.1, 1.0, "surrogate"), [], "single")


class TestEvaluate:
    def test_results_hold_errors_race_and_headlines(self, checkpoint: Path, tmp_path: Path) -> None:
        out = evaluate(checkpoint, out=tmp_path / "e", res=[8, 16], n=3)
        results = json.loads((out / "results.json").read_text())
        assert [(row["resolution"], row["seen"]) for row in results["errors"]] == [
            ([8, 8], True),
            ([16, 16], False),
        ]
        assert {row["method"] for row in results["race"]} == {"surrogate", "solver"}
        assert {(row["resolution"][0], row["mode"]) for row in results["speed_ups"]} == {
            (8, "single"),
            (8, "batched"),
            (16, "single"),
            (16, "batched"),
        }
        for row in results["speed_ups"]:
            assert row["speed_up"] == pytest.approx(row["solver_seconds"] / row["surrogate_seconds"])
        with (out / "errors.csv").open() as file:
            assert len(list(csv.reader(file))) == 3
        assert (out / "race.md").read_text().count("surrogate") == 2
        with np.load(out / "fields.npz", allow_pickle=False) as fields:
            assert fields["16x16_worst_prediction"].shape == (1, 16, 16)

    # Six training fields do not span the range of others.
    @pytest.mark.filterwarnings("ignore:outside the training range:UserWarning")
    def test_errors_are_those_of_the_surrogate_on_new_test_fields(
        self, checkpoint: Path, tmp_path: Path
    ) -> None:
        from lemmata.apps.pde_surrogate import Surrogate

        out = evaluate(checkpoint, out=tmp_path / "e", res=[8], n=4, seed=3, solver=False)
        [row] = json.loads((out / "results.json").read_text())["errors"]
        data = held_out(make_equation("darcy"), 8, 4, 3, 4)
        prediction = Surrogate.load(checkpoint)(data.inputs)
        expected = (prediction - data.targets).flatten(1).norm(dim=1) / data.targets.flatten(1).norm(dim=1)
        assert row["l2"] == pytest.approx(expected.mean().item(), rel=1e-6)
        assert row["l2_worst"] == pytest.approx(expected.max().item(), rel=1e-6)

    def test_the_test_fields_are_one_function_at_every_resolution(self) -> None:
        coarse, fine = (held_out(make_equation("poisson"), res, 2, 0, 2) for res in (7, 15))
        picked = fine.targets[..., 1::2, 1::2]
        assert (picked - coarse.targets).norm() / coarse.targets.norm() < 0.1

    def test_a_file_gives_errors_alone(self, checkpoint: Path, tmp_path: Path) -> None:
        write_store(tmp_path / "own.zarr", make_equation("darcy").dataset(3, 8))
        out = evaluate(checkpoint, out=tmp_path / "e", data=tmp_path / "own.zarr")
        assert json.loads((out / "results.json").read_text())["race"] == []
        assert not (out / "speed_up.csv").exists()

    def test_results_are_not_replaced_unasked(self, checkpoint: Path, tmp_path: Path) -> None:
        arguments: dict[str, Any] = {"out": tmp_path / "e", "res": [8], "n": 2, "solver": False}
        evaluate(checkpoint, **arguments)
        with pytest.raises(FileExistsError, match="--force"):
            evaluate(checkpoint, **arguments)
        evaluate(checkpoint, **arguments, force=True)

    def test_data_that_do_not_fit(self, checkpoint: Path, tmp_path: Path) -> None:
        write_store(tmp_path / "own.zarr", make_equation("poisson").dataset(2, 7))
        with pytest.raises(
            ValueError, match=r"own\.zarr: found .* grid layout, expected cells as in training"
        ):
            evaluate(checkpoint, out=tmp_path / "e", data=tmp_path / "own.zarr")
        with pytest.raises(ValueError, match=r"`n` \(=0\)"):
            evaluate(checkpoint, out=tmp_path / "e", n=0)
        assert not (tmp_path / "e").exists()

    def test_data_without_an_equation_need_data(self, tmp_path: Path) -> None:
        grid = Grid((8,), (1.0,), "periodic")
        own = untrained(tmp_path, FieldDataset(torch.rand(3, 1, 8), torch.rand(3, 1, 8), grid))
        with pytest.raises(ValueError, match="name no equation to draw test fields from; pass `data`"):
            evaluate(own)
