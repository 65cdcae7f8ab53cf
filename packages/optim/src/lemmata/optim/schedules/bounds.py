r"""What convex theory says of the last iterate of stochastic gradient descent, for any schedule.

$x_{t+1} = x_t - \eta_t g_t$ on a convex $f$, $E g_t$ a subgradient at $x_t$, $E \|g_t\|^2 = G_t^2$, and
$D = \|x_1 - x_*\|$. With $S_k = \sum_{t \ge k} \eta_t$ and $Q_k = \sum_{t \ge k} \eta_t^2 G_t^2$,

$$E f(x_T) - f_* \le B = \frac{D^2}{2 S_1} + \frac{Q_1}{2 S_1}
+ \frac12 \sum_{k=1}^{T-1} \frac{\eta_k Q_k}{S_{k+1} S_k} .$$

The proof is short. The tail averages $a_k = S_k^{-1} \sum_{t \ge k} \eta_t f(x_t)$ satisfy
$a_{k+1} = a_k + \eta_k (a_k - f(x_k)) / S_{k+1}$, so that $f(x_T) = a_T$ is $a_1$ plus the sum of these
terms; the regret bound from $x_k$ on, against the point $x_k$ itself, gives $a_k - f(x_k) \le Q_k / (2 S_k)$,
and against $x_*$ it gives $a_1 - f_* \le (D^2 + Q_1) / (2 S_1)$.

For learning rates of the form $\eta_t = w_t \sum_{s > t} w_s / \sum_s w_s$ there is the sharper
$(D^2 + \sum_t w_t^2 G_t^2) / (2 \sum_t w_t)$, least for $w_t = D G_t^{-2} / \sqrt{\sum_s G_s^{-2}}$, where
it is $D / \sqrt{\sum_s G_s^{-2}}$: that is what `lemmata.optim.refine_schedule` uses. On linear decay and
constant norms the sharper bound is $D G / \sqrt{T}$, and $B$, which holds for any schedule, about twice that.

Both need learning rates fixed beforehand: norms recorded in one run are for the next.

References:
    A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, When, Why and How Much? Adaptive Learning Rate
    Scheduling by Refinement, 2023, arXiv:2310.07831.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lemmata.optim.schedules.refinement import check_positive, weights_to_steps

__all__ = ["last_iterate_bound", "optimal_schedule"]


def last_iterate_bound(
    lrs: Shaped[Tensor, "..."], norms: Shaped[Tensor, "..."], distance: float | Tensor
) -> Float[Tensor, ""]:
    r"""Return the bound $B$ on the expected suboptimality of SGD's last iterate.

    The last learning rate comes after the iterate that is bounded: it does not move $x_T$, and any positive
    value in its place gives a valid bound. So where a schedule ends in zeros, the iterate is the one that its
    last positive step leads to, and the zero after it is replaced by that step; otherwise the bound would be
    infinite for linear decay. In $O(T)$, differentiable in the learning rates.

    Args:
        lrs: Learning rates, not multipliers, `(steps,)`.
        norms: Euclidean norms of the gradients, `(steps,)`: bounds on them, or root mean squares.
        distance: Distance of the first iterate from a minimiser.

    Returns:
        The bound, in the units of the function, float64; infinite where all learning rates are zero.

    Raises:
        ValueError: Where shapes differ, learning rates are negative or not finite, norms not positive and
            finite, or the distance is not positive.

    Examples:
        >>> steps = torch.arange(100)
        >>> norms, distance = torch.ones(100), 1.0
        >>> flat, linear = torch.full((100,), 0.1), 0.1 * (1 - steps / 100)
        >>> round(float(last_iterate_bound(flat, norms, distance)), 3)
        0.359
        >>> round(float(last_iterate_bound(linear, norms, distance)), 3)
        0.204
    """
    G = check_positive("norms", norms)
    eta = torch.as_tensor(lrs).to("cpu", torch.float64)
    if eta.shape != G.shape:
        raise ValueError(f"`lrs` must have {len(G)} entries as `norms` has, its shape is {tuple(eta.shape)}")
    wrong = ~(eta.isfinite() & (eta >= 0))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"`lrs` must lie in [0, inf); the first that does not is number {first} (={float(eta[first]):g})"
        )
    moving = eta.detach().nonzero()
    if not len(moving):
        return eta.sum() + torch.inf
    last = int(moving[-1])
    if last < len(eta) - 1:
        eta = torch.cat([eta[: last + 1], eta[last : last + 1]])
    constant, linear = _terms(eta, G[: len(eta)])
    return constant * _squared_distance(distance) + linear


def optimal_schedule(norms: Shaped[Tensor, "..."], distance: float | Tensor) -> Float[Tensor, " steps"]:
    r"""Return the learning rates that minimise `last_iterate_bound`, found by L-BFGS.

    A reference for how much is left to gain over linear decay and over the closed form of refinement, rather
    than a schedule for training. The search is over $\log \eta_t$ from the better of those two, on
    $B$ minimised over a common factor in closed form, so that it is never worse than either.

    Args:
        norms: Euclidean norms of the gradients, `(steps,)`.
        distance: Distance of the first iterate from a minimiser.

    Returns:
        Learning rates, float64; the last one is 0, as it does not move the last iterate.

    Raises:
        ValueError: Where there are fewer than 2 norms, one is not positive and finite, or the distance is not
            positive.

    Examples:
        >>> from lemmata.optim.schedules import refine_schedule
        >>> norms = torch.linspace(1, 3, 50)
        >>> refined = refine_schedule(norms, smoothing=0.01)
        >>> bounds = [last_iterate_bound(lr * refined, norms, 1.0) for lr in (0.05, 0.1, 0.2)]
        >>> bool(last_iterate_bound(optimal_schedule(norms, 1.0), norms, 1.0) < min(bounds))
        True
    """
    G = check_positive("norms", norms)
    if len(G) < 2:
        raise ValueError("`norms` must have at least 2 entries, not 1")
    D = _squared_distance(distance).sqrt()
    scale = G.median()
    G = G / scale  # of order one, as the logarithms of the learning rates then are
    starts = [weights_to_steps(weights)[:-1] for weights in (torch.ones_like(G), G**-2)]
    best = min((_descend(start.log(), G) for start in starts), key=lambda found: found[0])
    log_steps = torch.cat([best[1], best[1][-1:]])
    constant, linear = _terms(log_steps.exp(), G)
    steps = (log_steps + 0.5 * (constant / linear).log()).exp() * D / scale
    return torch.cat([steps[:-1], steps.new_zeros(1)])


def _terms(eta: Float[Tensor, " steps"], G: Float[Tensor, " steps"]) -> tuple[Tensor, Tensor]:
    """Return the bound's factor of `D^2`, of degree -1 in the learning rates, and the rest, of degree 1."""
    S = eta.flip(0).cumsum(0).flip(0)
    Q = (eta * G).square().flip(0).cumsum(0).flip(0)
    rest = Q[0] / (2 * S[0]) + 0.5 * (eta[:-1] * Q[:-1] / (S[1:] * S[:-1])).sum()
    return 1 / (2 * S[0]), rest


def _descend(log_steps: Float[Tensor, " moves"], G: Float[Tensor, " steps"]) -> tuple[float, Tensor]:
    """Return the least value found from a start, of `log(B^2 / 4 D^2)` at the best factor, and where."""
    x = log_steps.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [x],
        max_iter=500,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        constant, linear = _terms(torch.cat([x, x[-1:]]).exp(), G)
        return constant.log() + linear.log()

    def closure() -> Tensor:
        x.grad = None
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        search.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float(objective()), x.detach()


def _squared_distance(distance: float | Tensor) -> Tensor:
    D = torch.as_tensor(distance, dtype=torch.float64, device="cpu")
    if D.numel() != 1 or not bool(D.isfinite() & (D > 0)):
        raise ValueError(f"`distance` (={distance}) must lie in (0, inf)")
    return D.reshape(()).square()
