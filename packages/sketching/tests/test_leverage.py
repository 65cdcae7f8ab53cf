"""Leverage scores against NumPy's QR and SVD, in memory, sparse and in blocks."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.stream import RowBlocks, as_row_blocks


def gaussian(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a Gaussian matrix."""
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_numpy(a: Tensor) -> Tensor:
    """Return leverage scores from NumPy's singular vectors."""
    u, s, _ = np.linalg.svd(a.numpy(), full_matrices=False)
    return torch.from_numpy((u[:, s > 1e-12 * s[0]] ** 2).sum(1))


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 1), (5, 5), (300, 8), (40, 39)])
def test_scores_are_those_of_the_svd(n, d):
    a = gaussian(n, d)
    torch.testing.assert_close(leverage_scores(a), by_numpy(a), rtol=1e-10, atol=1e-12)


def test_accuracy_on_an_ill_conditioned_matrix():
    a = gaussian(500, 10) * torch.logspace(0, -8, 10, dtype=torch.float64) @ gaussian(10, 10, 1)
    q = scipy.linalg.qr(a.numpy(), mode="economic")[0]
    torch.testing.assert_close(leverage_scores(a), torch.from_numpy((q**2).sum(1)), rtol=1e-4, atol=1e-7)
    assert leverage_scores(a).sum() == pytest.approx(10, abs=1e-10)


@given(st.integers(1, 6), st.integers(0, 30), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_a_change_of_basis_changes_nothing_and_the_sum_is_the_rank(d, extra, seed):
    a = gaussian(d + extra, d, seed)
    t = gaussian(d, d, seed + 1) + 3 * torch.eye(d, dtype=torch.float64)
    scores = leverage_scores(a)
    torch.testing.assert_close(leverage_scores(a @ t), scores, rtol=1e-6, atol=1e-8)
    assert scores.sum().item() == pytest.approx(d, abs=1e-9)
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_orthogonal_columns_of_equal_entries_are_uniform():
    a = torch.from_numpy(scipy.linalg.hadamard(16)[:, :5].astype(np.float64))
    torch.testing.assert_close(leverage_scores(a), torch.full((16,), 5 / 16, dtype=torch.float64))


@pytest.mark.parametrize("method", ["qr", "sketch"])
def test_rank_deficiency_is_told_and_the_scores_are_those_of_the_pseudo_inverse(method):
    a = gaussian(600, 6)
    a[:, 3] = a[:, 0] - 2 * a[:, 5]
    with pytest.warns(RuntimeWarning, match="rank 5 of 6 columns"):
        scores = leverage_scores(a, method)
    torch.testing.assert_close(scores, by_numpy(a), rtol=1e-9 if method == "qr" else 0.9, atol=1e-12)
    assert scores.sum().item() == pytest.approx(5, rel=1e-6)


def test_a_wide_matrix_has_rank_n():
    with pytest.warns(RuntimeWarning, match="rank 3 of 7"):
        scores = leverage_scores(gaussian(3, 7))
    torch.testing.assert_close(scores, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("method", ["qr", "sketch"])
def test_zero_rows_score_zero_and_so_does_a_zero_matrix(method):
    a = gaussian(400, 3)
    a[[0, 77, 399]] = 0
    assert leverage_scores(a, method)[[0, 77, 399]].tolist() == [0, 0, 0]
    with pytest.warns(RuntimeWarning, match="rank 0 of 3"):
        assert not leverage_scores(torch.zeros(400, 3), method).any()


def test_columns_in_any_unit():
    a = gaussian(50, 3)
    scaled = a * torch.tensor([1e-150, 1.0, 1e150], dtype=torch.float64)
    torch.testing.assert_close(leverage_scores(scaled), leverage_scores(a), rtol=1e-9, atol=0)


@pytest.mark.parametrize("rows", [1, 37, 8192])
def test_blocks_give_exact_scores_in_two_passes(rows):
    a = gaussian(200, 7)
    blocks = as_row_blocks(a, rows)
    torch.testing.assert_close(leverage_scores(blocks, "qr"), leverage_scores(a))
    assert blocks.passes == 2


def test_blocks_may_come_in_any_order():
    a = gaussian(1000, 4)
    blocks = RowBlocks(lambda: [(600, a[600:]), (0, a[:250]), (250, a[250:600])], (1000, 4))
    torch.testing.assert_close(leverage_scores(blocks, "qr"), leverage_scores(a))
    whole = leverage_scores(a, "sketch")
    torch.testing.assert_close(leverage_scores(blocks), whole, rtol=1e-9, atol=0)


def test_sparse_rows():
    sparse = scipy.sparse.random_array((2000, 12), density=0.2, format="csr", rng=np.random.default_rng(0))
    dense = torch.from_numpy(sparse.toarray())
    csr = next(block for _, block in RowBlocks.from_scipy(sparse))
    torch.testing.assert_close(leverage_scores(csr), leverage_scores(dense), rtol=1e-9, atol=1e-12)
    blocks = RowBlocks.from_scipy(sparse, rows=300)
    torch.testing.assert_close(leverage_scores(blocks, "qr"), leverage_scores(dense), rtol=1e-9, atol=1e-12)
    close = leverage_scores(blocks)
    assert (close - leverage_scores(dense)).abs().max() < 0.5 * close.max()


@pytest.mark.parametrize(("n", "d", "typical"), [(5000, 5, 0.12), (5000, 40, 0.10), (3000, 200, 0.25)])
def test_sketched_scores_are_close(n, d, typical):
    a = gaussian(n, d)
    a[:10] *= 1e3
    exact, sketched = leverage_scores(a), leverage_scores(a, "sketch", seed=3)
    error = (sketched / exact - 1).abs()
    assert error.median() < typical
    assert error.max() < 6 * typical
    assert sketched.sum().item() == pytest.approx(d, rel=0.02)
    assert (leverage_scores(a, "sketch", seed=3) == sketched).all()
    assert (leverage_scores(a, "sketch", seed=4) != sketched).any()


@pytest.mark.parametrize("method", ["qr", "sketch"])
def test_float32_is_computed_in_float64(method):
    a = gaussian(700, 4, dtype=torch.float32) * torch.tensor([1, 1e3, 1, 1e-3])
    scores = leverage_scores(a, method, seed=1)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores.double(), leverage_scores(a.double(), method, seed=1), rtol=1e-6, atol=0
    )


def test_gradient():
    a = gaussian(9, 3).requires_grad_()
    assert torch.autograd.gradcheck(leverage_scores, a)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.ones(0, 2), ValueError, r"got \(0, 2\)"),
        (torch.ones(2, 0), ValueError, r"got \(2, 0\)"),
        (torch.ones(3), ValueError, r"got \(3,\)"),
        (torch.ones(3, 2, dtype=torch.int64), TypeError, "int64"),
        (torch.ones(3, 2, dtype=torch.complex128), TypeError, "complex128"),
        (torch.ones(3, 2).to_sparse_coo(), TypeError, "layout"),
        (torch.tensor([[1.0], [torch.inf], [torch.nan]]), ValueError, "row 1"),
    ],
)
def test_bad_matrices(bad, error, message):
    with pytest.raises(error, match=message):
        leverage_scores(bad)


@pytest.mark.parametrize("method", ["qr", "sketch"])
def test_a_row_that_is_not_finite_is_named_in_blocks_too(method):
    a = gaussian(1000, 2)
    a[613, 1] = torch.nan
    with pytest.raises(ValueError, match="row 613"):
        leverage_scores(as_row_blocks(a, 100), method)
    with pytest.raises(ValueError, match="row 613"):
        leverage_scores(RowBlocks.from_scipy(scipy.sparse.csr_array(a.numpy()), 100), method)


def test_unknown_method():
    with pytest.raises(ValueError, match="'svd'"):
        leverage_scores(torch.ones(3, 1), "svd")
