"""Draw what an evaluation found."""

from pathlib import Path

__all__ = ["plot"]


def plot(results: Path, *, out: Path | None = None, force: bool = False) -> Path:
    """Draw what an evaluation found."""
    raise NotImplementedError
