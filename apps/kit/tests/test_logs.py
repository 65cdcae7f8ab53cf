"""The CSV log holds whole rows, each step once."""

import csv

import pytest
import torch

from lemmata.apps.kit.logs import CsvLogger


def rows(logger):
    return list(csv.DictReader(logger.path.read_text().splitlines()))


def test_rows_are_written_in_full_and_columns_may_come_later(tmp_path):
    logger = CsvLogger(tmp_path, flush_every=2)
    for step in range(3):
        logger.log_metrics({"loss": torch.tensor(0.1, dtype=torch.float64), "epoch": 0}, step)
    logger.log_metrics({"val": 0.1 + 0.2}, 2)
    logger.finalize("success")
    assert logger.path.read_text().splitlines() == [
        "step,epoch,loss,val",
        "0,0,0.1,",
        "1,0,0.1,",
        "2,0,0.1,",
        "2,,,0.30000000000000004",
    ]


def test_rewinding_drops_later_and_torn_rows(tmp_path):
    logger = CsvLogger(tmp_path)
    for step in range(5):
        logger.log_metrics({"loss": step / 3}, step)
    logger.save()
    with logger.path.open("a") as file:
        file.write("2,0.")
    again = CsvLogger(tmp_path)
    again.rewind(3)
    assert [row["step"] for row in rows(again)] == ["0", "1", "2"]
    again.log_metrics({"loss": 9.0}, 3)
    again.save()
    assert [row["loss"] for row in rows(again)] == [str(0 / 3), str(1 / 3), str(2 / 3), "9.0"]


def test_a_new_run_begins_anew(tmp_path):
    first = CsvLogger(tmp_path)
    first.log_metrics({"old": 1.0}, 0)
    first.save()
    second = CsvLogger(tmp_path)
    second.log_metrics({"new": 2.0}, 0)
    second.save()
    assert rows(second) == [{"step": "0", "new": "2.0"}]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"`flush_every` \(=0\)"):
        CsvLogger(tmp_path, flush_every=0)
