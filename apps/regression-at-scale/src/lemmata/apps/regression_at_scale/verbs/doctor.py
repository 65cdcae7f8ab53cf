r"""Look at a table before it is fitted: conditioning, columns that say the same, rows that decide alone.

One pass sketches the features; their triangular factor $R$ tells condition, rank and how much of each column
the others already say, $\operatorname{VIF}_j = \lVert a_j - \bar a_j \rVert^2 [(R^\top R)^{-1}]_{jj}$.
A second pass finds the rows of highest leverage.

Axis letters: d features, k rows reported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemmata.apps.kit.files import new_output, write_json
from lemmata.apps.kit.tables import Table
from lemmata.apps.regression_at_scale.encoding.dataset import Dataset
from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.encoding.opening import encode, open_rows
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.methods.least_squares import SketchPass, default_sketch_rows
from lemmata.sketching.least_squares import Preconditioner

__all__ = ["LeveragePass", "doctor"]

_SAME = 1e-8  # a direction this much shorter than the longest is one that columns share
_PART = 0.1  # entries of such a direction, of length one, that name a column


@dataclass(frozen=True)
class LeveragePass:
    """The rows of highest leverage, and the sum of all.

    Args:
        preconditioner: From a sketch of the features.
        most: Rows to report.
        name: What people see.
    """

    preconditioner: Preconditioner
    most: int
    name: str = "leverage"

    def partial(self, rows: Rows) -> State:
        """Return a chunk's rows of highest leverage, and the sum over all."""
        leverage = self.preconditioner.right(rows.x.double()).square().sum(1)
        values, order = torch.sort(leverage, descending=True, stable=True)
        return {
            "leverage": values[: self.most],
            "row": order[: self.most] + rows.offset,
            "sum": leverage.sum(),
        }

    def add(self, first: State, second: State) -> State:
        """Merge two sets of rows; of equal leverages the earlier row is kept."""
        leverage, row = (torch.cat((first[name], second[name])) for name in ("leverage", "row"))
        order = torch.argsort(leverage, descending=True, stable=True)[: self.most]
        return {"leverage": leverage[order], "row": row[order], "sum": first["sum"] + second["sum"]}


def doctor(
    data: list[str],
    *,
    features: list[str] | None = None,
    exclude: list[str] | None = None,
    intercept: bool = True,
    rows: int = 10,
    out: Path | None = None,
    chunk_rows: int = 65536,
    scheduler: str = "local",
    workers: int | None = None,
    seed: int = 0,
    force: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Look at conditioning, columns that say the same, and rows of high leverage.

    The condition number and the leverages are those of columns of unit length, and right within the sketch's
    distortion, about a factor of two at most.

    Args:
        data: Files, folders or patterns of the table.
        features: Columns to look at; all but the excluded ones by default.
        exclude: Columns not to look at: the target, say.
        intercept: Whether a column of ones belongs to them.
        rows: Rows of high leverage to report.
        out: A file for the findings, `.json`.
        chunk_rows: Rows that a worker holds at a time.
        scheduler: `local`, or the address of a Dask scheduler.
        workers: Threads where the scheduler is local; one a core by default.
        seed: Seed of the sketch.
        force: Replace `out` where it exists.
        json: Print events as lines of JSON in place of a progress bar and tables.
        quiet: Show neither progress nor tables.

    Returns:
        The findings.

    Raises:
        ValueError: Where an option or the data cannot be used.
        FileExistsError: Where `out` exists and `force` is not given.
    """
    if rows < 1:
        raise ValueError(f"`rows` (={rows}) must be at least 1")
    if out is not None:
        new_output(out, force=force)
    raw = open_rows(data, target=None, features=features, exclude=exclude, chunk_rows=chunk_rows)
    with open_progress(as_json=json, quiet=quiet) as progress:
        engine = Engine(raw, scheduler=scheduler, workers=workers, progress=progress)
        dataset = encode(engine, raw, intercept=intercept)
        n, d = dataset.shape
        state = engine.run(SketchPass(n, default_sketch_rows(d), seed), dataset)
        preconditioner = Preconditioner.from_sketch(state["sketch"], n=n)
        leverages = engine.run(LeveragePass(preconditioner, rows), dataset)
        findings = {
            "rows": n,
            "features": d,
            **_of_columns(state, preconditioner, dataset),
            "coherence": float(leverages["leverage"][0]) * n / max(1.0, float(leverages["sum"])),
            "rows_of_high_leverage": [
                {"row": int(row), "leverage": min(1.0, float(value))}
                for row, value in zip(leverages["row"], leverages["leverage"], strict=True)
            ],
            "passes": engine.passes_run,
        }
        progress.result(**findings)
    if out is not None:
        write_json(out, findings)
    if not (json or quiet):
        _show(findings, dataset)
    return findings


def _of_columns(state: State, preconditioner: Preconditioner, dataset: Dataset) -> dict[str, Any]:
    """Return what the sketch says about columns."""
    names = dataset.feature_names
    sketch = state["sketch"]
    lengths: Tensor = torch.linalg.vector_norm(sketch, dim=0)
    _, sigma, vh = torch.linalg.svd(sketch / torch.where(lengths > 0, lengths, 1), full_matrices=False)
    shared = [
        [names[j] for j in row.abs().gt(_PART).nonzero()[:, 0].tolist()]
        for value, row in zip(sigma, vh, strict=True)
        if value < _SAME * sigma[0]
    ]
    return {
        "rank": preconditioner.rank,
        "condition": float(sigma[0] / sigma[-1]) if float(sigma[-1]) > 0 else None,
        "constant_columns": [
            name
            for name, low, high in zip(names, state["low"], state["high"], strict=True)
            if low == high and name != "(intercept)"
        ],
        "columns_that_say_the_same": shared,
        "variance_inflation": _inflation(state, preconditioner, names),
    }


def _inflation(state: State, preconditioner: Preconditioner, names: tuple[str, ...]) -> dict[str, float]:
    """Return the variance inflation factors, largest first; none where the rank is deficient."""
    if preconditioner.rank < len(names):
        return {}
    inverse = preconditioner.solve(torch.eye(len(names), dtype=torch.float64))
    found = inverse.square().sum(1) * state["squares"]
    kept = [j for j, name in enumerate(names) if name != "(intercept)"]
    return {names[j]: float(found[j]) for j in sorted(kept, key=lambda j: -float(found[j]))}


def _show(findings: dict[str, Any], dataset: Dataset) -> None:
    """Print the findings as tables."""
    told = ("rows", "features", "rank", "condition", "coherence", "passes")
    Table(["", "value"], [[name, findings[name]] for name in told]).print()
    for title, key in (
        ("columns that are constant", "constant_columns"),
        ("columns that say the same", "columns_that_say_the_same"),
    ):
        if findings[key]:
            lines = [[", ".join(entry) if isinstance(entry, list) else entry] for entry in findings[key]]
            Table(["column"], lines, title).print()
    inflation = list(findings["variance_inflation"].items())[:10]
    if inflation:
        Table(["feature", "variance inflation"], inflation, "said by the others").print()
    high = [
        [entry["row"], entry["leverage"], dataset.table.locate(entry["row"])]
        for entry in findings["rows_of_high_leverage"]
    ]
    Table(["row", "leverage", "where"], high, "rows of high leverage").print()
