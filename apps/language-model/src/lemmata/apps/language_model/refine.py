"""Refine a learning-rate schedule: train under linear decay, then as the gradient norms suggest."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.kit.tables import Table
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Table = "lemmata.apps.kit.tables.Table"

__all__ = ["refine"]

RESULTS = "refine.json"
SCHEDULE = "schedule.csv"


def refine(
    *,
    data: str = "docstrings",
    out: Path = Path("runs/refine"),
    optimizer: str = "adamw",
    lr: float | None = None,
    steps: int = 300,
    seed: int = 0,
    smoothing: float = 0.1,
    warmup: int = 20,
    validate_every: int = 10,
    batch_size: int = 16,
    model: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Train once under linear decay, refine the schedule from its gradient norms, and train again.

    The first training has no warm-up: the refined schedule finds its own. The norms are the l1 norm for
    optimisers that divide each coordinate by its size, else the l2 norm, both before clipping.

    Args:
        data: A text: a file, a folder, `docstrings` or `tinyshakespeare`.
        out: Folder to write.
        optimizer: The optimiser by name.
        lr: Its largest learning rate; what it comes with where not given.
        steps: Optimiser steps of each training.
        seed: Seed of weights and order of the text, the same for both trainings.
        smoothing: Width of the median filter over the norms, as a fraction of the run.
        warmup: Warm-up of one more training under linear decay, so that a gain is not the warm-up's alone;
            0 leaves it out.
        validate_every: Steps between two validations, which divides `steps`.
        batch_size: Windows of text in a batch.
        model: Fields of `DecoderConfig` that take the place of its defaults.
        options: Further arguments of `training.train` for both trainings.
        force: Replace what the folder holds.

    Returns:
        The folder: refine.json, schedule.csv for `fit --model.schedule`, a table, plots, and the trainings.

    Raises:
        FileExistsError: Where the folder is not empty and `force` is not given.
        FileNotFoundError: Where the text does not exist.
        FloatingPointError: Where a training diverges.
        ValueError: Where an argument is out of range.
    """
    from lemmata.apps.kit.files import new_output, write_json
    from lemmata.apps.language_model.optimizers import OPTIMIZERS, check_optimizer
    from lemmata.apps.language_model.plot import plot
    from lemmata.apps.language_model.records import read_norms
    from lemmata.apps.language_model.schedules import write_schedule
    from lemmata.apps.language_model.training import train
    from lemmata.optim.schedules import fit_polynomial, refine_schedule

    check_optimizer(optimizer, lr, None)
    if steps < 3:
        raise ValueError(f"`steps` (={steps}) must be at least 3")
    if validate_every < 1 or steps % validate_every:
        raise ValueError(f"`validate_every` (={validate_every}) must divide `steps` (={steps})")
    if not 0 < smoothing < 1:
        raise ValueError(f"`smoothing` (={smoothing}) must lie in (0, 1)")
    if warmup < 0:
        raise ValueError(f"`warmup` (={warmup}) must not be negative")
    choice = OPTIMIZERS[optimizer]
    shared: dict[str, Any] = {
        "data": str(data),
        "optimizer": optimizer,
        "lr": choice.lr if lr is None else lr,
        "steps": steps,
        "seed": seed,
        "validate_every": validate_every,
        "batch_size": batch_size,
        "model": model or {},
        **(options or {}),
    }
    new_output(out, force=force).mkdir(exist_ok=True)
    runs: dict[str, dict[str, Any]] = {"linear": {"schedule": "linear", "warmup": 0}}
    train(**shared, **runs["linear"], out=out / "runs" / "linear")
    norms = read_norms(out / "runs" / "linear", choice.norm)
    refined = refine_schedule(norms, p=choice.norm, smoothing=smoothing, total_steps=steps)
    runs["refined"] = {"schedule": str(write_schedule(out / SCHEDULE, refined)), "warmup": 0}
    if warmup:
        runs["linear, warm-up"] = {"schedule": "linear", "warmup": warmup}
    for name, schedule in list(runs.items())[1:]:
        train(**shared, **schedule, out=out / "runs" / name.replace(", ", "-"))
    warm, power = fit_polynomial(refined)
    results = {
        "settings": shared,
        "norm": choice.norm,
        "smoothing": smoothing,
        "warmup_fraction": warm,
        "power": power,
        "norms": norms.tolist(),
        "linear": [1 - step / steps for step in range(steps)],
        "refined": refined.tolist(),
        "losses": {name: _final(out / "runs" / name.replace(", ", "-")) for name in runs},
    }
    write_json(out / RESULTS, results)
    summary = _table(results)
    summary.save(out / "refine")
    plot(out)
    summary.print()
    return out


def _final(run: Path) -> dict[str, float]:
    """Return a training's final and lowest validation loss."""
    from lemmata.apps.language_model.sweep import read_validation

    _, losses = read_validation(run)
    return {"final": losses[-1], "lowest": min(losses)}


def _table(results: Mapping[str, Any]) -> "Table":
    """Return one row a training."""
    from lemmata.apps.kit.tables import Table as Rows

    losses = results["losses"]
    records = [
        {
            "schedule": name,
            "final loss": found["final"],
            "of linear's": found["final"] / losses["linear"]["final"],
            "lowest loss": found["lowest"],
        }
        for name, found in losses.items()
    ]
    settings = results["settings"]
    title = (
        f"{settings['optimizer']}, lr {settings['lr']:g}: the refined schedule is near a "
        f"warm-up of {100 * results['warmup_fraction']:.0f} % and a decay of power {results['power']:.2g}"
    )
    return Rows.from_records(records, title=title)
