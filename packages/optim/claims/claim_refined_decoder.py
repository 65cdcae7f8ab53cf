"""A refined schedule against linear decay on a character decoder."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lemmata.optim.schedules import GradientNormRecorder, fit_polynomial, refine_schedule

PAPER = (
    "Defazio, Cutkosky, Mehta, Mishchenko, When, Why and How Much? Adaptive Learning Rate Scheduling by"
    " Refinement, 2023, arXiv:2310.07831"
)
SEEDS = (0, 1, 2)
RECORDING_SEED = 3
STEPS = 300
LRS = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


@pytest.mark.long
def claim_a_refined_schedule_trains_a_decoder_at_least_as_well_as_linear_decay(
    claim: Any, decoder_runs: Any
) -> None:
    """Record a run of the character decoder under AdamW, and train others by the refined schedule."""
    steps, lrs = STEPS, LRS
    linear = (1 - torch.arange(steps) / steps).tolist()
    warmed = [min((step + 1) / 21, (steps - step) / (steps - 20)) for step in range(steps)]
    losses = {
        "linear": decoder_losses(decoder_runs, linear, lrs),
        "linear after warm-up": decoder_losses(decoder_runs, warmed, lrs),
    }
    best_lr = lrs[int(losses["linear"].mean(1).argmin())]
    norms = decoder_norms(decoder_runs, linear, best_lr)
    refined = refine_schedule(norms, p=1)
    losses["refined"] = decoder_losses(decoder_runs, refined.tolist(), lrs)
    best = {name: found.mean(1).min() for name, found in losses.items()}
    at = {name: lrs[int(found.mean(1).argmin())] for name, found in losses.items()}
    warmup, power = fit_polynomial(refined)
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, multipliers in zip(losses, (linear, warmed, refined.tolist()), strict=True):
        axes.plot(multipliers, label=name)
    axes.set(xlabel="step", ylabel="multiplier", title="Schedules of the character decoder")
    axes.legend()
    plt.close(figure)
    claim(
        sentence="Schedules refined from observed gradient norms improve on linear decay, here in training a"
        " language model by AdamW",
        paper=PAPER,
        published="refinement improves on linear decay on most problems, large language models among them",
        setup="character decoder of 0.35 million parameters on tinyshakespeare, 300 steps of 16 x 64"
        f" characters, AdamW (0.9, 0.95), weight decay 0.1, clipping at 1; learning rate {lrs[0]:g} to"
        f" {lrs[-1]:g} by factors of 2 for every schedule, best mean validation loss over seeds; sums of"
        " magnitudes recorded before clipping in another seed's best linear run",
        baseline="linear decay, without warm-up and after 20 steps of it, each at its best learning rate",
        bars=[
            claim.bar(
                f"validation loss, refined / {name}",
                ours=best["refined"],
                baseline=best[name],
                value=best["refined"] / best[name],
                at_most=1.0,
            )
            for name in ("linear", "linear after warm-up")
        ],
        seeds=SEEDS,
        figure=figure,
        notes="Best learning rates "
        + ", ".join(f"{name} {lr:g}" for name, lr in at.items())
        + ". Losses by seed there: "
        + ", ".join(f"{name} {rounded(found[found.mean(1).argmin()])}" for name, found in losses.items())
        + f". The refined schedule is near a warm-up of {warmup:.3f} of the run and a decay of power"
        f" {power:.2f}.",
    )


def decoder_losses(runs: Any, multipliers: Sequence[float], lrs: Sequence[float]) -> Any:
    """Return final validation losses `(lrs, seeds)` under a schedule."""
    specs = [
        {
            "key": ("adamw", lr),
            "make_optimizer": adamw(lr),
            "seed": seed,
            "steps": len(multipliers),
            "multipliers": multipliers,
            "checkpoints": [len(multipliers)],
        }
        for lr in lrs
        for seed in SEEDS
    ]
    found = [run.validation_losses[-1] for run in runs.run_many(specs)]
    return np.nan_to_num(np.array(found).reshape(len(lrs), len(SEEDS)), nan=np.inf)


def decoder_norms(runs: Any, multipliers: Sequence[float], lr: float) -> Tensor:
    """Return the sums of magnitudes of a run's gradients, before they were clipped to norm 1."""
    recorders: list[GradientNormRecorder] = []

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = adamw(lr)(model)
        recorders.append(GradientNormRecorder(optimizer, p=1))
        return optimizer

    run = runs(
        make_optimizer,
        seed=RECORDING_SEED,
        steps=len(multipliers),
        multipliers=multipliers,
        checkpoints=[len(multipliers)],
        observe=lambda *_: recorders[0].norms(),
    )
    # The hook comes after clipping, which divided by the Euclidean norm where that was above 1.
    return run.observed[0] * torch.tensor(run.gradient_norms, dtype=torch.float64).clamp(min=1)


def adamw(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return what makes AdamW for a model."""
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)


def rounded(values: Any) -> str:
    """Return numbers for a note."""
    return ", ".join(f"{value:.3g}" for value in np.asarray(values))
