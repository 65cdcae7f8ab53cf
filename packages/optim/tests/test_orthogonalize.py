"""Orthogonalisation against the singular value decomposition and its own laws."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.optim.optimizers.orthogonalize import (
    POLAR_EXPRESS,
    STANDARD,
    iteration_dtype,
    newton_schulz,
    orthogonalize,
    polar,
)

SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**31 - 1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(random(size, size, seed=seed)).Q


def with_singular_values(values: Tensor, m: int, n: int, seed: int) -> Tensor:
    """Return a matrix of given singular values and random singular vectors."""
    k = len(values)
    return rotation(m, seed)[:, :k] * values @ rotation(n, seed + 1)[:k]


# --- Against the polar factor ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, SEEDS)
def test_polar_is_that_of_scipy(m: int, n: int, seed: int) -> None:
    x = random(m, n, seed=seed)
    expected, _ = scipy.linalg.polar(x.numpy())
    np.testing.assert_allclose(polar(x).numpy(), expected, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(SIDES, SIDES, SEEDS, st.floats(1e-3, 1))
def test_polar_express_converges_to_the_polar_factor(m: int, n: int, seed: int, smallest: float) -> None:
    """From singular values of a thousandth of the norm on, in 12 steps to 1e-8."""
    k = min(m, n)
    values = torch.logspace(0, math.log10(smallest), k, dtype=torch.float64)
    values = values / values.norm()
    x = with_singular_values(values.clamp_min(1e-3), m, n, seed)
    found = orthogonalize(x, method="polar_express", steps=12)
    torch.testing.assert_close(found, polar(x), rtol=0, atol=1e-8)


def test_svd_is_polar_and_keeps_the_kernel() -> None:
    values = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    x = with_singular_values(values, 4, 5, seed=3)
    found = torch.linalg.svdvals(orthogonalize(x, method="svd"))
    torch.testing.assert_close(found, torch.tensor([1.0, 1, 0, 0], dtype=torch.float64), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10), st.integers(1, 10), SEEDS)
def test_standard_steps_bring_singular_values_near_one(m: int, n: int, seed: int) -> None:
    """Within [0.68, 1.21] where none is below 0.002 of the norm."""
    k = min(m, n)
    values = 0.002 + torch.rand(k, generator=generator(seed), dtype=torch.float64) ** 4
    values = (values / values.norm()).clamp_min(0.002)
    found = torch.linalg.svdvals(orthogonalize(with_singular_values(values, m, n, seed)))
    assert found.min() >= 0.68
    assert found.max() <= 1.21


def test_interval_of_the_standard_polynomial() -> None:
    """The figures that the documentation states, over the whole interval."""

    def after(values: Tensor) -> Tensor:
        a, b, c = STANDARD
        for _ in range(5):
            values = a * values + b * values**3 + c * values**5
        return values

    image = after(
        torch.cat([torch.logspace(math.log10(0.002), 0, 400_000), torch.linspace(0.002, 1, 400_000)])
    )
    assert 0.68 < image.min() < 0.69
    assert 1.20 < image.max() < 1.21
    assert after(torch.tensor([1e-3])).item() == pytest.approx(0.4705, abs=1e-3)


def test_direction_attains_the_nuclear_norm() -> None:
    x = random(6, 9)
    assert (x * polar(x)).sum() == pytest.approx(torch.linalg.svdvals(x).sum().item(), rel=1e-12)


# --- Laws ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(SIDES, SIDES, SEEDS, st.sampled_from(["newton_schulz", "polar_express"]))
def test_equivariance_under_rotations(m: int, n: int, seed: int, method: Any) -> None:
    x, q, p = random(m, n, seed=seed), rotation(m, seed + 1), rotation(n, seed + 2)
    found = orthogonalize(q @ x @ p, method=method)
    torch.testing.assert_close(found, q @ orthogonalize(x, method=method) @ p, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(SIDES, SIDES, SEEDS, st.sampled_from(["newton_schulz", "polar_express", "svd"]))
def test_transposition(m: int, n: int, seed: int, method: Any) -> None:
    x = random(m, n, seed=seed)
    found = orthogonalize(x.mT, method=method).mT
    torch.testing.assert_close(found, orthogonalize(x, method=method), rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(SIDES, SIDES, SEEDS, st.integers(-15, 60))
def test_scale_does_not_matter(m: int, n: int, seed: int, exponent: int) -> None:
    """Bit for bit for a power of two, as long as the norm is above `eps`."""
    x = random(m, n, seed=seed)
    x = x / x.norm()
    assert torch.equal(orthogonalize(2.0**exponent * x), orthogonalize(x))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), SIDES, SIDES, SEEDS)
def test_oddness_and_batches(batch: int, m: int, n: int, seed: int) -> None:
    x = random(batch, m, n, seed=seed)
    found = orthogonalize(x)
    assert torch.equal(orthogonalize(-x), -found)
    loop = torch.stack([orthogonalize(one) for one in x])
    torch.testing.assert_close(found, loop, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 40, 48), (2, 3, 8, 16), (2, 256, 304), (2, 304, 256), (2, 400, 420)])
def test_batch_is_a_loop_bitwise_in_float64(shape: tuple[int, ...]) -> None:
    """Where the matrices of a batch are aligned alike; a BLAS rounds by alignment."""
    x = random(*shape)
    loop = [orthogonalize(one) for one in x.flatten(0, -3)]
    assert torch.equal(orthogonalize(x).flatten(0, -3), torch.stack(loop))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 400, 420), (600, 400), (700, 100), (2, 400, 600), (520, 530)])
def test_large_matrices_iterate_as_small_ones(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """On a CPU large matrices take a path of their own; gradients being tracked, they don't."""
    x = random(*shape).to(dtype) / 40
    coefficients = [STANDARD, *POLAR_EXPRESS[1:3]]
    tracked = newton_schulz(x.clone().requires_grad_(), coefficients).detach()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(newton_schulz(x, coefficients), tracked, rtol=0, atol=tolerance)


def test_input_is_left_alone() -> None:
    for shape in ((4, 5), (400, 300)):
        x = random(*shape)
        kept = x.clone()
        newton_schulz(x, [STANDARD] * 2)
        orthogonalize(x)
        assert torch.equal(x, kept)


# --- Corners ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express", "svd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_zeros_stay_zero_among_others(method: Any, dtype: torch.dtype) -> None:
    x = random(3, 4, 5).to(dtype)
    x[1] = 0
    found = orthogonalize(x, method=method)
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert not found[1].any()
    assert found[0].any()
    assert found[2].any()


def test_small_float16_gradients_are_normalised_in_float32() -> None:
    """Their squares underflow in float16."""
    x = random(8, 6).mul(3e-5)
    small = orthogonalize(x.half(), dtype=torch.float32)
    torch.testing.assert_close(small, orthogonalize(x.half().double()).half(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (0, 4, 5), (2, 0, 5)])
@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
def test_empty_matrices(shape: tuple[int, ...], method: Any) -> None:
    assert orthogonalize(torch.zeros(shape), method=method).shape == shape


def test_no_steps_are_the_identity() -> None:
    x = random(3, 4)
    assert torch.equal(newton_schulz(x, []), x)


def test_default_dtype() -> None:
    assert iteration_dtype(torch.zeros(1, 1, dtype=torch.float64)) == torch.float64
    expected = iteration_dtype(torch.zeros(1, 1))
    assert expected in (torch.bfloat16, torch.float32)
    assert iteration_dtype(torch.zeros(1, 1, dtype=torch.float16)) == expected
    assert iteration_dtype(torch.zeros(1, 1, device="meta")) == torch.float32


def test_bfloat16_is_close_to_float64() -> None:
    x = random(40, 60)
    found = orthogonalize(x.float(), dtype=torch.bfloat16).double()
    expected = orthogonalize(x)
    assert (found - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, r"`steps` \(=0\) must lie in \[1, 100\)"),
        ({"steps": 100}, r"`steps` \(=100\)"),
        ({"coefficients": (1.0, 2.0)}, r"`coefficients` \(=\(1.0, 2.0\)\) must be three"),
        ({"coefficients": (1.0, 2.0, math.nan)}, "finite"),
        ({"eps": -1.0}, r"`eps` \(=-1\)"),
        ({"method": "qr"}, r"`method` \(='qr'\) must be one of newton_schulz"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], match: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=match):
        orthogonalize(torch.ones(2, 2), **options)


def test_gradients_flow() -> None:
    x = random(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: newton_schulz(y, [STANDARD] * 2), (x / 3,))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 8, 5), (300, 400)])
def test_pure_functions_trace_whole(shape: tuple[int, ...], unchecked: None) -> None:
    torch.compiler.reset()
    x = random(*shape) / 20
    for function in (
        lambda y: newton_schulz(y, [STANDARD] * 2),
        lambda y: orthogonalize(y, method="polar_express"),
    ):
        traced = torch.compile(function, fullgraph=True)(x)
        torch.testing.assert_close(traced, function(x), rtol=0, atol=1e-10)
