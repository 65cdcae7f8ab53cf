import json
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.operators.grids import FourierFeatures, Grid, box_lengths, grid
from lemmata.operators.quadrature import gauss_points, quadrature_weights

F64 = torch.float64
LAYOUTS = ["periodic", "nodes", "interior", "cells"]
EXPECTED = {
    "periodic": [0.0, 0.5, 1.0, 1.5],
    "nodes": [0.0, 2 / 3, 4 / 3, 2.0],
    "interior": [0.4, 0.8, 1.2, 1.6],
    "cells": [0.25, 0.75, 1.25, 1.75],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_points_lie_where_the_layout_says(layout):
    points = Grid((4,), (2.0,), layout).coordinates(dtype=F64)
    np.testing.assert_allclose(points[0].numpy(), EXPECTED[layout], rtol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coordinates_have_one_channel_an_axis(layout):
    box = Grid((3, 4, 5), (1.0, 2.0, 3.0), layout)
    points = box.coordinates()
    assert points.shape == (3, 3, 4, 5)
    assert points.dtype == torch.get_default_dtype()
    for axis, (line, h) in enumerate(zip(box.axes(dtype=F64), box.spacing, strict=True)):
        np.testing.assert_allclose(line.diff().numpy(), h, rtol=1e-13)
        moved = points.double()[axis].movedim(axis, -1)
        torch.testing.assert_close(moved, line.expand_as(moved), rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(2, 6), min_size=1, max_size=3).map(tuple),
    layout=st.sampled_from(LAYOUTS),
    size=st.floats(0.1, 10.0),
)
def test_weights_sum_to_the_volume(shape, layout, size):
    box = Grid(shape, (size,) * len(shape), layout)
    expected = box.volume
    if layout == "interior":  # the boundary, left out, has weight too
        expected *= math.prod(n / (n + 1) for n in shape)
    assert box.weights(dtype=F64).shape == shape
    assert box.weights(dtype=F64).sum().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_integrate_to_second_order(layout):
    def error(n):
        box = Grid((n,), (2.0,), layout)
        x = box.coordinates(dtype=F64)[0]
        f = (x * (2.0 - x)) ** 2 if layout == "interior" else torch.sin(math.pi * x).exp()
        exact = (
            16 / 15
            if layout == "interior"
            else scipy.integrate.quad(lambda x: math.exp(math.sin(math.pi * x)), 0, 2)[0]
        )
        return abs((box.weights(dtype=F64) * f).sum().item() - exact)

    assert error(64) < max(error(16) / 15, 1e-12)


def test_interval_grids_nest():
    coarse, fine = Grid((5,), (1.0,), "nodes"), Grid((9,), (1.0,), "nodes")
    assert torch.equal(coarse.coordinates(dtype=F64), fine.coordinates(dtype=F64)[:, ::2])


def test_a_grid_survives_json():
    box = Grid((4, 6), (1.0, 2.5), "interior")
    assert Grid.from_dict(json.loads(json.dumps(box.to_dict()))) == box
    assert box.with_shape((8, 8)) == Grid((8, 8), (1.0, 2.5), "interior")
    assert hash(box) == hash(Grid((4, 6), (1.0, 2.5), "interior"))
    with pytest.raises(ValueError, match="lacks layout"):
        Grid.from_dict({"shape": [4], "length": [1.0]})


def test_grid_is_linspace():
    for endpoint in (False, True):
        expected = np.linspace(0, 3.0, 7, endpoint=endpoint)
        np.testing.assert_allclose(
            grid(7, 3.0, endpoint).coordinates(dtype=F64)[0].numpy(), expected, rtol=1e-14
        )
    assert grid((4, 5), (1.0, 2.0)) == Grid((4, 5), (1.0, 2.0), "periodic")
    assert grid([4, 5]).length == (1.0, 1.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0,), (1.0,), "cells"), r"`shape` \(=\(0,\)\)"),
        (((), (), "cells"), "`shape`"),
        (((2.5,), (1.0,), "cells"), "`shape`"),
        (((4,), (0.0,), "cells"), "`length`"),
        (((4,), (math.inf,), "cells"), "`length`"),
        (((4,), (math.nan,), "cells"), "`length`"),
        (((4, 4), (1.0,), "cells"), "one entry for each of 2 axes"),
        (((4,), (1.0,), "corners"), "`layout` .* must be one of periodic, nodes, interior, cells"),
        (((1,), (1.0,), "nodes"), "at least 2 along every axis"),
    ],
)
def test_bad_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)


# Quadrature


@pytest.mark.parametrize("n", [3, 4, 5, 8, 9])
def test_simpson_is_exact_for_cubics(n):
    x = grid(n, 2.0, endpoint=True).coordinates(dtype=F64)[0]
    w = quadrature_weights(n, 2.0, "simpson", dtype=F64)
    for power in range(4):
        assert (w * x**power).sum().item() == pytest.approx(2.0 ** (power + 1) / (power + 1), rel=1e-13)


def test_simpson_is_scipys_for_an_odd_number_of_points():
    f = np.random.default_rng(0).standard_normal(9)
    w = quadrature_weights(9, 2.0, "simpson", dtype=F64).numpy()
    assert w @ f == pytest.approx(scipy.integrate.simpson(f, dx=0.25), rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_gauss_is_exact_to_degree_2n_minus_1(n):
    x = gauss_points(n, 3.0, dtype=F64)[0]
    w = quadrature_weights(n, 3.0, "gauss", dtype=F64)
    for power in range(2 * n):
        assert (w * x**power).sum().item() == pytest.approx(3.0 ** (power + 1) / (power + 1), rel=1e-12)


@pytest.mark.parametrize("rule", ["uniform", "trapezoid", "simpson", "gauss"])
def test_product_rules_are_products(rule):
    w = quadrature_weights((4, 5), (1.0, 2.0), rule, dtype=F64)
    a, b = quadrature_weights(4, 1.0, rule, dtype=F64), quadrature_weights(5, 2.0, rule, dtype=F64)
    torch.testing.assert_close(w, a[:, None] * b)
    assert w.sum().item() == pytest.approx(2.0)


def test_rules_are_the_grids_weights():
    for rule, layout in (("uniform", "cells"), ("uniform", "periodic"), ("trapezoid", "nodes")):
        expected = Grid((4, 5), (1.0, 2.0), layout).weights(dtype=F64)
        torch.testing.assert_close(quadrature_weights((4, 5), (1.0, 2.0), rule, dtype=F64), expected)


def test_trapezoid_takes_points_in_any_order():
    generator = np.random.default_rng(0)
    x, f = generator.random(20), generator.standard_normal(20)
    order = np.argsort(x)
    w = quadrature_weights(torch.from_numpy(x), 1.0, "trapezoid").numpy()
    assert w @ f == pytest.approx(np.trapezoid(f[order], x[order]), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), dim=st.integers(1, 3), on_faces=st.booleans(), seed=st.integers(0, 999))
def test_voronoi_cells_fill_the_box(n, dim, on_faces, seed):
    size = torch.tensor([1.0, 2.0, 0.5], dtype=F64)[:dim]
    points = torch.rand(n, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    if on_faces:
        points = (4 * points).round() / 4  # on faces, edges and corners, some coincident
    w = quadrature_weights(points * size, size.tolist(), "voronoi")
    assert (w > 0).all()
    assert w.sum().item() == pytest.approx(size.prod().item(), rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_voronoi_weighs_by_the_nearest_point(dim):
    generator = np.random.default_rng(dim)
    box = np.array([1.0, 2.0, 0.5])[:dim]
    points = generator.random((6, dim)) * box
    points[0] = 0.0  # a corner
    points[1, 0] = 1.0  # a face
    probes = generator.random((200_000, dim)) * box
    nearest = ((probes[:, None] - points) ** 2).sum(-1).argmin(1)
    shares = np.bincount(nearest, minlength=6) / len(probes)
    w = quadrature_weights(torch.from_numpy(points), box.tolist(), "voronoi").numpy()
    np.testing.assert_allclose(w / box.prod(), shares, atol=5e-3)


@pytest.mark.parametrize(("layout", "shape"), [("cells", (4, 5)), ("nodes", (4, 5)), ("nodes", (3, 3, 4))])
def test_voronoi_of_a_grid_is_the_grids_weights(layout, shape):
    box = Grid(shape, tuple(1.0 + axis for axis in range(len(shape))), layout)
    points = box.coordinates(dtype=F64).flatten(1).mT
    w = quadrature_weights(points, box.length, "voronoi")
    torch.testing.assert_close(w, box.weights(dtype=F64).flatten(), rtol=1e-10, atol=0)


def test_coincident_points_share_their_cell():
    points = torch.tensor([[0.2, 0.5], [0.2, 0.5], [0.8, 0.5]], dtype=F64)
    w = quadrature_weights(points, 1.0, "voronoi")
    np.testing.assert_allclose(w.numpy(), [0.25, 0.25, 0.5], rtol=1e-12)


@pytest.mark.parametrize("size", [0.1, 0.7])
def test_float32_points_on_a_face_lie_in_the_box(size):
    points = Grid((3, 3), (size, size), "nodes").coordinates().flatten(1).mT
    w = quadrature_weights(points, size, "voronoi")
    torch.testing.assert_close(w, Grid((3, 3), (size, size), "nodes").weights().flatten())


def test_monte_carlo_weights_keep_the_points_type():
    w = quadrature_weights(torch.rand(10, 2), 2.0)
    assert w.dtype == torch.float32
    torch.testing.assert_close(w, torch.full((10,), 0.4))


def test_bad_quadrature():
    inside, outside = torch.rand(5, 2), torch.tensor([[0.5, 1.5], [0.5, 0.5], [-0.1, 0.2]])
    with pytest.raises(ValueError, match="2 of 3 points lie outside the box"):
        quadrature_weights(outside, 1.0, "voronoi")
    with pytest.raises(TypeError, match=r"floating type, got torch\.int64"):
        quadrature_weights(torch.zeros(3, 2, dtype=torch.int64), 1.0)
    with pytest.raises(ValueError, match=r"got shape \(0, 2\)"):
        quadrature_weights(inside[:0], 1.0)
    for rule in ("trapezoid", "simpson", "gauss"):
        with pytest.raises(ValueError, match="not for points of dimension 2"):
            quadrature_weights(inside, 1.0, rule)
    with pytest.raises(ValueError, match="is for points"):
        quadrature_weights((4, 4), 1.0, "voronoi")
    with pytest.raises(ValueError, match="at least 3 points"):
        quadrature_weights(2, 1.0, "simpson")
    with pytest.raises(ValueError, match="at least 2 points"):
        quadrature_weights((4, 1), 1.0, "trapezoid")
    with pytest.raises(ValueError, match="at least 2 points"):
        quadrature_weights(torch.rand(1), 1.0, "trapezoid")
    with pytest.raises(ValueError, match="one entry for each of 3 axes"):
        box_lengths((1.0, 2.0), 3)


@pytest.mark.usefixtures("unchecked")
def test_unknown_rule():
    with pytest.raises(ValueError, match=r"`rule` .* must be one of uniform, trapezoid"):
        quadrature_weights(4, 1.0, "midpoint")


# Fourier features


def test_features_approach_the_gaussian_kernel():
    features = FourierFeatures(
        2, 40_000, length=(1.0, 2.0), scale=0.4, generator=torch.Generator().manual_seed(0)
    )
    x = torch.tensor([[0.1, 0.3], [0.4, 0.9], [0.9, 1.9]])
    gram = features(x) @ features(x).mT / 40_000
    distance = torch.cdist(x / torch.tensor([1.0, 2.0]), x / torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(gram, (-2 * math.pi**2 * 0.4**2 * distance**2).exp(), atol=0.02, rtol=0)


def test_whole_cycles_are_periodic_in_the_box():
    features = FourierFeatures(2, 16, length=(1.5, 2.0), scale=3.0, periodic=True).double()
    x = torch.rand(5, 2, dtype=F64)
    torch.testing.assert_close(features(x + torch.tensor([1.5, 2.0])), features(x), rtol=0, atol=1e-4)


def test_features_of_fields_are_those_of_points():
    generator = torch.Generator().manual_seed(0)
    box = Grid((4, 5), (1.0, 1.0), "cells")
    of_points = FourierFeatures(2, 3, generator=generator)
    of_fields = FourierFeatures(2, 3, axis=-3)
    of_fields.load_state_dict(of_points.state_dict())
    x = box.coordinates()
    fields = of_fields(x.expand(7, -1, -1, -1))
    assert fields.shape == (7, 6, 4, 5)
    torch.testing.assert_close(fields[0], of_points(x.movedim(0, -1)).movedim(-1, 0))
    again = FourierFeatures(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.frequencies, of_points.frequencies)


def test_features_bad_input():
    with pytest.raises(ValueError, match="`dim`"):
        FourierFeatures(0, 3)
    with pytest.raises(ValueError, match="`count`"):
        FourierFeatures(2, -1)
    with pytest.raises(ValueError, match="`scale`"):
        FourierFeatures(2, 3, scale=0.0)
    with pytest.raises(ValueError, match="expected 2 coordinates along axis -1"):
        FourierFeatures(2, 3)(torch.zeros(4, 3))
