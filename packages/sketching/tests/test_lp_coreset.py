"""Regression on sampled rows, and the distortion of samples."""

import numpy as np
import pytest
import torch

from lemmata.sketching.lp.coreset import lp_coreset_regression, lp_distortion
from lemmata.sketching.lp.regression import lp_regression
from lemmata.sketching.lp.sampling import Coreset

SCHEMES = ["lewis", "root_leverage", "sensitivity", "uniform"]


def heavy(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, d))
    A[:20] *= 100
    b = A @ rng.standard_normal(d) + rng.standard_t(2.5, n)
    b[:20] += 1000 * rng.standard_normal(20)
    return torch.tensor(A), torch.tensor(b)


def everything(n: int) -> Coreset:
    return Coreset(torch.arange(n), torch.ones(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_all_rows_give_the_regression_itself(scheme, p):
    A, b = heavy(200, 3, seed=0)
    few = lp_coreset_regression(A, b, p, 200, scheme)
    full = lp_regression(A, b, p)
    assert len(few.coreset) == 200
    torch.testing.assert_close(few.cost, full.cost, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_cost_is_that_of_all_rows(scheme):
    A, b = heavy(2000, 4, seed=1)
    few = lp_coreset_regression(A, b, 1, 300, scheme, torch.Generator().manual_seed(0))
    assert few.fit.converged
    assert 200 < len(few.coreset) < 400
    torch.testing.assert_close(few.cost, (A @ few.x - b).abs().sum())
    assert few.cost >= lp_regression(A, b, 1).cost
    again = lp_coreset_regression(A, b, 1, 300, scheme, torch.Generator().manual_seed(0), evaluate=False)
    assert torch.equal(again.x, few.x)
    assert again.cost is None


def test_an_outlier_of_b_is_kept():
    A, b = heavy(2000, 3, seed=2)
    b[1234] = 1e6
    few = lp_coreset_regression(A, b, 3, 100, generator=torch.Generator().manual_seed(0))
    assert 1234 in few.coreset.indices


def test_float32():
    A, b = heavy(500, 3, seed=3)
    few = lp_coreset_regression(A.float(), b.float(), 1, 100, generator=torch.Generator().manual_seed(0))
    assert few.x.dtype == torch.float32
    assert few.cost.dtype == torch.float64


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_all_rows_have_no_distortion(p):
    A, _ = heavy(300, 4, seed=4)
    assert lp_distortion(A, everything(300), p, 50) <= 1e-12


def test_distortion_for_p_two_is_found_to_its_eigenvalue():
    A, _ = heavy(400, 5, seed=5)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(400, generator=generator)[:150].sort().values
    coreset = Coreset(indices, torch.full((150,), 400 / 150).double(), torch.full((150,), 150 / 400).double())
    Q = torch.linalg.qr(A)[0]
    kept = Q[indices] * coreset.weights.sqrt()[:, None]
    exact = (torch.linalg.eigvalsh(kept.T @ kept) - 1).abs().max()
    found = lp_distortion(A, coreset, 2, 100, refinements=100, generator=generator)
    assert 0.999 * exact <= found <= exact * (1 + 1e-12)


@pytest.mark.parametrize("p", [1.0, 1.5, 4.0])
def test_refinement_finds_more(p):
    A, _ = heavy(1000, 4, seed=6)
    coreset = Coreset(torch.arange(0, 1000, 5), torch.full((200,), 5.0), torch.full((200,), 0.2))
    probes = torch.randn(4, 50, dtype=torch.float64)
    ratio = 5 * (A[::5] @ probes).abs().pow(p).sum(0) / (A @ probes).abs().pow(p).sum(0)
    plain = lp_distortion(A, coreset, p, probes, refinements=0)
    assert abs(plain - (ratio - 1).abs().max()) <= 1e-10 * max(1, plain)
    assert lp_distortion(A, coreset, p, probes) > plain


def test_a_missed_direction_has_distortion_one():
    A = torch.eye(4, dtype=torch.float64)
    coreset = Coreset(torch.arange(3), torch.ones(3), torch.ones(3))
    for p in (1.0, 2.0, 5.0):
        assert lp_distortion(A, coreset, p, 8) == 1


def test_rank_deficient_designs():
    A, _ = heavy(300, 3, seed=7)
    wide = torch.cat((A, A[:, :1]), 1)
    coreset = Coreset(torch.arange(0, 300, 2), torch.full((150,), 2.0), torch.full((150,), 0.5))
    assert lp_distortion(wide, coreset, 1.0, 20) > 0


A0, B0 = torch.ones(6, 2), torch.ones(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A0, B0, 1, 2), r"`size` \(=2\) must lie in \[3, 6\]"),
        ((A0, B0, 1, 7), r"`size` \(=7\)"),
        ((A0, B0, 0.5, 4), "`p`"),
        ((A0, B0[:5], 1, 4), "`b` must have as many"),
        ((A0, B0, 1, 4, "best"), "`scheme`"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        lp_coreset_regression(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((B0, everything(6), 1.0), "`A` must be a matrix"),
        ((0 * A0, everything(6), 1.0), "`A` is zero"),
        ((A0, everything(6), 0.5), "`p`"),
        ((A0, everything(6), 1.0, 0), "`probes`"),
        ((A0, everything(6), 1.0, torch.ones(3, 4)), r"`probes` must have shape \(2, k\)"),
        (
            (A0, everything(6), 1.0, torch.tensor([[1.0], [-1.0]])),
            "does not map to zero|do not map|not map to zero",
        ),
    ],
)
def test_bad_distortion_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        lp_distortion(*arguments)
