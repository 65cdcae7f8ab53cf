"""Factorisations grown to a tolerance, against the singular values that LAPACK finds."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from lemmata.sketching.lowrank import qb
from lemmata.sketching.lowrank.products import as_products
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(n: int, d: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = draws(seed)
    u = torch.linalg.qr(torch.randn(n, len(values), dtype=F64, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(d, len(values), dtype=F64, generator=generator)).Q
    return u * values @ v.mT


def smallest_rank(values: torch.Tensor, tol: float) -> int:
    tails = values.square().flip(0).cumsum(0).flip(0)
    return int((tails > tol**2 * tails[0]).sum())


SPECTRA = {
    "geometric": 0.8 ** torch.arange(120, dtype=F64),
    "algebraic": torch.arange(1, 121, dtype=F64) ** -1.5,
    "step": torch.cat((torch.ones(20, dtype=F64), torch.full((100,), 1e-4, dtype=F64))),
}


def forms(a: torch.Tensor) -> dict[str, object]:
    class Plain:
        shape = tuple(a.shape)

        def __init__(self, held):
            self.held = held

        @property
        def T(self):
            return Plain(self.held.mT)

        def __matmul__(self, x):
            return self.held @ x

    return {
        "dense": a,
        "csr": a.to_sparse_csr(),
        "coo": a.to_sparse(),
        "scipy": scipy.sparse.csc_array(a.numpy()),
        "operator": aslinearoperator(a.numpy()),
        "blocks": RowBlocks.from_tensor(a, rows=17),
        "sparse blocks": RowBlocks.from_tensor(a.to_sparse_csr(), rows=17),
        "plain": Plain(a),
    }


@pytest.mark.parametrize("name", list(SPECTRA))
@pytest.mark.parametrize("tol", [0.3, 1e-2, 1e-3])
def test_rank_is_near_the_smallest_that_meets_the_tolerance(name, tol):
    values = SPECTRA[name]
    a = with_spectrum(200, 150, values)
    result = qb(a, tol=tol, block=10, generator=draws())
    true = torch.linalg.vector_norm(a - result.Q @ result.B)
    assert result.status == "tolerance"
    assert true <= tol * torch.linalg.vector_norm(a) * (1 + 1e-9)
    assert result.error == pytest.approx(float(true), rel=1e-6)
    assert smallest_rank(values, tol) <= result.rank <= smallest_rank(values, tol) + 10


@pytest.mark.parametrize("tol", [1e-9, 1e-12])
def test_below_the_root_of_rounding_the_error_is_probed(tol):
    a = with_spectrum(200, 150, SPECTRA["geometric"])
    result = qb(a, tol=tol, generator=draws())
    true = float(torch.linalg.vector_norm(a - result.Q @ result.B))
    assert result.method == "probe"
    assert true < 2 * tol * torch.linalg.vector_norm(a)
    assert true / 2 < result.error < 2 * true
    assert result.rank <= smallest_rank(SPECTRA["geometric"], tol) + 16


@pytest.mark.parametrize(
    "form", ["dense", "csr", "coo", "scipy", "operator", "blocks", "sparse blocks", "plain"]
)
def test_every_form_of_a_matrix_gives_the_same(form):
    a = with_spectrum(60, 40, 0.5 ** torch.arange(20, dtype=F64))
    q, b, error = qb(forms(a)[form], rank=8, generator=draws())
    q0, b0, _ = qb(a, rank=8, generator=draws())
    torch.testing.assert_close(q @ b, q0 @ b0, rtol=0, atol=1e-12)
    assert error == pytest.approx(float(torch.linalg.vector_norm(a - q @ b)), rel=0.7)


def test_passes_over_blocks_are_counted():
    blocks = RowBlocks.from_tensor(with_spectrum(60, 40, SPECTRA["geometric"][:40]), rows=16)
    assert qb(blocks, rank=10, power_iters=2, generator=draws()).passes == 4
    assert blocks.passes == 4
    result = qb(blocks, tol=1e-2, block=10, power_iters=1, generator=draws())
    assert result.passes == 9 == blocks.passes - 4


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 40), r=st.integers(1, 40), seed=st.integers(0, 99))
def test_exact_on_low_rank_for_any_shape(n, d, r, seed):
    r = min(n, d, r)
    a = torch.randn(n, r, dtype=F64, generator=draws(seed)) @ torch.randn(
        r, d, dtype=F64, generator=draws(seed + 1)
    )
    q, b, error = qb(a, tol=1e-11, block=7, generator=draws(seed))
    scale = torch.linalg.vector_norm(a)
    assert q.shape[1] <= r
    assert torch.linalg.vector_norm(a - q @ b) <= 1e-10 * scale
    assert error <= 1e-10 * scale
    torch.testing.assert_close(q.mT @ q, torch.eye(q.shape[1], dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(q.mT @ a, b, rtol=0, atol=1e-12 * float(scale))


def test_float32_stops_by_probe_and_stays_orthonormal():
    a = with_spectrum(200, 150, SPECTRA["geometric"]).float()
    result = qb(a, tol=1e-4, generator=draws())
    assert result.Q.dtype == result.B.dtype == torch.float32
    assert result.method == "probe"
    assert torch.linalg.vector_norm(a - result.Q @ result.B) < 2e-4 * torch.linalg.vector_norm(a)
    torch.testing.assert_close(result.Q.mT @ result.Q, torch.eye(result.rank), rtol=0, atol=1e-5)


def test_status_tells_why_it_stopped():
    a = with_spectrum(50, 30, torch.ones(30, dtype=F64))
    assert qb(a, rank=5, tol=0.1, generator=draws()).status == "rank"
    assert qb(a, rank=5, generator=draws()).status == "rank"
    assert qb(a, tol=0.1, generator=draws()).rank == 30
    zero = qb(torch.zeros(9, 4, dtype=F64), tol=0.1, generator=draws())
    assert (zero.status, zero.rank, zero.error, zero.relative_error) == ("tolerance", 1, 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of `rank` and `tol`"),
        ({"rank": 0}, "`rank`"),
        ({"rank": 5}, r"`rank` \(=5\) must lie in \[1, 4\]"),
        ({"tol": 0.0}, "`tol`"),
        ({"tol": -1.0}, "`tol`"),
        ({"tol": 1.0}, "`tol`"),
        ({"tol": float("nan")}, "`tol`"),
        ({"rank": 2, "block": 0}, "`block`"),
        ({"rank": 2, "power_iters": -1}, "`power_iters`"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        qb(torch.ones(6, 4, dtype=F64), **arguments)


def test_matrices_that_cannot_be_factorised():
    bad = torch.ones(6, 4, dtype=F64)
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        qb(bad, rank=2)
    with pytest.raises(TypeError, match="int64"):
        qb(torch.ones(6, 4, dtype=torch.int64), rank=2)
    with pytest.raises(TypeError, match="complex"):
        qb(torch.ones(6, 4, dtype=torch.complex128), rank=2)
    with pytest.raises(TypeError, match="NumPy"):
        qb(np.ones((6, 4)), rank=2)
    with pytest.raises(TypeError, match=r"`\.shape`, `@`"):
        as_products(type("Bare", (), {"shape": (2, 2)})())
    with pytest.raises(ValueError, match="two axes"):
        qb(torch.ones(4, dtype=F64), rank=1)
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        qb(torch.ones(0, 4, dtype=F64), rank=1)
    with pytest.raises(ValueError, match="two axes"):
        qb(torch.ones(2, 3, 4, dtype=F64), rank=1)


def test_blocks_that_do_not_make_the_matrix():
    a = torch.ones(6, 4, dtype=F64)
    with pytest.raises(ValueError, match="the blocks have 4 rows, the matrix 6"):
        qb(RowBlocks(lambda: [(0, a[:4])], (6, 4)), rank=1)
