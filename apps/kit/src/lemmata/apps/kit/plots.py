"""Plots people want to look at, with the numbers beside them.

A figure is saved as PNG and SVG together with what it shows as CSV. The same figure gives the same bytes: no
date, no random identifiers. Nothing here touches `pyplot` or matplotlib's global settings.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from lemmata.apps.kit.files import write_atomically
from lemmata.apps.kit.tables import Table

__all__ = ["DIVERGING", "PALETTE", "SEQUENTIAL", "new_figure", "save_figure", "style"]

# Okabe and Ito's colours, which stay apart for readers with any of the common colour blindnesses.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

# Colour maps of even lightness: for fields, and for differences around zero.
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "nearest",
    "image.origin": "lower",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.dpi": 160,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    # Text stays text, so that a figure's words can be searched and copied.
    "svg.fonttype": "none",
    "svg.hashsalt": "lemmata",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in lemmata's style within this block; matplotlib's settings are as before after it.

    Examples:
        >>> with style():
        ...     figure, axes = new_figure(1, 2)
        >>> axes.shape
        (1, 2)
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _STYLE.items():
            mpl.rcParams[name] = value  # type: ignore[index]  # the stubs know the names as literals
        yield


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 4.2, height: float = 3.2, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure in lemmata's style and its axes, an array of shape `(rows, columns)`.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Width of one of them, in inches.
        height: Height of one of them, in inches.
        options: Further arguments of `Figure.subplots`: `sharex`, `gridspec_kw`...
    """
    with style():
        figure = Figure(figsize=(width * columns, height * rows))
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(
    figure: Figure, stem: Path | str, data: Mapping[str, Sequence[Any]] | Table | None = None
) -> list[Path]:
    """Write `<stem>.png`, `<stem>.svg` and, with `data`, `<stem>.csv`, each atomically.

    Args:
        figure: The figure.
        stem: Path without a suffix.
        data: What the figure shows: a table, or columns by name; shorter columns are padded with empty cells.

    Returns:
        The paths written.
    """
    paths = []
    with style():
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            path = Path(f"{stem}{suffix}")
            with write_atomically(path) as draft:
                figure.savefig(draft, metadata=metadata, bbox_inches="tight")
            paths.append(path)
    if data is not None:
        table = data if isinstance(data, Table) else _columns(data)
        path = Path(f"{stem}.csv")
        with write_atomically(path) as draft:
            draft.write_text(table.to_csv(), encoding="utf-8")
        paths.append(path)
    return paths


def _columns(data: Mapping[str, Sequence[Any]]) -> Table:
    """Return columns as a table, padded to the longest."""
    length = max((len(column) for column in data.values()), default=0)
    return Table(list(data), [[c[i] if i < len(c) else None for c in data.values()] for i in range(length)])
