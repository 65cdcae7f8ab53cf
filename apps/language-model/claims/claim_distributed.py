"""Two processes train as one does on batches twice as large."""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

STEPS = 20
BATCH = 16


# Optimiser and precision; the last is measured and told, see the notes.
RUNS = (("muon", "64-true"), ("adamw", "32-true"), ("muon", "32-true"))


@dataclass(frozen=True)
class Gap:
    """How far two processes are from one.

    Args:
        losses: Relative gap of the training losses by step.
        weights: Relative distance of the weights at the end.
        final: The final training losses of one process and of two.
        norms: The norms of the weights of one process and of two.
    """

    losses: list[float]
    weights: float
    final: tuple[float, float]
    norms: tuple[float, float]


def claim_two_processes_train_as_one_with_twice_the_batch(claim: Any, tmp_path: Path, real_data: Any) -> None:
    """Run the command as users do, once alone and once under torchrun."""
    text = real_data("tinyshakespeare/input.txt")
    gaps = {run: gap(*run, text, tmp_path / "-".join(run)) for run in RUNS}
    double, single, told = (gaps[run] for run in RUNS)
    claim(
        sentence=f"Two processes with batches of {BATCH // 2} train as one with batches of {BATCH}",
        paper="none: a property that data parallelism promises",
        published="equal up to rounding",
        setup="decoder of width 96, 3 blocks, latent attention, 8 experts, on tinyshakespeare,"
        f" {STEPS} steps, one thread a process; `language-model fit` alone and under torchrun with gloo."
        " Muon in float64, AdamW in float32",
        baseline=f"one process with batches of {BATCH}",
        bars=[
            claim.bar(
                f"largest relative gap of the training losses, {name}",
                ours=found.final[1],
                baseline=found.final[0],
                value=max(found.losses),
                at_most=1e-4,
            )
            for name, found in (("Muon, float64", double), ("AdamW, float32", single))
        ]
        + [
            claim.bar(
                f"relative distance of the weights after {STEPS} steps, Muon, float64",
                ours=double.norms[1],
                baseline=double.norms[0],
                value=double.weights,
                at_most=1e-4,
            )
        ],
        seeds=[0],
        figure=picture(gaps),
        notes="Rounding differs between one sum over a batch and two sums of half of it, and training"
        " amplifies it: a router's choice can flip, and Muon can lift directions in which a gradient is all"
        " rounding to the size of the others. In float32 Muon's losses are up to"
        f" {max(told.losses):.1e} apart, its weights {told.weights:.1e}; AdamW's weights"
        f" {single.weights:.1e}. No bar is set on these: a first run of this claim, Muon in float32, missed"
        " 1e-4, and float64, where nothing but rounding changes, was added to tell rounding from a fault.",
    )


def gap(optimizer: str, precision: str, text: Path, folder: Path) -> Gap:
    """Train alone and in two processes, and compare."""
    options = [f"--optimizer={optimizer}", f"--trainer.precision={precision}"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    alone = fit([], folder / "one", text, BATCH, *options)
    shared = fit(launcher, folder / "two", text, BATCH // 2, *options, *both)
    first, second = read_losses(alone), read_losses(shared)
    assert len(first) == len(second) == STEPS
    one, two = weights(alone), weights(shared)
    return Gap(
        losses=[abs(a / b - 1) for a, b in zip(first, second, strict=True)],
        weights=float((one - two).norm() / one.norm()),
        final=(first[-1], second[-1]),
        norms=(float(one.norm()), float(two.norm())),
    )


def fit(launcher: list[str], out: Path, text: Path, batch: int, *options: str) -> Path:
    """Run `language-model fit` in processes of their own."""
    command = [
        sys.executable,
        *launcher,
        "-m",
        "lemmata.apps.language_model",
        "fit",
        f"--data={text}",
        f"--out={out}",
        f"--steps={STEPS}",
        f"--data.batch_size={batch}",
        "--trainer.accelerator=cpu",
        "--trainer.log_every_n_steps=1",
        f"--trainer.val_check_interval={STEPS}",
        "--seed=0",
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def read_losses(run: Path) -> list[float]:
    """Return the training losses by step."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]


def weights(run: Path) -> torch.Tensor:
    """Return all weights as one vector."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return torch.cat([value.double().flatten() for value in checkpoint["state_dict"].values()])


def picture(gaps: Mapping[tuple[str, str], Gap]) -> Figure:
    """Plot the gaps of the losses by step."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for run, found in gaps.items():
        values = [max(value, 1e-17) for value in found.losses]  # an exact match has no place on this axis
        axis.semilogy(range(1, STEPS + 1), values, "o-", markersize=3, label=", ".join(run))
    axis.axhline(1e-4, color="0.4", linestyle=":")
    axis.set(xlabel="optimiser step", ylabel="relative gap of the training losses")
    axis.legend()
    return figure
