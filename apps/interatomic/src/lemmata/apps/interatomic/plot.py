"""Draw what a training, a simulation or a scan recorded."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lemmata.apps.interatomic.figures import Drawing
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Drawing = "lemmata.apps.interatomic.figures.Drawing"

__all__ = ["plot"]

METRICS = "metrics.csv"
# Curves of a training, by the axis they share.
CURVES = {
    "losses": ("loss", ("train_loss", "val_loss")),
    "forces": ("validation error of forces (meV/A)", ("val_forces_mae", "val_forces_rmse")),
    "energies": ("validation error of energies (meV/atom)", ("val_energy_mae", "val_energy_rmse")),
    "stress": ("validation error of stress (meV/A^3)", ("val_stress_mae", "val_stress_rmse")),
}


def plot(results: Path, *, out: Path | None = None, force: bool = False) -> list[Path]:
    """Draw what a training or a simulation recorded, as PNG and SVG with the numbers as CSV.

    Args:
        results: Folder that `fit` or `md` wrote.
        out: Folder to write; "plots" in that folder where not given.
        force: Replace existing plots.

    Returns:
        The files written.

    Raises:
        FileExistsError: Where the plots exist and `force` is not given.
        FileNotFoundError: Where the folder holds nothing to draw.
        ValueError: Where its files cannot be read.
    """
    from lemmata.apps.interatomic import figures
    from lemmata.apps.interatomic.md import SAMPLES
    from lemmata.apps.kit.files import new_output

    kinds = {METRICS: _training, SAMPLES: _dynamics}
    draw = next((draw for name, draw in kinds.items() if (results / name).is_file()), None)
    if draw is None:
        raise FileNotFoundError(
            f"{results}: found none of {', '.join(kinds)}; expected a folder of fit or md"
        )
    drawings = list(draw(results))
    out = results / "plots" if out is None else out
    return figures.save(drawings, new_output(out, force=force))


def _training(run: Path) -> "Iterator[Drawing]":
    """Draw the curves of a training."""
    from lemmata.apps.interatomic import figures

    columns = _columns(run / METRICS)
    for name, (label, wanted) in CURVES.items():
        curves = {curve: _known(columns["step"], columns[curve]) for curve in wanted if curve in columns}
        curves = {curve: points for curve, points in curves.items() if points[0]}
        if curves:
            yield figures.draw_learning(name, curves, label)


def _known(steps: list[float | None], values: list[float | None]) -> tuple[list[float], list[float]]:
    """Return the steps at which there is a value, and the values."""
    pairs = [(step, value) for step, value in zip(steps, values, strict=True) if None not in (step, value)]
    return [float(step or 0) for step, _ in pairs], [float(value or 0) for _, value in pairs]


def _dynamics(folder: Path) -> "Iterator[Drawing]":
    """Draw a simulation."""
    import numpy as np

    from lemmata.apps.interatomic import figures
    from lemmata.apps.interatomic.dynamics import Samples
    from lemmata.apps.interatomic.md import SAMPLES

    columns = _columns(folder / SAMPLES)
    arrays = {
        name: np.array([np.nan if v is None else v for v in column]) for name, column in columns.items()
    }
    try:
        samples = Samples(**arrays)
    except TypeError as error:
        raise ValueError(f"{folder / SAMPLES}: not the samples of a simulation ({error})") from error
    yield figures.draw_dynamics(samples)
    yield figures.draw_distances(folder)


def _columns(path: Path) -> dict[str, list[float | None]]:
    """Return the columns of a CSV file of numbers, None for an empty cell."""
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {
            name: [float(row[name]) if row[name] else None for row in rows]
            for name in (rows[0] if rows else ())
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table of numbers ({error})") from error
