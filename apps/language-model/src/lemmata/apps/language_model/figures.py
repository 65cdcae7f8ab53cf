"""The figures of trainings, comparisons and refinements. Each function draws one and returns its numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lemmata.apps.kit.plots import PALETTE, new_figure
from lemmata.apps.kit.tables import Table

__all__ = [
    "Curves",
    "Drawing",
    "draw_loads",
    "draw_losses",
    "draw_schedules",
    "draw_spectra",
    "draw_sweep",
    "draw_weights",
]

Array = npt.NDArray[np.float64]
Curves = Mapping[str, Sequence[float]]
Drawing = tuple[str, Figure, Table]

# A column of a log, and how its axis is called.
PROGRESS = {"step": "optimiser step", "tokens": "tokens", "seconds": "seconds"}
MUTED = "0.6"


def draw_losses(runs: Mapping[str, Curves], *, target: float | None = None) -> Drawing:
    """Draw validation losses over steps, tokens and seconds, one line a run; one run's training loss too.

    Args:
        runs: By label, columns of equal length: `step`, `val_loss`, and of `tokens`, `seconds` and
            `train_loss` those that were recorded. A cell without a value is NaN.
        target: A loss to mark, say the baseline's final one.

    Returns:
        Name, figure, and a row a recorded loss.
    """
    against = [name for name in PROGRESS if all(_recorded(run, name) for run in runs.values())]
    figure, axes = new_figure(1, len(against), height=3.4)
    records: list[dict[str, Any]] = []
    for axis, progress in zip(axes[0], against, strict=True):
        for colour, (label, run) in zip(_colours(len(runs)), runs.items(), strict=True):
            if len(runs) == 1 and _recorded(run, "train_loss"):
                x, y = _pairs(run, progress, "train_loss")
                axis.plot(x, y, color=MUTED, linewidth=0.8, label="training")
            x, y = _pairs(run, progress, "val_loss")
            said = "validation" if len(runs) == 1 else label
            axis.plot(x, y, color=colour, marker="." if len(x) <= 40 else None, label=said)
        if target is not None:
            axis.axhline(target, color="0.3", linewidth=0.9, linestyle=":", zorder=0)
        axis.set_xlabel(PROGRESS[progress])
        axis.label_outer()
    axes[0][0].set_ylabel("loss, nats a token")
    axes[0][0].legend()
    _trim(axes[0], runs)
    figure.suptitle("Validation loss" if len(runs) > 1 else "Loss")
    for label, run in runs.items():
        for place in range(len(run["step"])):
            found = {name: run[name][place] for name in (*against, "train_loss", "val_loss") if name in run}
            if any(math.isfinite(found.get(name, math.nan)) for name in ("train_loss", "val_loss")):
                records.append(
                    {"run": label, **{n: v if math.isfinite(v) else None for n, v in found.items()}}
                )
    return "losses", figure, Table.from_records(records)


def draw_loads(steps: Sequence[float], loads: Mapping[str, Array]) -> Drawing:
    """Draw each expert's share of the tokens over the training, one panel a block.

    Args:
        steps: The steps at which the shares were recorded.
        loads: By block, shares of shape (steps, experts); each row adds up to 1.

    Returns:
        Name, figure, and a row a step, block and expert.
    """
    figure, axes = new_figure(1, len(loads), width=3.4, height=3.0, sharey=True)
    records: list[dict[str, Any]] = []
    for axis, (block, shares) in zip(axes[0], loads.items(), strict=True):
        experts = shares.shape[1]
        for expert, colour in enumerate(_colours(experts)):
            axis.plot(steps, shares[:, expert], color=colour, linewidth=1.1)
            records.extend(
                {"block": block, "expert": expert, "step": int(step), "share": float(share)}
                for step, share in zip(steps, shares[:, expert], strict=True)
            )
        axis.axhline(1 / experts, color="0.3", linestyle=":", linewidth=0.9)
        axis.set_title(block)
        axis.set_xlabel("optimiser step")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.label_outer()
    axes[0][0].set_ylabel("share of the tokens")
    axes[0][0].set_ylim(bottom=0.0)
    figure.suptitle("Expert load; dotted: equal shares")
    return "expert_load", figure, Table.from_records(records)


def draw_spectra(spectra: Mapping[str, Array]) -> Drawing:
    """Draw histograms of the singular values of the matrices' updates, each relative to its matrix's largest.

    Args:
        spectra: By label, counts in bins of equal width from 0 to 1.

    Returns:
        Name, figure, and a row a bin.
    """
    figure, axes = new_figure(width=5.2)
    axis = axes[0, 0]
    records: list[dict[str, Any]] = []
    for colour, (label, counts) in zip(_colours(len(spectra)), spectra.items(), strict=True):
        edges = np.linspace(0.0, 1.0, len(counts) + 1)
        shares = counts / max(1.0, float(counts.sum()))
        axis.stairs(shares, edges, color=colour, fill=True, alpha=0.15)
        axis.stairs(shares, edges, color=colour, linewidth=1.4, label=label)
        records.extend({"run": label, **row} for row in _bins(edges, {"share": shares}))
    axis.set_xlabel("singular value of an update, over its matrix's largest")
    axis.set_ylabel("share")
    axis.set_title("Singular values of the blocks' updates")
    axis.legend(loc="upper center")
    return "update_singular_values", figure, Table.from_records(records)


def draw_sweep(finals: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Drawing:
    """Draw final validation losses over learning rates, one line a method.

    Args:
        finals: By method, learning rates, increasing, and mean final losses; NaN where a training diverged.

    Returns:
        Name, figure, and a row a learning rate.
    """
    figure, axes = new_figure(width=5.2)
    axis = axes[0, 0]
    records: list[dict[str, Any]] = []
    for colour, (label, (lrs, losses)) in zip(_colours(len(finals)), finals.items(), strict=True):
        axis.plot(lrs, losses, marker="o", color=colour, label=label)
        records.extend(
            {"optimiser": label, "lr": lr, "final loss": loss if math.isfinite(loss) else None}
            for lr, loss in zip(lrs, losses, strict=True)
        )
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("final validation loss")
    axis.set_title("Learning rates")
    axis.legend()
    return "learning_rates", figure, Table.from_records(records)


def draw_weights(weights: Mapping[str, Array], bounds: Mapping[str, float]) -> Drawing:
    r"""Draw histograms of weights' magnitudes, with the bound that weight decay imposes where there is one.

    Lion with decoupled weight decay $\lambda$ minimises the loss over the box
    $\lvert w \rvert \le 1 / \lambda$, and enters it exponentially fast.

    Args:
        weights: By label, all weights that the bound speaks of, as one vector.
        bounds: By label, the bound $1 / \\lambda$ where it holds.

    Returns:
        Name, figure, and a row a bin.
    """
    largest = max([*(float(np.abs(values).max()) for values in weights.values()), *bounds.values()])
    smallest = min(1e-3, largest / 1e4)
    edges = np.logspace(math.log10(smallest), math.log10(2 * largest), 61)
    figure, axes = new_figure(width=5.2)
    axis = axes[0, 0]
    counts = {
        label: np.histogram(np.clip(np.abs(values), edges[0], None), edges)[0] / len(values)
        for label, values in weights.items()
    }
    for colour, (label, shares) in zip(_colours(len(counts)), counts.items(), strict=True):
        axis.stairs(shares, edges, color=colour, linewidth=1.4, label=label)
        if label in bounds:
            axis.axvline(bounds[label], color=colour, linestyle=":", linewidth=1.4)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("magnitude of a weight; dotted: 1 / weight decay" if bounds else "magnitude of a weight")
    axis.set_ylabel("share")
    axis.set_title("Weights")
    axis.legend()
    return "weights", figure, Table.from_records(_bins(edges, counts))


def draw_schedules(norms: Array, linear: Array, refined: Array) -> Drawing:
    """Draw recorded gradient norms, and the schedule before and after refinement.

    Args:
        norms: Gradient norms of the first run, one a step.
        linear: Multipliers of the learning rate in the first run, one a step.
        refined: Multipliers in the second run, one a step.

    Returns:
        Name, figure, and a row a step.
    """
    figure, axes = new_figure(1, 2)
    left, right = axes[0]
    steps = np.arange(1, len(norms) + 1)
    left.plot(steps, norms, color=PALETTE[0], linewidth=0.9)
    left.set_yscale("log")
    left.set_xlabel("optimiser step")
    left.set_title("Gradient norm, first run")
    right.plot(steps, linear, color=MUTED, label="first run")
    right.plot(steps, refined, color=PALETTE[1], label="refined")
    right.set_xlabel("optimiser step")
    right.set_title("Learning rate over its largest")
    right.legend()
    data = {
        "step": steps.tolist(),
        "norm": norms.tolist(),
        "first": linear.tolist(),
        "refined": refined.tolist(),
    }
    return "schedule", figure, Table(list(data), list(map(list, zip(*data.values(), strict=True))))


def _colours(count: int) -> list[str]:
    """Return as many colours as there are lines; they repeat where there are many."""
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


def _recorded(run: Curves, name: str) -> bool:
    """Tell whether a run recorded any value of a column."""
    return bool(np.isfinite(np.asarray(run.get(name, []), dtype=float)).any())


def _pairs(run: Curves, x: str, y: str) -> tuple[Array, Array]:
    """Return the points at which both columns have a value."""
    columns = np.asarray([run[x], run[y]], dtype=float)
    kept = np.isfinite(columns).all(axis=0)
    return columns[0, kept], columns[1, kept]


def _trim(axes: Any, runs: Mapping[str, Curves]) -> None:
    """Cut the start of a training off the panel where it would flatten what comes after."""
    every = np.concatenate([_pairs(run, "step", "val_loss")[1] for run in runs.values()])
    if len(every) < 4:
        return
    low, middle, high = float(every.min()), float(np.median(every)), float(every.max())
    if high - low > 4 * (middle - low) > 0:
        for axis in axes:
            axis.set_ylim(low - 0.1 * (middle - low), low + 4 * (middle - low))


def _bins(edges: Array, counts: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Return a histogram's rows."""
    return [
        {
            "from": float(low),
            "to": float(high),
            **{label: float(shares[place]) for label, shares in counts.items()},
        }
        for place, (low, high) in enumerate(itertools.pairwise(edges))
    ]
