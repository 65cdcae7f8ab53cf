"""The bound on the last iterate, on problems whose minimum is known."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from lemmata.optim.schedules import last_iterate_bound, optimal_schedule

PAPER = (
    "Defazio, Cutkosky, Mehta, Mishchenko, When, Why and How Much? Adaptive Learning Rate Scheduling by"
    " Refinement, 2023, arXiv:2310.07831"
)


def claim_sgd_ends_below_the_last_iterate_bound(claim: Any) -> None:
    """Run stochastic subgradient descent on 100 random problems whose minimum linear programming knows."""
    steps, repeats = 200, 64
    names = ("flat", "linear", "cosine", "optimal")
    ratios = {name: [] for name in (*names, "linear, sharp bound")}
    for seed in range(100):
        problem = least_absolute_deviations(seed)
        norms = torch.full((steps,), problem.norm)
        shapes = [plain(steps)[name] for name in names[:-1]]
        lrs = torch.stack(
            [at_best_factor(shape, norms, problem.distance) for shape in shapes]
            + [optimal_schedule(norms, problem.distance)]
        )
        bounds = [float(last_iterate_bound(lr, norms, problem.distance)) for lr in lrs]
        # In the theorem's form linear decay has weights D / (G sqrt(T)), and moves T - 1 times.
        sharp = problem.distance * problem.norm / math.sqrt(steps)
        decay = sharp / problem.norm**2 * (1 - torch.arange(1, steps + 1, dtype=torch.float64) / steps)
        found = suboptimality(problem, torch.cat([lrs, decay[None]]), repeats, seed)
        for name, value, bound in zip(ratios, found, [*bounds, sharp], strict=True):
            ratios[name].append(value / bound)
    claim(
        sentence="The last iterate of SGD is within the bound, for any schedule",
        paper=PAPER,
        published="a theorem: E f(x_T) - f* is at most the bound for convex Lipschitz functions",
        setup="100 random problems of least absolute deviations, 2 to 8 unknowns and 10 to 40 residuals, one"
        " residual a step, 200 steps, suboptimality averaged over 64 runs; flat, linear and cosine schedules"
        " at the factor that minimises their bound, and the schedule that minimises it altogether",
        baseline="the bound, from the root mean square norm and the distance to the minimiser by linear"
        " programming",
        bars=[
            claim.bar(
                f"suboptimality / bound, {name}, largest of 100",
                ours=max(found),
                baseline=1.0,
                value=max(found),
                at_most=1.0,
            )
            for name, found in ratios.items()
        ],
        seeds=[0],
        notes="Medians: " + ", ".join(f"{name} {np.median(found):.2f}" for name, found in ratios.items()),
    )


def plain(steps: int) -> dict[str, Tensor]:
    """Return the multipliers of three classical schedules."""
    t = torch.arange(steps, dtype=torch.float64)
    return {
        "flat": torch.ones_like(t),
        "linear": 1 - t / steps,
        "cosine": 0.5 * (1 + (math.pi * t / steps).cos()),
    }


@dataclass
class Deviations:
    """Mean of `|A x - b|`, its least value, and how far a start is from a minimiser."""

    A: Tensor
    b: Tensor
    least: float
    start: Tensor
    distance: float

    @property
    def norm(self) -> float:
        """Return the root mean square norm of one residual's subgradient."""
        return float(self.A.square().sum(1).mean().sqrt())


def least_absolute_deviations(seed: int) -> Deviations:
    """Return a random problem, solved by linear programming."""
    rng = np.random.default_rng(seed)
    d, n = int(rng.integers(2, 9)), int(rng.integers(10, 41))
    A, b = rng.normal(size=(n, d)) * np.exp(0.5 * rng.normal(size=d)), rng.normal(size=n)
    solved = linprog(
        np.r_[np.zeros(d), np.ones(n) / n],
        A_ub=np.block([[A, -np.eye(n)], [-A, -np.eye(n)]]),
        b_ub=np.r_[b, -b],
        bounds=[(None, None)] * d + [(0, None)] * n,
    )
    start = solved.x[:d] + 10 ** rng.uniform(-1, 1) * rng.normal(size=d)
    return Deviations(
        torch.from_numpy(A),
        torch.from_numpy(b),
        float(solved.fun),
        torch.from_numpy(start),
        float(np.linalg.norm(start - solved.x[:d])),
    )


def at_best_factor(schedule: Tensor, norms: Tensor, distance: float) -> Tensor:
    """Return a schedule times the factor for which its bound is least: `a / c + b c` is at `sqrt(a / b)`."""
    far, near = (float(last_iterate_bound(schedule, norms, scale)) for scale in (2 * distance, distance))
    a = (far - near) / 3
    return schedule * math.sqrt(a / (near - a))


def suboptimality(problem: Deviations, lrs: Tensor, repeats: int, seed: int) -> list[float]:
    """Return the mean suboptimality of the last iterate, the one of the last gradient, for each schedule."""
    generator = torch.Generator().manual_seed(seed)
    x = problem.start.expand(len(lrs), repeats, -1)
    for rates in lrs.T[:-1]:
        drawn = torch.randint(len(problem.b), (repeats,), generator=generator)
        rows = problem.A[drawn]
        signs = ((x * rows).sum(-1) - problem.b[drawn]).sign()
        x = x - rates[:, None, None] * signs[..., None] * rows
    values = (x @ problem.A.T - problem.b).abs().mean(-1)
    return (values.mean(1) - problem.least).tolist()
