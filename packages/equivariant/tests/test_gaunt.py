"""Gaunt products: coefficients against three oracles, and all methods against the coefficients."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.equivariant.o3 import Irreps, from_dense, spherical_harmonics, to_dense, wigner_3j
from lemmata.equivariant.tensor_product.gaunt import (
    GauntTensorProduct,
    degree_scales,
    gaunt_coefficients,
    product_costs,
)
from lemmata.equivariant.tensor_product.grid_product import grid_size, sphere_rule
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64
METHODS = ["grid", "fourier", "dense"]
SIZES = [(0, 0, 0), (1, 0, 1), (0, 2, 2), (2, 2, 2), (3, 2, 4), (1, 4, 2), (4, 3, 1)]


def product(*sizes: int, **options: object) -> GauntTensorProduct:
    return GauntTensorProduct(*sizes, dtype=F64, **options)  # type: ignore[arg-type]


def plain(*sizes: int, **options: object) -> GauntTensorProduct:
    return product(*sizes, degree_weights=False, normalization="none", **options)


def inputs(lmax1: int, lmax2: int, *shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, (lmax1 + 1) ** 2, dtype=F64), torch.randn(*shape, (lmax2 + 1) ** 2, dtype=F64)


def degree(l: int) -> slice:
    return slice(l * l, (l + 1) ** 2)


def test_coefficients_are_multiples_of_wigner_3j() -> None:
    gaunt = gaunt_coefficients(4, 3, 5)
    for l1, l2, l3 in itertools.product(range(5), range(4), range(6)):
        block = gaunt[degree(l1), degree(l2), degree(l3)]
        if not abs(l1 - l2) <= l3 <= l1 + l2 or (l1 + l2 + l3) % 2:
            assert (block == 0).all()
            continue
        symbol = wigner_3j(l1, l2, l3)
        factor = math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * math.pi)) * symbol[l1, l2, l3]
        torch.testing.assert_close(block, factor * symbol, rtol=0, atol=1e-13)
        assert block[l1, l2, l3] > 0  # no even coupling vanishes


def test_coefficients_equal_sympys_after_the_change_of_basis() -> None:
    wigner = pytest.importorskip("sympy.physics.wigner")
    found = torch.zeros(16, 16, 16, dtype=torch.complex128)
    for l1, l2, l3 in itertools.product(range(4), repeat=3):
        if (l1 + l2 + l3) % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
            continue
        for m1, m2 in itertools.product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
            m3 = -m1 - m2
            if abs(m3) <= l3:
                place = tuple(l * (l + 1) + m for l, m in ((l1, m1), (l2, m2), (l3, m3)))
                found[place] = float(wigner.gaunt(l1, l2, l3, m1, m2, m3))
    change = real_from_complex(3)
    real = torch.einsum("ai,bj,ck,ijk->abc", change, change, change, found)
    assert real.imag.abs().max() < 1e-14
    torch.testing.assert_close(gaunt_coefficients(3, 3, 3), real.real, rtol=0, atol=1e-14)


def real_from_complex(lmax: int) -> Tensor:
    """Return the textbook change from complex harmonics, with Condon and Shortley's phase, to real ones."""
    change = torch.zeros((lmax + 1) ** 2, (lmax + 1) ** 2, dtype=torch.complex128)
    for l in range(lmax + 1):
        centre = l * (l + 1)
        change[centre, centre] = 1
        for m in range(1, l + 1):
            change[centre + m, centre - m] = 1 / math.sqrt(2)
            change[centre + m, centre + m] = (-1) ** m / math.sqrt(2)
            change[centre - m, centre - m] = 1j / math.sqrt(2)
            change[centre - m, centre + m] = -1j * (-1) ** m / math.sqrt(2)
    return change


def test_coefficients_equal_an_independent_quadrature_of_e3nns_harmonics() -> None:
    e3nn = pytest.importorskip("e3nn.o3")
    nodes, weights = torch.linspace(-1, 1, 4001, dtype=F64), torch.full((4001,), 1 / 2000, dtype=F64)
    weights[1:-1:2], weights[2:-1:2] = 4 / 3 / 2000, 2 / 3 / 2000  # Simpson's rule
    weights[[0, -1]] = 1 / 3 / 2000
    phi = 2 * math.pi / 16 * torch.arange(16, dtype=F64)
    sine = (1 - nodes**2).sqrt()[:, None]
    points = torch.stack([sine * phi.cos(), nodes[:, None].expand(-1, 16), sine * phi.sin()], dim=-1)
    harmonics = e3nn.spherical_harmonics([0, 1, 2, 3], points.flatten(0, 1), True, "integral")
    measure = (weights[:, None] * (2 * math.pi / 16)).expand(-1, 16).flatten()
    brute = torch.einsum("g,gi,gj,gk->ijk", measure, harmonics, harmonics[:, :9], harmonics[:, :4])
    torch.testing.assert_close(gaunt_coefficients(3, 2, 1), brute, rtol=0, atol=1e-12)


def test_sphere_rule_has_the_size_told_and_integrates_harmonics() -> None:
    points, weights = sphere_rule(9)
    assert len(points) == len(weights) == grid_size(9)
    integrals = weights @ spherical_harmonics(list(range(10)), points, normalize=False)
    assert integrals[1:].abs().max() < 1e-14
    assert integrals[0].item() == pytest.approx(math.sqrt(4 * math.pi))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", SIZES)
def test_methods_equal_the_einsum_with_coefficients(method: str, sizes: tuple[int, int, int]) -> None:
    x, y = inputs(*sizes[:2], 2, 5, 3)
    expected = torch.einsum("...i,...j,ijk->...k", x, y, gaunt_coefficients(*sizes))
    torch.testing.assert_close(plain(*sizes, method=method)(x, y), expected, rtol=0, atol=1e-12)
    scaled = product(*sizes, method=method)(x, y)
    torch.testing.assert_close(scaled, expected * degree_scales(*sizes), rtol=0, atol=1e-11)


def test_product_equals_e3nns_with_gaunts_strengths_as_weights() -> None:
    e3nn = pytest.importorskip("e3nn.o3")
    lmax, channels = 3, 4
    irreps = [(channels, (l, (-1) ** l)) for l in range(lmax + 1)]
    couplings = itertools.product(range(lmax + 1), repeat=3)
    triples = [(a, b, c) for a, b, c in couplings if abs(a - b) <= c <= a + b and (a + b + c) % 2 == 0]
    paths = [(*triple, "uuu", True) for triple in triples]
    default = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        theirs = e3nn.TensorProduct(irreps, irreps, irreps, paths, shared_weights=True)
    finally:
        torch.set_default_dtype(default)
    weights = []
    for l1, l2, l3 in triples:
        strength = math.sqrt((2 * l1 + 1) * (2 * l2 + 1) / (4 * math.pi)) * wigner_3j(l1, l2, l3)[l1, l2, l3]
        weights.append(strength * math.sqrt(sum(triple[2] == l3 for triple in triples)))
    with torch.no_grad():
        theirs.weight.copy_(torch.stack(weights).repeat_interleave(channels))
    x, y = inputs(lmax, lmax, 5, channels)
    flat = theirs(from_dense(Irreps(irreps), x), from_dense(Irreps(irreps), y))
    expected = to_dense(Irreps(irreps), flat)
    torch.testing.assert_close(plain(lmax, lmax, lmax)(x, y), expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 6), st.integers(0, 6), st.data())
def test_grid_and_fourier_are_one_map(lmax1: int, lmax2: int, data: st.DataObject) -> None:
    lmax_out = data.draw(st.integers(0, lmax1 + lmax2))
    x, y = inputs(lmax1, lmax2, 4, 2)
    grid, fourier = (plain(lmax1, lmax2, lmax_out, method=method)(x, y) for method in ("grid", "fourier"))
    torch.testing.assert_close(grid, fourier, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_one_channel_of_y_serves_all(method: str) -> None:
    x, y = inputs(3, 2, 2, 7, 4)
    layer = product(3, 2, 4, method=method)
    shared = y[..., :1, :]
    torch.testing.assert_close(layer(x, shared), layer(x, shared.expand_as(y)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_product_is_symmetric_associative_and_has_a_unit(method: str) -> None:
    x, y = inputs(2, 3, 6, 1)
    z = torch.randn(6, 1, 4, dtype=F64)
    torch.testing.assert_close(
        plain(2, 3, 5, method=method)(x, y), plain(3, 2, 5, method=method)(y, x), rtol=0, atol=1e-12
    )
    left = plain(5, 1, 6, method=method)(plain(2, 3, 5, method=method)(x, y), z)
    right = plain(2, 4, 6, method=method)(x, plain(3, 1, 4, method=method)(y, z))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
    constant = torch.full((6, 1, 1), 3 * math.sqrt(4 * math.pi), dtype=F64)
    torch.testing.assert_close(plain(3, 0, 3, method=method)(y, constant), 3 * y, rtol=0, atol=1e-12)


def test_product_is_the_product_of_functions() -> None:
    x, y = inputs(3, 2, 1)
    direction = torch.randn(50, 3, dtype=F64)
    f, g, fg = (
        (coefficients * spherical_harmonics(list(range(lmax + 1)), direction, normalize=True)).sum(-1)
        for lmax, coefficients in ((3, x), (2, y), (5, plain(3, 2, 5)(x, y)))
    )
    torch.testing.assert_close(fg, f * g, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_odd_couplings_are_absent(method: str) -> None:
    """No cross product: vectors give no vector, hence mirror images the same invariants."""
    x, y = torch.zeros(2, 4, 1, 4, dtype=F64)
    x[..., 1:], y[..., 1:] = torch.randn(2, 4, 1, 3, dtype=F64)
    z = plain(1, 1, 1, method=method)(x, y)
    assert z[..., 0].abs().min() > 0
    assert z[..., 1:].abs().max() < 1e-15


@pytest.mark.parametrize(("sizes", "tol"), [((2, 1, 3), 1e-12), ((4, 4, 4), 1e-12), ((8, 8, 8), 1e-10)])
@pytest.mark.parametrize("method", METHODS[:2])
def test_product_is_equivariant(method: str, sizes: tuple[int, int, int], tol: float) -> None:
    irreps = [Irreps.spherical_harmonics(lmax) for lmax in sizes]
    layer = product(*sizes, channels=2, method=method)
    randomize(layer)
    assert_equivariant(layer, inputs(*sizes[:2], 3, 2), irreps[:2], irreps[2], tol=tol, n=4)


def test_component_normalisation_gives_variance_one() -> None:
    for sizes in SIZES:
        variance = gaunt_coefficients(*sizes).square().sum((0, 1)) * degree_scales(*sizes) ** 2
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-12, atol=0)
    x, y = (torch.randn(20000, 1, 16, dtype=F64) for _ in range(2))
    assert (product(3, 3, 3)(x, y).square().mean((0, 1)) - 1).abs().max() < 0.1


def randomize(layer: GauntTensorProduct) -> None:
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_()


@pytest.mark.parametrize("method", METHODS)
def test_degree_weights_scale_degrees(method: str) -> None:
    x, y = inputs(2, 1, 4, 3)
    layer = product(2, 1, 3, channels=3, method=method)
    randomize(layer)
    w1, w2, w3 = (
        torch.cat([w[:, l : l + 1].expand(-1, 2 * l + 1) for l in range(w.shape[1])], dim=-1)
        for w in layer.parameters()
    )
    bare = product(2, 1, 3, degree_weights=False, method=method)
    torch.testing.assert_close(layer(x, y), w3 * bare(w1 * x, w2 * y))
    assert not list(bare.parameters())


def test_weights_given_replace_the_modules_own() -> None:
    x, y = inputs(2, 1, 4, 3)
    layer = product(2, 1, 3)
    own = [torch.randn(3, lmax + 1, dtype=F64) for lmax in (2, 1, 3)]
    assert layer.weight_numel == 9
    together = layer(x, y, torch.cat(own, dim=-1))
    torch.testing.assert_close(layer(x, y, tuple(own)), together)
    each = torch.cat(own, dim=-1).expand(4, -1, -1) * torch.arange(4, dtype=F64)[:, None, None]
    factor = torch.arange(4, dtype=F64)[:, None, None] ** 3
    torch.testing.assert_close(layer(x, y, each), together * factor)
    torch.testing.assert_close(layer(x, y, (None, None, None)), layer(x, y))
    with pytest.raises(ValueError, match=r"`weight`: expected last dimension 9, got shape \(3, 8\)"):
        layer(x, y, torch.ones(3, 8, dtype=F64))


def test_shared_y_keeps_one_channel_and_weighs_the_rest_by_channel() -> None:
    layer = product(3, 3, 3, channels=8, shared_y=True)
    assert layer.method == "dense"
    assert [weight.shape[0] for weight in layer.parameters()] == [8, 1, 8]
    randomize(layer)
    grid = product(3, 3, 3, channels=8, shared_y=True, method="grid")
    grid.load_state_dict(layer.state_dict())
    x, y = inputs(3, 3, 5, 8)
    torch.testing.assert_close(layer(x, y[:, :1]), grid(x, y[:, :1]))
    torch.testing.assert_close(layer(x, y), grid(x, y))


@pytest.mark.parametrize("method", METHODS)
def test_first_and_second_derivatives(method: str) -> None:
    layer = product(2, 1, 2, method=method, degree_weights=False)
    x, y = (value.requires_grad_() for value in inputs(2, 1, 2, 2))
    weight = torch.randn(2, 2, layer.weight_numel, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, y, weight))
    assert torch.autograd.gradgradcheck(
        layer, (x, y[:, :1].detach().requires_grad_(), weight), fast_mode=True
    )


@pytest.mark.parametrize("method", METHODS)
def test_empty_and_large_batches(method: str) -> None:
    layer = GauntTensorProduct(2, 2, 2, method=method)
    assert layer(torch.randn(0, 4, 9), torch.randn(0, 1, 9)).shape == (0, 4, 9)
    assert layer(torch.randn(3, 0, 9), torch.randn(3, 0, 9)).shape == (3, 0, 9)
    x, y = inputs(2, 2, 5000, 8)
    single = layer(x.float(), y.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), layer.double()(x, y), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_constants_survive_a_change_of_dtype_and_stay_out_of_the_state(method: str) -> None:
    layer = product(2, 2, 2, method=method, channels=3)
    randomize(layer)
    assert set(layer.state_dict()) == {"weight1", "weight2", "weight_out"}
    x, y = inputs(2, 2, 2, 3)
    expected = layer(x, y)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(clone(x, y), expected, rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = product(2, 2, 2, method=method, channels=3).float().double()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(loaded(x, y), expected, rtol=0, atol=1e-14)
    assert f"method='{method}'" in repr(layer)


@pytest.mark.parametrize("method", ["grid", "dense"])
def test_vmap_equals_the_batched_product(method: str) -> None:
    layer = plain(2, 2, 2, method=method)
    x, y = inputs(2, 2, 5, 3)
    torch.testing.assert_close(torch.func.vmap(layer)(x, y), layer(x, y))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", ["grid", "dense"])
def test_product_compiles_into_one_graph(method: str) -> None:
    torch.compiler.reset()
    layer = GauntTensorProduct(2, 2, 2, method=method, channels=4)
    x, y = torch.randn(3, 4, 9, requires_grad=True), torch.randn(3, 1, 9)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x, y), layer(x, y), rtol=1e-5, atol=1e-5)
    [compiled_grad] = torch.autograd.grad(compiled(x, y).square().sum(), x)
    [grad] = torch.autograd.grad(layer(x, y).square().sum(), x)
    torch.testing.assert_close(compiled_grad, grad, rtol=1e-4, atol=1e-5)


def test_auto_takes_the_cheaper_method_by_its_cost_model() -> None:
    for lmax, shared in itertools.product(range(7), (False, True)):
        costs = product_costs(lmax, lmax, lmax, shared_y=shared)
        method = GauntTensorProduct(lmax, lmax, lmax, shared_y=shared).method
        assert costs[method] == min(costs.values())
    assert GauntTensorProduct(4, 4, 4).method == "grid"
    assert GauntTensorProduct(3, 0, 3).method == "dense"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((1, 1, 3), {}, r"`lmax_out` \(=3\) cannot be reached"),
        ((-1, 1, 0), {}, r"`lmax1` \(=-1\) must be at least 0"),
        ((1, 1, 1), {"channels": 0}, r"`channels` \(=0\) must be at least 1"),
        ((1, 1, 1), {"method": "fft"}, r"`method` \(='fft'\) must be one of auto, grid, fourier, dense"),
        ((1, 1, 1), {"normalization": "norm"}, r"`normalization` \(='norm'\) must be"),
    ],
)
def test_wrong_arguments_are_named(sizes: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        product(*sizes, **options)


def test_negative_degrees_of_coefficients_are_named() -> None:
    with pytest.raises(ValueError, match=r"`lmax3` \(=-1\) must be at least 0"):
        gaunt_coefficients(1, 1, -1)
