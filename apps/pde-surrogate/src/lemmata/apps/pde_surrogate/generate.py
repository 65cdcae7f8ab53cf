"""Generate a data set with a reference solver, on every core, and pick up where a killed run stopped."""

from pathlib import Path
from typing import Any

__all__ = ["generate"]


def generate(
    equation: str,
    *,
    out: Path,
    n: int = 500,
    res: int | list[int] = 32,
    seed: int = 0,
    split: str = "train",
    parameters: dict[str, Any] | None = None,
    fine_factor: int = 2,
    chunk: int = 16,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    resume: bool = False,
) -> Path:
    """Generate a data set.

    Args:
        equation: Name of the equation.
        out: Folder of the data set to write (Zarr).
        n: Number of samples.
        res: Resolution, or several; each sample is the same function at each.
        seed: Seed of the data set.
        split: Name of the split; splits of one seed are independent.
        parameters: Physical and numerical parameters that differ from the equation's defaults.
        fine_factor: Solve on a grid this many times finer than the resolution, then restrict.
        chunk: Samples a task solves and a file holds.
        workers: Processes of the local cluster; one a core where None, 0 runs in this process.
        scheduler: Address of a running Dask scheduler, in place of a local cluster.
        force: Replace an existing data set, once the new one is complete.
        resume: Continue an unfinished run with the same arguments.

    Returns:
        The path of the data set.
    """
    raise NotImplementedError
