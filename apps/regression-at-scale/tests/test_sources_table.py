"""Tables in every format: the same rows whatever the files, the chunks and the way they are named."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemmata.apps.regression_at_scale.sources import Table, open_table

FORMATS = ("parquet", "csv", "npy", "zarr")


def whole(table: Table, names: list[str] | None = None) -> Any:
    """Return a table's numbers as one matrix."""
    names = names or [column.name for column in table.columns]
    return np.concatenate(
        [
            np.column_stack([np.asarray(block.numbers(name), dtype=np.float64) for name in names])
            for block in table.stream(table.chunks, names)
        ]
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("cuts", [(), (300, 301, 950)], ids=["one file", "four files"])
@pytest.mark.parametrize("chunk_rows", [1000, 64, 7])
def test_formats_files_and_chunks_give_the_same_matrix(matrix, write_parts, form, cuts, chunk_rows):
    table = open_table(write_parts(matrix, form, cuts=cuts), chunk_rows=chunk_rows)
    np.testing.assert_array_equal(whole(table), matrix)
    assert table.rows == 1000
    assert max(chunk.rows for chunk in table.chunks) <= chunk_rows
    assert [chunk.offset for chunk in table.chunks] == np.cumsum(
        [0, *(chunk.rows for chunk in table.chunks)]
    )[:-1].tolist()


@pytest.mark.parametrize("form", FORMATS)
def test_a_chunk_read_alone_is_what_the_stream_gives(matrix, write_parts, form):
    table = open_table(write_parts(matrix, form, cuts=(400,)), chunk_rows=90)
    for chunk in (*table.chunks[::-1], table.chunks[0]):
        alone = table.read(chunk, ["c3"])
        assert list(alone.columns) == ["c3"]
        np.testing.assert_array_equal(
            alone.numbers("c3"), matrix[chunk.offset : chunk.offset + chunk.rows, 3]
        )


@pytest.mark.parametrize("form", FORMATS)
def test_some_chunks_out_of_many_are_streamed(matrix, write_parts, form):
    table = open_table(write_parts(matrix, form, cuts=(400,)), chunk_rows=30)
    chosen = table.chunks[3:9:2] + table.chunks[-4:]
    rows = np.concatenate([np.arange(c.offset, c.offset + c.rows) for c in chosen])
    streamed = np.concatenate([block.numbers("c1") for block in table.stream(chosen, ["c1"])])
    np.testing.assert_array_equal(streamed, matrix[rows, 1])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 200),
    group=st.integers(1, 220),
    chunk_rows=st.integers(1, 220),
    cut=st.floats(0, 1),
)
def test_any_row_groups_and_chunks(tmp_path_factory, rows, group, chunk_rows, cut):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("any")
    x = np.arange(float(rows))
    for number, part in enumerate(np.split(x, [int(cut * rows)])):
        pq.write_table(pa.table({"a": part}), folder / f"{number}.parquet", row_group_size=group)
    table = open_table(folder, chunk_rows=chunk_rows)
    np.testing.assert_array_equal(whole(table)[:, 0], x)
    for chunk in table.chunks:  # no chunk straddles a row group
        assert chunk.where.start + chunk.rows <= min(group, rows)


def test_parts_are_in_the_order_of_their_numbers(tmp_path, matrix):
    for number in range(12):
        np.save(tmp_path / f"part-{number}.npy", np.full((2, 1), float(number)))
    for paths in (tmp_path, tmp_path / "*.npy", str(tmp_path / "part-*.npy")):
        assert whole(open_table(paths))[::2, 0].tolist() == list(range(12))
    named = [tmp_path / "part-3.npy", tmp_path / "part-1.npy"]
    assert whole(open_table(named))[::2, 0].tolist() == [3, 1]


def test_a_table_is_small_and_picklable(matrix, write_parts):
    table = open_table(write_parts(matrix, "parquet", cuts=(500,)), chunk_rows=10)
    sent = pickle.dumps(table)
    assert len(sent) < 100 * len(table.chunks)
    back = pickle.loads(sent)
    assert back == table
    np.testing.assert_array_equal(whole(back), matrix)


def test_the_fingerprint_tells_other_data(matrix, write_parts, tmp_path):
    folder = write_parts(matrix, "npy", cuts=(500,))
    first = open_table(folder)
    assert open_table(folder).fingerprint == first.fingerprint
    assert open_table(folder, chunk_rows=100).fingerprint != first.fingerprint
    assert open_table(folder / "part-0.npy").fingerprint != first.fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert open_table(moved).fingerprint == first.fingerprint
    np.save(moved / "part-1.npy", matrix[500:] + 1)
    assert open_table(moved).fingerprint != first.fingerprint


def test_bytes_are_the_files_sizes(matrix, write_parts):
    folder = write_parts(matrix, "npy", cuts=(500,))
    assert open_table(folder).bytes == sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda d: [], FileNotFoundError, "nothing.csv: no such file or folder"),
        (lambda d: (d / "nothing.csv").write_bytes(b""), ValueError, r"nothing.csv: is empty \(0 bytes\)"),
        (lambda d: (d / "nothing.csv").mkdir(), ValueError, "nothing.csv: holds no parts"),
        (
            lambda d: (d / "nothing.csv" / "year=2020").mkdir(parents=True),
            ValueError,
            "holds folders, not parts",
        ),
    ],
)
def test_what_is_not_there(tmp_path, prepare, error, message):
    prepare(tmp_path)
    with pytest.raises(error, match=message):
        open_table(tmp_path / "nothing.csv")


def test_paths_that_make_no_table(matrix, write_parts, tmp_path):
    first, second = write_parts(matrix, "npy"), write_parts(matrix, "csv")
    with pytest.raises(ValueError, match=r"part-0.csv is csv, but .*part-0.npy is npy"):
        open_table([first, second])
    with pytest.raises(ValueError, match=r"part-0.npy: is named twice"):
        open_table([first, first / "*.npy"])
    with pytest.raises(FileNotFoundError, match=r"matches no file"):
        open_table(tmp_path / "*.parquet")
    with pytest.raises(ValueError, match="`paths` is empty"):
        open_table([])
    with pytest.raises(ValueError, match=r"`chunk_rows` \(=0\)"):
        open_table(first, chunk_rows=0)
    with pytest.raises(ValueError, match=r"`format` \(='xls'\) must be one of parquet"):
        open_table(first, format="xls")
    with pytest.raises(ValueError, match=r"`delimiter` \(=';'\) is for CSV files"):
        open_table(first, delimiter=";")
    with pytest.raises(ValueError, match=r"`width` \(=3\) is for LIBSVM files"):
        open_table(first, width=3)
    (tmp_path / "a.txt").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"a.txt: unknown format '.txt'"):
        open_table(tmp_path / "a.txt")
    assert open_table(tmp_path / "a.txt", format="csv").rows == 1
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"a.csv.gz: is compressed as a whole"):
        open_table(tmp_path / "a.csv.gz")


def test_other_files_in_a_folder_are_left_alone(matrix, write_parts):
    folder = write_parts(matrix, "npy")
    (folder / "truth.json").write_text("{}")
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-1.npy").write_bytes(b"half")
    assert open_table(folder).rows == 1000


@pytest.mark.parametrize("form", ["parquet", "csv", "npy"])
def test_no_rows(write_parts, form):
    with pytest.raises(ValueError, match=f"part-0.{form}: holds no rows"):
        open_table(write_parts(np.empty((0, 2)), form))


def test_a_part_without_rows_among_others(matrix, write_parts):
    table = open_table(write_parts(matrix, "parquet", cuts=(0, 1000)))
    assert len(table.parts) == 3
    np.testing.assert_array_equal(whole(table), matrix)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_parts_with_other_columns(matrix, write_parts, form, tmp_path):
    folder = write_parts(matrix, form)
    for names, message in (
        (["c0", "c1", "c2", "c3", "z"], "column 'z' is not in .*part-0"),
        (["c0", "c1", "c2", "c3"], "lacks column 'c4', which .*part-0"),
    ):
        other = write_parts(matrix[:, : len(names)], form, names=names)
        with pytest.raises(ValueError, match=f"{other.name}/part-0.{form}: {message}"):
            open_table([folder, other])


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_columns_in_another_order_are_found_by_name(matrix, write_parts, form):
    first = write_parts(matrix, form)
    second = write_parts(matrix[:, ::-1], form, names=["c4", "c3", "c2", "c1", "c0"])
    np.testing.assert_array_equal(whole(open_table([first, second])), np.concatenate((matrix, matrix)))


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_unicode_and_odd_names(matrix, write_parts, form):
    names = ["größe", "温度", "a.b", "a", "with space"]
    table = open_table(write_parts(matrix, form, names=names))
    assert [column.name for column in table.columns] == names
    np.testing.assert_array_equal(whole(table, ["a", "温度"]), matrix[:, [3, 1]])


def test_unicode_paths(matrix, tmp_path):
    folder = Path(tmp_path / "Daten größer")
    folder.mkdir()
    np.save(folder / "é.npy", matrix)
    np.testing.assert_array_equal(whole(open_table(folder)), matrix)
