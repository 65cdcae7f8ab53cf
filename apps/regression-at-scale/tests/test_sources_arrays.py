"""`.npy` files, Zarr stores and LIBSVM text."""

import numpy as np
import pytest
import zarr
from sklearn.datasets import dump_svmlight_file

from lemmata.apps.regression_at_scale.sources import open_table


def column(table, name):
    return np.concatenate([block.numbers(name) for block in table.stream(table.chunks, [name])])


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f8", "i1", ">i4", "u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_every_type_and_order(tmp_path, dtype, order):
    x = np.asarray(np.arange(60).reshape(20, 3) % 5, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", x)
    table = open_table(tmp_path, chunk_rows=7)
    for j in range(3):
        np.testing.assert_array_equal(column(table, f"c{j}"), x[:, j])


def test_npy_vector(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5.0))
    assert column(open_table(tmp_path, chunk_rows=2), "c0").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\); expected \(rows, columns\)"),
        (np.float64(3), r"shape \(\); expected \(rows, columns\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros((2, 2), complex), "holds complex128; expected real numbers"),
        (np.array([["a"]]), "holds <U1; expected real numbers"),
        (np.zeros(2, [("a", "f8")]), "expected real numbers"),
        (np.zeros((0, 3)), "holds no rows"),
    ],
)
def test_npy_that_is_no_table(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=f"a.npy: .*{message}|a.npy: {message}"):
        open_table(tmp_path)


def test_npy_that_is_broken(tmp_path, matrix):
    path = tmp_path / "a.npy"
    np.save(path, matrix)
    data = path.read_bytes()
    table = open_table(path, chunk_rows=300)
    for broken, message in (
        (data[:-8], r"truncated; shape \(1000, 5\) of float64 takes 40000 bytes, found 39992"),
        (data[:40], "not a .npy file"),
        (b"no such thing", "not a .npy file"),
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"a.npy: {message}"):
            open_table(path)
    path.write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"a.npy: truncated since it was opened"):
        list(table.stream(table.chunks))


def test_npy_parts_of_other_widths(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "b.npy", matrix[:, :4])
    with pytest.raises(ValueError, match=r"b.npy: lacks column 'c4', which .*a.npy has"):
        open_table(tmp_path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chunk_rows", [1000, 120, 30])
def test_zarr_group(tmp_path, matrix, version, chunk_rows):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    group.create_array("y", data=matrix[:, 0], chunks=(33,))
    group.create_array("x", data=matrix[:, 1:].astype("f4"), chunks=(50, 2))
    table = open_table(tmp_path / "a.zarr", chunk_rows=chunk_rows)
    assert [each.name for each in table.columns] == ["x0", "x1", "x2", "x3", "y"]
    assert table.chunks[0].rows == {1000: 1000, 120: 100, 30: 30}[chunk_rows]
    np.testing.assert_array_equal(column(table, "y"), matrix[:, 0])
    np.testing.assert_array_equal(column(table, "x2"), matrix[:, 3].astype("f4"))


def test_zarr_that_is_no_table(tmp_path, matrix):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(ValueError, match=r"a.zarr: holds no array"):
        open_table(tmp_path / "a.zarr")
    group.create_array("x", data=matrix)
    group.create_array("y", data=matrix[:7, 0])
    with pytest.raises(ValueError, match=r"a.zarr: array 'y' has 7 rows, the others 1000"):
        open_table(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "b.zarr", data=np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"b.zarr: array '' is float64 of shape \(2, 2, 2\)"):
        open_table(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_text("{not json")
    with pytest.raises(ValueError, match=r"c.zarr: not a readable Zarr store"):
        open_table(tmp_path / "c.zarr")


def test_zarr_with_a_broken_chunk(tmp_path, matrix, write_parts):
    folder = write_parts(matrix, "zarr", compressors=None)
    table = open_table(folder)
    chunk = folder / "part-0.zarr" / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"part-0.zarr: not a readable Zarr store"):
        list(table.stream(table.chunks))


@pytest.mark.parametrize("zero_based", [True, False])
def test_libsvm(tmp_path, matrix, zero_based):
    x = np.where(matrix > 0.5, matrix, 0)
    x[:, 4] = 0
    x[-1, 4] = 3.5
    for number, rows in enumerate((slice(0, 600), slice(600, 1000))):
        # The first part lacks the last feature.
        path = tmp_path / f"part-{number}.svm"
        dump_svmlight_file(x[rows], matrix[rows, 0], str(path), zero_based=zero_based, comment="a: b\nc")
    table = open_table(tmp_path, chunk_rows=250)
    first = 0 if zero_based else 1
    assert [each.name for each in table.columns] == ["label", *(f"f{first + j}" for j in range(5))]
    np.testing.assert_allclose(column(table, "label"), matrix[:, 0], rtol=1e-15)
    for j in range(5):
        np.testing.assert_allclose(column(table, f"f{first + j}"), x[:, j], rtol=1e-15)
    assert "line 7" in table.read(table.chunks[0]).locate(0) or table.chunks[0].where.row == 0


def test_libsvm_width_and_errors(tmp_path):
    path = tmp_path / "a.svm"
    path.write_text("# a comment: 1\n1 1:0.5 3:2\n\n-1 2:1 # 9:9\n")
    table = open_table(path, width=6)
    assert [each.name for each in table.columns][-1] == "f6"
    assert column(table, "f3").tolist() == [2, 0]
    assert column(table, "f6").tolist() == [0, 0]
    assert table.read(table.chunks[0]).locate(1).endswith("a.svm: line 4")
    with pytest.raises(ValueError, match=r"a.svm: index 3 is beyond `width` \(=2\)"):
        open_table(path, width=2)
    with pytest.raises(ValueError, match=r"`width` \(=0\)"):
        open_table(path, width=0)
    path.write_text("1 1:0.5\nhello world\n")
    with pytest.raises(ValueError, match=r"a.svm: no LIBSVM text in the 2 rows from line 1"):
        open_table(path)
