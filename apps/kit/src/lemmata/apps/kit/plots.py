"""Plots people want to look at, with the numbers beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lemmata.apps.kit.tables import Table

__all__ = ["PALETTE", "new_figure", "save_figure", "style"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


@contextmanager
def style() -> Iterator[None]:
    """Draw in lemmata's style within this block; matplotlib's settings are as before after it."""
    yield


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 4.2, height: float = 3.2
) -> tuple[Figure, Any]:
    """Return a figure and a 2-D array of axes, sizes in inches an axes; to be called within :func:`style`."""
    raise NotImplementedError


def save_figure(
    figure: Figure, stem: Path | str, data: Mapping[str, Sequence[Any]] | Table | None = None
) -> list[Path]:
    """Write ``<stem>.png``, ``<stem>.svg`` and, with ``data``, ``<stem>.csv``, atomically."""
    raise NotImplementedError
