"""Result tables: built once, shown in the terminal, written as CSV and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        columns: Names of the columns.
        rows: One sequence of cells a row: numbers, strings, booleans or None.
        title: Shown above the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], *, title: str = "") -> "Table":
        """Build a table from one mapping a row."""
        raise NotImplementedError

    def print(self, console: Any = None) -> None:
        """Show the table in the terminal."""
        raise NotImplementedError

    def to_csv(self) -> str:
        """Return the table as CSV, numbers in full."""
        raise NotImplementedError

    def to_markdown(self) -> str:
        """Return the table as Markdown, numbers rounded for reading."""
        raise NotImplementedError

    def save(self, stem: Path | str) -> list[Path]:
        """Write ``<stem>.csv`` and ``<stem>.md``, atomically."""
        raise NotImplementedError
