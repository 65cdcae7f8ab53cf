"""Spherical harmonics against e3nn, sphericart and closed forms; derivatives of every order; corner cases."""

import json
import math
from pathlib import Path

import e3nn.o3
import pytest
import sphericart
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.equivariant.o3 import Irreps, solid_harmonics, spherical_harmonics, unit_vectors
from lemmata.equivariant.o3.solid_harmonics import directional_derivative

F64 = torch.float64
STORED = json.loads(Path(__file__).with_name("e3nn_values.json").read_text())
NORMALIZATIONS = ("integral", "component", "norm")
AXES = torch.cat([torch.eye(3, dtype=F64), -torch.eye(3, dtype=F64)])


def vectors(*shape: int) -> Tensor:
    """Return random vectors, and the axes where angles would be singular."""
    return (
        torch.cat([torch.randn(*shape, 3, dtype=F64), AXES])
        if len(shape) == 1
        else torch.randn(*shape, 3, dtype=F64)
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("normalize", [False, True])
def test_equal_e3nn(normalization: str, normalize: bool) -> None:
    x, degrees = vectors(50), list(range(13))
    ours = spherical_harmonics(degrees, x, normalize, normalization)
    theirs = e3nn.o3.spherical_harmonics(degrees, x, normalize, normalization)
    scale = 1 if normalize else x.norm(dim=-1, keepdim=True).clamp(min=1) ** 12
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-12)


def test_equal_sphericart() -> None:
    x = vectors(50)
    theirs = sphericart.SphericalHarmonics(10).compute(x.numpy()[:, [2, 0, 1]])
    ours = spherical_harmonics(list(range(11)), x, normalize=True)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-12)


def test_equal_stored_values() -> None:
    x = torch.tensor(STORED["vector"], dtype=F64)
    found = spherical_harmonics(list(range(7)), x, True, "component")
    torch.testing.assert_close(found, torch.tensor(STORED["harmonics"], dtype=F64), rtol=0, atol=1e-12)


def test_closed_forms() -> None:
    x, y, z = (v := unit_vectors(vectors(20))).unbind(-1)
    found = spherical_harmonics([0, 1, 2], v, False, "norm")
    root = math.sqrt(3)
    expected = [
        torch.ones_like(x), x, y, z,
        root * x * z, root * x * y, y * y - (x * x + z * z) / 2, root * y * z, root / 2 * (z * z - x * x),
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(expected, dim=-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("lmax", [0, 3, 40])
def test_addition_theorem(lmax: int) -> None:
    v = unit_vectors(vectors(30))
    for normalization, total in (("component", None), ("norm", 1.0), ("integral", None)):
        y = spherical_harmonics(list(range(lmax + 1)), v, False, normalization)
        for l in range(lmax + 1):
            squares = y[:, l * l : (l + 1) ** 2].square().sum(-1)
            expected = total or (2 * l + 1) / (4 * math.pi if normalization == "integral" else 1)
            torch.testing.assert_close(squares, torch.full_like(squares, expected), rtol=1e-12, atol=0)


def test_high_degrees_neither_overflow_nor_lose_single_precision() -> None:
    x = unit_vectors(vectors(20))
    double = solid_harmonics(80, x, "component")
    single = solid_harmonics(80, x.float(), "component")
    assert torch.isfinite(double).all()
    assert (single.double() - double).abs().max() < 1e-3


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 6), st.floats(1e-3, 1e3), st.tuples(*[st.floats(-1, 1, allow_subnormal=False)] * 3))
def test_solid_harmonics_are_homogeneous(l: int, factor: float, vector: tuple[float, ...]) -> None:
    x = torch.tensor(vector, dtype=F64)
    one, scaled = (spherical_harmonics(l, v, normalize=False) for v in (x, factor * x))
    torch.testing.assert_close(scaled, factor**l * one, rtol=1e-11, atol=1e-13 * factor**l)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_lengths_do_not_matter_when_normalised(scale: float) -> None:
    x = vectors(10)
    expected = spherical_harmonics([0, 1, 4], x, normalize=True)
    found = spherical_harmonics([0, 1, 4], x * scale, normalize=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_zero_vectors() -> None:
    x = torch.zeros(2, 3, dtype=F64, requires_grad=True)
    y = spherical_harmonics([0, 1, 2, 3], x, True, "component")
    assert y.tolist() == [[1.0] + [0.0] * 15] * 2
    (slope,) = torch.autograd.grad(y.square().sum() + y.sum(), x, create_graph=True)
    assert slope.tolist() == [[0.0] * 3] * 2
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert curvature.tolist() == [[0.0] * 3] * 2
    solid = spherical_harmonics([0, 1, 2], x, normalize=False)
    (slope,) = torch.autograd.grad(solid.sum(), x)
    torch.testing.assert_close(slope, torch.full_like(slope, math.sqrt(3 / (4 * math.pi))))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_derivatives(normalization: str) -> None:
    x = torch.cat([torch.randn(2, 3, dtype=F64), AXES[1:2], AXES[1:2] + 1e-8]).requires_grad_()

    def harmonics(v: Tensor) -> Tensor:
        return solid_harmonics(4, v, normalization)

    assert torch.autograd.gradcheck(harmonics, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(harmonics, (x,), check_batched_grad=True)
    unit = torch.randn(2, 3, dtype=F64, requires_grad=True)
    degrees = [0, 1, 2, 3]
    assert torch.autograd.gradgradcheck(
        lambda v: spherical_harmonics(degrees, v, True, normalization), (unit,)
    )


def test_slopes_equal_e3nns() -> None:
    x = torch.randn(20, 3, dtype=F64, requires_grad=True)
    weight = torch.randn(20, 81, dtype=F64)
    slopes = [
        torch.autograd.grad((f(list(range(9)), x, True, "component") * weight).sum(), x)[0]
        for f in (spherical_harmonics, e3nn.o3.spherical_harmonics)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-11)


def test_solid_harmonics_are_harmonic() -> None:
    x = torch.randn(5, 3, dtype=F64)
    hessian = torch.vmap(torch.func.hessian(lambda v: solid_harmonics(5, v)))(x)
    laplacian = hessian.diagonal(dim1=-1, dim2=-2).sum(-1)
    torch.testing.assert_close(laplacian, torch.zeros_like(laplacian), rtol=0, atol=1e-11)


def test_transforms_of_functions() -> None:
    x = torch.randn(4, 5, 3, dtype=F64)
    torch.testing.assert_close(torch.vmap(lambda v: solid_harmonics(3, v), in_dims=1, out_dims=1)(x),
                               solid_harmonics(3, x))  # fmt: skip
    flat = x.reshape(-1, 3)
    reverse = torch.vmap(torch.func.jacrev(lambda v: solid_harmonics(3, v)))(flat)
    forward = torch.vmap(torch.func.jacfwd(lambda v: solid_harmonics(3, v)))(flat)
    torch.testing.assert_close(reverse, forward)


def test_directional_derivative_equals_a_complex_step_and_autograd() -> None:
    x, direction = torch.randn(2, 6, 3, dtype=F64)
    found = directional_derivative(5, x, direction)
    step = solid_harmonics(5, torch.complex(x, direction * 1e-30)).imag / 1e-30
    torch.testing.assert_close(found, step, rtol=1e-12, atol=1e-12)
    _, tangent = torch.func.jvp(lambda v: solid_harmonics(5, v), (x,), (direction,))
    torch.testing.assert_close(found, tangent, rtol=1e-12, atol=1e-12)


def test_degrees_in_any_order() -> None:
    x = torch.randn(4, 3, dtype=F64)
    one, two = spherical_harmonics(1, x, True), spherical_harmonics(2, x, True)
    torch.testing.assert_close(spherical_harmonics([2, 1, 2], x, True), torch.cat([two, one, two], dim=-1))
    torch.testing.assert_close(
        spherical_harmonics(Irreps("2x1o + 1x2e"), x, True), torch.cat([one, one, two], -1)
    )
    torch.testing.assert_close(spherical_harmonics(Irreps("1e + 2e"), x, True), torch.cat([one, two], dim=-1))
    assert spherical_harmonics([], x, True).shape == (4, 0)


@pytest.mark.parametrize("batch", [(), (0,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("normalize", [False, True])
def test_batches(batch: tuple[int, ...], normalize: bool) -> None:
    x = torch.randn(*batch, 3, dtype=F64, requires_grad=True)
    y = spherical_harmonics([0, 1, 2, 3], x, normalize)
    assert y.shape == (*batch, 16)
    assert y.is_contiguous()
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_dtypes() -> None:
    x = torch.randn(50, 3)
    double = spherical_harmonics([0, 1, 2, 3, 4], x.double(), True)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        found = spherical_harmonics([0, 1, 2, 3, 4], x.to(dtype), True)
        assert found.dtype == dtype
        exact = spherical_harmonics([0, 1, 2, 3, 4], x.to(dtype).double(), True)
        assert (found.double() - exact).abs().max() < tolerance
    assert double.dtype == F64


def test_strides_do_not_matter() -> None:
    x = torch.randn(3, 8, dtype=F64)
    torch.testing.assert_close(
        spherical_harmonics(3, x.mT, True), spherical_harmonics(3, x.mT.contiguous(), True)
    )
    wide = torch.randn(4, 6, dtype=F64)[:, ::2]
    torch.testing.assert_close(spherical_harmonics(2, wide, True), spherical_harmonics(2, wide.clone(), True))


def test_inference_mode_leaves_nothing_behind() -> None:
    x = torch.randn(4, 3, dtype=F64)
    with torch.inference_mode():
        spherical_harmonics([0, 5], x, True)
    x = x.clone().requires_grad_()
    spherical_harmonics([0, 5], x, True).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.slow
def test_compiles(unchecked: None) -> None:
    torch.compiler.reset()
    x = torch.randn(30, 3, dtype=F64, requires_grad=True)

    def energy(v: Tensor) -> Tensor:
        return spherical_harmonics([0, 1, 2, 3], v, True, "component").sin().sum()

    compiled = torch.compile(energy, fullgraph=True)
    torch.testing.assert_close(compiled(x), energy(x))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x), x)[0], torch.autograd.grad(energy(x), x)[0], rtol=1e-10, atol=1e-10
    )


def test_bad_input(unchecked: None) -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="`normalization`"):
        spherical_harmonics(1, x, True, "unit")
    with pytest.raises(ValueError, match="at least 0"):
        spherical_harmonics([1, -1], x, True)
    with pytest.raises(ValueError, match="expected last dimension 3"):
        spherical_harmonics(1, x.mT, True)
    with pytest.raises(TypeError, match="floating"):
        spherical_harmonics(1, torch.ones(3, dtype=torch.long), True)
    with pytest.raises(ValueError, match="parity"):
        spherical_harmonics(Irreps("1o + 2o"), x, True)
    with pytest.raises(ValueError, match="`lmax`"):
        solid_harmonics(-1, x)
