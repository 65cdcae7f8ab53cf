"""Parquet files, row group by row group; a big row group is read in slices.

Reading a slice decodes the pages before it in its row group. Pieces that follow one another are therefore
read in one stream, which decodes each page once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lemmata.apps.regression_at_scale.sources.arrow import column_of, to_values
from lemmata.apps.regression_at_scale.sources.part import Part, Scan, Values, Where
from lemmata.apps.regression_at_scale.sources.schema import CATEGORICAL, check_names

__all__ = ["ParquetPart", "scan_parquet"]

_BUFFER = 1 << 18  # bytes read at a time of each column of a sliced row group, in place of all of it


def scan_parquet(path: str, chunk_rows: int) -> Scan:
    """Read a Parquet file's footer.

    Args:
        path: The file.
        chunk_rows: Most rows of a piece.

    Returns:
        The part, its columns and pieces, none of which straddles a row group.

    Raises:
        ValueError: Where the file is truncated or no Parquet file, or two columns share a name.
    """
    import pyarrow.parquet as pq

    with _naming(path), pq.ParquetFile(path, memory_map=False) as file:
        schema, metadata = file.schema_arrow, file.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    check_names(path, schema.names)
    columns = tuple(column_of(field) for field in schema)
    text = tuple(column.name for column in columns if column.kind == CATEGORICAL)
    return Scan(ParquetPart(path, text, sum(rows), chunk_rows), columns, tuple(_pieces(rows, chunk_rows)))


def _pieces(group_rows: list[int], chunk_rows: int) -> Iterator[Where]:
    """Cut row groups into pieces."""
    row = 0
    for group, rows in enumerate(group_rows):
        for start in range(0, rows, chunk_rows):
            yield Where(0, row + start, min(chunk_rows, rows - start), group, start)
        row += rows


@dataclass(frozen=True)
class ParquetPart(Part):
    """A Parquet file.

    Args:
        path: The file.
        text: Names of the columns of text, which are read as dictionaries.
        rows: Its rows.
        chunk_rows: Most rows of a piece.
    """

    path: str
    text: tuple[str, ...]
    rows: int
    chunk_rows: int

    def stream(self, pieces: Sequence[Where], names: Sequence[str]) -> Iterator[dict[str, Values]]:
        """Read pieces, each row group in one go."""
        import pyarrow.parquet as pq

        text = [name for name in names if name in self.text]
        with _naming(self.path):
            sliced = any(piece.start or piece.rows == self.chunk_rows for piece in pieces)
            file = pq.ParquetFile(
                self.path,
                memory_map=False,
                pre_buffer=False,
                read_dictionary=text,
                buffer_size=_BUFFER if sliced else 0,
            )
        with file:
            if file.metadata.num_rows != self.rows:
                raise ValueError(f"{self.path}: has changed since it was opened")
            for group, run in groupby(pieces, key=lambda piece: piece.group):
                with _naming(f"{self.path}: row group {group}"):
                    tables = self._tables(file, group, list(run), list(names))
                while True:
                    with _naming(f"{self.path}: row group {group}"):
                        table = next(tables, None)
                        if table is None:
                            break
                        columns = {name: to_values(table.column(name)) for name in names}
                    del table
                    yield columns
                    del columns  # freed before the next piece is read

    def _tables(self, file: Any, group: int, run: list[Where], names: list[str]) -> Iterator[Any]:
        """Read pieces of one row group as Arrow tables."""
        rows = file.metadata.row_group(group).num_rows
        if len(run) == 1 and run[0].rows == rows:
            yield file.read_row_group(group, columns=names, use_threads=False)
            return
        batches = file.iter_batches(self.chunk_rows, row_groups=[group], columns=names, use_threads=False)
        yield from _cut(batches, run)


def _cut(batches: Iterator[Any], run: list[Where]) -> Iterator[Any]:
    """Cut a row group's batches, of whatever length they come, into the pieces asked for."""
    import pyarrow as pa

    position, batch = 0, None
    for piece in run:
        held: list[Any] = []
        missing = piece.rows
        while missing:
            if batch is None or not batch.num_rows:
                batch = next(batches, None)
                if batch is None:
                    raise ValueError("fewer rows than its footer tells")
            skip = min(max(piece.start - position, 0), batch.num_rows)
            taken = batch.slice(skip, missing) if skip < batch.num_rows else batch.slice(0, 0)
            used = skip + taken.num_rows
            position, batch = position + used, batch.slice(used)
            if taken.num_rows:
                held.append(taken)
                missing -= taken.num_rows
        yield pa.Table.from_batches(held)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turn Arrow's errors into ones that name the file."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{what}: not a readable Parquet file ({reason})") from error
