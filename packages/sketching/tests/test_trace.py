"""Traces from products with vectors: without bias, with an honest standard error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from lemmata.sketching.lowrank import hutchpp

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(n: int, exponent: float, seed: int = 0) -> torch.Tensor:
    u = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=draws(seed))).Q
    return u * torch.arange(1, n + 1, dtype=F64) ** exponent @ u.mT


@pytest.mark.parametrize("symmetric", [True, False])
def test_unbiased_with_an_honest_standard_error(symmetric):
    a = matrix(60, -1.0)
    if not symmetric:
        a = a + torch.randn(60, 60, dtype=F64, generator=draws(1)) / 60
    exact = float(a.trace())
    found = [hutchpp(lambda x: a @ x, 60, 30, generator=draws(seed)) for seed in range(400)]
    errors = torch.tensor([result.estimate - exact for result in found])
    stderrs = torch.tensor([result.stderr for result in found])
    # Four standard errors of the mean of 400 runs.
    assert abs(errors.mean()) <= 4 * errors.std() / 20
    assert stderrs.square().mean().sqrt() == pytest.approx(float(errors.std()), rel=0.15)


def test_better_than_hutchinson_where_the_spectrum_falls():
    a = matrix(200, -2.0)
    exact, m = float(a.trace()), 45
    ours, plain = [], []
    for seed in range(40):
        ours.append(hutchpp(lambda x: a @ x, 200, m, generator=draws(seed)).estimate - exact)
        g = 2.0 * torch.randint(2, (200, m), generator=draws(seed)).to(F64) - 1
        plain.append(float((g * (a @ g)).sum() / m) - exact)
    rms = [math.sqrt(sum(e * e for e in errors) / 40) for errors in (ours, plain)]
    assert rms[0] < rms[1] / 10


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), r=st.integers(1, 9), seed=st.integers(0, 99))
def test_exact_on_low_rank_and_with_enough_products(n, r, seed):
    left = torch.randn(n, min(n, r), dtype=F64, generator=draws(seed))
    a = left @ left.mT
    result = (
        hutchpp(lambda x: a @ x, n, 3 * r, generator=draws(seed)) if r > 1 else hutchpp(a, matvecs=max(4, n))
    )
    # Where signs coincide the range may be missed: then the error is within its own bars.
    assert abs(result.estimate - float(a.trace())) <= max(1e-9 * float(a.trace()), 6 * result.stderr)
    enough = hutchpp(lambda x: a @ x, n, max(4, n), generator=draws(seed))
    assert enough.stderr == 0
    assert enough.estimate == pytest.approx(float(a.trace()), rel=1e-12)


def test_forms_of_a_matrix_and_of_the_call():
    a = matrix(50, -1.0)
    expected = hutchpp(lambda x: a @ x, 50, 24, generator=draws())
    for form in (a, a.to_sparse_csr(), aslinearoperator(a.numpy())):
        result = hutchpp(form, matvecs=24, generator=draws())
        assert result.estimate == pytest.approx(expected.estimate, rel=1e-10)
    estimate, stderr = expected
    assert (estimate, stderr) == (expected.estimate, expected.stderr)
    assert (expected.probes, expected.matvecs) == (8, 24)


def test_products_are_counted_and_the_type_is_asked_for():
    seen = []

    def multiply(x):
        seen.append((x.shape[1], x.dtype))
        return 2 * x

    result = hutchpp(multiply, 100, 20, generator=draws(), dtype=torch.float32)
    assert sum(columns for columns, _ in seen) == result.matvecs == 20
    assert {dtype for _, dtype in seen} == {torch.float32}
    # On the range the trace is exact, on its complement every sign vector gives twice its squared length.
    assert result.estimate == pytest.approx(200, rel=0.05)


def test_bad_input():
    with pytest.raises(ValueError, match="`matvecs`"):
        hutchpp(lambda x: x, 10, 3)
    with pytest.raises(ValueError, match="`n`"):
        hutchpp(lambda x: x)
    with pytest.raises(ValueError, match="`n`"):
        hutchpp(lambda x: x, 0)
    with pytest.raises(ValueError, match="square"):
        hutchpp(torch.ones(4, 3, dtype=F64))
    with pytest.raises(ValueError, match="square"):
        hutchpp(torch.ones(4, 4, dtype=F64), 5)
    with pytest.raises(ValueError, match="returned shape"):
        hutchpp(lambda x: x[:3], 10, 6)
    with pytest.raises(ValueError, match="not finite"):
        hutchpp(lambda x: x / 0, 10, 6)
