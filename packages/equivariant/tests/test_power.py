"""Powers of functions on the sphere: against repeated products, many-body sums and normal moments."""

import copy
import math

import pytest
import torch

from lemmata.equivariant.o3 import Irreps, spherical_harmonics
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct, gaunt_coefficients
from lemmata.equivariant.tensor_product.power import GauntPower, gaunt_power
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64


def power(lmax: int, order: int, lmax_out: int, **options: object) -> GauntPower:
    return GauntPower(lmax, order, lmax_out, dtype=F64, **options)  # type: ignore[arg-type]


def plain(*sizes: int) -> GauntTensorProduct:
    return GauntTensorProduct(*sizes, degree_weights=False, normalization="none", dtype=F64)


def test_powers_equal_sums_over_tuples_of_neighbours() -> None:
    """The third power of a sum over neighbours, written out over all triples."""
    weights, directions = torch.randn(4, dtype=F64), torch.randn(4, 3, dtype=F64)
    harmonics = spherical_harmonics([0, 1, 2], directions, normalize=True)
    summed = (weights[:, None] * harmonics).sum(0)[None]
    gaunt, last = gaunt_coefficients(2, 2, 4), gaunt_coefficients(4, 2, 2)
    triples = torch.zeros(9, dtype=F64)
    for a in range(4):
        for b in range(4):
            pair = torch.einsum("i,j,ijk->k", harmonics[a], harmonics[b], gaunt)
            for c in range(4):
                triple = torch.einsum("i,j,ijk->k", pair, harmonics[c], last)
                triples += weights[a] * weights[b] * weights[c] * triple
    found = gaunt_power(summed, 3, 2, normalization="none")
    torch.testing.assert_close(found[0], triples, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lmax", "lmax_out"), [(0, 0), (1, 3), (2, 1), (3, 3)])
def test_powers_equal_repeated_products(lmax: int, lmax_out: int) -> None:
    x = torch.randn(5, 3, (lmax + 1) ** 2, dtype=F64)
    powers = power(lmax, 4, lmax_out, normalization="none")(x)
    assert powers.shape == (5, 4, 3, (lmax_out + 1) ** 2)
    expected, out = x, (lmax_out + 1) ** 2
    for order in range(1, 5):
        if order > 1:
            expected = plain((order - 1) * lmax, lmax, order * lmax)(expected, x)
        padded = torch.nn.functional.pad(expected, (0, max(0, out - expected.shape[-1])))[..., :out]
        torch.testing.assert_close(powers[:, order - 1], padded, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kept", [2, 3, 5])
def test_truncation_between_multiplications_equals_truncated_products(kept: int) -> None:
    x = torch.randn(6, 2, 9, dtype=F64)
    powers = power(2, 4, 3, lmax_intermediate=kept, normalization="none")(x)
    second = plain(2, 2, min(kept, 4))(x, x)
    third = plain(min(kept, 4), 2, kept)(second, x)
    torch.testing.assert_close(powers[:, 2], plain(min(kept, 4), 2, 3)(second, x), rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(powers[:, 3], plain(kept, 2, 3)(third, x), rtol=1e-12, atol=1e-11)


def test_truncation_that_loses_nothing_is_none() -> None:
    assert power(2, 3, 1, lmax_intermediate=4).lmax_intermediate is None
    smaller = power(2, 4, 1, lmax_intermediate=2)
    assert smaller.lmax_intermediate == 2
    assert smaller.to_grid.shape[0] < power(2, 4, 1).to_grid.shape[0]


def test_component_normalisation_gives_a_mean_square_of_one() -> None:
    x = torch.randn(40000, 1, 9, dtype=F64)
    second_moments = power(2, 3, 2)(x).square().mean((0, 2))
    torch.testing.assert_close(second_moments, torch.ones(3, 9, dtype=F64), rtol=0, atol=0.06)


def test_weights_sum_orders_by_channel_degree_and_species() -> None:
    layer = power(2, 3, 1)
    x, species = torch.randn(7, 4, 9, dtype=F64), torch.tensor([0, 2, 1, 0, 0, 2, 1])
    table = torch.randn(3, *layer.weight_shape(channels=4), dtype=F64)
    found = layer(x, table[species])
    powers, by_component = layer(x), table[species][..., [0, 1, 1, 1]]
    torch.testing.assert_close(found, (powers * by_component).sum(1))
    shared = table[0, :, :1]
    torch.testing.assert_close(layer(x, shared), (powers * shared[..., [0, 1, 1, 1]]).sum(1))


def test_function_returns_one_order_or_all() -> None:
    x = torch.randn(2, 3, 5, 16, dtype=F64)
    layer = power(3, 3, 2)
    every = gaunt_power(x, 3, 2, all_orders=True)
    torch.testing.assert_close(every, layer(x), rtol=0, atol=0)
    torch.testing.assert_close(gaunt_power(x, 3, 2), every[:, :, 2], rtol=0, atol=0)
    truncated = power(3, 3, 2, lmax_intermediate=3)(x)[:, :, 2]
    torch.testing.assert_close(gaunt_power(x, 3, 2, 3), truncated, rtol=0, atol=0)
    assert gaunt_power(x.float(), 2, 1).dtype == torch.float32
    with torch.inference_mode():
        gaunt_power(x, 4, 4)
    gaunt_power(x.requires_grad_(), 4, 4).sum().backward()


@pytest.mark.parametrize("kept", [None, 3])
def test_powers_are_equivariant(kept: int | None) -> None:
    layer = power(3, 4, 4, lmax_intermediate=kept)
    irreps_in, irreps_out = (Irreps.spherical_harmonics(lmax) for lmax in (3, 4))
    x = torch.randn(3, 2, 16, dtype=F64)
    assert_equivariant(layer, x, irreps_in, irreps_out, tol=1e-11, n=4)


def test_first_and_second_derivatives_and_empty_batches() -> None:
    layer = power(1, 3, 2)
    x = torch.randn(2, 2, 4, dtype=F64, requires_grad=True)
    weight = torch.randn(*layer.weight_shape(channels=2), dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, weight))
    assert torch.autograd.gradgradcheck(layer, (x, weight))
    assert layer(x[:0]).shape == (0, 3, 2, 9)
    assert layer(x[:0], weight).shape == (0, 2, 9)


def test_constants_survive_a_change_of_dtype() -> None:
    layer = power(2, 3, 2, lmax_intermediate=3)
    x = torch.randn(2, 2, 9, dtype=F64)
    expected = layer(x)
    torch.testing.assert_close(layer.float().double()(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected, rtol=0, atol=0)
    assert not layer.state_dict()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_powers_compile_into_one_graph() -> None:
    torch.compiler.reset()
    layer = GauntPower(2, 3, 1)
    x, weight = torch.randn(3, 4, 9), torch.randn(*layer.weight_shape(channels=4))
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), layer(x, weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((-1, 2, 0), {}, r"`lmax` \(=-1\) must be at least 0"),
        ((2, 0, 1), {}, r"`order` \(=0\) must be at least 1"),
        ((1, 2, 3), {}, r"`lmax_out` \(=3\) cannot be reached: powers have degrees up to 2"),
        ((2, 4, 6), {"lmax_intermediate": 3}, r"`lmax_out` \(=6\) cannot be reached: .* up to 5"),
        ((2, 3, 1), {"lmax_intermediate": 1}, r"`lmax_intermediate` \(=1\) must be at least `lmax` \(=2\)"),
        ((2, 3, 1), {"normalization": "norm"}, r"`normalization` \(='norm'\)"),
    ],
)
def test_wrong_arguments_are_named(
    sizes: tuple[int, int, int], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        power(*sizes, **options)


def test_last_dimension_must_be_a_square() -> None:
    with pytest.raises(ValueError, match=r"`x`: expected last dimension \(lmax \+ 1\)\*\*2"):
        gaunt_power(torch.randn(2, 8), 2, 1)


def test_second_power_of_a_constant_is_its_square() -> None:
    one = torch.full((1, 1), math.sqrt(4 * math.pi), dtype=F64)
    torch.testing.assert_close(gaunt_power(3 * one, 2, 0, normalization="none"), 9 * one)
