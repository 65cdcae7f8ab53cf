"""l_p sensitivities against brute force over directions, and the bounds that hold between scores."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.lp.lewis import lewis_weights
from lemmata.sketching.lp.sensitivity import lp_sensitivities

EXPONENTS = [1, 1.05, 1.5, 2, 3, 4, 8]


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    """Return a Gaussian matrix."""
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_brute_force(a: Tensor, p: float) -> Tensor:
    """Return the largest share of each row over a fine grid of directions in the plane."""
    angle = torch.linspace(0, torch.pi, 200_001, dtype=torch.float64)
    cost = (a @ torch.stack((angle.cos(), angle.sin()))).abs() ** p
    return (cost / cost.sum(0)).amax(1)


@pytest.mark.parametrize("p", EXPONENTS)
def test_sensitivities_are_those_of_brute_force(p):
    a = gaussian(30, 2)
    a[0] *= 30
    torch.testing.assert_close(lp_sensitivities(a, p), by_brute_force(a, p), rtol=1e-4, atol=0)


@pytest.mark.parametrize("p", [1.3, 3.0])
def test_sensitivities_are_those_of_a_general_optimizer(p):
    a = gaussian(40, 4)
    rows, target = a.numpy(), a[7].numpy()
    free = scipy.linalg.null_space(target[None, :])
    start = target / (target @ target)
    least = scipy.optimize.minimize(
        lambda y: (np.abs(rows @ (start + free @ y)) ** p).sum(), np.zeros(3), tol=1e-12
    )
    assert lp_sensitivities(a, p)[7].item() == pytest.approx(1 / least.fun, rel=1e-6)


def test_p_1_is_the_textbook_linear_program():
    a = gaussian(25, 3)
    n, d = a.shape
    rows = a.numpy()
    for i in (0, 11):
        solved = scipy.optimize.linprog(
            np.concatenate((np.zeros(d), np.ones(n))),
            A_ub=np.block([[rows, -np.eye(n)], [-rows, -np.eye(n)]]),
            b_ub=np.zeros(2 * n),
            A_eq=np.concatenate((rows[i], np.zeros(n)))[None, :],
            b_eq=[1.0],
            bounds=[(None, None)] * d + [(0, None)] * n,
        )
        assert lp_sensitivities(a, 1)[i].item() == pytest.approx(1 / solved.fun, rel=1e-7)


@pytest.mark.parametrize("p", EXPONENTS)
def test_bounds_hold(p):
    a = gaussian(60, 4)
    a[:3] *= 50
    exact = lp_sensitivities(a, p)
    n, d = a.shape
    w, tau = lewis_weights(a, p, 1e-9, 200), leverage_scores(a)
    excess = max(0.0, p / 2 - 1)
    slack = 1 + 1e-6
    assert (exact <= slack * d**excess * w).all()
    assert (exact <= slack * n**excess * tau ** (p / 2)).all()
    assert exact.sum() <= slack * d ** max(1.0, p / 2)
    assert exact.sum() >= 1
    upper = lp_sensitivities(a, p, "upper")
    assert (exact <= slack * upper).all()
    assert upper.max() <= 1


@given(st.integers(1, 4), st.integers(0, 20), st.sampled_from([1.2, 2, 3, 5]), st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_a_change_of_basis_changes_nothing(d, extra, p, seed):
    a = gaussian(d + extra, d, seed)
    t = gaussian(d, d, seed + 1) + 3 * torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(lp_sensitivities(a @ t, p), lp_sensitivities(a, p), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("p", EXPONENTS)
def test_a_lone_row_has_sensitivity_1_and_twins_share(p):
    lone = torch.tensor([[1e-3]], dtype=torch.float64)
    a = torch.block_diag(gaussian(10, 2), lone)
    assert lp_sensitivities(a, p)[-1].item() == pytest.approx(1, rel=1e-6)
    twins = torch.block_diag(gaussian(10, 2), torch.cat((lone, lone)))
    assert lp_sensitivities(twins, p)[-2:].tolist() == pytest.approx([0.5, 0.5], rel=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 3])
@pytest.mark.parametrize("method", ["exact", "upper"])
def test_zero_rows_and_rank(p, method):
    a = gaussian(30, 3)
    a[5] = 0
    reduced = lp_sensitivities(a[:, :2], p, method)
    a[:, 2] = a[:, 0] - a[:, 1]
    with pytest.warns(RuntimeWarning, match="rank 2 of 3"):
        scores = lp_sensitivities(a, p, method)
    assert scores[5] == 0
    torch.testing.assert_close(scores, reduced, rtol=1e-6, atol=0)
    with pytest.warns(RuntimeWarning, match="rank 0 of 2"):
        assert not lp_sensitivities(torch.zeros(4, 2), p, method).any()


@pytest.mark.parametrize(("n", "d"), [(1, 1), (9, 1), (4, 4)])
@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_small_shapes(n, d, p):
    a = gaussian(n, d)
    expected = torch.ones(n, dtype=torch.float64) if n == d else (a[:, 0].abs() ** p / (a.abs() ** p).sum())
    torch.testing.assert_close(lp_sensitivities(a, p), expected, rtol=1e-6, atol=0)


def test_large_exponents_do_not_overflow():
    a = gaussian(50, 2)
    a[0] *= 1e-6
    torch.testing.assert_close(lp_sensitivities(a, 60), by_brute_force(a, 60), rtol=1e-3, atol=0)


def test_float32_and_sparse():
    a = gaussian(40, 3)
    scores = lp_sensitivities(a.float(), 3)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), lp_sensitivities(a, 3), rtol=1e-4, atol=0)
    a[a.abs() < 0.5] = 0
    for method in ("exact", "upper"):
        sparse = lp_sensitivities(a.to_sparse_csr(), 1.5, method)
        torch.testing.assert_close(sparse, lp_sensitivities(a, 1.5, method), rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "n"), [(1, 600), (1.1, 2000), (4, 2000)])
def test_many_rows(p, n):
    a = gaussian(n, 8)
    a[:20] *= 100
    exact, upper = lp_sensitivities(a, p), lp_sensitivities(a, p, "upper")
    assert (exact <= (1 + 1e-6) * upper).all()
    assert 1 <= exact.sum() <= 8 ** max(1, p / 2)


def test_bad_input():
    with pytest.raises(ValueError, match="`p`"):
        lp_sensitivities(torch.ones(3, 1), 0.5)
    with pytest.raises(ValueError, match="'brute'"):
        lp_sensitivities(torch.ones(3, 1), 1, "brute")
    with pytest.raises(ValueError, match='2001 rows, more than 2000: take method="upper"'):
        lp_sensitivities(torch.ones(2001, 1), 1)
    with pytest.raises(ValueError, match="row 2"):
        lp_sensitivities(torch.tensor([1.0, 1.0, torch.nan])[:, None], 1)
