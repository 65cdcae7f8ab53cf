"""Norms: unit root mean squares, agreement of the two layouts, bad input."""

import pytest
import torch

from lemmata.equivariant.nn import ChannelRMSNorm, EquivariantRMSNorm
from lemmata.equivariant.o3 import Irreps, from_dense, to_dense
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e6])
def test_every_block_has_unit_mean_square(scale: float) -> None:
    irreps = Irreps("6x0e + 4x1o + 0x2e + 3x2e")
    norm = EquivariantRMSNorm(irreps, eps=1e-12, dtype=F64)
    y = norm(scale * irreps.randn(5, -1, dtype=F64))
    for place, entry in zip(irreps.slices(), irreps, strict=True):
        if entry.mul:
            torch.testing.assert_close(y[:, place].square().mean(-1), torch.ones(5, dtype=F64))


def test_scales_belong_to_copies() -> None:
    norm = EquivariantRMSNorm("2x0e + 2x1o", dtype=F64)
    x = torch.randn(3, 8, dtype=F64)
    before = norm(x)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    factors = torch.tensor([1.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0], dtype=F64)
    torch.testing.assert_close(norm(x), before * factors)


def test_centring() -> None:
    norm = EquivariantRMSNorm("4x0e + 4x0o + 2x1o", centre=True, dtype=F64)
    x = norm.irreps.randn(3, -1, dtype=F64) + 1
    y = norm(x)
    torch.testing.assert_close(y[:, :4].mean(-1), torch.zeros(3, dtype=F64), rtol=0, atol=1e-14)
    assert y[:, 4:8].mean(-1).abs().max() > 0.1
    assert_equivariant(norm, x, norm.irreps, norm.irreps, tol=1e-12)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_dense_layout_equals_flat(centre: bool, affine: bool) -> None:
    irreps = Irreps("5x0e + 5x1o + 5x2e + 5x3o")
    flat = EquivariantRMSNorm(irreps, affine=affine, centre=centre, dtype=F64)
    dense = ChannelRMSNorm(5, 3, affine=affine, centre=centre, dtype=F64)
    if affine:
        with torch.no_grad():
            dense.weight.normal_()
            flat.weight.copy_(dense.weight.mT.flatten())
    x = 3 * irreps.randn(2, 4, -1, dtype=F64)
    torch.testing.assert_close(from_dense(irreps, dense(to_dense(irreps, x))), flat(x))


def test_zero_features_have_finite_derivatives() -> None:
    x = torch.zeros(2, 7, dtype=F64, requires_grad=True)
    y = EquivariantRMSNorm("1x0e + 2x1o", dtype=F64)(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(curvature).all()


def test_second_derivatives() -> None:
    x = torch.randn(2, 7, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(EquivariantRMSNorm("1x0e + 2x1o", centre=True, dtype=F64), (x,))
    y = torch.randn(2, 3, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ChannelRMSNorm(3, 1, centre=True, dtype=F64), (y,))


def test_empty_batches() -> None:
    assert EquivariantRMSNorm("2x1o")(torch.zeros(0, 6)).shape == (0, 6)
    assert EquivariantRMSNorm("")(torch.zeros(4, 0)).shape == (4, 0)
    assert ChannelRMSNorm(2, 1)(torch.zeros(0, 2, 4)).shape == (0, 2, 4)


def test_constants_survive_a_detour_through_float32() -> None:
    norm = ChannelRMSNorm(3, 2, dtype=F64)
    x = torch.randn(4, 3, 9, dtype=F64)
    before = norm(x)
    torch.testing.assert_close(norm.float().double()(x), before, rtol=0, atol=0)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`eps`"):
        EquivariantRMSNorm("2x0e", eps=0.0)
    with pytest.raises(ValueError, match="`channels`"):
        ChannelRMSNorm(0, 1)
    with pytest.raises(ValueError, match="`lmax`"):
        ChannelRMSNorm(1, -1)
    with pytest.raises(ValueError, match="expected last dimension 2"):
        EquivariantRMSNorm("2x0e")(torch.ones(3))
