"""Graphs beside ASE's own neighbour lists: through images, in small cells, along some directions only."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from lemmata.apps.interatomic.graphs import AtomGraphs, to_data
from lemmata.apps.interatomic.neighbours import neighbours


def as_rows(i: np.ndarray, j: np.ndarray, shift: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.column_stack([i, j, shift]).astype(int).tolist()]


def assert_as_ase(atoms: Atoms, cutoff: float) -> None:
    (source, target), shift = neighbours(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    i, j, images = neighbor_list("ijS", atoms, cutoff)
    rows = as_rows(target, source, shift)
    assert rows == sorted(as_rows(i, j, images))  # sorted by target, source, image: one order
    vectors = atoms.positions[source] - atoms.positions[target] + shift @ atoms.cell.array
    lengths = np.linalg.norm(vectors, axis=1)
    assert (lengths < cutoff).all()
    np.testing.assert_allclose(np.sort(lengths), np.sort(neighbor_list("d", atoms, cutoff)), atol=1e-12)


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
@pytest.mark.parametrize("cutoff", [2.6, 5.0, 9.0])
@pytest.mark.parametrize("crystal", ["Ar", "Si", "Fe"])
def test_edges_are_those_of_ase_also_when_the_cutoff_exceeds_the_cell(
    pbc: tuple[int, int, int], cutoff: float, crystal: str
) -> None:
    atoms = bulk(crystal)
    atoms.pbc = pbc
    atoms.positions += np.random.default_rng(0).normal(
        scale=9, size=atoms.positions.shape
    )  # outside the cell
    assert_as_ase(atoms, cutoff)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.5, 6.0),
)
def test_edges_are_those_of_ase_in_any_cell(
    count: int, seed: int, pbc: tuple[bool, bool, bool], cutoff: float
) -> None:
    draw = np.random.default_rng(seed)
    cell = 3 * np.eye(3) + draw.uniform(-0.8, 0.8, (3, 3))
    atoms = Atoms(["C"] * count, draw.uniform(-6, 6, (count, 3)), cell=cell, pbc=pbc)
    assert_as_ase(atoms, cutoff)


def test_molecules_slabs_and_crowds_need_no_cell_or_a_part_of_one() -> None:
    assert_as_ase(molecule("C60"), 5.0)
    slab = fcc111("Al", size=(2, 2, 3))
    slab.cell[2] = 0.0
    assert slab.pbc.tolist() == [True, True, False]
    assert_as_ase(slab, 4.5)
    flat = Atoms(
        "H2", [[0, 0, 0], [1, 0, 0]], cell=[[2, 0, 0], [2, 0, 0], [0, 0, 2]], pbc=[True, False, True]
    )
    edges, shift = neighbours(flat.positions, flat.cell.array, flat.pbc, 1.5)
    assert edges.shape[1] == 4  # the second vector, which does not repeat, may depend on the first
    assert (shift[:, 1] == 0).all()
    draw = np.random.default_rng(1)
    assert_as_ase(Atoms(["O"] * 300, draw.uniform(0, 20, (300, 3)), cell=[20] * 3, pbc=True), 3.0)


def test_nothing_has_no_edges() -> None:
    graph = to_data(Atoms("H"), 5.0)
    assert graph.edge_index.shape == (2, 0)
    assert graph.shift.shape == (0, 3)
    assert to_data(Atoms(), 5.0).pos.shape == (0, 3)
    assert to_data(Atoms("H2", [[0, 0, 0], [0, 0, 9]]), 5.0).edge_index.shape == (2, 0)
    for cutoff in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="`cutoff`"):
            to_data(Atoms("H"), cutoff)


def labelled(with_stress: bool = True) -> Atoms:
    atoms = bulk("Ar", cubic=True)
    results = {"energy": -9400.123456789, "forces": np.arange(12.0).reshape(4, 3)}
    if with_stress:
        results["stress"] = np.arange(1.0, 7.0)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_holds_what_training_reads(dtype: torch.dtype) -> None:
    atoms = labelled()
    atoms.info |= {"config_type": "cold", "config_weight": 2.5}
    graph = to_data(atoms, 5.0, dtype=dtype)
    for name in ("pos", "shift", "cell", "forces", "stress", "weight", "energy_weight"):
        assert graph[name].dtype == dtype
    assert graph.energy.dtype == torch.float64
    assert graph.energy.item() == -9400.123456789
    assert graph.z.tolist() == [18] * 4
    assert graph.stress[0].tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert (graph.cell.shape, graph.pbc.shape, graph.pbc.dtype) == ((1, 3, 3), (1, 3), torch.bool)
    assert (graph.weight.item(), graph.config_type) == (2.5, "cold")
    assert graph.energy_weight.item() == graph.forces_weight.item() == graph.stress_weight.item() == 1
    graph.pos += 1  # of its own
    assert np.abs(atoms.positions).min() == 0


def test_absent_labels_are_masked() -> None:
    graph = to_data(labelled(with_stress=False), 5.0)
    assert (graph.stress_weight.item(), graph.stress.abs().sum().item()) == (0, 0)
    bare = to_data(bulk("Ar"), 5.0)
    assert [bare[f"{name}_weight"].item() for name in ("energy", "forces", "stress")] == [0, 0, 0]
    assert bare.forces.shape == (1, 3)
    assert bare.weight.item() == 1


def test_a_batch_keeps_each_frames_edges_and_cell() -> None:
    frames = [bulk("Ar"), molecule("CH3CH2OH"), Atoms("H"), labelled()]
    batch = Batch.from_data_list([to_data(atoms, 5.0, dtype=torch.float64) for atoms in frames])
    assert batch.cell.shape == (4, 3, 3)
    assert batch.energy.shape == batch.weight.shape == (4,)
    assert batch.config_type == ["default"] * 4
    source, target = batch.edge_index
    assert torch.equal(batch.batch[source], batch.batch[target])
    shift = torch.einsum("ei,eij->ej", batch.shift, batch.cell[batch.batch[source]])
    lengths = torch.linalg.vector_norm(batch.pos[source] - batch.pos[target] + shift, dim=1)
    expected = np.concatenate([neighbor_list("d", atoms, 5.0) for atoms in frames])
    np.testing.assert_allclose(np.sort(lengths), np.sort(expected), atol=1e-12)
    assert target.tolist() == sorted(target.tolist())


def test_graphs_are_built_once_where_they_are_kept() -> None:
    frames = [molecule("H2O"), molecule("CH4")]
    kept, built = AtomGraphs(frames, 5.0), AtomGraphs(frames, 5.0, keep=False)
    assert len(kept) == 2
    assert kept[1] is kept[1]
    assert built[1] is not built[1]
    assert torch.equal(built[1].edge_index, kept[1].edge_index)
