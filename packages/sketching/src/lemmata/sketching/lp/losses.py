r"""Losses of robust regression, as primal and dual methods need them.

A regression minimises $\sum_i w_i\, \rho(r_i)$ with $r = b - A x$. For any vector $\eta$ with
$A^\top (w \eta) = 0$ the sums $\sum_i w_i r_i \eta_i$ and $\sum_i w_i |\eta_i|^q$ (for $p = 1$ and for
Huber's loss also $\max_i |\eta_i|$) give a lower bound of the minimum, whatever $\eta$ is: `dual_value` takes
the best multiple of $\eta$. With $q = p / (p - 1)$,

$$\min_x \sum_i w_i |r_i|^p \ge
\left( \frac{\sum_i w_i r_i \eta_i}{(\sum_i w_i |\eta_i|^q)^{1/q}} \right)^p, \qquad
\min_x \sum_i w_i \rho_\delta(r_i) \ge \max_{t \max_i |\eta_i| \le \delta}
t \sum_i w_i r_i \eta_i - \frac{t^2}{2} \sum_i w_i \eta_i^2 .$$

The minimum itself is reached by $\eta = \rho'(r)$ at the best x.

References:
    P. J. Huber, "Robust estimation of a location parameter", 1964.
    T. F. Chan, G. H. Golub, P. Mulet, "A nonlinear primal-dual method for total variation-based image
    restoration", 1999: the smoothing.

Axis letters: n rows.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["HuberLoss", "PowerLoss", "huber_weights", "lp_weights"]


def lp_weights(residual: Float[Tensor, "..."], p: float, mu: float = 0.0) -> Float[Tensor, "..."]:
    r"""Return the weights $(r^2 + \mu^2)^{p/2 - 1}$ of iteratively reweighted least squares for $|r|^p / p$.

    Args:
        residual: Residuals r, any shape.
        p: Exponent, at least 1.
        mu: Smoothing, in the unit of the residuals. For p < 2 and `mu` 0 a residual of 0 has the weight inf.

    Examples:
        >>> lp_weights(torch.tensor([0.0, 3.0]), 1.0, mu=4.0)
        tensor([0.2500, 0.2000])
    """
    if mu == 0:  # the square would underflow first
        return residual.abs() ** (p - 2)
    return torch.hypot(residual, torch.full_like(residual, mu)) ** (p - 2)


def huber_weights(residual: Float[Tensor, "..."], delta: float) -> Float[Tensor, "..."]:
    r"""Return the weights $\min(1, \delta / |r|)$ of iteratively reweighted least squares for Huber's loss.

    Examples:
        >>> huber_weights(torch.tensor([0.0, -0.5, 4.0]), 1.0)
        tensor([1.0000, 1.0000, 0.2500])
    """
    return delta / residual.abs().clamp(min=delta)


@dataclass(frozen=True)
class PowerLoss:
    r"""$|r|^p$; its gradient is taken without the factor p.

    Args:
        p: Exponent, $1 \le p < \infty$.

    Raises:
        ValueError: Where `p` is not such a number.

    Examples:
        >>> PowerLoss(3.0).value(torch.tensor([-2.0, 1.0]))
        tensor([8., 1.])
    """

    p: float

    def __post_init__(self) -> None:
        """Check the exponent."""
        if not 1 <= self.p < math.inf:
            raise ValueError(f"`p` (={self.p}) must lie in [1, inf): use p >= 1 finite")

    @property
    def dual_exponent(self) -> float:
        """The exponent q of the dual norm, 1/p + 1/q = 1."""
        return math.inf if self.p == 1 else self.p / (self.p - 1)

    def relative_to(self, unit: float) -> "PowerLoss":
        """Return the loss of residuals measured in `unit`, its p-th power the factor left out: itself."""
        del unit
        return self

    def value(self, residual: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the loss of each residual."""
        return residual.abs() ** self.p

    def weights(self, residual: Float[Tensor, "..."], mu: float = 0.0) -> Float[Tensor, "..."]:
        """Return the weights of iteratively reweighted least squares; `mu` smooths them where p < 2."""
        return lp_weights(residual, self.p, mu if self.p < 2 else 0.0)

    def curvatures(self, residual: Float[Tensor, " n"], mu: float = 0.0) -> Float[Tensor, "h n"]:
        """Return the derivative of `weights(r) r`, the second derivative of the smoothed loss: h is 1."""
        weights: Tensor = self.weights(residual, mu)
        if self.p >= 2 or mu == 0:
            return (self.p - 1) * weights[None]
        share = torch.square(residual / torch.hypot(residual, torch.full_like(residual, mu)))
        curvature: Tensor = (1 + (self.p - 2) * share) * weights
        return curvature[None]

    def dual_value(self, linear: Tensor, log_size: Tensor, peak: Tensor) -> Tensor:
        """Return the lower bound that a dual vector's sums give, never below 0."""
        log_norm = peak.log() if self.p == 1 else log_size / self.dual_exponent
        return torch.where(linear > 0, (self.p * (linear.clamp(min=1e-300).log() - log_norm)).exp(), 0.0)

    def radius(self, cost: Tensor, rows: int) -> Tensor:
        r"""Return a bound of $\|w^{1/p} (r - r^*)\|_2$, where r costs `cost` and the best r* no more."""
        reach: Tensor = 2 * float(rows) ** max(0.0, 0.5 - 1 / self.p) * cost ** (1 / self.p)
        return reach

    def radius_weights(self, weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the weights of squares under which `radius` holds."""
        return weights ** (2 / self.p)


@dataclass(frozen=True)
class HuberLoss:
    r"""$r^2/2$ where $|r| \le \delta$, and $\delta |r| - \delta^2/2$ beyond.

    Args:
        delta: Where squares end, in the unit of the residuals, positive.

    Raises:
        ValueError: Where `delta` is not a positive finite number.

    Examples:
        >>> HuberLoss(1.0).value(torch.tensor([-0.5, 3.0]))
        tensor([0.1250, 2.5000])
    """

    delta: float

    dual_exponent = 2.0

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 < self.delta < math.inf:
            raise ValueError(f"`delta` (={self.delta}) must lie in (0, inf)")

    def relative_to(self, unit: float) -> "HuberLoss":
        """Return the loss of residuals measured in `unit`, its square the factor left out."""
        return HuberLoss(min(max(self.delta / unit, 1e-300), 1e300))

    def value(self, residual: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the loss of each residual."""
        size = residual.abs()
        inner = size.clamp(max=self.delta)
        return inner * (size - inner / 2)

    def weights(self, residual: Float[Tensor, "..."], mu: float = 0.0) -> Float[Tensor, "..."]:
        """Return the weights of iteratively reweighted least squares; this loss needs no smoothing `mu`."""
        del mu
        return huber_weights(residual, self.delta)

    def curvatures(self, residual: Float[Tensor, " n"], mu: float = 0.0) -> Float[Tensor, "h n"]:
        r"""Return two: 1 where the loss is a square, and there $1 - (r / \delta)^2$, 0 elsewhere.

        The first makes Newton's step. The second leaves a dual vector in its bounds, since a residual next to
        the threshold has no room to move, and so makes the better bound.
        """
        del mu
        room = 1 - torch.square(residual / self.delta)
        return torch.stack(((room >= 0).to(residual.dtype), room.clamp(min=0)))

    def dual_value(self, linear: Tensor, log_size: Tensor, peak: Tensor) -> Tensor:
        """Return the lower bound that a dual vector's sums give, never below 0."""
        size = log_size.exp()
        multiple = torch.minimum(linear.clamp(min=0) / size, self.delta / peak)
        return torch.where(linear > 0, multiple * linear - multiple**2 * size / 2, 0.0)

    def radius(self, cost: Tensor, rows: int) -> Tensor:
        r"""Return a bound of $\|\min(w, w^2)^{1/2} (r - r^*)\|_2$, where r costs `cost` and r* no more.

        Residuals up to $\delta$ have $\sum w r^2 \le 2 C$, those beyond $\sum w |r| \le 2 C / \delta$.
        """
        del rows
        return 2 * ((2 * cost).sqrt() + 2 * cost / self.delta)

    def radius_weights(self, weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the weights of squares under which `radius` holds."""
        return torch.minimum(weights, weights**2)
