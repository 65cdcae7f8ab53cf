"""Score a fitted model on other data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemmata.apps.kit.files import new_output, write_json
from lemmata.apps.kit.tables import Table
from lemmata.apps.regression_at_scale.encoding.dataset import Dataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder, Rows
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.model import RegressionModel
from lemmata.apps.regression_at_scale.sources import open_table

__all__ = ["ScorePass", "score"]


@dataclass(frozen=True)
class ScorePass:
    """Sums of residuals of given coefficients, and of targets about their mean.

    Args:
        coefficients: Coefficients of the encoded features, shape (d, c).
    """

    coefficients: Tensor
    name: str = "score"

    def partial(self, rows: Rows) -> State:
        """Return the sums over a chunk, weighted where rows have weights."""
        residual = rows.y - rows.x.double() @ self.coefficients
        weights = (
            torch.ones(len(rows.y), 1, dtype=torch.float64) if rows.weights is None else rows.weights[:, None]
        )
        weight = weights.sum()
        mean = (weights * rows.y).sum(0) / weight.clamp(min=1e-300)
        return {
            "rows": len(rows.y),
            "weight": weight,
            "absolute": (weights * residual.abs()).sum(0),
            "squares": (weights * residual.square()).sum(0),
            "largest": residual.abs().amax(0),
            "mean": mean,
            "spread": (weights * (rows.y - mean).square()).sum(0),
        }

    def add(self, first: State, second: State) -> State:
        """Add sums; those about means by the pairwise formula, which does not cancel."""
        weight = first["weight"] + second["weight"]
        share = second["weight"] / weight.clamp(min=1e-300)
        delta = second["mean"] - first["mean"]
        return {
            **{name: first[name] + second[name] for name in ("rows", "absolute", "squares")},
            "weight": weight,
            "largest": torch.maximum(first["largest"], second["largest"]),
            "mean": first["mean"] + delta * share,
            "spread": first["spread"] + second["spread"] + delta**2 * first["weight"] * share,
        }


def score(
    model: Path,
    data: list[str],
    *,
    out: Path | None = None,
    unknown: str = "error",
    chunk_rows: int = 65536,
    scheduler: str = "local",
    workers: int | None = None,
    force: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> Table:
    """Score a fitted model on a table that has the targets: errors, and the share of variance explained.

    Args:
        model: A run's folder, or its `model.pt`.
        data: Files, folders or patterns of the table.
        out: A file for the scores, `.json`.
        unknown: What a category that the fit never saw becomes: error, or zero (no level at all).
        chunk_rows: Rows that a worker holds at a time.
        scheduler: `local`, or the address of a Dask scheduler.
        workers: Threads where the scheduler is local; one a core by default.
        force: Replace `out` where it exists.
        json: Print events as lines of JSON in place of a progress bar.
        quiet: Show no progress.

    Returns:
        The scores, a row a target.

    Raises:
        ValueError: Where the table lacks a column of the model, or a value is missing or infinite.
        FileExistsError: Where `out` exists and `force` is not given.
    """
    fitted = RegressionModel.load(model)
    encoder = Encoder.from_state_dict({**fitted.encoder, "unknown": unknown})
    dataset = Dataset(open_table(data, chunk_rows=chunk_rows), encoder)
    if out is not None:
        new_output(out, force=force)
    with open_progress(as_json=json, quiet=quiet) as progress:
        engine = Engine(dataset, scheduler=scheduler, workers=workers, progress=progress, passes=1)
        scores = _scores(fitted, engine.run(ScorePass(fitted.coefficients)))
        progress.result(scores=scores)
    if out is not None:
        write_json(out, scores)
    table = Table.from_records(scores, title=f"{dataset.rows:,} rows")
    if not (json or quiet):
        table.print()
    return table


def _scores(model: RegressionModel, state: State) -> list[dict[str, Any]]:
    """Return a record a target."""
    weight = float(state["weight"])
    if weight == 0:
        raise ValueError("the weights of all rows are zero")
    records = []
    for place, target in enumerate(model.target_names):
        squares, spread = float(state["squares"][place]), float(state["spread"][place])
        records.append(
            {
                "target": target,
                "rows": state["rows"],
                "root mean square error": (squares / weight) ** 0.5,
                "mean absolute error": float(state["absolute"][place]) / weight,
                "largest error": float(state["largest"][place]),
                "R2": 1 - squares / spread if spread > 0 else None,
            }
        )
    return records
