"""Scores against hand-counted trainings, a sweep that goes on where it stopped, and the verb itself."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.language_model.scoring import Cost, Outcome, standings, table


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
        assert ("of its grid" in printed) == edge

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
        found = table(standings(RUNS), costs=costs)
        assert found.column("step time") == ["1.00 x", "1.10 x"]
        assert found.column("state") == ["8.0 B", "4.3 B"]

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
