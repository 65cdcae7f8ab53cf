"""AuON beside what it is equal to: normalised momentum, and with five steps Muon; and beside AdamW."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import AdamW, Optimizer

from lemmata.optim.optimizers.auon import AuON, HybridAuON
from lemmata.optim.optimizers.muon import Muon
from lemmata.optim.optimizers.partition import split_parameters

SEEDS = (0, 1, 2)
SEED_TO_TUNE = 3
STABLE_RATE = 0.01
ADAMW_PART = 3e-3
PAPER = "Maity, AuON: A Linear-time Alternative to Semi-Orthogonal Momentum Updates, 2025, arXiv:2509.24320"
DECODER = (
    "character decoder of 0.35 million parameters (width 96, 3 layers, 4 heads, context 64) on 90 % of"
    " tinyshakespeare, batches of 16, 300 steps, learning rates rising over 20 steps and falling to zero"
    " linearly, gradient clipped at 1, no weight decay; loss on 512 windows of the other 10 %"
)

Make = Callable[[nn.Module], Optimizer]


def claim_auon_trains_as_momentum_divided_by_its_frobenius_norm_does(claim: Any, decoder_runs: Any) -> None:
    """Compare every checkpoint of two runs that differ in `gamma` alone."""
    makes = {"AuON": auon(STABLE_RATE), "normalised momentum": auon(STABLE_RATE, gamma=0.0)}
    runs = run_all(decoder_runs, makes, SEEDS)
    worst = largest_difference(runs["AuON"], runs["normalised momentum"])
    claim(
        sentence="AuON's hyperbolic-cosine scaling improves on plain momentum; here, it changes nothing that"
        " can be told from momentum divided by its Frobenius norm",
        paper=PAPER,
        published="comparable to AdamW and Muon on vision and language, credited to the hyperbolic cosine;"
        " no comparison with normalised momentum",
        setup=f"{DECODER}; both with learning rate {STABLE_RATE:g}, at which training is not chaotic, and"
        f" AdamW at {ADAMW_PART:g} for what is no hidden matrix; losses every 50 steps",
        bars=[
            claim.bar(
                "largest relative difference of losses over checkpoints and seeds",
                ours=mean(final(runs["AuON"])),
                baseline=mean(final(runs["normalised momentum"])),
                value=worst,
                at_most=0.005,
            )
        ],
        baseline="the same optimiser with gamma = 0: momentum divided by its Frobenius norm, exactly",
        seeds=SEEDS,
        figure=curves(runs),
        notes="The reason: the scale R of a matrix of N entries lies between sqrt(1 + gamma^2 / N) and"
        f" sqrt(1 + sinh(gamma)^2 / N); for the smallest hidden matrix here R - 1 is at most"
        f" {math.sinh(1) ** 2 / 2 / 96**2:.1e}. Final losses by seed: AuON {listed(final(runs['AuON']))},"
        f" normalised momentum {listed(final(runs['normalised momentum']))}. This is a finding against what"
        " the paper credits, not against the method: normalised momentum is a good optimiser.",
    )


def claim_auon_ends_within_8_percent_of_tuned_adamw(claim: Any, decoder_runs: Any) -> None:
    """Tune both on a seed of their own, with as many learning rates."""
    options = {"seeds": [SEED_TO_TUNE], "checkpoints": [300], "extensions": 1}
    adamw_rate, _ = decoder_runs.tune("AdamW", adamw, (3e-3, 6e-3, 1e-2), **options)
    make = partial(auon, adamw_lr=adamw_rate)
    auon_rate, _ = decoder_runs.tune(f"AuON beside {adamw_rate}", make, (3e-3, 1e-2, 3e-2), **options)
    runs = run_all(decoder_runs, {"AuON": make(auon_rate), "AdamW": adamw(adamw_rate)}, SEEDS[:2])
    ours, baseline = mean(final(runs["AuON"])), mean(final(runs["AdamW"]))
    claim(
        sentence="AuON trains about as well as AdamW, with half of its state for matrices",
        paper=PAPER,
        published="comparable to AdamW and Muon on vision and language benchmarks",
        setup=f"{DECODER}. Learning rates from three values each, with one more where the best is at an end,"
        f" chosen on seed {SEED_TO_TUNE}, which is not judged: AuON {auon_rate:g}, AdamW {adamw_rate:g}."
        f" AuON leaves what is no hidden matrix to AdamW at {adamw_rate:g}",
        bars=[
            claim.bar(
                "final loss, AuON / AdamW, means of two seeds",
                ours=ours,
                baseline=baseline,
                value=ours / baseline,
                at_most=1.08,
            )
        ],
        baseline="torch.optim.AdamW, betas (0.9, 0.95), learning rate swept",
        seeds=SEEDS[:2],
        figure=curves(runs),
        notes=f"Final losses by seed: AuON {listed(final(runs['AuON']))}, AdamW"
        f" {listed(final(runs['AdamW']))}. Muon on the same task is in its own claims.",
    )


def claim_hybrid_auon_with_five_steps_trains_as_muon_does(claim: Any, decoder_runs: Any) -> None:
    """Compare every checkpoint of the two at Muon's default learning rate."""
    makes: dict[str, Make] = {
        "Hybrid-AuON, five steps": lambda model: HybridAuON(
            groups(model), lr=0.02, steps=5, adamw_lr=ADAMW_PART
        ),
        "Muon": lambda model: Muon(groups(model), lr=0.02, adamw_lr=ADAMW_PART),
    }
    runs = run_all(decoder_runs, makes, SEEDS[:2])
    ours, baseline = runs.values()
    claim(
        sentence="Hybrid-AuON is above Muon in places; here, with Muon's number of steps it is Muon",
        paper=PAPER,
        published="Hybrid-AuON outperforms Muon in language modelling",
        setup=f"{DECODER}; both with learning rate 0.02 and AdamW at {ADAMW_PART:g} for what is no hidden"
        " matrix; losses every 50 steps",
        bars=[
            claim.bar(
                "largest relative difference of losses over checkpoints and seeds",
                ours=mean(final(ours)),
                baseline=mean(final(baseline)),
                value=largest_difference(ours, baseline),
                at_most=0.005,
            )
        ],
        baseline="Muon of this package, on the same iteration",
        seeds=SEEDS[:2],
        figure=curves(runs),
        notes=f"Final losses by seed: hybrid {listed(final(ours))}, Muon {listed(final(baseline))}. The paper"
        " takes one step; with one the hybrid is in the table of Muon's long claim.",
    )


def claim_auon_costs_time_proportional_to_the_number_of_weights(claim: Any) -> None:
    """Time a step on one square matrix, from 256 x 256 to 4096 x 4096, beside Muon's."""
    sizes = np.array([256, 512, 1024, 2048, 4096])
    makes = {"AuON": AuON, "Muon": Muon}
    seconds = {
        name: np.array([step_seconds(make, int(size)) for size in (sizes if name == "AuON" else sizes[:-1])])
        for name, make in makes.items()
    }
    slopes = {
        name: float(np.polyfit(np.log(sizes[: len(found)] ** 2), np.log(found), 1)[0])
        for name, found in seconds.items()
    }
    claim(
        sentence="AuON is linear in the number of weights, where Muon is not",
        paper=PAPER,
        published="linear time",
        setup="one step on a single n x n matrix in float32 on one thread, n = 256 to 4096 (Muon to 2048);"
        " the least of at least five timings, slope of log time against log n^2",
        bars=[
            claim.bar(
                "exponent of the number of weights",
                ours=slopes["AuON"],
                baseline=slopes["Muon"],
                value=slopes["AuON"],
                at_most=1.1,
            ),
            claim.bar(
                "exponent of the number of weights",
                ours=slopes["AuON"],
                baseline=slopes["Muon"],
                value=slopes["AuON"],
                at_least=0.9,
            ),
        ],
        baseline="Muon of this package, five steps",
        figure=time_figure(sizes, seconds, slopes),
        notes=", ".join(f"{name}: {listed(1e3 * found)} ms" for name, found in seconds.items())
        + ". Matrices that leave a cache take longer per weight, which adds to the exponent.",
    )


def adamw(rate: float) -> Make:
    """Return what makes the baseline."""
    return lambda model: AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)


def auon(rate: float, *, gamma: float = 1.0, adamw_lr: float = ADAMW_PART) -> Make:
    """Return what makes AuON, with AdamW for what is no hidden matrix."""
    return lambda model: AuON(groups(model), lr=rate, gamma=gamma, adamw_lr=adamw_lr)


def groups(model: nn.Module) -> Any:
    """Return the hidden matrices, those of queries, keys and values each by itself, and the rest apart."""
    return split_parameters(model, heads={"qkv": 3})


def run_all(decoder_runs: Any, makes: Mapping[str, Make], seeds: Sequence[int]) -> dict[str, Sequence[Any]]:
    """Train with every optimiser on every seed."""
    specs = [{"make_optimizer": make, "seed": seed} for make in makes.values() for seed in seeds]
    runs = decoder_runs.run_many(specs)
    return {name: runs[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(makes)}


def final(runs: Sequence[Any]) -> list[float]:
    """Return the last validation losses."""
    return [run.validation_losses[-1] for run in runs]


def largest_difference(runs: Sequence[Any], others: Sequence[Any]) -> float:
    """Return the largest relative difference of losses at the same checkpoint and seed."""
    return max(
        abs(one - two) / two
        for run, other in zip(runs, others, strict=True)
        for one, two in zip(run.validation_losses, other.validation_losses, strict=True)
    )


def step_seconds(make: Callable[..., Optimizer], size: int) -> float:
    """Return the least time of a step on one square matrix, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    param = nn.Parameter(torch.randn(size, size))
    param.grad = torch.randn(size, size)
    optimizer = make([param])
    timings: list[float] = []
    optimizer.step()
    while len(timings) < 5 or (sum(timings) < 0.3 and len(timings) < 200):
        started = time.perf_counter()
        optimizer.step()
        timings.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return min(timings)


def curves(runs: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw validation losses against steps, a line a seed, the first optimiser dashed above the second."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for (name, found), style, width in zip(reversed(runs.items()), ("-", "--"), (3.0, 1.2), strict=True):
        for number, run in enumerate(found):
            label = name if number == 0 else None
            axes.plot(
                run.steps, run.validation_losses, style, color=f"C{number}", linewidth=width, label=label
            )
    axes.set(xlabel="steps", ylabel="validation loss (nats a character)")
    axes.legend()
    plt.close(figure)
    return figure


def time_figure(sizes: Any, seconds: Mapping[str, Any], slopes: Mapping[str, float]) -> Figure:
    """Draw times against the number of weights, on logarithmic axes."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for name, found in seconds.items():
        axes.loglog(sizes[: len(found)] ** 2, found, "o-", label=f"{name}, exponent {slopes[name]:.2f}")
    axes.set(xlabel="weights of one square matrix", ylabel="seconds a step")
    axes.legend()
    plt.close(figure)
    return figure


def listed(values: Sequence[float]) -> str:
    """Write values with four digits."""
    return ", ".join(f"{value:.4g}" for value in values)
