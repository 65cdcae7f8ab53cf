"""Gates against e3nn's, and against what the formula says."""

from typing import Any

import e3nn.nn
import pytest
import torch
from torch.nn import functional

from lemmata.equivariant.nn import Gate, NormalizedActivation
from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64
CASES: dict[str, tuple[Any, ...]] = {
    "usual": ("8x0e", [functional.silu], "5x0e", [torch.sigmoid], "3x1o + 2x2e"),
    "odd scalars": ("4x0e + 2x0o", [functional.silu, torch.tanh], "6x0e", [torch.sigmoid], "3x1o+1x2e+2x1e"),
    "odd gates": ("2x0o", [torch.abs], "2x0e + 4x0o", [torch.sigmoid, torch.tanh], "3x1o + 1x2e + 2x1e"),
    "out of order": ("1x0o + 2x0e", [torch.tanh, None], "2x0o + 1x0e", [torch.abs, torch.exp], "2x2e + 1x1o"),
    "only scalars": ("3x0e", [torch.tanh], "", [], ""),
    "only gated": ("", [], "2x0e", [torch.sigmoid], "2x1o"),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_e3nn_but_for_constants(name: str) -> None:
    ours, theirs = Gate(*CASES[name]), e3nn.nn.Gate(*CASES[name])
    assert str(ours.irreps_in) == str(theirs.irreps_in)
    assert str(ours.irreps_out.simplify()) == str(theirs.irreps_out.simplify())
    for mine, other in ((ours.act_scalars, theirs.act_scalars), (ours.act_gates, theirs.act_gates)):
        for function, peer in zip(mine.functions, other.acts, strict=True):
            if isinstance(function, NormalizedActivation):
                assert function.constant == pytest.approx(peer.cst, rel=5e-3)
                peer.cst, peer._is_id = function.constant, False
    x = ours.irreps_in.randn(3, 2, -1, dtype=F64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert_equivariant(ours, x, ours.irreps_in, ours.irreps_out, tol=1e-12)


def test_each_copy_has_its_gate() -> None:
    gate = Gate("1x0e", torch.tanh, "2x0e", torch.sigmoid, "2x1o")
    x = torch.randn(9, dtype=F64)
    scale = NormalizedActivation(torch.sigmoid).constant
    y = gate(x)
    torch.testing.assert_close(y[1:4], x[3:6] * x[1].sigmoid() * scale)
    torch.testing.assert_close(y[4:7], x[6:9] * x[2].sigmoid() * scale)


def test_odd_gates_change_parity() -> None:
    gate = Gate("", [], "3x0o", torch.tanh, "2x1o + 1x2e")
    assert gate.irreps_out == Irreps("2x1e + 1x2o")


def test_second_derivatives() -> None:
    gate = Gate("1x0e", torch.tanh, "2x0e", torch.sigmoid, "1x1o + 1x2e")
    x = gate.irreps_in.randn(2, -1, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(gate, (x,))


def test_empty_batch() -> None:
    assert Gate(*CASES["usual"])(torch.zeros(0, 32)).shape == (0, 27)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`irreps_scalars` .* must be scalars"):
        Gate("1x1o", torch.tanh, "", [], "")
    with pytest.raises(ValueError, match=r"`irreps_gates` .* must be scalars"):
        Gate("1x0e", torch.tanh, "1x1o", torch.tanh, "1x1o")
    with pytest.raises(ValueError, match=r"2 and 3"):
        Gate("1x0e", torch.tanh, "2x0e", torch.tanh, "3x1o")
    with pytest.raises(ValueError, match=r"even or odd"):
        Gate("1x0e", torch.tanh, "2x0o", torch.sigmoid, "2x1o")
    with pytest.raises(ValueError, match=r"expected last dimension 32"):
        Gate(*CASES["usual"])(torch.zeros(31))
