"""The coordinate-wise guarantee: its constants, sizes and bounds, and the estimator that reports them."""

import dataclasses
import math
import pickle

import pytest
import scipy.sparse
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.coordinatewise import (
    coordinatewise_error,
    linf_bound,
    linf_hard_instance,
    linf_regression,
    oce_constants,
    oce_sketch_size,
)
from lemmata.sketching.operators.gaussian import GaussianSketch
from lemmata.sketching.operators.sparse_sign import CountSketch
from lemmata.sketching.operators.srht import SRHT
from lemmata.sketching.operators.tensor import TensorSRHT
from lemmata.sketching.stream import RowBlocks

KINDS = ["srht", "gaussian", "tensor_srht"]


def make(kind, m, n, seed):
    if kind == "tensor_srht":
        side = math.isqrt(n)
        assert side * side == n
        return TensorSRHT(m, side, side, seed=seed)
    return (SRHT if kind == "srht" else GaussianSketch)(m, n, seed=seed)


def problem(n=3000, d=5, targets=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, dtype=torch.float64, generator=generator)
    shape = (n,) if targets is None else (n, targets)
    return a, torch.randn(shape, dtype=torch.float64, generator=generator)


def exact(a, b):
    solution = torch.linalg.lstsq(a, b if b.ndim == 2 else b[:, None]).solution
    return solution if b.ndim == 2 else solution[:, 0]


# What a sketch does to inner products


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_unbiased_with_the_variance_and_tail_that_the_constants_promise(kind):
    """200 seeds: mean to 5 standard errors, second moment and tail below alpha and beta."""
    m, n, delta = 64, 256, 0.05
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    h = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    g[:, 1], h[:, 1] = 0, 0
    g[3, 1], h[200, 1] = 1, -2  # two single entries
    h[:, 2] = g[:, 2] + 0.1 * h[:, 2]  # nearly parallel
    errors = torch.stack([coordinatewise_error(make(kind, m, n, seed), g, h) for seed in range(200)])
    mean, deviation = errors.mean(0), errors.std(0)
    assert bool((mean.abs() <= 5 * deviation / 200**0.5).all())
    alpha, beta = oce_constants(kind, m, n, delta)
    # As the mean is exact, the second moment's excess over (g^T h)^2 is the mean square of the error.
    squares = errors.square()
    assert bool((squares.mean(0) - 5 * squares.std(0) / 200**0.5 <= alpha / m).all())
    assert bool(((errors.abs() > beta / math.sqrt(m)).double().mean(0) <= delta).all())
    assert oce_constants(kind, 10**9, n, delta)[1] < {"gaussian": 4, "srht": 15, "tensor_srht": 80}[kind]


@pytest.mark.parametrize("kind", ["srht", "gaussian"])
def test_the_tail_falls_with_the_root_of_the_rows(kind):
    """The 95 per cent quantile over 2000 pairs of vectors, against m from 16 to 1024: slope -1/2."""
    n, sizes = 2048, [16, 64, 256, 1024]
    generator = torch.Generator().manual_seed(2)
    g = torch.randn(n, 500, dtype=torch.float64, generator=generator)
    h = torch.randn(n, 500, dtype=torch.float64, generator=generator)
    tails = []
    for m in sizes:
        # Without replacement the variance falls short by the share of rows taken; that is no part of the law.
        left = math.sqrt(1 - m / n) if kind == "srht" else 1.0
        errors = torch.cat([coordinatewise_error(make(kind, m, n, seed), g, h) for seed in range(4)])
        tails.append(float(errors.abs().quantile(0.95)) / left)
    logs = torch.tensor(sizes, dtype=torch.float64).log()
    values = torch.tensor(tails, dtype=torch.float64).log()
    slope = float(((logs - logs.mean()) * values).sum() / (logs - logs.mean()).square().sum())
    assert abs(slope + 0.5) <= 0.05


def test_zero_vectors_have_no_error():
    assert float(coordinatewise_error(SRHT(4, 8), torch.zeros(8), torch.ones(8))) == 0
    with pytest.raises(ValueError, match="`h`"):
        coordinatewise_error(SRHT(4, 8), torch.zeros(8), torch.ones(8, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_constants_grow_with_certainty_and_length(kind):
    betas = [oce_constants(kind, 1000, 10**6, delta)[1] for delta in (0.5, 0.1, 1e-3, 1e-9)]
    assert betas == sorted(betas)
    shorter, longer = (oce_constants(kind, 1000, n, 0.1)[1] for n in (10**3, 10**9))
    assert shorter == longer if kind == "gaussian" else shorter < longer


# The error of a sketched solution


def test_the_error_is_a_neumann_series():
    """With orthonormal A: x' - x* = sum_{k < K} (I - G)^k v + (I - G)^K (x' - x*), to 1e-10 for every K."""
    n, d = 512, 20
    a, b = problem(n, d)
    q = torch.linalg.qr(a).Q
    rest = b - q @ (q.T @ b)
    for m, terms in ((4 * d, 25), (24 * d, 400)):
        S = GaussianSketch(m, n, seed=3)
        sq, sb = S @ q, S @ b
        error = exact(sq, sb) - q.T @ b
        step = torch.eye(d, dtype=torch.float64) - sq.T @ sq
        power, total = sq.T @ (S @ rest), torch.zeros(d, dtype=torch.float64)
        remainder = error
        for _ in range(terms):
            total, power, remainder = total + power, step @ power, step @ remainder
        scale = float(remainder.abs().max()) + 1
        torch.testing.assert_close(total + remainder, error, rtol=0, atol=1e-10 * scale)
    torch.testing.assert_close(total, error, rtol=0, atol=1e-10)  # at m = 24 d the series converges


def test_errors_of_a_gaussian_sketch_are_normal_with_the_reported_deviation():
    """Standardised errors of 300 sketches: mean, variance and 95 per cent interval."""
    a, b = problem(400, 4)
    a = a * torch.tensor([1.0, 10.0, 0.1, 3.0], dtype=torch.float64)
    x_star = exact(a, b)
    optimum = torch.linalg.vector_norm(a @ x_star - b)
    z = []
    for seed in range(300):
        fit = linf_regression(a, b, m=60, kind="gaussian", seed=seed)
        z.append((fit.x - x_star) / fit.standard_errors * fit.residual_norm / optimum)
    z = torch.stack(z)
    assert float(z.mean().abs()) < 5 / math.sqrt(z.numel())
    assert abs(float(z.var()) - 1) < 5 * math.sqrt(2 / z.numel())
    inside = float((z.abs() < 1.96).double().mean())
    assert abs(inside - 0.95) < 5 * math.sqrt(0.05 * 0.95 / z.numel())


@pytest.mark.parametrize("kind", ["srht", "gaussian"])
@pytest.mark.parametrize("coherent", [False, True])
def test_bounds_hold_more_often_than_promised(kind, coherent):
    a, b = problem(1500, 6)
    if coherent:
        a[:6] += 300 * torch.eye(6, dtype=torch.float64)
        b[:6] += 20
    x_star = exact(a, b)
    held = 0
    for seed in range(60):
        fit = linf_regression(a, b, m=150, delta=0.2, kind=kind, seed=seed)
        held += bool(((fit.x - x_star).abs() <= fit.bounds).all())
    assert held >= 48


def test_the_bound_is_the_law_of_the_solution():
    a, b = problem(500, 7)
    x_star = exact(a, b)
    norm = float(torch.linalg.vector_norm(a @ x_star - b))
    law = torch.linalg.inv(a.T @ a).diagonal().max().sqrt() * norm
    expected = 1.1 * float(law) * math.sqrt(2 * math.log(2 * 7 / 0.1) / (200 - 7))
    assert linf_bound(a, norm, 200, 0.1) == pytest.approx(expected, rel=1e-12)
    assert linf_bound(torch.linalg.qr(a).R, norm, 200, 0.1, "tensor_srht") == pytest.approx(
        expected, rel=1e-12
    )
    scaled = a * torch.logspace(-12, 12, 7, dtype=torch.float64)  # no rank is lost by units
    factor = float(torch.linalg.inv(a.T @ a)[0, 0].sqrt()) * 1e12 / float(law) * norm
    assert linf_bound(scaled, norm, 200, 0.1) == pytest.approx(expected * factor, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    d=st.integers(1, 500),
    eps=st.floats(0.01, 0.9),
    delta=st.floats(1e-9, 0.9),
    shrink=st.floats(0.1, 0.99),
)
def test_the_size_is_monotone_and_meets_its_bound(d, eps, delta, shrink):
    n = 10**9
    m = oce_sketch_size(d, n, eps, delta)
    assert m <= oce_sketch_size(d, n, shrink * eps, delta)
    assert m <= oce_sketch_size(d, n, eps, shrink * delta)
    law = 1.1 * math.sqrt(2 * math.log(2 * d / delta))
    assert law / math.sqrt(m - d) <= eps / math.sqrt(d) * (1 + 1e-12)
    if m > d + 2:
        assert law / math.sqrt(m - 1 - d) > eps / math.sqrt(d) * (1 - 1e-12)


@pytest.mark.parametrize("nnz_per_col", [1, 2, 4, 8, 100])
def test_the_hard_instance(nnz_per_col):
    d, m = 64, 1024
    a, b, x_star = linf_hard_instance(d, m, nnz_per_col, n=300)
    spikes = max(1, round(3 * m / (nnz_per_col**2 * d)))
    assert a.shape == (300, d)
    assert int(b.count_nonzero()) == spikes
    assert float(b.norm()) == pytest.approx(1)
    torch.testing.assert_close(exact(a, b), x_star, rtol=0, atol=1e-15)
    assert linf_hard_instance(d, m, nnz_per_col)[0].shape == (d + spikes, d)
    with pytest.raises(ValueError, match="`n`"):
        linf_hard_instance(d, m, nnz_per_col, n=d)


def test_a_sparse_sketch_spoils_coefficients_that_others_keep():
    """Medians of 9 seeds on the instance made for CountSketch: as much error in all, but in few places."""
    d, m = 128, 2048
    a, b, _ = linf_hard_instance(d, m, 1)
    largest, norms = {}, {}
    for name, family, columns in (("count", CountSketch, len(a)), ("srht", SRHT, 8 * m)):
        # More columns than rows of data: for a longer SRHT the data are followed by zeros.
        errors = []
        for seed in range(9):
            S = family(m, columns, seed=seed)
            errors.append(exact(S.partial(a, 0), S.partial(b, 0)))
        errors = torch.stack(errors).abs()
        largest[name] = float(errors.amax(1).median())
        norms[name] = float(errors.norm(dim=1).median())
    assert largest["count"] >= 2 * largest["srht"]
    assert 1 / 1.6 <= norms["count"] / norms["srht"] <= 1.6


# The estimator


@pytest.mark.parametrize("kind", ["srht", "gaussian"])
def test_all_kinds_of_data_give_the_same(kind):
    a, b = problem(2000, 4, targets=3)
    a = a * (torch.rand(2000, 4, generator=torch.Generator().manual_seed(3)) < 0.5)
    fit = linf_regression(a, b, m=200, kind=kind, seed=5)
    assert fit.x.shape == fit.bounds.shape == fit.standard_errors.shape == (4, 3)
    assert fit.linf_bound.shape == fit.residual_norm.shape == (3,)
    assert fit.passes == 2
    torch.testing.assert_close(fit.residual_norm, (a @ fit.x - b).norm(dim=0))
    pieces = [(1500, a[1500:]), (0, a[:700]), (700, a[700:1500])]
    others = [
        scipy.sparse.csr_array(a.numpy()),
        RowBlocks.from_tensor(a, 123),
        RowBlocks(lambda: pieces, (2000, 4)),
        a.numpy(),
    ]
    for other in others:
        again = linf_regression(other, b, m=200, kind=kind, seed=5)
        torch.testing.assert_close(again.x, fit.x, rtol=0, atol=1e-11)
        torch.testing.assert_close(again.bounds, fit.bounds)
    one = linf_regression(a, b[:, 1], m=200, kind=kind, seed=5)
    torch.testing.assert_close(one.x, fit.x[:, 1], rtol=0, atol=1e-12)
    assert one.linf_bound.shape == ()
    single = linf_regression(a.float(), b.float(), m=200, kind=kind, seed=5)
    assert single.x.dtype == torch.float32
    torch.testing.assert_close(single.x.double(), fit.x, rtol=0, atol=1e-5)
    again = pickle.loads(pickle.dumps(fit))
    assert torch.equal(again.x, fit.x)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.m = 3


def test_accuracy_is_asked_for_and_reached():
    a, b = problem(40_000, 3)
    fit = linf_regression(a, b, eps=0.15, seed=1)
    assert fit.m == oce_sketch_size(3, 40_000, 0.15, 0.05)
    error = (fit.x - exact(a, b)).abs().max()
    target = 0.15 / math.sqrt(3) * float(fit.residual_norm) / float(torch.linalg.svdvals(a)[-1])
    assert float(error) <= float(fit.linf_bound) <= 1.2 * target


def test_small_problems_are_solved_as_they_are():
    a, b = problem(50, 4)
    shuffled = RowBlocks(lambda: [(30, a[30:]), (0, a[:30])], (50, 4))
    for data, options in ((a, {"m": 50}), (a, {"m": 10**6}), (shuffled, {"eps": 0.01})):
        fit = linf_regression(data, b, **options)
        torch.testing.assert_close(fit.x, exact(a, b), rtol=0, atol=1e-12)
        assert fit.m == 50
        assert float(fit.linf_bound) == 0
    one = linf_regression(torch.ones(1, 1), torch.full((1,), 3.0), m=2)
    assert one.x.tolist() == [3]


def test_an_exact_fit_has_no_bound_to_speak_of():
    a, _ = problem(1000, 4)
    x = torch.arange(4, dtype=torch.float64)
    fit = linf_regression(a, a @ x, m=50)
    torch.testing.assert_close(fit.x, x, rtol=0, atol=1e-12)
    assert float(fit.linf_bound) < 1e-12


def test_gradients_flow_to_data_and_targets():
    a, b = problem(24, 3)
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: linf_regression(a, b, m=12).x, (a, b))
    assert torch.autograd.gradcheck(lambda a, b: linf_regression(a, b, m=24).x, (a, b))


# What is refused


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("count_sketch", "count sketch has no coordinate-wise guarantee; use srht or gaussian"),
        ("sparse_sign(nnz_per_col=8)", "sparse sign has no coordinate-wise guarantee; use srht or gaussian"),
        ("cauchy", "`kind`"),
    ],
)
def test_kinds_without_a_guarantee_are_refused(kind, words):
    a, b = problem(50, 4)
    for call in (
        lambda: oce_constants(kind, 10, 100, 0.1),
        lambda: oce_sketch_size(10, 100, 0.1, 0.1, kind),
        lambda: linf_bound(a, 1.0, 10, 0.1, kind),
        lambda: linf_regression(a, b, m=10, kind=kind),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_probabilities_and_accuracies_lie_between_0_and_1(value):
    a, b = problem(50, 4)
    for call in (
        lambda: oce_constants("srht", 10, 100, value),
        lambda: oce_sketch_size(10, 100, 0.1, value),
        lambda: linf_bound(a, 1.0, 10, value),
        lambda: linf_regression(a, b, m=10, delta=value),
    ):
        with pytest.raises(ValueError, match="`delta`"):
            call()
    for call in (
        lambda: oce_sketch_size(10, 100, value, 0.1),
        lambda: linf_regression(a, b, eps=value),
    ):
        with pytest.raises(ValueError, match="`eps`"):
            call()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one"),
        ({"m": 20, "eps": 0.1}, "exactly one"),
        ({"m": 4}, "`m` \\(=4\\) must exceed the 4 columns"),
        ({"m": 10, "kind": "tensor_srht"}, "Kronecker"),
    ],
)
def test_arguments_are_checked(arguments, words):
    a, b = problem(50, 4)
    with pytest.raises(ValueError, match=words):
        linf_regression(a, b, **arguments)


def test_data_is_checked():
    a, b = problem(50, 4)
    with pytest.raises(ValueError, match=r"`b` \(of shape \(49,\)\) must have 50 rows"):
        linf_regression(a, b[:49], m=10)
    with pytest.raises(ValueError, match="columns"):
        linf_regression(a[:3], b[:3], m=10)
    with pytest.raises(ValueError, match="columns"):
        linf_regression(a[:, :0], b, m=10)
    for bad in (a.to(torch.int64), a.to(torch.complex128)):
        with pytest.raises(TypeError, match="`a`"):
            linf_regression(bad, b, m=10)
    with pytest.raises(TypeError, match="`b`"):
        linf_regression(a, b.to(torch.int64), m=10)
    dependent = torch.cat((a, a[:, :1] - 2 * a[:, 1:2]), 1)
    empty = a.clone()
    empty[:, 2] = 0
    for m in (20, 50):
        with pytest.raises(ValueError, match="rank 4, below its 5 columns"):
            linf_regression(dependent, b, m=m)
        with pytest.raises(ValueError, match="rank 3, below its 4 columns"):
            linf_regression(empty, b, m=m)
        for where in (a, b):
            broken = where.clone()
            broken[7] = math.nan
            with pytest.raises(ValueError, match="row 7 is not finite"):
                linf_regression(broken if where is a else a, broken if where is b else b, m=m)
    with pytest.raises(ValueError, match="rank"):
        linf_bound(dependent, 1.0, 20, 0.1)
    with pytest.raises(ValueError, match="`residual_norm`"):
        linf_bound(a, -1.0, 20, 0.1)
    with pytest.raises(ValueError, match="`m`"):
        linf_bound(a, 1.0, 4, 0.1)
    with pytest.raises(ValueError, match="`d`"):
        oce_sketch_size(10, 9, 0.1, 0.1)
    with pytest.raises(ValueError, match="`n`"):
        oce_constants("srht", 10, 0, 0.1)
    with pytest.raises(ValueError, match="`nnz_per_col`"):
        linf_hard_instance(3, 10, 0)
