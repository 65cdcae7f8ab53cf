"""The position-orientation potential: exact on carried grids, nearly so on fixed ones, directional."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from lemmata.equivariant.o3 import rand_rotation

Make = Callable[..., Any]


def change_under_rotation(potential: Any, atoms: Atoms, graphs: Make) -> float:
    turn = rand_rotation(generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy()
    turned = Atoms(atoms.numbers, atoms.positions @ turn.T)
    before, after = (potential(graphs(each), forces=False).atomic_energy for each in (atoms, turned))
    return float((before - after).detach().abs().max())


def test_carried_grids_are_exact_and_fixed_ones_nearly(small: Make, molecule: Make, graphs: Make) -> None:
    atoms = molecule()
    kinds = {"data": 20, "fixed": 20}
    change = {
        kind: change_under_rotation(
            small("position-orientation", frame=kind, n_orientations=size), atoms, graphs
        )
        for kind, size in kinds.items()
    }
    assert change["data"] < 1e-10
    assert 1e-8 < change["fixed"] < 0.1


def test_random_grids_turn_in_training_alone(small: Make, molecule: Make, graphs: Make) -> None:
    potential, data = small("position-orientation", frame="random"), graphs(molecule())
    potential.train()
    first, second = (float(potential(data, forces=False).energy) for _ in range(2))
    assert first != second
    potential.eval()
    first, second = (float(potential(data, forces=False).energy) for _ in range(2))
    assert first == second


def test_angles_beyond_the_reach_of_distances_are_seen(small: Make, graphs: Make) -> None:
    """Two ends that never see each other: only directions tell the angle."""
    potential = small("position-orientation", cutoff=1.4)

    def bent(degrees: float) -> float:
        angle = np.deg2rad(degrees)
        ends = [[0, 0, 1.0], [0, 1.05 * np.sin(angle), 1.05 * np.cos(angle)]]
        return float(potential(graphs(Atoms("OHC", [[0, 0, 0], *ends]), cutoff=1.4)).energy)

    assert len({round(bent(degrees), 7) for degrees in (95, 120, 150)}) == 3


def test_an_unknown_frame_is_refused(small: Make) -> None:
    with pytest.raises(ValueError, match=r"`frame` \(='best'\)"):
        small("position-orientation", frame="best")
