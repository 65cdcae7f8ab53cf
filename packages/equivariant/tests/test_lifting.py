"""Between points and functions on the sphere; points made of edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import rand_rotation
from lemmata.equivariant.position_orientation import (
    OrientationGrid,
    edges_to_points,
    scalars_to_sphere,
    sphere_to_scalars,
    sphere_to_vectors,
    vectors_to_sphere,
)

DOUBLE = torch.float64


def grid(n, kind=None, dim=3):
    return OrientationGrid(n, dim, kind, dtype=DOUBLE).vectors


@pytest.mark.parametrize(
    ("n", "kind", "dim", "tolerance"),
    [
        (12, "icosahedron", 3, 1e-14),
        (20, "dodecahedron", 3, 1e-14),
        (20, "repulsion", 3, 1e-3),
        (20, "dihedral", 3, 1e-3),
        (7, "circle", 2, 1e-14),
    ],
)
def test_vectors_come_back_as_their_dimension_s_part(n, kind, dim, tolerance):
    orientations = grid(n, kind, dim)
    v = torch.nn.functional.normalize(torch.randn(5, 4, dim, dtype=DOUBLE), dim=-1)
    back = sphere_to_vectors(vectors_to_sphere(v, orientations), orientations)
    assert back.shape == v.shape
    assert (back - v / dim).abs().max() < tolerance


@settings(deadline=None, max_examples=20)
@given(batch=st.lists(st.integers(0, 3), max_size=2), channels=st.integers(0, 3))
def test_scalars_come_back(batch, channels):
    scalars = torch.randn(*batch, channels, dtype=DOUBLE)
    values = scalars_to_sphere(scalars, grid(12))
    assert values.shape == (*batch, 12, channels)
    assert torch.allclose(sphere_to_scalars(values), scalars)


def test_values_are_inner_products_and_means():
    orientations, v, values = grid(9), torch.randn(2, 3, 3, dtype=DOUBLE), torch.randn(2, 9, 4, dtype=DOUBLE)
    lifted, vectors = vectors_to_sphere(v, orientations), sphere_to_vectors(values, orientations)
    for i in range(2):
        for o in range(9):
            for c in range(3):
                assert lifted[i, o, c].item() == pytest.approx(sum(v[i, c] * orientations[o]).item())
        for c in range(4):
            expected = sum(values[i, o, c] * orientations[o] for o in range(9)) / 9
            assert torch.allclose(vectors[i, c], expected)


def test_a_scalar_is_no_vector_on_a_balanced_grid():
    orientations = grid(12, "icosahedron")
    assert sphere_to_vectors(torch.ones(1, 12, 1, dtype=DOUBLE), orientations).abs().max() < 1e-15
    vectors = vectors_to_sphere(torch.randn(3, 2, 3, dtype=DOUBLE), orientations)
    assert sphere_to_scalars(vectors).abs().max() < 1e-15


def random_edges(nodes, edges):
    edge_index = torch.randint(nodes, (2, edges))
    pos = torch.randn(nodes, 3, dtype=DOUBLE)
    return edge_index, pos[edge_index[0]] - pos[edge_index[1]]


@settings(deadline=None, max_examples=25)
@given(nodes=st.integers(1, 6), edges=st.integers(0, 12))
def test_points_see_those_at_both_ends_of_their_edge(nodes, edges):
    edge_index, edge_vec = random_edges(nodes, edges)
    points = edges_to_points(edge_index, edge_vec, nodes)
    found = sorted(
        (receiver, sender, *vector)
        for sender, receiver, vector in zip(
            *points.edge_index.tolist(), points.edge_vec.tolist(), strict=True
        )
    )
    expected = []
    for receiver in range(edges):
        source, target = edge_index[:, receiver].tolist()
        for sender in range(edges):
            if edge_index[1, sender] == target:
                expected.append((receiver, sender, 0.0, 0.0, 0.0))
            if edge_index[1, sender] == source:
                expected.append((receiver, sender, *edge_vec[receiver].tolist()))
    assert found == sorted(expected)
    assert torch.equal(points.origin, edge_index[1])


def test_orientations_are_unit_and_turn_with_the_cloud():
    edge_index, edge_vec = random_edges(5, 9)
    edge_vec[0] = 0
    turn = rand_rotation(dtype=DOUBLE)
    points, turned = (edges_to_points(edge_index, vec, 5) for vec in (edge_vec, edge_vec @ turn.mT))
    assert points.orientation[0].tolist() == [0, 0, 0]
    moving = edge_vec.norm(dim=-1) > 0
    assert torch.allclose(points.orientation.norm(dim=-1), moving.double())
    assert torch.allclose(turned.orientation, points.orientation @ turn.mT)
    assert math.isclose(points.edge_vec.norm().item(), turned.edge_vec.norm().item())
