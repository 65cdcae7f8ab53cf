"""Tables larger than memory: files of one format, opened by their footers and read chunk by chunk."""

import bisect
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lemmata.apps.regression_at_scale.sources.csv_file import scan_csv
from lemmata.apps.regression_at_scale.sources.finding import find_parts
from lemmata.apps.regression_at_scale.sources.libsvm import scan_libsvm
from lemmata.apps.regression_at_scale.sources.npy import scan_npy
from lemmata.apps.regression_at_scale.sources.parquet import scan_parquet
from lemmata.apps.regression_at_scale.sources.part import Block, Chunk, Part, Scan
from lemmata.apps.regression_at_scale.sources.schema import Column
from lemmata.apps.regression_at_scale.sources.zarr_array import scan_zarr

__all__ = ["Table", "open_table"]


@dataclass(frozen=True)
class Table:
    """A table in one or more files; it holds where the rows lie, not the rows, and is made to be sent.

    Args:
        parts: Its files.
        columns: Columns, the same in every part.
        chunks: Ranges of rows that are read at once, in the order of the rows.
        rows: Number of rows.
        bytes: Size of the files.
        chunk_rows: Most rows of a chunk.
        format: The files' format.
        fingerprint: Hash of the files' names, sizes and times of modification, and of the chunks and columns:
            another fingerprint is other data, or the same cut differently.
    """

    parts: tuple[Part, ...]
    columns: tuple[Column, ...]
    chunks: tuple[Chunk, ...]
    rows: int
    bytes: int
    chunk_rows: int
    format: str
    fingerprint: str

    def read(self, chunk: Chunk, columns: Sequence[str] | None = None) -> Block:
        """Read one chunk.

        Args:
            chunk: One of `chunks`.
            columns: Names of the columns to read; all by default.

        Returns:
            The chunk's rows.
        """
        return next(self.stream([chunk], columns))

    def locate(self, row: int) -> str:
        """Tell a person where a row of the table lies: file, row group or line, row in the file."""
        chunk = self.chunks[bisect.bisect_right(self.chunks, row, key=lambda chunk: chunk.offset) - 1]
        return self.parts[chunk.where.part].locate(chunk.where, row - chunk.offset)

    def stream(self, chunks: Sequence[Chunk], columns: Sequence[str] | None = None) -> Iterator[Block]:
        """Read chunks one after another; cheaper than one by one where they lie in one row group.

        Args:
            chunks: Some of `chunks`, in their order.
            columns: Names of the columns to read; all by default.

        Yields:
            The rows of each chunk.
        """
        names = [column.name for column in self.columns] if columns is None else list(columns)
        for number, run in groupby(chunks, key=lambda chunk: chunk.where.part):
            part, held = self.parts[number], list(run)
            pieces = part.stream([chunk.where for chunk in held], names)
            for chunk in held:
                yield Block(chunk, part, next(pieces))


def open_table(
    paths: str | Path | Sequence[str | Path],
    *,
    chunk_rows: int = 65536,
    delimiter: str | None = None,
    format: str | None = None,  # noqa: A002 (the option's name on the command line)
    width: int | None = None,
) -> Table:
    """Open a table that may be larger than memory: nothing but headers, footers and indices is read.

    Args:
        paths: Files, patterns (`"data/*.parquet"`), folders of parts, or Zarr stores; all of one format.
            Parts of a pattern or folder are taken in the order of their names, numbers in them by value.
        chunk_rows: Most rows that are read at once. Reading a chunk takes a small multiple of
            `chunk_rows * columns * 8` bytes.
        delimiter: What separates the fields of a CSV file; a comma by default, a tab in `.tsv` files.
        format: `"parquet"`, `"csv"`, `"npy"`, `"zarr"` or `"libsvm"`, where names do not tell.
        width: Number of features of a LIBSVM table, where not all of them occur in it.

    Returns:
        The table.

    Raises:
        ValueError: Where formats are mixed, a file is empty or broken, parts differ in their columns, or
            there are no rows; the message names the file.
        FileNotFoundError: Where there is nothing at a path.
    """
    if chunk_rows < 1:
        raise ValueError(f"`chunk_rows` (={chunk_rows}) must be at least 1")
    found, files = find_parts([paths] if isinstance(paths, str | Path) else list(paths), format)
    if delimiter is not None and found != "csv":
        raise ValueError(f"`delimiter` (={delimiter!r}) is for CSV files; {files[0]} is {found}")
    if width is not None and found != "libsvm":
        raise ValueError(f"`width` (={width}) is for LIBSVM files; {files[0]} is {found}")
    scans = _scan(found, files, chunk_rows, delimiter, width)
    columns = _shared_columns(scans)
    chunks = tuple(_chunks(scans))
    rows = sum(chunk.rows for chunk in chunks)
    if not rows:
        raise ValueError(
            f"{files[0]}: holds no rows" + ("" if len(files) == 1 else "; nor do the other parts")
        )
    sizes = [_stored(Path(path)) for path in files]
    told = [found, chunk_rows, [(c.name, c.kind, c.type) for c in columns], sizes, [c.rows for c in chunks]]
    fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    size = sum(file[1] for part in sizes for file in part)
    parts = tuple(scan.part for scan in scans)
    return Table(parts, columns, chunks, rows, size, chunk_rows, found, fingerprint)


_SCANS: dict[str, Callable[[str, int], Scan]] = {
    "parquet": scan_parquet,
    "npy": scan_npy,
    "zarr": scan_zarr,
}


def _scan(
    found: str, files: list[str], chunk_rows: int, delimiter: str | None, width: int | None
) -> list[Scan]:
    """Open every part."""
    if found == "libsvm":
        return scan_libsvm(files, chunk_rows, width)
    if found == "csv":
        first = scan_csv(files[0], chunk_rows, delimiter)
        return [first, *(scan_csv(path, chunk_rows, delimiter, first) for path in files[1:])]
    return [_SCANS[found](path, chunk_rows) for path in files]


def _shared_columns(scans: list[Scan]) -> tuple[Column, ...]:
    """Return the columns of the first part; raise where another part has other names or kinds."""
    first = scans[0]
    expected = {column.name: column for column in first.columns}
    for scan in scans[1:]:
        path = scan.part.path
        found = {column.name: column for column in scan.columns}
        for name, column in found.items():
            if name not in expected:
                raise ValueError(f"{path}: column {name!r} is not in {first.part.path}")
            if column.kind != (wanted := expected[name]).kind:
                raise ValueError(
                    f"{path}: column {name!r} is {column.type}, but {wanted.type} in {first.part.path}"
                )
        if missing := [name for name in expected if name not in found]:
            raise ValueError(f"{path}: lacks column {missing[0]!r}, which {first.part.path} has")
    return first.columns


def _chunks(scans: list[Scan]) -> Iterator[Chunk]:
    """Number the pieces of all parts."""
    index = offset = 0
    for number, scan in enumerate(scans):
        for piece in scan.pieces:
            yield Chunk(index, offset, piece.rows, piece._replace(part=number))
            index, offset = index + 1, offset + piece.rows


def _stored(path: Path) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of modification of a file, or of the files of a store."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    facts = [(file.relative_to(root).as_posix(), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in facts]
