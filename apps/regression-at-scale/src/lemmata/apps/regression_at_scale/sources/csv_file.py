"""CSV files with a header, read by byte ranges that one scan of the file finds.

Fields may be quoted, quotes are doubled inside quotes, and quoted fields may hold line feeds. An empty field,
`NA`, `NaN`, `null` and the like, not in quotes, is a missing value. A column's kind is what its values in the
first few thousand rows are; the rest of the file must agree.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lemmata.apps.regression_at_scale.sources.arrow import column_of, to_values
from lemmata.apps.regression_at_scale.sources.part import Part, Scan, Values, Where
from lemmata.apps.regression_at_scale.sources.schema import CATEGORICAL, NUMERIC, OTHER, Column, check_names
from lemmata.apps.regression_at_scale.sources.text import (
    line_number,
    read_range,
    record_starts,
    text_pieces,
)

__all__ = ["CsvPart", "scan_csv"]

_HEAD = 1 << 20  # bytes from which the kinds of columns are inferred
_MARK = b"\xef\xbb\xbf"  # UTF-8 files of some programs begin with it
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def scan_csv(path: str, chunk_rows: int, delimiter: str | None = None, like: Scan | None = None) -> Scan:
    """Read a CSV file's header, infer the kinds of its columns, and find where its records lie.

    Args:
        path: The file.
        chunk_rows: Most rows of a piece.
        delimiter: What separates fields; a comma by default, a tab in `.tsv` files.
        like: The scan of the table's first part, whose kinds hold for this one.

    Returns:
        The part, its columns and pieces.

    Raises:
        ValueError: Where the file is compressed, not in UTF-8, or its header or head is broken.
    """
    usual = "\t" if path.lower().endswith(".tsv") else ","
    separator = usual if delimiter is None else delimiter
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError(f"`delimiter` (={delimiter!r}) must be one character, not a quote or line end")
    head, starts = _head(path)
    if not starts:
        raise ValueError(f"{path}: has no header")
    first = starts[1] if len(starts) > 1 else len(head)
    names = _header(path, head[starts[0] : first], separator)
    part = CsvPart(path, separator, tuple(names), {})
    if like is None:
        columns = _infer(part, head, first)
    else:
        known = {column.name: column for column in like.columns}
        columns = tuple(known.get(name, Column(name, NUMERIC, "unknown")) for name in names)
    types = {column.name: column.type if column.type == "bool" else column.kind for column in columns}
    pieces = text_pieces(path, first, chunk_rows)
    return Scan(replace(part, types=types), columns, tuple(pieces))


def _head(path: str) -> tuple[bytes, list[int]]:
    """Return the first records of a file, complete ones, and where each begins."""
    size, wanted = Path(path).stat().st_size, _HEAD
    while True:
        with Path(path).open("rb") as file:
            head = file.read(wanted)
        _check_text(path, head)
        begin = len(_MARK) if head.startswith(_MARK) else 0
        starts = [begin + int(start) for start in record_starts(head[begin:])]
        if len(head) == size:
            return head, starts
        if len(starts) > 2:
            return head[: starts[-1]], starts[:-1]
        wanted *= 4


def _check_text(path: str, head: bytes) -> None:
    """Raise where a file is compressed or encoded in another way."""
    for mark, name in _PACKED.items():
        if head.startswith(mark):
            raise ValueError(f"{path}: is compressed ({name}), so no part of it can be read alone; unpack it")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise ValueError(f"{path}: is not text in UTF-8")


def _header(path: str, line: bytes, separator: str) -> list[str]:
    """Return the names of the columns."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the header is not text in UTF-8") from error
    names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    check_names(path, names)
    return names


def _infer(part: "CsvPart", head: bytes, first: int) -> tuple[Column, ...]:
    """Return the columns with the kinds of their first values; a number where there is none."""
    import pyarrow.types as kinds

    if not head[first:].strip():
        return tuple(Column(name, NUMERIC, "unknown") for name in part.names)
    table = part.parse(head[first:], part.names, first, inferred=True)
    columns = []
    for field in table.schema:
        column = column_of(field)
        columns.append(Column(column.name, NUMERIC, "unknown") if kinds.is_null(field.type) else column)
    return tuple(columns)


@dataclass(frozen=True)
class CsvPart(Part):
    """A CSV file.

    Args:
        path: The file.
        separator: What separates fields.
        names: Names of its columns in their order.
        types: `"numeric"`, `"bool"`, `"categorical"` or `"other"` by name.
    """

    path: str
    separator: str
    names: tuple[str, ...]
    types: dict[str, str]

    def stream(self, pieces: Sequence[Where], names: Sequence[str]) -> Iterator[dict[str, Values]]:
        """Read pieces by their byte ranges."""
        for piece in pieces:
            table = self.parse(read_range(self.path, piece), names, piece.begin)
            if table.num_rows != piece.rows:
                raise ValueError(
                    f"{self.path}: the lines from {line_number(self.path, piece.begin)} on hold "
                    f"{table.num_rows} rows, not {piece.rows}: a quote stands within a field without quotes"
                )
            columns = {name: to_values(table.column(name)) for name in names}
            del table
            yield columns
            del columns  # freed before the next piece is read

    def locate(self, piece: Where, row: int) -> str:
        """Tell the line of a row of a piece, as an editor counts it."""
        starts = record_starts(read_range(self.path, piece))
        return f"{self.path}: line {line_number(self.path, piece.begin + int(starts[row]))}"

    def parse(self, data: bytes, names: Sequence[str], begin: int, *, inferred: bool = False) -> Any:
        """Parse records.

        Args:
            data: Their text.
            names: Columns to keep.
            begin: Byte of the file at which they begin.
            inferred: Whether types are inferred, in place of those that are known.

        Returns:
            An Arrow table.

        Raises:
            ValueError: Naming file, line and column.
        """
        import pyarrow as pa
        import pyarrow.csv

        types = {} if inferred else {name: _arrow_type(self.types[name]) for name in names}
        try:
            return pyarrow.csv.read_csv(
                pa.BufferReader(data),
                # One block: rows are then counted from the first, and columns come in one piece.
                pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=len(data) + 1, column_names=list(self.names)
                ),
                pyarrow.csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=types,
                    include_columns=list(names),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(self._told(str(error).splitlines()[0], data, begin)) from error

    def _told(self, reason: str, data: bytes, begin: int) -> str:
        """Rewrite Arrow's message: the file's line for the piece's row, a column's name for its number."""
        match = re.search(r"Row #(\d+): ", reason)
        if match is None:
            return f"{self.path}: {reason}"
        starts = record_starts(data)
        row = min(int(match[1]) - 1, len(starts) - 1)
        line = line_number(self.path, begin + int(starts[row]))
        reason = reason.replace(match[0], "")
        column = re.search(r"In CSV column #(\d+): ", reason)
        if column is not None:
            named = self.names[int(column[1])]
            reason = reason.replace(column[0], "")
            return f"{self.path}: line {line}, column {named!r}: {reason}"
        return f"{self.path}: line {line}: {reason}"


def _arrow_type(kind: str) -> Any:
    """Return the Arrow type that a column of a kind is read as."""
    import pyarrow as pa

    if kind == CATEGORICAL:
        return pa.dictionary(pa.int32(), pa.string())
    return {NUMERIC: pa.float64(), "bool": pa.bool_(), OTHER: pa.string()}[kind]
