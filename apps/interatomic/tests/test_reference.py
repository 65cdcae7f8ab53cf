"""E0s that are known or fitted, the scale of forces, and the number of neighbours."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.interatomic.reference import (
    Reference,
    average_neighbours,
    fit_energies,
    force_scale,
    isolated_energies,
    measure,
)

E0 = {1: -13.587, 6: -1029.489, 8: -2041.982}


def with_labels(atoms: Atoms, **results: object) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def sum_of_atoms(name: str, noise: float = 0.0) -> Atoms:
    atoms = molecule(name)
    return with_labels(atoms, energy=sum(E0[z] for z in atoms.numbers) + noise)


@pytest.mark.parametrize("names", [["H2O", "CO2", "CH4"], ["CH3CH2OH", "H2CO", "H2", "CO", "C2H2", "H2O2"]])
def test_energies_of_elements_are_recovered_from_compositions(names: list[str]) -> None:
    fitted, notices = fit_energies([sum_of_atoms(name) for name in names])
    assert fitted == pytest.approx(E0, abs=1e-6)
    assert notices == ()


@settings(max_examples=25, deadline=None)
@given(energies=st.lists(st.floats(-3000, -1), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_any_energies_are_recovered(energies: list[float], seed: int) -> None:
    draw = np.random.default_rng(seed)
    frames = []
    for _ in range(12):
        numbers = draw.permutation(np.repeat([1, 6, 8], [1, *draw.integers(1, 9, 2)]))
        atoms = Atoms(numbers, draw.normal(size=(len(numbers), 3)))
        total = sum(dict(zip([1, 6, 8], energies, strict=True))[int(z)] for z in numbers)
        frames.append(with_labels(atoms, energy=total))
    fitted, notices = fit_energies(frames)
    if not notices:  # compositions of full rank
        assert list(fitted.values()) == pytest.approx(energies, abs=1e-4)
    for atoms in frames:  # the sum is right whatever the rank
        total = sum(fitted[int(z)] for z in atoms.numbers)
        assert total == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


def test_one_composition_determines_the_sum_alone_and_says_so() -> None:
    frames = [sum_of_atoms("CH3CH2OH", noise) for noise in (-0.1, 0.0, 0.1)]
    fitted, [notice] = fit_energies(frames)
    assert "rank 1" in notice
    assert sum(fitted[z] for z in frames[0].numbers) == pytest.approx(
        frames[1].get_potential_energy(), abs=1e-6
    )
    assert np.ptp(list(fitted.values())) < 1e-3  # equal shares, not minus a thousand here and plus there


def test_known_atoms_are_not_fitted() -> None:
    frames = [sum_of_atoms(name) for name in ("H2O", "CH3CH2OH")]
    reference = measure(frames, 5.0, isolated={1: E0[1], 8: E0[8], 92: -1.0})
    assert dict(reference.e0) == pytest.approx(E0)
    assert reference.e0[1] == E0[1]
    assert reference.origin == {1: "isolated atom", 6: "least squares", 8: "isolated atom"}
    assert reference.elements == (1, 6, 8)


def test_total_energies_of_thousands_of_ev_keep_their_digits() -> None:
    atoms = [with_labels(molecule("H2O"), energy=-1e5 + 1e-7 * n) for n in range(2)]
    fitted, _ = fit_energies(atoms)
    assert sum(fitted[z] for z in (8, 1, 1)) == pytest.approx(-1e5 + 5e-8, abs=1e-5)


def test_isolated_atoms_are_one_energy_an_element() -> None:
    one, same = with_labels(Atoms("C"), energy=-5.0), with_labels(Atoms("C"), energy=-5.0 + 1e-9)
    assert isolated_energies([one, same]) == {6: -5.0}
    with pytest.raises(ValueError, match=r"isolated atoms of C have different energies, -5.0 and -6.0 eV"):
        isolated_energies([one, with_labels(Atoms("C"), energy=-6.0)])
    with pytest.raises(ValueError, match="isolated atom 0 has 2 atoms"):
        isolated_energies([with_labels(Atoms("C2"), energy=-6.0)])
    with pytest.raises(ValueError, match="isolated atom 0 has no energy"):
        isolated_energies([Atoms("C")])


def test_the_scale_is_the_rms_of_components() -> None:
    frames = [with_labels(Atoms("H"), forces=[[3.0, 0, 4.0]]), with_labels(Atoms("H"), energy=0.0)]
    assert force_scale(frames)[0] == pytest.approx(np.sqrt(25 / 3))
    assert force_scale(frames[1:])[0] == 1.0
    assert force_scale([with_labels(Atoms("H"), forces=[[0.0, 0, 0]])])[1] != ()


def test_neighbours_are_counted_through_images() -> None:
    frames = [bulk("Ar"), bulk("Ar", cubic=True), molecule("C60")]
    edges = sum(len(neighbor_list("i", atoms, 4.0)) for atoms in frames)
    assert average_neighbours(frames, 4.0) == pytest.approx(edges / 65)
    assert average_neighbours([Atoms("H")], 4.0) == 1.0


def test_a_reference_survives_its_card() -> None:
    reference = measure([sum_of_atoms("H2O")], 4.5, isolated={1: -1.0})
    assert Reference.from_dict({**reference.to_dict(), "more": 1}) == reference
    with pytest.raises(ValueError, match="lacks the entry 'scale'"):
        Reference.from_dict({"E0s": {}, "E0s_from": {}})
    with pytest.raises(ValueError, match="`frames` is empty"):
        measure([], 5.0)


def test_frames_without_energies_have_no_e0s_to_fit() -> None:
    reference = measure([with_labels(molecule("H2"), forces=np.ones((2, 3)))], 5.0)
    assert dict(reference.e0) == {1: 0.0}
    assert "no frame has an energy" in reference.notices[0]


def test_free_atoms_of_another_method_are_noticed() -> None:
    frames = [sum_of_atoms("H2O", -9.0)]
    question = "are these of the same method?"
    assert question not in measure(frames, 5.0, isolated=E0).notices[-1]
    assert question in measure(frames, 5.0, isolated={1: -0.5, 8: -75.0}).notices[-1]
