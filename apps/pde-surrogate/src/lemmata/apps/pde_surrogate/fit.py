"""Train a surrogate from Python, as the command line's ``fit`` does."""

from pathlib import Path

__all__ = ["fit"]


def fit(train: Path, *, out: Path, val: Path | float | None = 0.1) -> Path:
    """Train a surrogate."""
    raise NotImplementedError
