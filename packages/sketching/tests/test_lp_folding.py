"""Folded rows: a bound at any coefficients, the exact answer where signs hold, the same for any chunks."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.lp.bound import DualSums, NewtonSums
from lemmata.sketching.lp.folding import FoldedRows
from lemmata.sketching.lp.losses import PowerLoss
from lemmata.sketching.lp.regression import lp_regression


def problem(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, d, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    return A, A.sum(1) + noise / torch.rand(n, dtype=torch.float64, generator=generator)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    away=st.floats(-6, 2).map(lambda e: 10**e),
    n=st.integers(4, 80),
    keep=st.integers(3, 80),
    weighted=st.booleans(),
)
def test_the_bound_holds_whatever_the_coefficients(seed, away, n, keep, weighted):
    A, b = problem(n, 3, seed)
    torch.manual_seed(seed)
    w = 10 ** (4 * torch.rand(n, dtype=torch.float64) - 2) if weighted else None
    fit = lp_regression(A, b, 1, w)
    x = fit.x + away * torch.randn(3, dtype=torch.float64)
    folded = FoldedRows.partial(A, b - A @ x, w, keep=keep)
    found = folded.solve()
    assert found.lower_bound <= fit.cost * (1 + 1e-12)
    assert folded.cost >= fit.cost * (1 - 1e-12)
    if keep >= n:  # nothing is folded
        assert math.isclose(found.lower_bound, fit.cost, rel_tol=1e-9)


def test_one_pass_from_a_coreset_is_exact():
    A, b = problem(20000, 5, seed=0)
    fit = lp_regression(A, b, 1)
    start = lp_regression(A[:2000], b[:2000], 1).x
    found = FoldedRows.partial(A, b - A @ start, keep=3000).solve()
    assert math.isclose(found.lower_bound, fit.cost, rel_tol=1e-12)
    assert math.isclose((b - A @ (start + found.step)).abs().sum(), fit.cost, rel_tol=1e-12)


def test_newton_steps_bring_few_rows_near_enough():
    A, b = problem(20000, 5, seed=1)
    fit = lp_regression(A, b, 1)
    x = lp_regression(A[:500], b[:500], 1).x
    for levels in ((0.3, 0.1), (0.03, 0.01)):
        newton = NewtonSums.partial(PowerLoss(1.0), A, b - A @ x, levels=levels)
        level, place, _ = DualSums.partial(newton, A, b - A @ x).best()
        x = x + place * newton.steps()[level]
    folded = FoldedRows.partial(A, b - A @ x, keep=500)
    found = folded.solve()
    assert folded.cost > fit.cost * (1 + 1e-9)
    assert math.isclose(found.lower_bound, fit.cost, rel_tol=1e-12)
    assert math.isclose((b - A @ (x + found.step)).abs().sum(), fit.cost, rel_tol=1e-12)


def test_any_chunks_give_the_same():
    A, b = problem(1000, 4, seed=2)
    w = torch.rand(1000, dtype=torch.float64).round(decimals=1)
    whole = FoldedRows.partial(A, b, w, keep=60)
    parts = [FoldedRows.partial(A[i], b[i], w[i], keep=60) for i in torch.arange(1000).tensor_split(13)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    torch.testing.assert_close(total.rows, whole.rows)
    torch.testing.assert_close(total.folded, whole.folded)
    torch.testing.assert_close(total.folded_residual, whole.folded_residual)
    assert len(total.rows) == 60


def test_states_survive_a_file():
    A, b = problem(50, 2, seed=3)
    folded = FoldedRows.partial(A.float(), b.float(), keep=10)
    file = io.BytesIO()
    torch.save(folded.state_dict(), file)
    file.seek(0)
    back = FoldedRows.from_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(back.solve().step, folded.solve().step)


def test_bad_input():
    with pytest.raises(ValueError, match="`keep`"):
        FoldedRows.partial(torch.ones(2, 1), torch.ones(2), keep=0)
    one, two = (FoldedRows.partial(torch.ones(2, 1), torch.ones(2), keep=k) for k in (1, 2))
    with pytest.raises(ValueError, match="different `keep`"):
        one + two
    with pytest.raises(ValueError, match="too few"):
        FoldedRows.partial(torch.ones(4, 3), torch.ones(4), keep=2).solve()
