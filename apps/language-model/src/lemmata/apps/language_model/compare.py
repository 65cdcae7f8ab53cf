"""Compare optimisers on one text: learning rates swept for all, seeds, steps to the baseline's loss."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.kit.tables import Table
    from lemmata.apps.language_model.scoring import Cost, Outcome, Standing
    from lemmata.apps.language_model.sweep import Job
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Table = "lemmata.apps.kit.tables.Table"
    Cost = "lemmata.apps.language_model.scoring.Cost"
    Outcome = "lemmata.apps.language_model.scoring.Outcome"
    Standing = "lemmata.apps.language_model.scoring.Standing"
    Job = "lemmata.apps.language_model.sweep.Job"

__all__ = ["compare", "names_of", "run_name"]

RESULTS = "compare.json"
SETTINGS = "settings.json"
METHODS = ("adamw", "muon", "lion", "auon", "hybrid-auon")


def compare(
    *,
    data: str = "docstrings",
    out: Path = Path("runs/compare"),
    optimizers: list[str] | str | None = None,
    lrs: dict[str, list[float]] | None = None,
    seeds: list[int] | int | None = None,
    baseline: str = "adamw",
    steps: int = 300,
    validate_every: int = 10,
    batch_size: int = 16,
    model: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    workers: int = 1,
    costs: bool = True,
    force: bool = False,
) -> Path:
    """Compare optimisers on one text.

    Every optimiser is trained with each of its learning rates and each seed. It keeps the learning rate with
    the lowest mean final validation loss; every optimiser has the same number to choose from. The headline is
    the first recorded validation step at which its loss is at most the lowest final loss of the baseline.

    A comparison that was killed goes on where the same command is run again: what has finished is kept.
    Optimisers, learning rates and seeds may be added the same way.

    Args:
        data: A text: a file, a folder, `docstrings` or `tinyshakespeare`.
        out: Folder to write.
        optimizers: Optimisers by name, the five of `METHODS` where not given; the baseline is added.
        lrs: Learning rates to choose from by optimiser, in place of those it comes with.
        seeds: Seeds of weights and order of the text; 0, 1 and 2 where not given.
        baseline: The optimiser to compare with.
        steps: Optimiser steps of each training.
        validate_every: Steps between two validations; divides `steps`. The headline is a multiple of it.
        batch_size: Windows of text in a batch.
        model: Fields of `DecoderConfig` that take the place of its defaults.
        options: Further arguments of `training.train` for every training, say `{"warmup": 20}`.
        workers: Processes that train at a time.
        costs: Measure step times and optimiser states too, at the end, in this process.
        force: Replace what the folder holds, with all trainings in it.

    Returns:
        The folder: compare.json, tables as CSV and Markdown, plots, and the trainings under runs.

    Raises:
        ChildProcessError: Where a process was lost; what has finished is kept.
        FileExistsError: Where the folder holds something else and `force` is not given.
        FileNotFoundError: Where the text does not exist.
        ValueError: Where an argument is out of range, or the folder holds another comparison.
    """
    from lemmata.apps.kit.files import write_json
    from lemmata.apps.language_model.scoring import cost_table, joined, standings, table
    from lemmata.apps.language_model.sweep import run_jobs

    names = names_of(optimizers, baseline)
    every = [0, 1, 2] if seeds is None else [seeds] if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    grids = _grids(names, lrs or {})
    for option, value in (("steps", steps), ("validate_every", validate_every), ("workers", workers)):
        if value < 1:
            raise ValueError(f"`{option}` (={value}) must be a positive integer")
    if steps % validate_every:
        raise ValueError(f"`validate_every` (={validate_every}) must divide `steps` (={steps})")
    if not every:
        raise ValueError("`seeds` must hold at least one seed")
    shared = {
        "data": str(data),
        "steps": steps,
        "validate_every": validate_every,
        "batch_size": batch_size,
        "model": model or {},
        **(options or {}),
    }
    _open(out, {**shared, "text": _digest(data)}, force=force)
    jobs = [
        _job(name, lr, seed, shared)
        for seed in every  # seed by seed, so that a comparison that is cut short has whole ones
        for name in names
        for lr in grids[name]
    ]
    with _progress(len(jobs)) as report:
        found = run_jobs(jobs, out / "runs", workers=workers, report=report)
    outcomes = [_outcome(outcome) for outcome in found.values()]
    standing = standings(outcomes, baseline=baseline, checkpoints=_checkpoints(steps, validate_every))
    measured = _costs(names, shared, out / "runs" / jobs[0].name) if costs else None
    results = {
        "settings": shared,
        "baseline": baseline,
        "seeds": every,
        "workers": workers,
        "standings": [_plain(row) for row in standing],
        "costs": None if measured is None else {name: asdict(cost) for name, cost in measured.items()},
        "runs": found,
    }
    summary = table(standing, title=f"Validation loss at steps, and steps to {baseline}'s best final loss")
    tables = [summary] if measured is None else [summary, cost_table(measured, baseline=baseline)]
    (joined(*tables) if len(tables) == 2 else summary).save(out / "compare")
    write_json(out / RESULTS, results)
    _plot(out)
    for found_out in tables:
        found_out.print()
    return out


def names_of(optimizers: list[str] | str | None, baseline: str) -> list[str]:
    """Return the optimisers to compare, the baseline first, each once.

    Args:
        optimizers: Names, or names with commas between them; `METHODS` where None.
        baseline: The name to compare with.

    Returns:
        The names.

    Raises:
        ValueError: Where a name is unknown.

    Examples:
        >>> names_of("muon,lion", "adamw")
        ['adamw', 'muon', 'lion']
    """
    from lemmata.apps.language_model.optimizers import check_optimizer

    given: Iterable[str] = METHODS if optimizers is None else optimizers
    if isinstance(given, str):
        given = given.split(",")
    names = list(dict.fromkeys([baseline, *(name.strip() for name in given)]))
    for name in names:
        check_optimizer(name, None, None)
    return names


def run_name(optimizer: str, lr: float, seed: int) -> str:
    """Return the name of a training's folder under runs.

    Examples:
        >>> run_name("muon", 0.02, 0)
        'muon-lr0.02-seed0'
    """
    return f"{optimizer}-lr{lr:g}-seed{seed}"


def _grids(names: Sequence[str], lrs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return each optimiser's learning rates, as many for one as for the other."""
    from lemmata.apps.language_model.optimizers import OPTIMIZERS, check_optimizer

    for name in lrs:
        if name not in names:
            raise ValueError(
                f"`lrs` names {name!r}, expected optimisers that are compared: {', '.join(names)}"
            )
    grids = {name: sorted({float(lr) for lr in lrs.get(name, OPTIMIZERS[name].sweep)}) for name in names}
    for name, grid in grids.items():
        for lr in grid:
            check_optimizer(name, lr, None)
    if len({len(grid) for grid in grids.values()}) > 1 or not all(grids.values()):
        told = ", ".join(f"{name} {len(grid)}" for name, grid in grids.items())
        raise ValueError(f"`lrs` must give as many learning rates to one as to the other, got {told}")
    return grids


def _digest(data: str) -> str:
    """Return the hash of a text, so that a comparison never goes on with another."""
    from lemmata.apps.language_model.text import read_text

    return hashlib.sha256(read_text(data).encode()).hexdigest()


def _open(out: Path, settings: dict[str, Any], *, force: bool) -> None:
    """Open the folder: new, replaced with `force`, or that of this comparison."""
    from lemmata.apps.kit.files import new_output, read_json, write_json

    if (out / SETTINGS).is_file() and not force:
        before = read_json(out / SETTINGS)
        if before == settings:
            return
        changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        raise ValueError(
            f"{out} holds a comparison with other settings ({', '.join(changed)}); pass --force to "
            "replace it, or another --out"
        )
    new_output(out, force=force).mkdir(exist_ok=True)
    write_json(out / SETTINGS, settings)


def _job(name: str, lr: float, seed: int, shared: Mapping[str, Any]) -> "Job":
    """Return one training."""
    from lemmata.apps.language_model.sweep import Job as Training

    return Training(run_name(name, lr, seed), {**shared, "optimizer": name, "lr": lr, "seed": seed})


def _outcome(outcome: Mapping[str, Any]) -> "Outcome":
    """Return what a training reached, for scoring."""
    from lemmata.apps.language_model.scoring import Outcome as Reached

    what = outcome["arguments"]
    return Reached(
        what["optimizer"],
        what["lr"],
        what["seed"],
        tuple(outcome["steps"]),
        tuple(outcome["losses"]),
        outcome["finished"],
    )


def _plain(row: "Standing") -> dict[str, Any]:
    """Return a standing as JSON types, what is infinite as None."""
    import math

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "optimizer": row.optimizer,
        "lr": row.lr,
        "lrs": list(row.lrs),
        "at_the_edge": row.at_the_edge,
        "checkpoints": {str(step): finite(loss) for step, loss in row.checkpoints.items()},
        "finals": {str(seed): finite(loss) for seed, loss in row.finals.items()},
        "reached": {str(seed): step for seed, step in row.reached.items()},
        "fraction": row.fraction,
    }


def _checkpoints(steps: int, validate_every: int) -> list[int]:
    """Return the validated steps nearest below a third and two thirds of the run, and its last."""
    thirds = {max(1, round(steps * part / 3) // validate_every) * validate_every for part in (1, 2)}
    return sorted({*thirds, steps})


def _costs(names: Sequence[str], shared: Mapping[str, Any], run: Path) -> "dict[str, Cost]":
    """Measure what each optimiser costs on the decoder that was trained."""
    from lemmata.apps.language_model.bench import optimizer_costs
    from lemmata.apps.language_model.records import read_config

    return optimizer_costs(read_config(run), names, batch_size=shared["batch_size"])


def _plot(out: Path) -> None:
    """Draw the comparison, over what was drawn before."""
    from lemmata.apps.language_model.plot import plot

    plot(out, force=True)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Give what counts finished trainings, in a bar where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{total} trainings", total=total)

        def report(name: str, outcome: dict[str, Any]) -> None:
            said = f"loss {outcome['losses'][-1]:.3f}" if outcome["finished"] else "diverged"
            bar.update(task, advance=1, description=f"{name}: {said}")

        yield report
