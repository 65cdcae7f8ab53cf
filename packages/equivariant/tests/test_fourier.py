"""The Fourier product: its spectrum is that of the function on the torus, and its sizes are enough."""

import math

import pytest
import torch

from lemmata.equivariant.o3 import Irreps, solid_harmonics
from lemmata.equivariant.tensor_product.fourier import FourierProduct
from lemmata.equivariant.tensor_product.gaunt import degree_scales, gaunt_coefficients
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64


def test_values_on_the_torus_are_the_functions() -> None:
    layer = FourierProduct(4, 2, 3, dtype=F64)
    x = torch.randn(5, 25, dtype=F64)
    values = layer._on_torus(x, layer.places1, layer.to_fourier1)  # batch, latitude, longitude
    theta = 2 * math.pi / layer.n_theta * torch.arange(layer.n_theta, dtype=F64)
    phi = 2 * math.pi / layer.n_phi * torch.arange(layer.n_phi, dtype=F64)[:, None]
    points = torch.stack([theta.sin() * phi.sin(), theta.cos() + 0 * phi, theta.sin() * phi.cos()], dim=-1)
    expected = torch.einsum("pti,bi->btp", solid_harmonics(4, points), x)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 0, 1), (2, 5, 7), (5, 3, 2), (3, 3, 6), (4, 4, 0)])
def test_product_equals_the_einsum_with_coefficients(sizes: tuple[int, int, int]) -> None:
    x = torch.randn(3, 4, (sizes[0] + 1) ** 2, dtype=F64)
    y = torch.randn(3, 1, (sizes[1] + 1) ** 2, dtype=F64)
    scale = degree_scales(*sizes)
    expected = torch.einsum("...i,...j,ijk->...k", x, y, gaunt_coefficients(*sizes)) * scale
    layer = FourierProduct(*sizes, scale=scale, dtype=F64)
    torch.testing.assert_close(layer(x, y), expected, rtol=0, atol=1e-11)


def test_sizes_are_fast_and_hold_the_bandwidth() -> None:
    layer = FourierProduct(5, 6, 4)
    assert (layer.n_theta, layer.n_phi) == (24, 16)  # at least 23 and 16, factors 2, 3 and 5 alone
    assert "n_theta=24" in repr(layer)


def test_product_without_leading_axes_and_of_high_degree() -> None:
    layer = FourierProduct(16, 16, 16, dtype=F64)
    x, y = torch.randn(2, 17 * 17, dtype=F64)
    irreps = Irreps.spherical_harmonics(16)
    assert layer(x, y).shape == (17 * 17,)
    assert_equivariant(layer, (x, y), [irreps, irreps], irreps, tol=1e-10, n=2)


def test_orders_without_a_sine_get_no_gradient_of_one() -> None:
    """At m = 0 there is a cosine alone; places that stand for nothing must not leak into x."""
    layer = FourierProduct(3, 2, 3, dtype=F64)
    x = torch.randn(2, 16, dtype=F64, requires_grad=True)
    y = torch.randn(2, 9, dtype=F64)
    upstream = torch.randn(2, 16, dtype=F64)
    [grad] = torch.autograd.grad(layer(x, y), x, upstream)
    expected = torch.einsum("bj,bk,ijk->bi", y, upstream, gaunt_coefficients(3, 2, 3))
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


def test_constants_are_recast_from_float64() -> None:
    layer = FourierProduct(3, 3, 3, dtype=F64)
    x, y = torch.randn(2, 2, 16, dtype=F64)
    expected = layer(x, y)
    torch.testing.assert_close(layer.float().double()(x, y), expected, rtol=0, atol=0)
    assert not layer.state_dict()
    assert layer.places1.dtype == torch.int64
