"""Result tables: built once, shown in the terminal, written as CSV and Markdown."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from lemmata.apps.kit.files import write_atomically

__all__ = ["Table", "format_cell"]


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        columns: Names of the columns, each once.
        rows: One sequence of cells a row: numbers, strings, booleans, or None for a cell without a value.
        title: Shown above the table.

    Raises:
        ValueError: Where a name comes twice, or a row has more or fewer cells than there are columns.

    Examples:
        >>> table = Table(["resolution", "error"], [[16, 0.012345678], [64, None]], title="Darcy")
        >>> print(table.to_markdown(), end="")
        **Darcy**
        <BLANKLINE>
        | resolution | error |
        |---:|---:|
        | 16 | 0.01235 |
        | 64 | – |
        >>> print(table.to_csv(), end="")
        resolution,error
        16,0.012345678
        64,
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"`columns` (={list(self.columns)}) must each have their own name")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells, expected {len(self.columns)}")

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], *, title: str = "") -> "Table":
        """Build a table from one mapping a row; columns in the order they first appear.

        Examples:
            >>> Table.from_records([{"n": 1}, {"n": 2, "error": 0.5}]).rows
            [[1, None], [2, 0.5]]
        """
        columns = list(dict.fromkeys(name for record in records for name in record))
        return cls(columns, [[record.get(name) for name in columns] for record in records], title)

    def column(self, name: str) -> list[Any]:
        """Return a column's cells."""
        place = list(self.columns).index(name)
        return [row[place] for row in self.rows]

    def print(self, console: Any = None) -> None:
        """Show the table in the terminal, on a `rich.console.Console` where given."""
        import rich.console
        import rich.markup
        import rich.table

        table = rich.table.Table(title=self.title or None, title_justify="left", title_style="bold")
        for name in self.columns:
            table.add_column(rich.markup.escape(name), justify="right" if self._is_numeric(name) else "left")
        for row in self.rows:
            table.add_row(*(rich.markup.escape(format_cell(cell)) for cell in row))
        (console or rich.console.Console()).print(table)

    def to_csv(self) -> str:
        """Return the table as CSV, numbers in full, a missing cell empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if cell is None else _plain(cell) for cell in row] for row in self.rows])
        return text.getvalue()

    def to_markdown(self) -> str:
        """Return the table as Markdown, numbers rounded for reading."""
        lines = [f"**{self.title}**\n"] if self.title else []
        lines.append(_row(self.columns))
        lines.append(
            "|" + "|".join("---:" if self._is_numeric(name) else "---" for name in self.columns) + "|"
        )
        lines += [_row([format_cell(cell) for cell in row]) for row in self.rows]
        return "\n".join(lines) + "\n"

    def save(self, stem: Path | str) -> list[Path]:
        """Write `<stem>.csv` and `<stem>.md`, atomically, and return their paths."""
        paths = []
        for suffix, text in ((".csv", self.to_csv()), (".md", self.to_markdown())):
            path = Path(f"{stem}{suffix}")
            with write_atomically(path) as draft:
                draft.write_text(text, encoding="utf-8")
            paths.append(path)
        return paths

    def _is_numeric(self, name: str) -> bool:
        """Tell whether a column holds numbers and nothing else."""
        cells = [cell for cell in self.column(name) if cell is not None]
        return bool(cells) and all(_is_number(cell) for cell in cells)


def format_cell(cell: Any) -> str:
    """Return a cell for reading: four significant digits, integers in full, a dash for a missing one.

    Examples:
        >>> [format_cell(x) for x in (0.00012346, 1234567, 1234.5678, 2.5e-9, True, None, "fno")]
        ['0.0001235', '1,234,567', '1,235', '2.5e-09', 'yes', '–', 'fno']
    """
    if cell is None:
        return "–"
    cell = _plain(cell)
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        if math.isfinite(cell) and 1000 <= abs(cell) < 1e7:
            return f"{cell:,.0f}"
        return f"{cell:.4g}"
    return str(cell)


def _plain(cell: Any) -> Any:
    """Return numpy's and torch's scalars as Python's."""
    return cell.item() if hasattr(cell, "item") else cell


def _is_number(cell: Any) -> bool:
    """Tell a number from a string or a truth value."""
    return isinstance(_plain(cell), Real) and not isinstance(_plain(cell), bool)


def _row(cells: Sequence[str]) -> str:
    """Return a row in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
