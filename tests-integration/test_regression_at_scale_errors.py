"""What users of regression-at-scale get wrong ends in one line that says what, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lemmata.apps.regression_at_scale.__main__ import main


def write(path: Path, **columns: object) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def table(tmp_path):
    random = np.random.default_rng(0)
    for part in range(2):
        a, b = random.standard_normal((2, 500))
        write(tmp_path / "table" / f"part-{part}.parquet", a=a, b=b, y=a - b)
    return tmp_path / "table"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder; return what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: object, expect: int = 0) -> str:
        capsys.readouterr()
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:
            code = end.code
        errors = capsys.readouterr().err
        assert code == expect, errors
        return errors

    return start


def refuse(run, tmp_path, *arguments, target="y"):
    before = set(tmp_path.rglob("*"))
    errors = run("fit", "table", "--target", target, "--out", "run", *arguments, expect=2)
    assert errors.count("\n") == 1, errors
    assert not {path for path in set(tmp_path.rglob("*")) - before if ".partial" not in str(path)}
    return errors


def test_a_truncated_part_is_named(table, run, tmp_path):
    part = table / "part-1.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    assert "part-1.parquet" in refuse(run, tmp_path)


def test_a_part_with_another_schema_is_named(table, run, tmp_path):
    write(table / "part-2.parquet", a=[1.0], c=[2.0], y=[3.0])
    message = refuse(run, tmp_path)
    assert "part-2.parquet" in message
    assert "'c'" in message or "'b'" in message


def test_a_missing_value_is_located(table, run, tmp_path):
    b = np.ones(900)
    b[777] = np.nan
    write(table / "part-2.parquet", a=np.arange(900.0), b=b, y=np.zeros(900))
    message = refuse(run, tmp_path, "--chunk_rows", 100)
    assert "part-2.parquet" in message
    assert "777" in message
    assert "'b'" in message


@pytest.mark.parametrize(
    ("arguments", "target", "message"),
    [
        ((), "z", "'z'"),
        (("--features", "a", "y"), "y", "'y'"),
        (("--ridge", "-1"), "y", "ridge"),
        (("--loss", "l0"), "y", "l0"),
        (("--loss", "lp:0.5"), "y", "lp"),
        (("--chunk_rows", "0"), "y", "chunk_rows"),
        (("--scheduler", "somewhere"), "y", "scheduler"),
        (("--scheduler", "tcp://127.0.0.1:9"), "y", "127.0.0.1:9"),
        (("--impute", "magic"), "y", "impute"),
        (("--workers", "0"), "y", "workers"),
        (("--coreset_size", "2", "--loss", "l1"), "y", "at least"),
    ],
)
def test_arguments_out_of_range_are_named(table, run, tmp_path, arguments, target, message):
    assert message in refuse(run, tmp_path, *arguments, target=target)


def test_a_table_that_is_not_there(run, tmp_path):
    assert "table" in refuse(run, tmp_path)


def test_a_folder_without_a_table(run, tmp_path):
    (tmp_path / "table").mkdir()
    assert "table" in refuse(run, tmp_path)


def test_what_exists_is_not_replaced(table, run, tmp_path):
    fit = ("fit", "table", "--target", "y", "--out", "run")
    run(*fit)
    before = (tmp_path / "run" / "model.pt").read_bytes()
    refused = run(*fit, "--ridge", 3, expect=2)
    assert "--force" in refused
    assert (tmp_path / "run" / "model.pt").read_bytes() == before
    run(*fit, "--ridge", 3, "--force")
    assert (tmp_path / "run" / "model.pt").read_bytes() != before


def test_a_missed_tolerance_is_written_and_told(table, run, tmp_path):
    y = np.random.default_rng(1).standard_normal(900)
    write(table / "part-2.parquet", a=np.arange(900.0), b=np.ones(900), y=y)
    missed = run("fit", "table", "--target", "y", "--out", "run", "--rtol", "1e-30", expect=1)
    assert "misses" in missed
    assert (tmp_path / "run" / "model.pt").exists()


def test_a_broken_model_is_named(table, run, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"not a model")
    result = run("predict", "model.pt", "table", "--out", "p.csv", expect=2)
    assert result.count("\n") == 1
    assert "model.pt" in result
    assert not (tmp_path / "p.csv").exists()
