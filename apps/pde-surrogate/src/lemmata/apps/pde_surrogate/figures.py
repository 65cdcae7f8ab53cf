"""The figures of an evaluation. Each function draws one; `draw` draws them all."""

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lemmata.apps.kit.files import read_json
from lemmata.apps.kit.plots import PALETTE, new_figure, save_figure
from lemmata.apps.kit.tables import Table
from lemmata.apps.pde_surrogate.evaluate import FIELDS, RESULTS, run_folder
from lemmata.apps.pde_surrogate.metrics import METRICS

__all__ = ["Evaluation", "draw", "read_evaluation"]

Array = npt.NDArray[Any]
Drawing = tuple[str, Figure, Table]

SURROGATE, SOLVER, REFERENCE, MUTED = PALETTE[1], PALETTE[0], "0.15", "0.6"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` wrote.

    Args:
        folder: Its folder.
        results: The content of results.json.
        fields: The median and the worst sample of each resolution.
        curves: The columns of the run's metrics.csv, where there is one.
    """

    folder: Path
    results: dict[str, Any]
    fields: Mapping[str, Array]
    curves: Mapping[str, list[float]]


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.

    Args:
        path: Its folder, or that of a run that holds it.

    Returns:
        The evaluation.

    Raises:
        FileNotFoundError: Where there is none.
        ValueError: Where a file cannot be read.
    """
    folder = next((at for at in (path, path / "evaluation") if (at / RESULTS).is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"{path}: found no {RESULTS}, expected the folder of an evaluation")
    results = read_json(folder / RESULTS)
    if not isinstance(results, dict) or not {"errors", "spectra", "race", "training"} <= results.keys():
        raise ValueError(f"{folder / RESULTS}: not the results of an evaluation")
    try:
        with (folder / FIELDS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            fields = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder / FIELDS}: cannot be read as an .npz of arrays ({error})") from error
    homes = (run_folder(Path(results["checkpoint"])), folder.parent)
    log = next((home / "metrics.csv" for home in homes if (home / "metrics.csv").is_file()), None)
    return Evaluation(folder, results, fields, {} if log is None else _columns(log))


def draw(evaluation: Evaluation, out: Path) -> list[Path]:
    """Draw every figure that an evaluation has the numbers for.

    Args:
        evaluation: The evaluation.
        out: Folder to write.

    Returns:
        The files written.
    """
    drawings = [_fields(evaluation, row["resolution"]) for row in evaluation.results["errors"]]
    drawings.append(_errors(evaluation.results))
    if evaluation.results["race"]:
        drawings.append(_race(evaluation.results))
    drawings.append(_spectra(evaluation.results))
    if "step" in evaluation.curves and evaluation.curves.keys() & {"train_loss", "val_l2"}:
        drawings.append(_training(evaluation.curves))
    return [path for name, figure, data in drawings for path in save_figure(figure, out / name, data)]


def _fields(evaluation: Evaluation, shape: Sequence[int]) -> Drawing:
    """Draw input, reference, prediction and error of the median and the worst sample."""
    stem = "x".join(map(str, shape))
    samples = {
        which: {
            what: evaluation.fields[f"{stem}_{which}_{what}"][0] for what in ("input", "target", "prediction")
        }
        for which in ("median", "worst")
    }
    size = 2.7 if len(shape) == 2 else 3.4
    if len(shape) == 1:
        figure, axes = new_figure(2, 2, width=size, height=2.3)
        for row, (which, sample) in zip(axes, samples.items(), strict=True):
            _lines(row, which, sample)
    else:
        figure, axes = new_figure(2, 4, width=size, height=size)
        for row, (which, sample) in zip(axes, samples.items(), strict=True):
            _images(figure, row, which, {what: _slice(field) for what, field in sample.items()})
    figure.suptitle(f"{_equation(evaluation.results)} on {_times(shape)} points")
    return f"fields_{stem}", figure, _field_table(samples)


def _images(figure: Figure, row: Array, which: str, sample: Mapping[str, Array]) -> None:
    """Draw one sample of a field in two dimensions; reference and prediction share a colour scale."""
    target, prediction = sample["target"], sample["prediction"]
    error = np.abs(prediction - target)
    low, high = (float(pick([pick(target), pick(prediction)])) for pick in (np.min, np.max))
    relative = float(np.linalg.norm(prediction - target) / np.linalg.norm(target))
    panels: tuple[tuple[str, Array, dict[str, Any]], ...] = (
        (f"input ({which} sample)", sample["input"], {"cmap": "cividis"}),
        ("reference", target, {"cmap": "viridis", "vmin": low, "vmax": high}),
        ("surrogate", prediction, {"cmap": "viridis", "vmin": low, "vmax": high}),
        (f"error, relative L2 {_percent(relative)}", error, {"cmap": "magma", "vmin": 0.0}),
    )
    for axis, (title, field, options) in zip(row, panels, strict=True):
        image = axis.imshow(field.T, origin="lower", interpolation="nearest", **options)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
        bar = figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)
        bar.ax.tick_params(labelsize="small")
        bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]  # a ScalarFormatter here


def _lines(row: Array, which: str, sample: Mapping[str, Array]) -> None:
    """Draw one sample of a field in one dimension."""
    x = np.arange(len(sample["target"])) / len(sample["target"])
    first, second = row
    first.plot(x, sample["input"], color=MUTED, label="input")
    first.plot(x, sample["target"], color=REFERENCE, linewidth=2.4, label="reference")
    first.plot(x, sample["prediction"], color=SURROGATE, linestyle="--", label="surrogate")
    first.set_title(f"{which} sample")
    first.legend(frameon=False)
    second.plot(x, sample["prediction"] - sample["target"], color=SURROGATE)
    second.set_title("error")


def _errors(results: Mapping[str, Any]) -> Drawing:
    """Draw errors over resolutions, the training resolutions marked."""
    rows = results["errors"]
    finest = [row["resolution"][0] for row in rows]
    figure, axes = new_figure()
    axis = axes[0, 0]
    for colour, (name, label) in zip(PALETTE, METRICS.items(), strict=False):
        values = [row[name] for row in rows]
        if None not in values:
            axis.plot(finest, values, marker="o", color=colour, label=label)
    for grid in results["training"]["grids"]:
        axis.axvline(grid["shape"][0], color=MUTED, linestyle=":", zorder=0)
        axis.annotate(
            "trained here",
            (grid["shape"][0], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
            color="0.35",
            fontsize="small",
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(finest, labels=[str(n) for n in finest])
    axis.minorticks_off()
    _plain_log(axis.yaxis)
    axis.set_xlabel("points along an axis")
    axis.set_ylabel("mean relative error")
    axis.set_title("Error over resolution")
    axis.legend(frameon=False)
    return "error_over_resolution", figure, Table.from_records(rows)


def _race(results: Mapping[str, Any]) -> Drawing:
    """Draw error over seconds of the surrogate and of the cheapened solver, whose Pareto front is marked."""
    shapes = [row["resolution"] for row in results["errors"]]
    modes = {"single": "one at a time", "batched": "batched"}
    figure, axes = new_figure(len(modes), len(shapes), width=3.3, height=2.9)
    for row, (mode, name) in zip(axes, modes.items(), strict=True):
        for axis, shape in zip(row, shapes, strict=True):
            points = [point for point in results["race"] if point["resolution"] == shape]
            _race_panel(axis, points, mode)
            axis.set_title(f"{_times(shape)}, {name}")
        row[0].set_ylabel("mean relative L2 error")
    for axis in axes[-1]:
        axis.set_xlabel("milliseconds a sample")
    _share_limits(axes)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Accuracy per second: lower left is better")
    return "accuracy_per_second", figure, Table.from_records(results["race"])


def _race_panel(axis: Axes, points: Sequence[Mapping[str, Any]], mode: str) -> None:
    """Draw one resolution and mode."""
    rungs = [point for point in points if point["method"] == "solver"]
    best = sorted((p for p in rungs if p[f"on_front_{mode}"]), key=lambda p: p[mode])
    others = [point for point in rungs if not point[f"on_front_{mode}"]]
    surrogate = next(point for point in points if point["method"] == "surrogate")
    axis.axhline(surrogate["error"], color=SURROGATE, linewidth=0.8, linestyle=":", zorder=0)
    axis.scatter(
        [1e3 * p[mode] for p in others],
        [p["error"] for p in others],
        s=14,
        color=MUTED,
        alpha=0.6,
        linewidths=0,
        label="solver, other settings",
    )
    axis.plot(
        [1e3 * p[mode] for p in best],
        [p["error"] for p in best],
        marker="o",
        markersize=5,
        color=SOLVER,
        label="solver, Pareto front",
    )
    axis.scatter(
        [1e3 * surrogate[mode]],
        [surrogate["error"]],
        marker="*",
        s=150,
        color=SURROGATE,
        edgecolors="white",
        linewidths=0.8,
        zorder=5,
        label="surrogate",
    )
    axis.set_xscale("log")
    axis.set_yscale("log")


def _share_limits(axes: Any) -> None:
    """Give all panels the same limits, so that they can be compared."""
    flat = list(np.ravel(axes))
    for get, set_ in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        limits = [getattr(axis, get)() for axis in flat]
        shared = min(low for low, _ in limits), max(high for _, high in limits)
        for axis in flat:
            getattr(axis, set_)(shared)
    for axis in flat:
        _plain_log(axis.yaxis)
        _plain_log(axis.xaxis)
        axis.label_outer()


def _spectra(results: Mapping[str, Any]) -> Drawing:
    """Draw energies by octave of wave number at each resolution."""
    spectra = results["spectra"]
    figure, axes = new_figure(1, len(spectra), width=3.3, height=3.0)
    for axis, found in zip(axes[0], spectra, strict=True):
        centres = [math.sqrt(low * high) if low > 0 else 0.5 * high for low, high in found["bands"]]
        axis.plot(centres, found["target"], marker="o", color=REFERENCE, label="reference")
        axis.plot(
            centres,
            found["prediction"],
            marker="s",
            markersize=4,
            linestyle="--",
            color=SURROGATE,
            label="surrogate",
        )
        axis.plot(centres, found["error"], marker=".", color=MUTED, label="difference")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(_times(found["resolution"]))
        axis.set_xlabel("wave number, by octaves")
    axes[0][0].set_ylabel("energy")
    axes[0][0].legend(frameon=False)
    limits = [axis.get_ylim() for axis in axes[0]]
    for axis in axes[0]:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        axis.label_outer()
    figure.suptitle("Energy spectra")
    return "spectra", figure, Table.from_records(_spectrum_records(spectra))


def _spectrum_records(spectra: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a band and resolution."""
    return [
        {
            "resolution": _times(found["resolution"]),
            "from": low,
            "to": high,
            **{name: found[name][band] for name in ("target", "prediction", "error", "relative")},
        }
        for found in spectra
        for band, (low, high) in enumerate(found["bands"])
    ]


def _training(curves: Mapping[str, list[float]]) -> Drawing:
    """Draw the training loss and the validation error over steps."""
    figure, axes = new_figure(width=4.8)
    axis = axes[0, 0]
    steps = np.asarray(curves["step"])
    records: list[dict[str, Any]] = []
    for name, label, colour in (
        ("train_loss", "training loss", MUTED),
        ("val_l2", "validation, relative L2", SURROGATE),
        ("val_h1", "validation, relative H1", SOLVER),
    ):
        values = np.asarray(curves.get(name, []))
        kept = np.isfinite(values)
        if not kept.any():
            continue
        few = int(kept.sum()) < 100
        axis.plot(steps[kept], values[kept], color=colour, label=label, marker="." if few else None)
        pairs = zip(steps[kept].tolist(), values[kept].tolist(), strict=True)
        records.extend({"curve": label, "step": int(step), "value": value} for step, value in pairs)
    axis.set_yscale("log")
    _plain_log(axis.yaxis)
    axis.set_xlabel("step")
    axis.set_title("Training")
    axis.legend(frameon=False)
    return "training", figure, Table.from_records(records)


def _field_table(samples: Mapping[str, Mapping[str, Array]]) -> Table:
    """Return fields point by point."""
    rows = [
        [which, *index, *(float(sample[what][index]) for what in ("input", "target", "prediction"))]
        for which, sample in samples.items()
        for index in np.ndindex(sample["target"].shape)
    ]
    dim = len(rows[0]) - 4
    return Table(["sample", *"ijk"[:dim], "input", "target", "prediction"], rows)


def _columns(log: Path) -> dict[str, list[float]]:
    """Read a CSV of numbers by columns, empty cells as NaN."""
    with log.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        names = reader.fieldnames or []
    try:
        return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in names}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{log}: not a table of numbers ({error})") from error


def _plain_log(axis: Any) -> None:
    """Label a logarithmic axis by plain numbers where it spans little."""
    low, high = axis.get_view_interval()
    if high / low < 1e3:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _slice(field: Array) -> Array:
    """Return a field in two dimensions, of three the middle plane."""
    return field if field.ndim == 2 else field[..., field.shape[-1] // 2]


def _equation(results: Mapping[str, Any]) -> str:
    """Return what the fields are of."""
    return str(results["training"].get("equation") or "own data")


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
