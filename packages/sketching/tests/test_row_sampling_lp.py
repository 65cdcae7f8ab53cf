"""Probabilities that sum to the size, and weights that make sums unbiased."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.lp.lewis import lewis_weights
from lemmata.sketching.lp.sampling import (
    Coreset,
    probabilities_from_scores,
    sample_rows,
    sampling_probabilities,
)
from lemmata.sketching.lp.sensitivity import lp_sensitivities

SCHEMES = ["lewis", "sensitivity", "root_leverage", "leverage_plus_sensitivity", "uniform"]


def heavy(n: int, d: int) -> Tensor:
    """Return a Gaussian matrix with some heavy rows."""
    a = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[: n // 50] *= 100
    return a


def by_bisection(scores: Tensor, size: int) -> Tensor:
    """Return min(1, scores / alpha) that sum to the size, by bisection in logarithms."""
    low, high = 1e-9 * scores.max().item(), scores.sum().item()
    for _ in range(100):
        alpha = math.sqrt(low) * math.sqrt(high)
        low, high = (alpha, high) if (scores / alpha).clamp(max=1).sum() > size else (low, alpha)
    return (scores / alpha).clamp(max=1)


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-100, 1e100), st.floats(0.1, 10)), min_size=1, max_size=60),
    st.integers(1, 60),
)
@settings(deadline=None, max_examples=80)
def test_probabilities_sum_to_the_size(values, size):
    scores = torch.tensor(values, dtype=torch.float64)
    q = probabilities_from_scores(scores, size, uniform=0.0)
    positive = int((scores > 0).sum())
    assert q.sum().item() == pytest.approx(min(size, positive), rel=1e-12)
    assert ((q == 0) == (scores == 0)).all() or scores[scores > 0].min() < 1e-150 * scores.max()


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=60), st.data())
@settings(deadline=None, max_examples=40)
def test_probabilities_are_those_of_bisection(values, data):
    size = data.draw(st.integers(1, len(values) - 1))
    scores = torch.tensor(values, dtype=torch.float64)
    q = probabilities_from_scores(scores, size, uniform=0.0)
    torch.testing.assert_close(q, by_bisection(scores, size), rtol=1e-9, atol=0)


def test_an_even_part_is_mixed_in():
    scores = torch.tensor([1e6, 1.0, 1.0, 1e-9, 0.0], dtype=torch.float64)
    q = probabilities_from_scores(scores, 2, uniform=0.2)
    assert q.sum().item() == pytest.approx(2)
    assert q[3] > 0.05
    assert q[4] == 0
    torch.testing.assert_close(
        probabilities_from_scores(scores, 2, uniform=1.0)[:4], torch.full((4,), 0.5).double()
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("p", [1, 1.5, 4])
def test_schemes(scheme, p):
    a = heavy(500, 4)
    a[[17, 400]] = 0
    q = sampling_probabilities(a, p, 60, scheme)
    assert q.sum().item() == pytest.approx(60, rel=1e-12)
    assert (q[[17, 400]] == 0).all()
    assert int((q > 0).sum()) == 498
    torch.testing.assert_close(sampling_probabilities(a.to_sparse_csr(), p, 60, scheme), q)
    assert sampling_probabilities(a.float(), p, 60, scheme).dtype == torch.float32


def test_schemes_are_what_they_say():
    a, p = heavy(300, 3), 3.0
    tau, sigma = leverage_scores(a), lp_sensitivities(a, p)
    scores = {
        "lewis": lewis_weights(a, p),
        "sensitivity": sigma,
        "root_leverage": tau**1.5,
        "leverage_plus_sensitivity": tau + sigma,
        "uniform": torch.ones(300, dtype=torch.float64),
    }
    for scheme, score in scores.items():
        q = sampling_probabilities(a, p, 40, scheme, sensitivities="exact")
        torch.testing.assert_close(q, probabilities_from_scores(score, 40), rtol=1e-2, atol=0)


def test_heavy_rows_are_certain():
    q = sampling_probabilities(heavy(1000, 4), 1, 100)
    assert q[:20].min() > 3 * q[20:].max()


def test_weights_that_underflow_do_not_exclude_a_row():
    a = torch.cat((torch.ones(50, 1), torch.full((50, 1), 1e-9))).double()
    q = sampling_probabilities(a, 60, 10, uniform=0.0)
    assert (q > 0).all()


def test_all_rows():
    a = heavy(50, 2)
    a[3] = 0
    q = sampling_probabilities(a, 1, 50)
    assert q.tolist() == [float(i != 3) for i in range(50)]
    coreset = sample_rows(q)
    assert len(coreset) == 49
    assert (coreset.weights == 1).all()


@pytest.mark.parametrize("p", [1, 3])
def test_weighted_cost_is_unbiased(p):
    a = heavy(200, 3)
    cost = (a @ torch.ones(3, dtype=torch.float64)).abs() ** p
    q = sampling_probabilities(a, p, 30)
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([sample_rows(q, generator).estimate(cost) for _ in range(2000)])
    assert abs(draws.mean() - cost.sum()) <= 5 * draws.std() / math.sqrt(2000)
    # Independent draws: the variance is known.
    assert draws.var().item() == pytest.approx(((1 / q - 1) * cost**2).sum().item(), rel=0.25)


def test_both_weight_conventions_give_the_same_cost():
    a, x, p = heavy(300, 3), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 1.5
    coreset = sample_rows(sampling_probabilities(a, p, 50), torch.Generator().manual_seed(0))
    by_loss = (coreset.weights * (coreset.take(a) @ x).abs() ** p).sum()
    by_rows = ((coreset.scale(p)[:, None] * coreset.take(a)) @ x).abs().pow(p).sum()
    torch.testing.assert_close(by_loss, by_rows)
    torch.testing.assert_close(coreset.estimate((a @ x).abs() ** p), by_loss)
    assert (coreset.weights * coreset.probabilities - 1).abs().max() < 1e-15
    assert (coreset.indices.diff() > 0).all()


def test_the_number_of_rows_and_the_generator():
    q = torch.full((10_000,), 0.1)
    first = sample_rows(q, torch.Generator().manual_seed(5))
    assert abs(len(first) - 1000) < 5 * 30
    assert (sample_rows(q, torch.Generator().manual_seed(5)).indices == first.indices).all()


def test_estimate_of_matrices():
    coreset = Coreset(torch.tensor([0, 2]), torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1 / 3]))
    values = torch.arange(12.0).reshape(3, 2, 2)
    assert (coreset.estimate(values) == 2 * values[0] + 3 * values[2]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 3}, r"`size` \(=3\) must lie in .* \[4, 20\]"),
        ({"size": 21}, r"`size` \(=21\) must lie in .* \[4, 20\]"),
        ({"p": 0.5}, "`p`"),
        ({"p": math.inf}, "`p`"),
        ({"scheme": "luck"}, "'luck'"),
        ({"uniform": 1.5}, "`uniform`"),
        ({"scheme": "sensitivity", "sensitivities": "guess"}, "'guess'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sampling_probabilities(heavy(20, 3), **({"p": 1.0, "size": 10} | options))


def test_bad_scores_and_probabilities():
    with pytest.raises(ValueError, match=r"`scores\[1\]` \(=-1.0\)"):
        probabilities_from_scores(torch.tensor([1.0, -1.0]), 1)
    with pytest.raises(ValueError, match=r"`scores\[0\]` \(=nan\)"):
        probabilities_from_scores(torch.tensor([torch.nan, 1.0]), 1)
    with pytest.raises(ValueError, match="vector of floats"):
        probabilities_from_scores(torch.tensor([1, 2]), 1)
    with pytest.raises(ValueError, match="`size`"):
        probabilities_from_scores(torch.ones(3), 0)
    with pytest.raises(ValueError, match=r"`q\[2\]` \(=1.5\)"):
        sample_rows(torch.tensor([0.0, 1.0, 1.5]))
    with pytest.raises(ValueError, match=r"`q\[0\]` \(=nan\)"):
        sample_rows(torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="vector of floats"):
        sample_rows(torch.ones(2, 2))


def test_nothing_to_sample():
    assert probabilities_from_scores(torch.zeros(4), 2).tolist() == [0] * 4
    assert len(sample_rows(torch.zeros(4))) == 0
    assert len(sample_rows(torch.zeros(0))) == 0
