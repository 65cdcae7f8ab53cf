"""The ASE calculator: numerical derivatives as oracle, skins, committees, bad input."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from lemmata.apps.interatomic.calculator import InteratomicCalculator, SkinList
from lemmata.apps.interatomic.models.potential import Potential

Make = Callable[..., Potential]


@pytest.fixture
def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("Ar", a=3.0, cubic=True) * (1, 1, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_forces_are_the_numerical_gradient(morse: Make, ethanol: Atoms) -> None:
    ethanol.calc = InteratomicCalculator(morse())
    np.testing.assert_allclose(ethanol.get_forces(), calculate_numerical_forces(ethanol, 1e-5), atol=1e-7)


def test_stress_is_the_numerical_derivative_by_strain(morse: Make, crystal: Atoms) -> None:
    crystal.calc = InteratomicCalculator(morse())
    numerical = calculate_numerical_stress(crystal, 1e-5, voigt=True)
    np.testing.assert_allclose(crystal.get_stress(), numerical, atol=1e-8)


def test_shares_of_the_atoms_sum_to_the_whole(morse: Make, crystal: Atoms) -> None:
    crystal.calc = InteratomicCalculator(morse(zbl=True))
    assert crystal.get_potential_energies().sum() == pytest.approx(crystal.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(crystal.get_stresses().sum(axis=0), crystal.get_stress(), rtol=1e-10)


def test_an_isolated_atom_has_its_reference_energy(morse: Make) -> None:
    atom = Atoms("O", calculator=InteratomicCalculator(morse()))
    assert atom.get_potential_energy() == -80.0
    assert np.array_equal(atom.get_forces(), np.zeros((1, 3)))


def test_results_do_not_depend_on_when_the_list_was_made(morse: Make, ethanol: Atoms) -> None:
    kept, fresh = InteratomicCalculator(morse(), skin=0.6), InteratomicCalculator(morse(), skin=0.0)
    rng = np.random.default_rng(0)
    for _ in range(15):
        ethanol.positions += rng.normal(scale=0.03, size=(9, 3))
        forces = []
        for calculator in (kept, fresh):
            ethanol.calc = calculator
            forces.append(ethanol.get_forces().copy())
        assert np.array_equal(*forces)
    assert kept.neighbours.built < fresh.neighbours.built == 15


@pytest.mark.parametrize("change", ["cell", "pbc", "atoms", "far"])
def test_the_list_is_made_anew_when_it_must(change: str, crystal: Atoms) -> None:
    skins = SkinList(4.0, 0.5)
    skins.data(crystal, torch.float64)
    if change == "cell":
        crystal.set_cell(crystal.cell.array * 1.01, scale_atoms=True)
    elif change == "pbc":
        crystal.pbc = [True, True, False]
    elif change == "atoms":
        crystal = crystal[:-1]
    else:
        crystal.positions[0] += 0.3
    found = skins.data(crystal, torch.float64)
    assert skins.built == 2
    assert torch.equal(found.edge_index, SkinList(4.0, 0.0).data(crystal, torch.float64).edge_index)


def test_a_committee_tells_mean_and_spread(morse: Make, ethanol: Atoms) -> None:
    ethanol.calc = InteratomicCalculator([morse(1.0), morse(3.0)])
    both = ethanol.get_forces().copy()
    singles = []
    for depth in (1.0, 3.0):
        single = ethanol.copy()
        single.calc = InteratomicCalculator(morse(depth))
        singles.append(single.get_forces())
    np.testing.assert_allclose(both, np.mean(singles, axis=0), atol=1e-12)
    expected = np.sqrt(np.var(singles, axis=0, ddof=1).sum(axis=-1))
    np.testing.assert_allclose(ethanol.calc.results["forces_std"], expected, atol=1e-12)
    assert ethanol.calc.results["energy_std"] > 0


def test_float32_is_close_to_float64(morse: Make, ethanol: Atoms) -> None:
    forces = []
    for dtype in (torch.float32, torch.float64):
        ethanol.calc = InteratomicCalculator(morse(), dtype=dtype)
        forces.append(ethanol.get_forces().copy())
    np.testing.assert_allclose(*forces, atol=1e-4)
    assert not np.array_equal(*forces)


def test_bad_input_is_named(morse: Make, ethanol: Atoms) -> None:
    with pytest.raises(ValueError, match="at least one potential"):
        InteratomicCalculator([])
    with pytest.raises(ValueError, match=r"`skin` \(=-1\)"):
        InteratomicCalculator(morse(), skin=-1)
    with pytest.raises(ValueError, match="different elements"):
        InteratomicCalculator([morse(), morse(elements=(1, 6))])
    ethanol.calc = InteratomicCalculator(morse(elements=(1, 6)))
    with pytest.raises(ValueError, match="O"):
        ethanol.get_forces()
