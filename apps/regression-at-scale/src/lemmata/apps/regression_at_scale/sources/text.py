"""Text files cut at the ends of their lines: one scan finds byte ranges that are read on their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemmata.apps.regression_at_scale.sources.part import Where

__all__ = ["line_number", "read_range", "record_starts", "text_pieces"]

_STEP = 1 << 23  # bytes scanned at a time
_LONGEST = 1 << 26  # bytes of the longest line; a quote that is never closed ends here, not in all memory
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'


class _Lines(NamedTuple):
    """Lines of a buffer.

    Attributes:
        starts: First byte of each.
        ends: Byte of the line feed that ends it, or the end of the buffer.
    """

    starts: npt.NDArray[Any]
    ends: npt.NDArray[Any]


def text_pieces(
    path: str, begin: int, chunk_rows: int, *, quotes: bool = True, comment: int = -1
) -> list[Where]:
    """Cut a text file into ranges of `chunk_rows` records.

    Args:
        path: The file.
        begin: Byte at which its first record begins.
        chunk_rows: Records a range.
        quotes: Whether a line feed between quotes belongs to the record.
        comment: Byte that begins a line which is no record; -1 for none.

    Returns:
        The ranges. Empty lines are no records.

    Raises:
        ValueError: Where a quote is never closed.
    """
    pieces: list[Where] = []
    first, row, rows = begin, 0, 0
    for starts, ends in _records(path, begin, quotes, comment):
        taken = 0
        while rows + len(starts) - taken >= chunk_rows:
            taken += chunk_rows - rows
            end = int(ends[taken - 1]) + 1
            pieces.append(Where(0, row, chunk_rows, begin=first, end=end))
            first, row, rows = end, row + chunk_rows, 0
        rows += len(starts) - taken
    if rows:
        pieces.append(Where(0, row, rows, begin=first, end=Path(path).stat().st_size))
    return pieces


def read_range(path: str, piece: Where) -> bytes:
    """Read the bytes of a piece."""
    with Path(path).open("rb") as file:
        file.seek(piece.begin)
        data = file.read(piece.end - piece.begin)
    if len(data) < piece.end - piece.begin:
        raise ValueError(f"{path}: truncated since it was opened")
    return data


def record_starts(data: bytes, *, quotes: bool = True, comment: int = -1) -> npt.NDArray[Any]:
    """Return the first byte of each record of a buffer that begins with one."""
    view = np.frombuffer(data, np.uint8)
    return _of_records(view, _lines(view, quotes=quotes, last=True), comment).starts


def line_number(path: str, byte: int) -> int:
    """Return the number of the line, counted from 1, in which a byte of a file lies."""
    count, left = 1, byte
    with Path(path).open("rb") as file:
        while left and (data := file.read(min(left, _STEP))):
            count += data.count(b"\n")
            left -= len(data)
    return count


def _records(path: str, begin: int, quotes: bool, comment: int) -> Iterator[_Lines]:
    """Scan a file for its records, a buffer at a time."""
    held, base = b"", begin
    with Path(path).open("rb") as file:
        file.seek(begin)
        while True:
            data = file.read(_STEP)
            # A line that is not complete is scanned again with what follows, from its beginning.
            buffer = held + data
            view = np.frombuffer(buffer, np.uint8)
            lines = _lines(view, quotes=quotes, last=not data)
            found = _of_records(view, lines, comment)
            yield _Lines(found.starts + base, found.ends + base)
            done = int(lines.ends[-1]) + 1 if len(lines.ends) else 0
            unclosed = not data and quotes and buffer.count(b'"') % 2
            if unclosed or len(buffer) - done > _LONGEST:
                line = line_number(path, base)
                raise ValueError(f"{path}: a record that begins in or after line {line} has an open quote")
            if not data:
                return
            held, base = buffer[done:], base + done


def _lines(view: npt.NDArray[Any], *, quotes: bool, last: bool) -> _Lines:
    """Find the lines of a buffer; with `last`, what follows the last line feed is a line."""
    ends = np.flatnonzero(view == _NEWLINE)
    marks = np.flatnonzero(view == _QUOTE) if quotes else np.empty(0, np.int64)
    if len(marks):
        # A quote inside quotes is written twice, so a line feed is outside where the count before it is even.
        ends = ends[np.searchsorted(marks, ends) % 2 == 0]
    starts = np.concatenate(([0], ends + 1))
    if last and starts[-1] < len(view):
        ends = np.append(ends, len(view))
    return _Lines(starts[: len(ends)], ends)


def _of_records(view: npt.NDArray[Any], lines: _Lines, comment: int) -> _Lines:
    """Leave out lines that are empty or a comment."""
    starts, ends = lines
    if not len(starts):
        return lines
    first = view[np.minimum(starts, len(view) - 1)]
    kept = (ends > starts) & ~((first == _RETURN) & (ends == starts + 1)) & (first != comment)
    return lines if kept.all() else _Lines(starts[kept], ends[kept])
