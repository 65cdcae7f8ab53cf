"""Fit a linear model to a table larger than memory."""

from pathlib import Path

__all__ = ["fit"]


def fit(
    data: list[str],
    *,
    target: list[str] | str,
    out: Path | str,
    features: list[str] | None = None,
    weight: str | None = None,
    loss: str = "l2",
    ridge: float | str = 0.0,
    intercept: bool = True,
    standardise: bool = False,
    impute: str = "error",
    levels: dict[str, list[str]] | None = None,
    dtype: str = "float64",
    chunk_rows: int = 65536,
    sketch_rows: int | None = None,
    coreset_size: int | None = None,
    huber_delta: float | None = None,
    folds: int = 5,
    one_standard_error: bool = False,
    diagnostics: bool = True,
    rtol: float | None = None,
    seed: int = 0,
    scheduler: str = "local",
    workers: int | None = None,
    resume: bool = False,
    force: bool = False,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> Path:
    """Fit a linear model."""
    raise NotImplementedError
