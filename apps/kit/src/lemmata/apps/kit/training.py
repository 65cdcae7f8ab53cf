"""A training run's folder and the trainer pieces every app uses: progress, logs, checkpoints, exact resume."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run", "open_run", "trainer_arguments"]


@dataclass(frozen=True)
class Run:
    """A run's folder, and the checkpoint it continues from.

    Args:
        folder: The run folder.
        checkpoint: The checkpoint to resume from; None for a new run.
    """

    folder: Path
    checkpoint: Path | None


def open_run(out: Path | str, *, resume: Path | str | None = None, force: bool = False) -> Run:
    """Open a run folder: new, replaced with ``force``, or continued with ``resume="last"`` or a checkpoint.

    Raises:
        FileExistsError: Where the folder holds a run and neither ``force`` nor ``resume`` is given.
        FileNotFoundError: Where there is nothing to resume.
    """
    raise NotImplementedError


def trainer_arguments(
    folder: Path | str,
    *,
    monitor: str | None = "val/loss",
    mode: str = "min",
    save_top_k: int = 1,
    every_n_train_steps: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Return keyword arguments for ``lightning.Trainer``: the run's loggers, callbacks and root folder."""
    raise NotImplementedError
