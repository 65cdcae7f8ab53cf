"""Logarithms of Bessel functions against mpmath, identities, closed forms, bounds and SciPy."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from lemmata.sketching.special import iv_ratio, log_iv, log_iv_over_power, log_ive, log_kv, log_kve

EPS = np.finfo(float).eps
SEAMS = [  # order and argument on both sides of every border between formulas
    (15.0, 19.9), (15.0, 20.1), (0.3, 24.99), (0.3, 25.01), (24.99, 0.2), (25.01, 0.2), (0.0, 3.0),
    (0.0, 30.0), (0.5, 0.9e-8), (0.5, 1.1e-8), (0.89, 0.5e-8), (0.91, 0.5e-8), (0.029, 0.5e-8),
    (0.031, 0.5e-8), (3.0, 0.5e-8),
]  # fmt: skip


def double(*values):
    return [torch.as_tensor(value, dtype=torch.float64) for value in values]


def points(count, seed=0, high=3.0):
    rng = np.random.default_rng(seed)
    wide = 10 ** rng.uniform(-6, high, (2, count))
    inside = rng.uniform(0, 30, (2, count // 2))
    near_zero = np.stack([10 ** rng.uniform(-6, 0.3, count // 4), 10 ** rng.uniform(-12, -6, count // 4)])
    edges = np.array(
        [[0.0, 0.0, 1.0, 24.0, *[v for v, _ in SEAMS]], [1e-3, 80.0, 24.9, 8.0, *[x for _, x in SEAMS]]]
    )
    return np.concatenate([wide, inside, near_zero, edges], 1)


def exact(function, v, x):
    with mpmath.workdps(40):
        return np.array(
            [float(mpmath.log(function(mpmath.mpf(a), mpmath.mpf(b)))) for a, b in zip(v, x, strict=True)]
        )


@pytest.mark.parametrize(("ours", "reference"), [(log_iv, mpmath.besseli), (log_kv, mpmath.besselk)])
def test_error_is_a_few_roundings_of_the_scale(ours, reference):
    v, x = points(200)
    expected = exact(reference, v, x)
    scale = np.maximum(np.maximum(np.hypot(v, x), np.abs(expected)), 1)
    error = np.abs(ours(*double(v, x)).numpy() - expected) / scale
    assert error.max() <= 8 * EPS


def debye_reference(v, x, terms, sign):
    """Sum the expansion in 60 digits, from the published recurrence for u_k(t) itself."""
    t = v / mpmath.hypot(v, x)
    coefficients, total = {0: mpmath.mpf(1)}, mpmath.mpf(1)
    for k in range(1, terms):
        following: dict[int, mpmath.mpf] = {}
        for m, c in coefficients.items():
            for power, factor in ((m + 1, mpmath.mpf(m) / 2 + mpmath.mpf(1) / (8 * (m + 1))),
                                  (m + 3, -mpmath.mpf(m) / 2 - mpmath.mpf(5) / (8 * (m + 3)))):  # fmt: skip
                following[power] = following.get(power, 0) + c * factor
        coefficients = following
        total += sign**k * sum(c * t**m for m, c in coefficients.items()) / v**k
    return mpmath.log(total)


def test_orders_and_arguments_up_to_a_million():
    rng = np.random.default_rng(1)
    v, x = 10 ** rng.uniform(2, 6, (2, 40))
    for sign, ours in ((1, log_iv), (-1, log_kv)):
        value = ours(*double(v, x)).numpy()
        for a, b, found in zip(v, x, value, strict=True):
            with mpmath.workdps(60):
                order, argument = mpmath.mpf(a), mpmath.mpf(b)
                s = mpmath.hypot(order, argument)
                front = -mpmath.log(s) / 2 + (
                    mpmath.log(mpmath.pi / 2) / 2 if sign < 0 else -mpmath.log(2 * mpmath.pi) / 2
                )
                # The prefactor's exponent is exact; 0.5 and 2 are too.
                expected = float(
                    sign * (s - order * mpmath.asinh(order / argument))
                    + front
                    + debye_reference(order, argument, 30, sign)
                )
            assert abs(found - expected) <= 8 * EPS * max(float(s), abs(expected))


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1e5), st.floats(1e-6, 1e5))
def test_wronskian(v, x):
    v, x = double(v, x)
    left = torch.logaddexp(log_iv(v, x) + log_kv(v + 1, x), log_iv(v + 1, x) + log_kv(v, x))
    scale = max(1.0, torch.hypot(v + 1, x).item(), abs(log_kv(v + 1, x).item()))
    assert (left + torch.log(x)).abs().item() <= 1e-13 * scale


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 1e4), st.floats(1e-3, 1e4))
def test_three_term_recurrence(v, x):
    v, x = double(v, x)
    # I_{v-1} - I_{v+1} = (2v/x) I_v, divided by I_{v-1}
    below, here = iv_ratio(v - 1, x), iv_ratio(v, x)
    assert (1 - below * here).item() == pytest.approx((2 * v / x * below).item(), rel=1e-12, abs=1e-12)


def test_half_integer_orders_in_closed_form():
    x = torch.logspace(-3, 2.5, 60, dtype=torch.float64)
    sinh = x + torch.log(-torch.expm1(-2 * x)) - math.log(2)
    expected = sinh + 0.5 * torch.log(2 / (math.pi * x))
    torch.testing.assert_close(log_iv(0.5, x), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(log_kv(0.5, x), 0.5 * torch.log(math.pi / (2 * x)) - x, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(log_kv(-0.5, x), log_kv(0.5, x), rtol=0, atol=0)


def test_equals_scipy_where_scipy_is_finite():
    rng = np.random.default_rng(2)
    v, x = rng.uniform(0, 60, (2, 2000))
    torch.testing.assert_close(
        log_ive(*double(v, x)), torch.as_tensor(np.log(scipy.special.ive(v, x))), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(
        log_kve(*double(v, x)), torch.as_tensor(np.log(scipy.special.kve(v, x))), rtol=1e-12, atol=1e-13
    )


def test_scaled_forms_keep_their_digits_at_large_arguments():
    x = torch.tensor(1e15, dtype=torch.float64)
    assert log_ive(2.0, x).item() == pytest.approx(-0.5 * math.log(2 * math.pi * 1e15), rel=1e-14)
    assert log_kve(2.0, x).item() == pytest.approx(0.5 * math.log(math.pi / 2e15), rel=1e-14)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1e6), st.floats(1e-6, 1e6))
def test_ratio_lies_within_the_bounds_of_amos(v, x):
    ratio = iv_ratio(*double(v, x)).item()
    low = x / (v + 0.5 + math.hypot(x, v + 1.5))
    high = x / (v + 0.5 + math.hypot(x, v + 0.5))
    assert low * (1 - 1e-14) <= ratio <= high * (1 + 1e-14)


def test_no_jump_where_formulas_meet():
    for function in (log_iv, log_kv, iv_ratio):
        for v, x in [(15.0, 20.0), (0.0, 25.0), (25.0, 1e-3), (7.0, 24.0)]:
            s = math.hypot(v, x)
            below, above = (function(*double(v * f, x * f)).item() for f in (25 / s - 1e-13, 25 / s + 1e-13))
            assert abs(above - below) <= 1e-10  # the slope times the distance is below 1e-11
    for v in (0.0, 0.3, 0.95, 5.0):
        below, above = (log_kv(*double(v, 1e-8 * (1 + f))).item() for f in (-1e-13, 1e-13))
        assert abs(above - below) <= 1e-11
    for v in (0.9, 0.03, 1.0):
        below, above = (log_kv(*double(v + f, 1e-9)).item() for f in (-1e-14, 1e-14))
        assert abs(above - below) <= 1e-11


def test_monotone_in_the_argument():
    x = torch.logspace(-10, 6, 4000, dtype=torch.float64)
    for v in (0.0, 0.5, 3.0, 24.0, 100.0):
        assert bool((log_iv(v, x).diff() >= 0).all())
        assert bool((log_kv(v, x).diff() < 0).all())


def test_values_at_the_ends():
    v = torch.tensor([0.0, 0.5, 30.0], dtype=torch.float64)
    assert log_iv(v, 0.0).tolist() == [0.0, -math.inf, -math.inf]
    assert log_kv(v, 0.0).tolist() == [math.inf] * 3
    assert log_iv(v, math.inf).tolist() == [math.inf] * 3
    assert log_kv(v, math.inf).tolist() == [-math.inf] * 3
    assert iv_ratio(v, 0.0).tolist() == [0.0] * 3
    assert iv_ratio(v, math.inf).tolist() == [1.0] * 3
    assert log_iv(v, math.nan).isnan().all()
    assert log_iv(1e6, torch.tensor(1e-300, dtype=torch.float64)).isfinite()
    torch.testing.assert_close(log_iv_over_power(v, 0.0), -v * math.log(2) - torch.lgamma(v + 1))


@pytest.mark.parametrize("function", [log_iv, log_ive, log_kv, log_kve, iv_ratio, log_iv_over_power])
def test_gradients_on_both_sides_of_every_seam(function, unchecked):
    v, x = (
        column.requires_grad_()
        for column in double(*zip(*[(max(v, 0.01), max(x, 0.1)) for v, x in SEAMS], strict=True))
    )
    assert gradcheck(function, (v, x), eps=1e-6, atol=1e-6, rtol=1e-6)
    assert gradgradcheck(function, (v, x), eps=1e-5, atol=1e-5, rtol=1e-5)


def test_gradients_at_small_arguments_follow_the_leading_terms():
    x = torch.tensor([1e-9, 1e-12], dtype=torch.float64, requires_grad=True)
    log_kv(2.5, x).sum().backward()
    torch.testing.assert_close(x.grad, -2.5 / x.detach(), rtol=1e-12, atol=0)
    x.grad = None
    log_kv(0.0, x).sum().backward()
    expected = 1 / (x.detach() * (torch.log(x.detach() / 2) + np.euler_gamma))
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0)
    at_zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    log_iv(0.0, at_zero).sum().backward()
    assert at_zero.grad.item() == 0


def test_broadcasts_and_keeps_precision():
    v, x = torch.rand(3, 1, 4), torch.rand(5, 1)
    value = log_iv(v, x)
    assert value.shape == (3, 5, 4)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, log_iv(v.double(), x.double()).float(), rtol=1e-6, atol=1e-7)
    assert log_kv(v.bfloat16(), 2.0).dtype == torch.bfloat16
    assert log_iv(torch.empty(0, 3), 1.0).shape == (0, 3)
    assert log_iv(1.0, torch.tensor(2.0)).shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("function", [log_iv, log_kv, iv_ratio])
def test_compiles_to_one_graph(function, unchecked):
    torch.compiler.reset()
    v, x = (torch.as_tensor(column) for column in points(100))
    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(v, x), function(v, x), rtol=1e-13, atol=1e-13)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(compiled(v, x).sum(), x)
    (expected,) = torch.autograd.grad(function(v, x).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"`x` must not be negative, its smallest value is -1"):
        log_iv(1.0, torch.tensor([2.0, -1.0]))
    with pytest.raises(ValueError, match=r"`v` must not be negative, its smallest value is -0\.5"):
        log_iv(torch.tensor(-0.5), torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"`v` must hold real floating point numbers, got torch\.int64"):
        log_kv(torch.arange(3), torch.ones(3))
    with pytest.raises(TypeError, match=r"`x` must hold real floating point numbers, got torch\.complex64"):
        log_kv(1.0, torch.ones(3, dtype=torch.complex64))
