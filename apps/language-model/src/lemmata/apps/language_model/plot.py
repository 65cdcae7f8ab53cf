"""Draw what a training, a comparison or a refinement recorded."""

from pathlib import Path

__all__ = ["plot"]


def plot(results: Path, *, out: Path | None = None, force: bool = False) -> list[Path]:
    """Draw what a training, a comparison or a refinement recorded, as PNG and SVG with the numbers as CSV.

    Args:
        results: Folder that `fit`, `compare`, `refine` or `demo` wrote.
        out: Folder to write; "plots" in that folder where not given.
        force: Replace existing plots.

    Returns:
        The files written.

    Raises:
        FileExistsError: Where the plots exist and `force` is not given.
        FileNotFoundError: Where the folder holds nothing to draw.
        ValueError: Where its files cannot be read.
    """
    raise NotImplementedError
