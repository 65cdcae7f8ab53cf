"""What a generation is to do: the recipe of a data set, and the tasks it is made of.

Nothing here imports PyTorch or Zarr.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Recipe", "Task", "tasks"]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a data set, and where it is being written.

    Args:
        equation: Name of the equation, as the user gave it.
        target: `"module:class"` of the equation; workers need not know the name.
        parameters: All parameters of the equation.
        n: Number of samples.
        res: Resolutions.
        seed: Seed of the data set.
        split: Name of the split.
        fine_factor: How many times finer the solver's grid is.
        chunk: Samples in a chunk.
        folder: Folder of the unfinished run: `store` and `markers` lie in it.
    """

    equation: str
    target: str
    parameters: dict[str, Any]
    n: int
    res: tuple[int, ...]
    seed: int
    split: str
    fine_factor: int
    chunk: int
    folder: Path

    @property
    def store(self) -> Path:
        """The store being written."""
        return self.folder / "store"

    def span(self, number: int) -> range:
        """Return the samples of a chunk."""
        return range(number * self.chunk, min((number + 1) * self.chunk, self.n))


@dataclass(frozen=True)
class Task:
    """Something a worker does: a chunk of samples, or the check of one resolution's labels.

    Args:
        kind: `"chunk"` or `"check"`.
        number: Number of the chunk, or the resolution to check.
    """

    kind: str
    number: int

    def marker(self, recipe: Recipe) -> Path:
        """Return the file that says the task is done."""
        return recipe.folder / "markers" / f"{self.kind}-{self.number:06d}.json"


def tasks(recipe: Recipe) -> list[Task]:
    """List the tasks of a recipe; checks take longest and come first.

    Args:
        recipe: The recipe.

    Returns:
        Its tasks.
    """
    chunks = range(-(-recipe.n // recipe.chunk))
    return [*(Task("check", res) for res in recipe.res), *(Task("chunk", number) for number in chunks)]
