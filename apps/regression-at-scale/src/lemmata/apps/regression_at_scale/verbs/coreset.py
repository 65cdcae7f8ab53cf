"""Write a small weighted table that stands for a large one."""

from pathlib import Path
from typing import Any

import numpy as np

from lemmata.apps.kit.files import write_json
from lemmata.apps.regression_at_scale.encoding.opening import encode, open_rows
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.methods.robust import draw_coreset
from lemmata.apps.regression_at_scale.model import Loss
from lemmata.apps.regression_at_scale.sources.part import Categories
from lemmata.apps.regression_at_scale.sources.table import Table
from lemmata.apps.regression_at_scale.writing import check_free, open_writer, to_arrow
from lemmata.sketching.lp import Coreset

__all__ = ["WEIGHT", "coreset"]

WEIGHT = "coreset weight"


def coreset(
    data: list[str],
    *,
    target: list[str],
    out: Path,
    size: int = 20_000,
    loss: str = "l1",
    features: list[str] | None = None,
    exclude: list[str] | None = None,
    weight: str | None = None,
    intercept: bool = True,
    chunk_rows: int = 65536,
    scheduler: str = "local",
    workers: int | None = None,
    seed: int = 0,
    force: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> Path:
    """Draw rows by their importance for a loss, and write them with their weights.

    A fit of the written table with `--weight "coreset weight"` stands for one of the whole. `OUT.json` beside
    it says how it was drawn.

    Args:
        data: Files, folders or patterns of the table.
        target: The target, or several; their outliers count too.
        out: The file to write, `.parquet` or `.csv`: all columns of the table and `coreset weight`.
        size: Rows to keep.
        loss: What the rows are to serve: l2, l1, lp:P or huber.
        features: Columns to use; all but the excluded ones by default.
        exclude: Columns that are no features.
        weight: A column of weights, which multiply those of the coreset.
        intercept: Whether the fit will have an intercept.
        chunk_rows: Rows that a worker holds at a time.
        scheduler: `local`, or the address of a Dask scheduler.
        workers: Threads where the scheduler is local; one a core by default.
        seed: Seed of sketch and samples.
        force: Replace `out` where it exists.
        json: Print events as lines of JSON in place of a progress bar.
        quiet: Show no progress.

    Returns:
        The file.

    Raises:
        ValueError: Where an option or the data cannot be used; nothing is written then.
        FileExistsError: Where `out` exists and `force` is not given.
    """
    check_free(out, force=force)
    kind = Loss.parse(loss)
    raw = open_rows(
        data, target=target, features=features, exclude=exclude, weight=weight, chunk_rows=chunk_rows
    )
    if WEIGHT in {column.name for column in raw.table.columns}:
        raise ValueError(f"`data` has a column {WEIGHT!r} already; name it as `weight` after renaming it")
    with open_progress(as_json=json, quiet=quiet) as progress:
        engine = Engine(raw, scheduler=scheduler, workers=workers, progress=progress)
        engine.dataset = encode(engine, raw, intercept=intercept)
        found, _ = draw_coreset(engine, kind, size=size, seed=seed)
        _write_rows(raw.table, found, out, force=force)
        told = {
            "loss": str(kind),
            "rows": raw.rows,
            "kept": len(found),
            "seed": seed,
            "passes": engine.passes_run,
        }
        write_json(out.with_name(out.name + ".json"), told)
        progress.result(out=str(out), **told)
    return out


def _write_rows(table: Table, found: Coreset, out: Path, *, force: bool) -> None:
    """Write the kept rows with all columns of the table; only chunks that hold some are read."""
    import pyarrow as pa

    held: Any = found.rows
    weights = (found.weights * held[:, -1]).numpy()
    rows = found.indices.numpy()
    with open_writer(out, force=force) as append:
        for chunk in table.chunks:
            first, last = np.searchsorted(rows, (chunk.offset, chunk.offset + chunk.rows))
            if first == last:
                continue
            places = rows[first:last] - chunk.offset
            block = table.read(chunk)
            columns = {name: to_arrow(_taken(values, places)) for name, values in block.columns.items()}
            append(pa.table({**columns, WEIGHT: pa.array(weights[first:last])}))


def _taken(values: Any, places: Any) -> Any:
    """Return some rows of a column."""
    if isinstance(values, Categories):
        return Categories(values.codes[places], values.levels)
    return values[places]
