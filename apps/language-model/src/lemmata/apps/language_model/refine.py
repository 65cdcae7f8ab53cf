"""Refine a learning-rate schedule: train under linear decay, then again under what the gradient norms suggest."""

from pathlib import Path
from typing import Any

__all__ = ["refine"]

RESULTS = "refine.json"


def refine(
    *,
    data: str = "docstrings",
    out: Path = Path("runs/refine"),
    optimizer: str = "adamw",
    lr: float | None = None,
    steps: int = 300,
    seed: int = 0,
    smoothing: float = 0.1,
    validate_every: int = 10,
    batch_size: int = 16,
    model: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Train once under linear decay, refine the schedule from its gradient norms, and train again.

    Args:
        data: A text: a file, a folder, `docstrings` or `tinyshakespeare`.
        out: Folder to write.
        optimizer: The optimiser by name.
        lr: Its largest learning rate; what it comes with where not given.
        steps: Optimiser steps of each training.
        seed: Seed of weights and order of the text, the same for both trainings.
        smoothing: Width of the median filter over the norms, as a fraction of the run.
        validate_every: Steps between two validations.
        batch_size: Windows of text in a batch.
        model: Fields of `DecoderConfig` that take the place of its defaults.
        options: Further arguments of `training.train` for both trainings.
        force: Replace what the folder holds.

    Returns:
        The folder: refine.json, schedule.csv, a table, plots, and the two trainings.

    Raises:
        FileExistsError: Where the folder is not empty and `force` is not given.
        FileNotFoundError: Where the text does not exist.
        FloatingPointError: Where a training diverges.
        ValueError: Where an argument is out of range.
    """
    raise NotImplementedError
