"""A schedule for the next run from the gradient norms of the last one.

Where gradient norms are constant the best schedule is linear decay. Where they are not, steps should be
longer while gradients are small: refinement turns the recorded norms $G_t$ into weights and these into
learning rates, which gives warm-up where norms fall at the start and fast annealing where they rise at the
end, with nothing to tune. Record the norms of a run under linear decay without warm-up: a schedule refined
from a run that was warmed up has the effects of that warm-up in it.

The smoothed norms $\\hat{G}_t$ give $w_t = \\hat{G}_t^{-p}$, with $p = 2$ and the norm $\\|\\cdot\\|_2$ for SGD,
$p = 1$ and $\\|\\cdot\\|_1$ for Adam and its kin. By the theorem in `lemmata.optim.schedules.bounds`, the learning
rates are $\\eta_t \\propto w_t \\sum_{s > t} w_s$.

References:
    A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, When, Why and How Much? Adaptive Learning Rate
    Scheduling by Refinement, 2023, arXiv:2310.07831, Algorithm 1.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

__all__ = ["fit_polynomial", "refine_schedule"]


def refine_schedule(
    norms: Shaped[Tensor, "..."],
    *,
    p: Literal[1, 2] = 2,
    smoothing: float = 0.1,
    weights: Shaped[Tensor, "..."] | None = None,
    total_steps: int | None = None,
) -> Float[Tensor, " steps"]:
    r"""Return the schedule that a run's gradient norms ask for, to be used by the next run.

    Norms are smoothed by a median filter of width $2 \lfloor \tau T / 2 \rfloor + 1$, which repeats the first
    value before the start and reflects the sequence at its end (the last value twice), then raised to the
    power $-p$. The result is the same for `c * norms` with any `c > 0`. The base learning rate that it
    multiplies still has to be chosen; the one of the recorded run is a good start.

    The last value is 0: the last step of a run that follows it to the end moves nothing.

    Args:
        norms: Gradient norm of every step, `(recorded,)`, as from `GradientNormRecorder.norms`.
        p: Which norms they are, and the power: 2 for SGD (Euclidean norms), 1 for Adam-like optimisers (sums
            of magnitudes).
        smoothing: Width $\tau$ of the median filter as a fraction of the recording; 0.1 is the paper's.
        weights: Factors on $\hat{G}_t^{-p}$, one for each recorded norm, for iterates that should count more;
            equal where `None`.
        total_steps: Number of steps of the next run, the recording's where `None`; another number
            interpolates the smoothed norms linearly.

    Returns:
        Multipliers in `[0, 1]`, float64 on the CPU, the largest of which is 1.

    Raises:
        ValueError: Where norms are empty, or not positive and finite, naming the first; where `smoothing` is not
            in (0, 1), `p` not 1 or 2, `weights` of another shape, or there would be fewer than 2 steps.

    Examples:
        >>> refine_schedule(torch.ones(5))  # constant norms: linear decay
        tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000], dtype=torch.float64)
        >>> falling = torch.logspace(0, -1, 100)  # falling norms: warm-up
        >>> schedule = refine_schedule(falling)
        >>> float(schedule[0]) < 0.05, int(schedule.argmax())
        (True, 84)
    """
    raise NotImplementedError


def fit_polynomial(schedule: Shaped[Tensor, "..."]) -> tuple[float, float]:
    r"""Return the warm-up fraction and the power of the polynomial decay nearest to a schedule."""
    raise NotImplementedError
