"""Evaluate a surrogate at several resolutions, and against the classical solver made cheap."""

from pathlib import Path

__all__ = ["evaluate"]


def evaluate(
    checkpoint: Path,
    *,
    out: Path | None = None,
    res: list[int] | None = None,
    n: int = 64,
    seed: int = 0,
    solver: bool = True,
    data: Path | None = None,
    force: bool = False,
) -> Path:
    """Evaluate a surrogate at several resolutions, and against the classical solver made cheap."""
    raise NotImplementedError
