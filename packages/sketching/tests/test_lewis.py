"""Lewis weights: the fixed point that defines them, checked with NumPy."""

import io
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.lp.lewis import LewisScores, lewis_fixed_point, lewis_quadratic, lewis_weights

EXPONENTS = [1, 1.2, 1.5, 2, 2.5, 3, 3.9, 4, 6, 10]


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    """Return a Gaussian matrix."""
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def heavy(n: int, d: int) -> Tensor:
    """Return a Gaussian matrix with some heavy rows."""
    a = gaussian(n, d)
    a[:20] *= 100
    a[20:60, 0] *= 40
    return a


def chebyshev(n: int, d: int) -> Tensor:
    """Return Chebyshev polynomials on a grid."""
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    return torch.cos(torch.arange(d) * torch.arccos(x)[:, None])


def residual(a: Tensor, p: float, w: Tensor) -> float:
    """Return the largest relative violation of w = tau(W^(1/2 - 1/p) A), by NumPy, accurate in every row."""
    rows = a.numpy() * w.numpy()[:, None] ** (0.5 - 1 / p)
    r = np.linalg.qr(rows, mode="r")
    tau = (scipy.linalg.solve_triangular(r, rows.T, trans="T") ** 2).sum(0)
    return float(np.abs(tau / w.numpy() - 1).max())


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("family", [gaussian, heavy, chebyshev])
def test_the_fixed_point_holds(family, p):
    a = family(1000, 6)
    w = lewis_weights(a, p)
    assert residual(a, p, w) <= 1e-6
    assert w.sum().item() == pytest.approx(6, rel=1e-6)
    assert w.min() > 0
    assert w.max() <= 1


@pytest.mark.parametrize("p", [1, 1.5, 4, 20])
def test_rows_of_many_magnitudes(p):
    a = gaussian(2000, 5) * 10 ** (3 * gaussian(2000, 1, 1))
    fixed_point = lewis_fixed_point(a, p, None, 1e-8, 100)
    assert fixed_point.residual <= 1e-8
    heavy_enough = fixed_point.weights > 1e-8
    w = lewis_weights(a, p, 1e-8, 100)
    assert w.sum().item() == pytest.approx(5, rel=1e-6)
    rows = a[heavy_enough] * w[heavy_enough, None] ** (0.5 - 1 / p)
    # Rows that are left out have weights of 1e-8 at most, but there are 2000 of them.
    torch.testing.assert_close(leverage_scores(rows), w[heavy_enough], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("p", "most"), [(1, 14), (1.5, 9), (3, 12), (4, 14), (10, 26), (20, 38)])
def test_rounds(p, most):
    for family in (gaussian, heavy, chebyshev):
        assert lewis_fixed_point(family(2000, 8), p, None, 1e-6, 200).rounds <= most


def test_p_2_is_leverage():
    a = heavy(300, 7)
    torch.testing.assert_close(lewis_weights(a, 2), leverage_scores(a), rtol=1e-9, atol=1e-12)


@given(st.integers(1, 5), st.integers(0, 40), st.sampled_from(EXPONENTS), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_a_change_of_basis_changes_nothing_and_the_sum_is_the_rank(d, extra, p, seed):
    a = gaussian(d + extra, d, seed)
    t = gaussian(d, d, seed + 1) + 3 * torch.eye(d, dtype=torch.float64)
    w = lewis_weights(a, p, 1e-9, 300)
    torch.testing.assert_close(lewis_weights(a @ t, p, 1e-9, 300), w, rtol=1e-6, atol=1e-9)
    assert w.sum().item() == pytest.approx(d, rel=1e-8)


@pytest.mark.parametrize("p", EXPONENTS)
def test_orthogonal_columns_of_equal_entries_are_uniform_and_a_lone_row_has_weight_1(p):
    hadamard = torch.from_numpy(scipy.linalg.hadamard(16)[:, :5].astype(np.float64))
    torch.testing.assert_close(lewis_weights(hadamard, p), torch.full((16,), 5 / 16, dtype=torch.float64))
    a = torch.block_diag(gaussian(30, 3), torch.tensor([[1e-3]], dtype=torch.float64))
    assert lewis_weights(a, p)[-1].item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 3, 7])
def test_a_weight_counts_copies(p):
    a = gaussian(40, 3)
    copies = torch.arange(40) % 4
    together = lewis_weights(a, p, 1e-9, 200, weights=copies.double())
    apart = lewis_weights(a.repeat_interleave(copies, 0), p, 1e-9, 200)
    summed = torch.zeros(40, dtype=torch.float64).index_add(
        0, torch.arange(40).repeat_interleave(copies), apart
    )
    torch.testing.assert_close(together, summed, rtol=1e-7, atol=1e-12)
    assert not together[copies == 0].any()


@pytest.mark.parametrize("p", [1, 3])
def test_the_quadratic_form_scores_rows_as_lewis_weights(p):
    a, v = heavy(500, 4), 1 + gaussian(500, 1)[:, 0].abs()
    scores = lewis_quadratic(a, p, v, tol=1e-9)
    w = lewis_weights(a, p, 1e-9, weights=v)
    torch.testing.assert_close(scores(a, v), w, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(scores(a.to_sparse_csr(), v), w, rtol=1e-7, atol=1e-12)


def test_scores_from_a_sample_are_near_those_of_all_rows():
    a = chebyshev(20000, 5)
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(20000, generator=generator)[:1000]
    scores = lewis_quadratic(a[some], 1.0, torch.full((1000,), 20.0, dtype=torch.float64))
    ratio = scores(a) / lewis_weights(a, 1.0)
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_root_leverage_from_a_matrix(p):
    a = gaussian(100, 5)
    torch.testing.assert_close(
        LewisScores.from_sketch(a, p)(a), leverage_scores(a) ** (p / 2), rtol=1e-9, atol=0
    )


def test_rows_outside_of_the_sample_are_certain():
    a = gaussian(50, 4)
    a[:, 3] = a[:, 0]
    scores = lewis_quadratic(a, 1.0)
    assert scores.rank == 3
    new = torch.tensor([[1.0, 0, 0, 1.0], [1.0, 0, 0, 0.0], [0, 0, 0, 0]], dtype=torch.float64)
    known, unknown, zero = scores(1e-3 * new).tolist()
    assert 0 < known < 0.01
    assert unknown == 1
    assert zero == 0


def test_scores_travel():
    scores = lewis_quadratic(gaussian(30, 3), 1.5)
    buffer = io.BytesIO()
    torch.save(scores.state_dict(), buffer)
    buffer.seek(0)
    loaded = LewisScores.from_state_dict(torch.load(buffer, weights_only=True))
    rows = gaussian(5, 3, 1)
    assert (loaded(rows) == scores(rows)).all()
    assert (pickle.loads(pickle.dumps(scores))(rows) == scores(rows)).all()


def test_zero_rows_rank_and_a_single_row():
    a = gaussian(100, 4)
    a[[3, 99]] = 0
    w = lewis_weights(a, 1)
    assert w[[3, 99]].tolist() == [0, 0]
    a[:, 1] = 0
    with pytest.warns(RuntimeWarning, match="rank 3 of 4"):
        assert lewis_weights(a, 1).sum().item() == pytest.approx(3, rel=1e-6)
    with pytest.warns(RuntimeWarning, match="rank 0 of 2"):
        assert lewis_weights(torch.zeros(5, 2), 1).tolist() == [0] * 5
    assert lewis_weights(torch.tensor([[-3.0]]), 1).tolist() == pytest.approx([1])


def test_float32_and_sparse():
    a = heavy(300, 5)
    w = lewis_weights(a.float(), 1.0)
    assert w.dtype == torch.float32
    torch.testing.assert_close(w.double(), lewis_weights(a.float().double(), 1.0), rtol=1e-6, atol=0)
    a[a.abs() < 0.7] = 0
    torch.testing.assert_close(lewis_weights(a.to_sparse_csr(), 3), lewis_weights(a, 3))


def test_the_input_is_left_alone():
    a = gaussian(50, 3)
    before = a.clone()
    lewis_weights(a, 1.0, weights=torch.ones(50))
    assert (a == before).all()


def test_too_few_rounds_are_told():
    with pytest.warns(RuntimeWarning, match="residual of .* after 2 rounds"):
        lewis_weights(heavy(100, 3), 1, max_iter=2)


@pytest.mark.parametrize("p", [0.5, -1, float("inf"), float("nan")])
def test_bad_exponents(p):
    with pytest.raises(ValueError, match=r"must lie in \[1, inf\)"):
        lewis_weights(torch.ones(3, 1), p)
    with pytest.raises(ValueError, match=r"must lie in \[1, inf\)"):
        LewisScores.from_sketch(torch.ones(3, 1), p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "`tol`"),
        ({"max_iter": 0}, "`max_iter`"),
        ({"weights": torch.ones(2)}, r"shape \(3,\)"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "`weights`"),
        ({"weights": torch.tensor([1.0, torch.inf, 1.0])}, "`weights`"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        lewis_weights(torch.ones(3, 1), 1, **options)


def test_bad_rows():
    with pytest.raises(ValueError, match=r"shape \(n, 3\)"):
        lewis_quadratic(gaussian(9, 3), 1)(torch.ones(4, 2))
    with pytest.raises(ValueError, match="row 1"):
        lewis_weights(torch.tensor([[1.0], [torch.nan]]), 1)
