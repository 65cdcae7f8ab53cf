r"""Generate a regression problem of any size with a known answer, in bounded memory.

Features are $x_i = V \operatorname{diag}(s) z_i$ with standard normal $z_i$, an orthogonal $V$ and singular
values $s$ spaced evenly in their logarithm from 1 to 1/condition; targets are
$y_i = x_i^\top \beta + \beta_0 + \text{noise}$. Row i depends on the seed and i alone: the same rows in
whatever format and number of files. Files are written into `OUT.partial`, which takes the place of `OUT` at
the end.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemmata.apps.kit.files import new_output, read_json, write_atomically, write_json

__all__ = ["Problem", "generate"]

_BLOCK = 65536  # rows drawn from one stream of random numbers; changing it changes every generated table
_OUTLIER = 100.0  # size of a gross error, in standard deviations of the signal
_HEAVY = 100.0  # factor of a heavy row
_FORMATS = ("parquet", "npy", "csv", "zarr")

Floats = npt.NDArray[Any]


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


@dataclass(frozen=True)
class Problem:
    """A generated regression problem; every block of its rows can be made on its own.

    Args:
        rows: Number of rows.
        columns: Number of numeric features.
        condition: Ratio of the largest to the smallest singular value.
        noise: Deviation of the noise, in deviations of the signal.
        outliers: Share of the rows with a gross error.
        heavy_rows: Rows whose features are a hundred times as large.
        dtype: `"float32"` or `"float64"`.
        categorical: Columns of text.
        seed: Its seed.

    Raises:
        ValueError: Where an argument is out of range.
    """

    rows: int
    columns: int
    condition: float = 1e4
    noise: float = 0.1
    outliers: float = 0.0
    heavy_rows: int = 0
    dtype: str = "float32"
    categorical: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("columns", 1), ("heavy_rows", 0), ("categorical", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least {least}")
        if not (math.isfinite(self.condition) and self.condition >= 1):
            raise ValueError(f"`condition` (={self.condition}) must lie in [1, inf)")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"`noise` (={self.noise}) must lie in [0, inf)")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"`outliers` (={self.outliers}) must lie in [0, 1)")
        if self.heavy_rows > self.rows:
            raise ValueError(f"`heavy_rows` (={self.heavy_rows}) must be at most `rows` (={self.rows})")
        if self.dtype not in {"float32", "float64"}:
            raise ValueError(f"`dtype` (={self.dtype!r}) must be float32 or float64")

    @cached_property
    def singular_values(self) -> Floats:
        """Singular values of the features' covariance root, from 1 to 1/condition."""
        return np.logspace(0, -math.log10(self.condition), self.columns)

    @cached_property
    def basis(self) -> Floats:
        """The orthogonal matrix V."""
        return np.linalg.qr(self._random(0).standard_normal((self.columns, self.columns)))[0]

    @cached_property
    def coefficients(self) -> Floats:
        """Coefficients of the numeric features."""
        return self._random(1).standard_normal(self.columns)

    @cached_property
    def effects(self) -> tuple[Floats, ...]:
        """What each level of each column of text adds to the target; 0 for the first."""
        random = self._random(2)
        return tuple(
            np.concatenate(([0.0], random.standard_normal(2 + number % 4)))
            for number in range(self.categorical)
        )

    @property
    def signal(self) -> float:
        """Standard deviation of the numeric features' part of the target, heavy rows aside."""
        return float(np.linalg.norm(self.singular_values * (self.basis.T @ self.coefficients)))

    def block(self, number: int) -> tuple[Floats, Floats, list[Floats]]:
        """Draw one block of rows.

        Args:
            number: Which block.

        Returns:
            Features (columns, rows), targets (rows,), and the levels' codes of each column of text (rows,).
        """
        first = number * _BLOCK
        count = min(_BLOCK, self.rows - first)
        random = self._random(3, number)
        mix = (self.basis * self.singular_values).astype(self.dtype)
        # Drawn in full, so that row i is the same in a longer table.
        z = random.standard_normal((_BLOCK, self.columns), dtype=np.dtype(self.dtype).type)[:count]
        x = mix @ z.T
        errors = random.standard_normal(_BLOCK)[:count] * (self.noise * self.signal)
        gross = random.random(_BLOCK)[:count] < self.outliers
        sizes = random.standard_normal(_BLOCK)[:count]
        errors[gross] += _OUTLIER * self.signal * sizes[gross]
        codes = [random.integers(len(effects), size=_BLOCK)[:count] for effects in self.effects]
        heavy = self._heavy(first, first + count)
        x[:, heavy] *= _HEAVY
        y = self.coefficients @ x.astype(np.float64) + 1.0 + errors
        for effects, code in zip(self.effects, codes, strict=True):
            y += effects[code]
        return x, y.astype(self.dtype), codes

    def between(self, first: int, last: int) -> Iterator[tuple[Floats, Floats, list[Floats]]]:
        """Draw rows `first` to `last`, block by block."""
        for number in range(first // _BLOCK, -(-last // _BLOCK)):
            x, y, codes = self.block(number)
            rows = slice(max(first - number * _BLOCK, 0), last - number * _BLOCK)
            yield x[:, rows], y[rows], [code[rows] for code in codes]

    def truth(self, format: str) -> dict[str, Any]:  # noqa: A002 (as in `generate`)
        """Return what a fit should find, under the names that the columns have in a format."""
        names = [f"{'c' if format == 'npy' else 'x'}{j}" for j in range(self.columns)]
        levels = {
            f"k{number}={_level(code)}": float(effect)
            for number, effects in enumerate(self.effects)
            for code, effect in enumerate(effects)
            if code
        }
        return {
            **asdict(self),
            "target": f"c{self.columns}" if format == "npy" else "y",
            "coefficients": dict(zip(names, self.coefficients.tolist(), strict=True)) | levels,
            "intercept": 1.0,
            "signal_deviation": self.signal,
            "noise_deviation": self.noise * self.signal,
        }

    def _random(self, *place: int) -> np.random.Generator:
        """Return the stream of random numbers of a place in the problem."""
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.seed, spawn_key=place)))

    def _heavy(self, first: int, last: int) -> Floats:
        """Return the heavy rows between two rows, counted from the first."""
        if not self.heavy_rows:
            return np.empty(0, dtype=np.int64)
        begin, end = (-(-row * self.heavy_rows // self.rows) for row in (first, last))
        return np.arange(begin, end) * self.rows // self.heavy_rows - first


def _level(code: int) -> str:
    """Return the name of a level."""
    return f"level{code}"


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
        levels = pa.array([_level(each) for each in range(int(code.max(initial=0)) + 1)])
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
    kept = min(_BLOCK, problem.rows)
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
