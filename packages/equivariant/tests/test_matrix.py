"""The matrix product: explicit matrices, 6j symbols from sympy, and its two parities."""

import itertools
import math

import pytest
import torch
from sympy import N
from sympy.physics.wigner import wigner_6j

from lemmata.equivariant.expressivity import coupling_strengths, interactability
from lemmata.equivariant.o3 import Irrep, Irreps, wigner_3j, wigner_d
from lemmata.equivariant.o3.rotation import rand_rotation
from lemmata.equivariant.tensor_product.matrix import MatrixTensorProduct
from lemmata.equivariant.testing import assert_equivariant


def features(lmax, *shape):
    return torch.randn(*shape, (lmax + 1) ** 2, dtype=torch.float64)


def embed(x, k):
    """The matrix of one feature, by the definition."""
    lmax = math.isqrt(len(x)) - 1
    matrix = torch.zeros(2 * k + 1, 2 * k + 1, dtype=torch.float64)
    for l in range(lmax + 1):
        for m in range(2 * l + 1):
            matrix += x[l * l + m] * math.sqrt(2 * l + 1) * wigner_3j(k, k, l)[:, :, m]
    return matrix


@pytest.mark.parametrize(
    ("sizes", "k"), [((1, 1, 1), None), ((2, 2, 2), None), ((1, 2, 2), 1), ((2, 2, 4), 3)]
)
def test_equals_explicit_matrices(sizes, k):
    product = MatrixTensorProduct(*sizes, k=k, normalization="none", dtype=torch.float64)
    x, y = features(sizes[0]), features(sizes[1])
    matrix = embed(x, product.k) @ embed(y, product.k)
    out = [
        math.sqrt(2 * l + 1) * (wigner_3j(product.k, product.k, l)[:, :, m] * matrix).sum()
        for l in range(sizes[2] + 1)
        for m in range(2 * l + 1)
    ]
    torch.testing.assert_close(product(x[None], y[None])[0], torch.stack(out), rtol=0, atol=1e-12)


def test_embedding_turns_as_matrices_do():
    x, rotation = features(4), rand_rotation(dtype=torch.float64)
    turned = Irreps.spherical_harmonics(4).d_from_matrix(rotation) @ x
    d = wigner_d(3, rotation)
    torch.testing.assert_close(embed(turned, 3), d @ embed(x, 3) @ d.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_strengths_are_6j_symbols(k):
    strengths = coupling_strengths(MatrixTensorProduct(4, 4, 4, k=k, normalization="none"))
    for l1, l2, l3 in itertools.product(range(5), repeat=3):
        if abs(l1 - l2) <= l3 <= l1 + l2:
            sizes = math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1))
            expected = sizes * abs(float(N(wigner_6j(l1, l2, l3, k, k, k))))
            assert strengths[l1, l2, l3].abs().item() == pytest.approx(expected, abs=1e-11)


def test_parities_apart():
    product = MatrixTensorProduct(3, 2, 4, channels=2, degree_weights=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in product.parameters():
            parameter.normal_()
    x, y = features(3, 5, 2), features(2, 5, 2)
    even, odd = product.by_parity(x, y)
    torch.testing.assert_close(even + odd, product(x, y))
    natural = [Irreps.spherical_harmonics(lmax) for lmax in (3, 2, 4)]
    unnatural = Irreps([(1, Irrep(l, -((-1) ** l))) for l in range(5)])
    assert_equivariant(product.by_parity, (x, y), natural[:2], [natural[2], unnatural], tol=1e-10)


def test_product_is_associative_where_nothing_is_cut_off():
    """Matrices of one size multiply associatively; degree 2k holds all of them."""
    product = MatrixTensorProduct(4, 4, 4, k=2, normalization="none", dtype=torch.float64)
    x, y, z = features(4, 3, 2, 1).unbind(0)
    torch.testing.assert_close(product(product(x, y), z), product(x, product(y, z)), rtol=0, atol=1e-11)
    one = torch.zeros(1, 25, dtype=torch.float64)
    one[0, 0] = math.sqrt(5)
    torch.testing.assert_close(product(x, one).abs(), x.abs(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lmax", "count"), [(1, 5), (2, 15), (3, 34), (4, 65)])
def test_all_triples_are_coupled_by_matrices_of_the_default_size(lmax, count):
    assert int(interactability(MatrixTensorProduct(lmax, lmax, lmax)).sum()) == count


def test_matrices_too_small():
    with pytest.raises(ValueError, match=r"`k` \(=1\) must be at least 2"):
        MatrixTensorProduct(3, 3, 3, k=1)
