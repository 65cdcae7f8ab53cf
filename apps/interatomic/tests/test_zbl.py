"""The screened repulsion: values, smoothness where it ends, and its place in a potential."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from lemmata.apps.interatomic.models import ZieglerBiersackLittmark

Make = Callable[..., Any]


def universal(z1: int, z2: int, r: float) -> float:
    """Return the universal potential, from the formula in atomic units as printed."""
    length = 0.8854 * 0.529177 / (z1**0.23 + z2**0.23)
    terms = [(0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162)]
    return 14.39964 * z1 * z2 / r * sum(c * math.exp(-d * r / length) for c, d in terms)


@pytest.mark.parametrize(("z1", "z2"), [(1, 1), (6, 8), (18, 18)])
def test_short_distances_feel_the_universal_potential(z1: int, z2: int) -> None:
    repulsion = ZieglerBiersackLittmark(sorted({z1, z2})).double()
    place = torch.tensor([0, len({z1, z2}) - 1])
    r = torch.tensor([0.02, 0.02], dtype=torch.float64)
    pair = repulsion(place, place.flip(0), r).sum().item()
    assert pair == pytest.approx(universal(z1, z2, 0.02), rel=1e-3)


def test_it_ends_smoothly_and_pushes_everywhere() -> None:
    repulsion = ZieglerBiersackLittmark([6]).double()
    end = 0.7 * 2 * covalent_radii[6]
    zeros = torch.zeros(400, dtype=torch.long)
    r = torch.linspace(0.1, end + 0.2, 400, dtype=torch.float64, requires_grad=True)
    energies = repulsion(zeros, zeros, r)
    (slope,) = torch.autograd.grad(energies.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    beyond = r.detach() > end
    assert not energies[beyond].any()
    assert not slope[beyond].any()
    assert (slope[~beyond] < 0).all()
    last = int((~beyond).sum()) - 1
    assert curvature[last].abs() < 0.05 * curvature[last - 40].abs()


@pytest.mark.parametrize("model", ["tensor-product", "position-orientation", "frame"])
def test_a_potential_adds_it(model: str, small: Make, graphs: Make) -> None:
    close = graphs(Atoms("CO", [[0, 0, 0], [0, 0, 0.4]]))
    with_it, without = small(model, zbl=True), small(model)
    difference = with_it(close).energy - without(close).energy
    reach = 0.7 * (covalent_radii[6] + covalent_radii[8])
    u = 0.4 / reach
    switch = (1 - u) ** 3 * (1 + 3 * u + 6 * u * u)
    assert difference.item() == pytest.approx(universal(6, 8, 0.4) * switch, rel=1e-3)
    far = graphs(Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]))
    assert torch.equal(with_it(far).energy, without(far).energy)


def test_constants_keep_their_digits() -> None:
    repulsion = ZieglerBiersackLittmark([1, 6])
    exact = ZieglerBiersackLittmark([1, 6], dtype=torch.float64)
    assert torch.equal(repulsion.half().double().charges, exact.charges)
    assert not repulsion.state_dict()


def test_a_reach_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`reach` \(=0.0\)"):
        ZieglerBiersackLittmark([1], reach=0.0)
