"""Write a table chunk by chunk, as Parquet or CSV: whole or not at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lemmata.apps.kit.files import new_output, write_atomically

__all__ = ["check_free", "open_writer", "to_arrow"]

_SUFFIXES = (".parquet", ".csv")


def check_free(path: Path, *, force: bool = False) -> None:
    """Raise where a file cannot be written, before work is spent on it.

    Args:
        path: The file.
        force: Whether it may be there.

    Raises:
        ValueError: Where its suffix is neither `.parquet` nor `.csv`.
        FileExistsError: Where it is there, and must not be.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"`out` (={path}) must end in {' or '.join(_SUFFIXES)}")
    if not force:
        new_output(path)


@contextmanager
def open_writer(path: Path, *, force: bool = False) -> Iterator[Callable[[Any], None]]:
    """Give a function that appends an Arrow table; the file is in its place when the block ends well.

    Args:
        path: The file, `.parquet` or `.csv`.
        force: Replace what is there, once the new file is complete.

    Yields:
        The function.

    Raises:
        ValueError: Where the suffix is another one.
        FileExistsError: Where the file exists and `force` is not given.
    """
    import pyarrow.csv
    import pyarrow.parquet

    check_free(path, force=force)
    make = pyarrow.parquet.ParquetWriter if path.suffix == ".parquet" else pyarrow.csv.CSVWriter
    opened: list[Any] = []
    with write_atomically(path) as draft:

        def append(table: Any) -> None:
            if not opened:  # the first table tells the columns
                opened.append(make(draft, table.schema))
            opened[0].write_table(table)

        try:
            yield append
        finally:
            for writer in opened:
                writer.close()


def to_arrow(values: Any) -> Any:
    """Return a column as it was read, numbers or categories, as an Arrow array; NaN is a missing value.

    Args:
        values: A NumPy array, or `Categories`.

    Returns:
        The array; categories become text.
    """
    import pyarrow as pa

    from lemmata.apps.regression_at_scale.sources.part import Categories

    if isinstance(values, Categories):
        missing = values.codes < 0
        codes = pa.array(values.codes.astype("int32"), mask=missing)
        return pa.DictionaryArray.from_arrays(codes, list(values.levels)).cast(pa.string())
    return pa.array(values, from_pandas=True)
