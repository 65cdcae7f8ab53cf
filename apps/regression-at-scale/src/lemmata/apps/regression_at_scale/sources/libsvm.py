"""LIBSVM text (`label index:value ...`), sparse rows read as dense ones.

The columns are `label` and a feature for every index up to the largest, named `f` and the index as it stands
in the file. Finding the largest index means parsing the files once when the table is opened.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lemmata.apps.regression_at_scale.sources.part import Part, Scan, Values, Where
from lemmata.apps.regression_at_scale.sources.schema import NUMERIC, Column
from lemmata.apps.regression_at_scale.sources.text import (
    line_number,
    read_range,
    record_starts,
    text_pieces,
)

__all__ = ["LABEL", "LibsvmPart", "scan_libsvm"]

LABEL = "label"
_COMMENT = ord("#")


def scan_libsvm(paths: Sequence[str], chunk_rows: int, width: int | None = None) -> list[Scan]:
    """Parse LIBSVM files once, for their indices and where their rows lie.

    Args:
        paths: The parts of one table.
        chunk_rows: Most rows of a piece.
        width: Number of features; the largest index in the files by default.

    Returns:
        A scan of each; all have the same columns.

    Raises:
        ValueError: Where a line is no LIBSVM text, or an index exceeds `width`.
    """
    if width is not None and width < 1:
        raise ValueError(f"`width` (={width}) must be at least 1")
    found = [text_pieces(path, 0, chunk_rows, quotes=False, comment=_COMMENT) for path in paths]
    low, high = 1, 0
    for path, pieces in zip(paths, found, strict=True):
        for piece in pieces:
            indices = _parse(path, piece)[0].indices
            if len(indices):
                low, high = min(low, int(indices.min())), max(high, int(indices.max()))
    last = max(high, low) if width is None else width - 1 + low
    if high > last:
        raise ValueError(f"{paths[0]}: index {high} is beyond `width` (={width})")
    names = [f"f{index}" for index in range(low, last + 1)]
    columns = (Column(LABEL, NUMERIC, "float"), *(Column(name, NUMERIC, "float") for name in names))
    return [
        Scan(LibsvmPart(path, last + 1), columns, tuple(pieces))
        for path, pieces in zip(paths, found, strict=True)
    ]


@dataclass(frozen=True)
class LibsvmPart(Part):
    """A LIBSVM file.

    Args:
        path: The file.
        end: One more than the largest index.
    """

    path: str
    end: int

    def stream(self, pieces: Sequence[Where], names: Sequence[str]) -> Iterator[dict[str, Values]]:
        """Read pieces by their byte ranges."""
        features = [name for name in names if name != LABEL]
        for piece in pieces:
            x, label = _parse(self.path, piece, self.end)
            # Dense columns of the features asked for, each one after the other.
            dense = x[:, [int(name[1:]) for name in features]].toarray(order="F")
            columns: dict[str, Values] = {name: dense[:, j] for j, name in enumerate(features)}
            if LABEL in names:
                columns[LABEL] = label
            yield columns

    def locate(self, piece: Where, row: int) -> str:
        """Tell the line of a row of a piece, as an editor counts it."""
        starts = record_starts(read_range(self.path, piece), quotes=False, comment=_COMMENT)
        return f"{self.path}: line {line_number(self.path, piece.begin + int(starts[row]))}"


def _parse(path: str, piece: Where, end: int | None = None) -> tuple[Any, Any]:
    """Parse a piece into a sparse matrix, whose columns are the file's indices, and labels."""
    from sklearn.datasets import load_svmlight_file

    try:
        x, label = load_svmlight_file(
            io.BytesIO(read_range(path, piece)), n_features=end, dtype="float64", zero_based=True
        )
    except (ValueError, OverflowError) as error:
        first = line_number(path, piece.begin)
        raise ValueError(
            f"{path}: no LIBSVM text in the {piece.rows} rows from line {first}: {error}"
        ) from error
    if x.shape[0] != piece.rows:
        raise ValueError(
            f"{path}: {x.shape[0]} rows where {piece.rows} were found; changed since it was opened?"
        )
    return x, label
