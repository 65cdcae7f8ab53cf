"""Score trainings against a baseline: each method's best learning rate, and its steps to the baseline's loss.

Every method chooses its learning rate from the same number of candidates, by its mean final validation loss
over the seeds. The target is the lowest final loss that the baseline reaches with any of its candidates, seed
by seed, so the baseline is tuned at least as well as the method it is compared with. Nothing is interpolated:
a method reaches the target at the first recorded validation step whose loss is at most the target.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lemmata.apps.kit.tables import Table

__all__ = ["Cost", "Outcome", "Standing", "cost_table", "joined", "standings", "table"]

# Marks a learning rate at the edge of its grid.
EDGE = " !"


@dataclass(frozen=True)
class Outcome:
    """What one training reached.

    Args:
        optimizer: The optimiser's name.
        lr: Its learning rate.
        seed: Seed of weights and order of the text.
        steps: Optimiser steps at which the validation loss was recorded, increasing.
        losses: Validation losses there, in nats a token.
        finished: False where the training diverged, which counts as an infinite final loss.

    Raises:
        ValueError: Where steps and losses differ in number, or a finished training has none.

    Examples:
        >>> run = Outcome("muon", 0.02, 0, steps=(100, 200), losses=(2.4, 2.1))
        >>> run.final, run.first_at_most(2.4), run.first_at_most(2.0)
        (2.1, 100, None)
    """

    optimizer: str
    lr: float
    seed: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    finished: bool = True

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.losses):
            raise ValueError(
                f"`steps` ({len(self.steps)}) and `losses` ({len(self.losses)}) must be as many as each other"
            )
        if self.finished and not self.steps:
            raise ValueError(
                f"{self.optimizer}, lr {self.lr:g}, seed {self.seed}: no validation loss recorded"
            )

    @property
    def final(self) -> float:
        """The last validation loss; infinite where the training diverged or ended without a number."""
        return self.losses[-1] if self.finished and math.isfinite(self.losses[-1]) else math.inf

    def at(self, step: int) -> float:
        """Return the last validation loss recorded up to a step; infinite where there is none."""
        reached = [loss for place, loss in zip(self.steps, self.losses, strict=True) if place <= step]
        return reached[-1] if reached and math.isfinite(reached[-1]) else math.inf

    def first_at_most(self, target: float) -> int | None:
        """Return the first recorded step whose validation loss is at most the target; None where none is."""
        pairs = zip(self.steps, self.losses, strict=True)
        return next((step for step, loss in pairs if loss <= target), None)


@dataclass(frozen=True)
class Standing:
    """How one method stands against the baseline, at its best learning rate.

    Args:
        optimizer: The method.
        lr: The candidate with the lowest mean final loss over the seeds.
        lrs: The candidates, increasing.
        checkpoints: Mean validation loss over the seeds by step.
        finals: Final validation loss by seed.
        reached: By seed, the first recorded step at the baseline's loss; None for never.
        fraction: Median over the seeds of these steps over the baseline's steps, never counting as infinite;
            None where the median is never.
    """

    optimizer: str
    lr: float
    lrs: tuple[float, ...]
    checkpoints: Mapping[int, float]
    finals: Mapping[int, float]
    reached: Mapping[int, int | None]
    fraction: float | None

    @property
    def at_the_edge(self) -> bool:
        """Whether the best learning rate is the first or last candidate, so that a better may lie outside."""
        return self.lr in (self.lrs[0], self.lrs[-1])

    @property
    def mean_final(self) -> float:
        """The mean final validation loss over the seeds."""
        return statistics.fmean(self.finals.values())


@dataclass(frozen=True)
class Cost:
    """What a method costs beside the baseline.

    Args:
        step_time: Time of a whole training step over the baseline's.
        update_time: Time of the optimiser's part of it over the baseline's.
        state_bytes: Bytes of optimiser state a parameter.
    """

    step_time: float
    update_time: float
    state_bytes: float


def standings(
    outcomes: Sequence[Outcome], *, baseline: str = "adamw", checkpoints: Sequence[int] = ()
) -> list[Standing]:
    """Score trainings against those of the baseline, which comes first.

    Args:
        outcomes: One training each of every method, candidate and seed.
        baseline: The method whose best final loss is the target.
        checkpoints: Steps at which to tell the mean validation loss.

    Returns:
        One standing a method, in the order they first appear after the baseline.

    Raises:
        ValueError: Where the baseline is missing or diverged with every candidate, a candidate lacks a seed,
            or methods have different numbers of candidates.

    Examples:
        >>> runs = [
        ...     Outcome("adamw", 3e-3, 0, (100, 200), (2.6, 2.4)),
        ...     Outcome("muon", 2e-2, 0, (100, 200), (2.3, 2.1)),
        ... ]
        >>> [(found.optimizer, found.reached[0], found.fraction) for found in standings(runs)]
        [('adamw', 200, 1.0), ('muon', 100, 0.5)]
    """
    methods = list(dict.fromkeys(outcome.optimizer for outcome in outcomes))
    if baseline not in methods:
        raise ValueError(
            f"`baseline` (={baseline!r}) must be one of the methods compared: {', '.join(methods)}"
        )
    methods.sort(key=lambda name: name != baseline)
    grids = {name: _grid(outcomes, name) for name in methods}
    counts = {name: len(grid) for name, grid in grids.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"methods must choose from as many learning rates as each other, got {told}")
    own = [outcome for outcome in outcomes if outcome.optimizer == baseline]
    targets = {seed: min(run.final for run in own if run.seed == seed) for seed in _seeds(own)}
    if any(math.isinf(target) for target in targets.values()):
        raise ValueError(f"{baseline} diverged with every learning rate; nothing can be compared with it")
    length = max(step for run in own for step in run.steps)
    return [_standing(grids[name], targets, length, checkpoints) for name in methods]


def table(found: Sequence[Standing], *, title: str = "Steps to the baseline's best final loss") -> Table:
    """Return standings as a table, the baseline first.

    Args:
        found: The standings.
        title: The table's title; a legend of its marks is added where it has any.

    Returns:
        One row a method: `lr`, mean validation losses at checkpoints, the final one over the baseline's
        (`ratio`), `steps` by seed, and their median over the steps of the run (`of all`).
    """
    rows = [
        {
            "optimiser": standing.optimizer,
            "lr": f"{standing.lr:g}{EDGE if standing.at_the_edge else ''}",
            **{f"@{step}": _number(loss) for step, loss in standing.checkpoints.items()},
            "ratio": _number(round(standing.mean_final / found[0].mean_final, 3)),
            "steps": " ".join("never" if step is None else str(step) for step in standing.reached.values()),
            "of all": "never" if standing.fraction is None else f"{standing.fraction:.2f}",
        }
        for standing in found
    ]
    if any(standing.at_the_edge for standing in found):
        title += f"\n{EDGE.strip()} its lr is the first or last of the grid: a better may lie outside"
    return Table.from_records(rows, title=title)


def cost_table(costs: Mapping[str, Cost], *, baseline: str = "adamw") -> Table:
    """Return what methods cost as a table.

    Args:
        costs: The costs by method.
        baseline: The method whose times are 1.

    Returns:
        One row a method: time of a training step and of the optimiser's part of it over the baseline's, and
        bytes of state a parameter.
    """
    rows = [
        {
            "optimiser": name,
            "step time": f"{cost.step_time:.2f} x",
            "update time": f"{cost.update_time:.2f} x",
            "state bytes": round(cost.state_bytes, 2),
        }
        for name, cost in costs.items()
    ]
    return Table.from_records(rows, title=f"Times over {baseline}'s, bytes of state a parameter")


def joined(left: Table, right: Table) -> Table:
    """Return two tables of the same methods as one, the second's columns after the first's.

    Args:
        left: The first table; its title stays.
        right: The second, with the same first column.

    Returns:
        The table.

    Raises:
        ValueError: Where the first columns differ.
    """
    if left.column(left.columns[0]) != right.column(right.columns[0]):
        raise ValueError("the tables tell of different methods")
    rows = [[*one, *two[1:]] for one, two in zip(left.rows, right.rows, strict=True)]
    return Table([*left.columns, *right.columns[1:]], rows, left.title)


def _grid(outcomes: Sequence[Outcome], name: str) -> dict[float, list[Outcome]]:
    """Return a method's trainings by learning rate, each with all of the seeds."""
    grid: dict[float, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.optimizer == name:
            grid.setdefault(outcome.lr, []).append(outcome)
    every = _seeds(outcomes)
    for lr, runs in grid.items():
        if sorted(run.seed for run in runs) != every:
            told = sorted(run.seed for run in runs)
            raise ValueError(f"{name}, lr {lr:g}: has seeds {told}, expected each of {every} once")
    return dict(sorted(grid.items()))


def _seeds(outcomes: Sequence[Outcome]) -> list[int]:
    """Return the seeds that occur."""
    return sorted({outcome.seed for outcome in outcomes})


def _standing(
    grid: Mapping[float, Sequence[Outcome]],
    targets: Mapping[int, float],
    length: int,
    checkpoints: Sequence[int],
) -> Standing:
    """Score one method."""
    lr = min(grid, key=lambda candidate: statistics.fmean(run.final for run in grid[candidate]))
    runs = sorted(grid[lr], key=lambda run: run.seed)
    reached = {run.seed: run.first_at_most(targets[run.seed]) for run in runs}
    median = statistics.median(math.inf if step is None else step for step in reached.values())
    return Standing(
        optimizer=runs[0].optimizer,
        lr=lr,
        lrs=tuple(grid),
        checkpoints={step: statistics.fmean(run.at(step) for run in runs) for step in checkpoints},
        finals={run.seed: run.final for run in runs},
        reached=reached,
        fraction=median / length if math.isfinite(median) else None,
    )


def _number(value: float) -> float | str:
    """Return a loss for the table."""
    return value if math.isfinite(value) else "diverged"
