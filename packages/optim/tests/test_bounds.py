import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lemmata.optim.schedules import last_iterate_bound, optimal_schedule, refine_schedule


def double_loop(eta, G, D):
    """Return the bound as its formula is printed."""
    T = len(eta)
    S = [sum(eta[t] for t in range(k, T)) for k in range(T)]
    Q = [sum(eta[t] ** 2 * G[t] ** 2 for t in range(k, T)) for k in range(T)]
    last = sum(eta[k] / S[k + 1] * (Q[k] / S[k]) for k in range(T - 1))
    return D**2 / (2 * S[0]) + Q[0] / (2 * S[0]) + 0.5 * last


def norm_sequence(seed, steps=60, spread=0.7):
    return (
        spread * torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).exp()


def linear(steps):
    return torch.linspace(1, 0, steps, dtype=torch.float64)


def at_best_factor(schedule, norms, distance):
    """Return the least bound of a schedule over its base learning rate, by scipy's search."""
    found = optimize.minimize_scalar(
        lambda log_lr: float(last_iterate_bound(math.exp(log_lr) * schedule, norms, distance)),
        bounds=(-25, 25),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return found.fun


@given(
    lrs=st.lists(st.floats(1e-3, 10), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
    distance=st.floats(0.01, 100),
)
@settings(max_examples=100, deadline=None)
def test_bound_equals_the_double_loop(lrs, seed, distance):
    norms = norm_sequence(seed, len(lrs))
    bound = last_iterate_bound(torch.tensor(lrs, dtype=torch.float64), norms, distance)
    assert float(bound) == pytest.approx(double_loop(lrs, norms.tolist(), distance), rel=1e-11)


def test_zeros_inside_equal_the_double_loop():
    lrs, norms = [0.0, 0.0, 0.3, 0.0, 0.2], norm_sequence(0, 5)
    bound = last_iterate_bound(torch.tensor(lrs), norms, 2.0)
    assert float(bound) == pytest.approx(double_loop(lrs, norms.tolist(), 2.0), rel=1e-6)


@pytest.mark.parametrize("zeros", [1, 2, 7])
def test_trailing_zeros_count_as_one_that_repeats_the_last_step(zeros):
    norms = norm_sequence(1, 20)
    moving = 0.1 * linear(21 - zeros)[:-1]
    lrs = torch.cat([moving, torch.zeros(zeros, dtype=torch.float64)])
    eta = [*moving.tolist(), float(moving[-1])]
    assert float(last_iterate_bound(lrs, norms, 1.0)) == pytest.approx(
        double_loop(eta, norms.tolist()[: len(eta)], 1.0), rel=1e-12
    )


def test_finite_on_schedules_that_end_at_zero():
    norms = norm_sequence(2, 1000)
    for schedule in (linear(1000), refine_schedule(norms)):
        assert math.isfinite(last_iterate_bound(schedule, norms, 1.0))


def test_infinite_where_nothing_moves():
    assert float(last_iterate_bound(torch.zeros(3), torch.ones(3), 1.0)) == math.inf


def test_linear_decay_is_near_twice_the_sharp_bound_and_flat_worse_by_a_logarithm():
    steps, norms = 10_000, torch.ones(10_000)
    sharp = 1 / math.sqrt(steps)  # D G / sqrt(T)
    flat = torch.ones(steps, dtype=torch.float64)
    assert at_best_factor(linear(steps), norms, 1.0) == pytest.approx(2 * sharp, rel=1e-3)
    assert at_best_factor(flat, norms, 1.0) > math.sqrt(math.log(steps)) * sharp


@pytest.mark.parametrize("last", [0.3, 0.0])
def test_differentiable_in_the_learning_rates(last):
    norms = norm_sequence(3, 8)
    lrs = torch.tensor([0.5, 0.4, 0.7, 0.2, 0.3, 0.3, 0.1, last], dtype=torch.float64, requires_grad=True)
    lrs_moving = lrs[:7].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda moving: last_iterate_bound(torch.cat([moving, lrs[7:].detach()]), norms, 2.0), lrs_moving
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("smoothing", [0.001, 0.1])
def test_optimal_schedule_beats_linear_and_refined(seed, smoothing):
    norms, distance = norm_sequence(seed, spread=0.2 * (1 + seed % 6)), 10.0 ** (seed % 5 - 2)
    optimal = float(last_iterate_bound(optimal_schedule(norms, distance), norms, distance))
    assert optimal <= at_best_factor(linear(len(norms)), norms, distance) * (1 + 1e-9)
    refined = refine_schedule(norms, smoothing=smoothing)
    assert optimal <= at_best_factor(refined, norms, distance) * 1.05


def test_optimal_schedule_is_as_good_as_scipys():
    norms = norm_sequence(4, 15)

    def bound(log_lrs):
        lrs = torch.tensor(log_lrs, dtype=torch.float64, requires_grad=True)
        value = last_iterate_bound(torch.cat([lrs, lrs[-1:]]).exp(), norms, 3.0)
        value.backward()
        return value.item(), lrs.grad.numpy()

    starts = np.random.default_rng(0).normal(size=(10, 14))
    reference = min(
        optimize.minimize(bound, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).fun
        for start in starts
    )
    assert float(last_iterate_bound(optimal_schedule(norms, 3.0), norms, 3.0)) <= reference * (1 + 1e-6)


def test_optimal_schedule_scales_with_distance_and_norms():
    norms = norm_sequence(5)
    optimal = optimal_schedule(norms, 1.0)
    torch.testing.assert_close(optimal_schedule(4 * norms, 2.0), optimal / 2, rtol=1e-9, atol=0)
    assert optimal[-1] == 0


def test_optimal_schedule_of_constant_norms_is_near_linear():
    optimal = optimal_schedule(torch.ones(400), 1.0)
    deviation = (optimal / optimal[0] - linear(400)).abs().max()
    assert float(deviation) < 0.02


def test_subgradient_method_ends_below_the_bound_on_100_random_problems():
    # Least absolute deviations: f(x) = mean |A x - b|, its minimiser by scipy's linear programming.
    rng = np.random.default_rng(0)
    steps = 60
    schedules = [torch.ones(steps, dtype=torch.float64), linear(steps), linear(steps).sqrt()]
    ratios = []
    for problem in range(100):
        d, n = int(rng.integers(1, 6)), int(rng.integers(6, 25))
        A, b = rng.normal(size=(n, d)) * np.exp(rng.normal(size=d)), rng.normal(size=n)
        solved = optimize.linprog(
            np.r_[np.zeros(d), np.ones(n) / n],
            A_ub=np.block([[A, -np.eye(n)], [-A, -np.eye(n)]]),
            b_ub=np.r_[b, -b],
            bounds=[(None, None)] * d + [(0, None)] * n,
        )
        start = 3 * rng.normal(size=d)
        distance = np.linalg.norm(start - solved.x[:d])
        lr = 10 ** rng.uniform(-2, 1)
        lrs = lr * schedules[problem % 3]
        x, norms = start, []
        for t in range(steps):
            g = A.T @ np.sign(A @ x - b) / n
            norms.append(max(np.linalg.norm(g), 1e-12))
            value = np.abs(A @ x - b).mean() - solved.fun
            x = x - float(lrs[t]) * g
        ratios.append(value / float(last_iterate_bound(lrs, torch.tensor(norms), distance)))
    assert max(ratios) <= 1
    assert max(ratios) > 0.1  # a bound no run comes near would pass for nothing


@pytest.mark.parametrize(
    ("lrs", "norms", "distance", "message"),
    [
        ([1.0], [], 1.0, "`norms` must have one axis"),
        ([1.0, 1.0], [1.0], 1.0, "`lrs` must have 1 entries"),
        ([1.0, -1.0], [1.0, 1.0], 1.0, r"`lrs`.*number 1 \(=-1\)"),
        ([float("nan"), 1.0], [1.0, 1.0], 1.0, r"`lrs`.*number 0 \(=nan\)"),
        ([1.0, 1.0], [1.0, 0.0], 1.0, r"`norms`.*number 1 \(=0\)"),
        ([1.0, 1.0], [1.0, 1.0], 0.0, r"`distance` \(=0.0\)"),
        ([1.0, 1.0], [1.0, 1.0], float("inf"), r"`distance` \(=inf\)"),
    ],
)
def test_bound_names_what_does_not_fit(lrs, norms, distance, message):
    with pytest.raises(ValueError, match=message):
        last_iterate_bound(torch.tensor(lrs), torch.tensor(norms), distance)


def test_optimal_schedule_names_what_does_not_fit():
    with pytest.raises(ValueError, match="at least 2"):
        optimal_schedule(torch.ones(1), 1.0)
    with pytest.raises(ValueError, match=r"`distance` \(=-1.0\)"):
        optimal_schedule(torch.ones(4), -1.0)
    with pytest.raises(ValueError, match=r"number 1 \(=inf\)"):
        optimal_schedule(torch.tensor([1.0, math.inf]), 1.0)
