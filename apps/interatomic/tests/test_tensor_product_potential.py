"""The tensor-product potential: sizes it can have, body order, reach, what its parts are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from lemmata.apps.interatomic.models.tensor_product import natural, perceptron
from lemmata.equivariant.o3 import rand_rotation

Make = Callable[..., Any]


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 1},
        {"layers": 3, "lmax_hidden": 2},
        {"order": 1},
        {"order": 4, "lmax_edge": 2},
        {"lmax_edge": 0, "lmax_hidden": 0},
        {"channels": 1, "radial_functions": 1, "readout_width": 1},
    ],
)
def test_sizes(options: dict[str, Any], small: Make, molecule: Make, graphs: Make) -> None:
    potential, atoms = small("tensor-product", **options), molecule()
    turn = rand_rotation(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = Atoms(atoms.numbers, atoms.positions @ turn.numpy().T)
    before, after = potential(graphs(atoms)), potential(graphs(turned))
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-9)
    size = float(before.forces.abs().max())
    assert size > 0
    torch.testing.assert_close(after.forces, before.forces @ turn.T, rtol=0, atol=1e-8 * max(1.0, size))


def energies_of_subsets(potential: Any, atoms: Atoms, graphs: Make) -> tuple[float, float]:
    """Return the energy that needs all atoms at once, by inclusion and exclusion, and the largest one."""
    total, largest = 0.0, 0.0
    for chosen in range(1, 2 ** len(atoms)):
        places = [place for place in range(len(atoms)) if chosen >> place & 1]
        energy = float(potential(graphs(atoms[places]), forces=False).atomic_energy.detach().sum())
        total += (-1) ** (len(atoms) - len(places)) * energy
        largest = max(largest, abs(energy))
    return total, largest


def test_one_layer_couples_as_many_atoms_as_the_order_says(small: Make, graphs: Make) -> None:
    """With a linear readout a power of order n sees n neighbours at once, and no more."""
    places = [[0, 0, 0], [1, 0, 0.2], [0, 1.1, 0.1], [-0.9, 0.2, 0.3], [0.1, -0.8, -0.9]]
    four = small("tensor-product", layers=1, order=2, cutoff=4.0)
    four.readouts[-1] = perceptron(4, 1).double()
    together, largest = energies_of_subsets(four, Atoms("COHHO", places), graphs)
    assert abs(together) < 1e-10 * largest
    together, largest = energies_of_subsets(four, Atoms("COH", places[:3]), graphs)
    assert abs(together) > 1e-6 * largest


def test_angles_and_dihedrals_are_seen(small: Make, graphs: Make) -> None:
    potential = small("tensor-product")

    def twisted(angle: float) -> float:
        end = [np.cos(angle), np.sin(angle), 1.4]
        atoms = Atoms("HOOH", [[1, 0, 0], [0, 0, 0], [0, 0, 1.4], end])
        return float(potential(graphs(atoms), forces=False).energy)

    found = [twisted(angle) for angle in (0.3, 1.0, 2.0)]
    assert len({round(energy, 6) for energy in found}) == 3
    assert twisted(1.0) == pytest.approx(twisted(-1.0), abs=1e-9)


def test_atoms_are_felt_as_far_as_layers_reach(small: Make, graphs: Make) -> None:
    potential = small("tensor-product", cutoff=2.0, layers=2)
    line = Atoms("HCOHCO", [[0, 0, 1.7 * place] for place in range(6)])
    data = graphs(line, cutoff=2.0)
    data.pos.requires_grad_()
    graph = potential.graph(data)
    first = potential.atomic_energies(graph)[0]
    (felt,) = torch.autograd.grad(first, data.pos)
    assert (felt.abs().sum(1) > 0).tolist() == [True, True, True, False, False, False]


def test_features_start_of_order_one(small: Make, molecule: Make, graphs: Make) -> None:
    """The size of what layers hand on depends neither on the number of neighbours nor on the depth much."""
    sizes = []

    def note(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        sizes.append(float(output.detach().square().mean().sqrt()))

    for cutoff, neighbours in ((3.0, 6.0), (6.0, 14.0)):
        potential = small(
            "tensor-product", cutoff=cutoff, average_neighbours=neighbours, layers=3, channels=32
        )
        for layer in potential.layers:
            layer.register_forward_hook(note)
        potential(graphs(*(molecule(seed, 15) for seed in range(4)), cutoff=cutoff), forces=False)
    assert all(0.2 < size < 10 for size in sizes), sizes


def test_a_perceptron_keeps_unit_variance() -> None:
    torch.manual_seed(0)
    found = perceptron(64, 128, 128, 256)(torch.randn(2000, 64))
    assert found.std().item() == pytest.approx(1.0, rel=0.2)
    assert not perceptron(3, 8, 2)(torch.zeros(1, 3)).any()


def test_irreps_of_natural_parity() -> None:
    assert str(natural(4, 2)) == "4x0e+4x1o+4x2e"


@pytest.mark.slow
def test_on_an_accelerator(small: Make, molecule: Make, graphs: Make) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    potential, data = small("tensor-product"), graphs(molecule())
    here, there = potential(data, stress=True), potential.cuda()(data.to("cuda"), stress=True)
    torch.testing.assert_close(there.forces.cpu(), here.forces)
    torch.testing.assert_close(there.energy.cpu(), here.energy)
