"""Samples have the moments that statistical mechanics says, and normal modes are those of ASE."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.vibrations import Vibrations

from lemmata.apps.interatomic.sampling import displace, langevin, normal_modes, relax


def forces_of(calculator: Calculator) -> Callable[[Atoms], np.ndarray]:
    def forces(atoms: Atoms) -> np.ndarray:
        return np.asarray(calculator.get_forces(atoms))

    return forces


def at_rest(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.calc = EMT()
    assert relax(atoms, fmax=1e-5)
    return atoms


class Springs(Calculator):
    """Each pair of atoms on a spring: a harmonic energy of distances, with an analytic Hessian at rest."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, rest: Atoms, stiffness: float = 20.0) -> None:
        super().__init__()
        self.lengths = rest.get_all_distances()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        arms = atoms.positions[:, None] - atoms.positions
        lengths = np.linalg.norm(arms, axis=-1) + np.eye(len(atoms))
        stretch = (lengths - self.lengths) * (1 - np.eye(len(atoms)))
        self.results["energy"] = 0.25 * self.stiffness * np.sum(stretch**2)
        self.results["forces"] = -self.stiffness * np.sum((stretch / lengths)[..., None] * arms, axis=1)


@pytest.mark.parametrize(("name", "modes"), [("N2", 1), ("H2O", 3), ("CO2", 4), ("CH4", 9)])
def test_wavenumbers_are_those_of_ase(name: str, modes: int, tmp_path: Path) -> None:
    atoms = at_rest(name)
    ours = normal_modes(atoms, forces_of(EMT())).wavenumbers
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    theirs = np.sort(np.real(vibrations.get_frequencies() ** 2))[
        -modes:
    ]  # squares: some are imaginary in EMT
    assert len(ours) == modes
    np.testing.assert_allclose(np.sort(np.sign(ours) * ours**2), theirs, rtol=2e-2, atol=2e4)
    stiff = theirs > 1e5
    np.testing.assert_allclose(np.sort(ours)[stiff], np.sqrt(theirs[stiff]), rtol=2e-3)


def test_two_masses_on_a_spring_have_the_textbooks_frequency() -> None:
    atoms = Atoms("HO", [[0, 0, 0], [0, 0, 1.0]])
    [found] = normal_modes(atoms, forces_of(Springs(atoms, stiffness=30.0))).wavenumbers
    mass = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    per_time = np.sqrt(30.0 / mass) * units.second  # angular frequency in 1/s
    assert found == pytest.approx(per_time / (2 * np.pi * 299792458e2), rel=1e-4)


def test_modes_neither_translate_nor_rotate_and_count_what_is_free() -> None:
    atoms = at_rest("CH4")
    modes = normal_modes(atoms, forces_of(EMT()))
    mass = atoms.get_masses()[:, None]
    np.testing.assert_allclose((mass * modes.modes).sum(1), 0, atol=1e-10)
    arms = atoms.positions - atoms.get_center_of_mass()
    np.testing.assert_allclose((mass * np.cross(arms, modes.modes)).sum(1), 0, atol=1e-9)
    gram = np.einsum("kai,lai,a->kl", modes.modes, modes.modes, atoms.get_masses())
    np.testing.assert_allclose(gram, np.eye(9), atol=1e-10)
    crystal = bulk("Cu", cubic=True)
    assert len(normal_modes(crystal, forces_of(EMT())).eigenvalues) == 9  # rotations are not free here
    assert len(normal_modes(Atoms("Cu"), forces_of(EMT())).eigenvalues) == 0


def test_energies_of_normal_modes_are_equipartitioned() -> None:
    atoms = molecule("CH4")
    calculator = Springs(atoms, stiffness=200.0)
    modes = normal_modes(atoms, forces_of(calculator))
    draw = np.random.default_rng(0)
    samples = [modes.draw(atoms, draw, temperature=30.0) for _ in range(400)]
    energies = np.array([calculator.get_potential_energy(sample) for sample in samples])
    per_mode = units.kB * 30.0 / 2
    # Nine modes: the energy has mean 9/2 and variance 9/2 in units of kT.
    assert energies.mean() == pytest.approx(9 * per_mode, abs=4 * per_mode * np.sqrt(2 * 9 / 400))
    assert energies.std() == pytest.approx(per_mode * np.sqrt(18), rel=0.2)


def test_soft_and_downhill_modes_are_bounded() -> None:
    atoms = at_rest("H2O")
    modes = normal_modes(atoms, forces_of(EMT()))
    soft = type(modes)(np.array([-1e-9, 0.0, 1e-12]), modes.modes)
    moved = soft.draw(atoms, np.random.default_rng(0), temperature=300.0)
    assert 0.1 < np.abs(moved.positions - atoms.positions).max() < 6
    stiffer = soft.draw(atoms, np.random.default_rng(0), temperature=300.0, softest=500.0)
    np.testing.assert_allclose(
        (moved.positions - atoms.positions), 10 * (stiffer.positions - atoms.positions), rtol=1e-9
    )


def test_displacements_and_strains_have_the_asked_spread() -> None:
    atoms = bulk("Cu", cubic=True)
    draw = np.random.default_rng(0)
    moved = [displace(atoms, draw, amplitude=0.05) for _ in range(300)]
    assert np.std([m.positions - atoms.positions for m in moved]) == pytest.approx(0.05, rel=0.05)
    assert all((m.cell.array == atoms.cell.array).all() for m in moved)
    strained = [displace(atoms, draw, amplitude=0.0, strain=0.02) for _ in range(400)]
    epsilon = np.array([np.linalg.solve(atoms.cell.array, m.cell.array) - np.eye(3) for m in strained])
    np.testing.assert_allclose(epsilon, epsilon.swapaxes(1, 2), atol=1e-12)
    np.testing.assert_allclose(epsilon.std(0), np.full((3, 3), 0.02), rtol=0.15)
    np.testing.assert_allclose(strained[0].get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    slab = atoms.copy()
    slab.pbc = [True, True, False]
    found = displace(slab, draw, strain=0.02)
    assert found.cell.array[2].tolist() == slab.cell.array[2].tolist()
    water = molecule("H2O")
    assert (displace(water, draw, amplitude=0.0, strain=0.1).positions == water.positions).all()


def test_langevin_reaches_its_temperature_and_is_a_function_of_the_generator() -> None:
    def run(seed: int) -> list[Atoms]:
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.calc = EMT()
        return list(langevin(atoms, np.random.default_rng(seed), temperature=300, count=4, equilibration=10))

    first, again, other = run(0), run(0), run(1)
    assert all((a.positions == b.positions).all() for a, b in zip(first, again, strict=True))
    assert not np.allclose(first[0].positions, other[0].positions)
    assert first[0].calc is None
    assert not first[0].has("momenta")
    centres = [atoms.get_center_of_mass() for atoms in first]
    np.testing.assert_allclose(centres, [centres[0]] * 4, atol=1e-10)


@pytest.mark.slow
def test_langevin_samples_the_temperature() -> None:
    atoms = molecule("CH4")
    calculator = Springs(atoms, stiffness=20.0)
    atoms.calc = calculator
    frames = langevin(atoms, np.random.default_rng(0), temperature=200, count=1500, interval=20, friction=0.1)
    energies = np.array([calculator.get_potential_energy(frame) for frame in frames])
    assert energies.mean() == pytest.approx(4.5 * units.kB * 200, rel=0.1)
