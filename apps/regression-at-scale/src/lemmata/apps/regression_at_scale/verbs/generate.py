"""Generate a regression problem of any size with a known answer, in bounded memory.

The rows are the same in whatever format and number of files. Files are written into `OUT.partial`, which
takes the place of `OUT` at the end.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lemmata.apps.kit.files import new_output, read_json, write_atomically, write_json
from lemmata.apps.regression_at_scale.problem import Floats, Problem, level_name

__all__ = ["generate"]

_STORED = 8192  # rows of a Zarr chunk: readers that want fewer rows than a block unpack little more
_FORMATS = ("parquet", "npy", "csv", "zarr")


def generate(
    out: Path,
    *,
    rows: int = 1_000_000,
    columns: int = 60,
    condition: float = 1e4,
    noise: float = 0.1,
    outliers: float = 0.0,
    heavy_rows: int = 0,
    format: str = "parquet",  # noqa: A002 (the option's name on the command line)
    files: int = 4,
    dtype: str = "float32",
    categorical: int = 0,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Generate a table with features x0, x1, ..., a target y and a known answer.

    A killed run is continued by the same call: files that are complete are kept. `truth.json` beside the
    files holds coefficients, intercept and the deviation of the noise.

    Args:
        out: Folder to write.
        rows: Number of rows.
        columns: Number of numeric features.
        condition: Ratio of the largest to the smallest singular value of the features.
        noise: Standard deviation of the noise, in standard deviations of the signal.
        outliers: Share of the rows whose target has a gross error, a hundred times the signal in size.
        heavy_rows: Rows, spread evenly, whose features are a hundred times as large.
        format: parquet, npy (the target is the last column), csv, or zarr (arrays x and y in data.zarr).
        files: Number of files; zarr makes one store.
        dtype: Type of the numbers, float32 or float64.
        categorical: Number of columns of text k0, k1, ... with levels that shift the target (parquet, csv).
        seed: Seed of the table.
        force: Replace what is at `out`, or an unfinished run of other arguments.

    Returns:
        The folder.

    Raises:
        ValueError: Where an argument is out of range.
        FileExistsError: Where something is at `out`, or an unfinished run of other arguments, and `force` is
            not given.
        OSError: Where the disk cannot be written.

    Examples:
        >>> import tempfile
        >>> out = generate(Path(tempfile.mkdtemp()) / "table", rows=1000, columns=3, files=2)
        >>> sorted(file.name for file in out.iterdir())
        ['part-00000.parquet', 'part-00001.parquet', 'truth.json']
    """
    started = time.perf_counter()
    problem = Problem(rows, columns, condition, noise, outliers, heavy_rows, dtype, categorical, seed)
    _check_layout(problem, format, files)
    out = Path(out)
    if not force:
        _check_free(out)
    partial = out.with_name(f"{out.name}.partial")
    request = {"format": format, "files": files, **asdict(problem)}
    _begin(partial, request, force=force)
    with _progress(rows) as advance:
        if format == "zarr":
            _write_zarr(problem, partial / "data.zarr", advance)
        else:
            for number in range(files):
                first, last = rows * number // files, rows * (number + 1) // files
                file = partial / f"part-{number:05d}.{format}"
                if file.exists():
                    advance(last - first)
                else:
                    _write_part(problem, file, first, last, advance)
    write_json(partial / "truth.json", problem.truth(format))
    (partial / "request.json").unlink()
    new_output(out, force=force)
    if out.exists():  # an empty folder
        out.rmdir()
    partial.replace(out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    seconds = time.perf_counter() - started
    _say(f"{rows} rows of {columns + categorical} features, {size / 1e9:.2f} GB in {seconds:.1f} s: {out}")
    return out


def _check_layout(problem: Problem, format: str, files: int) -> None:  # noqa: A002 (as in `generate`)
    """Raise where a table cannot be laid out in files as asked."""
    if format not in _FORMATS:
        raise ValueError(f"`format` (={format!r}) must be one of {', '.join(_FORMATS)}")
    if not 1 <= files <= problem.rows:
        raise ValueError(f"`files` (={files}) must lie in [1, {problem.rows}], the number of rows")
    if problem.categorical and format in {"npy", "zarr"}:
        raise ValueError(f"`categorical` (={problem.categorical}) must be 0: {format} holds no text")


def _check_free(out: Path) -> None:
    """Raise where something is at a path."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; pass --force to replace it")


def _begin(partial: Path, request: dict[str, Any], *, force: bool) -> None:
    """Make the folder of an unfinished run, or keep one of the same arguments."""
    begun = partial / "request.json"
    if begun.exists() and read_json(begun) == request:
        for draft in partial.glob(".*"):  # what a killed run was writing
            draft.unlink()
        return
    if partial.exists() and not force and any(partial.iterdir()):
        raise FileExistsError(
            f"{partial}: an unfinished run of other arguments is there; --force starts anew"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_json(begun, request)


def _write_part(problem: Problem, path: Path, first: int, last: int, advance: Callable[[int], None]) -> None:
    """Write one file; it is there once it is complete."""
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".npy": _write_npy}[path.suffix]
    with write_atomically(path) as draft:
        write(problem, draft, first, last, advance)


def _write_parquet(
    problem: Problem, path: Path, first: int, last: int, advance: Callable[[int], None]
) -> None:
    """Write rows as a Parquet file, a row group each block."""
    import pyarrow.parquet as pq

    writer = None
    for x, y, codes in problem.between(first, last):
        batch = _arrow(x, y, codes)
        if writer is None:
            text = [f"k{number}" for number in range(problem.categorical)]
            # Random mantissas do not compress, and have no two equal values for a dictionary.
            writer = pq.ParquetWriter(path, batch.schema, compression="none", use_dictionary=text)
        writer.write_batch(batch)
        advance(batch.num_rows)
    if writer is not None:
        writer.close()


def _write_csv(problem: Problem, path: Path, first: int, last: int, advance: Callable[[int], None]) -> None:
    """Write rows as a CSV file with a header."""
    import pyarrow.csv

    writer = None
    for x, y, codes in problem.between(first, last):
        batch = _arrow(x, y, codes)
        writer = writer or pyarrow.csv.CSVWriter(path, batch.schema)
        writer.write_batch(batch)
        advance(batch.num_rows)
    if writer is not None:
        writer.close()


def _arrow(x: Floats, y: Floats, codes: list[Floats]) -> Any:
    """Return rows as an Arrow record batch."""
    import pyarrow as pa

    arrays = [pa.array(column) for column in x]
    names = [f"x{j}" for j in range(len(x))]
    for number, code in enumerate(codes):
        levels = pa.array([level_name(each) for each in range(int(code.max(initial=0)) + 1)])
        arrays.append(levels.take(pa.array(code)))
        names.append(f"k{number}")
    return pa.record_batch([*arrays, pa.array(y)], names=[*names, "y"])


def _write_npy(problem: Problem, path: Path, first: int, last: int, advance: Callable[[int], None]) -> None:
    """Write rows as a matrix whose last column is the target."""
    shape = (last - first, problem.columns + 1)
    header = {"descr": np.dtype(problem.dtype).str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for x, y, _ in problem.between(first, last):
            file.write(np.vstack((x, y)).T.tobytes())
            advance(len(y))


def _write_zarr(problem: Problem, path: Path, advance: Callable[[int], None]) -> None:
    """Write rows as the arrays x and y of a Zarr group."""
    import zarr

    group = zarr.open_group(path, mode="w")
    kept = min(_STORED, problem.rows)
    x_all = group.create_array(
        "x",
        shape=(problem.rows, problem.columns),
        chunks=(kept, problem.columns),
        dtype=problem.dtype,
        compressors=None,
    )
    y_all = group.create_array(
        "y", shape=(problem.rows,), chunks=(kept,), dtype=problem.dtype, compressors=None
    )
    row = 0
    for x, y, _ in problem.between(0, problem.rows):
        x_all[row : row + len(y)] = np.ascontiguousarray(x.T)
        y_all[row : row + len(y)] = y
        row += len(y)
        advance(len(y))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("generate"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("generate", total=total)

        def advance(rows: int) -> None:
            progress.advance(task, rows)

        yield advance


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)
