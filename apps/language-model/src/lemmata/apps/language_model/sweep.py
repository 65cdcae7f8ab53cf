"""Run many trainings, in parallel processes where wanted, and keep each that has finished.

A finished training leaves `outcome.json` in its folder. A sweep that was killed, or that lost a process, goes
on when it is run again: what is finished is kept, what was under way starts anew.
"""

import concurrent.futures
import contextlib
import csv
import math
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemmata.apps.kit.files import read_json, write_json

__all__ = ["Job", "read_columns", "read_validation", "run_jobs"]

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        name: Name of its folder, unique in the sweep.
        arguments: Arguments of `training.train` besides `out`, as JSON types: what makes it this training.
    """

    name: str
    arguments: Mapping[str, Any]


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int = 1,
    report: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run the trainings that have not finished yet.

    With one worker they run in this process, with more in processes of their own with an equal share of the
    cores each; a script then needs the usual guard `if __name__ == "__main__":`. A training whose loss stops
    being a number is an outcome like any other.

    Args:
        jobs: The trainings.
        folder: Folder that holds a folder of each.
        workers: Processes that train at a time.
        report: Called with name and outcome of each training as it finishes.

    Returns:
        By name, in the order of `jobs`: `arguments`, `steps` and `losses` (validation), `finished`, `error`.

    Raises:
        ValueError: Where `workers` is not positive, names repeat, or a folder holds another training.
        ChildProcessError: Where a process was lost; what has finished is kept.
    """
    if workers < 1:
        raise ValueError(f"`workers` (={workers}) must be a positive integer")
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("`jobs` must each have their own name")
    found = {job.name: kept for job in jobs if (kept := _kept(job, folder / job.name)) is not None}
    waiting = [job for job in jobs if job.name not in found]
    for name, outcome in _finished(waiting, folder, min(workers, len(waiting))):
        found[name] = outcome
        if report is not None:
            report(name, outcome)
    return {job.name: found[job.name] for job in jobs}


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read a CSV of numbers by columns, empty cells as NaN.

    Args:
        path: The file, say a run's `metrics.csv`.

    Returns:
        The columns by name.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where a cell is not a number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        names = reader.fieldnames or []
    try:
        return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in names}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table of numbers ({error})") from error


def read_validation(folder: Path) -> tuple[list[int], list[float]]:
    """Return the numbers of steps after which a run recorded a validation loss, and these losses.

    Args:
        folder: The run's folder.

    Returns:
        Steps done and losses, as many as each other; none where the run failed before its first validation.

    Raises:
        ValueError: Where the log cannot be read.
    """
    columns: dict[str, list[float]] = {}
    with contextlib.suppress(FileNotFoundError):
        columns = read_columns(folder / "metrics.csv")
    steps, losses = columns.get("step", []), columns.get("val_loss", [])
    pairs = zip(steps, losses, strict=True) if losses else ()
    # A row tells of the step that had this number, counted from 0.
    kept = [(int(step) + 1, loss) for step, loss in pairs if math.isfinite(loss)]
    return [step for step, _ in kept], [loss for _, loss in kept]


def _kept(job: Job, folder: Path) -> dict[str, Any] | None:
    """Return the outcome of a training that has finished before; None where it has not."""
    if not (folder / OUTCOME).is_file():
        return None
    outcome: dict[str, Any] = read_json(folder / OUTCOME)
    if outcome.get("arguments") != dict(job.arguments):
        raise ValueError(f"{folder} holds another training; pass --force to replace all, or another --out")
    return outcome


def _finished(jobs: Sequence[Job], folder: Path, workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each training's outcome as it finishes."""
    if workers <= 1:
        for job in jobs:
            yield job.name, _run(job, folder / job.name)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _share_cores, (threads,)
    ) as pool:
        pending = {pool.submit(_run, job, folder / job.name): job.name for job in jobs}
        try:
            for future in concurrent.futures.as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that trained was lost (killed, or out of memory); finished trainings are kept: "
                "run the same command again to go on"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _share_cores(threads: int) -> None:
    """Give a process its share of the cores."""
    import torch

    torch.set_num_threads(threads)


def _run(job: Job, folder: Path) -> dict[str, Any]:
    """Train, and leave the outcome in the folder."""
    from lemmata.apps.language_model.training import train

    shutil.rmtree(folder, ignore_errors=True)
    error: str | None = None
    with warnings.catch_warnings():
        # Of a training that diverges the last norms are not finite; its outcome says so.
        warnings.filterwarnings("ignore", ".*gradient norms are missing or not finite", UserWarning)
        try:
            train(**job.arguments, out=folder, progress=False)
        except FloatingPointError as failure:
            error = str(failure)
    steps, losses = read_validation(folder)
    if error is None and steps[-1:] != [job.arguments["steps"]]:
        error = "the last validation loss is not finite"
    for best in (folder / "checkpoints").glob("best-*.ckpt"):
        best.unlink()  # last.ckpt has what plots need, and a sweep has many runs
    outcome = {
        "arguments": dict(job.arguments),
        "steps": steps,
        "losses": losses,
        "finished": error is None,
        "error": error,
    }
    write_json(folder / OUTCOME, outcome)
    return outcome
