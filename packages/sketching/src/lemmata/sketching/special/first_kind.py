r"""Logarithms of modified Bessel functions of the first kind, and their ratio.

$I_v(x)$ overflows for arguments above 700 and underflows for orders beyond the argument, where statistics on
spheres and circles in high dimension need them. Their logarithms do neither. Equals
`log(scipy.special.ive(v, x)) + x` wherever that is finite.

Outside the quarter disc $s = \sqrt{v^2 + x^2} < 25$ one uniform expansion serves every order and argument;
inside it the power series does, whose terms are all positive.

References:
    "Accurate computation of the logarithm of modified Bessel functions", of which this is a simplification:
    one expansion in s in place of a table of regions.
"""

import math

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from lemmata.sketching.special.debye import around_disc, debye_sum, slope_sum
from lemmata.sketching.special.elementwise import evaluate

__all__ = ["iv_ratio", "log_iv", "log_iv_over_power", "log_ive", "rising_ratio"]

_SERIES_TERMS = 63


def log_iv(
    v: Shaped[Tensor, "..."] | float, x: Shaped[Tensor, "..."] | float, *, validate: bool = True
) -> Float[Tensor, "..."]:
    r"""Return $\log I_v(x)$, the logarithm of the modified Bessel function of the first kind.

    The error is a few times the rounding of $\max(s, |\log I_v(x)|)$. Differentiable in both inputs, any
    number of times.

    Args:
        v: Orders, not negative; broadcast against `x`.
        x: Arguments, not negative.
        validate: Check the ranges, which waits for an accelerator.

    Returns:
        Values; -inf at `x` = 0 for positive orders, and 0 for order 0.

    Raises:
        TypeError: Where an input is an integer or complex tensor.
        ValueError: Where an order or an argument is negative.

    Examples:
        >>> log_iv(torch.tensor([0.5, 1000.0]), torch.tensor([1.0, 1.0], dtype=torch.float64))
        tensor([-6.4352e-02, -6.6053e+03], dtype=torch.float64)
    """
    return evaluate(_log_iv, _log_iv_slope, v, x, signed_order=False, validate=validate)


def log_ive(
    v: Shaped[Tensor, "..."] | float, x: Shaped[Tensor, "..."] | float, *, validate: bool = True
) -> Float[Tensor, "..."]:
    r"""Return $\log I_v(x) - x$, the logarithm of the exponentially scaled function.

    Computed without the subtraction, so that it keeps its digits where `x` is far above the order.

    Args:
        v: Orders, not negative; broadcast against `x`.
        x: Arguments, not negative.
        validate: Check the ranges, which waits for an accelerator.

    Returns:
        Values.

    Raises:
        TypeError: Where an input is an integer or complex tensor.
        ValueError: Where an order or an argument is negative.

    Examples:
        >>> log_ive(torch.tensor(0.0), torch.tensor(1e6))
        tensor(-7.8267)
    """
    return evaluate(_log_ive, _log_ive_slope, v, x, signed_order=False, validate=validate)


def iv_ratio(
    v: Shaped[Tensor, "..."] | float, x: Shaped[Tensor, "..."] | float, *, validate: bool = True
) -> Float[Tensor, "..."]:
    r"""Return $I_{v+1}(x) / I_v(x)$, in [0, 1], to full relative accuracy.

    With $v = p/2 - 1$ it is the mean resultant length of a von Mises-Fisher distribution on the sphere in p
    dimensions with concentration `x`.

    Args:
        v: Orders, not negative; broadcast against `x`.
        x: Arguments, not negative.
        validate: Check the ranges, which waits for an accelerator.

    Returns:
        Ratios.

    Raises:
        TypeError: Where an input is an integer or complex tensor.
        ValueError: Where an order or an argument is negative.

    Examples:
        >>> iv_ratio(torch.tensor(0.5), torch.tensor(2.0))  # coth(2) - 1/2
        tensor(0.5373)
    """
    return evaluate(_ratio, None, v, x, signed_order=False, validate=validate)


def log_iv_over_power(
    v: Shaped[Tensor, "..."] | float, x: Shaped[Tensor, "..."] | float, *, validate: bool = True
) -> Float[Tensor, "..."]:
    r"""Return $\log (I_v(x) / x^v)$, which is regular at zero: there $-v \log 2 - \log \Gamma(v + 1)$.

    Args:
        v: Orders, not negative; broadcast against `x`.
        x: Arguments, not negative.
        validate: Check the ranges, which waits for an accelerator.

    Returns:
        Values.

    Raises:
        TypeError: Where an input is an integer or complex tensor.
        ValueError: Where an order or an argument is negative.

    Examples:
        >>> log_iv_over_power(torch.tensor(0.0), torch.tensor(0.0))
        tensor(0.)
    """
    return evaluate(_over_power, _ratio_of, v, x, signed_order=False, validate=validate)


def _log_iv(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    value = around_disc(
        v,
        x,
        lambda v, x: torch.xlogy(v, x / 2) - torch.lgamma(v + 1) + torch.log1p(_series(v, x)),
        _log_iv_outside,
    )
    return torch.where(x == math.inf, x, value)


def _log_iv_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    return s - v * rising_ratio(v, x) + _prefactor(v, s)


def _log_ive(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    value = around_disc(
        v,
        x,
        lambda v, x: torch.xlogy(v, x / 2) - torch.lgamma(v + 1) + torch.log1p(_series(v, x)) - x,
        _log_ive_outside,
    )
    return torch.where(x == math.inf, -x, value)


def _log_ive_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    # s - x = v^2 / (s + x), without the cancellation.
    return v * (v / (s + x)) - v * rising_ratio(v, x) + _prefactor(v, s)


def _over_power(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    return around_disc(
        v,
        x,
        lambda v, x: -v * math.log(2) - torch.lgamma(v + 1) + torch.log1p(_series(v, x)),
        _over_power_outside,
    )


def _over_power_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    # v asinh(v / x) + v log x = v log(v + s).
    return s - v * torch.log(v + s) + _prefactor(v, s)


def _prefactor(v: Tensor, s: Tensor) -> Tensor:
    """Return what follows the leading terms of the expansion."""
    return torch.log1p(debye_sum((v / s) ** 2, s)) - 0.5 * torch.log(2 * math.pi * s)


def rising_ratio(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    r"""Return $\operatorname{asinh}(v / x)$, also where the quotient overflows."""
    steep = x < v * 1e-100
    ratio = v / torch.where(steep, 1.0, x)
    logarithm = torch.log(torch.where(steep, v, 1.0)) + math.log(2) - torch.log(torch.where(steep, x, 1.0))
    return torch.where(steep, logarithm, torch.asinh(ratio))


def _series(v: Tensor, x: Tensor) -> Tensor:
    r"""Return $\sum_{k \ge 1} \prod_{j \le k} \frac{x^2 / 4}{j (v + j)}$, by Horner's rule."""
    y = x * x / 4
    total = torch.zeros_like(y)
    for j in range(_SERIES_TERMS, 0, -1):
        total = (1 + total) * (y / (j * (v + j)))
    return total


def _ratio(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    value = around_disc(
        v, x, lambda v, x: x / (2 * (v + 1)) * (1 + _series(v + 1, x)) / (1 + _series(v, x)), _ratio_outside
    )
    return torch.where(x == math.inf, 1.0, value)


def _ratio_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    q = (v / s) ** 2
    # The leading parts of the slope of log I less v/x, (s - v)/x, are x / (v + s).
    return x / (v + s) + (x / s) / s * (slope_sum(q, s) / (1 + debye_sum(q, s)) - 0.5)


def _ratio_of(v: Tensor, x: Tensor) -> Tensor:
    return iv_ratio(v, x, validate=False)


def _log_iv_slope(v: Tensor, x: Tensor) -> Tensor:
    return iv_ratio(v, x, validate=False) + torch.where(v == 0, 0.0, v / torch.where(v == 0, 1.0, x))


def _log_ive_slope(v: Tensor, x: Tensor) -> Tensor:
    return _log_iv_slope(v, x) - 1
