"""Linear decay against other schedules, and refinement against linear decay.

All runs of one problem are made at once: learning rates and schedules are columns of one weight matrix, which
see the same batches.
"""

import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from torch import Tensor
from torch.nn import functional as F

from lemmata.optim.schedules import (
    fit_polynomial,
    refine_schedule,
)

PAPER = (
    "Defazio, Cutkosky, Mehta, Mishchenko, When, Why and How Much? Adaptive Learning Rate Scheduling by"
    " Refinement, 2023, arXiv:2310.07831"
)
SEEDS = (0, 1, 2)
RECORDING_SEED = 3
STEPS, BATCH = 2000, 16
LOGISTIC_LRS = 2.0 ** torch.arange(-8, 10.25, 0.5)
NETWORK_LRS = 2.0 ** torch.arange(-8, 4.0)
HIDDEN = 32
WEIGHT_DECAY = 5e-4
LABEL_NOISE = 0.2

Schedules = Mapping[str, Tensor]


@dataclass
class Problem:
    """Inputs `(n, d)`, standardised and with a constant, and classes `(n,)`."""

    x: Tensor
    y: Tensor

    @property
    def classes(self) -> int:
        """Return how many classes there are."""
        return int(self.y.max()) + 1

    def batches(self, seeds: Sequence[int]) -> Tensor:
        """Return the examples of every step, `(steps, seeds, BATCH)`."""
        drawn = [
            torch.randint(len(self.x), (STEPS, BATCH), generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack(drawn, 1)


@dataclass
class Sweep:
    """Losses `(schedules, lrs)` at the last iterate, averaged over seeds, and what was swept."""

    names: list[str]
    lrs: Tensor
    losses: Tensor

    def best(self, name: str) -> float:
        """Return a schedule's loss at its best learning rate."""
        return float(self.losses[self.names.index(name)].min())

    def best_lr(self, name: str) -> float:
        """Return a schedule's best learning rate."""
        return float(self.lrs[self.losses[self.names.index(name)].argmin()])

    def at_an_end(self, name: str) -> bool:
        """Return whether the best learning rate is the first or last of those tried."""
        return int(self.losses[self.names.index(name)].argmin()) in {0, len(self.lrs) - 1}


def claim_linear_decay_ends_lower_than_other_schedules_on_logistic_regression(
    claim: Any, real_data: Any
) -> None:
    """Sweep the learning rate of every schedule on eight convex problems."""
    problems = six_real_problems(real_data) | two_synthetic_problems()
    excess = {name: logistic_excess(problem) for name, problem in problems.items()}
    table = {
        schedule: [found[0][schedule] for found in excess.values()] for schedule in [*plain(), "refined"]
    }
    linear, cosine = (np.array(table[name]) for name in ("linear", "cosine"))
    bars = [
        claim.bar(
            f"excess loss, linear / {name}, largest of {len(problems)} problems",
            ours=linear[worst],
            baseline=table[name][worst],
            value=linear[worst] / table[name][worst],
            at_most=1.0,
        )
        for name in ("flat", "1/sqrt(t)", "1/t")
        for worst in [int(np.argmax(linear / np.array(table[name])))]
    ]
    ends = [f"{schedule} on {name}" for name, found in excess.items() for schedule in found[1]]
    refined = np.array(table["refined"])
    claim(
        sentence="Linear decay matches or beats cosine, stepwise, flat, 1/t and 1/sqrt(t) schedules across"
        " logistic regression problems",
        paper=PAPER,
        published="linear decay matches or beats the other classical schedules on a logistic regression suite"
        " and ten deep-learning problems",
        setup="softmax regression on iris, wine, breast cancer, digits, odd digits and MNIST test images at"
        " 14 x 14, and two synthetic sets; inputs standardised, penalty |W|^2 / 2n in the loss; plain SGD"
        " from zero, batch 16, 2000 steps, training loss of the last iterate minus the minimum (L-BFGS in"
        " float64); learning rate 2^-8 to 2^10 by factors of sqrt(2) for every schedule, best mean over"
        " seeds; step: a tenth after each third; refined: from norms recorded in another seed's best linear"
        " run",
        baseline="cosine, step, flat, 1/sqrt(t) and 1/t schedules in the same loop, each at its best rate",
        bars=[
            *bars,
            claim.bar(
                f"excess loss, linear / cosine, means over {len(problems)} problems",
                ours=linear.mean(),
                baseline=cosine.mean(),
                value=linear.mean() / cosine.mean(),
                at_most=1.02,
            ),
        ],
        seeds=SEEDS,
        figure=bar_chart(table, list(problems), "excess loss of the last iterate"),
        notes="Mean excess loss: "
        + ", ".join(f"{name} {np.mean(found):.4g}" for name, found in table.items())
        + f". Linear / cosine by problem {rounded(linear / cosine)} (geometric mean"
        f" {np.exp(np.log(linear / cosine).mean()):.3f}), linear / step"
        f" {rounded(linear / np.array(table['step']))}. Refined / linear by problem"
        f" {rounded(refined / linear)}, geometric mean {np.exp(np.log(refined / linear).mean()):.3f}: on"
        " plain logistic regression refinement was expected to be about neutral. Best learning rate at an end"
        f" of the range: {', '.join(ends) or 'never'}. Set-up and sets were fixed before the first run, in"
        " which every bar held; then rates above 2^8 were added to all sweeps, as 1/t was best there once.",
    )


def claim_refined_schedules_end_lower_than_linear_decay_where_gradient_norms_vary(
    claim: Any, real_data: Any
) -> None:
    """Record the norms of networks with batch normalisation, and train others by the refined schedules."""
    problems = six_real_problems(real_data)
    clean, noisy = (compare_networks(problems, noise) for noise in (0.0, LABEL_NOISE))
    claim(
        sentence="Schedules refined from observed gradient norms improve on linear decay",
        paper=PAPER,
        published="refinement improves on linear decay on most problems, without a new parameter to tune",
        setup=f"networks of one hidden layer of {HIDDEN} with batch normalisation on the six real sets, where"
        " norms vary: plain SGD, batch 16, 2000 steps, weight decay 5e-4; training cross-entropy of the last"
        " iterate on the whole set, with its statistics; learning rate 2^-8 to 2^3 by factors of 2 for every"
        " schedule, best mean over seeds; norms recorded in another seed's best linear run, median filter of"
        " a tenth",
        baseline="linear decay at its best learning rate; flat and cosine are ranked too",
        bars=[
            claim.bar(
                "mean rank among flat, cosine, linear and refined, refined / linear",
                ours=clean.ranks["refined"],
                baseline=clean.ranks["linear"],
                value=clean.ranks["refined"] / clean.ranks["linear"],
                at_most=1.0,
            )
        ],
        seeds=SEEDS,
        figure=bar_chart(clean.losses, list(problems), "training loss of the last iterate"),
        notes=f"{clean.told()}. Where these networks fit their set, norms fall because the loss vanishes,"
        " refinement then puts the long steps at the end, and linear decay is better. To see whether that is"
        f" the reason, the same was run with a label in {1 / LABEL_NOISE:.0f} redrawn at every step, so that"
        " the noise stays, and the expected loss compared: the two are then within a percent of each other."
        f" No bar is made of it. {noisy.told()}. Set-up and ranges were fixed before the first run, and the"
        " control added after it.",
    )


def plain(steps: int = STEPS) -> dict[str, Tensor]:
    """Return the multipliers of the classical schedules."""
    t = torch.arange(steps, dtype=torch.float64)
    return {
        "flat": torch.ones_like(t),
        "1/t": 1 / (t + 1),
        "1/sqrt(t)": (t + 1).rsqrt(),
        "step": 0.1 ** (3 * t / steps).floor(),
        "cosine": 0.5 * (1 + (math.pi * t / steps).cos()),
        "linear": 1 - t / steps,
    }


def six_real_problems(real_data: Any) -> dict[str, Problem]:
    """Return four sets that scikit-learn ships, one of them also as odd against even, and MNIST."""
    images = gzip.decompress(real_data("mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    labels = np.frombuffer(real_data("mnist/t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 14, 2, 14, 2).mean((2, 4))
    digits, numbers = load_digits(return_X_y=True)
    return {
        "iris": standardised(*load_iris(return_X_y=True)),
        "wine": standardised(*load_wine(return_X_y=True)),
        "breast cancer": standardised(*load_breast_cancer(return_X_y=True)),
        "digits": standardised(digits, numbers),
        "odd digits": standardised(digits, numbers % 2),
        "MNIST 14 x 14": standardised(pixels.reshape(len(pixels), -1), labels),
    }


def two_synthetic_problems() -> dict[str, Problem]:
    """Return classes drawn from a softmax model, of two classes, and of five with uneven scales."""
    problems = {}
    for name, n, d, classes, decay in (("two classes", 2000, 20, 2, 0.0), ("five classes", 2000, 50, 5, 1.0)):
        generator = torch.Generator().manual_seed(classes)
        x = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) ** -decay
        logits = 2 * x @ torch.randn(d, classes, generator=generator)
        y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        problems[name] = Problem(torch.cat([x, torch.ones(n, 1)], 1), y)
    return problems


def standardised(x: Any, y: Any) -> Problem:
    """Return a problem of features of mean 0 and variance 1, constant ones left out, and a constant."""
    x = np.asarray(x, np.float64)
    x = x[:, x.std(0) > 0]
    x = np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))]
    return Problem(torch.from_numpy(x).float(), torch.from_numpy(np.asarray(y, np.int64)))


def logistic_excess(problem: Problem) -> tuple[dict[str, float], list[str]]:
    """Return every schedule's excess loss at its best rate, and those whose best rate is an end."""
    least = logistic_minimum(problem)
    sweep, _ = train_logistic(problem, plain(), LOGISTIC_LRS, SEEDS)
    lr = torch.tensor([sweep.best_lr("linear")])
    _, norms = train_logistic(problem, {"linear": plain()["linear"]}, lr, [RECORDING_SEED])
    refined, _ = train_logistic(problem, {"refined": refine_schedule(norms[:, 0])}, LOGISTIC_LRS, SEEDS)
    found = {name: sweep.best(name) - least for name in sweep.names}
    ends = [name for sweep in (sweep, refined) for name in sweep.names if sweep.at_an_end(name)]
    return found | {"refined": refined.best("refined") - least}, ends


def logistic_loss(problem: Problem, W: Tensor) -> Tensor:
    """Return the penalised mean cross-entropy of weights `(runs, d, classes)` on the whole set."""
    x, y = problem.x.to(W), problem.y
    logits = torch.einsum("nd,rdc->rnc", x, W)
    entropy = logits.logsumexp(-1) - logits.gather(-1, y[None, :, None].expand(len(W), -1, 1))[..., 0]
    return entropy.mean(-1) + 0.5 / len(x) * W.square().sum((-1, -2))


def logistic_minimum(problem: Problem) -> float:
    """Return the least loss, by L-BFGS in float64."""
    W = torch.zeros(1, problem.x.shape[1], problem.classes, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [W],
        max_iter=3000,
        history_size=50,
        tolerance_grad=3e-7,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = logistic_loss(problem, W).sum()
        loss.backward()
        return loss

    search.step(closure)
    assert W.grad is not None
    # The loss is strongly convex with modulus 1 / n, which bounds what is left.
    assert 0.5 * len(problem.x) * W.grad.square().sum() < 2e-6
    return logistic_loss(problem, W).item()


@torch.no_grad()
def train_logistic(
    problem: Problem, schedules: Schedules, lrs: Tensor, seeds: Sequence[int]
) -> tuple[Sweep, Tensor]:
    """Return the final losses, and the gradient norms `(steps, runs)` of the first seed.

    The weights are `(seeds, d, runs * classes)`, runs being all pairs of schedule and learning rate.
    """
    d, classes = problem.x.shape[1], problem.classes
    rates = all_rates(schedules, lrs)
    runs = rates.shape[1]
    columns = rates.repeat_interleave(classes, 1)
    targets = F.one_hot(problem.y, classes).float()
    W = torch.zeros(len(seeds), d, runs * classes)
    norms = torch.zeros(STEPS, runs)
    for step, index in enumerate(problem.batches(seeds)):
        x = problem.x[index]
        p = torch.bmm(x, W).view(len(seeds), BATCH, runs, classes).softmax(-1)
        p -= targets[index][:, :, None]
        grad = torch.bmm(x.mT, p.flatten(2)).div_(BATCH).add_(W, alpha=1 / len(problem.x))
        if runs == 1:
            norms[step] = grad[0].norm()
        W -= grad.mul_(columns[step])
    losses = [
        torch.cat(
            [
                logistic_loss(problem, part.view(d, -1, classes).transpose(0, 1))
                for part in of_seed.split(20 * classes, 1)
            ]
        )
        for of_seed in W
    ]
    return as_sweep(torch.stack(losses), schedules, lrs), norms


@dataclass
class Comparison:
    """Losses of each schedule, a number a problem, and what the refined schedules were."""

    losses: dict[str, list[float]]
    shapes: list[str]

    @property
    def ranks(self) -> dict[str, float]:
        """Return each schedule's mean rank, 1 being the lowest loss."""
        order = np.array(list(self.losses.values())).argsort(0).argsort(0)
        return dict(zip(self.losses, (order.mean(1) + 1).tolist(), strict=True))

    def told(self) -> str:
        """Return what was found, for the record."""
        pairs = zip(self.losses["refined"], self.losses["linear"], strict=True)
        ratios = ", ".join(f"{refined / linear:.4f}" for refined, linear in pairs)
        ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in self.ranks.items())
        return (
            f"Mean ranks {ranks}; refined / linear loss by problem {ratios}; largest over smallest smoothed"
            " norm, and the nearest polynomial decay (warm-up fraction, power): " + "; ".join(self.shapes)
        )


def compare_networks(problems: Mapping[str, Problem], noise: float) -> Comparison:
    """Train networks by classical schedules and by refined ones, with some labels redrawn at every step."""
    schedules = {name: plain()[name] for name in ("flat", "cosine", "linear")}
    losses: dict[str, list[float]] = {name: [] for name in [*schedules, "refined"]}
    shapes = []
    for name, problem in problems.items():
        sweep, _ = train_networks(problem, schedules, NETWORK_LRS, SEEDS, noise)
        lr = torch.tensor([sweep.best_lr("linear")])
        _, norms = train_networks(problem, {"linear": schedules["linear"]}, lr, [RECORDING_SEED], noise)
        refined = refine_schedule(norms[:, 0])
        refined_sweep, _ = train_networks(problem, {"refined": refined}, NETWORK_LRS, SEEDS, noise)
        for schedule in schedules:
            losses[schedule].append(sweep.best(schedule))
        losses["refined"].append(refined_sweep.best("refined"))
        warmup, power = fit_polynomial(refined)
        shapes.append(f"{name} {spread(norms[:, 0]):.2g}, ({warmup:.2f}, {power:.2f})")
    return Comparison(losses, shapes)


def train_networks(
    problem: Problem, schedules: Schedules, lrs: Tensor, seeds: Sequence[int], noise: float
) -> tuple[Sweep, Tensor]:
    """Return the final losses and the gradient norms `(steps, runs)` of the first seed, of small networks.

    All runs of a seed start alike. With the probability `noise` a label is redrawn when it is used; the final
    loss is the expected one.
    """
    generator = torch.Generator().manual_seed(2000 + seeds[0])
    rates = all_rates(schedules, lrs)
    parameters = [param.requires_grad_() for param in initial_network(problem, seeds, rates.shape[1])]
    norms = torch.zeros(STEPS, rates.shape[1])
    for step, index in enumerate(problem.batches(seeds)):
        redrawn = torch.rand(index.shape, generator=generator) < noise
        labels = torch.randint(problem.classes, index.shape, generator=generator)
        labels = torch.where(redrawn, labels, problem.y[index])
        losses = cross_entropy(network_logits(parameters, problem.x[index]), labels)
        grads = torch.autograd.grad(losses.sum(), parameters)
        norms[step] = torch.stack([grad[0].flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
        with torch.no_grad():
            for param, grad in zip(parameters, grads, strict=True):
                rate = rates[step].view(-1, 1, 1)
                param.sub_(rate * (grad + WEIGHT_DECAY * param))
    final = [
        torch.stack(
            [
                # A run at a time: hidden units of every image of every run do not fit.
                expected_loss([param[seed, run] for param in parameters], problem, noise)
                for run in range(rates.shape[1])
            ]
        )
        for seed in range(len(seeds))
    ]
    return as_sweep(torch.stack(final), schedules, lrs), norms


def initial_network(problem: Problem, seeds: Sequence[int], runs: int) -> list[Tensor]:
    """Return weights, scale and shift of the normalisation, and weights and biases of the head.

    All are `(seeds, runs, rows, columns)`, as PyTorch draws them for linear layers.
    """
    d, classes = problem.x.shape[1], problem.classes
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(1000 + seed)
        shapes = ((d, HIDDEN, d), (HIDDEN, classes, HIDDEN), (1, classes, HIDDEN))
        first, head, bias = [
            (2 * torch.rand(rows, columns, generator=generator) - 1) / math.sqrt(fan_in)
            for rows, columns, fan_in in shapes
        ]
        drawn.append([first, torch.ones(1, HIDDEN), torch.zeros(1, HIDDEN), head, bias])
    return [torch.stack(of_seeds)[:, None].repeat(1, runs, 1, 1) for of_seeds in zip(*drawn, strict=True)]


def network_logits(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return logits `(seeds, runs, n, classes)` of inputs `(seeds, n, d)`."""
    first, scale, shift, head, bias = parameters
    hidden = torch.matmul(x[:, None], first)
    centred = hidden - hidden.mean(2, keepdim=True)
    normal = centred * (centred.square().mean(2, keepdim=True) + 1e-5).rsqrt()
    return torch.matmul((normal * scale + shift).relu(), head) + bias


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return mean cross-entropies `(seeds, runs)` for classes `(seeds, n)`."""
    wanted = y[:, None, :, None].expand(*logits.shape[:-1], 1)
    return (logits.logsumexp(-1) - logits.gather(-1, wanted)[..., 0]).mean(-1)


@torch.no_grad()
def expected_loss(parameters: Sequence[Tensor], problem: Problem, noise: float) -> Tensor:
    """Return one network's cross-entropy on the whole set, expected over redrawn labels."""
    logits = network_logits([param[None, None] for param in parameters], problem.x[None])
    of_labels = cross_entropy(logits, problem.y[None])[0, 0]
    of_any = (logits.logsumexp(-1) - logits.mean(-1)).mean()
    return (1 - noise) * of_labels + noise * of_any


def all_rates(schedules: Schedules, lrs: Tensor) -> Tensor:
    """Return the learning rates `(steps, runs)` of all pairs of schedule and base rate."""
    multipliers = torch.stack(list(schedules.values()), 1)
    return (multipliers[:, :, None] * lrs).flatten(1).float()


def as_sweep(losses: Tensor, schedules: Schedules, lrs: Tensor) -> Sweep:
    """Average losses `(seeds, runs)` over seeds; runs that blew up count as infinite."""
    mean = losses.double().nan_to_num(nan=math.inf, posinf=math.inf).mean(0)
    return Sweep(list(schedules), lrs, mean.view(len(schedules), len(lrs)))


def spread(norms: Tensor) -> float:
    """Return the largest over the smallest norm, each the median of a tenth of the run."""
    smooth = norms.view(10, -1).median(1).values
    return float(smooth.max() / smooth.min())


def bar_chart(table: Mapping[str, Sequence[float]], problems: Sequence[str], label: str) -> Figure:
    """Draw a group of bars for each problem."""
    figure, axes = plt.subplots(figsize=(9, 3.5))
    width = 0.8 / len(table)
    for place, (name, values) in enumerate(table.items()):
        axes.bar(np.arange(len(problems)) + place * width, values, width, label=name)
    axes.set_xticks(np.arange(len(problems)) + 0.4 - width / 2, problems)
    axes.set(ylabel=label, yscale="log")
    axes.legend(ncols=len(table), fontsize="small")
    return figure


def rounded(values: Any) -> str:
    """Return numbers for a note."""
    return ", ".join(f"{value:.3g}" for value in np.asarray(values))


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    """Close every figure that a claim opened."""
    yield
    plt.close("all")
