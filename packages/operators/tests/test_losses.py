import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.operators.grids import Grid
from lemmata.operators.losses import (
    BochnerNorm,
    RelativeH1,
    RelativeLp,
    RelativeSobolev,
    SobolevNorm,
    bochner_norm,
    lp_norm,
    relative_h1,
    relative_lp,
    relative_sobolev,
    sobolev_norm,
)
from lemmata.operators.quadrature import quadrature_weights

ORDERS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
SHAPES = [(8,), (9,), (6, 8), (7, 5), (6, 7), (7, 6), (4, 5, 6), (5, 4, 3), (1,), (2,), (1, 4)]
F64 = torch.float64


def random_fields(shape, n=3, channels=2, seed=0, dtype=F64):
    return torch.randn(n, channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(
        dtype
    )


def lengths_of(shape):
    return tuple(1.0 + 0.5 * axis for axis in range(len(shape)))


def full_spectrum_norm(u, order, lengths, shift):
    """The definition: a sum over every coefficient of the full complex FFT."""
    shape = u.shape[2:]
    hat = np.fft.fftn(u.numpy(), axes=range(2, u.ndim), norm="forward")
    k = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    square = sum((2 * np.pi * k_i / size) ** 2 for k_i, size in zip(k, lengths, strict=True))
    with np.errstate(divide="ignore"):
        symbol = (shift + square) ** order
    if shift == 0:
        symbol[(0,) * len(shape)] = 0.0
    total = (symbol * np.abs(hat) ** 2).sum(axis=tuple(range(1, u.ndim)))
    return np.sqrt(math.prod(lengths) * total)


# Lebesgue norms


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_lp_is_numpys_vector_norm(p):
    u = random_fields((5, 4))
    expected = np.linalg.norm(u.numpy().reshape(3, -1), ord=p, axis=1)
    np.testing.assert_allclose(lp_norm(u, p).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_weights_make_a_sum_an_integral(p):
    grid = Grid((65,), (2.0,), "nodes")
    x = grid.coordinates(dtype=F64)
    w = quadrature_weights(65, 2.0, "simpson", dtype=F64)
    norm = lp_norm((x + 1.0).unsqueeze(0), p, weights=w)
    assert norm.item() == pytest.approx(((3.0 ** (p + 1) - 1) / (p + 1)) ** (1 / p), rel=1e-7)


def test_each_sample_may_have_its_own_points():
    u, w = random_fields((6,)), torch.rand(3, 6, dtype=F64)
    together = lp_norm(u, weights=w)
    alone = torch.cat([lp_norm(u[i : i + 1], weights=w[i]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_errors_are_taken_sample_by_sample():
    target = torch.tensor([[[1.0]], [[100.0]]])
    error = relative_lp(target + torch.tensor([[[0.5]], [[10.0]]]), target)
    assert error.item() == pytest.approx((0.5 + 0.1) / 2)  # the norm of the batch would give 0.1001


@pytest.mark.parametrize(
    "make", [RelativeLp, lambda **k: RelativeSobolev(-1.0, 1.0, **k), lambda **k: RelativeH1(1.0, **k)]
)
def test_reductions_agree(make):
    target, prediction = random_fields((8,)), random_fields((8,), seed=1)
    each = make(reduction="none")(prediction, target)
    assert each.shape == (3,)
    torch.testing.assert_close(make(reduction="mean")(prediction, target), each.mean())
    torch.testing.assert_close(make(reduction="sum")(prediction, target), each.sum())
    torch.testing.assert_close(make()(prediction[:1], target[:1]), each[0])


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-6, 1e6), sign=st.sampled_from([-1.0, 1.0]), seed=st.integers(0, 99))
def test_relative_errors_do_not_depend_on_units(scale, sign, seed):
    target, prediction = random_fields((6, 5), seed=seed), random_fields((6, 5), seed=seed + 100)
    losses = [
        RelativeLp(),
        RelativeLp(p=1.0),
        RelativeLp(p=math.inf),
        RelativeSobolev(-0.5, (1.0, 2.0)),
        RelativeSobolev(1.0, (1.0, 2.0), shift=0.3),
        RelativeH1((1.0, 2.0), "fd"),
    ]
    for loss in losses:
        scaled = loss(sign * scale * prediction, sign * scale * target)
        torch.testing.assert_close(scaled, loss(prediction, target), rtol=1e-10, atol=0)


def test_units_of_length_do_not_matter_to_a_homogeneous_error():
    target, prediction = random_fields((6, 5)), random_fields((6, 5), seed=1)
    in_metres = relative_sobolev(prediction, target, 1.5, (1.0, 2.0))
    in_millimetres = relative_sobolev(prediction, target, 1.5, (1000.0, 2000.0))
    torch.testing.assert_close(in_millimetres, in_metres, rtol=1e-12, atol=0)


# Sobolev norms of periodic fields


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("n", "k"), [(16, 1), (16, 3), (17, 5), (9, 4)])
def test_sine_has_its_closed_norm(order, n, k):
    # The amplitude multiplier is |xi|^s; a second square root, |xi|^(s/2), fails here for all s but 0.
    length = 3.0
    x = Grid((n,), (length,), "periodic").coordinates(dtype=F64)
    u = torch.sin(2 * math.pi * k * x / length).unsqueeze(0)
    expected = (2 * math.pi * k / length) ** (2 * order) * length / 2
    assert sobolev_norm(u, order, length).item() ** 2 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shift", [0.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_half_spectrum_is_the_sum_over_all_coefficients(order, shift, shape):
    u, lengths = random_fields(shape), lengths_of(shape)
    expected = full_spectrum_norm(u, order, lengths, shift)
    norm = sobolev_norm(u, order, lengths, shift=shift)
    np.testing.assert_allclose(norm.numpy(), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple), seed=st.integers(0, 99))
def test_order_zero_is_the_quadrature_norm(shape, seed):
    u, lengths = random_fields(shape, seed=seed), lengths_of(shape)
    weights = Grid(shape, lengths, "periodic").weights(dtype=F64)
    torch.testing.assert_close(sobolev_norm(u, 0.0, lengths, shift=1.0), lp_norm(u, weights=weights))
    centred = u - u.flatten(2).mean(2).reshape(3, 2, *[1] * len(shape))
    torch.testing.assert_close(
        sobolev_norm(u, 0.0, lengths), lp_norm(centred, weights=weights), atol=1e-14, rtol=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    order=st.floats(-2.0, 2.0),
    shift=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
def test_negative_orders_are_dual_to_positive_ones(shape, order, shift, seed):
    lengths = lengths_of(shape)
    u, v = random_fields(shape, seed=seed), random_fields(shape, seed=seed + 100)
    v = v - v.mean(tuple(range(2, v.ndim)), keepdim=True)
    weights = Grid(shape, lengths, "periodic").weights(dtype=F64)
    pairing = (u * v * weights).flatten(1).sum(1).abs()
    bound = sobolev_norm(u, order, lengths, shift=shift) * sobolev_norm(v, -order, lengths, shift=shift)
    assert (pairing <= bound * (1 + 1e-10) + 1e-14).all()


@pytest.mark.parametrize("order", [-1.0, 1.0])
def test_the_dual_bound_is_reached(order):
    # v = (-Laplace)^s u attains |<u, v>| = |u|_s |v|_-s
    x = Grid((32,), (1.0,), "periodic").coordinates(dtype=F64)
    parts = [torch.sin(2 * math.pi * k * x + k) / k for k in (1, 2, 5)]
    u = sum(parts).unsqueeze(0)
    v = sum(
        (2 * math.pi * k) ** (2 * order) * part for k, part in zip((1, 2, 5), parts, strict=True)
    ).unsqueeze(0)
    pairing = (u * v).mean()
    product = sobolev_norm(u, order, 1.0) * sobolev_norm(v, -order, 1.0)
    assert product.item() == pytest.approx(pairing.item(), rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_band_limited_fields_have_one_norm_on_every_grid(order):
    def norm(shape):
        x, y = Grid(shape, (1.0, 2.0), "periodic").coordinates(dtype=F64)
        u = torch.sin(2 * math.pi * x + 1) * torch.cos(3 * math.pi * y) + torch.cos(4 * math.pi * x)
        return sobolev_norm(u[None, None], order, (1.0, 2.0))

    for shape in [(9, 9), (16, 12), (15, 32)]:
        torch.testing.assert_close(norm(shape), norm((8, 8)), rtol=1e-12, atol=0)


def test_channels_add_in_squares():
    u = random_fields((8,), channels=2)
    parts = [sobolev_norm(u[:, i : i + 1], 1.0, 1.0) for i in range(2)]
    torch.testing.assert_close(sobolev_norm(u, 1.0, 1.0), torch.hypot(*parts))


def test_inhomogeneous_first_order_is_values_and_gradients():
    u = random_fields((9,))
    both = sobolev_norm(u, 1.0, 2.0, shift=3.0) ** 2
    values = sobolev_norm(u, 0.0, 2.0, shift=3.0) ** 2
    torch.testing.assert_close(both, 3.0 * values + sobolev_norm(u, 1.0, 2.0) ** 2)


def test_strict_refuses_a_mean_that_a_negative_order_does_not_see():
    u = random_fields((8,))
    with pytest.raises(ValueError, match=r"mean of `u` is not zero in \(sample, channel\) \[\[0, 0\]"):
        sobolev_norm(u, -1.0, 1.0, strict=True)
    centred = u - u.mean(2, keepdim=True)
    torch.testing.assert_close(sobolev_norm(centred, -1.0, 1.0, strict=True), sobolev_norm(u, -1.0, 1.0))
    centred32 = centred.float() + 1e-8
    sobolev_norm(centred32, -1.0, 1.0, strict=True)  # rounding is no mean
    sobolev_norm(u, -1.0, 1.0, shift=1.0, strict=True)
    sobolev_norm(u, 1.0, 1.0, strict=True)


# Sobolev norms of fields in a box


@pytest.mark.parametrize("layout", ["nodes", "cells"])
def test_linear_functions_have_their_gradient_exactly(layout):
    grid = Grid((5, 8), (2.0, 3.0), layout)
    x, y = grid.coordinates(dtype=F64)
    u = (4.0 * x - 2.0 * y + 7.0)[None, None]
    norm = sobolev_norm(u, 1.0, grid.length, periodic=False, layout=layout)
    assert norm.item() ** 2 == pytest.approx((16.0 + 4.0) * grid.volume, rel=1e-12)


@pytest.mark.parametrize(("layout", "start"), [("nodes", 9), ("cells", 8), ("interior", 7)])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_differences_converge_at_second_order(layout, start, shift):
    # u = sin(pi x) (y - y^2) on the unit square vanishes on the boundary and is not periodic
    values, slopes = 0.5 / 30, math.pi**2 / 2 / 30 + 0.5 / 3
    exact = math.sqrt(shift * values + slopes)

    def error(n):
        x, y = Grid((n, n), (1.0, 1.0), layout).coordinates(dtype=F64)
        u = (torch.sin(math.pi * x) * (y - y * y))[None, None]
        return abs(sobolev_norm(u, 1.0, 1.0, periodic=False, shift=shift, layout=layout).item() - exact)

    sizes = [start]
    for _ in range(3):
        sizes.append(2 * sizes[-1] + {"nodes": -1, "cells": 0, "interior": 1}[layout])
    errors = [error(n) for n in sizes]
    assert math.log2(errors[-2] / errors[-1]) > 1.9


def test_nothing_wraps_around():
    u = torch.linspace(0, 1, 9, dtype=F64).reshape(1, 1, 9)
    assert sobolev_norm(u, 1.0, 1.0, periodic=False).item() == pytest.approx(1.0)
    assert sobolev_norm(u, 1.0, 1.0).item() > 2.0  # the jump, if it were periodic


def test_a_sawtooth_is_seen():
    u = torch.tensor([1.0, -1.0] * 4, dtype=F64).reshape(1, 1, 8)
    assert sobolev_norm(u, 1.0, 7.0, periodic=False).item() == pytest.approx(math.sqrt(7 * 4.0))


def test_two_points_are_enough_and_one_is_not():
    for layout in ("nodes", "cells"):
        assert sobolev_norm(torch.tensor([[[0.0, 1.0]]]), 1.0, 1.0, periodic=False, layout=layout).isfinite()
        with pytest.raises(ValueError, match="2 or more points"):
            sobolev_norm(torch.zeros(1, 1, 1), 1.0, 1.0, periodic=False, layout=layout)
    assert sobolev_norm(
        torch.ones(1, 1, 1), 1.0, 1.0, periodic=False, layout="interior"
    ).item() == pytest.approx(2.0)


def test_h1_methods_agree_where_both_apply():
    def errors(n):
        grid = Grid((n,), (1.0,), "cells")
        x = grid.coordinates(dtype=F64)
        u = torch.cos(2 * math.pi * x)[None]
        v = u + 0.1 * torch.sin(4 * math.pi * x)[None]
        return relative_h1(v, u, 1.0), relative_h1(v, u, 1.0, "fd", layout="cells")

    exact = math.sqrt(0.01 * (1 + (4 * math.pi) ** 2) / (1 + (2 * math.pi) ** 2))
    spectral, differences = errors(256)
    assert spectral.item() == pytest.approx(exact, rel=1e-12)
    assert differences.item() == pytest.approx(exact, rel=1e-3)


# Norms in space and time


def test_bochner_norm_of_a_product_is_the_product_of_norms():
    t = torch.linspace(0, 2, 201, dtype=F64)
    u = random_fields((8,))
    trajectory = u.unsqueeze(2) * t.square().reshape(1, 1, -1, 1)
    space = SobolevNorm(-1.0, 1.0)
    norm = bochner_norm(trajectory, space, dt=0.01)
    torch.testing.assert_close(norm, space(u) * math.sqrt(2**5 / 5), rtol=1e-4, atol=0)
    peak = BochnerNorm(space, 0.01, math.inf)(trajectory)
    torch.testing.assert_close(peak, space(u) * 4.0)


def test_bochner_norm_takes_uneven_steps_and_another_axis():
    t = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=F64)
    u = random_fields((8, 4))  # time last
    norms = torch.stack([lp_norm(u[..., i]) for i in range(4)], dim=1)
    expected = np.sqrt(np.trapezoid(norms.numpy() ** 2, t.numpy(), axis=1))
    module = BochnerNorm(lp_norm, t.diff(), time_axis=-1)
    np.testing.assert_allclose(module(u).numpy(), expected, rtol=1e-13)
    assert "dt" not in module.state_dict()


def test_bochner_bad_input():
    u = random_fields((4, 8))
    with pytest.raises(ValueError, match="must be a number or 3 steps between 4 frames"):
        bochner_norm(u, lp_norm, torch.ones(4))
    with pytest.raises(ValueError, match="`time_axis`"):
        bochner_norm(u, lp_norm, 0.1, time_axis=1)
    with pytest.raises(ValueError, match="at least 2 frames"):
        bochner_norm(u[:, :, :1], lp_norm, 0.1)
    with pytest.raises(ValueError, match=r"`dt` \(=0.0\) must be positive"):
        BochnerNorm(lp_norm, 0.0)
    with pytest.raises(ValueError, match="`dt` must be positive"):
        BochnerNorm(lp_norm, torch.tensor([0.1, -0.1]))


# Gradients, types and errors

LOSSES = {
    "lp": RelativeLp(eps=1e-8),
    "l1": RelativeLp(p=1.0, eps=1e-8),
    "l3": RelativeLp(p=3.0, eps=1e-8),
    "sup": RelativeLp(p=math.inf, eps=1e-8),
    "h-1": RelativeSobolev(-1.0, (1.0, 2.0), eps=1e-8),
    "h3/2": RelativeSobolev(1.5, (1.0, 2.0), shift=0.5, eps=1e-8),
    "h1": RelativeH1((1.0, 2.0), eps=1e-8),
    "h1-nodes": RelativeH1((1.0, 2.0), "fd", eps=1e-8),
    "h1-cells": RelativeH1((1.0, 2.0), "fd", layout="cells", eps=1e-8),
    "h1-interior": RelativeH1((1.0, 2.0), "fd", layout="interior", eps=1e-8),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right(name):
    target = random_fields((4, 5)).requires_grad_()
    prediction = random_fields((4, 5), seed=1).requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[name], (prediction, target))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_fields_have_no_error_and_no_gradient(name, value):
    target = value * random_fields((4, 5))
    prediction = target.clone().requires_grad_()
    loss = LOSSES[name](prediction, target)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(target))


@pytest.mark.parametrize("name", LOSSES)
def test_float32_agrees_and_stays_float32(name):
    target, prediction = random_fields((4, 5)), random_fields((4, 5), seed=1)
    loss = LOSSES[name](prediction.float(), target.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSSES[name](prediction, target).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    target = 100.0 * torch.ones(1, 1, 64, 64, dtype=dtype)  # the sum of squares overflows float16
    assert relative_lp(1.5 * target, target).item() == pytest.approx(0.5)
    assert sobolev_norm(target, 0.0, 1.0, shift=1.0).dtype == torch.float32


def test_nan_is_not_hidden():
    u = random_fields((8,))
    u[0, 0, 0] = torch.nan
    assert lp_norm(u).isnan().tolist() == [True, False, False]
    assert sobolev_norm(u, 1.0, 1.0).isnan().tolist() == [True, False, False]


@pytest.mark.parametrize(
    "loss", [RelativeLp(), RelativeLp(p=math.inf), RelativeSobolev(1.0, 1.0), RelativeH1(1.0, "fd")], ids=str
)
def test_zero_target_needs_eps(loss):
    target = random_fields((8,))
    target[1] = 0.0
    with pytest.raises(ValueError, match=r"`target` has norm zero in samples \[1\]; .* needs `eps` > 0"):
        loss(target + 1.0, target)
    loss.eps = 0.5
    assert loss(target + 1.0, target).isfinite()


def test_eps_is_the_smallest_norm_to_divide_by():
    target = torch.tensor([[[0.01]], [[2.0]]])
    error = relative_lp(target + 1.0, target, eps=0.1, reduction="none")
    torch.testing.assert_close(error, torch.tensor([10.0, 0.5]))


@pytest.mark.parametrize("loss", [RelativeLp, lambda **k: RelativeSobolev(1.0, 1.0, **k)])
def test_the_mean_over_no_samples_is_an_error(loss):
    empty = torch.zeros(0, 1, 8)
    with pytest.raises(ValueError, match="mean over an empty batch"):
        loss()(empty, empty)
    assert loss(reduction="sum")(empty, empty).item() == 0
    assert loss(reduction="none")(empty, empty).shape == (0,)


def test_bad_input_names_what_is_wrong():
    u = random_fields((4, 5))
    with pytest.raises(ValueError, match=r"one shape, got \(3, 2, 4, 5\) and \(3, 4, 5\)"):
        relative_lp(u, u[:, 0])
    with pytest.raises(TypeError, match=r"real floating type, got torch\.complex128"):
        relative_lp(u.to(torch.complex128), u.to(torch.complex128))
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        sobolev_norm(u.long(), 1.0, 1.0)
    with pytest.raises(ValueError, match="one entry for each of 2 axes"):
        sobolev_norm(u, 1.0, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="`length`"):
        SobolevNorm(1.0, -1.0)
    with pytest.raises(ValueError, match=r"must be \(batch, channels, \*grid\)"):
        sobolev_norm(u[:, 0, 0], 1.0, 1.0)
    with pytest.raises(ValueError, match=r"`p` \(=0.5\)"):
        RelativeLp(0.5)
    with pytest.raises(ValueError, match="`eps`"):
        RelativeLp(eps=-1.0)
    with pytest.raises(ValueError, match="`weights` must not be negative"):
        RelativeLp(weights=torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"`weights` has shape \(4,\), expected \(4, 5\)"):
        RelativeLp(weights=torch.ones(4))(u, u)
    with pytest.raises(ValueError, match="`order`"):
        SobolevNorm(math.nan, 1.0)
    with pytest.raises(ValueError, match="must be 1 for fields that are not periodic"):
        SobolevNorm(2.0, 1.0, periodic=False)
    with pytest.raises(ValueError, match="`shift`"):
        SobolevNorm(1.0, 1.0, shift=-1.0)


@pytest.mark.usefixtures("unchecked")
def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="`reduction`"):
        RelativeLp(reduction="max")
    with pytest.raises(ValueError, match="`method`"):
        RelativeH1(1.0, "fem")
    with pytest.raises(ValueError, match="`layout`"):
        SobolevNorm(1.0, 1.0, periodic=False, layout="periodic")


def test_modules_move_and_keep_no_grid_in_their_state():
    loss = RelativeLp(weights=Grid((8,), (1.0,), "nodes").weights())
    assert loss.state_dict() == {}
    assert loss.double().weights.dtype == F64
    assert str(SobolevNorm(-1.0, (1.0, 2.0))) == "SobolevNorm(order=-1, length=(1.0, 2.0), periodic, shift=0)"


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
@pytest.mark.parametrize("name", ["lp", "h-1", "h1-nodes", "h1-cells"])
def test_compiles_in_one_graph(name):
    target, prediction = random_fields((4, 5)), random_fields((4, 5), seed=1).requires_grad_()
    compiled = torch.compile(LOSSES[name], fullgraph=True)
    loss = compiled(prediction, target)
    loss.backward()
    gradient, prediction.grad = prediction.grad, None
    expected = LOSSES[name](prediction, target)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, prediction.grad)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_compiles_in_one_graph_with_eps_zero():
    target, prediction = random_fields((4, 5)), random_fields((4, 5), seed=1)
    torch.testing.assert_close(
        torch.compile(RelativeLp(), fullgraph=True)(prediction, target), RelativeLp()(prediction, target)
    )
