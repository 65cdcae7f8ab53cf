"""Attributes label the classes of pairs of points with orientations."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import rand_rotation
from lemmata.equivariant.position_orientation import KernelBasis, PolynomialFeatures, invariant_attributes
from lemmata.equivariant.position_orientation.attributes import fiber_attributes, spatial_attributes

DOUBLE = torch.float64


def unit(*size):
    return torch.nn.functional.normalize(torch.randn(*size, dtype=DOUBLE), dim=-1)


def rotations(n, dim):
    if dim == 3:
        return rand_rotation(n, dtype=DOUBLE)
    cos, sin = unit(n, 2).unbind(-1)
    return torch.stack([cos, -sin, sin, cos], -1).reshape(n, 2, 2)


def registration_error(r, o, p, r2, o2, p2):
    """The distance that remains between two pairs after the best rotation, by Kabsch's method."""
    a, b = torch.stack([r, o, p], -1), torch.stack([r2, o2, p2], -1)
    u, _, v = torch.linalg.svd(b @ a.mT)
    sign = torch.ones_like(r)
    sign[..., -1] = torch.linalg.det(u @ v)
    return (u @ torch.diag_embed(sign) @ v @ a - b).flatten(-2).norm(dim=-1)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("free", [False, True])
def test_equivalent_pairs_have_equal_attributes(dim, free):
    r, o, p = torch.randn(200, dim, dtype=DOUBLE), unit(200, dim), unit(200, dim)
    turn = rotations(200, dim)
    r2, o2, p2 = ((turn @ x[..., None])[..., 0] for x in (r, o, p))
    before = invariant_attributes(r, o, p if free else None)
    after = invariant_attributes(r2, o2, p2 if free else None)
    assert before.shape == (200, {(2, False): 2, (2, True): 4, (3, False): 2, (3, True): 5}[dim, free])
    assert (before - after).abs().max() < 1e-12


@pytest.mark.parametrize("dim", [2, 3])
def test_inequivalent_pairs_have_different_attributes(dim):
    # Attributes are a Lipschitz image of the pair up to rotation, and so is the pair of its attributes, hence
    # near pairs of attributes among many random ones must be near pairs up to a rotation. Orientations only
    # are searched, on a coarse set of relative positions, so that there are many near ones.
    r = torch.tensor([0.0, 1.3] if dim == 2 else [0.0, 0.0, 1.3], dtype=DOUBLE).expand(1500, dim)
    o, p = unit(1500, dim), unit(1500, dim)
    attributes = invariant_attributes(r, o, p)
    apart = torch.cdist(attributes, attributes)
    first, second = (apart < 0.15).nonzero(as_tuple=True)
    keep = first < second
    first, second = first[keep], second[keep]
    assert len(first) > 200
    error = registration_error(r[first], o[first], p[first], r[second], o[second], p[second])
    assert (error <= 5 * apart[first, second] + 1e-9).all()


def test_three_attributes_would_not_separate():
    r, o = torch.tensor([1.0, 0, 0.5], dtype=DOUBLE), torch.tensor([0.0, 0, 1], dtype=DOUBLE)
    p, q = torch.tensor([1.0, 0, 0], dtype=DOUBLE), torch.tensor([0.0, 1, 0], dtype=DOUBLE)
    a, b = invariant_attributes(r, o, p), invariant_attributes(r, o, q)
    assert torch.equal(a[:3], b[:3])
    assert (a - b).abs().max() > 0.5
    assert registration_error(r[None], o[None], p[None], r[None], o[None], q[None]).item() > 0.1


def test_values_are_those_of_the_definition():
    r, o, p = torch.randn(50, 3, dtype=DOUBLE), unit(50, 3), unit(50, 3)
    along = (r * o).sum(-1)
    expected = [
        along,
        (r - along[:, None] * o).norm(dim=-1),
        (o * p).sum(-1),
        (p * r).sum(-1),
        torch.linalg.det(torch.stack([o, p, r], -1)),
    ]
    found = invariant_attributes(r, o, p, eps=0.0)
    assert torch.allclose(found, torch.stack(expected, -1), atol=1e-13)
    assert torch.allclose(invariant_attributes(r, o), found[:, :2], atol=1e-4)
    planar = invariant_attributes(r[:, :2], unit(50, 2), unit(50, 2))
    assert torch.allclose(planar[:, 2].square() + planar[:, 3].square(), torch.ones(50, dtype=DOUBLE))


def test_grids_and_pairs_agree():
    r, o = torch.randn(6, 3, dtype=DOUBLE), unit(5, 3)
    assert torch.allclose(spatial_attributes(r, o), invariant_attributes(r[:, None], o))
    assert torch.allclose(
        fiber_attributes(o)[..., 0], invariant_attributes(torch.zeros(3, dtype=DOUBLE), o[:, None], o)[..., 2]
    )
    r, o = r[:, :2], unit(5, 2)
    assert torch.allclose(spatial_attributes(r, o), invariant_attributes(r[:, None], o))
    pairs = invariant_attributes(torch.zeros(2, dtype=DOUBLE), o[:, None], o)
    assert torch.allclose(fiber_attributes(o), pairs[..., 2:])


def test_derivatives_exist_on_the_axis_and_at_no_distance():
    o = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)
    for r in ([0.0, 0, 0], [0.0, 0, 2]):
        point = torch.tensor(r, dtype=DOUBLE)
        hessian = torch.autograd.functional.hessian(lambda x: invariant_attributes(x, o).sum(), point)
        assert hessian.isfinite().all()
    point = torch.tensor([0.1, 0, 1], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: invariant_attributes(x, o), [point])


@settings(deadline=None, max_examples=20)
@given(features=st.integers(1, 4), degree=st.integers(1, 4))
def test_polynomials_are_all_products(features, degree):
    x = torch.randn(2, features, dtype=DOUBLE)
    polynomials = PolynomialFeatures(degree)
    found = polynomials(x)
    assert found.shape == (2, polynomials.out_features(features))
    for row, values in zip(x.tolist(), found.tolist(), strict=True):
        expected = []
        for power in range(1, degree + 1):
            for factors in itertools.product(row, repeat=power):
                product = 1.0
                for factor in factors:
                    product *= factor
                expected.append(product)
        assert values == pytest.approx(expected)


def test_bases_take_any_shape_and_none():
    basis = KernelBasis(2, 7, degree=2, hidden=5, dtype=DOUBLE)
    assert basis(torch.zeros(0, 4, 2, dtype=DOUBLE)).shape == (0, 4, 7)
    assert basis(torch.zeros(2, dtype=DOUBLE)).dtype == DOUBLE


def test_bad_arguments_are_named():
    o = unit(4, 3)
    with pytest.raises(
        ValueError, match="`ori_recv` must hold unit vectors, but a length differs from 1 by 1"
    ):
        invariant_attributes(torch.randn(4, 3, dtype=DOUBLE), 2 * o)
    with pytest.raises(ValueError, match="`ori_send` must hold unit vectors"):
        invariant_attributes(torch.randn(4, 3, dtype=DOUBLE), o, 0 * o)
    with pytest.raises(ValueError, match=r"`ori_recv` has shape \(4, 3\)"):
        invariant_attributes(torch.randn(4, 2, dtype=DOUBLE), o)
    with pytest.raises(ValueError, match=r"`rel_pos` has shape \(4, 4\)"):
        invariant_attributes(torch.randn(4, 4), torch.randn(4, 4))
    with pytest.raises(ValueError, match=r"`degree` \(=0\) must be at least 1"):
        PolynomialFeatures(0)
    assert invariant_attributes(torch.randn(4, 3), o.float()).shape == (4, 2)
    assert invariant_attributes(torch.randn(0, 3), torch.randn(0, 3)).shape == (0, 2)
