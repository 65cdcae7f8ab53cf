"""What all potentials promise: invariance, forces and stress as derivatives, batches, precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from lemmata.apps.interatomic.models import MODELS, Potential, build
from lemmata.apps.interatomic.models.potential import sum_by
from lemmata.equivariant.o3 import rand_rotation

Make = Callable[..., Any]
EVERY = pytest.mark.parametrize("model", MODELS)
DOUBLE = torch.float64


def energy(potential: Potential, data: Any) -> float:
    with torch.no_grad():
        return float(potential(data, forces=False).energy)


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_energies_are_invariant_and_forces_turn(
    model: str, dtype: torch.dtype, tolerance: float, small: Make, molecule: Make, graphs: Make
) -> None:
    potential, atoms = small(model, dtype), molecule()
    turn = rand_rotation(generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    order = np.random.default_rng(2).permutation(len(atoms))
    moved = Atoms(atoms.numbers[order], (atoms.positions @ turn.T + [3.0, -5.0, 2.0])[order])
    before, after = potential(graphs(atoms, dtype=dtype)), potential(graphs(moved, dtype=dtype))
    assert abs(before.atomic_energy.sum() - after.atomic_energy.sum()) < tolerance * max(
        1.0, float(before.atomic_energy.abs().sum())
    )
    expected = (before.forces.double() @ torch.from_numpy(turn).T)[order]
    torch.testing.assert_close(after.forces.double(), expected, rtol=0, atol=30 * tolerance)


@pytest.mark.parametrize("model", ["tensor-product", "frame"])
def test_mirror_images_have_one_energy(model: str, small: Make, molecule: Make, graphs: Make) -> None:
    potential, atoms = small(model), molecule()
    mirrored = Atoms(atoms.numbers, atoms.positions * [1, 1, -1])
    assert abs(energy(potential, graphs(atoms)) - energy(potential, graphs(mirrored))) < 1e-9


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_forces_are_finite_differences(
    model: str, dtype: torch.dtype, tolerance: float, small: Make, molecule: Make, graphs: Make
) -> None:
    """Differences are taken in float64, where they are accurate; the forces in either dtype must agree."""
    atoms, step = molecule(), 1e-5
    exact = small(model)
    potential = build(exact.config).to(dtype)
    potential.load_state_dict(exact.state_dict())
    forces = potential(graphs(atoms, dtype=dtype)).forces.double()
    numeric = torch.zeros(len(atoms), 3, dtype=DOUBLE)
    for i in range(len(atoms)):
        for a in range(3):
            ends = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, a] += sign * step
                ends.append(float(exact(graphs(moved), forces=False).atomic_energy.detach().sum()))
            numeric[i, a] = (ends[1] - ends[0]) / (2 * step)
    size = float(numeric.abs().max())
    assert size > 1e-4
    assert float((forces - numeric).abs().max()) < tolerance * size
    assert float(forces.sum(0).abs().max()) < 10 * torch.finfo(dtype).eps * len(atoms) * max(size, 1.0)


def stress_by_differences(potential: Potential, atoms: Atoms, graphs: Make) -> Tensor:
    found = torch.zeros(3, 3, dtype=DOUBLE)
    for a in range(3):
        for b in range(3):
            ends = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[a, b] += sign * 5e-6
                strain[b, a] += sign * 5e-6
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                ends.append(float(potential(graphs(strained), forces=False).atomic_energy.detach().sum()))
            found[a, b] = (ends[0] - ends[1]) / 2e-5
    return found / atoms.get_volume()


@EVERY
@pytest.mark.parametrize("zbl", [False, True])
def test_stress_is_a_finite_difference(model: str, zbl: bool, small: Make, argon: Make, graphs: Make) -> None:
    atoms = argon()
    potential = small(
        model, elements=[18], reference_energies=[-14000.0], cutoff=3.9, average_neighbours=6, zbl=zbl
    )
    crystal = lambda atoms: graphs(atoms, cutoff=3.9)  # noqa: E731 - a shorter name for one argument
    prediction = potential(crystal(atoms), stress=True)
    numeric = stress_by_differences(potential, atoms, crystal)
    torch.testing.assert_close(
        prediction.stress[0], numeric, rtol=1e-5, atol=1e-6 * float(numeric.abs().max())
    )
    assert float(numeric.abs().max()) > 1e-6
    share = prediction.atomic_virial.sum(0) / atoms.get_volume()
    torch.testing.assert_close(share, prediction.stress[0])


def test_lennard_jones_stress_has_the_sign_of_ase(graphs: Make, argon: Make) -> None:
    """A model that is ASE's own potential gives ASE's stress."""
    from ase.calculators.lj import LennardJones

    class Pairs(Potential):
        def __init__(self) -> None:
            super().__init__("pairs", [18], 6.0)
            self.epsilon = torch.nn.Parameter(torch.tensor(0.0104, dtype=DOUBLE))

        def atomic_energies(self, graph: Any) -> Tensor:
            power = (3.4 / graph.distances) ** 6
            shift = 4 * self.epsilon * ((3.4 / 6) ** 12 - (3.4 / 6) ** 6)
            pairs = 4 * self.epsilon * (power**2 - power) - shift
            return sum_by(pairs / 2, graph.target, len(graph.species))

    atoms = argon()
    prediction = Pairs()(graphs(atoms, cutoff=6.0), stress=True)
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=6.0)
    assert float(prediction.energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    np.testing.assert_allclose(prediction.forces.numpy(), atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(prediction.stress[0].numpy(), atoms.get_stress(voigt=False), atol=1e-10)
    np.testing.assert_allclose(
        (prediction.atomic_virial / atoms.get_volume()).sum(0).numpy(),
        atoms.get_stress(voigt=False),
        atol=1e-10,
    )


@EVERY
def test_a_batch_gives_what_single_configurations_give(
    model: str, small: Make, molecule: Make, graphs: Make
) -> None:
    potential = small(model)
    several = [molecule(0), molecule(1, 4), Atoms("O"), molecule(2, 6)]
    together = potential(graphs(*several), stress=True)
    apart = [potential(graphs(each), stress=True) for each in several]
    torch.testing.assert_close(together.energy, torch.cat([each.energy for each in apart]))
    torch.testing.assert_close(
        together.forces, torch.cat([each.forces for each in apart]), atol=1e-9, rtol=1e-7
    )
    assert together.energy.dtype == DOUBLE
    assert not together.stress.any()


@EVERY
def test_second_derivatives(model: str, small: Make, molecule: Make, graphs: Make) -> None:
    potential, data = small(model), graphs(molecule(1, 5))
    start = data.pos.clone()

    def forces(positions: Tensor) -> Tensor:
        data.pos = positions
        found: Tensor = potential(data, training=True).forces
        return found

    hessian = -torch.autograd.functional.jacobian(forces, start).reshape(15, 15)
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-8 * float(hessian.abs().max()))
    step = torch.zeros_like(start)
    step[2, 1] = 1e-5
    column = -(forces(start + step) - forces(start - step)).flatten() / 2e-5
    torch.testing.assert_close(
        hessian[:, 7], column.detach(), rtol=1e-4, atol=1e-6 * float(hessian.abs().max())
    )


@EVERY
def test_every_weight_is_trained(model: str, small: Make, molecule: Make, graphs: Make) -> None:
    """Several processes wait for a gradient of every weight: none may stay without one."""
    potential = small(model)
    prediction = potential(graphs(molecule()), training=True)
    (prediction.energy.sum() + prediction.forces.square().sum()).backward()
    missing = [name for name, weight in potential.named_parameters() if weight.grad is None]
    assert missing == []


@EVERY
def test_without_neighbours(model: str, small: Make, graphs: Make) -> None:
    """Atoms out of reach and single atoms are what training would make of isolated atoms."""
    potential = small(model)
    far = potential(graphs(Atoms("HO", [[0, 0, 0], [0, 0, 9]])), stress=True)
    alone = [potential(graphs(Atoms(symbol))) for symbol in "HO"]
    assert float(far.energy) == pytest.approx(sum(float(each.energy) for each in alone), abs=1e-9)
    assert not far.forces.any()
    assert far.forces.shape == (2, 3)
    training = potential(graphs(Atoms("HO", [[0, 0, 0], [0, 0, 9]])), training=True)
    training.energy.sum().backward()


@EVERY
def test_energies_are_smooth_at_the_cutoff(model: str, small: Make, graphs: Make) -> None:
    potential, steps = small(model), [2.95, 2.99, 2.999, 3.0, 3.001]

    def at(distance: float) -> Any:
        positions = [[0, 0, 0], [1.0, 0.1, -0.5], [0.2, 1.2, -0.3], [0, 0, distance]]
        return potential(graphs(Atoms("CHOH", positions)))

    found = [at(distance) for distance in steps]
    pulls = [abs(float(each.forces[3, 2])) for each in found]
    assert pulls[0] > pulls[1] >= pulls[2]
    assert pulls[2] < 1e-3 * max(1e-9, float(found[0].forces.abs().max()))
    assert pulls[4] == 0
    assert abs(float(found[2].energy - found[4].energy)) < 1e-6


@EVERY
def test_large_total_energies_keep_their_digits(
    model: str, small: Make, molecule: Make, graphs: Make
) -> None:
    """The isolated atoms' energies stay in float64 whatever the model's dtype."""
    potential, data = small(model, torch.float32), graphs(molecule(), dtype=torch.float32)
    prediction = potential(data, forces=False)
    reference = sum({1: -13.6, 6: -1030.0, 8: -2043.0}[int(z)] for z in data.z)
    rest = prediction.energy.double() - reference
    torch.testing.assert_close(rest, prediction.atomic_energy.double().sum()[None], rtol=0, atol=1e-9)
    assert potential.reference_energies.dtype == DOUBLE
    assert potential.half().double().reference_energies.tolist() == [-13.6, -1030.0, -2043.0]


@EVERY
def test_under_inference_mode_and_without_gradients(
    model: str, small: Make, molecule: Make, graphs: Make
) -> None:
    potential = small(model)
    expected = potential(graphs(molecule()))
    with torch.inference_mode():
        inside = potential(graphs(molecule()))
    with torch.no_grad():
        without = potential(graphs(molecule()))
    torch.testing.assert_close(inside.forces, expected.forces)
    torch.testing.assert_close(without.forces, expected.forces)
    for prediction in (expected, inside, without):
        assert not prediction.energy.requires_grad
        assert not prediction.forces.requires_grad


@EVERY
def test_build_restores_a_potential(model: str, small: Make, molecule: Make, graphs: Make) -> None:
    potential = small(model, shift=0.3, scale=2.0)
    again = build(potential.config).double()
    again.load_state_dict(potential.state_dict())
    assert again.config == potential.config
    data = graphs(molecule())
    assert torch.equal(again(data).energy, potential(data).energy)


def test_elements_come_in_any_order(small: Make, molecule: Make, graphs: Make) -> None:
    one = small("tensor-product")
    other = small("tensor-product", elements=[8, 1, 6], reference_energies=[-2043.0, -13.6, -1030.0])
    assert one.config == other.config
    assert energy(one, graphs(molecule())) == energy(other, graphs(molecule()))


def test_an_unknown_element_is_named(small: Make, graphs: Make) -> None:
    with pytest.raises(
        ValueError, match="holds F, Cl, which the potential was not trained on; it knows H, C, O"
    ):
        small("frame")(graphs(Atoms("HFCl", [[0, 0, 0], [0, 0, 1], [0, 1, 0]])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mlp"}, "`model` .*'mlp'.* expected one of tensor-product"),
        ({"elements": []}, "`elements`"),
        ({"elements": [1, 1]}, "`elements`"),
        ({"elements": [0]}, "`elements`"),
        ({"cutoff": 0.0}, r"`cutoff` \(=0.0\) must be positive"),
        ({"reference_energies": [1.0]}, "one energy for each of 3"),
        ({"reference_energies": [1.0, 2.0, float("nan")]}, "must be finite"),
        ({"scale": 0.0}, r"`scale` \(=0.0\)"),
        ({"average_neighbours": -1.0}, "`average_neighbours`"),
        ({"widths": 3}, "do not fit tensor-product.*widths"),
        ({"channels": 0}, r"`channels` \(=0\)"),
        ({"lmax_hidden": -1}, r"`lmax_hidden` \(=-1\)"),
        ({"lmax_edge": 0, "lmax_hidden": 1}, r"`lmax_hidden` \(=1\) must be at most"),
        ({"model": "frame", "layers": 0}, r"`layers` \(=0\)"),
        ({"model": "position-orientation", "n_orientations": 10}, "multiple of 4"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build({"model": "tensor-product", "elements": [1, 6, 8], "cutoff": 3.0, **options})
