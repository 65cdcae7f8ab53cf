"""NumPy's `.npy` files: a matrix whose columns are named `c0`, `c1`, ...

Rows are read at their offset into memory that is freed with the chunk; nothing is memory-mapped, so that the
process never holds more of the file than a chunk. In Fortran order each column of a chunk is a read of its
own; in C order all columns are read, whatever is asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lemmata.apps.regression_at_scale.sources.part import Part, Scan, Values, Where
from lemmata.apps.regression_at_scale.sources.schema import NUMERIC, Column

__all__ = ["NpyPart", "even_pieces", "scan_npy"]


def scan_npy(path: str, chunk_rows: int) -> Scan:
    """Read an `.npy` file's header.

    Args:
        path: The file.
        chunk_rows: Most rows of a piece.

    Returns:
        The part, its columns and pieces.

    Raises:
        ValueError: Where it is no `.npy` file, shorter than its header says, not a matrix (or a vector, which
            counts as one column), or not of real numbers.
    """
    with Path(path).open("rb") as file:
        try:
            shape, fortran, dtype = _header(file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a .npy file ({str(error).splitlines()[0]})") from error
        begin = file.tell()
    if dtype.kind not in "fiub":
        raise ValueError(f"{path}: holds {dtype}; expected real numbers")
    if len(shape) not in {1, 2} or 0 in shape[1:]:
        raise ValueError(f"{path}: holds an array of shape {shape}; expected (rows, columns)")
    rows, columns = shape if len(shape) == 2 else (shape[0], 1)
    held, expected = Path(path).stat().st_size - begin, rows * columns * dtype.itemsize
    if held < expected:
        raise ValueError(f"{path}: truncated; shape {shape} of {dtype} takes {expected} bytes, found {held}")
    part = NpyPart(path, dtype.str, rows, columns, begin, fortran and columns > 1)
    named = tuple(Column(f"c{j}", NUMERIC, dtype.name) for j in range(columns))
    return Scan(part, named, even_pieces(rows, chunk_rows))


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def even_pieces(rows: int, chunk_rows: int) -> tuple[Where, ...]:
    """Cut rows into pieces of `chunk_rows`, the last one of what is left."""
    return tuple(Where(0, row, min(chunk_rows, rows - row)) for row in range(0, rows, chunk_rows))


@dataclass(frozen=True)
class NpyPart(Part):
    """An `.npy` file.

    Args:
        path: The file.
        dtype: NumPy's name of its type, byte order included.
        rows: Its rows.
        width: Its columns.
        begin: Byte at which the numbers begin.
        fortran: Whether columns lie one after another, not rows.
    """

    path: str
    dtype: str
    rows: int
    width: int
    begin: int
    fortran: bool

    def stream(self, pieces: Sequence[Where], names: Sequence[str]) -> Iterator[dict[str, Values]]:
        """Read pieces at their offsets."""
        numbers = {name: int(name[1:]) for name in names}
        with Path(self.path).open("rb", buffering=0) as file:
            for piece in pieces:
                if self.fortran:
                    yield {name: self._column(file, piece, j) for name, j in numbers.items()}
                else:
                    block = self._read(file, piece.row * self.width, piece.rows * self.width)
                    block = block.reshape(piece.rows, self.width)
                    yield {name: block[:, j] for name, j in numbers.items()}

    def _column(self, file: Any, piece: Where, j: int) -> npt.NDArray[Any]:
        """Read one column of a piece of a file in Fortran order."""
        return self._read(file, j * self.rows + piece.row, piece.rows)

    def _read(self, file: Any, first: int, count: int) -> npt.NDArray[Any]:
        """Read `count` numbers, the first one being number `first` of the file."""
        values = np.empty(count, dtype=self.dtype)
        view = values.view(np.uint8).data
        file.seek(self.begin + first * values.itemsize)
        done = 0
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                raise ValueError(f"{self.path}: truncated since it was opened")
            done += got
        return values
