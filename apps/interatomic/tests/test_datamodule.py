"""The data module: batches that are a function of the seed, exact resume, shares of processes, elements."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from lemmata.apps.interatomic.datamodule import AtomsDataModule
from lemmata.apps.interatomic.dataset import assemble, write_prepared
from lemmata.apps.interatomic.frames import write_frames
from lemmata.apps.kit.loading import ResumableLoader


def mixture(count: int) -> list[Atoms]:
    """Frames of different sizes, some that repeat; the energy is the frame's number."""
    draw = np.random.default_rng(0)
    frames = []
    for number in range(count):
        atoms = [molecule("H2O"), molecule("CH3OH"), bulk("MgO", "rocksalt", a=4.2)][number % 3]
        atoms.rattle(0.02, seed=number)
        results = {"energy": float(number), "forces": draw.normal(size=(len(atoms), 3))}
        if atoms.pbc.any():
            results["stress"] = draw.normal(size=6)
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_frames(tmp_path / "mixture.xyz", mixture(40)))


def ready(source: str, **options: Any) -> AtomsDataModule:
    data = AtomsDataModule(source, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def order(loader: Any, epoch: int = 0) -> list[list[float]]:
    loader.set_epoch(epoch)
    return [batch.energy.tolist() for batch in loader]


def test_a_file_and_its_prepared_folder_give_the_same_batches(source: str, tmp_path: Path) -> None:
    folder = str(write_prepared(assemble(source), tmp_path / "data"))
    here, there = ready(source, dtype="float64"), ready(folder, dtype="float64")
    assert here.card == there.card
    for left, right in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert torch.equal(left.edge_index, right.edge_index)
        assert left.energy.tolist() == right.energy.tolist()
        torch.testing.assert_close(left.forces, right.forces, atol=1e-8, rtol=0)
        torch.testing.assert_close(left.stress, right.stress)


def test_batches_have_the_types_and_weights_that_training_reads(source: str) -> None:
    data = ready(source)
    batch = next(iter(data.train_dataloader()))
    assert (batch.num_graphs, batch.cell.shape, batch.energy.dtype) == (5, (5, 3, 3), torch.float64)
    assert batch.pos.dtype == batch.forces.dtype == torch.float32
    assert torch.equal(batch.stress_weight.bool(), batch.pbc.any(1))
    assert next(iter(ready(source, dtype="float64").train_dataloader())).pos.dtype == torch.float64
    sizes = [b.num_graphs for b in data.train_dataloader()]
    assert sizes == [5] * 6  # 32 frames: two are left for another epoch
    assert [b.num_graphs for b in ready(source, batch_size=50).train_dataloader()] == [32]


def test_the_order_is_a_function_of_seed_and_epoch(source: str) -> None:
    loader = ready(source, seed=3).train_dataloader()
    assert order(loader, 1) == order(ready(source, seed=3).train_dataloader(), 1)
    assert order(loader, 1) != order(loader, 2)
    assert order(loader, 1) != order(ready(source, seed=4).train_dataloader(), 1)
    data = ready(source)
    assert order(data.val_dataloader()) == [[32.0, 33.0, 34.0, 35.0]]
    assert order(data.test_dataloader()) == [[36.0, 37.0, 38.0, 39.0]]


def test_an_interrupted_epoch_goes_on_where_it_stopped(source: str) -> None:
    whole = order(ready(source).train_dataloader(), 1)
    loader = ready(source).train_dataloader()
    loader.set_epoch(1)
    batches = iter(loader)
    seen = [next(batches).energy.tolist() for _ in range(2)]
    state = loader.state_dict()
    resumed = ready(source).train_dataloader()
    resumed.load_state_dict(state)
    assert seen + [batch.energy.tolist() for batch in resumed] == whole


def test_two_processes_see_what_one_with_twice_the_batch_sees(source: str) -> None:
    graphs = ready(source)._part("train")
    collate = ready(source).train_dataloader()._loader.collate_fn

    def batches(size: int, replicas: int, rank: int) -> list[list[float]]:
        options: dict[str, Any] = {"num_replicas": replicas, "rank": rank, "collate_fn": collate}
        return order(ResumableLoader(graphs, size, seed=1, drop_last=True, **options))

    for one, left, right in zip(batches(8, 1, 0), batches(4, 2, 0), batches(4, 2, 1), strict=True):
        assert sorted(one) == sorted(left + right)


@pytest.mark.slow
def test_workers_change_nothing(source: str) -> None:
    loader = ready(source, num_workers=2).train_dataloader()
    assert order(loader, 1) == order(ready(source).train_dataloader(), 1)
    assert order(loader, 2) == order(ready(source).train_dataloader(), 2)


def test_the_reference_counts_with_the_modules_cutoff(source: str, tmp_path: Path) -> None:
    folder = str(write_prepared(assemble(source, cutoff=5.0), tmp_path / "data"))
    data = ready(folder, cutoff=3.0)
    assert data.reference.cutoff == 3.0
    assert data.reference.average_neighbours < ready(folder).reference.average_neighbours
    edges = sum(graph.edge_index.shape[1] for graph in data._part("train"))
    atoms = sum(len(graph.z) for graph in data._part("train"))
    assert data.reference.average_neighbours == pytest.approx(edges / atoms)
    assert data.reference.elements == (1, 6, 8, 12)


def test_a_checkpoint_brings_its_cutoff_and_elements(source: str) -> None:
    data = ready(source)
    data.use((1, 6, 8, 12, 92), 3.0)
    assert next(iter(data.val_dataloader())).edge_index.shape[1] == sum(
        graph.edge_index.shape[1] for graph in ready(source, cutoff=3.0)._part("validation")
    )
    with pytest.raises(ValueError, match=r"train frame 2 has Mg, which the checkpoint's training data lack"):
        data.use((1, 6, 8), 3.0)


def test_sets_without_frames_for_tests_say_so(source: str) -> None:
    data = ready(source, test_fraction=0.0)
    assert data.test_dataloader() == []
    with pytest.raises(ValueError, match=r"`data\.test` is missing"):
        data.setup("test")
    with pytest.raises(RuntimeError, match="call `setup` first"):
        AtomsDataModule(source).train_dataloader()
    with pytest.raises(RuntimeError, match="call `setup` first"):
        _ = AtomsDataModule(source).reference


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"`data.batch_size` \(=0\)"),
        ({"validation_batch_size": 0}, r"`data.validation_batch_size` \(=0\)"),
        ({"num_workers": -1}, r"`data.num_workers` \(=-1\)"),
        ({"seed": -1}, r"`data.seed` \(=-1\)"),
        ({"cutoff": 0.0}, r"`data.cutoff` \(=0.0\)"),
        ({"dtype": "float16"}, r"`data.dtype` \(='float16'\) is not known; expected one of float32, float64"),
        ({"split": "random"}, r"`split` \(='random'\)"),
        ({"test": "absent.xyz"}, r"`data.test` \(='absent.xyz'\) does not exist"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        AtomsDataModule("any.xyz", **options)


def test_a_source_that_is_none_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"`data.source` \(='absent.xyz'\) does not exist"):
        AtomsDataModule("absent.xyz").prepare_data()


def test_what_was_dropped_is_logged_once(tmp_path: Path, caplog: Any) -> None:
    frames = mixture(20)
    frames[4].calc.results["forces"][0] = 200.0
    data = ready(str(write_frames(tmp_path / "a.xyz", frames)))
    data.setup("validate")
    assert [record.message for record in caplog.records if "dropped" in record.message] == [
        "dropped 1 frames: {'a force above 100 eV/Å': 1}"
    ]
