"""The frame potential: frames of edges, ragged batches, crystals, and that frames are not detached."""

from collections.abc import Callable
from typing import Any

import torch
from ase import Atoms

from lemmata.apps.interatomic.models.frame import PlainLayer, edge_frames

Make = Callable[..., Any]


def test_the_backbone_itself_is_not_invariant(small: Make, molecule: Make, graphs: Make) -> None:
    """Else averaging would have nothing to do."""
    potential = small("frame")
    graph = potential.graph(graphs(molecule()))
    layer: PlainLayer = potential.layers[0]
    features = potential.embedding(graph.species)[None]
    envelope = potential.envelope(graph.distances)

    def seen(rotation: torch.Tensor) -> torch.Tensor:
        edges = torch.cat([graph.vectors @ rotation, potential.basis(graph.distances)], -1)[None]
        found: torch.Tensor = layer(features, edges, envelope, graph.source, graph.target)
        return found.sum()

    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert abs(seen(torch.eye(3, dtype=torch.float64)) - seen(turn)) > 1e-3


def test_frames_turn_with_the_configuration(small: Make, molecule: Make, graphs: Make) -> None:
    potential, atoms = small("frame"), molecule()
    turned = atoms.copy()
    turned.rotate(63, (1, 2, 0.5))
    frames = []
    for each in (atoms, turned):
        graph = potential.graph(graphs(each))
        frames.append(edge_frames(graph, potential.envelope(graph.distances)).rotation[0])
    assert frames[0].shape == (8, 3, 3)
    back = torch.linalg.lstsq(torch.from_numpy(atoms.positions), torch.from_numpy(turned.positions)).solution
    expected = back.T @ frames[0]
    distances = (expected[:, None] - frames[1][None]).abs().amax((-1, -2))
    assert distances.amin(1).max() < 1e-9


def test_frames_do_not_depend_on_the_choice_of_cell(small: Make, argon: Make, graphs: Make) -> None:
    """Atoms moved to another image are the same crystal."""
    potential = small("frame", elements=[18], reference_energies=[0.0], cutoff=3.9, average_neighbours=6)
    atoms = argon()
    wrapped = atoms.copy()
    wrapped.positions[3] += atoms.cell.array[0] - 2 * atoms.cell.array[2]
    wrapped.positions += [0.4, 0.1, -0.7]
    before, after = (potential(graphs(each, cutoff=3.9), stress=True) for each in (atoms, wrapped))
    torch.testing.assert_close(after.energy, before.energy)
    torch.testing.assert_close(after.stress, before.stress)


def test_an_atom_among_others_that_have_no_neighbours(small: Make, molecule: Make, graphs: Make) -> None:
    potential, alone = small("frame"), Atoms("H")
    together = potential(graphs(alone, molecule(), alone))
    assert torch.isfinite(together.forces).all()
    assert torch.equal(together.energy[0], together.energy[2])


def test_linear_and_flat_molecules(small: Make, graphs: Make) -> None:
    potential = small("frame")
    for places in ([[0, 0, -1.2], [0, 0, 0], [0, 0, 1.3]], [[0, 1.0, 0], [0, 0, 0], [0.9, -0.2, 0]]):
        prediction = potential(graphs(Atoms("OCO", places)), training=True)
        assert torch.isfinite(prediction.forces).all()
        prediction.forces.square().sum().backward()
        assert all(
            torch.isfinite(weight.grad).all() for weight in potential.parameters() if weight.grad is not None
        )
