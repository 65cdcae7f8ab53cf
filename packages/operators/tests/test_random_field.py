"""Random fields against explicit eigenfunction sums, and the promise that a seed is a function."""

import math

import numpy as np
import pytest
import torch

from lemmata.operators.grids import Grid
from lemmata.operators.pde import GaussianRandomField

LAYOUTS = {"periodic": "periodic", "neumann": "cells", "dirichlet": "interior"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def eigenfunctions(boundary, k, x, length):
    """Orthonormal real eigenfunctions of the Laplacian at points; negative k are sines of a periodic box."""
    if boundary == "periodic":
        wave = math.sqrt((1 if k == 0 else 2) / length)
        return wave * (
            torch.cos(2 * math.pi * k * x / length) if k >= 0 else torch.sin(-2 * math.pi * k * x / length)
        )
    if boundary == "neumann":
        return math.sqrt((1 if k == 0 else 2) / length) * torch.cos(math.pi * k * x / length)
    return math.sqrt(2 / length) * torch.sin(math.pi * k * x / length)


def coefficients(field, samples, k):
    """Project samples on an eigenfunction by the grid's quadrature, exact for the modes a grid holds."""
    grid = Grid(field.shape, field.length, LAYOUTS[field.boundary])
    phi = torch.ones(grid.shape, dtype=torch.float64)
    for axis, frequency in enumerate(k):
        x = grid.coordinates(dtype=torch.float64)[axis]
        phi = phi * eigenfunctions(field.boundary, frequency, x, field.length[axis])
    weight = math.prod(grid.spacing)
    return (samples * phi * weight).flatten(1).sum(dim=1)


@pytest.mark.parametrize("boundary", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "length"),
    [((16,), (2.0,)), ((15,), (1.0,)), ((12, 10), (1.0, 2.5)), ((8, 6, 5), (1.0, 1.0, 2.0))],
)
def test_every_coefficient_has_the_stated_variance(boundary, shape, length):
    field = GaussianRandomField(shape, length, alpha=1.5, tau=2.0, sigma=3.0, boundary=boundary)
    samples = field.sample(4096, generator=seeded())
    wave = 2 * math.pi if boundary == "periodic" else math.pi
    ratios = []
    for k in (
        [(1,), (2,), (4,)]
        if len(shape) == 1
        else [(1, 1), (2, 1), (3, 2)]
        if len(shape) == 2
        else [(1, 1, 2), (2, 1, 1)]
    ):
        for sign in (
            [(1,) * len(k), (-1,) + (1,) * (len(k) - 1)] if boundary == "periodic" else [(1,) * len(k)]
        ):
            found = coefficients(field, samples, tuple(s * f for s, f in zip(sign, k, strict=True)))
            mu = sum((wave * f / size) ** 2 for f, size in zip(k, length, strict=True))
            ratios.append(float(found.var() / (9.0 * (mu + 4.0) ** -1.5)))
    assert np.allclose(ratios, 1.0, atol=4.5 * math.sqrt(2 / 4096))  # 4.5 standard errors, each
    assert abs(np.mean(ratios) - 1.0) < 0.05


def test_spectrum_within_five_per_cent_over_4096_draws():
    field = GaussianRandomField((32, 32), 1.0, alpha=2.5, tau=7.0, sigma=7.0**0.75)
    samples = field.sample(4096, generator=seeded(1))
    power = torch.fft.fft2(samples, norm="forward").abs().square().mean(dim=0)
    k = torch.fft.fftfreq(32, 1 / 32, dtype=torch.float64)
    radius = torch.maximum(k.abs()[:, None], k.abs()[None, :])
    expected = 7.0**1.5 * (4 * math.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2) + 49.0) ** -2.5
    for shell in range(1, 16):
        ratio = power[radius == shell].sum() / expected[radius == shell].sum()
        assert abs(ratio - 1) < 0.05, shell
    assert float(power[0, 0]) < 1e-30  # zero mean
    assert float(power[radius == 16].max()) < 1e-30  # zero Nyquist modes


@pytest.mark.parametrize("boundary", LAYOUTS)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_one_seed_is_one_function_at_every_resolution(boundary, dim):
    n = 9 if dim == 3 else 16
    coarse, fine = (
        GaussianRandomField((size,) * dim, 1.5, 2.0, 3.0, boundary=boundary) for size in (n, 2 * n)
    )
    u, v = (field.sample(3, generator=seeded(5)) for field in (coarse, fine))
    frequencies = [-3, 1, 2, 7] if boundary == "periodic" and dim == 1 else [1, 2, 4]
    for k in [(f,) * dim for f in frequencies] + [(1,) * (dim - 1) + (3,)]:
        a, b = coefficients(coarse, u, k), coefficients(fine, v, k)
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * float(a.abs().max()))


def test_all_modes_below_nyquist_agree_and_the_rest_is_new():
    coarse, fine = (
        GaussianRandomField((n, n), 1.0, 2.0, 3.0).sample(2, generator=seeded()) for n in (16, 32)
    )
    k = torch.fft.fftfreq(16, 1 / 16).long()
    k = k[k.abs() < 8]
    a = torch.fft.fft2(coarse, norm="forward")[:, k][:, :, k]
    b = torch.fft.fft2(fine, norm="forward")[:, k][:, :, k]
    assert (a - b).abs().max() < 1e-12 * a.abs().max()


def test_odd_and_even_and_unequal_grids_share_modes():
    field = [GaussianRandomField(shape, 1.0, 2.0, 3.0) for shape in [(12, 20), (13, 9), (20, 20)]]
    found = [coefficients(f, f.sample(2, generator=seeded(3)), (2, -3)) for f in field]
    assert torch.allclose(found[0], found[1], rtol=1e-12)
    assert torch.allclose(found[0], found[2], rtol=1e-12)


@pytest.mark.parametrize("boundary", LAYOUTS)
def test_fields_do_not_depend_on_how_many_are_drawn_with_them(boundary):
    field = GaussianRandomField((17, 8), 1.0, 2.0, 3.0, boundary=boundary)
    assert torch.equal(field.sample(7, generator=seeded())[:3], field.sample(3, generator=seeded()))
    each = field.sample(4, generator=[seeded(i) for i in range(4)])
    for i in range(4):
        assert torch.equal(each[i : i + 1], field.sample(1, generator=seeded(i)))
    assert torch.equal(each[2:], field.sample(2, generator=[seeded(2), seeded(3)]))


def test_noise_streams_have_the_prefix_property_bit_for_bit():
    for short, long in [(7, 8), (100, 4097), (1, 2**16)]:
        a, b = (np.random.Generator(np.random.PCG64(11)).standard_normal(n) for n in (short, long))
        assert np.array_equal(a, b[:short])


def test_global_generator_dtype_and_default_sigma():
    field = GaussianRandomField(32, 1.0, alpha=2.0, tau=3.0)
    assert field.sigma == pytest.approx(3.0**1.5)
    torch.manual_seed(3)
    first = field.sample(2)
    torch.manual_seed(3)
    assert torch.equal(first, field.sample(2))
    single = field.sample(2, generator=seeded(), dtype=torch.float32)
    assert single.dtype == torch.float32
    assert torch.equal(single, field.sample(2, generator=seeded()).float())
    assert field.sample(0).shape == (0, 32)


def test_pointwise_std_is_the_empirical_one():
    for boundary, layout in LAYOUTS.items():
        field = GaussianRandomField((16, 16), 1.0, 2.0, 3.0, boundary=boundary)
        samples = field.sample(4000, generator=seeded(2))
        weights = Grid(field.shape, field.length, layout).weights(dtype=torch.float64)
        mean_square = (samples.square() * weights).sum(dim=(1, 2)).mean()
        assert mean_square.sqrt() == pytest.approx(field.pointwise_std(), rel=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (0,)}, "`shape`"),
        ({"shape": (4, 4, 4, 4)}, "`shape`"),
        ({"length": -1.0}, "`length`"),
        ({"length": (1.0, 1.0)}, "`length`"),
        ({"alpha": -1.0}, "`alpha`"),
        ({"tau": math.nan}, "`tau`"),
        ({"tau": 0.0}, "`tau`"),
        ({"sigma": -2.0}, "`sigma`"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"shape": (8,), "length": 1.0, "alpha": 2.0, "tau": 3.0} | changes
    with pytest.raises(ValueError, match=message):
        GaussianRandomField(**arguments)


def test_bad_draws_are_named():
    field = GaussianRandomField(8, 1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="2 generators"):
        field.sample(3, generator=[seeded(), seeded()])
    with pytest.raises(ValueError, match="`n`"):
        field.sample(-1)
