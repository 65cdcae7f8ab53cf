"""Radial bases and cutoffs: closed forms, orthonormality, and derivatives down to distance zero."""

import math

import e3nn.math
import numpy as np
import pytest
import torch
from scipy.special import eval_chebyt
from torch import Tensor, nn

from lemmata.equivariant.nn import BesselBasis, ChebyshevBasis, CosineCutoff, GaussianBasis, PolynomialCutoff

F64 = torch.float64
CUTOFF = 4.5
BASES = {
    "bessel": lambda: BesselBasis(6, CUTOFF, dtype=F64),
    "gaussian": lambda: GaussianBasis(6, CUTOFF, dtype=F64),
    "chebyshev": lambda: ChebyshevBasis(6, CUTOFF),
}
CUTOFFS = {"polynomial": lambda: PolynomialCutoff(CUTOFF), "cosine": lambda: CosineCutoff(CUTOFF)}
ALL = BASES | CUTOFFS


def derivatives(module: nn.Module, r: Tensor, count: int) -> list[Tensor]:
    """Return the sum over functions and its first derivatives."""
    r = r.clone().requires_grad_()
    found = [module(r).reshape(len(r), -1).sum(-1)]
    for _ in range(count):
        found.append(torch.autograd.grad(found[-1].sum(), r, create_graph=True)[0])
    return [value.detach() for value in found]


def test_bessel_functions_equal_their_formula_and_e3nns() -> None:
    r = torch.linspace(0.01, CUTOFF, 50, dtype=F64)
    n = torch.arange(1, 7, dtype=F64)
    expected = math.sqrt(2 / CUTOFF) * torch.sin(n * math.pi * r[:, None] / CUTOFF) / r[:, None]
    found = BesselBasis(6, CUTOFF, dtype=F64)(r)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    theirs = e3nn.math.bessel(r, 6, CUTOFF)
    torch.testing.assert_close(found, theirs, rtol=1e-13, atol=1e-13)


def test_bessel_functions_are_orthonormal_in_the_ball() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, w = torch.from_numpy((nodes + 1) * CUTOFF / 2), torch.from_numpy(weights * CUTOFF / 2)
    b = BesselBasis(6, CUTOFF, dtype=F64)(r)
    torch.testing.assert_close((b * (w * r * r)[:, None]).mT @ b, torch.eye(6, dtype=F64), rtol=0, atol=1e-13)


def test_bessel_derivatives_at_zero_are_those_of_the_series() -> None:
    k = torch.arange(1, 7, dtype=F64) * math.pi / CUTOFF
    scale = math.sqrt(2 / CUTOFF)
    # sin(k r) / r = k - k^3 r^2 / 6 + k^5 r^4 / 120 - ...
    expected = [k.sum(), 0 * k.sum(), -(k**3).sum() / 3, 0 * k.sum(), (k**5).sum() / 5]
    for r in (0.0, 1e-12, 1e-7):
        found = derivatives(BesselBasis(6, CUTOFF, dtype=F64), torch.tensor([r], dtype=F64), 4)
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one[0], scale * two, rtol=1e-10, atol=1e4 * r + 1e-12)


def test_bessel_derivatives_are_continuous_where_the_series_ends() -> None:
    basis = BesselBasis(1, math.pi, dtype=F64)
    below, above = torch.tensor([0.1 - 1e-13], dtype=F64), torch.tensor([0.1 + 1e-13], dtype=F64)
    for one, two in zip(derivatives(basis, below, 4), derivatives(basis, above, 4), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_trainable_frequencies() -> None:
    basis = BesselBasis(3, CUTOFF, trainable=True, dtype=F64)
    assert [name for name, _ in basis.named_parameters()] == ["frequencies"]
    fixed = BesselBasis(3, CUTOFF, dtype=F64)
    r = torch.linspace(0, 5, 7, dtype=F64)
    torch.testing.assert_close(basis(r), fixed(r), rtol=0, atol=0)
    basis(r).sum().backward()
    assert torch.isfinite(basis.frequencies.grad).all()
    assert not list(fixed.state_dict())


def test_chebyshev_equals_scipy() -> None:
    r = torch.linspace(0, CUTOFF, 30, dtype=F64)
    expected = np.stack([eval_chebyt(n, 1 - 2 * r.numpy() / CUTOFF) for n in range(6)], axis=-1)
    torch.testing.assert_close(ChebyshevBasis(6, CUTOFF)(r), torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert ChebyshevBasis(1, CUTOFF)(r).shape == (30, 1)


def test_gaussians() -> None:
    basis = GaussianBasis(4, 3.0, start=1.5, width=0.3, dtype=F64)
    r = torch.linspace(0, 4, 9, dtype=F64)
    centres = torch.tensor([1.5, 2.0, 2.5, 3.0], dtype=F64)
    torch.testing.assert_close(basis(r), torch.exp(-((r[:, None] - centres) ** 2) / 0.18))


@pytest.mark.parametrize("p", [2, 3, 6, 9])
def test_polynomial_cutoff_equals_its_formula(p: int) -> None:
    r = torch.linspace(0, CUTOFF, 40, dtype=F64)[:-1]
    u = r / CUTOFF
    expected = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2)
    torch.testing.assert_close(PolynomialCutoff(CUTOFF, p)(r), expected, rtol=0, atol=1e-13)


def test_cutoffs_vanish_exactly_and_smoothly() -> None:
    at = torch.tensor([CUTOFF, CUTOFF + 1e-9, 10.0, 1e300, math.inf], dtype=F64)
    for name, make in CUTOFFS.items():
        for order, value in enumerate(derivatives(make(), at, 2)):
            assert (value == 0).all(), (name, order)
        inside = derivatives(
            make(), torch.tensor([CUTOFF * (1 - 1e-6)], dtype=F64), 2 if name[0] == "p" else 1
        )
        assert all(value.abs().item() < 1e-4 for value in inside), name


def test_cutoffs_start_at_one_and_fall() -> None:
    r = torch.linspace(0, CUTOFF, 200, dtype=F64)
    for make in CUTOFFS.values():
        value = make()(r)
        assert value[0] == 1
        assert (value.diff() <= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_finite_and_right(name: str) -> None:
    module = ALL[name]()
    r = torch.tensor([0.3, 1.0, 2.2, 4.4], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (r,))
    assert torch.autograd.gradgradcheck(module, (r,))
    for value in derivatives(module, torch.tensor([0.0, 1e-300, 1e-15, 1e-8], dtype=F64), 4):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_dtypes(name: str) -> None:
    module = ALL[name]()
    extra = (6,) if name in BASES else ()
    for shape in ((), (0,), (3,), (2, 0, 4), (2, 3)):
        assert module(torch.ones(shape, dtype=F64)).shape == (*shape, *extra)
    assert module.to(torch.float32)(torch.ones(3)).dtype == torch.float32


@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.inf, math.nan])
def test_bad_cutoffs(cutoff: float) -> None:
    for make in (lambda: BesselBasis(3, cutoff), lambda: ChebyshevBasis(3, cutoff)):
        with pytest.raises(ValueError, match="`cutoff`"):
            make()
    for kind in (PolynomialCutoff, CosineCutoff):
        with pytest.raises(ValueError, match="`cutoff`"):
            kind(cutoff)
    with pytest.raises(ValueError, match="`cutoff`"):
        GaussianBasis(3, cutoff)


def test_bad_numbers() -> None:
    for make in (lambda: BesselBasis(0, 1.0), lambda: ChebyshevBasis(0, 1.0), lambda: GaussianBasis(1, 1.0)):
        with pytest.raises(ValueError, match="`count`"):
            make()
    with pytest.raises(ValueError, match="`p`"):
        PolynomialCutoff(1.0, p=1)
    with pytest.raises(ValueError, match="`width`"):
        GaussianBasis(3, 1.0, width=0.0)
