"""Two processes train as one does on batches twice as large."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

STEPS = 20
BATCH = 16


def claim_two_processes_train_as_one_with_twice_the_batch(claim: Any, tmp_path: Path, real_data: Any) -> None:
    """Run the command as users do, once alone and once under torchrun."""
    text = real_data("tinyshakespeare/input.txt")
    alone = fit([], tmp_path / "one", text, BATCH)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    shared = fit(
        launcher, tmp_path / "two", text, BATCH // 2, "--trainer.strategy=ddp", "--trainer.devices=2"
    )
    losses = {name: read_losses(run) for name, run in (("one", alone), ("two", shared))}
    assert len(losses["one"]) == len(losses["two"]) == STEPS
    gaps = [abs(one / two - 1) for one, two in zip(*losses.values(), strict=True)]
    one, two = (weights(run) for run in (alone, shared))
    apart = float((one - two).norm() / one.norm())
    claim(
        sentence=f"Two processes with batches of {BATCH // 2} train as one with batches of {BATCH}",
        paper="none: a property that data parallelism promises",
        published="equal up to rounding",
        setup=f"decoder of width 96, 3 blocks, latent attention, 8 experts, on tinyshakespeare, Muon, {STEPS}"
        " steps, one thread a process; `language-model fit` alone and under torchrun with gloo",
        baseline=f"one process with batches of {BATCH}",
        bars=[
            claim.bar(
                "largest relative gap of the training losses",
                ours=losses["two"][-1],
                baseline=losses["one"][-1],
                value=max(gaps),
                at_most=1e-4,
            ),
            claim.bar(
                f"relative distance of the weights after {STEPS} steps",
                ours=float(two.norm()),
                baseline=float(one.norm()),
                value=apart,
                at_most=1e-4,
            ),
        ],
        seeds=[0],
        figure=picture(gaps),
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
        "--trainer.precision=32-true",
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


def picture(gaps: list[float]) -> Figure:
    """Plot the gap of the losses by step."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.semilogy(range(1, len(gaps) + 1), [max(gap, 1e-17) for gap in gaps], "o-")
    axis.axhline(1e-4, color="0.4", linestyle=":")
    axis.set(xlabel="optimiser step", ylabel="relative gap of the training losses")
    return figure
