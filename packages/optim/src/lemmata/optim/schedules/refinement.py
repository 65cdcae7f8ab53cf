r"""A schedule for the next run from the gradient norms of the last one.

Where gradient norms are constant the best schedule is linear decay. Where they are not, steps should be
longer while gradients are small: refinement turns the recorded norms $G_t$ into weights and these into
learning rates, which gives warm-up where norms fall at the start and fast annealing where they rise at the
end, with nothing to tune. Record the norms of a run under linear decay without warm-up: a schedule refined
from a run that was warmed up has the effects of that warm-up in it.

The smoothed norms $\hat{G}_t$ give $w_t = \hat{G}_t^{-p}$, with $p = 2$ and the norm $\|\cdot\|_2$ for SGD,
$p = 1$ and $\|\cdot\|_1$ for Adam and its kin. By the theorem in `lemmata.optim.schedules.bounds`, the
learning rates are $\eta_t \propto w_t \sum_{s > t} w_s$.

References:
    A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, When, Why and How Much? Adaptive Learning Rate
    Scheduling by Refinement, 2023, arXiv:2310.07831, Algorithm 1.
"""

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

__all__ = ["fit_polynomial", "refine_schedule"]

FIT_POINTS = 512
"""Number of points on which `fit_polynomial` compares a longer schedule."""


def refine_schedule(
    norms: Shaped[Tensor, "..."],
    *,
    p: int = 2,
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
        ValueError: Where norms are empty, or not positive and finite, naming the first; where `smoothing` is
            not in (0, 1), `p` not 1 or 2, `weights` of another shape, or there would be fewer than 2 steps.

    Examples:
        >>> refine_schedule(torch.ones(5))  # constant norms: linear decay
        tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000], dtype=torch.float64)
        >>> falling = torch.logspace(0, -1, 100)  # falling norms: warm-up
        >>> schedule = refine_schedule(falling)
        >>> float(schedule[0]) < 0.05, int(schedule.argmax())
        (True, 84)
    """
    if p not in {1, 2}:
        raise ValueError(f"`p` (={p}) must be 1 or 2")
    if not 0 < smoothing < 1:
        raise ValueError(f"`smoothing` (={smoothing:g}) must lie in (0, 1)")
    norms = check_positive("norms", norms)
    factors = torch.ones_like(norms) if weights is None else check_positive("weights", weights)
    if len(factors) != len(norms):
        raise ValueError(f"`weights` must have {len(norms)} entries as `norms` has, not {len(factors)}")
    steps = len(norms) if total_steps is None else total_steps
    if steps < 2:
        raise ValueError(f"the schedule must have at least 2 steps, not {steps}")
    width = 2 * math.floor(smoothing * len(norms) / 2) + 1
    smooth = _interpolate(median_filter(norms / norms.max(), width), steps)
    log_weights = _interpolate(factors / factors.max(), steps).log() - p * smooth.log()
    base = (log_weights - log_weights.max()).exp()  # only ratios matter, and powers of a wide range overflow
    schedule = weights_to_steps(base)
    return schedule / schedule.max()


def fit_polynomial(schedule: Shaped[Tensor, "..."]) -> tuple[float, float]:
    r"""Return the warm-up fraction and the power of the polynomial decay nearest to a schedule.

    With $u \in [0, 1]$ the position from the first value to the last, the family is

    $$u / \omega \quad (u < \omega), \qquad \Big( \frac{1 - u}{1 - \omega} \Big)^q \quad (u \ge \omega),$$

    nearest in mean square once the schedule's largest value is 1. Two numbers to carry to runs of any length.

    Args:
        schedule: Non-negative values, `(steps,)`, as from `refine_schedule`.

    Returns:
        The warm-up fraction $\omega \in [0, 1)$ and the power $q \in [1/16, 16]$.

    Raises:
        ValueError: Where there are fewer than 3 values, one is negative or not finite, or all are zero.

    Examples:
        >>> warmup_fraction, power = fit_polynomial(torch.linspace(1, 0, 100) ** 1.5)
        >>> f"{warmup_fraction:.3f} {power:.3f}"
        '0.000 1.500'
    """
    values = torch.as_tensor(schedule).detach().to("cpu", torch.float64)
    if values.ndim != 1 or len(values) < 3:
        raise ValueError(
            f"`schedule` must have one axis and at least 3 entries, its shape is {tuple(values.shape)}"
        )
    wrong = ~(values.isfinite() & (values >= 0))
    if wrong.any() or not values.any():
        raise ValueError("`schedule` must have finite, non-negative entries, not all of them zero")
    values = _interpolate(values / values.max(), min(len(values), FIT_POINTS))
    # A grid, and again one around its best point: the error has kinks in the warm-up fraction, where
    # gradients mislead, and a few minima, which the first grid tells apart.
    warmup_range, power_range = (0.0, 1.0 - 1e-9), (-4.0, 4.0)
    for _ in range(16):
        warmups = torch.linspace(*warmup_range, 33, dtype=torch.float64)
        log_powers = torch.linspace(*power_range, 33, dtype=torch.float64)
        error = _polynomial(warmups[:, None, None], log_powers[:, None].exp2(), len(values)).sub_(values)
        best = int(error.square_().mean(-1).argmin())
        warmup, log_power = float(warmups[best // 33]), float(log_powers[best % 33])
        warmup_range = _around(warmup, warmup_range, 0.0, 1.0 - 1e-9)
        power_range = _around(log_power, power_range, -4.0, 4.0)
    return warmup, 2.0**log_power


def _around(centre: float, interval: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Return an interval a third as long around a point, within ends."""
    reach = (interval[1] - interval[0]) / 6
    return max(centre - reach, low), min(centre + reach, high)


def _polynomial(
    warmup: Float[Tensor, "warmup 1 1"], power: Float[Tensor, "power 1"], steps: int
) -> Float[Tensor, "warmup power steps"]:
    """Return polynomial decays with warm-up on evenly spaced points."""
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    decay = ((1 - u) / (1 - warmup)).clamp(0, 1) ** power
    rise = (u / warmup.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
    return torch.where(u < warmup, rise, decay)


def check_positive(name: str, values: Shaped[Tensor, "..."]) -> Float[Tensor, " steps"]:
    """Return one-dimensional, positive, finite values in float64 on the CPU, or raise ValueError."""
    checked = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if checked.ndim != 1 or not len(checked):
        raise ValueError(
            f"`{name}` must have one axis and at least one entry, its shape is {tuple(checked.shape)}"
        )
    wrong = ~(checked.isfinite() & (checked > 0))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"`{name}` must be positive and finite; the first that is not is number {first} "
            f"(={float(checked[first]):g})"
        )
    return checked


def median_filter(values: Float[Tensor, " steps"], width: int) -> Float[Tensor, " steps"]:
    """Return the median of every window of odd width, less than twice the length, around its centre.

    The first value is repeated before the start, and the sequence reflected at its end: `c b a` follows
    `a b c`. This is `scipy.ndimage.median_filter` with `mode="nearest"` at one end and `mode="reflect"` at
    the other.

    A wavelet tree answers all windows at once: from the highest bit of the ranks to the lowest, count how
    many of a window's ranks have a zero there, go to the half that holds the median, and sort the ranks
    stably by that bit. `O(n log n)` for any width.
    """
    half = width // 2
    padded = torch.cat([values[:1].expand(half), values, values[len(values) - half :].flip(0)])
    ordered, order = padded.sort()
    ranks = order.argsort()
    first = torch.arange(len(values))
    last = first + width  # each window is ranks[first:last]
    wanted = torch.full_like(first, half)
    median = torch.zeros_like(first)
    for bit in reversed(range(len(padded).bit_length())):
        is_zero = (ranks >> bit) & 1 == 0
        zeros = _count_before(is_zero)
        first_zero, last_zero = zeros[first], zeros[last]
        in_window = last_zero - first_zero
        above = wanted >= in_window
        median += above.long() << bit
        wanted = torch.where(above, wanted - in_window, wanted)
        first = torch.where(above, zeros[-1] + first - first_zero, first_zero)
        last = torch.where(above, zeros[-1] + last - last_zero, last_zero)
        ranks = torch.cat([ranks[is_zero], ranks[~is_zero]])
    return ordered[median]


def _count_before(flags: Bool[Tensor, " n"]) -> Int[Tensor, " n_plus_1"]:
    """Return how many flags are set before each position, the end included."""
    return torch.cat([flags.new_zeros(1, dtype=torch.long), flags.cumsum(0)])


def weights_to_steps(weights: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """Return `w_t * sum_{s > t} w_s`, exactly zero for the last."""
    after = torch.cat([weights[1:].flip(0).cumsum(0).flip(0), weights.new_zeros(1)])
    return weights * after


def _interpolate(values: Float[Tensor, " n"], steps: int) -> Float[Tensor, " steps"]:
    """Return values at evenly spaced positions from the first to the last."""
    if steps == len(values):
        return values
    return torch.nn.functional.interpolate(values[None, None], size=steps, mode="linear", align_corners=True)[
        0, 0
    ]
