"""Nystrom approximations of positive semidefinite matrices, and conjugate gradients with them."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg

from lemmata.sketching.lowrank import NystromPreconditioner, nystrom
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_eigenvalues(values: torch.Tensor, n: int, seed: int = 0) -> torch.Tensor:
    u = torch.linalg.qr(torch.randn(n, len(values), dtype=F64, generator=draws(seed))).Q
    return u * values @ u.mT


def kernel(n: int, width: float = 0.2) -> torch.Tensor:
    x = torch.rand(n, 2, dtype=F64, generator=draws(3))
    return torch.exp(-torch.cdist(x, x).square() / (2 * width**2))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), r=st.integers(1, 40), seed=st.integers(0, 99))
def test_exact_on_matrices_of_the_rank(n, r, seed):
    r = min(n, r)
    root = torch.randn(n, r, dtype=F64, generator=draws(seed))
    a = root @ root.mT
    u, lam = nystrom(a, r, generator=draws(seed))
    assert torch.linalg.vector_norm(u * lam @ u.mT - a) <= 1e-10 * torch.linalg.vector_norm(a)
    torch.testing.assert_close(u.mT @ u, torch.eye(r, dtype=F64), rtol=0, atol=1e-12)


def test_below_the_matrix_and_above_zero():
    a = kernel(200)
    u, lam = nystrom(a, 30, generator=draws())
    assert (lam >= 0).all()
    assert (lam[:-1] >= lam[1:]).all()
    assert torch.linalg.eigvalsh(a - u * lam @ u.mT)[0] >= -1e-12 * lam[0]
    assert (lam <= torch.linalg.eigvalsh(a).flip(0)[:30] * (1 + 1e-12) + 1e-12 * lam[0]).all()


def test_error_is_estimated():
    a = with_eigenvalues(torch.arange(1, 201, dtype=F64) ** -1.5, 200)
    result = nystrom(a, 20, generator=draws())
    error = float(torch.linalg.vector_norm(a - result.U * result.lam @ result.U.mT))
    assert error / 2.5 < result.error < 2.5 * error
    assert result.products == 40
    silent = nystrom(a, 20, probes=0, generator=draws())
    assert np.isnan(silent.error)
    assert silent.products == 30


@pytest.mark.parametrize("form", ["csr", "scipy", "operator", "blocks"])
def test_every_form_of_a_matrix_gives_the_same(form):
    a = with_eigenvalues(0.5 ** torch.arange(30, dtype=F64), 50)
    blocks = RowBlocks.from_tensor(a, rows=11)
    held = {
        "csr": a.to_sparse_csr(),
        "scipy": scipy.sparse.csr_array(a.numpy()),
        "operator": aslinearoperator(a.numpy()),
        "blocks": blocks,
    }[form]
    u, lam = nystrom(held, 5, generator=draws())
    u0, lam0 = nystrom(a, 5, generator=draws())
    torch.testing.assert_close(u * lam @ u.mT, u0 * lam0 @ u0.mT, rtol=0, atol=1e-11)
    assert blocks.passes == (form == "blocks")


def test_float32_kernels_are_not_called_indefinite():
    a = kernel(300, width=1.0).float()
    u, lam = nystrom(a, 40, generator=draws())
    assert u.dtype == lam.dtype == torch.float32
    assert torch.linalg.vector_norm(a - u * lam @ u.mT) < 1e-4 * torch.linalg.vector_norm(a)


def test_zero_matrix():
    u, lam = nystrom(torch.zeros(8, 8, dtype=F64), 3, generator=draws())
    assert (lam < 1e-300).all()
    assert torch.isfinite(u).all()


def test_indefinite_matrices_name_a_rayleigh_quotient():
    values = torch.cat((torch.ones(20, dtype=F64), -2 * torch.ones(5, dtype=F64)))
    with pytest.raises(ValueError, match=r"positive semidefinite: a Rayleigh quotient of -[0-9.]+"):
        nystrom(with_eigenvalues(values, 60), 20, generator=draws())


def test_other_bad_matrices():
    a = kernel(20)
    with pytest.raises(ValueError, match="symmetric"):
        nystrom(a + torch.triu(torch.ones(20, 20, dtype=F64)), 5, generator=draws())
    with pytest.raises(ValueError, match="square"):
        nystrom(a[:, :10], 5)
    with pytest.raises(ValueError, match="`rank`"):
        nystrom(a, 21)
    with pytest.raises(ValueError, match="`oversample`"):
        nystrom(a, 2, oversample=-1)
    with pytest.raises(ValueError, match="not finite"):
        nystrom(a / 0, 5)
    with pytest.raises(TypeError, match="int"):
        nystrom(torch.ones(4, 4, dtype=torch.int32), 2)


def test_preconditioner_is_the_inverse_it_says():
    n, mu = 40, 0.1
    a = with_eigenvalues(0.6 ** torch.arange(40, dtype=F64), n)
    u, lam = nystrom(a, 12, generator=draws())
    p = NystromPreconditioner(u, lam, mu)
    rest = torch.eye(n, dtype=F64) - u @ u.mT
    matrix = u * (lam + mu) @ u.mT / (lam[-1] + mu) + rest
    v = torch.randn(n, 3, dtype=F64, generator=draws())
    torch.testing.assert_close(p(v), torch.linalg.solve(matrix, v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(p @ v[:, 0], p(v)[:, 0])
    torch.testing.assert_close(p.T(v), p(v))
    copy = pickle.loads(pickle.dumps(p))
    torch.testing.assert_close(copy(v), p(v), rtol=0, atol=0)


def test_preconditioned_conjugate_gradients_take_a_fraction_of_the_steps():
    n, mu = 400, 1e-4
    a = kernel(n)
    b = torch.randn(n, dtype=F64, generator=draws()).numpy()
    u, lam = nystrom(a, 80, generator=draws())
    system = LinearOperator((n, n), matvec=lambda v: a.numpy() @ v + mu * v, dtype=float)
    steps = {}
    for name, m in (("plain", None), ("nystrom", NystromPreconditioner(u, lam, mu).as_linear_operator())):
        count = []
        _x, info = cg(system, b, rtol=1e-8, maxiter=5000, M=m, callback=count.append)
        assert info == 0
        steps[name] = len(count)
    assert steps["nystrom"] <= steps["plain"] / 5


def test_preconditioners_that_make_no_sense():
    u, lam = torch.eye(4, dtype=F64)[:, :2], torch.ones(2, dtype=F64)
    with pytest.raises(ValueError, match="`mu`"):
        NystromPreconditioner(u, lam, 0.0)
    with pytest.raises(ValueError, match="do not match"):
        NystromPreconditioner(u, lam[:1], 1.0)
