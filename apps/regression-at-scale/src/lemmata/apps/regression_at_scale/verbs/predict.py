"""Write a model's predictions for a table, chunk by chunk, in bounded memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lemmata.apps.regression_at_scale.encoding.dataset import Dataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.model import RegressionModel
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources.part import Chunk
from lemmata.apps.regression_at_scale.writing import check_free, open_writer, to_arrow

__all__ = ["predict"]


def predict(
    model: Path,
    data: list[str],
    *,
    out: Path,
    errors: bool = False,
    keep: list[str] | None = None,
    unknown: str = "error",
    chunk_rows: int = 65536,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a model's predictions for every row of a table.

    Args:
        model: A run's folder, or its `model.pt`.
        data: Files, folders or patterns of the table; the target need not be there.
        out: The file to write, `.parquet` or `.csv`: a column a target, named after it.
        errors: Add the standard errors of the mean and of a new observation, where the model has them.
        keep: Columns of the table to copy beside the predictions.
        unknown: What a category that the fit never saw becomes: error, or zero (no level at all).
        chunk_rows: Rows held in memory at a time.
        force: Replace `out` where it exists.
        quiet: Show no progress.

    Returns:
        The file.

    Raises:
        ValueError: Where the table lacks a feature, a value is missing or infinite, or `out` has another
            suffix; nothing is written then.
        FileExistsError: Where `out` exists and `force` is not given.
    """
    out, keep = Path(out), keep or []
    check_free(out, force=force)
    fitted = RegressionModel.load(model)
    if errors and fitted.standard_errors is None:
        raise ValueError(f"`errors`: a model fitted with loss {fitted.loss} has no standard errors")
    encoder = replace(Encoder.from_state_dict(fitted.encoder), unknown=unknown)
    dataset = Dataset(open_table(data, chunk_rows=chunk_rows), encoder, targets=False)
    _check_kept(keep, dataset, fitted)
    with open_progress(quiet=quiet) as progress, open_writer(out, force=force) as append:
        progress.start("predict", 1, 1, dataset.rows, 0, dataset.table.bytes)
        for chunk in dataset.chunks:
            append(_predictions(fitted, dataset, chunk, errors, keep))
            progress.advance(chunk.rows)
        progress.finish()
    return out


def _check_kept(keep: list[str], dataset: Dataset, model: RegressionModel) -> None:
    """Raise where a column to copy is not there, or would be written twice."""
    names = [column.name for column in dataset.table.columns]
    for name in keep:
        if name not in names:
            raise ValueError(
                f"`keep` names {name!r}, which is no column; the table has {', '.join(names[:12])}"
            )
        if name in model.target_names:
            raise ValueError(f"`keep` names {name!r}, which is what the predictions are called")


def _predictions(
    model: RegressionModel, dataset: Dataset, chunk: Chunk, errors: bool, keep: list[str]
) -> Any:
    """Return a chunk's predictions as an Arrow table."""
    import pyarrow as pa

    rows = dataset.read(chunk)
    block = dataset.table.read(chunk, keep).columns if keep else {}
    columns = {name: to_arrow(block[name]) for name in keep}
    values = model.predict_errors(rows.x) if errors else (model.predict(rows.x),)
    for place, target in enumerate(model.target_names):
        for what, value in zip(("", " error of mean", " error"), values, strict=False):
            columns[f"{target}{what}"] = pa.array(value[:, place].numpy())
    return pa.table(columns)
