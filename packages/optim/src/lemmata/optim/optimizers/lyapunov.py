r"""The Lyapunov function of Lion-K, and the differential equation whose steps its updates are.

Lion-K with step `lr`, decay `weight_decay` and `betas` is Euler's method, with step `lr`, for

$$\dot m = -a \nabla f(x) - c\, m, \qquad
\dot x = \partial\kappa\big(m - e\,(a \nabla f(x) + c\, m)\big) - L x,$$

$$a = c = \frac{1 - \beta_2}{\mathrm{lr}}, \qquad e = \mathrm{lr}\, \frac{1 - \beta_1}{1 - \beta_2}, \qquad
L = \mathrm{weight\_decay},$$

so that always $e c = 1 - \beta_1 \le 1$. Outside of the constraint set the distance of $L x$ to the domain of
$\kappa^*$ shrinks at least as fast as $\exp(-L t)$. Inside,

$$H(x, m) = a f(x) + \frac cL \kappa^*(L x)
+ \frac{1 - e c}{1 + e L} \big[\kappa^*(L x) + \kappa(m) - L \langle m, x \rangle\big]$$

never increases along the flow. The bracket is not negative (Fenchel and Young) and vanishes at rest, where
$x$ minimises $a f(x) + \frac cL \kappa^*(L x)$. A step of finite length changes $H$ by terms of order
$\mathrm{lr}^2$ besides, which may increase it.

References:
    L. Chen, B. Liu, K. Liang, Q. Liu, Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts,
    ICLR 2024, arXiv:2310.05898.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.optim.optimizers.base import check_range
from lemmata.optim.optimizers.kappa import check_kappa

__all__ = ["Flow", "flow_of", "lyapunov"]


class Flow(NamedTuple):
    """Coefficients of the differential equation, under the names `lyapunov` takes them by."""

    alpha: float
    """$a$, the rate at which gradients enter the momentum."""
    gamma: float
    """$c$, the rate at which the momentum forgets."""
    eps: float
    """$e$, the time by which the step looks ahead of the momentum."""
    lam: float
    """$L$, the decay."""


def flow_of(*, lr: float, betas: tuple[float, float], weight_decay: float) -> Flow:
    """Return the coefficients of the differential equation that Lion-K's options stand for.

    Args:
        lr: The step.
        betas: The decays of the interpolation and of the momentum.
        weight_decay: The weight decay.

    Returns:
        The coefficients.

    Raises:
        ValueError: Where an option is out of range.

    Examples:
        >>> flow_of(lr=0.125, betas=(0.5, 0.75), weight_decay=0.5)
        Flow(alpha=2.0, gamma=2.0, eps=0.25, lam=0.5)
    """
    check_range("lr", lr, 0, open_low=True)
    check_range("betas[0]", betas[0], 0, 1)
    check_range("betas[1]", betas[1], 0, 1)
    check_range("weight_decay", weight_decay, 0)
    rate = (1 - betas[1]) / lr
    return Flow(alpha=rate, gamma=rate, eps=lr * (1 - betas[0]) / (1 - betas[1]), lam=weight_decay)


@torch.no_grad()
def lyapunov(
    f_value: float | Float[Tensor, ""],
    params: Sequence[Tensor],
    momenta: Sequence[Tensor],
    kappa: Any,
    *,
    alpha: float,
    gamma: float,
    eps: float,
    lam: float,
) -> Float[Tensor, ""]:
    r"""Return $H(x, m)$, which Lion-K decreases once its parameters are within their constraint.

    Use it to watch a run with a full gradient, or to look for a step that is too long. The momenta are those
    of the state's `momentum_buffer`, minus an average of gradients. Where groups differ in kappa or decay,
    add up their values, one of them with the loss and the others with a loss of 0.

    Args:
        f_value: The loss $f(x)$.
        params: The parameters.
        momenta: Their momenta, of the same shapes.
        kappa: The `Kappa` they move by.
        alpha: $a$; see `flow_of` for it and the others.
        gamma: $c$.
        eps: $e$, at most $1/c$.
        lam: $L$, the weight decay.

    Returns:
        The value, in the dtype of the parameters but at least float32; infinite outside of the constraint.

    Raises:
        ValueError: Where `lam` is zero, a coefficient out of range, or params and momenta differ in length.
        TypeError: Where `kappa` lacks a method.

    Examples:
        >>> from lemmata.optim.optimizers.kappa import L1
        >>> x, m = torch.tensor([0.5, -1.0]), torch.tensor([0.2, 0.1])
        >>> lyapunov(3.0, [x], [m], L1(), alpha=1.0, gamma=1.0, eps=0.1, lam=1.0)
        tensor(3.2455)
    """
    check_kappa(kappa)
    check_range("alpha", alpha, 0)
    check_range("gamma", gamma, 0)
    check_range("eps", eps, 0)
    check_range("lam", lam, 0)
    if lam == 0:
        raise ValueError("`lam` (=0) must be positive: there is no constraint without decay")
    # Rounding of a product of the two fields of `flow_of` is forgiven.
    if eps * gamma > 1 + 1e-12:
        raise ValueError(f"`eps` * `gamma` (={eps * gamma:g}) must lie in [0, 1]")
    if len(params) != len(momenta):
        raise ValueError(
            f"there are {len(params)} `params` but {len(momenta)} `momenta`; one each is expected"
        )
    conjugate, bracket = 0.0, 0.0
    for param, momentum in zip(params, momenta, strict=True):
        dtype = torch.promote_types(param.dtype, torch.float32)
        scaled, m = lam * param.to(dtype), momentum.to(dtype)
        penalty = kappa.conjugate(scaled)
        conjugate = conjugate + penalty
        bracket = bracket + penalty + kappa.value(m) - torch.sum(m * scaled)
    value = alpha * f_value + gamma / lam * conjugate + (1 - eps * gamma) / (1 + eps * lam) * bracket
    return torch.as_tensor(value)
