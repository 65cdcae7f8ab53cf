"""Predict solutions for the user's own fields."""

from pathlib import Path

__all__ = ["predict"]


def predict(checkpoint: Path, fields: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Predict solutions for the user's own fields."""
    raise NotImplementedError
