"""Spectral convolutions against complex FFTs, closed forms and the laws of operators."""

import copy
import io
import itertools
import math

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lemmata.operators.neural.fourier as fourier
from lemmata.operators.neural import SpectralConv, fourier_resample

GRIDS = [((4,), (11,)), ((5,), (16,)), ((4, 6), (9, 12)), ((6, 3), (16, 7)), ((4, 2, 6), (6, 5, 8))]


@pytest.fixture(params=["dense", "fft"])
def path(request, monkeypatch):
    """Run a test on either implementation of the transforms."""
    monkeypatch.setattr(fourier, "DENSE_ORDER", 1000 if request.param == "dense" else -1)
    return request.param


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def field(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def layer(c_in, c_out, modes, *, seed=1, **options):
    return SpectralConv(c_in, c_out, modes, generator=generator(seed), **options).double()


def band_limited(modes, channels=2, batch=2, seed=0):
    """Return a function from a shape to a fixed real Fourier series sampled on it."""
    rng = np.random.default_rng(seed)
    waves = list(itertools.product(*[range(-(m // 2), m // 2 + 1) for m in modes]))
    amplitude = rng.standard_normal((len(waves), batch, channels))
    phase = rng.uniform(0, 2 * np.pi, (len(waves), batch, channels))

    def sample(shape):
        points = np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij")
        total = np.zeros((batch, channels, *shape))
        for wave, a, p in zip(waves, amplitude, phase, strict=True):
            angle = 2 * np.pi * sum(k * x for k, x in zip(wave, points, strict=True))
            ones = (...,) + (None,) * len(shape)
            total += a[ones] * np.cos(angle + p[ones])
        return torch.from_numpy(total)

    return sample


def full_complex_oracle(x, conv, shape=None):
    """Spectral convolution by full complex FFTs, one frequency and its negative at a time, in NumPy."""
    grid = x.shape[2:]
    shape = grid if shape is None else shape
    axes = tuple(range(2, x.ndim))
    spectrum = np.fft.fftn(x.detach().numpy(), axes=axes, norm="forward")
    weight = torch.view_as_complex(conv.weight.detach()).numpy()
    points = np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij")
    result = np.zeros((x.shape[0], conv.out_channels, *shape))
    orders = [min(k, n // 2, s // 2) for k, n, s in zip(conv.orders, grid, shape, strict=True)]
    ranges = [range(-k, k + 1) for k in orders[:-1]] + [range(orders[-1] + 1)]
    for wave in itertools.product(*ranges):
        halves = math.prod(0.5 if 2 * abs(k) == n else 1.0 for k, n in zip(wave, grid, strict=True))
        coefficient = (
            halves * spectrum[(slice(None), slice(None), *(k % n for k, n in zip(wave, grid, strict=True)))]
        )
        index = (*(k + c for k, c in zip(wave[:-1], conv.orders[:-1], strict=True)), wave[-1])
        product = np.einsum("bi,io->bo", coefficient, weight[index])
        exponential = np.exp(2j * np.pi * sum(k * x for k, x in zip(wave, points, strict=True)))
        series = product[(...,) + (None,) * len(shape)] * exponential
        result += (1 if wave[-1] == 0 else 2) * series.real
    return torch.from_numpy(result)


@pytest.mark.parametrize(("modes", "grid"), GRIDS)
def test_equals_full_complex_transform(modes, grid, path):
    conv = layer(3, 2, modes)
    x = field(2, 3, *grid)
    torch.testing.assert_close(conv(x), full_complex_oracle(x, conv), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 10), (9, 24), (4, 5), (6, 6)])
def test_output_on_another_grid_equals_full_complex_transform(shape, path):
    conv = layer(2, 3, (6, 6))
    x = field(2, 2, 10, 11)
    torch.testing.assert_close(conv(x, shape), full_complex_oracle(x, conv, shape), rtol=0, atol=1e-12)


def test_equals_einsum_over_torch_fft():
    conv = layer(3, 4, (6, 8))
    x = field(2, 3, 15, 20)
    spectrum = torch.fft.rfftn(x, dim=(-2, -1), norm="forward")
    rows = torch.arange(-3, 4)
    kept = torch.zeros(2, 4, 15, 11, dtype=torch.complex128)
    kept[:, :, rows, :5] = torch.einsum(
        "bikl,klio->bokl", spectrum[:, :, rows][..., :5], torch.view_as_complex(conv.weight.detach())
    )
    columns = torch.fft.ifft(kept, dim=-2, norm="forward")
    expected = torch.fft.irfft(columns, n=20, dim=-1, norm="forward")
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def identity(conv):
    """Set a convolution's weights to the identity at each frequency."""
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[..., 0] = torch.eye(conv.in_channels, dtype=torch.float64)
    return conv


@pytest.mark.parametrize(("modes", "grid"), [((6,), (16,)), ((6, 4), (9, 16)), ((4, 4, 4), (6, 7, 8))])
def test_identity_weights_reproduce_band_limited_fields(modes, grid, path):
    sample = band_limited(modes)
    conv = identity(layer(2, 2, modes))
    torch.testing.assert_close(conv(sample(grid)), sample(grid), rtol=0, atol=1e-12)
    finer = tuple(2 * n - 1 for n in grid)
    torch.testing.assert_close(conv(sample(grid), finer), sample(finer), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(8,), (6, 4), (5, 8), (4, 6, 2)])
def test_identity_weights_on_all_modes_reproduce_any_field(grid, path):
    conv = identity(layer(2, 2, grid))
    x = field(3, 2, *grid)
    torch.testing.assert_close(conv(x), x, rtol=0, atol=1e-12)


def test_derivative_of_sine_and_cosine():
    length, n = 3.0, 32
    conv = layer(1, 1, 12)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, 0, 0, 1] = 2 * math.pi * torch.arange(7, dtype=torch.float64) / length
    x = length * torch.arange(n, dtype=torch.float64) / n
    for k in range(1, 7):
        a = 2 * math.pi * k / length
        torch.testing.assert_close(
            conv(torch.sin(a * x)[None, None])[0, 0], a * torch.cos(a * x), rtol=0, atol=1e-10
        )
        torch.testing.assert_close(
            conv(torch.cos(a * x)[None, None])[0, 0], -a * torch.sin(a * x), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize(("modes", "grid"), [((6,), (13,)), ((6, 4), (10, 12)), ((4, 4, 4), (6, 7, 8))])
def test_is_one_operator_on_every_grid(modes, grid, path):
    sample = band_limited(modes)
    conv = layer(2, 3, modes, bias=True)
    torch.nn.init.normal_(conv.bias, generator=generator(3))
    coarse, fine = conv(sample(grid)), conv(sample(tuple(2 * n for n in grid)))
    every_other = (..., *[slice(None, None, 2)] * len(grid))
    torch.testing.assert_close(fine[every_other], coarse, rtol=0, atol=1e-12)
    torch.testing.assert_close(conv(sample(grid), [2 * n for n in grid]), fine, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    grid=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    modes=st.lists(st.integers(1, 10), min_size=3, max_size=3),
    shift=st.integers(0, 8),
)
def test_commutes_with_translations(grid, modes, shift):
    conv = layer(2, 2, modes[: len(grid)])
    x = field(1, 2, *grid)
    dims = tuple(range(2, x.ndim))
    shifts = (shift,) * len(grid)
    torch.testing.assert_close(conv(x.roll(shifts, dims)), conv(x).roll(shifts, dims), rtol=0, atol=1e-12)


def reflect(x):
    """Evaluate a periodic field at minus the coordinates."""
    dims = tuple(range(2, x.ndim))
    return x.flip(dims).roll((1,) * len(dims), dims)


@pytest.mark.parametrize("grid", [(8, 8), (9, 6)])
def test_mode_set_commutes_with_reflections(grid):
    conv = layer(2, 2, (8, 6))
    x = field(2, 2, *grid)
    assert (conv(reflect(x)) - reflect(conv(x))).abs().max() > 1e-3
    with torch.no_grad():  # R(-k) = R(k), which for a real field says that R is real and even in k
        conv.weight[..., 1] = 0
        conv.weight.copy_((conv.weight + conv.weight.flip(0)) / 2)
    torch.testing.assert_close(conv(reflect(x)), reflect(conv(x)), rtol=0, atol=1e-12)


def test_projects_onto_spectra_of_real_fields(path):
    """The plane of last frequency zero acts through (c(k) + conj c(-k)) / 2."""
    coefficients = field(2, 5, 3, 1, 1)
    c = torch.view_as_complex(coefficients[..., 0, 0].movedim(0, -1).contiguous())
    plane = c[:, 0].clone()
    c[:, 0] = (plane + plane.flip(0).conj()) / 2
    half = torch.zeros(8, 5, dtype=torch.complex128)
    half[torch.arange(-2, 3), :3] = c
    expected = torch.fft.irfftn(half, s=(8, 8), norm="forward")
    torch.testing.assert_close(fourier.synthesise(coefficients, (8, 8))[0, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("modes", "grid"), [((3,), (6,)), ((3, 4), (4, 5)), ((2, 2, 2), (2, 3, 3))])
def test_gradients(modes, grid, path):
    conv = layer(2, 2, modes, bias=True)
    x = field(1, 2, *grid).requires_grad_()
    shape = tuple(n + 1 for n in grid)

    def run(x, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x, shape))

    inputs = (x, conv.weight, conv.bias)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_keeps_the_variance_of_band_limited_fields():
    conv = SpectralConv(64, 64, (8, 8), generator=generator(2))
    x = fourier_resample(field(8, 64, 9, 9, dtype=torch.float32), (24, 24))
    assert conv(x).var().item() == pytest.approx(x.var().item(), rel=0.05)


def test_initial_draws():
    first = SpectralConv(4, 8, (8, 8), init="fno", generator=generator()).weight
    assert first.min() >= 0
    assert first.max().item() == pytest.approx(1 / 32, rel=0.01)
    assert SpectralConv(
        4, 8, (16, 16), weight_std=0.3, generator=generator()
    ).weight.std().item() == pytest.approx(0.3, rel=0.02)
    one, other = (SpectralConv(4, 8, 8, generator=generator(5)).weight for _ in range(2))
    assert torch.equal(one, other)


def test_coarse_grids_clip_the_modes_unless_strict():
    x = field(1, 2, 6, 5)
    wide, narrow = layer(2, 2, (16, 16)), layer(2, 2, (6, 4))
    with torch.no_grad():
        narrow.weight.copy_(wide.weight[5:12, :3])
    torch.testing.assert_close(wide(x), narrow(x), rtol=0, atol=1e-14)
    strict = layer(2, 2, (6, 4), strict=True)
    strict(x)
    with pytest.raises(
        ValueError, match=r"`modes` \(=\(6, 4\)\) must be at most .* \(=\(5, 5\) -> \(5, 5\)\)"
    ):
        strict(field(1, 2, 5, 5))
    with pytest.raises(ValueError, match=r"\(6, 5\) -> \(4, 5\)"):
        strict(x, (4, 5))


def test_bias_is_a_constant_per_channel():
    conv = layer(2, 3, (4, 4), bias=True)
    x = field(2, 2, 8, 8)
    plain = conv(x)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    expected = plain + torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-13)


def test_empty_batch_keeps_shapes_and_gradients(path):
    conv = layer(2, 3, (4, 4))
    y = conv(field(0, 2, 8, 8))
    assert y.shape == (0, 3, 8, 8)
    y.sum().backward()
    assert torch.count_nonzero(conv.weight.grad) == 0


def test_any_strides_are_read(path):
    conv = layer(3, 2, (4, 4))
    x = field(2, 8, 9, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(conv(x), conv(x.contiguous()), rtol=0, atol=1e-13)
    assert conv(x).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_transformed_in_single(dtype):
    conv = SpectralConv(3, 3, (6, 6), generator=generator())
    x = field(2, 3, 12, 12, dtype=torch.float32).to(dtype)
    expected = conv(x.float())
    assert conv(x).dtype == dtype
    torch.testing.assert_close(conv(x), expected.to(dtype), rtol=0, atol=0)


def test_autocast_leaves_the_transform_in_single():
    conv = SpectralConv(3, 3, (6, 6), generator=generator())
    x = field(2, 3, 12, 12, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert torch.equal(y, conv(x))


def test_float32_is_close_to_float64(path):
    conv = layer(3, 3, (12, 12))
    x = field(2, 3, 64, 64)
    single = copy.deepcopy(conv).float()(x.float())
    torch.testing.assert_close(single.double(), conv(x), rtol=0, atol=3e-6)


def test_copies_pickles_and_state_dicts_are_the_same_layer():
    conv = layer(2, 2, (4, 4), bias=True)
    x = field(1, 2, 8, 8)
    stream = io.BytesIO()
    torch.save(conv, stream)
    stream.seek(0)
    restored = layer(2, 2, (4, 4), bias=True, seed=7)
    restored.load_state_dict(conv.state_dict())
    for other in (copy.deepcopy(conv), torch.load(stream, weights_only=False), restored):
        assert torch.equal(other(x), conv(x))
    assert list(conv.state_dict()) == ["weight", "bias"]
    assert not any(value.is_complex() for value in conv.state_dict().values())


def test_serves_training_after_inference_mode():
    conv = layer(2, 2, (4, 4))
    x = field(1, 2, 14, 14)
    with torch.inference_mode():
        conv(x)
    conv(x).sum().backward()
    assert conv.weight.grad is not None


def test_maps_over_a_further_axis():
    conv = layer(2, 2, (4, 4))
    x = field(3, 1, 2, 8, 8)
    torch.testing.assert_close(torch.vmap(conv)(x), torch.stack([conv(v) for v in x]))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_compiles_without_a_graph_break(unchecked, dim):
    torch.compiler.reset()
    conv = SpectralConv(2, 2, (4,) * dim, bias=True, generator=generator())
    x = field(2, 2, *(8, 9, 10)[:dim], dtype=torch.float32)
    compiled = torch.compile(conv, fullgraph=True)
    torch.testing.assert_close(compiled(x), conv(x), rtol=0, atol=1e-5)
    gradient = torch.autograd.grad(compiled(x).square().sum(), conv.weight)
    expected = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 1, 4), {}, r"`in_channels` \(=0\) must be a positive integer"),
        ((1, -2, 4), {}, r"`out_channels` \(=-2\) must be a positive integer"),
        ((1, 1, 0), {}, r"`modes` \(=0\) must be a positive integer"),
        ((1, 1, (4, 0)), {}, r"`modes` \(=0\) must be a positive integer"),
        ((1, 1, ()), {}, r"`modes` \(=\(\)\) must hold one integer for each of 1 to 3 axes"),
        ((1, 1, (2, 2, 2, 2)), {}, "1 to 3 axes"),
        ((1, 1, 4), {"weight_std": 0.0}, r"`weight_std` \(=0.0\) must be positive"),
    ],
)
def test_bad_construction(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        SpectralConv(*arguments, **options)


def test_unknown_init(unchecked):
    with pytest.raises(ValueError, match=r"`init` \(='xavier'\) must be one of unit, fno"):
        SpectralConv(1, 1, 4, init="xavier")


def test_bad_fields():
    conv = layer(2, 2, (4, 4))
    with pytest.raises(ValueError, match="expected 2 channels, got 3"):
        conv(field(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"with 2 grid axes, one for each of `modes`"):
        conv(field(1, 2, 8))
    with pytest.raises(ValueError, match="at least one point"):
        conv(field(1, 2, 0, 8))
    with pytest.raises(TypeError, match=r"`x` is torch.int64: expected a real floating-point field"):
        conv(torch.zeros(1, 2, 8, 8, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"torch.complex128"):
        conv(torch.zeros(1, 2, 8, 8, dtype=torch.complex128))
    with pytest.raises(TypeError, match=r"`x` is torch.float32, but the weights are torch.float64"):
        conv(field(1, 2, 8, 8, dtype=torch.float32))
    for shape in [(8,), (8, 0)]:
        with pytest.raises(ValueError, match=r"`output_shape` \(=.*\) must hold 2 positive integers"):
            conv(field(1, 2, 8, 8), shape)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 20), m=st.integers(1, 20))
def test_resampling_equals_scipy(n, m):
    x = field(2, n)
    expected = torch.from_numpy(scipy.signal.resample(x.numpy(), m, axis=-1))
    torch.testing.assert_close(fourier_resample(x, (m,)), expected, rtol=0, atol=1e-12)


def test_resampling_is_exact_for_band_limited_fields():
    sample = band_limited((6, 4))
    x = sample((9, 8))
    torch.testing.assert_close(fourier_resample(x, (16, 7)), sample((16, 7)), rtol=0, atol=1e-12)
    torch.testing.assert_close(fourier_resample(x, (16,), dims=(2,)), sample((16, 8)), rtol=0, atol=1e-12)
    torch.testing.assert_close(fourier_resample(x, (9, 8)), x, rtol=0, atol=0)


def test_resampling_there_and_back_returns_any_field():
    x = field(1, 1, 8, 10)
    finer = fourier_resample(x, (20, 25))
    torch.testing.assert_close(fourier_resample(finer, (8, 10)), x, rtol=0, atol=1e-12)


def test_resampling_rejects_bad_input():
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        fourier_resample(torch.zeros(4, dtype=torch.complex64), (8,))
    with pytest.raises(ValueError, match=r"`dims` \(=\(0, -2\)\) must be different axes"):
        fourier_resample(torch.zeros(4, 4), (8, 8), dims=(0, -2))
    with pytest.raises(ValueError, match=r"`dims` \(=\(2,\)\)"):
        fourier_resample(torch.zeros(4, 4), (8,), dims=(2,))
    with pytest.raises(ValueError, match=r"`output_shape` \(=\(0,\)\)"):
        fourier_resample(torch.zeros(4), (0,))
    with pytest.raises(ValueError, match="must hold points"):
        fourier_resample(torch.zeros(0), (4,))
