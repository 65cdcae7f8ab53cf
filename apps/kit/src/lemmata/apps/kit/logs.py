"""A CSV log that survives kill and resume: whole rows, each step once."""

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lemmata.apps.kit.files import write_atomically

__all__ = ["CsvLogger"]


class CsvLogger(Logger):
    """Logs metrics to `metrics.csv` in a run's folder, numbers in full.

    Lightning's own `CSVLogger` deletes an earlier log of the folder. This one keeps what a resumed run will
    not repeat: `rewind`, which `LastCheckpoint` calls as the training
    starts, drops the rows from the next step on, whole or torn by a kill. A new column rewrites the file
    atomically; rows are otherwise appended.

    Args:
        folder: The run's folder.
        flush_every: Rows held back between two writes; a checkpoint writes them too.

    Raises:
        ValueError: Where `flush_every` is not positive.
    """

    def __init__(self, folder: Path | str, *, flush_every: int = 100) -> None:
        super().__init__()
        if flush_every < 1:
            raise ValueError(f"`flush_every` (={flush_every}) must be a positive integer")
        self.path = Path(folder) / "metrics.csv"
        self.flush_every = flush_every
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []
        self._begun = False

    @property
    def name(self) -> str:
        """No name: the folder is the run's."""
        return ""

    @property
    def version(self) -> str:
        """No version: the folder is the run's."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return self.save_dir

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's folder holds `config.yaml`, and checkpoints hold hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row: the step, and the metrics as Python numbers."""
        row = {name: _number(value) for name, value in metrics.items()}
        self._pending.append({"step": step, **row})
        if len(self._pending) >= self.flush_every:
            self.save()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Go on with a log of which the rows from `step` on will come again; with 0, begin anew."""
        kept, self._columns = self._read(step) if step > 0 else ([], [])
        self._begun = True
        if kept:
            self._rewrite(kept)
        else:
            self._columns = []
            self.path.unlink(missing_ok=True)

    @rank_zero_only
    def save(self) -> None:
        """Write the rows held back."""
        rows, self._pending = self._pending, []
        if not rows:
            return
        if not self._begun:
            self.rewind(0)
        new = [
            name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns
        ]
        if new:
            before, _ = self._read(None)
            self._columns = sorted([*self._columns, *new], key=_place)
            self._rewrite([*before, *rows])
            return
        with self.path.open("ab") as file:
            file.write(self._text(rows).encode())
            file.flush()
            os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, *_: Any) -> None:
        """Write the rows held back."""
        self.save()

    def _read(self, step: int | None) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the whole rows before a step (all where None), and the columns."""
        if not self.path.is_file():
            return [], []
        text = self.path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        columns = list(reader.fieldnames or [])
        rows = [dict(row) for row in reader if None not in row.values() and row.get("step")]
        return [row for row in rows if step is None or int(row["step"]) < step], columns

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Replace the file."""
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(self._columns)
        with write_atomically(self.path) as draft:
            draft.write_text(header.getvalue() + self._text(rows), encoding="utf-8")

    def _text(self, rows: list[dict[str, Any]]) -> str:
        """Return rows as CSV; a metric that a row lacks is empty."""
        lines = io.StringIO()
        csv.DictWriter(lines, self._columns, restval="", lineterminator="\n").writerows(rows)
        return lines.getvalue()


def _number(value: Any) -> Any:
    """Return a tensor of one element as a Python number."""
    return value.item() if isinstance(value, Tensor) else value


def _place(name: str) -> tuple[int, str]:
    """Sort `step` and `epoch` first, then by name, whatever was logged first."""
    return ({"step": 0, "epoch": 1}.get(name, 2), name)
