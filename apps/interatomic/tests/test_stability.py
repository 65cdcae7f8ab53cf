"""Bonds, drift and survival against what can be counted by hand."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from lemmata.apps.interatomic.stability import Bonds, drift, survival


@pytest.mark.parametrize(("name", "bonds"), [("CH3CH2OH", 8), ("H2O", 2), ("C6H6", 12), ("O2", 1)])
def test_molecules_have_the_bonds_that_chemistry_says(name: str, bonds: int) -> None:
    assert len(Bonds.of(molecule(name)).lengths) == bonds


def test_every_bond_of_a_crystal_counts_once() -> None:
    diamond = bulk("C")  # two atoms with four bonds each, through periodic images
    assert len(Bonds.of(diamond).lengths) == 4
    chain = Atoms("C", cell=[1.4, 20, 20], pbc=[True, False, False])  # one atom bonded to its own images
    assert len(Bonds.of(chain).lengths) == 1


def test_stretch_is_the_longest_growth() -> None:
    water = molecule("H2O")
    bonds = Bonds.of(water)
    assert bonds.stretch(water) == 0
    direction = water.positions[1] - water.positions[0]
    water.positions[1] += 0.3 * direction / np.linalg.norm(direction)
    assert bonds.stretch(water) == pytest.approx(0.3)
    assert Bonds.of(Atoms("Ar")).stretch(Atoms("Ar")) == 0


def test_a_hydrogen_may_change_its_partner_but_not_leave() -> None:
    # A proton between two waters' oxygens, as in an enol: nearer to one, then to the other.
    atoms = Atoms("OHO", [[0, 0, 0], [0.98, 0, 0], [2.5, 0, 0]])
    bonds = Bonds.of(atoms)
    assert len(bonds.lengths) == 1
    atoms.positions[1] = [1.52, 0, 0]
    assert bonds.stretch(atoms) == pytest.approx(0.0, abs=1e-9)
    atoms.positions[1] = [1.25, 1.5, 0]
    assert bonds.stretch(atoms) == pytest.approx(np.hypot(1.25, 1.5) - 0.98)


def test_drift_is_the_slope() -> None:
    rng = np.random.default_rng(0)
    times = np.linspace(0, 10, 1001)
    energies = -100 + 0.003 * times + rng.normal(scale=1e-3, size=1001)
    assert drift(times, energies, 3) == pytest.approx(1.0, abs=0.05)
    assert drift(times[:1], energies[:1], 3) is None


def test_survival_is_the_first_loss() -> None:
    times, fine = np.arange(4.0), np.zeros(4)
    warm = np.full(4, 300.0)
    assert survival(times, fine, warm, 300) is None
    assert survival(times, np.array([0, 0.4, 0.6, 0.1]), warm, 300) == 2
    assert survival(times, fine, np.array([300.0, 1000, 300, 300]), 300) == 1
    assert survival(times, fine, np.array([300, 300, 300, np.nan]), 300) == 3
