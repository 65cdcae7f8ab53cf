"""CSV: any quoting that Python's writer makes, kinds inferred and enforced, errors that name the line."""

import csv
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources import text as text_module


def put(path, data):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def values(table, name):
    found = []
    for block in table.stream(table.chunks, [name]):
        held = block.columns[name]
        if isinstance(held, np.ndarray):
            found += held.tolist()
        else:
            found += [None if code < 0 else held.levels[code] for code in held.codes]
    return found


texts = st.text(st.sampled_from("ab\",;\n\r'é "), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(-9, 9), texts), min_size=1, max_size=30),
    chunk_rows=st.integers(1, 31),
    step=st.integers(1, 40),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_python_writes_is_read_back(tmp_path, rows, chunk_rows, step, ending, quoting):
    held = io.StringIO()
    writer = csv.writer(held, lineterminator=ending, quoting=quoting)
    writer.writerows([("n", "k"), *rows])
    path = put(tmp_path / "a.csv", held.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_STEP", step)  # buffers end anywhere in a record
        table = open_table(path, chunk_rows=chunk_rows)
    assert [chunk.rows for chunk in table.chunks[:-1]] == [chunk_rows] * (len(table.chunks) - 1)
    assert values(table, "n") == [n for n, _ in rows]
    assert values(table, "k") == [k for _, k in rows]


def test_blank_lines_and_a_missing_last_line_feed(tmp_path):
    table = open_table(put(tmp_path / "a.csv", "\n\na,b\n\n1,2\r\n\r\n3,4\n\n\n5,6"), chunk_rows=2)
    assert table.rows == 3
    assert values(table, "b") == [2, 4, 6]
    assert [table.read(table.chunks[k]).locate(0).split(": ")[1] for k in (0, 1)] == ["line 5", "line 10"]


def test_missing_values(tmp_path):
    table = open_table(put(tmp_path / "a.csv", 'a,k\n1,x\n,""\nNA,NA\nnan,"NA"\n'))
    np.testing.assert_array_equal(values(table, "a"), [1, np.nan, np.nan, np.nan])
    assert values(table, "k") == ["x", "", None, "NA"]


def test_kinds(tmp_path):
    data = "i,f,b,k,d,e,h\n" + "1,2.5,true,x,2020-01-01,,1e5\n" * 3
    table = open_table(put(tmp_path / "a.csv", data))
    assert [column.kind for column in table.columns] == [
        "numeric", "numeric", "numeric", "categorical", "other", "numeric", "numeric",
    ]  # fmt: skip
    assert values(table, "b") == [1, 1, 1]
    assert values(table, "h") == [1e5] * 3
    assert np.isnan(values(table, "e")).all()


def test_delimiters_and_byte_order_mark(tmp_path):
    assert values(open_table(put(tmp_path / "a.csv", "a;b\n1,5;2\n"), delimiter=";"), "b") == [2]
    assert values(open_table(put(tmp_path / "a.tsv", "a\tb\n1\t2\n")), "b") == [2]
    assert values(open_table(put(tmp_path / "b.csv", b"\xef\xbb\xbfa,b\n1,2\n")), "a") == [1]
    for bad in ("", ",,", "\n", '"'):
        with pytest.raises(ValueError, match=r"`delimiter` \(="):
            open_table(tmp_path / "a.csv", delimiter=bad)


def test_a_value_of_another_kind_names_line_and_column(tmp_path):
    lines = [f"{k},{k % 7}" for k in range(300_000)]
    lines[290_000] = "290000,oops"
    table = open_table(put(tmp_path / "a.csv", "a,b\n" + "\n".join(lines) + "\n"))
    with pytest.raises(ValueError, match=r"a.csv: line 290002, column 'b': .*'oops'"):
        values(table, "b")
    assert len(values(table, "a")) == 300_000  # the column is not read


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3: .*Expected 2 columns, got 1"),
        ("a,b\n1,2\n3,4,5\n", "line 3: .*Expected 2 columns, got 3"),
        ('a,b\n1,"x\n3,y\n', "line 2 has an open quote"),
        ("a,a\n1,2\n", "two columns are named 'a'"),
        (",a\n1,2\n", "column 1 has no name"),
        ("\n\n", "has no header"),
        ("a,b\n", "holds no rows"),
        ("a,b\n1,2\n".encode("utf-16"), "is not text in UTF-8"),
        (b"\xff\xe9a,b\n1,2\n", "the header is not text in UTF-8"),
        (b"\x1f\x8b" + bytes(20), r"is compressed \(gzip\)"),
        (b"a,b\n1,2\0\n", "is not text in UTF-8"),
    ],
)
def test_broken_files(tmp_path, data, message):
    path = put(tmp_path / "a.csv", data)
    with pytest.raises(ValueError, match=f"a.csv: .*{message}|a.csv: {message}"):  # noqa: PT012
        table = open_table(path)
        list(table.stream(table.chunks))


def test_a_quote_in_the_middle_of_a_field(tmp_path):
    # Arrow takes such a quote as it stands; a scan for records cannot.
    table = open_table(put(tmp_path / "a.csv", 'a,k\n1,x\n2,5" pipe\n3,6" pipe\n4,z\n'))
    with pytest.raises(ValueError, match=r"the lines from 2 on hold 4 rows, not 3: a quote stands within"):
        values(table, "k")


def test_text_that_is_not_utf8_further_down(tmp_path):
    data = b"a,k\n" + b"1,x\n" * 400_000 + b"2,\xe9\n"
    table = open_table(put(tmp_path / "a.csv", data))
    with pytest.raises(ValueError, match=r"a.csv: line 400002, column 'k': .*UTF8"):
        values(table, "k")


def test_a_later_part_is_read_as_the_first(tmp_path):
    put(tmp_path / "0.csv", "k,a\nx,1\n")
    put(tmp_path / "1.csv", "a,k\n2,7\n")
    table = open_table(tmp_path)
    assert values(table, "k") == ["x", "7"]
    assert values(table, "a") == [1, 2]
    put(tmp_path / "2.csv", "a,k\ny,7\n")
    with pytest.raises(ValueError, match=r"2.csv: line 2, column 'a': .*'y'"):
        values(open_table(tmp_path), "a")


def test_truncated_after_opening(tmp_path):
    path = put(tmp_path / "a.csv", "a\n" + "1\n" * 100)
    table = open_table(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a.csv: truncated since it was opened"):
        values(table, "a")


def test_a_header_longer_than_the_head(tmp_path, monkeypatch):
    from lemmata.apps.regression_at_scale.sources import csv_file

    monkeypatch.setattr(csv_file, "_HEAD", 16)
    names = [f"column{j}" for j in range(50)]
    rows = "\n".join(",".join(str(i * j) for j in range(50)) for i in range(20))
    table = open_table(put(tmp_path / "a.csv", ",".join(names) + "\n" + rows))
    assert values(table, "column7") == [7 * i for i in range(20)]
