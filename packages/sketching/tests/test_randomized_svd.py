"""Truncated singular value decompositions against LAPACK's."""

import math
import pickle

import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from lemmata.sketching.lowrank import randomized_svd
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(n: int, d: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = draws(seed)
    u = torch.linalg.qr(torch.randn(n, len(values), dtype=F64, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(d, len(values), dtype=F64, generator=generator)).Q
    return u * values @ v.mT


SLOW = torch.arange(1, 151, dtype=F64) ** -0.5


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 40), r=st.integers(1, 40), seed=st.integers(0, 99))
def test_exact_on_matrices_of_the_rank_for_any_shape(n, d, r, seed):
    r = min(n, d, r)
    a = torch.randn(n, r, dtype=F64, generator=draws(seed)) @ torch.randn(
        r, d, dtype=F64, generator=draws(seed + 1)
    )
    u, s, vh = randomized_svd(a, r, generator=draws(seed))
    assert torch.linalg.vector_norm(u * s @ vh - a) <= 1e-10 * torch.linalg.vector_norm(a)
    for basis in (u, vh.mT):
        torch.testing.assert_close(basis.mT @ basis, torch.eye(r, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(s, torch.linalg.svdvals(a)[:r], rtol=0, atol=1e-11 * float(s[0]))


def test_singular_values_are_never_above_the_true_ones():
    for seed in range(10):
        a = torch.randn(80, 50, dtype=F64, generator=draws(seed))
        s = randomized_svd(a, 10, power_iters=0, generator=draws(seed)).s
        assert (s <= torch.linalg.svdvals(a)[:10] * (1 + 1e-13)).all()


def test_small_singular_directions_survive_the_power_iterations():
    values = 10.0 ** -torch.arange(0, 13, dtype=F64)
    a = with_spectrum(300, 200, values)
    for rounds in (0, 1, 4):
        u, s, vh = randomized_svd(a, 13, power_iters=rounds, generator=draws())
        assert torch.linalg.matrix_norm(u * s @ vh - a, 2) < 1e-13
        torch.testing.assert_close(s, values, rtol=1e-2, atol=0)


def test_error_of_the_range_is_what_theory_expects():
    """E ||A - Q Q^T A||_F <= sqrt(1 + r / (p - 1)) times the optimum, without power iterations: 50 seeds."""
    r, p = 10, 6
    values = 0.85 ** torch.arange(60, dtype=F64)
    a = with_spectrum(90, 60, values)
    best = float(values[r:].square().sum().sqrt())
    errors = []
    for seed in range(50):
        s = randomized_svd(a, r + p, oversample=0, power_iters=0, generator=draws(seed)).s
        errors.append(math.sqrt(float(values.square().sum() - s.square().sum())) / best)
    mean = torch.tensor(errors).mean()
    bound = math.sqrt(1 + r / (p - 1))
    # Three standard errors of the mean above what is proven for the expectation, and a tail below twice it.
    assert mean <= bound + 3 * torch.tensor(errors).std() / 50**0.5
    assert max(errors) <= 2 * bound


@pytest.mark.parametrize("shape", [(400, 150), (150, 400)])
def test_error_is_the_optimum_to_a_thousandth_and_certified(shape):
    a = with_spectrum(*shape, SLOW)
    result = randomized_svd(a, 12, generator=draws())
    error = torch.linalg.vector_norm(a - result.U * result.s @ result.Vh)
    best = SLOW[12:].square().sum().sqrt()
    assert error <= 1.001 * best
    torch.testing.assert_close(result.certificate.error, error, rtol=1e-10, atol=0)
    assert result.certificate.method == "difference"
    assert (result.certificate.power_iters, result.certificate.passes) == (4, 10)


def test_small_errors_are_probed():
    a = with_spectrum(200, 100, 0.3 ** torch.arange(60, dtype=F64))
    result = randomized_svd(a, 22, generator=draws())
    error = torch.linalg.vector_norm(a - result.U * result.s @ result.Vh)
    assert result.certificate.method == "probe"
    assert error / 2.5 < result.certificate.error < 2.5 * error


@pytest.mark.parametrize("form", ["csr", "scipy", "operator", "blocks"])
def test_every_form_of_a_matrix_gives_the_same(form):
    a = with_spectrum(60, 40, 0.5 ** torch.arange(20, dtype=F64))
    held = {
        "csr": a.to_sparse_csr(),
        "scipy": scipy.sparse.csr_array(a.numpy()),
        "operator": aslinearoperator(a.numpy()),
        "blocks": RowBlocks.from_tensor(a, rows=13),
    }[form]
    found, expected = randomized_svd(held, 6, generator=draws()), randomized_svd(a, 6, generator=draws())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_a_round_over_blocks_is_one_pass():
    blocks = RowBlocks.from_tensor(with_spectrum(300, 150, SLOW), rows=64)
    result = randomized_svd(blocks, 5, power_iters=3, generator=draws())
    assert result.certificate.passes == blocks.passes == 5


def test_batches_equal_their_members():
    a = torch.randn(3, 2, 30, 20, dtype=F64, generator=draws()) * 0.6 ** torch.arange(20, dtype=F64)
    result = randomized_svd(a, 4, generator=draws())
    assert result.U.shape == (3, 2, 30, 4)
    assert result.certificate.error.shape == (3, 2)
    values = torch.linalg.svdvals(a)
    torch.testing.assert_close(result.s, values[..., :4], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        result.certificate.error, values[..., 4:].square().sum(-1).sqrt(), rtol=1e-4, atol=0
    )


def test_batches_may_be_empty():
    result = randomized_svd(torch.ones(0, 6, 4, dtype=F64), 2)
    assert [tuple(factor.shape) for factor in result] == [(0, 6, 2), (0, 2), (0, 2, 4)]


def test_signs_are_fixed():
    a = torch.randn(50, 30, dtype=F64, generator=draws())
    results = [randomized_svd(a, 3, power_iters=12, generator=draws(seed)) for seed in (1, 2)]
    torch.testing.assert_close(results[0].U, results[1].U, rtol=0, atol=1e-3)
    u = results[0].U
    assert (torch.gather(u, 0, u.abs().argmax(0, keepdim=True)) > 0).all()


def test_float32_keeps_its_type_and_accuracy():
    a = with_spectrum(300, 200, 0.8 ** torch.arange(100, dtype=F64))
    u, s, vh = randomized_svd(a.float(), 20, generator=draws())
    assert {u.dtype, s.dtype, vh.dtype} == {torch.float32}
    best = (0.8 ** torch.arange(20, 100, dtype=F64)).square().sum().sqrt()
    assert torch.linalg.vector_norm(a - (u * s @ vh).double()) <= 1.001 * best + 1e-5


def test_gradients_are_those_of_the_exact_decomposition_on_low_rank():
    left = torch.randn(9, 3, dtype=F64, generator=draws(), requires_grad=True)
    right = torch.randn(3, 7, dtype=F64, generator=draws(1))

    def function(left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, s, vh = randomized_svd(left @ right, 3, oversample=0, power_iters=1, generator=draws())
        return s, u * s @ vh

    assert torch.autograd.gradcheck(function, (left,))
    values = randomized_svd(left @ right, 3, oversample=0, generator=draws()).s.sum()
    exact = torch.linalg.svdvals(left @ right)[:3].sum()
    torch.testing.assert_close(*(torch.autograd.grad(value, left)[0] for value in (values, exact)))


def test_zero_identity_and_single_entries():
    u, s, _vh = randomized_svd(torch.zeros(6, 4, dtype=F64), 2, generator=draws())
    assert (s == 0).all()
    torch.testing.assert_close(u.mT @ u, torch.eye(2, dtype=F64))
    assert randomized_svd(torch.zeros(6, 4, dtype=F64), 2).certificate.relative_error == 0
    torch.testing.assert_close(randomized_svd(torch.eye(5, dtype=F64), 5).s, torch.ones(5, dtype=F64))
    one = randomized_svd(torch.tensor([[-3.0]], dtype=F64), 1)
    assert (one.U.item(), one.s.item(), one.Vh.item()) == (1.0, pytest.approx(3.0), pytest.approx(-1.0))


def test_results_pickle_and_repeat():
    a = torch.randn(30, 20, dtype=F64, generator=draws())
    result = pickle.loads(pickle.dumps(randomized_svd(a, 3, generator=draws())))
    torch.testing.assert_close(result.U, randomized_svd(a, 3, generator=draws()).U, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "`rank`"),
        ({"rank": 5}, r"`rank` \(=5\) must lie in \[1, 4\]"),
        ({"rank": 2, "oversample": -1}, "`oversample`"),
        ({"rank": 2, "power_iters": -1}, "`power_iters`"),
        ({"rank": 2, "power_iters": "many"}, "`power_iters`"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        randomized_svd(torch.ones(6, 4, dtype=F64), **arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_entries_that_are_not_finite(value):
    a = torch.ones(6, 4, dtype=F64)
    a[3, 2] = value
    for form in (a, a.to_sparse_csr(), RowBlocks.from_tensor(a, rows=2)):
        for rounds in (0, 1):
            with pytest.raises(ValueError, match="not finite"):
                randomized_svd(form, 2, power_iters=rounds)
