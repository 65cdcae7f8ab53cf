"""l_p regression against linear programming, least squares, optimality conditions and its own symmetries."""

import math
import pickle

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.lp.losses import lp_weights
from lemmata.sketching.lp.regression import lp_regression

POWERS = [1.0, 1.001, 1.1, 1.5, 2.0, 3.0, 4.0, 8.0, 30.0]


def problem(n: int, d: int, seed: int, *, heavy: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """A design with a few rows a hundred times longer, heavy tails and gross errors."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, d))
    b = A @ rng.standard_normal(d) + rng.standard_t(2.5, n)
    if heavy:
        A[: n // 20] *= 100
        b[: n // 20] += 1000 * rng.standard_normal(n // 20)
    return torch.tensor(A), torch.tensor(b)


def least_absolute(A: torch.Tensor, b: torch.Tensor, w: torch.Tensor | None = None) -> float:
    """The minimum by HiGHS, on the primal programme: x free, residuals in two positive parts."""
    n, d = A.shape
    weights = np.ones(n) if w is None else w.numpy()
    cost = np.concatenate([np.zeros(d), weights, weights])
    equal = np.hstack([A.numpy(), np.eye(n), -np.eye(n)])
    bounds = [(None, None)] * d + [(0, None)] * (2 * n)
    return scipy.optimize.linprog(cost, A_eq=equal, b_eq=b.numpy(), bounds=bounds).fun


@pytest.mark.parametrize(("n", "d"), [(300, 5), (40, 1), (60, 50), (7, 7), (1, 1)])
@pytest.mark.parametrize("method", ["auto", "highs"])
def test_p_one_equals_linear_programming(n, d, method):
    A, b = problem(n, d, seed=n)
    fit = lp_regression(A, b, 1, method=method)
    best = least_absolute(A, b)
    assert fit.status == "converged"
    assert abs(fit.cost - best) <= 1e-11 * b.abs().sum()
    assert fit.gap <= 1e-10 * fit.cost + 1e-12 * b.abs().sum()


def test_p_one_ends_on_a_vertex():
    A, b = problem(500, 6, seed=0)
    residual = (A @ lp_regression(A, b, 1).x - b).abs()
    assert (residual <= 1e-10 * b.abs().max()).sum() == 6


def test_p_one_with_weights_equals_linear_programming():
    A, b = problem(200, 4, seed=1)
    w = torch.rand(200, dtype=torch.float64) * 10 ** (4 * torch.rand(200, dtype=torch.float64))
    w[:30] = 0
    fit = lp_regression(A, b, 1, w)
    assert fit.converged
    assert math.isclose(fit.cost, least_absolute(A, b, w), rel_tol=1e-11)


def test_degenerate_medians():
    # Any number between the two middle ones is a median; all of b equal leaves a residual of zero.
    even = lp_regression(torch.ones(4, 1), torch.tensor([0.0, 1.0, 3.0, 50.0]), 1)
    assert 1 <= even.x <= 3
    assert math.isclose(even.cost, 52, rel_tol=1e-14)
    assert even.x in (1, 3)
    level = lp_regression(torch.ones(4, 1), torch.full((4,), 7.0), 1)
    assert level.x == 7
    assert level.cost == 0
    assert level.gap == 0
    # Integer data with many ties: a vertex has far more than d zero residuals.
    ties = torch.randint(0, 3, (400,), dtype=torch.int64).double()
    A = torch.randint(0, 2, (400, 4)).double()
    fit = lp_regression(A, ties, 1)
    assert fit.converged
    assert math.isclose(fit.cost, least_absolute(A, ties), rel_tol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_p_two_equals_least_squares(seed):
    A, b = problem(200, 7, seed=seed)
    w = torch.rand(200, dtype=torch.float64)
    fit = lp_regression(A, b, 2, w)
    best = np.linalg.lstsq(A.numpy() * w.sqrt().numpy()[:, None], b.numpy() * w.sqrt().numpy())[0]
    np.testing.assert_allclose(fit.x, best, rtol=1e-11)
    assert fit.iterations == 0
    assert fit.gap <= 1e-13 * fit.cost


@pytest.mark.parametrize("p", [p for p in POWERS if p >= 1.5])
@pytest.mark.parametrize(("n", "d"), [(2000, 8), (60, 50)])
def test_gradient_vanishes(p, n, d):
    A, b = problem(n, d, seed=2)
    fit = lp_regression(A, b, p)
    r = b - A @ fit.x
    y = torch.sign(r) * (r / r.abs().max()).abs() ** (p - 1)
    gradient = (A / A.norm(dim=0)).T @ y / y.norm()
    assert fit.converged
    assert gradient.abs().max() <= 1e-9


@pytest.mark.parametrize("p", [1.1, 1.3, 1.7, 3.0, 6.0])
def test_equals_a_general_minimiser(p):
    A, b = problem(80, 3, seed=3, heavy=False)
    fit = lp_regression(A, b, p)

    def cost(x: np.ndarray) -> float:
        return float((np.abs(b.numpy() - A.numpy() @ x) ** p).sum())

    found = scipy.optimize.minimize(
        cost, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 5000}
    )
    assert fit.cost <= found.fun * (1 + 1e-12)
    np.testing.assert_allclose(fit.x, found.x, atol=1e-5)


@pytest.mark.parametrize("p", POWERS)
def test_the_bound_is_below_what_any_coefficients_cost(p):
    A, b = problem(400, 5, seed=4)
    fit = lp_regression(A, b, p)
    assert fit.converged
    bound = fit.cost - fit.gap
    r = b - A @ fit.x
    assert math.isclose(fit.cost, (r.abs() ** p).sum(), rel_tol=1e-12)
    for size in (1e-9, 1e-6, 1e-3, 1.0):
        x = fit.x[:, None] + size * torch.randn(5, 200, dtype=torch.float64)
        assert ((b[:, None] - A @ x).abs() ** p).sum(0).min() >= bound * (1 - 1e-14)


@pytest.mark.parametrize("p", POWERS)
def test_a_few_steps_are_not_called_converged_and_their_gap_is_true(p):
    A, b = problem(400, 5, seed=4)
    best = lp_regression(A, b, p)
    early = lp_regression(A, b, p, max_iter=2)
    assert early.cost - early.gap <= best.cost * (1 + 1e-12)
    if early.status == "converged":
        assert early.gap <= 1e-10 * early.cost
    else:
        assert early.gap > 1e-10 * early.cost


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_weights_are_repeated_rows(p):
    A, b = problem(60, 3, seed=5)
    times = torch.randint(0, 4, (60,))
    weighted = lp_regression(A, b, p, times.double())
    repeated = lp_regression(A.repeat_interleave(times, 0), b.repeat_interleave(times), p)
    torch.testing.assert_close(weighted.cost, repeated.cost, rtol=1e-10, atol=0)
    torch.testing.assert_close(weighted.x, repeated.x, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 10**6),
    p=st.sampled_from([1.0, 1.01, 1.3, 2.0, 2.7, 5.0]),
    scale=st.floats(-8, 8).map(lambda e: -(10**e)),
    n=st.integers(6, 40),
)
def test_equivariance(seed, p, scale, n):
    """Scaling b scales x, adding A t to b adds t, and A T gives T^-1 x."""
    torch.manual_seed(seed)
    A, b = torch.randn(n, 3, dtype=torch.float64), torch.randn(n, dtype=torch.float64) ** 3
    T, shift = torch.randn(3, 3, dtype=torch.float64) + 3 * torch.eye(3), torch.randn(3, dtype=torch.float64)
    fit = lp_regression(A, b, p)
    scaled = lp_regression(A, scale * b, p)
    shifted = lp_regression(A, b + A @ shift, p)
    turned = lp_regression(A @ T, b, p)
    assert fit.converged
    # A vertex among several of nearly one cost may be another: costs agree to ten digits always.
    assert math.isclose(scaled.cost, abs(scale) ** p * fit.cost, rel_tol=1e-9)
    assert math.isclose(shifted.cost, fit.cost, rel_tol=1e-9)
    assert math.isclose(turned.cost, fit.cost, rel_tol=1e-9)
    if p > 1.2:
        torch.testing.assert_close(scaled.x, scale * fit.x, rtol=1e-5, atol=1e-6 * abs(scale))
        torch.testing.assert_close(shifted.x, fit.x + shift, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(T @ turned.x, fit.x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", POWERS)
def test_rank_deficiency_gives_the_least_norm(p):
    A, b = problem(100, 3, seed=6)
    wide = torch.cat((A, A[:, :1] + A[:, 1:2], torch.zeros(100, 1, dtype=torch.float64)), 1)
    full, fit = lp_regression(A, b, p), lp_regression(wide, b, p)
    assert (full.rank, fit.rank) == (3, 3)
    assert fit.converged
    assert math.isclose(fit.cost, full.cost, rel_tol=1e-9)
    null = torch.tensor([[1.0, 1.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    assert (null @ fit.x).abs().max() <= 1e-10


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize(("n", "d"), [(50, 4), (5, 5), (1, 1)])
def test_exact_fits(p, n, d):
    A = torch.randn(n, d, dtype=torch.float64)
    x = torch.randn(d, dtype=torch.float64)
    fit = lp_regression(A, A @ x, p)
    assert fit.status == "converged"
    torch.testing.assert_close(fit.x, x, rtol=1e-9, atol=1e-9)
    zero = lp_regression(A, torch.zeros(n, dtype=torch.float64), p)
    assert zero.cost == 0
    assert zero.gap == 0
    assert not zero.x.any()


@pytest.mark.parametrize("p", POWERS)
def test_zero_matrix_and_zero_rows(p):
    b = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    fit = lp_regression(torch.zeros(3, 2, dtype=torch.float64), b, p)
    assert fit.rank == 0
    assert fit.converged
    assert math.isclose(fit.cost, (b.abs() ** p).sum(), rel_tol=1e-12)
    A, b = problem(50, 2, seed=7)
    A[10:20] = 0
    part, whole = lp_regression(A[20:], b[20:], p), lp_regression(A, b, p)
    if p == 2:
        rest = torch.cat((torch.arange(10), torch.arange(20, 50)))
        torch.testing.assert_close(whole.x, lp_regression(A[rest], b[rest], p).x)
    assert whole.converged
    assert part.converged


@pytest.mark.parametrize("p", [1.0, 1.5, 4.0])
def test_columns_of_b_are_solved_one_by_one(p):
    A, b = problem(80, 3, seed=8)
    B = torch.stack((b, 1e6 * b.flip(0), torch.zeros_like(b)), 1)
    fit = lp_regression(A, B, p)
    assert fit.x.shape == (3, 3)
    assert fit.cost.shape == fit.gap.shape == (3,)
    for j in range(3):
        one = lp_regression(A, B[:, j], p)
        torch.testing.assert_close(fit.cost[j], one.cost, rtol=1e-10, atol=0)
    none = lp_regression(A, B[:, :0], p)
    assert none.x.shape == (3, 0)
    assert none.cost.shape == (0,)


def test_float32_is_solved_in_float64():
    A, b = problem(300, 4, seed=9)
    A, b = A.float(), b.float()
    for p in (1.0, 1.5, 4.0):
        fit, double = lp_regression(A, b, p), lp_regression(A.double(), b.double(), p)
        assert fit.x.dtype == torch.float32
        assert fit.cost.dtype == torch.float64
        torch.testing.assert_close(fit.x, double.x.float(), rtol=1e-5, atol=1e-6)
        # The gap is that of the rounded coefficients.
        assert fit.cost - fit.gap <= double.cost * (1 + 1e-12)


def test_graded_columns_and_an_enormous_outlier():
    A, b = problem(300, 4, seed=10, heavy=False)
    graded = A * torch.tensor([1e-8, 1.0, 1e8, 1e3], dtype=torch.float64)
    assert math.isclose(lp_regression(graded, b, 1).cost, lp_regression(A, b, 1).cost, rel_tol=1e-10)
    b[0] = 1e14
    fit = lp_regression(A, b, 1)
    without = lp_regression(A[1:], b[1:], 1)
    assert fit.converged
    assert (fit.x - without.x).abs().max() < 0.1


def test_initial_coefficients_are_where_it_starts():
    A, b = problem(300, 4, seed=11)
    for p in (1.0, 1.3, 5.0):
        fit = lp_regression(A, b, p)
        again = lp_regression(A, b, p, x0=fit.x)
        assert again.converged
        assert math.isclose(again.cost, fit.cost, rel_tol=1e-10)


def test_deterministic_and_picklable():
    A, b = problem(100, 3, seed=12)
    first, second = lp_regression(A, b, 1.2), lp_regression(A, b, 1.2)
    assert torch.equal(first.x, second.x)
    assert torch.equal(pickle.loads(pickle.dumps(first)).gap, first.gap)


def test_weights_of_reweighted_least_squares():
    r = torch.tensor([0.0, 1e-200, -3.0], dtype=torch.float64)
    torch.testing.assert_close(lp_weights(r, 1.5, 4.0), (r**2 + 16) ** -0.25)
    assert lp_weights(r, 1.0)[0] == math.inf
    assert lp_weights(r, 4.0)[2] == 9


A0, B0 = torch.ones(4, 2), torch.ones(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A0, B0, 0.5), "`p` .*0.5.*finite"),
        ((A0, B0, math.inf), "`p`.*finite"),
        ((A0, B0, math.nan), "`p`.*finite"),
        ((A0[:1], B0[:1], 1), "`A` has 1 rows for 2 columns"),
        ((A0[:, :0], B0, 1), "at least one column"),
        ((B0, B0, 1), "`A` must be a matrix"),
        ((A0, B0[:3], 1), r"`b` must have shape \(4,\)"),
        ((A0, B0, 1, B0[:3]), r"`weights` must have shape \(4,\)"),
        ((A0, B0, 1, -B0), "`weights` .*-1.0.* >= 0"),
        ((A0, B0, 1, 0 * B0), "`weights` .*one of them > 0"),
        ((A0, B0 / 0, 1), "`b` holds inf at"),
        ((A0 * math.nan, B0, 1), r"`A` holds nan at \(0, 0\)"),
        ((A0, B0, 1, None, "simplex"), '`method` .*"simplex"'),
        ((A0, B0, 3, None, "highs"), "is for p = 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        lp_regression(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "`tol`"),
        ({"max_iter": 0}, "`max_iter`"),
        ({"rcond": -1.0}, "`rcond`"),
        ({"x0": torch.ones(3)}, r"`x0` must have shape \(2,\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        lp_regression(A0, B0, 1, **options)


@pytest.mark.parametrize("bad", [A0.long(), A0.half(), A0.to_sparse()])
def test_bad_types(bad):
    with pytest.raises(TypeError, match="`A` must be a"):
        lp_regression(bad, B0, 1)
