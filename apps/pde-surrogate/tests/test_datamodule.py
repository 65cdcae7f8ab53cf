"""Fields from data sets and files: splits, resolutions, and data that do not fit each other."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lemmata.apps.pde_surrogate.datamodule import FieldDataModule
from lemmata.apps.pde_surrogate.store import write_store
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid


def fields(n: int = 10, points: int = 8, *, channels: int = 1, seed: int = 0) -> FieldDataset:
    grid = Grid((points,), (1.0,), "periodic")
    inputs = torch.rand(n, channels, points, generator=torch.Generator().manual_seed(seed))
    return FieldDataset(inputs, 1.0 + inputs[:, :1], grid)


def store(path: Path, *sets: FieldDataset) -> str:
    return str(write_store(path, sets))


def test_a_fraction_is_set_aside_and_nothing_is_in_both(tmp_path: Path) -> None:
    data = FieldDataModule(store(tmp_path / "a.zarr", fields(20)), 0.25, batch_size=4, seed=3)
    data.setup("fit")
    kept = torch.cat([x for x, _ in data.train_dataloader()]).flatten(1)
    aside = torch.cat([x for x, _ in data.val_dataloader()]).flatten(1)
    assert (len(kept), len(aside)) == (15, 5)
    everything = torch.cat([kept, aside])
    assert len(everything.unique(dim=0)) == 20
    torch.testing.assert_close(everything.sort(0).values, fields(20).inputs.flatten(1).sort(0).values)


def test_the_training_set_is_what_the_statistics_see(tmp_path: Path) -> None:
    data = FieldDataModule(store(tmp_path / "a.zarr", fields(20)), 0.5)
    data.setup("fit")
    assert sum(map(len, data.training_sets())) == 10


def test_resolutions_are_mixed_but_never_in_one_batch(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", fields(8, 8), fields(8, 16))
    data = FieldDataModule(path, 0.25, batch_size=2)
    data.setup("fit")
    shapes = [tuple(x.shape) for x, _ in data.train_dataloader()]
    assert sorted(shapes) == [(2, 1, 8)] * 3 + [(2, 1, 16)] * 3
    assert shapes not in (sorted(shapes), sorted(shapes, reverse=True))
    one = FieldDataModule(path, None, resolution=16)
    one.setup("fit")
    assert [data.grid.shape for data in one.training_sets()] == [(16,)]
    assert one.val_dataloader() == []


def test_one_function_at_two_resolutions_is_in_one_split(tmp_path: Path) -> None:
    coarse = fields(10, 8)
    fine = FieldDataset(
        coarse.inputs.repeat_interleave(2, -1),
        coarse.targets.repeat_interleave(2, -1),
        Grid((16,), (1.0,), "periodic"),
    )
    data = FieldDataModule(store(tmp_path / "a.zarr", coarse, fine), 0.3)
    data.setup("fit")
    first, second = data.training_sets()
    torch.testing.assert_close(first.inputs, second.inputs[..., ::2])


def test_the_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", fields())

    def order(seed: int, epoch: int) -> torch.Tensor:
        data = FieldDataModule(path, 0.2, batch_size=4, seed=seed)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        torch.rand(3)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(order(1, 0), order(1, 0))
    assert not torch.equal(order(1, 0), order(1, 1))


def test_files_of_other_formats_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", coeff=np.random.default_rng(0).random((6, 8, 8)), sol=np.ones((6, 8, 8)))
    data = FieldDataModule(
        str(tmp_path / "own.npz"),
        None,
        map="input=coeff target=sol",
        layout="nxy",
        grid_layout="nodes",
        length=2.0,
    )
    data.setup("fit")
    [only] = data.training_sets()
    assert only.inputs.shape == (6, 1, 8, 8)
    assert only.grid == Grid((8, 8), (2.0, 2.0), "nodes")


def test_data_that_do_not_fit_are_named(tmp_path: Path) -> None:
    train = store(tmp_path / "train.zarr", fields())
    val = store(tmp_path / "val.zarr", fields(channels=2))
    with pytest.raises(
        ValueError, match=r"val\.zarr: found 2 input channels, expected 1 as in .*train\.zarr"
    ):
        FieldDataModule(train, val).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"gone\.zarr"):
        FieldDataModule(str(tmp_path / "gone.zarr")).setup("fit")
    with pytest.raises(ValueError, match=r"`data\.test` is missing"):
        FieldDataModule(train).setup("test")
    zero = fields()
    zero.targets[3] = 0.0
    with pytest.raises(ValueError, match=r"zero\.zarr: 1 target fields are zero everywhere"):
        FieldDataModule(store(tmp_path / "zero.zarr", zero)).setup("fit")


def test_numbers_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"`batch_size` \(=0\)"):
        FieldDataModule(batch_size=0)
    with pytest.raises(ValueError, match=r"`val` \(=1.5\)"):
        FieldDataModule(val=1.5)
