"""Generated problems: the same rows in every layout, the promised answer, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lemmata.apps.regression_at_scale import problem as problem_module
from lemmata.apps.regression_at_scale.problem import Problem
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.verbs import generate as module
from lemmata.apps.regression_at_scale.verbs.generate import generate


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(problem_module, "_BLOCK", 500)


def load(folder):
    """Return features and targets of a generated table as NumPy arrays, float64."""
    table = open_table(folder, chunk_rows=333)
    names = [column.name for column in table.columns if column.kind == "numeric"]
    blocks = [[block.numbers(name) for name in names] for block in table.stream(table.chunks, names)]
    every = np.concatenate([np.column_stack(block) for block in blocks]).astype(float)
    return every[:, :-1], every[:, -1]


@pytest.mark.parametrize("form", ["parquet", "npy", "csv", "zarr"])
@pytest.mark.parametrize("files", [1, 3])
def test_rows_are_the_same_in_every_layout(tmp_path, form, files):
    options = {"rows": 1700, "columns": 4, "seed": 5, "outliers": 0.1, "heavy_rows": 7, "dtype": "float64"}
    first = load(generate(tmp_path / "a", files=2, **options))
    again = load(generate(tmp_path / "b", files=files, format=form, **options))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    other = load(generate(tmp_path / "c", **(options | {"seed": 6})))
    assert not np.isclose(first[0], other[0]).any()


def test_rows_do_not_depend_on_how_many_follow():
    short, long = Problem(700, 3, categorical=1), Problem(2000, 3, categorical=1)
    for number in (0, 1):
        a, b = short.block(number), long.block(number)
        count = a[0].shape[1]
        np.testing.assert_allclose(a[0], b[0][:, :count], rtol=1e-6)
        np.testing.assert_allclose(a[1], b[1][:count], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(a[2][0], b[2][0][:count])


def test_the_truth_is_what_least_squares_finds(tmp_path):
    out = generate(
        tmp_path / "a", rows=20_000, columns=6, condition=1e3, noise=0.05, dtype="float64", format="npy"
    )
    x, y = load(out)
    truth = json.loads((out / "truth.json").read_text())
    assert truth["target"] == "c6"
    beta = np.array([*truth["coefficients"].values(), truth["intercept"]])
    ones = np.column_stack((x, np.ones(len(x))))
    found, residual, _, _ = np.linalg.lstsq(ones, y, rcond=None)
    deviation = np.sqrt(residual[0] / (len(y) - 7))
    np.testing.assert_allclose(deviation, truth["noise_deviation"], rtol=0.03)
    errors = truth["noise_deviation"] * np.sqrt(np.diag(np.linalg.inv(ones.T @ ones)))
    assert (np.abs(found - beta) < 4.5 * errors).all()  # seven estimates: one in 2e4 lies further
    np.testing.assert_allclose(np.std(x @ beta[:-1]), truth["signal_deviation"], rtol=0.03)
    singular = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(singular[0] / singular[-1], 1e3, rtol=0.05)


def test_levels_shift_the_target(tmp_path):
    out = generate(tmp_path / "a", rows=3000, columns=2, noise=0.0, categorical=2, dtype="float64")
    table = open_table(out)
    block = table.read(table.chunks[0])
    truth = json.loads((out / "truth.json").read_text())["coefficients"]
    fitted = np.full(block.rows, 1.0)
    for name in ("x0", "x1"):
        fitted += truth[name] * block.numbers(name)
    for name in ("k0", "k1"):
        held = block.categories(name)
        fitted += np.array([truth.get(f"{name}={level}", 0.0) for level in held.levels])[held.codes]
    np.testing.assert_allclose(fitted, block.numbers("y"), rtol=1e-12)


def test_outliers_and_heavy_rows():
    problem = Problem(2000, 3, outliers=0.05, heavy_rows=10, noise=0.0)
    x, y = (
        np.concatenate(each, axis=-1) for each in zip(*(problem.block(k)[:2] for k in range(4)), strict=True)
    )
    heavy = np.flatnonzero(np.linalg.norm(x, axis=0) > 20)
    assert set(heavy) <= set(range(0, 2000, 200))
    assert len(heavy) >= 8
    wrong = np.abs(y - 1 - problem.coefficients @ x.astype(float)) > problem.signal
    assert 0.03 < wrong.mean() < 0.07


def test_float32_targets_and_types(tmp_path):
    table = open_table(generate(tmp_path / "a", rows=10, columns=2, files=1))
    assert [(column.name, column.type) for column in table.columns] == [
        ("x0", "float"), ("x1", "float"), ("y", "float"),
    ]  # fmt: skip


def test_nothing_is_replaced_by_accident(tmp_path):
    out = generate(tmp_path / "a", rows=50, columns=2)
    before = load(out)
    with pytest.raises(FileExistsError, match=r"a exists already; pass --force"):
        generate(out, rows=60, columns=2)
    np.testing.assert_array_equal(load(out)[0], before[0])
    generate(out, rows=60, columns=2, force=True)
    assert len(load(out)[1]) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "empty").mkdir()
    generate(tmp_path / "empty", rows=5, columns=2)


def test_an_unfinished_run_is_continued(tmp_path, monkeypatch):
    options = {"rows": 2000, "columns": 3, "files": 4}
    whole = load(generate(tmp_path / "whole", **options))
    written = []
    write = module._write_parquet

    def fail(problem, path, first, last, advance):
        if len(written) == 2:
            path.write_bytes(b"half of a file")
            raise OSError("no space left on device")
        written.append(path)
        write(problem, path, first, last, advance)

    monkeypatch.setattr(module, "_write_parquet", fail)
    with pytest.raises(OSError, match="no space left"):
        generate(tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()
    left = sorted(path.name for path in (tmp_path / "a.partial").iterdir())
    assert left == ["part-00000.parquet", "part-00001.parquet", "request.json"]
    with pytest.raises(FileExistsError, match=r"a.partial: an unfinished run of other arguments is there"):
        generate(tmp_path / "a", rows=2001, columns=3)
    monkeypatch.setattr(module, "_write_parquet", write)
    kept = (tmp_path / "a.partial" / "part-00000.parquet").stat().st_mtime_ns
    out = generate(tmp_path / "a", **options)
    assert (out / "part-00000.parquet").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(load(out)[0], whole[0])
    assert not (tmp_path / "a.partial").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills a process")
def test_a_killed_run_is_continued(tmp_path):
    program = (
        "from pathlib import Path\n"
        "from lemmata.apps.regression_at_scale.verbs.generate import generate\n"
        f"generate(Path({str(tmp_path / 'a')!r}), rows=3_000_000, columns=20, files=12)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    partial = tmp_path / "a.partial"
    until = time.monotonic() + 60
    while len(list(partial.glob("part-*"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a").exists()
    subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.DEVNULL)
    assert open_table(tmp_path / "a").rows == 3_000_000
    assert len(list((tmp_path / "a").iterdir())) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, r"`rows` \(=0\) must be at least 1"),
        ({"columns": 0}, r"`columns` \(=0\)"),
        ({"condition": 0.5}, r"`condition` \(=0.5\) must lie in \[1, inf\)"),
        ({"condition": float("nan")}, "`condition`"),
        ({"noise": -1.0}, r"`noise` \(=-1.0\) must lie in \[0, inf\)"),
        ({"outliers": 1.0}, r"`outliers` \(=1.0\) must lie in \[0, 1\)"),
        ({"heavy_rows": 101}, r"`heavy_rows` \(=101\) must be at most `rows` \(=100\)"),
        ({"dtype": "int32"}, r"`dtype` \(='int32'\) must be float32 or float64"),
        ({"format": "xlsx"}, r"`format` \(='xlsx'\) must be one of parquet"),
        ({"files": 101}, r"`files` \(=101\) must lie in \[1, 100\]"),
        ({"seed": -1}, r"`seed` \(=-1\) must be at least 0"),
        ({"categorical": 1, "format": "npy"}, r"`categorical` \(=1\) must be 0: npy holds no text"),
    ],
)
def test_arguments_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "a", **({"rows": 100, "columns": 3} | options))
    assert not list(tmp_path.iterdir())
