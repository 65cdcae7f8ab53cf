"""The container: round trips, laziness, and one clear error for whatever is damaged."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lemmata.apps.pde_surrogate.formats import FieldFileError
from lemmata.apps.pde_surrogate.store import (
    is_store,
    open_store,
    read_store,
    resolutions,
    write_store,
)
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid


def fields(resolution=6, n=5, **attributes):
    generator = torch.Generator().manual_seed(resolution)
    shape = (resolution, resolution + 1)
    return FieldDataset(
        torch.randn(n, 1, *shape, generator=generator),
        torch.randn(n, 2, *shape, generator=generator),
        Grid(shape, (1.0, 2.0), "nodes"),
        attributes=attributes,
    )


@pytest.fixture
def stored(tmp_path):
    return write_store(tmp_path / "a.zarr", fields(equation="darcy"), chunk=2)


def chunks(path, array="input"):
    return sorted(file for file in (path / "r6" / array / "c").rglob("*") if file.is_file())


def test_round_trip_is_exact(stored):
    data, written = read_store(stored, verify=True), fields()
    assert torch.equal(data.inputs, written.inputs)
    assert torch.equal(data.targets, written.targets)
    assert data.grid == written.grid
    assert data.attributes["equation"] == "darcy"
    assert data.attributes["complete"] is True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(tmp_path, dtype):
    data = fields()
    data = FieldDataset(data.inputs.to(dtype), data.targets.to(dtype), data.grid)
    assert read_store(write_store(tmp_path / "a.zarr", data)).inputs.dtype == dtype


def test_fields_of_nothing_but_nan_or_zero_survive(tmp_path):
    data = FieldDataset(torch.zeros(3, 1, 8), torch.full((3, 1, 8), torch.nan), Grid((8,), (1.0,), "cells"))
    read = read_store(write_store(tmp_path / "a.zarr", data, chunk=2), verify=True)
    assert torch.equal(read.inputs, data.inputs)
    assert bool(read.targets.isnan().all())


def test_the_lazy_view_gives_the_same_samples_and_feeds_a_loader(stored):
    lazy, data = open_store(stored), fields()
    assert len(lazy) == 5
    assert torch.equal(lazy[3][1], data.targets[3])
    assert torch.equal(lazy[-1][0], data.inputs[4])
    inputs, targets = next(iter(DataLoader(lazy, batch_size=5, sampler=[4, 0, 3, 1, 4])))
    assert torch.equal(inputs, data.inputs[[4, 0, 3, 1, 4]])
    assert torch.equal(targets, data.targets[[4, 0, 3, 1, 4]])
    with pytest.raises(IndexError):
        lazy[5]


def test_several_resolutions_in_one_store(tmp_path):
    path = write_store(tmp_path / "a.zarr", [fields(12), fields(6)])
    assert resolutions(path) == [6, 12]
    assert read_store(path, 12).grid.shape == (12, 13)
    with pytest.raises(FieldFileError, match=r"holds resolutions 6, 12; say which"):
        read_store(path)
    with pytest.raises(FieldFileError, match=r"no resolution 7; found 6, 12"):
        read_store(path, 7)


def test_nothing_is_overwritten_without_force_and_nothing_foreign_ever(stored, tmp_path):
    with pytest.raises(FileExistsError, match=r"a\.zarr: exists; --force"):
        write_store(stored, fields(n=3))
    write_store(stored, fields(n=3), force=True)
    assert len(read_store(stored)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="never replaced"):
        write_store(tmp_path / "mine", fields(), force=True)


def test_what_is_not_a_store_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data set"):
        read_store(tmp_path / "absent.zarr")
    (tmp_path / "absent.zarr.partial").mkdir()
    with pytest.raises(FileNotFoundError, match="--resume continues"):
        read_store(tmp_path / "absent.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FieldFileError, match=r"empty\.zarr: found no attribute format"):
        read_store(tmp_path / "empty.zarr")
    assert not is_store(tmp_path / "empty.zarr")


def edit(path, change):
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))


def test_an_incomplete_or_newer_store_is_refused(stored):
    edit(stored / "r6", lambda metadata: metadata["attributes"].update(complete=False))
    with pytest.raises(
        FieldFileError, match=r"group 'r6' is incomplete: found complete=False, expected True"
    ):
        read_store(stored)
    edit(stored, lambda metadata: metadata["attributes"].update(version=99))
    with pytest.raises(FieldFileError, match="found format version 99, expected 1"):
        read_store(stored)


def test_a_missing_chunk_is_named(stored):
    chunks(stored)[1].unlink()
    with pytest.raises(FieldFileError, match=r"array 'r6/input' is truncated: found 2 chunks, expected 3"):
        read_store(stored)


def test_a_missing_array_is_named(stored):
    shutil.rmtree(stored / "r6" / "target")
    with pytest.raises(FieldFileError, match=r"cannot read array 'r6/target'"):
        read_store(stored)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[::-1]]
)
def test_a_damaged_chunk_is_named(stored, damage):
    file = chunks(stored, "target")[2]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FieldFileError, match=r"a\.zarr: cannot read array 'r6/target'"):
        read_store(stored)


def test_a_chunk_of_other_data_is_caught_by_verify(stored):
    first, second, _ = chunks(stored)
    first.write_bytes(second.read_bytes())
    read_store(stored)
    with pytest.raises(FieldFileError, match=r"array 'r6/input' is not what was written: found SHA-256"):
        read_store(stored, verify=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_truncated_or_flipped_byte_is_an_error_of_one_line(stored, data):
    files = sorted(file for file in stored.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.booleans())
    flipped = content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]
    file.write_bytes(flipped if flip else content[:position])
    message = None
    try:
        read_store(stored, verify=True)
    except (ValueError, OSError) as error:
        message = str(error)
    file.write_bytes(content)
    if message is None:
        assert file.name == "zarr.json"  # metadata hold what no result depends on, say the equation's name
    else:
        assert len(message.splitlines()) == 1
        assert "a.zarr" in message
