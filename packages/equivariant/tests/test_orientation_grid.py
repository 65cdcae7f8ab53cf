"""Grids against known equilibria, known groups and quadrature."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.position_orientation import OrientationGrid

# Energies of J. J. Thomson's problem as tabulated by D. J. Wales and S. Ulker, Phys. Rev. B 74 (2006) 212101.
THOMSON = {4: 3.674234614, 6: 9.985281374, 12: 49.165253058, 16: 92.911655302, 20: 150.881568334}


def masters(grid: OrientationGrid) -> torch.Tensor:
    return grid.double().vectors


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def energy(vectors: torch.Tensor) -> float:
    return (1 / torch.nn.functional.pdist(vectors)).sum().item()


@pytest.mark.parametrize("n", THOMSON)
def test_repulsion_finds_the_known_equilibria(n):
    vectors = masters(OrientationGrid(n))
    assert vectors.shape == (n, 3)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(n, dtype=torch.float64), atol=1e-14)
    assert energy(vectors) == pytest.approx(THOMSON[n], abs=1e-8)


@pytest.mark.parametrize("kind", ["repulsion", "dihedral"])
def test_forces_on_charges_vanish_along_the_sphere(kind):
    vectors = masters(OrientationGrid(32, kind=kind)).requires_grad_()
    (force,) = torch.autograd.grad((1 / torch.nn.functional.pdist(vectors)).sum(), vectors)
    along = force - (force * vectors).sum(-1, keepdim=True) * vectors
    assert along.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("n", "kind", "order"),
    [
        (4, None, 12),
        (6, None, 24),
        (12, None, 60),
        (12, "icosahedron", 60),
        (20, "dodecahedron", 60),
        (12, "dihedral", 60),
    ],
)
def test_the_symmetry_group_is_that_of_the_polyhedron(n, kind, order):
    grid = OrientationGrid(n, kind=kind)
    group, vectors = grid.symmetry_group, masters(grid)
    assert group.shape == (order, 3, 3)
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(group[0], eye, atol=1e-12)
    assert torch.allclose(group @ group.mT, eye.expand_as(group), atol=1e-12)
    assert torch.allclose(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))
    assert distances(group.flatten(1), group.flatten(1)).fill_diagonal_(1).min() > 0.1
    products = (group[:, None] @ group).flatten(0, 1).flatten(1)
    assert distances(products, group.flatten(1)).amin(-1).max() < 1e-12
    assert distances(vectors @ group.mT, vectors).amin(-1).max() < 1e-12


@pytest.mark.parametrize("n", [3, 8, 13])
def test_the_circle_has_cyclic_symmetry(n):
    grid = OrientationGrid(n, dim=2)
    group = grid.symmetry_group
    angle = torch.atan2(group[:, 1, 0], group[:, 0, 0]) % (2 * math.pi - 1e-9)
    expected = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    assert torch.allclose(angle.sort().values, expected, atol=1e-12)
    assert grid.keeps_half_turns == (n % 2 == 0)


@pytest.mark.parametrize(("n", "kind"), [(12, "icosahedron"), (20, "dodecahedron"), (12, None)])
def test_polyhedra_integrate_as_designs(n, kind):
    vectors = masters(OrientationGrid(n, kind=kind))
    eye = torch.eye(3, dtype=torch.float64)
    fourth = torch.einsum("na,nb,nc,nd->abcd", *[vectors] * 4) / n
    pairs = torch.einsum("ab,cd->abcd", eye, eye)
    isotropic = (pairs + pairs.permute(0, 2, 1, 3) + pairs.permute(0, 3, 2, 1)) / 15
    assert (vectors.mT @ vectors / n - eye / 3).abs().max() < 1e-12
    assert (fourth - isotropic).abs().max() < 1e-12


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 12).map(lambda k: 4 * k), seed=st.integers(0, 3))
def test_dihedral_grids_are_left_alone_by_half_turns(n, seed):
    grid = OrientationGrid(n, kind="dihedral", seed=seed)
    vectors = masters(grid)
    assert grid.keeps_half_turns
    for signs in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1]):
        turned = vectors * torch.tensor(signs, dtype=torch.float64)
        assert distances(turned, vectors).amin(-1).max() == 0


def test_grids_follow_from_their_seed_and_are_apart():
    first, again = masters(OrientationGrid(17, seed=3)), masters(OrientationGrid(17, seed=3))
    assert torch.equal(first, again)
    assert first.data_ptr() != again.data_ptr()
    state = torch.random.get_rng_state()
    OrientationGrid(18, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_grids_can_be_made_where_gradients_and_devices_are_set():
    with torch.inference_mode():
        inside = masters(OrientationGrid(19))
    with torch.no_grad():
        assert torch.equal(masters(OrientationGrid(19)), inside)
    assert energy(inside.clone()) < energy(masters(OrientationGrid(19, kind="fibonacci")))


def test_vectors_keep_float64_and_are_saved():
    grid = OrientationGrid(12, kind="icosahedron").half()
    assert (masters(grid).norm(dim=-1) - 1).abs().max() < 1e-15
    other = OrientationGrid(12, seed=4)
    assert not torch.allclose(masters(other), masters(grid))
    other.float().load_state_dict(grid.state_dict())
    assert torch.equal(masters(other), masters(grid))
    assert len(other.symmetry_group) == 60
    for twin in (copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert torch.equal(masters(twin), masters(grid))
    with pytest.raises(ValueError, match=r"\(12, 3\), expected \(20, 3\)"):
        OrientationGrid(20).set_extra_state(grid.get_extra_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 12, "dim": 4}, r"`dim` \(=4\) must be 2 or 3"),
        ({"n": 3}, r"`n` \(=3\) must be at least 4"),
        ({"n": 2, "dim": 2}, r"`n` \(=2\) must be at least 3"),
        ({"n": 12, "kind": "cube"}, r"`kind` \(='cube'\) must be one of"),
        ({"n": 12, "dim": 2, "kind": "repulsion"}, r"must be one of circle in 2"),
        ({"n": 20, "kind": "icosahedron"}, r"`n` \(=20\) must be 12"),
        ({"n": 12, "kind": "dodecahedron"}, r"`n` \(=12\) must be 20"),
        ({"n": 10, "kind": "dihedral"}, r"`n` \(=10\) must be a multiple of 4"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        OrientationGrid(**arguments)
