"""Scalar functions: constants in closed form, parity, and e3nn's module."""

import math

import e3nn.nn
import pytest
import torch
from torch import nn
from torch.nn import functional

from lemmata.equivariant.nn import NormActivation, NormalizedActivation, ScalarActivation
from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64

SECOND_MOMENTS = {
    # E[f(z)^2] for standard normal z, in closed form.
    "relu": (torch.relu, 0.5),
    "abs": (torch.abs, 1.0),
    "identity": (lambda x: x, 1.0),
    "square": (torch.square, 3.0),
    "sine": (torch.sin, (1 - math.exp(-2)) / 2),
    "exponential": (torch.exp, math.exp(2)),
    "error function": (torch.erf, 2 / math.pi * math.asin(2 / 3)),
    "step": (lambda x: (x > 0).to(x.dtype), 0.5),
    "hard tanh": (
        functional.hardtanh,
        math.erf(1 / math.sqrt(2)) - math.sqrt(2 / math.pi) * math.exp(-0.5) + math.erfc(1 / math.sqrt(2)),
    ),
    "clipped at 6": (
        functional.relu6,
        0.5 * math.erf(6 / math.sqrt(2))
        - 6 * math.exp(-18) / math.sqrt(2 * math.pi)
        + 18 * math.erfc(6 / math.sqrt(2)),
    ),
}


@pytest.mark.parametrize("name", SECOND_MOMENTS)
def test_constants_are_exact(name: str) -> None:
    function, moment = SECOND_MOMENTS[name]
    assert NormalizedActivation(function).constant == pytest.approx(moment**-0.5, rel=1e-13)


@pytest.mark.parametrize("function", [torch.tanh, functional.silu, torch.sigmoid, functional.gelu])
def test_constants_equal_samples_and_e3nns(function: object) -> None:
    z = torch.randn(400_000, dtype=F64)
    constant = NormalizedActivation(function).constant
    assert (constant * function(z)).square().mean().item() == pytest.approx(1, rel=0.02)
    theirs = e3nn.nn.Activation("1x0e", [function])
    assert constant == pytest.approx(theirs.acts[0].cst, rel=5e-3)


def test_parity() -> None:
    for function, parity in ((torch.tanh, -1), (torch.abs, 1), (functional.silu, 0), (torch.cos, 1)):
        assert NormalizedActivation(function).parity == parity
    assert ScalarActivation("2x0o + 3x0o + 1x0e", [torch.abs, torch.tanh, torch.exp]).irreps_out == Irreps(
        "2x0e + 3x0o + 1x0e"
    )


def test_modules_with_parameters() -> None:
    module = NormalizedActivation(nn.PReLU(init=0.5))
    assert module.constant == pytest.approx(((1 + 0.25) / 2) ** -0.5, rel=1e-6)
    assert len(list(module.parameters())) == 1
    assert module(torch.ones(3)).dtype == torch.float32


def test_equals_e3nn_but_for_constants() -> None:
    functions = [torch.tanh, None, torch.abs]
    ours = ScalarActivation("3x0o + 2x1o + 4x0o", functions)
    theirs = e3nn.nn.Activation("3x0o + 2x1o + 4x0o", functions)
    assert str(ours.irreps_out) == str(theirs.irreps_out)
    theirs.acts[0].cst = ours.functions[0].constant
    x = torch.randn(5, 13)
    torch.testing.assert_close(ours(x), theirs(x), rtol=2e-3, atol=0)
    assert_equivariant(ours, x.double(), ours.irreps_in, ours.irreps_out, tol=1e-12)


def test_one_function_for_all_scalars() -> None:
    activation = ScalarActivation("2x0e + 1x1o + 3x0e", torch.tanh)
    x = torch.randn(8, dtype=F64)
    constant = NormalizedActivation(torch.tanh).constant
    expected = torch.cat([x[:2].tanh() * constant, x[2:5], x[5:].tanh() * constant])
    torch.testing.assert_close(activation(x), expected)


def test_lengths_go_through_the_function() -> None:
    x = Irreps("3x1o + 2x2e").randn(4, -1, dtype=F64)
    y = NormActivation("3x1o + 2x2e", torch.tanh)(x)
    for part, ir in ((slice(0, 9), 3), (slice(9, 19), 5)):
        before, after = (t[:, part].reshape(4, -1, ir) for t in (x, y))
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1).tanh())
        torch.testing.assert_close(functional.normalize(after, dim=-1), functional.normalize(before, dim=-1))


def test_norm_activation_equals_e3nn() -> None:
    irreps = "3x0o + 2x1o + 2x2e"
    theirs = e3nn.nn.NormActivation(e3nn.o3.Irreps(irreps), torch.sigmoid, bias=True).double()
    ours = NormActivation(irreps, torch.sigmoid, bias=True, eps=1e-8, dtype=F64)
    nn.init.normal_(theirs.biases)
    ours.load_state_dict({"bias": theirs.biases})
    x = Irreps(irreps).randn(6, -1, dtype=F64)
    torch.testing.assert_close(ours(x), theirs(x.clone()), rtol=1e-10, atol=1e-10)


def test_zero_vectors_have_finite_derivatives() -> None:
    x = torch.zeros(2, 6, dtype=F64, requires_grad=True)
    y = NormActivation("2x1o", torch.tanh)(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert torch.isfinite(curvature).all()
    torch.testing.assert_close(slope, torch.ones_like(slope))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"odd scalars 2x0o must be even or odd"):
        ScalarActivation("2x0o", [functional.silu])
    with pytest.raises(ValueError, match=r"was given for 2x1o"):
        ScalarActivation("2x1o", [torch.tanh])
    with pytest.raises(ValueError, match=r"2 entries, expected 1"):
        ScalarActivation("2x0e", [torch.tanh, torch.tanh])
    with pytest.raises(ValueError, match=r"which must be positive"):
        NormalizedActivation(torch.zeros_like)
    with pytest.raises(ValueError, match=r"`eps`"):
        NormActivation("2x0e", torch.tanh, eps=0.0)
    with pytest.raises(ValueError, match=r"expected last dimension 6"):
        NormActivation("2x1o", torch.tanh)(torch.ones(5))
