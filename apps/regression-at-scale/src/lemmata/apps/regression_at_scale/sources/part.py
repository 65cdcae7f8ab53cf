"""What every format gives: parts of a table, cut into chunks of rows that are read on their own.

A table is one or more parts (files, or Zarr stores); a chunk is a range of rows of one part and says where
they lie. Numbers come as NumPy arrays in which NaN stands for a missing value, text as codes and levels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemmata.apps.regression_at_scale.sources.schema import Column

__all__ = ["Block", "Categories", "Chunk", "Part", "Scan", "Values", "Where"]


class Where(NamedTuple):
    """Where the rows of a chunk lie.

    Attributes:
        part: Number of the part.
        row: Their first row, counted in the part from 0.
        rows: How many.
        group: Row group of a Parquet file; -1 in other formats.
        start: First row within the row group.
        begin: First byte in a text file.
        end: One past the last byte in a text file.
    """

    part: int
    row: int
    rows: int
    group: int = -1
    start: int = 0
    begin: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of rows of a table that is read at once.

    Args:
        index: Number of the chunk in its table.
        offset: Rows of the table before it.
        rows: How many rows it has.
        where: Where they lie.
    """

    index: int
    offset: int
    rows: int
    where: Where


@dataclass(frozen=True)
class Categories:
    """A column of text: `levels[codes[i]]` is the value of row i, code -1 a missing value.

    Args:
        codes: Codes, a row each.
        levels: The different values that occur in this chunk (not in the table), in no particular order.
    """

    codes: npt.NDArray[Any]
    levels: tuple[str, ...]


Values = npt.NDArray[Any] | Categories


class Part(ABC):
    """One file of a table: picklable, and small whatever the file's size."""

    path: str

    @abstractmethod
    def stream(self, pieces: Sequence[Where], names: Sequence[str]) -> Iterator[dict[str, Values]]:
        """Read pieces of this part one after another.

        Args:
            pieces: Where the rows lie, in rising order.
            names: Columns to read.

        Yields:
            Columns by name for each piece.

        Raises:
            ValueError: Where the file is not what it was when it was opened; the message names it.
            OSError: Where it cannot be read.
        """

    def locate(self, piece: Where, row: int) -> str:
        """Tell a person where row `row` of a piece lies: file, row group or line, row in the file."""
        group = "" if piece.group < 0 else f"row group {piece.group}, "
        return f"{self.path}: {group}row {piece.row + row} (counted from 0)"


class Scan(NamedTuple):
    """What opening a part finds.

    Attributes:
        part: The part.
        columns: Its columns.
        pieces: Its pieces; their part's number is filled in by the table.
    """

    part: Part
    columns: tuple[Column, ...]
    pieces: tuple[Where, ...]


@dataclass(frozen=True)
class Block:
    """The rows of one chunk as they stand in the file.

    Args:
        chunk: The chunk.
        part: Its part.
        columns: Values by name of column.
    """

    chunk: Chunk
    part: Part
    columns: dict[str, Values]

    @property
    def offset(self) -> int:
        """Rows of the table before this block."""
        return self.chunk.offset

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.chunk.rows

    def locate(self, row: int) -> str:
        """Tell a person where a row of this block lies."""
        return self.part.locate(self.chunk.where, row)

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Return a numeric column: any real type, NaN where missing."""
        values = self.columns[name]
        if isinstance(values, Categories):
            raise TypeError(f"column {name!r} holds text, not numbers")
        return values

    def categories(self, name: str) -> Categories:
        """Return a column as categories; a number's level is its shortest decimal form."""
        values = self.columns[name]
        if isinstance(values, Categories):
            return values
        found, codes = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
        missing = np.isnan(found)
        levels = tuple(np.format_float_positional(value, trim="-") for value in found[~missing])
        return Categories(np.where(missing[codes], -1, codes), levels)
