"""The figures of the app: parity, learning curves, dynamics, distances, profiles."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lemmata.apps.interatomic.dynamics import TRAJECTORY, Samples
from lemmata.apps.interatomic.structures import read_structures
from lemmata.apps.kit.plots import PALETTE, new_figure, save_figure, style

__all__ = [
    "Drawing",
    "draw_distances",
    "draw_dynamics",
    "draw_learning",
    "draw_parity",
    "draw_profile",
    "save",
]

Numbers = npt.NDArray[np.float64]


class Drawing(NamedTuple):
    """A figure, its file's name and the numbers it shows."""

    name: str
    figure: Figure
    data: Mapping[str, Sequence[Any]]


def save(drawings: Iterable[Drawing], folder: Path) -> list[Path]:
    """Write figures as PNG, SVG and CSV, and return the files."""
    return [path for name, figure, data in drawings for path in save_figure(figure, folder / name, data)]


def draw_parity(name: str, quantity: str, reference: Numbers, predicted: Numbers) -> Drawing:
    """Draw predictions against reference values, and their differences below.

    Args:
        name: File name without suffix.
        quantity: For the axes, with its unit.
        reference: Reference values, any shape.
        predicted: Predictions of the same shape.
    """
    x, y = reference.ravel(), predicted.ravel()
    with style():
        figure, axes = new_figure(1, 2)
        parity, spread = axes[0]
        ends = [min(x.min(initial=0), y.min(initial=0)), max(x.max(initial=0), y.max(initial=0))]
        if len(x):
            ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        parity.plot(ends, ends, color="#888888", linewidth=1)
        parity.plot(x, y, ".", markersize=2, alpha=0.5, rasterized=True)
        parity.set(xlabel=f"reference {quantity}", ylabel=f"predicted {quantity}", title="Parity")
        spread.hist(y - x, bins=60, color=PALETTE[0])
        spread.set(xlabel=f"predicted - reference {quantity}", ylabel="count", title="Differences")
        spread.set_yscale("log")
    return Drawing(name, figure, {"reference": x.tolist(), "predicted": y.tolist()})


def draw_learning(
    name: str, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str
) -> Drawing:
    """Draw how losses or errors fell while training.

    Args:
        name: File name without suffix.
        curves: Steps and values by name.
        ylabel: What the values are.
    """
    with style():
        figure, axes = new_figure()
        for label, (steps, values) in curves.items():
            axes[0, 0].plot(steps, values, label=label)
        axes[0, 0].set(xlabel="step", ylabel=ylabel, yscale="log", title="Training")
        axes[0, 0].legend()
    data: dict[str, Sequence[Any]] = {}
    for label, (steps, values) in curves.items():
        data |= {f"{label}: step": list(steps), label: list(values)}
    return Drawing(name, figure, data)


def draw_dynamics(samples: Samples) -> Drawing:
    """Draw energies, temperature and the most stretched bond along a trajectory.

    Args:
        samples: What was measured.
    """
    times, total = samples.picoseconds, samples.total
    with style():
        figure, axes = new_figure(1, 3)
        energy, temperature, stretch = axes[0]
        energy.plot(times, 1000 * (samples.potential - total[0]), label="potential", linewidth=0.8)
        energy.plot(times, 1000 * (total - total[0]), label="total")
        energy.set(xlabel="time (ps)", ylabel="energy - first total (meV)", title="Energy")
        energy.legend()
        temperature.plot(times, samples.temperature, linewidth=0.8)
        temperature.set(xlabel="time (ps)", ylabel="temperature (K)", title="Temperature")
        stretch.plot(times, samples.stretch, linewidth=0.8)
        stretch.set(xlabel="time (ps)", ylabel="most stretched bond (A)", title="Bonds")
    return Drawing("dynamics", figure, samples.columns())


def draw_distances(folder: Path, *, reach: float = 6.0, bins: int = 240) -> Drawing:
    """Draw the histogram of interatomic distances over a trajectory.

    Args:
        folder: Of a dynamics run.
        reach: Largest distance, in A.
        bins: Of the histogram.
    """
    counts, edges, frames = np.zeros(bins), np.linspace(0, reach, bins + 1), 0
    for atoms in read_structures(folder / TRAJECTORY):
        distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[np.triu_indices(len(atoms), k=1)]
        counts += np.histogram(distances, edges)[0]
        frames += 1
    density = counts / max(1, frames) / (edges[1] - edges[0])
    middle = (edges[1:] + edges[:-1]) / 2
    with style():
        figure, axes = new_figure()
        axes[0, 0].plot(middle, density, linewidth=1)
        axes[0, 0].set(xlabel="distance (A)", ylabel="pairs per A", title="Distances along the trajectory")
    return Drawing("distances", figure, {"distance": middle.tolist(), "pairs per A": density.tolist()})


def draw_profile(place: Numbers, profiles: Mapping[str, Numbers], xlabel: str) -> Drawing:
    """Draw energies along a path.

    Args:
        place: Where on the path.
        profiles: Energies in eV by name.
        xlabel: What the place is.
    """
    with style():
        figure, axes = new_figure()
        for name, energies in profiles.items():
            axes[0, 0].plot(place, energies, ".-", label=name)
        axes[0, 0].set(xlabel=xlabel, ylabel="energy - first (eV)", title="Profile")
        axes[0, 0].legend()
    return Drawing(
        "profile", figure, {xlabel: place.tolist(), **{k: v.tolist() for k, v in profiles.items()}}
    )
