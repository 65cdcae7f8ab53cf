"""Load fields from the files people have: NumPy, MATLAB, HDF5, NetCDF, Zarr, PyTorch dictionaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid, Layout

__all__ = ["ArraySummary", "Inspection", "inspect", "load_fields", "load_input"]


@dataclass(frozen=True)
class ArraySummary:
    """One line of the dry run."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    nans: int
    periodic: str
    note: str


@dataclass(frozen=True)
class Inspection:
    """What a file holds, and how it would be read."""

    path: Path
    arrays: tuple[ArraySummary, ...]
    notices: tuple[str, ...]

    def __rich__(self) -> Any:
        """Render as a table in a terminal."""
        raise NotImplementedError


def load_fields(
    path: Path | str,
    *,
    map: Mapping[str, str] | Sequence[str] | str | None = None,  # noqa: A002 - the command line's `--map`
    layout: Mapping[str, str] | Sequence[str] | str | None = None,
    resolution: int | None = None,
    length: float | Sequence[float] | None = None,
    grid_layout: Layout | None = None,
    dtype: torch.dtype = torch.float32,
) -> FieldDataset:
    """Load pairs of input and target fields."""
    raise NotImplementedError


def load_input(
    path: Path | str,
    *,
    map: Mapping[str, str] | Sequence[str] | str | None = None,  # noqa: A002 - the command line's `--map`
    layout: Mapping[str, str] | Sequence[str] | str | None = None,
    resolution: int | None = None,
    length: float | Sequence[float] | None = None,
    grid_layout: Layout | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Grid]:
    """Load input fields alone, for predictions."""
    raise NotImplementedError


def inspect(
    path: Path | str,
    *,
    map: Mapping[str, str] | Sequence[str] | str | None = None,  # noqa: A002 - the command line's `--map`
    layout: Mapping[str, str] | Sequence[str] | str | None = None,
    resolution: int | None = None,
) -> Inspection:
    """Tell what a file holds and how it would be read, without converting anything."""
    raise NotImplementedError
