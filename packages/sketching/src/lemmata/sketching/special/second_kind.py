r"""Logarithms of modified Bessel functions of the second kind.

Equals `log(scipy.special.kve(v, x)) - x` wherever that is finite. Outside the quarter disc
$s = \sqrt{v^2 + x^2} < 25$ one uniform expansion serves every order and argument. Inside it the trapezoidal
rule integrates $K_v(x) = \int_0^\infty e^{-x \cosh t} \cosh(v t)\, dt$, whose integrand decays doubly
exponentially, so that the rule converges spectrally; for arguments below 1e-8 the two leading terms at zero
are exact to rounding.

References:
    "Accurate computation of the logarithm of modified Bessel functions", of which this is a simplification:
    one expansion in s in place of a table of regions.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from lemmata.sketching.special.debye import around_disc, debye_sum, slope_sum
from lemmata.sketching.special.elementwise import by_region, evaluate
from lemmata.sketching.special.first_kind import rising_ratio

__all__ = ["log_kv", "log_kve"]

_NODES = 192
_SMALL_ARGUMENT = 1e-8
_LARGE_ORDER, _SMALL_ORDER = 0.9, 0.03
# (log Gamma(1 + v) - log Gamma(1 - v)) / (2 v) in powers of v^2: Euler's constant, zeta(3)/3, zeta(5)/5, ...
_ODD_PART = (
    -0.5772156649015329,
    -0.40068563438653143,
    -0.20738555102867398,
    -0.14404989683143545,
    -0.11133426584,
)


def log_kv(
    v: Shaped[Tensor, "..."] | float, x: Shaped[Tensor, "..."] | float, *, validate: bool = True
) -> Float[Tensor, "..."]:
    r"""Return $\log K_v(x)$, the logarithm of the modified Bessel function of the second kind.

    The error is a few times the rounding of $\max(s, |\log K_v(x)|)$. Even in the order.
    Differentiable in both inputs, any number of times.

    Args:
        v: Orders; broadcast against `x`.
        x: Arguments, not negative.
        validate: Check the range, which waits for an accelerator.

    Returns:
        Values; inf at `x` = 0.

    Raises:
        TypeError: Where an input is an integer or complex tensor.
        ValueError: Where an argument is negative.

    Examples:
        >>> log_kv(torch.tensor([0.5, 1000.0]), torch.tensor([1.0, 1.0], dtype=torch.float64))
        tensor([-7.7421e-01,  6.5977e+03], dtype=torch.float64)
    """
    return evaluate(_log_kv, _log_kv_slope, v, x, signed_order=True, validate=validate)


def log_kve(
    v: Shaped[Tensor, "..."] | float, x: Shaped[Tensor, "..."] | float, *, validate: bool = True
) -> Float[Tensor, "..."]:
    r"""Return $\log K_v(x) + x$, the logarithm of the exponentially scaled function.

    Computed without the addition, so that it keeps its digits where `x` is far above the order.

    Args:
        v: Orders; broadcast against `x`.
        x: Arguments, not negative.
        validate: Check the range, which waits for an accelerator.

    Returns:
        Values.

    Raises:
        TypeError: Where an input is an integer or complex tensor.
        ValueError: Where an argument is negative.

    Examples:
        >>> log_kve(torch.tensor(0.0), torch.tensor(1e6))
        tensor(-6.6820)
    """
    return evaluate(_log_kve, _log_kve_slope, v, x, signed_order=True, validate=validate)


def _log_kv(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    v = v.abs()
    value = around_disc(v, x, lambda v, x: _inside(v, x) - x, _log_kv_outside)
    return _with_ends(x, value)


def _log_kv_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    return v * rising_ratio(v, x) - s + _prefactor(v, s)


def _log_kve(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    v = v.abs()
    value = around_disc(v, x, _inside, _log_kve_outside)
    return _with_ends(x, value)


def _log_kve_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    # x - s = -v^2 / (s + x), without the cancellation.
    return v * rising_ratio(v, x) - v * (v / (s + x)) + _prefactor(v, s)


def _with_ends(x: Tensor, value: Tensor) -> Tensor:
    """Put in the values at the ends: infinity at zero, minus infinity at infinity."""
    return torch.where(x == 0, math.inf, torch.where(x == math.inf, -x, value))


def _prefactor(v: Tensor, s: Tensor) -> Tensor:
    """Return what follows the leading terms of the expansion."""
    return torch.log1p(debye_sum((v / s) ** 2, s, alternating=True)) + 0.5 * torch.log(math.pi / (2 * s))


def _inside(v: Tensor, x: Tensor) -> Tensor:
    """Return log K + x in the quarter disc."""
    return by_region(
        x < _SMALL_ARGUMENT,
        v,
        x,
        _at_zero,
        lambda v, x: _integral(v, x).log_value,
        safe_inside=(1.0, _SMALL_ARGUMENT),
        safe_outside=(1.0, 1.0),
    )


class _Integral(NamedTuple):
    log_value: Tensor
    mean_cosh: Tensor


def _integral(v: Tensor, x: Tensor) -> _Integral:
    r"""Return $\log \int e^{x - x \cosh t} \cosh(v t)\, dt$, and the mean of $\cosh t - 1$ in it."""
    with torch.no_grad():
        # Where the integrand has fallen by e^-45: the fixed point of x cosh T = 45 + v T + x.
        end = torch.log(2 * (45 + 8 * v) / x)
        for _ in range(6):
            end = torch.log(2 * (45 + v * end + x) / x)
        top = torch.asinh(v / x)
        peak = v * top - 2 * x * torch.sinh(top / 2) ** 2
    step = end / (_NODES - 1)
    t_NM = step[:, None] * torch.arange(_NODES, dtype=x.dtype, device=x.device)
    # cosh t - 1 = 2 sinh(t / 2)^2
    above_one = 2 * torch.sinh(t_NM / 2) ** 2
    exponent = v[:, None] * t_NM - x[:, None] * above_one - peak[:, None]
    integrand = torch.exp(exponent) * (0.5 + 0.5 * torch.exp(-2 * v[:, None] * t_NM))
    total = integrand.sum(-1) - 0.5 * integrand[:, 0]
    return _Integral(peak + torch.log(total * step), (integrand * above_one).sum(-1) / total)


def _at_zero(v: Tensor, x: Tensor) -> Tensor:
    """Return log K + x from the two leading terms at zero."""
    return x + by_region(
        v >= _LARGE_ORDER,
        v,
        x,
        _large_order_at_zero,
        _small_order_at_zero,
        safe_inside=(1.5, _SMALL_ARGUMENT),
        safe_outside=(0.5, _SMALL_ARGUMENT),
    )


def _large_order_at_zero(v: Tensor, x: Tensor) -> Tensor:
    # The second term, Gamma(-v) (x/2)^v, is below rounding from order 0.9 on; near order 1 its pole cancels
    # against the next term of the first.
    return torch.lgamma(v) + v * (math.log(2) - torch.log(x)) - math.log(2)


def _small_order_at_zero(v: Tensor, x: Tensor) -> Tensor:
    r"""Return $a + \log(\sinh(v L + b) / v)$, $L = -\log(x/2)$, by $y = L + b/v$, regular at v = 0."""
    y = math.log(2) - torch.log(x) + _odd_part(v)
    return 0.5 * (torch.lgamma(1 + v) + torch.lgamma(1 - v)) + torch.log(y) + _log_sinhc(v * y)


def _odd_part(v: Tensor) -> Tensor:
    r"""Return $(\log \Gamma(1 + v) - \log \Gamma(1 - v)) / (2v)$ for orders below one."""
    small = v < _SMALL_ORDER
    order = torch.where(small, 0.5, v)
    squared, series = v * v, torch.zeros_like(v)
    for coefficient in reversed(_ODD_PART):
        series = series * squared + coefficient
    return torch.where(small, series, (torch.lgamma(1 + order) - torch.lgamma(1 - order)) / (2 * order))


def _log_sinhc(z: Tensor) -> Tensor:
    r"""Return $\log(\sinh z / z)$ for $z \ge 0$."""
    small = z < 1e-2
    large = torch.where(small, 1.0, z)
    squared = z * z
    return torch.where(
        small,
        squared / 6 - squared * squared / 180,
        large + torch.log1p(-torch.exp(-2 * large)) - torch.log(2 * large),
    )


def _slope_outside(v: Tensor, x: Tensor) -> Tensor:
    s = torch.hypot(v, x)
    q = (v / s) ** 2
    correction = slope_sum(q, s, alternating=True) / (1 + debye_sum(q, s, alternating=True))
    return -s / x + (x / s) / s * (correction - 0.5)


def _slope_inside(v: Tensor, x: Tensor) -> Tensor:
    return by_region(
        x < _SMALL_ARGUMENT,
        v,
        x,
        _slope_at_zero,
        lambda v, x: -_integral(v, x).mean_cosh - 1,
        safe_inside=(1.0, _SMALL_ARGUMENT),
        safe_outside=(1.0, 1.0),
    )


def _slope_at_zero(v: Tensor, x: Tensor) -> Tensor:
    r"""Return the slope of the two leading terms: $-\frac1x v \coth(v L + b)$, or $-v/x$ for large orders."""
    order = torch.where(v < 1, v, 0.5)
    y = math.log(2) - torch.log(x) + _odd_part(order)
    z = order * y
    near = z < 1e-2
    far = torch.where(near, 1.0, z)
    coth = torch.where(near, 1 + z * z / 3 - z**4 / 45, far / torch.tanh(far)) / y
    return -torch.where(v < 1, coth, v) / x


def _log_kv_slope_kernel(v: Float64[Tensor, " n"], x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    v = v.abs()
    value = around_disc(v, x, _slope_inside, _slope_outside)
    return torch.where(x == math.inf, -1.0, value)


def _log_kv_slope(v: Tensor, x: Tensor) -> Tensor:
    return evaluate(_log_kv_slope_kernel, None, v, x, signed_order=True, validate=False)


def _log_kve_slope(v: Tensor, x: Tensor) -> Tensor:
    return _log_kv_slope(v, x) + 1
