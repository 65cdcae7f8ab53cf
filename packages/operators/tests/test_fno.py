"""Fourier neural operators: laws of the architecture, other grids, gradients, copies, errors."""

import copy
import functools
import io

import pytest
import torch
from torch import nn

from lemmata.operators.grids import Grid
from lemmata.operators.neural import FNO, Pointwise, SpectralBlock, fourier_resample


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def field(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def small(modes=(4, 4), **options):
    options = {"width": 6, "depth": 2, "generator": generator(1)} | options
    return FNO(2, 3, modes=modes, **options).double()


BLOCKS = {
    "plain": {},
    "soft-gating": {"skip": "soft-gating"},
    "identity": {"skip": "identity"},
    "mlp": {"channel_mlp": 0.5},
    "norm": {"norm": "instance"},
    "preactivation": {"preactivation": True},
    "everything": {"preactivation": True, "norm": "instance", "channel_mlp": 2.0, "activation": nn.SiLU},
}


@pytest.mark.parametrize("grid", [(9,), (12, 7), (6, 5, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_fields_in_one_to_three_dimensions(grid, dtype):
    model = small((4,) * len(grid)).to(dtype)
    y = model(field(2, 2, *grid, dtype=dtype))
    assert y.shape == (2, 3, *grid)
    assert y.dtype == dtype
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_equals_the_formula_written_out():
    model = small(coordinates=False)
    x = field(2, 2, 10, 12)

    def pointwise(layer, v):
        return nn.functional.conv2d(v, layer.weight[:, :, None, None], layer.bias)

    def network(layers, v):
        return pointwise(layers[2], nn.functional.gelu(pointwise(layers[0], v)))

    def convolve(conv, v):
        rows = torch.arange(-2, 3)
        kept = torch.fft.rfft2(v, norm="forward")[:, :, rows][..., :3]
        spectrum = torch.zeros(2, 6, 10, 7, dtype=torch.complex128)
        spectrum[:, :, rows, :3] = torch.einsum("bikl,klio->bokl", kept, torch.view_as_complex(conv.weight))
        return torch.fft.irfft(torch.fft.ifft(spectrum, dim=-2, norm="forward"), n=12, norm="forward")

    v = network(model.lift, x)
    first, last = model.blocks
    v = nn.functional.gelu(convolve(first.conv, v) + pointwise(first.skip, v))
    v = convolve(last.conv, v) + pointwise(last.skip, v)
    torch.testing.assert_close(model(x), network(model.head, v), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_commutes_with_translations_without_coordinates(options):
    model = small(coordinates=False, block=functools.partial(SpectralBlock, **options))
    x = field(2, 2, 8, 9)
    moved = model(x.roll((3, 4), (2, 3)))
    torch.testing.assert_close(moved, model(x).roll((3, 4), (2, 3)), rtol=0, atol=1e-12)


def test_coordinates_break_the_translation_symmetry():
    x = field(1, 2, 8, 8)
    model = small()
    assert (model(x.roll(1, 2)) - model(x).roll(1, 2)).abs().max() > 1e-3


def positions(model, grid):
    """Return what a model appends to a field."""
    seen = []
    model.lift.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model(field(2, 2, *grid))
    assert torch.equal(seen[0][0, 2:], seen[0][1, 2:])
    return seen[0][0, 2:]


@pytest.mark.parametrize("layout", ["nodes", "interior", "cells"])
def test_coordinates_are_those_of_the_layout(layout):
    expected = Grid((4, 5), (1.0, 1.0), layout).coordinates(dtype=torch.float64)
    torch.testing.assert_close(positions(small(coordinates=layout), (4, 5)), expected)


def test_default_coordinates_follow_the_boundary():
    """A periodic box is a circle along each axis; a padded one has two ends."""
    x, y = Grid((4, 5), (1.0, 1.0), "periodic").coordinates(dtype=torch.float64) * 2 * torch.pi
    torch.testing.assert_close(positions(small(), (4, 5)), torch.stack([x.cos(), x.sin(), y.cos(), y.sin()]))
    nodes = Grid((4, 5), (1.0, 1.0), "nodes").coordinates(dtype=torch.float64)
    torch.testing.assert_close(positions(small(domain_padding=0.25), (4, 5)), nodes)


def smooth(n):
    """Return two smooth periodic channels on an n x n grid."""
    x = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    return torch.stack([torch.sin(x)[:, None] + torch.cos(x), torch.cos(x)[:, None] * torch.sin(x)])[None]


def test_is_one_operator_on_every_grid():
    """On a smooth field the answers converge, much faster than the spacing, to those of a fine grid."""
    model = small(coordinates=False, depth=3)
    reference = model(smooth(128))
    errors = [(model(smooth(n)) - reference[..., :: 128 // n, :: 128 // n]).abs().max() for n in (16, 32)]
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6
    two_at_once = model(smooth(32), output_shape=(64, 64))
    torch.testing.assert_close(two_at_once, reference[..., ::2, ::2], rtol=0, atol=1e-5)


def test_periodic_coordinates_keep_it_one_operator():
    """What is appended on a periodic box is as smooth as the field, across the seam too."""
    model = small(depth=3)
    coarse, fine = model(smooth(32)), model(smooth(64))
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("shape", [(16, 10), (6, 7)])
def test_block_changes_the_grid_in_convolution_and_skip(options, shape):
    block = SpectralBlock(4, (4, 4), generator=generator(), **options).double()
    v = field(2, 4, 9, 8)
    y = block(v, shape)
    assert y.shape == (2, 4, *shape)
    if not options:
        expected = nn.functional.gelu(block.conv(v, shape) + block.skip(fourier_resample(v, shape)))
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)


def test_last_block_ends_linearly():
    for options in BLOCKS.values():
        model = small(block=functools.partial(SpectralBlock, **options))
        assert isinstance(model.blocks[-1].activation, nn.Identity)


def test_padding_is_a_fraction_of_the_domain():
    model = small(domain_padding=(0.25, 0.0))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    x = field(1, 2, 8, 12)
    assert model(x).shape == (1, 3, 8, 12)
    assert model(field(1, 2, 16, 12)).shape == (1, 3, 16, 12)
    assert model(x, output_shape=(16, 24)).shape == (1, 3, 16, 24)
    assert [v.shape[2:] for v in seen] == [(10, 12), (20, 12), (10, 12)]
    assert torch.count_nonzero(seen[0][:, :, 8:]) == 0


def test_padding_frees_the_boundary():
    """Without padding both ends of an axis are neighbours, with it a change at one end fades to the other."""
    x = field(1, 2, 32, dtype=torch.float64)
    changed = x.clone()
    changed[..., 0] += 1.0
    effects = []
    for padding in (0.0, 1.0):
        model = small((8,), coordinates=False, domain_padding=padding, depth=1)
        effects.append((model(changed) - model(x))[..., -1].abs().max())
    assert effects[1] < effects[0]


def test_gradients():
    model = small((2, 2), width=2, depth=1, lift_width=2, head_width=2, domain_padding=0.5)
    x = field(1, 2, 4, 3).requires_grad_()
    names = [name for name, _ in model.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *model.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_learns_a_shift():
    """Training reduces the error on an operator within reach by a factor of twenty."""
    x = fourier_resample(field(8, 1, 7, dtype=torch.float32), (16,))
    target = x.roll(3, -1)
    model = FNO(1, 1, width=8, modes=8, depth=1, coordinates=False, generator=generator())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


def test_copies_pickles_and_state_dicts_are_the_same_model():
    model = small()
    x = field(1, 2, 8, 8)
    expected = model(x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    restored = small(generator=generator(7))
    restored.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), torch.load(stream, weights_only=False), restored):
        assert torch.equal(other(x), expected)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_generator_fixes_every_weight():
    one, other = small(generator=generator(5)), small(generator=generator(5))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_empty_batch():
    y = small()(field(0, 2, 8, 8))
    assert y.shape == (0, 3, 8, 8)
    y.sum().backward()


def test_autocast_trains():
    model = small().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(field(2, 2, 16, 16, dtype=torch.float32))
        assert y.dtype == torch.bfloat16
        y.square().mean().backward()
    full = small().float()(field(2, 2, 16, 16, dtype=torch.float32))
    torch.testing.assert_close(y.float(), full, rtol=0.1, atol=0.05)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_pointwise_equals_a_convolution_of_one_point():
    layer = Pointwise(3, 5, generator=generator()).double()
    reference = nn.Conv3d(3, 5, 1).double()
    reference.load_state_dict({"weight": layer.weight[..., None, None, None], "bias": layer.bias})
    v = field(2, 3, 4, 5, 6)
    torch.testing.assert_close(layer(v), reference(v), rtol=0, atol=1e-13)
    assert layer(field(2, 3)).shape == (2, 5)


@pytest.mark.slow
def test_compiles_without_a_graph_break(unchecked):
    torch.compiler.reset()
    model = small(depth=1).float()
    compiled = torch.compile(model, fullgraph=True)
    x = field(2, 2, 12, 10, dtype=torch.float32)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"domain_padding": 0.25}], ids=["plain", "padded"])
def test_traces_whole_with_gradients_and_other_grids(unchecked, options):
    torch.compiler.reset()
    model = small(**options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for grid in [(12, 10), (8, 8)]:
        x = field(2, 2, *grid)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-12)
        gradients, expected = (
            torch.autograd.grad(m(x).square().mean(), tuple(model.parameters())) for m in (compiled, model)
        )
        torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be a positive integer"),
        ({"out_channels": -1}, r"`out_channels` \(=-1\)"),
        ({"width": 0}, r"`width` \(=0\)"),
        ({"depth": 0}, r"`depth` \(=0\)"),
        ({"lift_width": 0}, r"`lift_width` \(=0\)"),
        ({"head_width": -3}, r"`head_width` \(=-3\)"),
        ({"modes": (4, 0)}, r"`modes` \(=0\) must be a positive integer"),
        ({"modes": ()}, r"`modes` \(=\(\)\) must hold one integer for each of 1 to 3 axes"),
        ({"domain_padding": -0.1}, r"`domain_padding` \(=-0.1\) must be one or 2 fractions"),
        ({"domain_padding": (0.1,)}, r"`domain_padding` \(=\(0.1,\)\)"),
    ],
)
def test_bad_construction(options, message):
    with pytest.raises(ValueError, match=message):
        FNO(**({"in_channels": 1, "out_channels": 1} | options))


def test_unknown_names(unchecked):
    with pytest.raises(ValueError, match=r"`coordinates` \(='polar'\) must be a bool or one of periodic"):
        FNO(1, 1, coordinates="polar")
    with pytest.raises(ValueError, match=r"`skip` \(='conv'\) must be one of linear, soft-gating, identity"):
        SpectralBlock(4, 4, skip="conv")
    with pytest.raises(ValueError, match=r"`norm` \(='batch'\) must be 'instance' or None"):
        SpectralBlock(4, 4, norm="batch")
    with pytest.raises(ValueError, match=r"`channel_mlp` \(=0\) must be positive"):
        SpectralBlock(4, 4, channel_mlp=0)


def test_bad_fields():
    model = small()
    with pytest.raises(ValueError, match="expected 2 channels, got 1"):
        model(field(1, 1, 8, 8))
    with pytest.raises(ValueError, match="2 grid axes"):
        model(field(1, 2, 8))
    with pytest.raises(TypeError, match=r"torch\.bool"):
        model(torch.zeros(1, 2, 8, 8, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"torch\.float32, but the weights are torch\.float64"):
        model(field(1, 2, 8, 8, dtype=torch.float32))
    with pytest.raises(ValueError, match=r"`output_shape` \(=\(8,\)\) must hold 2 positive integers"):
        model(field(1, 2, 8, 8), (8,))
