"""Lower bounds and steps from sums over rows: valid always, tight near the best, the same for any chunks."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.lp.bound import PLACES, DualSums, NewtonSums
from lemmata.sketching.lp.huber import huber_regression
from lemmata.sketching.lp.losses import HuberLoss, PowerLoss
from lemmata.sketching.lp.regression import lp_regression

LOSSES = [PowerLoss(1.0), PowerLoss(1.1), PowerLoss(1.5), PowerLoss(2.0), PowerLoss(4.0), HuberLoss(0.7)]


def best(A, b, loss, w=None):
    fit = (
        lp_regression(A, b, loss.p, w)
        if isinstance(loss, PowerLoss)
        else huber_regression(A, b, loss.delta, w)
    )
    assert fit.converged
    return fit


def certify(A, b, x, loss, w=None, chunks=1, levels=(1.0, 0.3, 0.1, 0.03)):
    """Two passes in chunks, over rows in the coordinates of a rough preconditioner."""
    R = torch.linalg.qr(A[:: max(1, len(A) // (4 * A.shape[1]))])[1]
    basis = torch.linalg.solve_triangular(R, A, upper=True, left=False)
    parts = torch.arange(len(A)).tensor_split(chunks)
    r = b - A @ x
    take = (lambda part: None) if w is None else (lambda part: w[part])
    newton = None
    for part in parts:
        sums = NewtonSums.partial(loss, basis[part], r[part], take(part), levels=levels)
        newton = sums if newton is None else newton + sums
    dual = None
    for part in parts:
        sums = DualSums.partial(newton, basis[part], r[part], take(part))
        dual = sums if dual is None else dual + sums
    return newton, dual, R


def problem(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, d, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    return A, A.sum(1) + noise / torch.rand(n, dtype=torch.float64, generator=generator)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(LOSSES),
    away=st.floats(-8, 2).map(lambda e: 10**e),
    n=st.integers(4, 80),
    weighted=st.booleans(),
    level=st.floats(-6, 2).map(lambda e: 10**e),
)
def test_the_bound_holds_whatever_the_coefficients(seed, loss, away, n, weighted, level):
    A, b = problem(n, 3, seed)
    torch.manual_seed(seed)
    w = 10 ** (6 * torch.rand(n, dtype=torch.float64) - 3) if weighted else None
    fit = best(A, b, loss, w)
    x = fit.x + away * torch.randn(3, dtype=torch.float64)
    newton, dual, _ = certify(A, b, x, loss, w, levels=(level, 0.1 * level))
    assert 0 <= dual.lower_bound(newton) <= fit.cost * (1 + 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_tight_near_the_best(loss):
    A, b = problem(20000, 5, seed=0)
    fit = best(A, b, loss)
    few = best(A[:2000], b[:2000], loss) if getattr(loss, "p", 1) < 2 or isinstance(loss, HuberLoss) else None
    x = fit.x + 0.02 if few is None else few.x
    newton, dual, R = certify(A, b, x, loss)
    excess = newton.cost / fit.cost - 1
    gap = newton.cost / dual.lower_bound(newton) - 1
    assert 0 < excess < 0.05
    # Steps push rows out of the box of the duals of l_1 and Huber's loss, which costs the first bound.
    loose = {PowerLoss(1.0): 0.05, HuberLoss(0.7): 0.5}.get(loss, 5 * excess)
    assert excess <= gap + 1e-13
    assert gap <= loose
    # The step met on the way is better than the start, and its cost is what was added up.
    level, place, cost = dual.best()
    moved = x + place * torch.linalg.solve_triangular(R, newton.steps()[level][:, None], upper=True)[:, 0]
    assert math.isclose(loss.value(b - A @ moved).sum(), cost, rel_tol=1e-12)
    assert cost < newton.cost
    assert cost / fit.cost - 1 <= 0.3 * excess
    # Another round of two passes closes in.
    again, second, _ = certify(A, b, moved, loss, levels=(0.1, 0.03, 0.01, 0.003))
    assert again.cost / second.lower_bound(again) - 1 <= 0.01 * gap + 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_any_chunks_give_the_same(loss):
    A, b = problem(500, 4, seed=1)
    w = torch.rand(500, dtype=torch.float64).round(decimals=1)  # some weights are zero
    x = torch.ones(4, dtype=torch.float64)
    one, dual, _ = certify(A, b, x, loss, w)
    many, parts, _ = certify(A, b, x, loss, w, chunks=17)
    torch.testing.assert_close(many.cost, one.cost)
    torch.testing.assert_close(many.steps(), one.steps(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts.lower_bound(many), dual.lower_bound(one), rtol=1e-9, atol=0)
    torch.testing.assert_close(parts.costs, dual.costs)
    assert many.rows == int((w > 0).sum())


def test_cost_along_the_way():
    A, b = problem(50, 2, seed=2)
    newton, dual, _ = certify(A, b, torch.zeros(2, dtype=torch.float64), PowerLoss(1.5))
    assert dual.costs.shape == (4, len(PLACES))
    assert (dual.costs[:, 0] == newton.cost).all()


def test_states_survive_a_file():
    for loss in LOSSES:
        A, b = problem(30, 2, seed=3)
        newton, dual, _ = certify(A, b, torch.zeros(2, dtype=torch.float64), loss)
        for sums in (newton, dual):
            file = io.BytesIO()
            torch.save(sums.state_dict(), file)
            file.seek(0)
            back = type(sums).from_state_dict(torch.load(file, weights_only=True))
            assert back.loss == loss
        assert back.lower_bound(newton) == dual.lower_bound(newton)


def test_an_empty_chunk_adds_nothing():
    A, b = problem(30, 2, seed=4)
    newton, dual, _ = certify(A, b, torch.zeros(2, dtype=torch.float64), PowerLoss(1.0))
    none = NewtonSums.partial(PowerLoss(1.0), A[:0], b[:0], levels=newton.levels)
    assert torch.equal((newton + none).steps(), newton.steps())
    assert torch.equal(
        (dual + DualSums.partial(newton, A[:0], b[:0])).lower_bound(newton), dual.lower_bound(newton)
    )


def test_a_direction_without_curvature():
    # All residuals beyond Huber's threshold: no curvature, no step, and still a bound.
    A, b = torch.ones(4, 1, dtype=torch.float64), torch.tensor([-9.0, -8.0, 8.0, 9.0], dtype=torch.float64)
    newton, dual, _ = certify(A, b, torch.zeros(1, dtype=torch.float64), HuberLoss(1.0))
    assert not newton.steps().any()
    assert math.isclose(dual.lower_bound(newton), newton.cost, rel_tol=1e-12)


def test_float32_sums_are_double():
    A, b = problem(40, 2, seed=5)
    sums = NewtonSums.partial(HuberLoss(1.0), A.float(), b.float())
    assert sums.curvature.dtype == torch.float64


@pytest.mark.parametrize("levels", [(), (0.0,), (-1.0, 1.0)])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match="`levels`"):
        NewtonSums.partial(PowerLoss(1.0), torch.ones(2, 1), torch.ones(2), levels=levels)


def test_sums_of_different_problems_do_not_add():
    first = NewtonSums.partial(PowerLoss(2.0), torch.ones(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match="different losses or levels"):
        first + NewtonSums.partial(PowerLoss(3.0), torch.ones(2, 1), torch.ones(2))
