"""Datasets: one matrix whatever the files and formats, sent between processes, in bounded memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lemmata.apps.regression_at_scale.encoding.dataset import Dataset, RawDataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources.schema import select
from lemmata.apps.regression_at_scale.verbs.generate import generate

MEASURE = """
import pathlib, sys
from lemmata.apps.regression_at_scale.sources import open_table
{imports}

def held(key):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(key + ":")[1].split()[0]) / 1024

table = open_table({path!r}, chunk_rows={chunk_rows})
source = {source}
next(source.stream(source.chunks[:1]))  # lazy imports
before, rows = held("VmRSS"), 0
for block in source.stream(source.chunks):
    rows += block.rows if hasattr(block, "rows") else len(block.x)
    del block
print(rows, held("VmHWM") - before)
"""


@pytest.mark.parametrize("form", ["parquet", "csv", "npy", "zarr"])
@pytest.mark.parametrize("cuts", [(), (1, 500)])
def test_files_and_formats_give_the_same_rows(matrix, write_parts, form, cuts):
    table = open_table(write_parts(matrix, form, cuts=cuts), chunk_rows=300)
    dataset = Dataset(table, Encoder(select(table.columns, target=["c4", "c0"], weight=None)))
    rows = list(dataset.stream(dataset.chunks))
    np.testing.assert_array_equal(torch.cat([each.x for each in rows])[:, :3], matrix[:, 1:4])
    np.testing.assert_array_equal(torch.cat([each.y for each in rows]), matrix[:, [4, 0]])
    assert [each.offset for each in rows] == [chunk.offset for chunk in dataset.chunks]
    assert dataset.shape == (1000, 4)
    assert dataset.feature_names == ("c1", "c2", "c3", "(intercept)")
    assert dataset.target_names == ("c4", "c0")


def test_a_chunk_alone_equals_the_stream(matrix, write_parts):
    table = open_table(write_parts(matrix, "parquet"), chunk_rows=130)
    dataset = Dataset(table, Encoder(select(table.columns, target="c4")))
    for chunk, streamed in zip(dataset.chunks, dataset.stream(dataset.chunks), strict=True):
        alone = dataset.read(chunk)
        assert torch.equal(alone.x, streamed.x)
        assert torch.equal(alone.y, streamed.y)
        assert alone.x.is_contiguous()


def test_a_dataset_is_sent_as_it_is(matrix, write_parts):
    table = open_table(write_parts(matrix, "npy"), chunk_rows=100)
    dataset = Dataset(table, Encoder(select(table.columns, target="c4")), torch.float32)
    back = pickle.loads(pickle.dumps(dataset))
    assert (back, back.fingerprint, back.rows) == (dataset, table.fingerprint, 1000)
    assert torch.equal(back.read(back.chunks[2]).x, dataset.read(dataset.chunks[2]).x)


def test_raw_rows(matrix, write_parts):
    table = open_table(write_parts(matrix, "npy"), chunk_rows=400)
    raw = RawDataset(table, select(table.columns, target="c1", features=["c3"]))
    block = raw.read(raw.chunks[2])
    assert (list(block.columns), block.rows, raw.rows) == (["c3", "c1"], 200, 1000)
    assert raw.fingerprint == table.fingerprint


def test_as_row_blocks(matrix, write_parts):
    table = open_table(write_parts(matrix, "npy"), chunk_rows=400)
    blocks = Dataset(table, Encoder(select(table.columns, target="c4"), intercept=False)).row_blocks()
    for _ in range(2):
        np.testing.assert_array_equal(torch.cat([block for _, block in blocks]), matrix[:, :4])
    assert (blocks.shape, blocks.passes) == ((1000, 4), 2)


def peak(path: Path, source: str, imports: str = "", chunk_rows: int = 65536) -> tuple[int, float]:
    """Read a table in a fresh process; return its rows and by how many MB its memory grew."""
    program = MEASURE.format(path=str(path), source=source, imports=imports, chunk_rows=chunk_rows)
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    rows, grown = run.stdout.split()
    return int(rows), float(grown)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("form", ["parquet", "npy", "zarr", "csv", "one row group"])
def test_memory_is_bounded_by_the_chunk(tmp_path, form):
    rows = 100_000 if form == "csv" else 450_000
    written = "parquet" if form == "one row group" else form
    folder = generate(tmp_path / "data", rows=rows, columns=59, dtype="float64", format=written, files=1)
    if form == "one row group":
        import pyarrow.parquet as pq

        whole = pq.read_table(folder / "part-00000.parquet")
        pq.write_table(whole, folder / "part-00000.parquet", row_group_size=rows)
        del whole
    chunk_rows = 16384
    chunk = chunk_rows * 60 * 8 / 2**20
    imports = (
        "from lemmata.apps.regression_at_scale.encoding.dataset import Dataset\n"
        "from lemmata.apps.regression_at_scale.encoding.encoder import Encoder\n"
        "from lemmata.apps.regression_at_scale.sources.schema import select"
    )
    target = "c59" if form == "npy" else "y"
    source = f"Dataset(table, Encoder(select(table.columns, target={target!r})))"
    read, grown = peak(folder, source, imports, chunk_rows)
    size = open_table(folder, chunk_rows=chunk_rows).bytes / 2**20
    print(f"{form}: {size:.0f} MB read, {grown:.0f} MB held, {chunk:.1f} MB a chunk")  # noqa: T201
    assert read == rows
    # Of a row group that is sliced, a page of each column is held (1 MiB) and its dictionary.
    assert grown < 8 * chunk + (60 * 3 if form == "one row group" else 0)
