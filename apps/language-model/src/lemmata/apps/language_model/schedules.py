"""How the learning rate moves over a run: linear decay after a warm-up, or as a file says."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lemmata.apps.kit.files import write_atomically

__all__ = ["COLUMN", "check_schedule", "make_schedule", "read_schedule", "write_schedule"]

# The column of a schedule's file that counts; others may stand beside it.
COLUMN = "multiplier"


def make_schedule(
    schedule: str, optimizer: torch.optim.Optimizer, steps: int, *, warmup: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the scheduler of a run, which moves once a step of the optimiser.

    Args:
        schedule: `linear` for linear decay to nothing after a warm-up, `constant` for a constant after a
            warm-up, or the path of a file that `write_schedule` wrote.
        optimizer: The optimiser.
        steps: Steps of the whole run; a file's multipliers are spread over them.
        warmup: Steps of the warm-up, at most half of the run.

    Returns:
        The scheduler.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file does not hold multipliers.
    """
    from lemmata.optim.schedules import ArraySchedule, LinearDecay

    warmup = min(warmup, steps // 2)
    if schedule == "linear":
        return LinearDecay(optimizer, steps, warmup_steps=warmup)
    if schedule == "constant":
        rise = [(step + 1) / (warmup + 1) for step in range(warmup)]
        return ArraySchedule(optimizer, torch.tensor([*rise, 1.0], dtype=torch.float64))
    multipliers = torch.tensor(read_schedule(schedule), dtype=torch.float64)
    return ArraySchedule(optimizer, _spread(multipliers, steps))


def check_schedule(schedule: str) -> None:
    """Raise where a schedule is neither a name nor a file of multipliers.

    Raises:
        FileNotFoundError: Where it is neither a name nor a file.
        ValueError: Where the file does not hold multipliers.
    """
    if schedule not in {"linear", "constant"}:
        read_schedule(schedule)


def read_schedule(path: Path | str) -> list[float]:
    """Read multipliers of the learning rate, one a step, from the column `multiplier` of a CSV file.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file has no such column, no row, or a cell that is not a number in [0, inf).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`schedule` (={str(path)!r}) is not known; expected linear, constant, or a CSV file that exists"
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [row.get(COLUMN) for row in csv.DictReader(file)]
    except UnicodeDecodeError as error:
        raise ValueError(f"`schedule` (={str(path)!r}) is not a CSV file: it is not UTF-8 text") from error
    if not cells or cells[0] is None:
        raise ValueError(f"`schedule` (={str(path)!r}) holds no column {COLUMN!r} with numbers")
    multipliers = []
    for line, cell in enumerate(cells, start=2):
        value = _number(cell)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"`schedule` (={str(path)!r}): line {line} has {cell!r}, expected a number in [0, inf)"
            )
        multipliers.append(value)
    return multipliers


def write_schedule(path: Path | str, multipliers: Sequence[float] | torch.Tensor) -> Path:
    """Write multipliers as a CSV file that `fit --model.schedule` takes, atomically.

    Args:
        path: The file.
        multipliers: One factor of the learning rate for each step.

    Returns:
        The path.
    """
    values = multipliers.tolist() if isinstance(multipliers, torch.Tensor) else list(multipliers)
    rows = "".join(f"{step},{value!r}\n" for step, value in enumerate(values))
    with write_atomically(path) as draft:
        draft.write_text(f"step,{COLUMN}\n{rows}", encoding="utf-8")
    return Path(path)


def _spread(multipliers: torch.Tensor, steps: int) -> torch.Tensor:
    """Return multipliers for another number of steps, linearly interpolated."""
    if len(multipliers) == steps:
        return multipliers
    where = torch.linspace(0, len(multipliers) - 1, steps, dtype=torch.float64)
    low = where.floor().long()
    high = (low + 1).clamp(max=len(multipliers) - 1)
    return torch.lerp(multipliers[low], multipliers[high], where - low)


def _number(cell: Any) -> float:
    """Return a cell's number, NaN where it has none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
