"""Convolutions by rotation: against the plain product with harmonics, in every direction."""

import copy

import pytest
import torch
from torch import Tensor

from lemmata.equivariant.o3 import Irreps, spherical_harmonics, unit_vectors
from lemmata.equivariant.tensor_product.convolution import GauntConvolution, frame_of_direction
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64
SIZES = [(0, 0, 0), (1, 3, 2), (3, 2, 1), (2, 2, 4), (0, 3, 3), (3, 3, 0), (6, 6, 6)]


def convolution(*sizes: int, method: str = "rotation", **options: object) -> GauntConvolution:
    return GauntConvolution(*sizes, method=method, dtype=F64, **options)  # type: ignore[arg-type]


def directions() -> Tensor:
    """Return the poles, points near them, points of the equator, a zero vector, and any others."""
    special = torch.tensor(
        [[0, 1, 0], [0, -2, 0], [1e-9, -1, 0], [1e-7, 1, 1e-8], [1, 0, 0], [0, 0, -1], [0, 0, 0]], dtype=F64
    )
    return torch.cat([special, torch.randn(6, 3, dtype=F64)])


@pytest.mark.parametrize("sizes", SIZES)
def test_rotation_equals_the_product_with_harmonics(sizes: tuple[int, int, int]) -> None:
    vectors = directions()
    x = torch.randn(len(vectors), 4, (sizes[0] + 1) ** 2, dtype=F64)
    harmonics = spherical_harmonics(list(range(sizes[1] + 1)), vectors, True, "component")[:, None]
    product = GauntTensorProduct(*sizes, method="dense", degree_weights=False, dtype=F64)
    weights = (
        torch.randn(*shape, product.weight_numel, dtype=F64) for shape in ((), (4,), (len(vectors), 4))
    )
    for weight in (None, *weights):
        expected = product(x, harmonics, weight)
        for method in ("rotation", "product"):
            layer = convolution(*sizes, method=method, degree_weights=False)
            torch.testing.assert_close(layer(x, vectors, weight), expected, rtol=0, atol=1e-11)


def test_own_weights_mean_the_same_for_both_methods() -> None:
    rotation, product = (convolution(2, 3, 2, method=m, channels=4) for m in ("rotation", "product"))
    with torch.no_grad():
        for weight in rotation.parameters():
            weight.normal_()
    product.load_state_dict(rotation.state_dict())
    vectors, x = directions(), torch.randn(13, 4, 9, dtype=F64)
    torch.testing.assert_close(rotation(x, vectors), product(x, vectors), rtol=0, atol=1e-11)
    partial = (None, torch.randn(13, 1, 4, dtype=F64), None)
    torch.testing.assert_close(
        rotation(x, vectors, partial), product(x, vectors, partial), rtol=0, atol=1e-11
    )


def test_derivatives_by_the_direction_are_those_of_the_product_at_the_poles_too() -> None:
    vectors = directions()
    x, weight = torch.randn(len(vectors), 2, 9, dtype=F64), torch.randn(len(vectors), 2, 9, dtype=F64)
    found = []
    for method in ("rotation", "product"):
        layer, moved = convolution(2, 2, 2, method=method), vectors.clone().requires_grad_()
        energy = layer(x, moved, weight).pow(3).sum()
        [force] = torch.autograd.grad(energy, moved, create_graph=True)
        [second] = torch.autograd.grad(force.pow(2).sum(), moved)
        found.append((force, second))
    for ours, theirs in zip(*found, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-8)


def test_gradcheck_of_all_inputs() -> None:
    layer = convolution(1, 2, 1, degree_weights=False)
    x = torch.randn(3, 2, 4, dtype=F64, requires_grad=True)
    vectors = torch.randn(3, 3, dtype=F64, requires_grad=True)
    weight = torch.randn(3, 2, layer.weight_numel, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, vectors, weight))
    assert torch.autograd.gradgradcheck(layer, (x, vectors, weight))


@pytest.mark.parametrize("method", ["rotation", "product"])
def test_convolution_is_equivariant(method: str) -> None:
    layer = convolution(4, 4, 4, method=method, channels=3)
    irreps = Irreps.spherical_harmonics(4)
    inputs = (torch.randn(5, 3, 25, dtype=F64), torch.randn(5, 3, dtype=F64))
    assert_equivariant(layer, inputs, [irreps, Irreps("1o")], irreps, tol=1e-11)


def test_frames_are_rotations_that_take_the_pole_to_the_direction() -> None:
    vectors = unit_vectors(directions())
    frames = frame_of_direction(vectors)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3, dtype=F64).expand(13, 3, 3))
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(13, dtype=F64))
    expected = vectors.clone()
    expected[6, 1] = 1  # the frame of nothing is the identity
    torch.testing.assert_close(frames[..., 1], expected)


def test_empty_edges_and_changes_of_dtype() -> None:
    layer = convolution(2, 2, 2, channels=4)
    assert layer(torch.randn(0, 4, 9, dtype=F64), torch.randn(0, 3, dtype=F64)).shape == (0, 4, 9)
    x, vectors = torch.randn(13, 4, 9, dtype=F64), directions()
    expected = layer(x, vectors)
    torch.testing.assert_close(layer.float().double()(x, vectors), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(x, vectors), expected, rtol=0, atol=0)
    single = layer.float()(x.float(), vectors.float())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4)
    assert set(layer.state_dict()) == {"product.weight1", "product.weight2", "product.weight_out"}


def test_auto_rotates_where_channels_have_filters_of_their_own_and_degrees_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = 4
    monkeypatch.setattr("lemmata.equivariant.tensor_product.convolution.ROTATION_PAYS", large)
    assert GauntConvolution(large, large, large, channels=4).method == "rotation"
    assert GauntConvolution(large, large, large, channels=4, channelwise=False).method == "product"
    assert GauntConvolution(large, large, large).method == "product"
    assert GauntConvolution(large, large, large, degree_weights=False).method == "rotation"
    assert GauntConvolution(3, 3, 3).product.method == "dense"
    assert GauntConvolution(2, 2, 2, channels=4).method == "product"
    assert "method='product'" in repr(GauntConvolution(2, 2, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_convolution_compiles_into_one_graph() -> None:
    torch.compiler.reset()
    layer = GauntConvolution(1, 2, 1, method="rotation")
    x, vectors = torch.randn(5, 4, 4), torch.randn(5, 3)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x, vectors), layer(x, vectors), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`method` \(='grid'\) must be one of auto, rotation, product"):
        convolution(1, 1, 1, method="grid")
    with pytest.raises(ValueError, match=r"`lmax_out` \(=3\) cannot be reached"):
        convolution(1, 1, 3)
    with pytest.raises(ValueError, match=r"`weight`: expected last dimension 6"):
        convolution(1, 1, 1)(torch.randn(2, 1, 4), torch.randn(2, 3), torch.randn(5))
