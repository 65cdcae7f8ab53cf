"""The complete product: all couplings, both blocks, and products of features that have both."""

import pytest
import torch

from lemmata.equivariant.expressivity import coupling_strengths, interactability
from lemmata.equivariant.o3 import Irrep, Irreps
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct
from lemmata.equivariant.testing import assert_equivariant


def natural(lmax):
    return Irreps.spherical_harmonics(lmax)


def unnatural(lmax):
    return Irreps([(1, Irrep(l, -((-1) ** l))) for l in range(lmax + 1)])


def features(lmax, *shape):
    return torch.randn(*shape, (lmax + 1) ** 2, dtype=torch.float64)


@pytest.mark.parametrize("normalization", ["component", "none"])
def test_blocks_are_the_gaunt_product_and_the_bracket(normalization):
    options = {"degree_weights": False, "normalization": normalization, "dtype": torch.float64}
    x, y = features(3, 4, 5), features(2, 4, 1)
    even, odd = CompleteTensorProduct(3, 2, 4, **options)(x, y)
    torch.testing.assert_close(even, GauntTensorProduct(3, 2, 4, **options)(x, y))
    torch.testing.assert_close(odd, VectorSignalTensorProduct(3, 2, 4, **options)(x, y))


def test_every_coupling_is_reached():
    """All triples with an even sum, and all with an odd one, none of which contains a degree zero."""
    lmax = 6
    found = interactability(CompleteTensorProduct(lmax, lmax, lmax))
    l1, l2, l3 = torch.meshgrid(*3 * [torch.arange(lmax + 1)], indexing="ij")
    triangle = ((l1 - l2).abs() <= l3) & (l3 <= l1 + l2)
    assert torch.equal(found, triangle)
    even = (l1 + l2 + l3) % 2 == 0
    assert int((found & even).sum()) == 106
    assert int((found & ~even).sum()) == 69


def test_strengths_are_of_one_size_where_normalised():
    """Strong couplings do not drown weak ones: within a factor of 30 up to degree four."""
    strengths = coupling_strengths(CompleteTensorProduct(4, 4, 4, degree_weights=False)).abs()
    reached = strengths[strengths > 0]
    assert reached.max() / reached.min() < 30


@pytest.mark.parametrize("pairs", [(True, False), (False, True), (True, True)])
def test_products_of_features_of_both_parities_are_equivariant(pairs):
    product = CompleteTensorProduct(
        3, 2, 4, unnatural1=pairs[0], unnatural2=pairs[1], channels=2, dtype=torch.float64
    )
    with torch.no_grad():
        for parameter in product.parameters():
            parameter.normal_()
    inputs, irreps = [], []
    for pair, lmax in zip(pairs, (3, 2), strict=True):
        inputs += [features(lmax, 4, 2) for _ in range(1 + pair)]
        irreps += [natural(lmax), unnatural(lmax)][: 1 + pair]

    def call(*tensors):
        first, second = (tensors[: 1 + pairs[0]], tensors[1 + pairs[0] :])
        return product(first if pairs[0] else first[0], second if pairs[1] else second[0])

    assert_equivariant(call, inputs, irreps, [natural(4), unnatural(4)], group="O3", tol=1e-10)


def test_pairs_follow_from_products_of_blocks():
    """The four combinations of blocks, each by the product of natural features."""
    options = {"degree_weights": False, "normalization": "none", "dtype": torch.float64}
    single = CompleteTensorProduct(2, 3, 4, **options)
    both = CompleteTensorProduct(2, 3, 4, unnatural1=True, unnatural2=True, **options)
    xn, xu, yn, yu = features(2, 5, 2), features(2, 5, 2), features(3, 5, 2), features(3, 5, 2)
    (nn_even, nn_odd), (uu_even, uu_odd) = single(xn, yn), single(xu, yu)
    (nu_even, nu_odd), (un_even, un_odd) = single(xn, yu), single(xu, yn)
    even, odd = both((xn, xu), (yn, yu))
    torch.testing.assert_close(even, nn_even + uu_even + nu_odd + un_odd)
    torch.testing.assert_close(odd, nu_even + un_even + nn_odd + uu_odd)
    first = CompleteTensorProduct(2, 3, 4, unnatural1=True, **options)
    even, odd = first((xn, xu), yn)
    torch.testing.assert_close(even, nn_even + un_odd)
    torch.testing.assert_close(odd, un_even + nn_odd)


@pytest.mark.parametrize("pairs", [(True, False), (True, True)])
def test_pairs_keep_unit_variance(pairs):
    torch.manual_seed(1)
    product = CompleteTensorProduct(3, 3, 3, unnatural1=pairs[0], unnatural2=pairs[1], dtype=torch.float64)
    blocks = [(features(3, 20000, 1), features(3, 20000, 1)) for _ in range(2)]
    x, y = (block if pair else block[0] for block, pair in zip(blocks, pairs, strict=True))
    for out in product(x, y):
        variance = out[..., 1:].square().mean((0, 1))
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0.1, atol=0)


def test_a_triple_product_of_vectors_needs_the_bracket():
    """(a x b) . c changes its sign in a mirror: the complete product finds it in the unnatural scalar."""
    a, b, c = torch.randn(3, 6, 1, 3, dtype=torch.float64)
    pad = torch.nn.functional.pad
    one = CompleteTensorProduct(1, 1, 1, degree_weights=False, dtype=torch.float64)
    two = CompleteTensorProduct(1, 1, 1, unnatural1=True, degree_weights=False, dtype=torch.float64)
    _, unnatural_scalar = two(one(pad(a, (1, 0)), pad(b, (1, 0))), pad(c, (1, 0)))
    volume = (torch.linalg.cross(a, b) * c).sum(-1)
    ratio = unnatural_scalar[..., 0] / volume
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    assert ratio.abs().min() > 0.1


def test_large_degrees_in_float32():
    product = CompleteTensorProduct(12, 12, 12, degree_weights=False)
    x, y = torch.randn(2, 3, 1, 169)
    exact = CompleteTensorProduct(12, 12, 12, degree_weights=False, dtype=torch.float64)(
        x.double(), y.double()
    )
    for out, reference in zip(product(x, y), exact, strict=True):
        torch.testing.assert_close(out.double(), reference, rtol=0, atol=1e-4)


def test_wrong_blocks(unchecked):
    x = features(1, 2, 1)
    with pytest.raises(TypeError, match="`x` must be one tensor, natural features, got tuple"):
        CompleteTensorProduct(1, 1, 1, dtype=torch.float64)((x, x), x)
    with pytest.raises(
        TypeError, match="`y` must be a pair, the natural and the unnatural block, got Tensor"
    ):
        CompleteTensorProduct(1, 1, 1, unnatural2=True, dtype=torch.float64)(x, x)
