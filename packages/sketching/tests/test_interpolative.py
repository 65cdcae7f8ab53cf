"""Columns and rows that stand for a matrix, against SciPy's interpolative decomposition."""

import pytest
import scipy.linalg
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from lemmata.sketching.lowrank import column_id, cur
from lemmata.sketching.lowrank.interpolative import pivoted_columns
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(n: int, d: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = draws(seed)
    u = torch.linalg.qr(torch.randn(n, len(values), dtype=F64, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(d, len(values), dtype=F64, generator=generator)).Q
    return u * values @ v.mT


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 40), r=st.integers(1, 15), seed=st.integers(0, 99))
def test_exact_on_matrices_of_the_rank_for_any_shape(n, d, r, seed):
    r = min(n, d, r)
    a = torch.randn(n, r, dtype=F64, generator=draws(seed)) @ torch.randn(
        r, d, dtype=F64, generator=draws(seed + 1)
    )
    scale = torch.linalg.vector_norm(a)
    indices, interp = column_id(a, r, generator=draws(seed))
    assert len(set(indices.tolist())) == r
    assert torch.linalg.vector_norm(a[:, indices] @ interp - a) <= 1e-9 * scale
    torch.testing.assert_close(interp[:, indices], torch.eye(r, dtype=F64), rtol=0, atol=0)
    c, u, rows = cur(a, r, generator=draws(seed))
    assert torch.linalg.vector_norm(c @ u @ rows - a) <= 1e-9 * scale


def test_pivots_are_lapacks():
    y = torch.randn(12, 40, dtype=F64, generator=draws())
    pivots = scipy.linalg.qr(y.numpy(), mode="r", pivoting=True)[1][:12]
    assert pivoted_columns(y, 12)[0].tolist() == pivots.tolist()


@pytest.mark.parametrize("exponent", [-1.0, -2.0])
def test_errors_are_near_the_best_and_certified(exponent):
    values = torch.arange(1, 101, dtype=F64) ** exponent
    a = with_spectrum(150, 100, values)
    best = float(values[12:].square().sum().sqrt())
    chosen = column_id(a, 12, generator=draws())
    error = float(torch.linalg.vector_norm(a - a[:, chosen.indices] @ chosen.interp))
    # The bound for pivoted QR in practice: sqrt(1 + r (d - r)) in theory, a small constant here.
    assert error <= 3 * best
    assert error / 2.5 < chosen.error < 2.5 * error
    both = cur(a, 12, generator=draws())
    torch.testing.assert_close(both.C, a[:, both.columns])
    torch.testing.assert_close(both.R, a[both.rows])
    error = float(torch.linalg.vector_norm(a - both.C @ both.U @ both.R))
    assert error <= 4 * best
    assert error / 2.5 < both.error < 2.5 * error


@pytest.mark.parametrize("form", ["csr", "scipy", "operator", "blocks"])
def test_every_form_of_a_matrix_gives_the_same(form):
    a = with_spectrum(60, 40, 0.5 ** torch.arange(20, dtype=F64))
    held = {
        "csr": a.to_sparse_csr(),
        "scipy": scipy.sparse.csr_array(a.numpy()),
        "operator": aslinearoperator(a.numpy()),
        "blocks": RowBlocks.from_tensor(a, rows=13),
    }[form]
    indices, interp = column_id(held, 6, generator=draws())
    expected = column_id(a, 6, generator=draws())
    assert indices.tolist() == expected.indices.tolist()
    torch.testing.assert_close(interp, expected.interp, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        cur(held, 6, generator=draws()).U, cur(a, 6, generator=draws()).U, rtol=1e-7, atol=1e-7
    )


def test_more_columns_than_the_rank_and_zero_matrices():
    a = with_spectrum(30, 20, torch.ones(3, dtype=F64))
    indices, interp = column_id(a, 6, generator=draws())
    assert len(set(indices.tolist())) == 6
    assert torch.linalg.vector_norm(a[:, indices] @ interp - a) < 1e-9
    c, u, rows = cur(a, 6, generator=draws())
    assert torch.linalg.vector_norm(c @ u @ rows - a) < 1e-9
    zero = column_id(torch.zeros(5, 4, dtype=F64), 2, generator=draws())
    assert zero.error == 0
    assert torch.isfinite(zero.interp).all()


def test_float32():
    a = with_spectrum(60, 40, 0.5 ** torch.arange(20, dtype=F64)).float()
    indices, interp = column_id(a, 8, generator=draws())
    assert interp.dtype == torch.float32
    assert torch.linalg.vector_norm(a[:, indices] @ interp - a) < 5 * 0.5**8
    c, u, rows = cur(a, 8, generator=draws())
    assert {c.dtype, u.dtype, rows.dtype} == {torch.float32}
    assert torch.linalg.vector_norm(c @ u @ rows - a) < 5 * 0.5**8


@pytest.mark.parametrize("function", [column_id, cur])
def test_bad_input(function):
    a = torch.ones(6, 4, dtype=F64)
    with pytest.raises(ValueError, match=r"`rank` \(=5\)"):
        function(a, 5)
    with pytest.raises(ValueError, match="`oversample`"):
        function(a, 2, oversample=-1)
    with pytest.raises(ValueError, match="`power_iters`"):
        function(a, 2, power_iters=-1)
    with pytest.raises(ValueError, match="not finite"):
        function(a * float("inf"), 2)
    with pytest.raises(TypeError, match="int64"):
        function(torch.ones(6, 4, dtype=torch.int64), 2)
