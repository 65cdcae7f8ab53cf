"""Huber regression against SciPy's minimisers, its two limits and its symmetries."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.lp.huber import huber_regression
from lemmata.sketching.lp.losses import huber_weights
from lemmata.sketching.lp.regression import lp_regression

DELTAS = [1e-6, 0.01, 0.5, 3.0, 100.0, 1e8]


def problem(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Heavy tails and gross errors."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, d))
    b = A @ rng.standard_normal(d) + rng.standard_t(2.5, n)
    b[: n // 20] += 1000 * rng.standard_normal(n // 20)
    return torch.tensor(A), torch.tensor(b)


def cost(
    x: np.ndarray, A: torch.Tensor, b: torch.Tensor, delta: float, w: torch.Tensor | None = None
) -> float:
    weights = 1 if w is None else w.numpy()
    return float((weights * scipy.special.huber(delta, b.numpy() - A.numpy() @ x)).sum())


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("n", "d"), [(300, 5), (30, 20), (40, 1), (7, 7), (1, 1)])
def test_equals_scipy(delta, n, d):
    A, b = problem(n, d, seed=n)
    fit = huber_regression(A, b, delta)
    assert fit.converged
    assert math.isclose(fit.cost, cost(fit.x.numpy(), A, b, delta), rel_tol=1e-11, abs_tol=1e-20)
    found = scipy.optimize.least_squares(
        lambda x: b.numpy() - A.numpy() @ x,
        np.linalg.lstsq(A.numpy(), b.numpy())[0],
        jac=lambda x: -A.numpy(),
        loss="huber",
        f_scale=delta,
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
        max_nfev=200,
    )
    # Its Gauss-Newton method is slow where most residuals are beyond delta: it may stop above us, not below.
    assert fit.cost <= cost(found.x, A, b, delta) * (1 + 1e-11) + 1e-20
    if delta >= 0.5 and n > d:
        assert math.isclose(fit.cost, cost(found.x, A, b, delta), rel_tol=1e-5)


@pytest.mark.parametrize("delta", DELTAS)
def test_gradient_vanishes(delta):
    A, b = problem(500, 6, seed=1)
    w = torch.rand(500, dtype=torch.float64)
    r = b - A @ huber_regression(A, b, delta, w).x
    gradient = A.T @ (w * r.clamp(-delta, delta))
    scale = max(1e-3, min(1.0, delta)) if delta < 1e-3 else delta  # a tiny delta is passed by rounding of r
    assert gradient.abs().max() <= 1e-9 * 500 * scale


def test_large_threshold_is_least_squares():
    A, b = problem(200, 4, seed=2)
    best = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    fit = huber_regression(A, b, 1e8)
    torch.testing.assert_close(fit.x, best)
    assert math.isclose(fit.cost, ((b - A @ best) ** 2).sum() / 2, rel_tol=1e-12)


def test_small_threshold_is_least_absolute_values():
    A, b = problem(200, 4, seed=3)
    absolute = lp_regression(A, b, 1)
    fit = huber_regression(A, b, 1e-7)
    assert math.isclose(fit.cost / 1e-7, absolute.cost, rel_tol=1e-8)
    assert (fit.x - absolute.x).abs().max() <= 1e-5


@pytest.mark.parametrize("delta", [0.01, 1.0, 50.0])
def test_weights_are_repeated_rows(delta):
    A, b = problem(60, 3, seed=4)
    times = torch.randint(0, 4, (60,))
    weighted = huber_regression(A, b, delta, times.double())
    repeated = huber_regression(A.repeat_interleave(times, 0), b.repeat_interleave(times), delta)
    torch.testing.assert_close(weighted.cost, repeated.cost, rtol=1e-10, atol=0)
    torch.testing.assert_close(weighted.x, repeated.x, rtol=1e-7, atol=1e-7)


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 10**6),
    exponent=st.floats(-3, 3),
    scale=st.floats(-6, 6).map(lambda e: 10**e),
    n=st.integers(5, 40),
)
def test_equivariance(seed, exponent, scale, n):
    torch.manual_seed(seed)
    delta = 10**exponent
    A, b = torch.randn(n, 3, dtype=torch.float64), torch.randn(n, dtype=torch.float64) ** 3
    shift = torch.randn(3, dtype=torch.float64)
    fit = huber_regression(A, b, delta)
    assert fit.converged
    scaled = huber_regression(A, -scale * b, scale * delta)
    assert math.isclose(scaled.cost, scale**2 * fit.cost, rel_tol=1e-9)
    # b moves by rounding of the size 1e-16, its cost by delta times that.
    shifted = huber_regression(A, b + A @ shift, delta)
    assert math.isclose(shifted.cost, fit.cost, rel_tol=1e-9, abs_tol=1e-14 * delta)
    bound = fit.cost - fit.gap
    for size in (1e-6, 1e-3, 1.0):
        x = fit.x + size * torch.randn(3, dtype=torch.float64)
        assert cost(x.numpy(), A, b, delta) >= bound * (1 - 1e-14)


@pytest.mark.parametrize("weight", [1e-12, 1e12])
def test_weights_of_any_size(weight):
    A, b = problem(100, 3, seed=5)
    fit = huber_regression(A, b, 1.0)
    scaled = huber_regression(A, b, 1.0, torch.full((100,), weight, dtype=torch.float64))
    assert scaled.converged
    torch.testing.assert_close(scaled.x, fit.x)
    assert math.isclose(scaled.cost, weight * fit.cost, rel_tol=1e-10)


def test_rank_deficiency_exact_fits_and_columns():
    A, b = problem(100, 2, seed=6)
    wide = torch.cat((A, A[:, :1], torch.zeros(100, 1, dtype=torch.float64)), 1)
    fit = huber_regression(wide, torch.stack((b, A[:, 0], 0 * b), 1), 1.0)
    assert fit.rank == 2
    assert fit.converged
    assert math.isclose(fit.cost[0], huber_regression(A, b, 1.0).cost, rel_tol=1e-10)
    expected = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(fit.x[:, 1], expected, rtol=0, atol=1e-12)
    assert not fit.x[:, 2].any()
    assert fit.cost[1] <= 1e-26


def test_float32():
    A, b = problem(100, 3, seed=7)
    fit = huber_regression(A.float(), b.float(), 1.0)
    assert fit.x.dtype == torch.float32
    assert fit.converged
    torch.testing.assert_close(fit.x, huber_regression(A, b, 1.0).x.float(), rtol=1e-4, atol=1e-5)


def test_weights_of_reweighted_least_squares():
    r = torch.tensor([0.0, 1.0, -3.0])
    torch.testing.assert_close(huber_weights(r, 1.5), torch.tensor([1.0, 1.0, 0.5]))


@pytest.mark.parametrize("delta", [0.0, -1.0, math.inf, math.nan])
def test_bad_threshold(delta):
    with pytest.raises(ValueError, match="`delta`"):
        huber_regression(torch.ones(3, 1), torch.ones(3), delta)


def test_bad_input():
    with pytest.raises(ValueError, match="`A` has 1 rows for 2 columns"):
        huber_regression(torch.ones(1, 2), torch.ones(1), 1.0)
    with pytest.raises(TypeError, match="`b` must be"):
        huber_regression(torch.ones(3, 1), torch.ones(3, dtype=torch.int64), 1.0)
