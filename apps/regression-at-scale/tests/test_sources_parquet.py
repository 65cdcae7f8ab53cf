"""Parquet: every type of number and text, slices of row groups, broken files."""

import datetime as dt
import decimal
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lemmata.apps.regression_at_scale.sources import Categories, open_table

VALUES = {
    "int8": pa.array([1, -2, 3], pa.int8()),
    "int64 with nulls": pa.array([1, None, 3]),
    "uint64": pa.array([1, 2, 2**63], pa.uint64()),
    "half": pa.array(np.array([0.5, 1, 2], np.float16)),
    "half with nulls": pa.array([np.float16(0.5), None, np.float16(2)], pa.float16()),
    "float with nulls": pa.array([0.5, None, np.nan], pa.float32()),
    "bool": pa.array([True, False, True]),
    "bool with nulls": pa.array([True, None, False]),
    "decimal": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-0.50")]),
    "dictionary of numbers": pa.array([7, 7, None]).dictionary_encode(),
}
TEXT = {
    "string": pa.array(["b", None, "a"]),
    "large": pa.array(["b", None, "a"], pa.large_string()),
    "dictionary": pa.array(["b", None, "a"]).dictionary_encode(),
    "empty text": pa.array(["", "x", ""]),
}
OTHER = {
    "timestamp": pa.array([dt.datetime(2020, 1, 1)] * 3),  # noqa: DTZ001 (without a zone on purpose)
    "date": pa.array([dt.date(2020, 1, 1)] * 3),
    "bytes": pa.array([b"x"] * 3),
    "list": pa.array([[1.0]] * 3),
    "struct": pa.array([{"a": 1}] * 3),
    "null": pa.nulls(3),
}


@pytest.mark.parametrize("chunk_rows", [3, 2])
@pytest.mark.parametrize("name", VALUES)
def test_numbers_of_every_type(tmp_path, name, chunk_rows):
    pq.write_table(pa.table({name: VALUES[name]}), tmp_path / "a.parquet")
    table = open_table(tmp_path, chunk_rows=chunk_rows)
    assert table.columns[0].kind == "numeric"
    found = np.concatenate([block.numbers(name) for block in table.stream(table.chunks)])
    expected = [np.nan if value is None else float(value) for value in VALUES[name].to_pylist()]
    np.testing.assert_array_equal(found.astype(float), expected)


@pytest.mark.parametrize("chunk_rows", [3, 2])
@pytest.mark.parametrize("name", TEXT)
def test_text_of_every_type(tmp_path, name, chunk_rows):
    pq.write_table(pa.table({name: TEXT[name]}), tmp_path / "a.parquet")
    table = open_table(tmp_path, chunk_rows=chunk_rows)
    assert table.columns[0].kind == "categorical"
    found: list[str | None] = []
    for block in table.stream(table.chunks):
        held = block.categories(name)
        found += [None if code < 0 else held.levels[code] for code in held.codes]
    assert found == TEXT[name].to_pylist()
    with pytest.raises(TypeError, match="holds text, not numbers"):
        table.read(table.chunks[0]).numbers(name)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_neither_number_nor_text(tmp_path, name):
    pq.write_table(pa.table({"a": VALUES["int8"], name: OTHER[name]}), tmp_path / "a.parquet")
    table = open_table(tmp_path)
    assert [column.kind for column in table.columns] == ["numeric", "other"]
    np.testing.assert_array_equal(table.read(table.chunks[0], ["a"]).numbers("a"), [1, -2, 3])


def test_numbers_as_categories(tmp_path):
    columns = {"code": [7, 7, None], "half": [0.5, np.nan, 2.0], "yes": [True, False, True]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    block = (table := open_table(tmp_path)).read(table.chunks[0])
    for name, codes, levels in (
        ("code", [0, 0, -1], ("7",)),
        ("half", [0, -1, 1], ("0.5", "2")),
        ("yes", [1, 0, 1], ("0", "1")),
    ):
        held = block.categories(name)
        assert isinstance(held, Categories)
        assert (held.codes.tolist(), held.levels) == (codes, levels)


def test_a_big_row_group_with_many_dictionaries_is_sliced(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([f"level {number}" for number in range(3000)])
    text, numbers = words[rng.integers(3000, size=20000)], rng.standard_normal(20000)
    pq.write_table(
        pa.table({"k": text, "a": numbers}),
        tmp_path / "a.parquet",
        data_page_size=2000,
        dictionary_pagesize_limit=3000,
    )
    table = open_table(tmp_path, chunk_rows=777)
    assert len(table.chunks) == 26
    found, values = [], []
    for block in table.stream(table.chunks[3:]):
        held = block.categories("k")
        found.append(np.array(held.levels)[held.codes])
        values.append(block.numbers("a"))
    np.testing.assert_array_equal(np.concatenate(found), text[3 * 777 :])
    np.testing.assert_array_equal(np.concatenate(values), numbers[3 * 777 :])


def test_reading_does_not_import_pandas(tmp_path):
    import subprocess

    pq.write_table(pa.table(VALUES | TEXT), tmp_path / "a.parquet")
    program = (
        "import sys; from lemmata.apps.regression_at_scale.sources import open_table\n"
        f"table = open_table({str(tmp_path)!r}, chunk_rows=2)\n"
        "assert len(list(table.stream(table.chunks))) == 2\n"
        "assert 'pandas' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_broken_files(tmp_path, matrix, write_parts):
    folder = write_parts(matrix, "parquet", cuts=(500,))
    good = (folder / "part-1.parquet").read_bytes()
    for name, data in (
        ("truncated", good[: len(good) // 2]),
        ("no footer", good[:-8]),
        ("three bytes", b"PAR"),
        ("text", b"a,b\n1,2\n" * 10),
        ("footer alone", good[-2000:]),
    ):
        (folder / "part-1.parquet").write_bytes(data)
        with pytest.raises(ValueError, match=r"part-1.parquet: .*not a readable Parquet file"):  # noqa: PT012
            table = open_table(folder)
            list(table.stream(table.chunks))
            pytest.fail(name)


def test_a_part_truncated_after_opening_names_file_and_row_group(tmp_path, matrix, write_parts):
    folder = write_parts(matrix, "parquet", row_group_size=100)
    table = open_table(folder)
    path = folder / "part-0.parquet"
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(len(data) - middle - footer) + data[-footer:])
    with pytest.raises(ValueError, match=r"part-0.parquet: row group \d: not a readable Parquet file"):
        list(table.stream(table.chunks))


def test_a_part_rewritten_after_opening(matrix, write_parts):
    folder = write_parts(matrix, "parquet")
    table = open_table(folder, chunk_rows=100)
    pq.write_table(pa.table({"c0": matrix[:400, 0]}), folder / "part-0.parquet")
    with pytest.raises(ValueError, match=r"part-0.parquet: has changed since it was opened"):
        table.read(table.chunks[0], ["c0"])


def test_parts_of_other_types(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "k": ["x", "y"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"a": [0.5, 2.0], "k": ["x", "z"]}), tmp_path / "1.parquet")
    assert open_table(tmp_path).rows == 4  # integers and floats are both numbers
    pq.write_table(pa.table({"a": ["1", "2"], "k": ["x", "y"]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2.parquet: column 'a' is string, but int64 in .*0.parquet"):
        open_table(tmp_path)


def test_two_columns_of_one_name(tmp_path):
    table = pa.table([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: two columns are named 'a'"):
        open_table(tmp_path)


def test_a_row_is_located_by_row_group_and_row(tmp_path, matrix, write_parts):
    table = open_table(write_parts(matrix, "parquet", cuts=(100,), row_group_size=300), chunk_rows=200)
    block = table.read(table.chunks[4])
    assert block.offset == 100 + 500
    assert block.locate(7).endswith("part-1.parquet: row group 1, row 507 (counted from 0)")
