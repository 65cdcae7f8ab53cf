import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize

from lemmata.optim.schedules import fit_polynomial, refine_schedule
from lemmata.optim.schedules.refinement import median_filter

positive = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=60)


def brute_force(norms, p, smoothing, weights=None):
    """Return the schedule by loops, with scipy's filter at each end."""
    T = len(norms)
    width = 2 * int(smoothing * T / 2) + 1
    nearest = ndimage.median_filter(norms, width, mode="nearest")
    reflect = ndimage.median_filter(norms, width, mode="reflect")
    smooth = np.where(np.arange(T) < T - width // 2, nearest, reflect)
    w = smooth**-p * (1 if weights is None else weights)
    eta = np.array([w[t] * sum(w[s] for s in range(t + 1, T)) for t in range(T)])
    return eta / eta.max()


@pytest.mark.parametrize("steps", [2, 3, 10, 999, 10_000])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("level", [1e-30, 0.3, 1e30])
def test_constant_norms_give_linear_decay(steps, p, level):
    refined = refine_schedule(torch.full((steps,), level, dtype=torch.float64), p=p)
    linear = (steps - torch.arange(1, steps + 1, dtype=torch.float64)) / (steps - 1)
    torch.testing.assert_close(refined, linear, rtol=0, atol=1e-12)
    assert refined[-1] == 0


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("smoothing", [0.01, 0.1, 0.37, 0.99])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_loops_with_scipys_filter(p, smoothing, weighted):
    rng = np.random.default_rng(0)
    for steps in (2, 5, 20, 61):
        norms = np.exp(rng.normal(size=steps))
        weights = np.exp(rng.normal(size=steps)) if weighted else None
        ours = refine_schedule(
            torch.from_numpy(norms),
            p=p,
            smoothing=smoothing,
            weights=None if weights is None else torch.from_numpy(weights),
        )
        np.testing.assert_allclose(
            ours.numpy(), brute_force(norms, p, smoothing, weights), rtol=1e-12, atol=1e-15
        )


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5, 7.0]) | st.floats(-9, 9), min_size=1, max_size=80),
    fraction=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=200, deadline=None)
def test_median_filter_is_scipys_with_a_mode_at_each_end(values, fraction):
    array = np.array(values)
    half = int(fraction * len(array) / 2)
    width = 2 * half + 1
    filtered = median_filter(torch.tensor(values, dtype=torch.float64), width).numpy()
    nearest = ndimage.median_filter(array, width, mode="nearest")
    reflect = ndimage.median_filter(array, width, mode="reflect")
    np.testing.assert_array_equal(filtered[: len(array) - half], nearest[: len(array) - half])
    np.testing.assert_array_equal(filtered[half:], reflect[half:])


@given(norms=positive, p=st.sampled_from([1, 2]), factor=st.floats(1e-12, 1e12))
@settings(max_examples=100, deadline=None)
def test_laws(norms, p, factor):
    norms = torch.tensor(norms, dtype=torch.float64)
    refined = refine_schedule(norms, p=p)
    assert refined.max() == 1
    assert refined.min() == refined[-1] == 0
    torch.testing.assert_close(refine_schedule(factor * norms, p=p), refined, rtol=1e-10, atol=1e-14)


def test_falling_norms_give_warm_up():
    for p, first in ((1, 0.4), (2, 0.2)):
        refined = refine_schedule(torch.logspace(0, -1, 200), p=p)
        assert refined[0] < first
        assert refined.argmax() > 100


def test_rising_norms_give_faster_annealing():
    refined = refine_schedule(torch.logspace(0, 1, 200))
    linear = torch.linspace(1, 0, 200, dtype=torch.float64)
    assert refined.argmax() == 0
    assert bool((refined <= linear + 1e-12).all())


def test_spikes_are_filtered():
    norms = torch.ones(200)
    spiked = norms.clone()
    spiked[[40, 41, 120, 199]] = 1000.0
    torch.testing.assert_close(refine_schedule(spiked), refine_schedule(norms))


@pytest.mark.parametrize("steps", [2, 37, 100, 101, 1000])
def test_another_length_interpolates_smoothed_norms(steps):
    norms = torch.linspace(3, 1, 100, dtype=torch.float64)
    refined = refine_schedule(norms, smoothing=0.001, total_steps=steps)
    w = np.interp(np.linspace(0, 99, steps), np.arange(100), norms.numpy()) ** -2.0
    eta = w * (w.sum() - np.cumsum(w))
    np.testing.assert_allclose(refined.numpy(), eta / eta.max(), rtol=1e-9, atol=1e-12)


def test_one_recorded_norm_gives_linear_decay():
    expected = torch.linspace(1, 0, 9, dtype=torch.float64)
    torch.testing.assert_close(refine_schedule(torch.tensor([2.0]), total_steps=9), expected)


def test_is_the_form_of_the_theorem():
    # eta_t / w_t falls to zero as the share of the weights still to come does.
    norms = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    refined = refine_schedule(norms, smoothing=1e-6)
    w = norms**-2
    ratio = refined / w
    share = 1 - w.cumsum(0) / w.sum()
    torch.testing.assert_close(ratio / ratio[0], share / share[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_takes_any_dtype(dtype):
    refined = refine_schedule(torch.full((20,), 2).to(dtype))
    assert refined.dtype == torch.float64
    torch.testing.assert_close(refined, torch.linspace(1, 0, 20, dtype=torch.float64))


@pytest.mark.parametrize(
    ("norms", "options", "message"),
    [
        ([], {}, "`norms` must have one axis and at least one entry"),
        ([[1.0, 2.0]], {}, "`norms` must have one axis"),
        ([1.0, 2.0, float("nan"), -1.0], {}, r"`norms`.*number 2 \(=nan\)"),
        ([1.0, float("inf")], {}, r"number 1 \(=inf\)"),
        ([1.0, 1.0, 0.0], {}, r"number 2 \(=0\)"),
        ([-1.0, 1.0], {}, r"number 0 \(=-1\)"),
        ([1.0, 1.0], {"smoothing": 0.0}, r"`smoothing` \(=0\)"),
        ([1.0, 1.0], {"smoothing": 1.0}, r"`smoothing` \(=1\)"),
        ([1.0, 1.0], {"smoothing": float("nan")}, r"`smoothing` \(=nan\)"),
        ([1.0, 1.0], {"p": 3}, r"`p` \(=3\)"),
        ([1.0, 1.0], {"weights": torch.ones(3)}, "`weights` must have 2 entries"),
        ([1.0, 1.0], {"weights": torch.tensor([1.0, 0.0])}, r"`weights`.*number 1 \(=0\)"),
        ([1.0, 1.0], {"total_steps": 1}, "at least 2 steps, not 1"),
        ([1.0], {}, "at least 2 steps, not 1"),
    ],
)
def test_names_what_does_not_fit(norms, options, message):
    with pytest.raises(ValueError, match=message):
        refine_schedule(torch.tensor(norms), **options)


def polynomial(warmup, power, steps):
    u = np.linspace(0, 1, steps)
    return np.where(u < warmup, u / max(warmup, 1e-300), ((1 - u) / (1 - warmup)).clip(0, 1) ** power)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.7])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("steps", [60, 512, 3000])
def test_fit_recovers_a_polynomial(warmup, power, steps):
    found = fit_polynomial(torch.from_numpy(3.0 * polynomial(warmup, power, steps)))
    # A schedule whose peak falls between two steps, or is resampled, pins its place down to a step.
    assert found[0] == pytest.approx(warmup, abs=1.5 / min(steps, 512))
    assert found[1] == pytest.approx(power, rel=0.06)


def test_fit_of_an_exact_member_is_exact():
    found = fit_polynomial(torch.from_numpy(polynomial(0.25, 1.5, 101)))
    assert found == pytest.approx((0.25, 1.5), abs=1e-6)


def test_fit_is_no_worse_than_scipys_global_search():
    schedule = refine_schedule(torch.linspace(2, 1, 120, dtype=torch.float64) ** 1.5).numpy()

    def error(x):
        return ((polynomial(x[0], 2.0 ** x[1], 120) - schedule) ** 2).mean()

    reference = optimize.differential_evolution(error, [(0, 0.999), (-4, 4)], seed=0, tol=1e-10, maxiter=100)
    warmup, power = fit_polynomial(torch.from_numpy(schedule))
    assert error([warmup, np.log2(power)]) <= reference.fun * (1 + 1e-6)


@pytest.mark.parametrize(
    "schedule", [[1.0, 0.0], [[1.0]], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, float("nan"), 0]]
)
def test_fit_names_what_does_not_fit(schedule):
    with pytest.raises(ValueError, match="`schedule` must have"):
        fit_polynomial(torch.tensor(schedule))
