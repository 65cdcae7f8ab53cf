"""Tables keep full numbers in CSV and readable ones elsewhere."""

import csv
import io

import numpy as np
import pytest
import torch
from rich.console import Console

from lemmata.apps.kit.tables import Table, format_cell


def test_csv_gives_every_number_back():
    values = [0.1 + 0.2, 1e-300, 123456789.123456789, float("inf")]
    table = Table(["x", "note"], [[value, 'a "quoted", | cell'] for value in values])
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [float(row["x"]) for row in rows] == values
    assert rows[0]["note"] == 'a "quoted", | cell'


def test_scalars_of_numpy_and_torch_are_numbers():
    table = Table(["n", "x"], [[np.int64(3), torch.tensor(0.5)]])
    assert table.to_csv() == "n,x\n3,0.5\n"
    assert "| 3 | 0.5 |" in table.to_markdown()


def test_cells_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="row 1 has 1 cells, expected 2"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="own name"):
        Table(["a", "a"], [])


def test_print_shows_every_cell(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    Table(["model", "error"], [["[b]fno[/b]", 0.0123456]], title="Darcy").print(console)
    text = console.file.getvalue()
    assert "[b]fno[/b]" in text
    assert "0.01235" in text
    assert "Darcy" in text


def test_save_writes_both(tmp_path):
    table = Table.from_records([{"a": 1}, {"a": 2, "b": True}])
    assert [path.name for path in table.save(tmp_path / "t")] == ["t.csv", "t.md"]
    assert (tmp_path / "t.md").read_text() == table.to_markdown()


@pytest.mark.parametrize(
    ("cell", "text"), [(float("nan"), "nan"), (-12345.6, "-12,346"), (0, "0"), (1e12, "1e+12")]
)
def test_format_cell(cell, text):
    assert format_cell(cell) == text
