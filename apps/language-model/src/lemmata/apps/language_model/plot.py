"""Draw what a training, a comparison or a refinement recorded."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.language_model.figures import Drawing
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Drawing = "lemmata.apps.language_model.figures.Drawing"

__all__ = ["plot"]


def plot(results: Path, *, out: Path | None = None, force: bool = False) -> list[Path]:
    """Draw what a training, a comparison or a refinement recorded, as PNG and SVG with the numbers as CSV.

    Args:
        results: Folder that `fit`, `compare` or `refine` wrote.
        out: Folder to write; "plots" in that folder where not given.
        force: Replace existing plots.

    Returns:
        The files written.

    Raises:
        FileExistsError: Where the plots exist and `force` is not given.
        FileNotFoundError: Where the folder holds nothing to draw.
        ValueError: Where its files cannot be read.
    """
    from lemmata.apps.kit.files import new_output
    from lemmata.apps.kit.plots import save_figure, style
    from lemmata.apps.language_model.compare import RESULTS as COMPARISON
    from lemmata.apps.language_model.records import METRICS
    from lemmata.apps.language_model.refine import RESULTS as REFINEMENT

    kinds = {COMPARISON: _comparison, REFINEMENT: _refinement, METRICS: _training}
    draw = next((draw for name, draw in kinds.items() if (results / name).is_file()), None)
    if draw is None:
        raise FileNotFoundError(f"{results}: found none of {', '.join(kinds)}; expected a run's folder")
    with style():
        drawings = list(draw(results))
        out = results / "plots" if out is None else out
        new_output(out, force=force)
        return [path for name, figure, data in drawings for path in save_figure(figure, out / name, data)]


def _training(run: Path) -> "Iterator[Drawing]":
    """Draw one run."""
    from lemmata.apps.language_model import figures
    from lemmata.apps.language_model.records import read_curves

    curves = read_curves(run)
    if "val_loss" in curves:
        yield figures.draw_losses({run.name: curves})
    yield from _recordings({run.name: run})


def _comparison(folder: Path) -> "Iterator[Drawing]":
    """Draw the methods of a comparison at their best learning rates, and what they were chosen from."""
    from lemmata.apps.kit.files import read_json
    from lemmata.apps.language_model import figures

    results = read_json(folder / "compare.json")
    try:
        standings, runs = results["standings"], results["runs"]
        best = {row["optimizer"]: _runs_of(runs, row["optimizer"], row["lr"]) for row in standings}
        finals = {row["optimizer"]: row["finals"].values() for row in standings}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'compare.json'}: not the results of a comparison ({error!r})") from error
    curves = {name: _mean([folder / "runs" / run for run in of]) for name, of in best.items()}
    target = [loss for loss in finals[results["baseline"]] if loss is not None]
    yield figures.draw_losses(curves, target=sum(target) / len(target) if target else None)
    yield figures.draw_sweep(_sweep(runs))
    yield from _recordings({name: folder / "runs" / of[0] for name, of in best.items()})


def _refinement(folder: Path) -> "Iterator[Drawing]":
    """Draw a refinement's norms and schedules, and the losses of its trainings."""
    import numpy as np

    from lemmata.apps.kit.files import read_json
    from lemmata.apps.language_model import figures
    from lemmata.apps.language_model.records import read_curves

    results = read_json(folder / "refine.json")
    try:
        columns = [np.asarray(results[name], dtype=float) for name in ("norms", "linear", "refined")]
        runs = {name: folder / "runs" / name.replace(", ", "-") for name in results["losses"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'refine.json'}: not the results of a refinement ({error!r})") from error
    yield figures.draw_schedules(*columns)
    yield figures.draw_losses({name: read_curves(run) for name, run in runs.items()})


def _recordings(runs: Mapping[str, Path]) -> "Iterator[Drawing]":
    """Draw loads of the first run's experts, and updates and weights of all, as far as they were recorded."""
    from lemmata.apps.language_model import figures
    from lemmata.apps.language_model.records import (
        CHECKPOINT,
        read_loads,
        read_singular_values,
        read_weights,
    )

    first = next(iter(runs.values()))
    loads = read_loads(first)
    if loads is not None:
        yield figures.draw_loads(*loads)
    spectra = {
        name: values for name, run in runs.items() if (values := read_singular_values(run)) is not None
    }
    if spectra:
        yield figures.draw_spectra(spectra)
    weights = {name: read_weights(run) for name, run in runs.items() if (run / CHECKPOINT).is_file()}
    if weights:
        yield figures.draw_weights(
            {name: found.values for name, found in weights.items()},
            {name: found.bound for name, found in weights.items() if found.bound is not None},
        )


def _runs_of(runs: Mapping[str, Any], optimizer: str, lr: float) -> list[str]:
    """Return the names of a method's trainings at a learning rate, by seed."""
    found = {
        run["arguments"]["seed"]: name
        for name, run in runs.items()
        if (run["arguments"]["optimizer"], run["arguments"]["lr"]) == (optimizer, lr)
    }
    return [found[seed] for seed in sorted(found)]


def _sweep(runs: Mapping[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """Return by method its learning rates and the mean final losses there, NaN where a training diverged."""
    finals: dict[str, dict[float, list[float]]] = {}
    for run in runs.values():
        losses = finals.setdefault(run["arguments"]["optimizer"], {})
        final = run["losses"][-1] if run["finished"] else float("nan")
        losses.setdefault(run["arguments"]["lr"], []).append(final)
    return {
        name: ([*sorted(losses)], [sum(losses[lr]) / len(losses[lr]) for lr in sorted(losses)])
        for name, losses in finals.items()
    }


def _mean(runs: Sequence[Path]) -> dict[str, list[float]]:
    """Return validation losses, tokens and seconds by step, as means over the seeds."""
    import math
    import statistics

    from lemmata.apps.language_model.records import read_curves

    columns: dict[float, list[dict[str, float]]] = {}
    for run in runs:
        curves = read_curves(run)
        for place, loss in enumerate(curves.get("val_loss", [])):
            if math.isfinite(loss):
                row = {name: values[place] for name, values in curves.items() if name != "train_loss"}
                columns.setdefault(row["step"], []).append(row)
    shared = [rows for _, rows in sorted(columns.items()) if len(rows) == len(runs)]
    names = list(shared[0][0]) if shared else ["step", "val_loss"]
    return {name: [statistics.fmean(row[name] for row in rows) for rows in shared] for name in names}
