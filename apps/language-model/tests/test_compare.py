"""Scores against hand-counted trainings, a sweep that goes on where it stopped, and the verb itself."""

import json
import math
import multiprocessing
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lemmata.apps.language_model import compare, sweep
from lemmata.apps.language_model.scoring import Cost, Outcome, cost_table, joined, standings, table


def outcome(optimizer: str, lr: float, seed: int, *losses: float, finished: bool = True) -> Outcome:
    """Return a training whose losses were recorded every 100 steps."""
    return Outcome(optimizer, lr, seed, tuple(100 * (k + 1) for k in range(len(losses))), losses, finished)


RUNS = [
    outcome("adamw", 1e-3, 0, 3.0, 2.6, 2.5),
    outcome("adamw", 1e-3, 1, 3.0, 2.6, 2.5),
    outcome("adamw", 3e-3, 0, 2.9, 2.5, 2.4),
    outcome("adamw", 3e-3, 1, 2.9, 2.4, 2.3),
    outcome("adamw", 1e-2, 0, 3.0, 2.9, 2.9),
    outcome("adamw", 1e-2, 1, 3.0, 2.9, 2.2),  # the best at this seed, not on average
    outcome("muon", 1e-2, 0, 2.8, 2.7, 2.6),
    outcome("muon", 1e-2, 1, 2.8, 2.7, 2.6),
    outcome("muon", 2e-2, 0, 2.4, 2.2, 2.1),
    outcome("muon", 2e-2, 1, 2.5, 2.3, 2.0),
    outcome("muon", 4e-2, 0, math.nan, finished=False),
    outcome("muon", 4e-2, 1, 2.5, 2.3, 1.9),
]


class TestScores:
    def test_each_method_keeps_the_lr_with_the_lowest_mean_final_loss(self) -> None:
        adamw, muon = standings(RUNS)
        assert (adamw.optimizer, adamw.lr, muon.lr) == ("adamw", 3e-3, 2e-2)
        assert muon.finals == {0: 2.1, 1: 2.0}
        assert muon.mean_final == pytest.approx(2.05)

    def test_the_target_is_the_baselines_best_at_any_lr_seed_by_seed(self) -> None:
        _, muon = standings(RUNS)
        assert muon.reached == {0: 100, 1: 300}  # 2.4 at seed 0; 2.2 at seed 1, from its largest lr
        assert muon.fraction == pytest.approx(200 / 300)

    def test_losses_at_checkpoints_are_means_over_the_seeds(self) -> None:
        _, muon = standings(RUNS, checkpoints=(50, 100, 250))
        assert muon.checkpoints == {50: math.inf, 100: pytest.approx(2.45), 250: pytest.approx(2.25)}

    def test_never(self) -> None:
        runs = [outcome("adamw", 1.0, seed, 2.0) for seed in range(3)]
        slow = [outcome("lion", 1.0, seed, 2.0 if seed == 1 else 2.1) for seed in range(3)]
        _, lion = standings(runs + slow)
        assert (lion.reached, lion.fraction) == ({0: None, 1: 100, 2: None}, None)
        row = table(standings(runs + slow)).rows[1]
        assert "never 100 never" in row
        assert row[-1] == "never"

    def test_never_at_a_minority_of_seeds_leaves_a_median(self) -> None:
        runs = [outcome("adamw", 1.0, seed, 2.5, 2.0) for seed in range(3)]
        fast = [outcome("muon", 1.0, seed, 2.1 if seed == 0 else 1.9, 2.1) for seed in range(3)]
        assert standings(runs + fast)[1].fraction == 0.5

    @pytest.mark.parametrize(("lr", "edge"), [(1.0, True), (2.0, False), (3.0, True)])
    def test_a_best_lr_at_the_edge_of_its_grid_is_said(self, lr: float, edge: bool) -> None:
        runs = [outcome("adamw", x, 0, 1.0 + abs(x - lr)) for x in (1.0, 2.0, 3.0)]
        [found] = standings(runs)
        assert found.at_the_edge == edge
        printed = table([found]).to_markdown()
        assert ("of the grid" in printed) == edge

    @settings(deadline=None, max_examples=25)
    @given(st.randoms(use_true_random=False))
    def test_the_order_of_the_runs_does_not_matter(self, rng: random.Random) -> None:
        shuffled = list(RUNS)
        rng.shuffle(shuffled)
        by_name = {found.optimizer: found for found in standings(shuffled)}
        assert by_name == {found.optimizer: found for found in standings(RUNS)}

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.floats(0.1, 5.0), min_size=1, max_size=8), st.floats(0.1, 5.0))
    def test_first_at_most_is_the_first(self, losses: list[float], target: float) -> None:
        run = outcome("x", 1.0, 0, *losses)
        step = run.first_at_most(target)
        before = losses if step is None else losses[: step // 100 - 1]
        assert all(loss > target for loss in before)
        assert step is None or losses[step // 100 - 1] <= target

    def test_a_cost_is_told_beside(self) -> None:
        costs = {"adamw": Cost(1.0, 1.0, 8.0), "muon": Cost(1.1, 2.0, 4.3)}
        found = joined(table(standings(RUNS)), cost_table(costs))
        assert found.column("lr") == ["0.003", "0.02"]
        assert found.column("step time") == ["1.00 x", "1.10 x"]
        assert found.column("state bytes") == [8.0, 4.3]
        with pytest.raises(ValueError, match="different methods"):
            joined(table(standings(RUNS)), cost_table({"adamw": costs["adamw"]}))

    def test_the_table_fits_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        runs = [
            Outcome(name, 0.0003, seed, (100, 200, 300), (2.4567, 2.3456, 2.2345))
            for name in ("adamw", "hybrid-auon")
            for seed in range(3)
        ]
        table(standings(runs, checkpoints=(100, 200, 300))).print(Console(width=80, file=sys.stdout))
        printed = capsys.readouterr().out
        assert "hybrid-auon" in printed
        assert "…" not in printed

    def test_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match=r"`baseline` \(='sgd'\)"):
            standings(RUNS, baseline="sgd")
        with pytest.raises(ValueError, match="adamw 3, muon 2"):
            standings([run for run in RUNS if run.lr != 4e-2])
        with pytest.raises(ValueError, match=r"muon, lr 0.02: has seeds \[0\]"):
            standings([run for run in RUNS if (run.optimizer, run.lr, run.seed) != ("muon", 2e-2, 1)])
        diverged = [outcome("adamw", 1.0, 0, math.nan, finished=False), outcome("muon", 1.0, 0, 2.0)]
        with pytest.raises(ValueError, match="adamw diverged with every learning rate"):
            standings(diverged)
        with pytest.raises(ValueError, match="no validation loss"):
            Outcome("adamw", 1.0, 0, (), ())


TINY: dict[str, Any] = {
    "optimizers": ["lion"],
    "lrs": {"adamw": [1e-3, 1e-2], "lion": [1e-4, 1e-3]},
    "seeds": [0],
    "steps": 4,
    "validate_every": 2,
    "batch_size": 4,
    "model": {"width": 16, "depth": 1, "heads": 2, "experts": 4},
    "options": {"context": 16, "trainer": {"accelerator": "cpu", "devices": 1}},
}


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("One for sorrow, two for joy, three for a girl, four for a boy.\n" * 40)
    return str(path)


class TestCompare:
    def test_a_comparison_from_text_to_table(self, text: str, tmp_path: Path) -> None:
        out = compare(data=text, out=tmp_path / "c", **TINY)
        results = json.loads((out / "compare.json").read_text())
        assert [row["optimizer"] for row in results["standings"]] == ["adamw", "lion"]
        assert len(results["runs"]) == 4
        for run in results["runs"].values():
            assert run["steps"] == [2, 4]
            assert run["finished"]
        [adamw, lion] = results["standings"]
        target = min(run["losses"][-1] for name, run in results["runs"].items() if name.startswith("adamw"))
        assert adamw["finals"]["0"] == target
        assert adamw["reached"]["0"] in (2, 4)
        assert set(lion["checkpoints"]) == {"2", "4"}
        assert results["costs"]["adamw"]["step_time"] == 1.0
        assert results["costs"]["lion"]["state_bytes"] == pytest.approx(4.0, abs=0.1)
        assert (out / "compare.csv").read_text().splitlines()[0].startswith("optimiser,lr,@2,@4,ratio")
        stems = {path.stem for path in (out / "plots").iterdir()}
        assert stems == {"losses", "learning_rates", "expert_load", "weights"}

    def test_what_has_finished_is_kept(self, text: str, tmp_path: Path) -> None:
        out = compare(data=text, out=tmp_path / "c", **TINY, costs=False)
        before = json.loads((out / "compare.json").read_text())
        stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/metrics.csv")}
        cut_short = out / "runs" / "lion-lr0.001-seed0" / "outcome.json"
        cut_short.unlink()  # as a kill leaves it
        compare(data=text, out=out, **TINY, costs=False)
        after = json.loads((out / "compare.json").read_text())
        assert after == before
        again = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
        assert again == {cut_short.parent / "metrics.csv"}

    def test_seeds_may_be_added(self, text: str, tmp_path: Path) -> None:
        few = {**TINY, "lrs": {"adamw": [1e-2], "lion": [1e-3]}}
        out = compare(data=text, out=tmp_path / "c", **few, costs=False)
        compare(data=text, out=out, **{**few, "seeds": [0, 1]}, costs=False)
        results = json.loads((out / "compare.json").read_text())
        assert sorted(results["standings"][1]["finals"]) == ["0", "1"]
        losses = [
            run["losses"] for run in results["runs"].values() if "lion" in run["arguments"]["optimizer"]
        ]
        assert losses[0] != losses[1]

    def test_another_text_or_setting_is_refused(self, text: str, tmp_path: Path) -> None:
        few = {**TINY, "lrs": {"adamw": [1e-2], "lion": [1e-3]}, "costs": False}
        out = compare(data=text, out=tmp_path / "c", **few)
        with pytest.raises(ValueError, match=r"other settings \(batch_size\)"):
            compare(data=text, out=out, **{**few, "batch_size": 2})
        Path(text).write_text(Path(text).read_text() + "Five for silver.\n")
        with pytest.raises(ValueError, match=r"other settings \(text\)"):
            compare(data=text, out=out, **few)

    def test_a_diverged_training_is_an_outcome(self, text: str, tmp_path: Path) -> None:
        wild = {**TINY, "optimizers": ["sgd"], "lrs": {"adamw": [1e-3, 1e-2], "sgd": [0.1, 3e38]}}
        out = compare(data=text, out=tmp_path / "c", **wild, costs=False)
        results = json.loads((out / "compare.json").read_text())
        assert not results["runs"]["sgd-lr3e+38-seed0"]["finished"]
        assert results["runs"]["sgd-lr3e+38-seed0"]["error"]
        assert results["standings"][1]["lr"] == 0.1

    @pytest.mark.slow
    def test_processes_find_what_one_finds(self, text: str, tmp_path: Path) -> None:
        few = {**TINY, "lrs": {"adamw": [1e-2], "lion": [1e-3]}, "costs": False}
        runs = [
            json.loads(
                (compare(data=text, out=tmp_path / f"{n}", **few, workers=n) / "compare.json").read_text()
            )["runs"]
            for n in (1, 2)
        ]
        for name, run in runs[0].items():
            assert runs[1][name]["losses"] == pytest.approx(run["losses"], rel=1e-5)

    @pytest.mark.slow
    def test_a_lost_process_is_said_and_the_rest_kept(self, text: str, tmp_path: Path) -> None:
        arguments = {
            "data": text,
            "optimizer": "adamw",
            "seed": 0,
            "steps": 2,
            "validate_every": 1,
            **TINY["options"],
        }
        jobs = [
            sweep.Job("good", {**arguments, "model": {"width": 16, "depth": 1}}),
            sweep.Job("lost", {**arguments, "model": {"width": 16, "depth": 1}, "steps": 100_000}),
        ]

        def kill(name: str, outcome: dict[str, Any]) -> None:
            for child in multiprocessing.active_children():
                child.kill()

        with pytest.raises(ChildProcessError, match="run the same command again"):
            sweep.run_jobs(jobs, tmp_path / "runs", workers=2, report=kill)
        assert (tmp_path / "runs" / "good" / "outcome.json").is_file()
        assert not (tmp_path / "runs" / "lost" / "outcome.json").exists()

    def test_jobs_are_checked(self, tmp_path: Path) -> None:
        job = sweep.Job("a", {})
        with pytest.raises(ValueError, match=r"`workers` \(=0\)"):
            sweep.run_jobs([job], tmp_path, workers=0)
        with pytest.raises(ValueError, match="their own name"):
            sweep.run_jobs([job, job], tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"optimizers": ["adamw", "nag"]}, r"`optimizer` \(='nag'\) is not known; expected one of adamw"),
            ({"lrs": {"sgd": [0.1]}}, "`lrs` names 'sgd'"),
            ({"lrs": {"adamw": [1e-3], "lion": [1e-3, 2e-3]}}, "adamw 1, lion 2"),
            ({"lrs": {"adamw": [-1.0], "lion": [1e-3]}}, r"`lr` \(=-1.0\)"),
            ({"steps": 0}, r"`steps` \(=0\)"),
            ({"validate_every": 3}, r"`validate_every` \(=3\) must divide `steps` \(=4\)"),
            ({"seeds": []}, "`seeds`"),
            ({"workers": 0}, r"`workers` \(=0\)"),
        ],
    )
    def test_arguments_are_checked_first(
        self, changes: dict[str, Any], message: str, text: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            compare(data=text, out=tmp_path / "c", **{**TINY, **changes})
        assert not (tmp_path / "c").exists()

    def test_a_folder_that_holds_something_else(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "thesis.tex").write_text("")
        with pytest.raises(FileExistsError, match="--force"):
            compare(data=text, out=tmp_path / "c", **TINY)
        assert (tmp_path / "c" / "thesis.tex").exists()
