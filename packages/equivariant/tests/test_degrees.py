"""What every fixed product on dense features keeps: checks, weights by degree, dtypes, derivatives."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import Irrep, Irreps
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.degrees import component_scale, degrees_of_components
from lemmata.equivariant.tensor_product.matrix import MatrixTensorProduct
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct
from lemmata.equivariant.testing import assert_equivariant


def bracket(*sizes, **options):
    return VectorSignalTensorProduct(*sizes, kind="bracket", **options)


def cross(*sizes, **options):
    return VectorSignalTensorProduct(*sizes, kind="cross", **options)


def dot(*sizes, **options):
    return VectorSignalTensorProduct(*sizes, kind="dot", **options)


PRODUCTS = [bracket, cross, dot, CompleteTensorProduct, MatrixTensorProduct]
products = pytest.mark.parametrize("make", PRODUCTS)


def features(lmax, *shape, dtype=torch.float64):
    return torch.randn(*shape, (lmax + 1) ** 2, dtype=dtype)


def blocks(out):
    return out if isinstance(out, tuple) else (out,)


def irreps_of(make, lmax):
    """The irreps of each output block."""
    unnatural = Irreps([(1, Irrep(l, -((-1) ** l))) for l in range(lmax + 1)])
    natural = Irreps.spherical_harmonics(lmax)
    if make is CompleteTensorProduct:
        return [natural, unnatural]
    return [natural if make in (dot, MatrixTensorProduct) else unnatural]


@products
@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 1, 1), (2, 3, 4), (6, 6, 6), (4, 0, 3)])
def test_equivariance(make, sizes):
    product = make(*sizes, channels=3, degree_weights=True, dtype=torch.float64)
    randomise(product)
    x, y = features(sizes[0], 4, 3), features(sizes[1], 4, 3)
    assert_equivariant(
        product,
        (x, y),
        [Irreps.spherical_harmonics(sizes[0]), Irreps.spherical_harmonics(sizes[1])],
        irreps_of(make, sizes[2]),
        group="SO3" if make is MatrixTensorProduct else "O3",
        tol=1e-10,
        relative=False,  # some are zero throughout
    )


@products
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 8), st.integers(0, 2**20))
@settings(deadline=None, max_examples=15)
def test_is_bilinear(make, lmax1, lmax2, lmax_out, seed):
    torch.manual_seed(seed)
    product = make(lmax1, lmax2, min(lmax_out, lmax1 + lmax2), dtype=torch.float64)
    x, x2, y, y2 = features(lmax1, 2, 1), features(lmax1, 2, 1), features(lmax2, 2, 1), features(lmax2, 2, 1)
    left = blocks(product(x + 2 * x2, y - 3 * y2))
    terms = [blocks(product(a, b)) for a in (x, x2) for b in (y, y2)]
    for i, out in enumerate(left):
        right = terms[0][i] - 3 * terms[1][i] + 2 * terms[2][i] - 6 * terms[3][i]
        torch.testing.assert_close(out, right, rtol=0, atol=1e-11)


@products
def test_component_normalization_gives_unit_variance(make):
    """The variance is exactly 1: the sum of squared coefficients of each component that is reached."""
    product = make(3, 2, 4, degree_weights=False, dtype=torch.float64)
    x, y = torch.eye(16, dtype=torch.float64), torch.eye(9, dtype=torch.float64)
    for out in blocks(product(x[:, None, None], y[None, :, None])):
        variance = out.square().sum((0, 1, 2))
        reached = variance > 1e-12
        torch.testing.assert_close(variance[reached], torch.ones_like(variance[reached]))
        assert reached.sum() >= 24


@products
@pytest.mark.parametrize("shared_y", [False, True])
def test_weights_given_with_the_input_equal_the_modules_own(make, shared_y):
    product = make(2, 1, 3, channels=4, degree_weights=True, shared_y=shared_y, dtype=torch.float64)
    randomise(product)
    x, y = features(2, 5, 4), features(1, 5, 1)
    own = (product.weight1, product.weight2, product.weight_out)
    flat = [w.movedim(-2, 0).flatten(1).expand(4, -1) for w in own]
    weight = torch.cat(flat, dim=-1)
    assert weight.shape == (4, product.weight_numel)
    expected = blocks(product(x, y))
    for every in (weight, weight.expand(5, 4, -1)):
        for out, reference in zip(blocks(product(x, y, every)), expected, strict=True):
            torch.testing.assert_close(out, reference)
    with pytest.raises(ValueError, match=rf"`weight`: expected last dimension {product.weight_numel}"):
        product(x, y, weight[:, 1:])


@products
def test_weights_of_ones_change_nothing(make):
    x, y = features(3, 5, 4), features(2, 5, 1)
    weighted = make(3, 2, 3, channels=4, degree_weights=True, dtype=torch.float64)
    plain = make(3, 2, 3, degree_weights=False, dtype=torch.float64)
    assert not list(plain.parameters())
    assert len(list(weighted.parameters())) == 3
    for out, reference in zip(blocks(weighted(x, y)), blocks(plain(x, y)), strict=True):
        torch.testing.assert_close(out, reference)


@products
def test_leading_axes_and_channels_broadcast(make):
    product = make(2, 2, 2, channels=3, degree_weights=True, dtype=torch.float64)
    x, y = features(2, 7, 1, 3), features(2, 5, 1)
    expanded = blocks(product(x.expand(7, 5, 3, 9), y.expand(7, 5, 3, 9)))
    for out, reference in zip(blocks(product(x, y)), expanded, strict=True):
        assert out.shape == (7, 5, 3, 9)
        torch.testing.assert_close(out, reference)


@products
def test_empty_batches(make):
    product = make(2, 1, 2, channels=4)
    x = torch.randn(0, 4, 9, requires_grad=True)
    outs = blocks(product(x, torch.randn(0, 1, 4)))
    assert all(out.shape == (0, 4, 9) for out in outs)
    sum(out.sum() for out in outs).backward()
    assert x.grad.shape == x.shape


@products
def test_first_and_second_derivatives(make):
    product = make(1, 2, 2, channels=2, degree_weights=True, dtype=torch.float64)
    randomise(product)
    x, y = features(1, 2, 2).requires_grad_(), features(2, 2, 1).requires_grad_()
    names = [name for name, _ in product.named_parameters()]
    values = [value.detach().requires_grad_() for value in product.parameters()]

    def call(x, y, *values):
        state = dict(zip(names, values, strict=True))
        return torch.cat(blocks(torch.func.functional_call(product, state, (x, y))))

    assert torch.autograd.gradcheck(call, (x, y, *values))
    assert torch.autograd.gradgradcheck(call, (x, y, *values))


@products
def test_dtypes_recast_from_float64(make):
    product = make(3, 3, 3, degree_weights=False)
    exact = make(3, 3, 3, degree_weights=False, dtype=torch.float64)
    x, y = features(3, 4, 2), features(3, 4, 2)
    for out, reference in zip(blocks(product.half().double()(x, y)), blocks(exact(x, y)), strict=True):
        assert torch.equal(out, reference)
    for out, reference in zip(
        blocks(product.float()(x.float(), y.float())), blocks(exact(x, y)), strict=True
    ):
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.double(), reference, rtol=1e-4, atol=1e-4)


@products
def test_copies_and_state(make):
    product = make(2, 2, 2, channels=3, degree_weights=True)
    randomise(product)
    x, y = features(2, 4, 3, dtype=torch.float32), features(2, 4, 3, dtype=torch.float32)
    assert set(product.state_dict()) == {"weight1", "weight2", "weight_out"}
    fresh = make(2, 2, 2, channels=3, degree_weights=True)
    fresh.load_state_dict(product.state_dict())
    file = io.BytesIO()
    torch.save(product, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (fresh, copy.deepcopy(product), pickle.loads(pickle.dumps(product)), loaded):
        for out, reference in zip(blocks(other(x, y)), blocks(product(x, y)), strict=True):
            assert torch.equal(out, reference)
    assert "lmax1=2" in repr(product)


@products
def test_vmap(make):
    product = make(2, 1, 2, degree_weights=False, dtype=torch.float64)
    x, y = features(2, 5, 3), features(1, 5, 3)
    mapped = blocks(torch.func.vmap(product)(x, y))
    for out, reference in zip(mapped, blocks(product(x, y)), strict=True):
        torch.testing.assert_close(out, reference)


@products
@pytest.mark.slow
def test_compiles_without_breaks(make, unchecked):
    torch.compiler.reset()
    product = make(2, 2, 2, channels=3, degree_weights=True)
    randomise(product)
    x, y = (features(2, 6, 3, dtype=torch.float32).requires_grad_() for _ in range(2))
    compiled = torch.compile(product, fullgraph=True)
    for out, reference in zip(blocks(compiled(x, y)), blocks(product(x, y)), strict=True):
        torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-5)
        ours, theirs = (torch.autograd.grad(o.sum(), x, retain_graph=True)[0] for o in (out, reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@products
@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((-1, 1, 0), {}, r"`lmax1` \(=-1\) must be at least 0"),
        ((1, -2, 0), {}, r"`lmax2` \(=-2\) must be at least 0"),
        ((1, 1, 3), {}, r"`lmax_out` \(=3\) cannot be reached"),
        ((1, 1, 1), {"channels": 0}, r"`channels` \(=0\) must be at least 1"),
        ((1, 1, 1), {"normalization": "norm"}, r"`normalization` \(='norm'\) must be"),
    ],
)
def test_bad_arguments(make, sizes, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make(*sizes, **options)


def test_degrees_of_components():
    assert degrees_of_components(0).tolist() == [0]
    assert degrees_of_components(3).tolist() == [0] + 3 * [1] + 5 * [2] + 7 * [3]


def test_scale_of_components_that_nothing_reaches_is_one():
    assert component_scale(lambda place: torch.zeros(2, 3, dtype=torch.float64), 1).tolist() == [1.0] * 4


def randomise(product):
    """Give a product weights that differ."""
    with torch.no_grad():
        for parameter in product.parameters():
            parameter.normal_()
