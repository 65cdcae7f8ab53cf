"""Products by way of vector fields, against 3j and 9j symbols from sympy and rules that brackets obey."""

import math
from itertools import product as combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import N
from sympy.physics.wigner import wigner_3j as exact_3j
from sympy.physics.wigner import wigner_9j as exact_9j

from lemmata.equivariant.expressivity import coupling_strengths, interactability
from lemmata.equivariant.s2 import S2Grid
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct


def plain_bracket(lmax1, lmax2, lmax_out):
    return VectorSignalTensorProduct(lmax1, lmax2, lmax_out, normalization="none", dtype=torch.float64)


def triples(lmax):
    return [
        (l1, l2, l3)
        for l1, l2, l3 in combinations(range(lmax + 1), repeat=3)
        if abs(l1 - l2) <= l3 <= l1 + l2
    ]


def features(lmax, *shape):
    return torch.randn(*shape, (lmax + 1) ** 2, dtype=torch.float64)


def test_vectors_get_their_cross_product():
    x, y = torch.randn(2, 10, 1, 3, dtype=torch.float64)
    pad = torch.nn.functional.pad
    out = plain_bracket(1, 1, 1)(pad(x, (1, 0)), pad(y, (1, 0)))
    # Degree one is sqrt(3 / (4 pi)) times the vector; the bracket of v . r and w . r is (v x w) . r.
    expected = torch.linalg.cross(x, y) * math.sqrt(3 / (4 * math.pi))
    torch.testing.assert_close(out[..., 1:], expected, rtol=0, atol=1e-13)
    assert out[..., 0].abs().max() < 1e-14
    component = VectorSignalTensorProduct(1, 1, 1, dtype=torch.float64)
    scaled = component(pad(x, (1, 0)), pad(y, (1, 0)))[..., 1:]
    torch.testing.assert_close(scaled, torch.linalg.cross(x, y) / math.sqrt(2))


def test_strengths_equal_the_closed_form():
    lmax = 5
    strengths = coupling_strengths(plain_bracket(lmax, lmax, lmax))
    for l1, l2, l3 in triples(lmax):
        expected = 0.0
        if (l1 + l2 + l3) % 2 and min(l1, l2, l3) > 0:
            sizes = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) * l1 * (l1 + 1) * l2 * (l2 + 1)
            expected = math.sqrt(sizes / (4 * math.pi)) * abs(float(N(exact_3j(l1, l2, l3, 1, -1, 0))))
        assert strengths[l1, l2, l3].abs().item() == pytest.approx(expected, abs=1e-11)


def test_all_odd_sums_are_coupled_up_to_ten():
    found = interactability(plain_bracket(10, 10, 10))
    for l1, l2, l3 in triples(10):
        odd = (l1 + l2 + l3) % 2 == 1 and min(l1, l2, l3) > 0
        assert found[l1, l2, l3] == odd


@given(st.integers(0, 6), st.integers(0, 2**20))
@settings(deadline=None, max_examples=15)
def test_antisymmetry_and_constants(lmax, seed):
    torch.manual_seed(seed)
    bracket = plain_bracket(lmax, lmax, 2 * lmax)
    x, y = features(lmax, 3, 2), features(lmax, 3, 2)
    scale = bracket(x, y).abs().max().clamp(min=1.0)
    assert (bracket(x, y) + bracket(y, x)).abs().max() < 1e-12 * scale
    constant = torch.zeros_like(y)
    constant[..., 0] = math.sqrt(4 * math.pi)
    assert bracket(x, constant).abs().max() < 1e-12 * scale
    assert bracket(x, x).abs().max() < 1e-12 * scale


def test_jacobi_identity_of_untruncated_brackets():
    inner, outer = plain_bracket(2, 2, 4), plain_bracket(2, 4, 6)
    f, g, h = features(2, 3, 5, 1).unbind(0)
    terms = [outer(a, inner(b, c)) for a, b, c in ((f, g, h), (g, h, f), (h, f, g))]
    assert sum(terms).abs().max() < 1e-10
    assert min(term.abs().max() for term in terms) > 0.1


def test_leibniz_rule_with_the_pointwise_product():
    """{f, g h} = {f, g} h + g {f, h}, the product being taken on a grid of another size."""
    f, g, h = features(2, 3, 4).unbind(0)
    small, large = (S2Grid(lmax, lmax_product=14, dtype=torch.float64) for lmax in (2, 6))

    def times(a, b):
        values = [(small if c.shape[-1] == 9 else large).to_grid(c) for c in (a, b)]
        return large.from_grid(values[0] * values[1])

    pad = torch.nn.functional.pad
    left = plain_bracket(2, 4, 6)(f[:, None], times(g, h)[:, None, :25])[:, 0]
    one, two = (pad(plain_bracket(2, 2, 4)(f[:, None], v[:, None])[:, 0], (0, 24)) for v in (g, h))
    torch.testing.assert_close(left, times(one, h) + times(g, two), rtol=0, atol=1e-11)


def test_bracket_generates_rotations():
    """The bracket with a component of degree one is the derivative of the function turned about that axis."""
    from lemmata.equivariant.o3 import so3_generators

    for l in (1, 2, 3):
        f = torch.zeros(2 * l + 1, (l + 1) ** 2, dtype=torch.float64)
        f[:, l * l :] = torch.eye(2 * l + 1, dtype=torch.float64)
        axes = torch.eye(4, dtype=torch.float64)[1:] / math.sqrt(3 / (4 * math.pi))
        out = plain_bracket(1, l, l)(axes[:, None, None], f[None, :, None])[..., 0, l * l :]
        torch.testing.assert_close(out.mT, so3_generators(l), rtol=0, atol=1e-12)


def family_weights(lmax, offset):
    """Weights of both parts that make the vector spherical harmonics of degree j on orbital j + offset."""
    weights = torch.zeros(2, 1, lmax + 1, dtype=torch.float64)
    for j in range(lmax + 1):
        tangential, radial = (j + 1, j) if offset < 0 else (j, -(j + 1))
        weights[0, 0, j] = math.sqrt(tangential / (2 * j + 1))
        weights[1, 0, j] = math.copysign(math.sqrt(abs(radial) / (2 * j + 1)), radial)
    return weights


@pytest.mark.parametrize("offsets", [(-1, -1, -1), (-1, 1, 1), (1, 1, -1), (1, -1, 1)])
def test_cross_products_of_vector_harmonics_equal_9j_symbols(offsets):
    """|strength| = sqrt(6 / 4 pi) prod sqrt((2 j + 1)(2 l + 1)) |9j| |3j(000)|, for l = j + offset."""
    lmax = 3
    product = VectorSignalTensorProduct(
        lmax, lmax, lmax, kind="cross", degree_weights=True, normalization="none", dtype=torch.float64
    )
    with torch.no_grad():
        for parameter, offset in zip(product.parameters(), offsets, strict=True):
            parameter.copy_(family_weights(lmax, offset))
    strengths = coupling_strengths(product)
    for js in triples(lmax):
        ls = [j + offset for j, offset in zip(js, offsets, strict=True)]
        expected = 0.0
        if min(ls) >= 0:
            sizes = math.prod((2 * j + 1) * (2 * l + 1) for j, l in zip(js, ls, strict=True))
            rows = [value for j, l in zip(js, ls, strict=True) for value in (l, 1, j)]
            symbols = N(exact_3j(*ls, 0, 0, 0)) * N(exact_9j(*rows))
            expected = math.sqrt(6 * sizes / (4 * math.pi)) * abs(float(symbols))
        assert strengths[js].abs().item() == pytest.approx(expected, abs=1e-11), js


def test_cross_product_of_radial_and_gradient_parts_has_odd_sums_and_dot_even_ones():
    for kind, parity in (("cross", 1), ("dot", 0)):
        found = interactability(VectorSignalTensorProduct(6, 6, 6, kind=kind, degree_weights=True))
        for l1, l2, l3 in triples(6):
            if (l1 + l2 + l3) % 2 != parity:
                assert not found[l1, l2, l3]
        if kind == "dot":
            assert found.sum() == 106


def test_dot_of_radial_parts_is_the_pointwise_product():
    product = VectorSignalTensorProduct(
        2, 3, 5, kind="dot", degree_weights=True, normalization="none", dtype=torch.float64
    )
    with torch.no_grad():
        product.weight1[0] = 0.0
    x, y = features(2, 4, 1), features(3, 4, 1)
    grids = [S2Grid(lmax, lmax_product=10, dtype=torch.float64) for lmax in (2, 3, 5)]
    expected = grids[2].from_grid(grids[0].to_grid(x) * grids[1].to_grid(y))
    torch.testing.assert_close(product(x, y), expected, rtol=0, atol=1e-12)


def test_unknown_kind(unchecked):
    with pytest.raises(ValueError, match=r"`kind` \(='curl'\) must be one of bracket, cross, dot"):
        VectorSignalTensorProduct(1, 1, 1, kind="curl")
