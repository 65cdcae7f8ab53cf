"""Variants of the decoder trained alike on real text, learning rates chosen on a seed of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from lemmata.apps.language_model.sweep import Job, run_jobs

STEPS = 300
SEEDS = (0, 1, 2)
SEED_TO_TUNE = 3
PROCESSES = 2
EXTENSIONS = 2


@dataclass(frozen=True)
class Trained:
    """One variant's trainings.

    Args:
        lr: The learning rate that was chosen.
        tuning: Final validation loss by learning rate, on the seed that is not judged.
        steps: The steps at which validation losses were recorded.
        losses: By judged seed, the validation losses.
    """

    lr: float
    tuning: Mapping[float, float]
    steps: Sequence[int]
    losses: Sequence[Sequence[float]]

    @property
    def finals(self) -> list[float]:
        """Final validation losses by judged seed."""
        return [losses[-1] for losses in self.losses]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.finals) / len(self.finals)

    def told(self) -> str:
        """Return the numbers in words."""
        edge = " (at the edge of the grid)" if self.lr in (min(self.tuning), max(self.tuning)) else ""
        tuning = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in self.tuning.items())
        finals = ", ".join(f"{loss:.3f}" for loss in self.finals)
        return f"final losses by seed {finals}; lr {self.lr:g}{edge}, chosen from {tuning}"


@pytest.fixture
def train_variants(tmp_path: Path, real_data: Any) -> Any:
    """Return a function that trains variants of the decoder, by label, with AdamW on tinyshakespeare."""
    text = real_data("tinyshakespeare/input.txt")

    def train(variants: Mapping[str, Mapping[str, Any]], rates: Sequence[float]) -> dict[str, Trained]:
        def job(label: str, lr: float, seed: int) -> Job:
            arguments = {
                "data": str(text),
                "optimizer": "adamw",
                "lr": lr,
                "seed": seed,
                "steps": STEPS,
                "validate_every": 50,
                "context": 64,
                "batch_size": 16,
                "warmup": 20,
                "model": dict(variants[label]),
                "trainer": {"accelerator": "cpu", "devices": 1},
            }
            return Job(f"{label}-{lr:g}-{seed}".replace(" ", "-"), arguments)

        def run(jobs: Sequence[Job]) -> list[dict[str, Any]]:
            return list(run_jobs(jobs, tmp_path / "runs", workers=PROCESSES).values())

        grid, losses, best = sorted(rates), {}, {}
        for _ in range(EXTENSIONS + 1):
            new = [(label, lr) for label in variants for lr in grid if (label, lr) not in losses]
            tuning = run([job(label, lr, SEED_TO_TUNE) for label, lr in new])
            losses |= dict(zip(new, (_final(outcome) for outcome in tuning), strict=True))
            best = {label: min(grid, key=lambda lr, label=label: losses[label, lr]) for label in variants}
            # The same candidates for all: where one's best is at an end, all get one more there.
            ends = set(best.values()) & {grid[0], grid[-1]}
            if not ends:
                break
            grid = sorted({*grid, *(2 * lr if lr == grid[-1] else lr / 2 for lr in ends)})
        judged = run([job(label, best[label], seed) for label in variants for seed in SEEDS])
        assert all(outcome["finished"] for outcome in judged), "a judged training diverged"
        return {
            label: Trained(
                lr=best[label],
                tuning={lr: loss for (of, lr), loss in sorted(losses.items()) if of == label},
                steps=judged[0]["steps"],
                losses=[
                    outcome["losses"] for outcome in judged[place * len(SEEDS) : (place + 1) * len(SEEDS)]
                ],
            )
            for place, label in enumerate(variants)
        }

    return train


@pytest.fixture
def draw_curves() -> Any:
    """Return a function that draws variants' validation losses, one thin line a seed."""

    def draw(trained: Mapping[str, Trained]) -> Figure:
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        for place, (label, found) in enumerate(trained.items()):
            for seed, losses in zip(SEEDS, found.losses, strict=True):
                axis.plot(
                    found.steps,
                    losses,
                    color=f"C{place}",
                    linewidth=1.0,
                    label=f"{label}, lr {found.lr:g}" if seed == SEEDS[0] else None,
                )
        axis.set(xlabel="optimiser step", ylabel="validation loss, nats a character")
        axis.legend()
        return figure

    return draw


def _final(outcome: Mapping[str, Any]) -> float:
    """Return the final validation loss; infinite where the training diverged."""
    return outcome["losses"][-1] if outcome["finished"] else math.inf
