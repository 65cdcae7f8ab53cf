"""Compare optimisers on one text: learning rates swept for all, several seeds, steps to the baseline's loss."""

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

__all__ = ["compare"]

RESULTS = "compare.json"
METHODS = ("adamw", "muon", "lion", "auon", "hybrid-auon")


def compare(
    *,
    data: str = "docstrings",
    out: Path = Path("runs/compare"),
    optimizers: list[str] | str = list(METHODS),  # noqa: B006 - read, never written
    lrs: dict[str, list[float]] | None = None,
    seeds: list[int] | int = [0, 1, 2],  # noqa: B006 - read, never written
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

    Every optimiser is trained with each of its learning rates and each seed. It keeps the learning rate with the
    lowest mean final validation loss; every optimiser has the same number to choose from. The headline is the
    first recorded validation step at which its loss is at most the lowest final loss of the baseline.

    A comparison that was killed goes on where the same command is run again: what has finished is kept.
    Optimisers, learning rates and seeds may be added the same way.

    Args:
        data: A text: a file, a folder, `docstrings` or `tinyshakespeare`.
        out: Folder to write.
        optimizers: Optimisers by name; the baseline is added where it is missing.
        lrs: Learning rates to choose from by optimiser, in place of those it comes with.
        seeds: Seeds of weights and order of the text.
        baseline: The optimiser to compare with.
        steps: Optimiser steps of each training.
        validate_every: Steps between two validations; the headline is a multiple of it.
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
    raise NotImplementedError
