"""Muon reaches AdamW's loss in half of the steps; and what the package's other optimisers do there."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from torch import nn
from torch.optim import AdamW, Optimizer

from lemmata.optim.optimizers.auon import AuON, HybridAuON
from lemmata.optim.optimizers.kappa import L1
from lemmata.optim.optimizers.lion import LionK
from lemmata.optim.optimizers.muon import Muon
from lemmata.optim.optimizers.partition import split_parameters

SEEDS = (0, 1, 2)
SEED_TO_TUNE = 3
STEPS = 300
CHECKPOINTS = (50, 100, 120, 140, 160, 180, 200, 250, 300)
ADAMW_RATES = (1e-3, 3e-3, 6e-3, 1e-2)
RATES: dict[str, tuple[float, ...]] = {
    "Muon": (0.01, 0.02, 0.04, 0.08),
    "Lion": (3e-4, 6e-4, 1e-3, 2e-3),
    "AuON": (3e-3, 1e-2, 3e-2, 1e-1),
    "normalised momentum": (3e-3, 1e-2, 3e-2, 1e-1),
    "HybridAuON, one step": (0.03, 0.1, 0.3, 1.0),
}
PAPER = (
    "S. Mehta, R. Dandekar, R. Dandekar, S. Panat, Muon: Training and Trade-offs with Latent Attention and"
    " MoE, 2025, arXiv:2509.24406"
)
PUBLISHED = "target loss with 48 to 52 % of AdamW's training compute, 30 to 200 million parameters"
DECODER = (
    "character decoder of 0.35 million parameters (width 96, 3 layers, 4 heads, context 64) on 90 % of"
    f" tinyshakespeare, batches of 16, {STEPS} steps, learning rates rising over 20 steps and falling to zero"
    " linearly, gradient clipped at 1, no weight decay; loss on 512 windows of the other 10 %"
)

Make = Callable[[nn.Module], Optimizer]
Runs = Sequence[Any]


def claim_muon_reaches_adamws_final_loss_in_at_most_060_of_the_steps(claim: Any, decoder_runs: Any) -> None:
    """Tune AdamW alone, on a seed of its own; take Muon as it comes."""
    rate, tuning = decoder_runs.tune("AdamW", adamw, ADAMW_RATES, seeds=[SEED_TO_TUNE], checkpoints=[STEPS])
    specs = [
        {"make_optimizer": make, "key": key, "seed": seed, "checkpoints": CHECKPOINTS}
        for key, make in ((("AdamW", rate), adamw(rate)), (("Muon", 0.02, rate), muon(0.02, adamw_lr=rate)))
        for seed in SEEDS
    ]
    runs = decoder_runs.run_many(specs)
    baseline, ours = runs[: len(SEEDS)], runs[len(SEEDS) :]
    steps = steps_to_final(ours, baseline)
    claim(
        sentence="Muon reaches AdamW's final validation loss in about half of the steps",
        paper=PAPER,
        published=PUBLISHED,
        setup=f"{DECODER}. AdamW's learning rate from {listed(ADAMW_RATES)}, extended by factors of 2 while"
        f" the best is at an end, chosen on seed {SEED_TO_TUNE}, which is not judged: {rate:g}. Muon's is its"
        " default, 0.02, and AdamW's for what is no hidden matrix. Losses of the same 300-step schedule are"
        f" taken after {listed(CHECKPOINTS)} steps",
        bars=[
            claim.bar(
                "Muon's steps to AdamW's final loss / AdamW's steps, median of 3 seeds",
                ours=median(steps),
                baseline=STEPS,
                value=median(steps) / STEPS,
                at_most=0.60,
            )
        ],
        baseline="torch.optim.AdamW, betas (0.9, 0.95), learning rate swept",
        seeds=SEEDS,
        figure=curves({"AdamW": baseline, "Muon": ours}),
        notes=f"Steps by seed {listed(steps)}. Final losses by seed: AdamW {listed(final(baseline))}, Muon"
        f" {listed(final(ours))}. AdamW on seed {SEED_TO_TUNE}, by learning rate: "
        + ", ".join(f"{lr:g}: {final(found)[0]:.3f}" for lr, found in tuning.items())
        + ".",
    )


@pytest.mark.long
def claim_optimisers_by_steps_to_adamws_loss_with_all_learning_rates_swept(
    claim: Any, decoder_runs: Any
) -> None:
    """Give every optimiser the same number of learning rates, and judge all on the same seeds."""
    options = {"seeds": SEEDS, "checkpoints": CHECKPOINTS}
    adamw_rate, swept = decoder_runs.tune("AdamW", adamw, ADAMW_RATES, **options)
    best, grids = {"AdamW": swept[adamw_rate]}, {"AdamW": (adamw_rate, swept)}
    for name, make in makers(adamw_rate).items():
        grids[name] = decoder_runs.tune(f"{name} beside {adamw_rate}", make, RATES[name], **options)
        best[name] = grids[name][1][grids[name][0]]
    steps = {name: steps_to_final(runs, best["AdamW"]) for name, runs in best.items()}
    losses = {name: mean(final(runs)) for name, runs in best.items()}
    claim(
        sentence="Muon reaches AdamW's loss in about half of the steps, and Lion comes near it with half of"
        " the state",
        paper=PAPER,
        published=PUBLISHED,
        setup=f"{DECODER}. Learning rates swept for all over four values, extended by factors of 2 up to"
        " twice while the best is at an end; chosen for each by the mean final validation loss over the same"
        " three seeds and windows that are judged. Matrix optimisers leave what is no hidden matrix to AdamW"
        f" at its best rate, {adamw_rate:g}; losses are taken after {listed(CHECKPOINTS)} steps",
        bars=[
            claim.bar(
                "Muon's steps to AdamW's final loss / AdamW's steps, median of 3 seeds",
                ours=median(steps["Muon"]),
                baseline=STEPS,
                value=median(steps["Muon"]) / STEPS,
                at_most=0.60,
            ),
            claim.bar(
                "Lion's final loss / AdamW's, means of 3 seeds",
                ours=losses["Lion"],
                baseline=losses["AdamW"],
                value=losses["Lion"] / losses["AdamW"],
                at_most=1.05,
            ),
            claim.bar(
                "Lion's state / AdamW's, bytes",
                ours=best["Lion"][0].state_bytes,
                baseline=best["AdamW"][0].state_bytes,
                value=best["Lion"][0].state_bytes / best["AdamW"][0].state_bytes,
                at_most=0.5,
            ),
        ],
        baseline="torch.optim.AdamW, betas (0.9, 0.95), learning rate swept",
        seeds=SEEDS,
        figure=curves(best),
        notes="Each optimiser's learning rate was chosen on the losses shown. "
        + " ".join(row(name, grids[name], best, steps) for name in best)
        + " Step times are in the benchmarks.",
    )


def adamw(rate: float) -> Make:
    """Return what makes the baseline."""
    return lambda model: AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)


def muon(rate: float, *, adamw_lr: float) -> Make:
    """Return what makes Muon as it comes, but for AdamW's part."""
    return lambda model: Muon(groups(model), lr=rate, adamw_lr=adamw_lr)


def makers(adamw_lr: float) -> dict[str, Callable[[float], Make]]:
    """Return by name what makes each optimiser but AdamW from its learning rate."""
    return {
        "Muon": lambda rate: muon(rate, adamw_lr=adamw_lr),
        "Lion": lambda rate: lambda model: LionK(model.parameters(), lr=rate, weight_decay=0.0, kappa=L1()),
        "AuON": lambda rate: lambda model: AuON(groups(model), lr=rate, adamw_lr=adamw_lr),
        "normalised momentum": lambda rate: (
            lambda model: AuON(groups(model), lr=rate, gamma=0.0, adamw_lr=adamw_lr)
        ),
        "HybridAuON, one step": lambda rate: (
            lambda model: HybridAuON(groups(model), lr=rate, steps=1, adamw_lr=adamw_lr)
        ),
    }


def groups(model: nn.Module) -> Any:
    """Return the hidden matrices, those of queries, keys and values each by itself, and the rest apart."""
    return split_parameters(model, heads={"qkv": 3})


def final(runs: Runs) -> list[float]:
    """Return the last validation losses."""
    return [run.validation_losses[-1] for run in runs]


def steps_to_final(runs: Runs, baseline: Runs) -> list[float]:
    """Return for each seed the steps to the baseline's last loss on that seed."""
    return [run.steps_to(loss) for run, loss in zip(runs, final(baseline), strict=True)]


def row(
    name: str, grid: tuple[float, Any], best: Mapping[str, Runs], steps: Mapping[str, Sequence[float]]
) -> str:
    """Write a row of the table as a sentence."""
    runs = best[name]
    at = [mean(run.loss_at(step) for run in runs) for step in (100, 200, 300)]
    weights = sum(param.numel() for param in runs[0].model.parameters())
    reached = listed([count if math.isfinite(count) else "never" for count in steps[name]])
    swept = ", ".join(f"{rate:g}: {mean(final(found)):.3f}" for rate, found in grid[1].items())
    return (
        f"{name}: best learning rate {grid[0]:g}; loss {listed(at)} at 100, 200, 300 steps; steps to AdamW's"
        f" final loss by seed {reached}; {runs[0].state_bytes / weights:.2f} bytes of state a parameter;"
        f" final loss by rate {swept}."
    )


def curves(runs: Mapping[str, Runs]) -> Figure:
    """Draw validation losses against steps: the mean over seeds, and each seed thinly."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for name, found in runs.items():
        together = [mean(losses) for losses in zip(*(run.validation_losses for run in found), strict=True)]
        [line] = axes.plot(found[0].steps, together, label=name)
        for run in found:
            axes.plot(run.steps, run.validation_losses, color=line.get_color(), alpha=0.25, linewidth=0.8)
    if "AdamW" in runs:
        axes.axhline(mean(final(runs["AdamW"])), color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="steps", ylabel="validation loss (nats a character)")
    axes.legend()
    plt.close(figure)
    return figure


def listed(values: Sequence[Any]) -> str:
    """Write values with four digits."""
    return ", ".join(value if isinstance(value, str) else f"{value:.4g}" for value in values)
