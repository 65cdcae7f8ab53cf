"""From what a user names to rows that passes can read."""

from collections.abc import Sequence

from lemmata.apps.regression_at_scale.encoding.dataset import Dataset, RawDataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder
from lemmata.apps.regression_at_scale.encoding.moments import Moments
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources.schema import select

__all__ = ["encode", "open_rows"]


def open_rows(
    data: Sequence[str],
    *,
    target: Sequence[str] | str | None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    weight: str | None = None,
    chunk_rows: int = 65536,
) -> RawDataset:
    """Open a table and choose its columns; no row is read.

    Args:
        data: Files, folders or patterns.
        target: Name of the target, or several; None where there is none.
        features: Names of the features; all columns but the excluded ones by default.
        exclude: Columns that are no features.
        weight: Name of the column of weights.
        chunk_rows: Most rows that are read at once.

    Returns:
        The rows as they stand in the files.

    Raises:
        ValueError: Where a file or a name cannot be used.
        FileNotFoundError: Where there is nothing at a path.
    """
    table = open_table(list(data), chunk_rows=chunk_rows)
    selection = select(table.columns, target=target, features=features, exclude=exclude or (), weight=weight)
    return RawDataset(table, selection)


def encode(
    engine: Engine,
    raw: RawDataset,
    *,
    intercept: bool,
    impute: str = "error",
    unknown: str = "error",
    standardise: bool = False,
) -> Dataset:
    """Return rows as numbers; a first pass finds levels and means where they are needed.

    Args:
        engine: Runs that pass.
        raw: The rows as they stand in the files.
        intercept: Whether a column of ones is appended.
        impute: What a missing feature becomes: `"error"` or `"mean"`.
        unknown: What a level that was not declared becomes: `"error"` or `"zero"`.
        standardise: Whether numeric features are centred and scaled.

    Returns:
        The rows.

    Raises:
        ValueError: Where a value is missing or infinite, or a category has too many levels.
    """
    selection = raw.selection
    if not Encoder.needs_moments(selection, impute=impute, standardise=standardise):
        return Dataset(raw.table, Encoder(selection, intercept=intercept, impute=impute, unknown=unknown))
    moments = Moments(selection, impute=impute)
    state = engine.run(moments, raw)
    encoder = Encoder.from_moments(
        moments, state, intercept=intercept, unknown=unknown, standardise=standardise
    )
    return Dataset(raw.table, encoder)
