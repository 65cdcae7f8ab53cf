"""The app's container of fields: a Zarr group with one subgroup a resolution."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid

__all__ = ["StoredFields", "is_store", "open_store", "read_store", "resolutions", "write_store"]


class StoredFields(Dataset[tuple[Tensor, Tensor]]):
    """Fields of one resolution of a store, read when asked for."""

    grid: Grid
    attributes: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of samples."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one sample: the input and the target."""
        raise NotImplementedError


def is_store(path: Path | str) -> bool:
    """Tell whether a path holds a store of this app."""
    raise NotImplementedError


def resolutions(path: Path | str) -> list[int]:
    """List the resolutions a store holds, from coarse to fine."""
    raise NotImplementedError


def open_store(path: Path | str, resolution: int | None = None, *, verify: bool = False) -> StoredFields:
    """Open one resolution of a store without reading its fields."""
    raise NotImplementedError


def read_store(path: Path | str, resolution: int | None = None, *, verify: bool = False) -> FieldDataset:
    """Read one resolution of a store into memory."""
    raise NotImplementedError


def write_store(
    path: Path | str,
    datasets: FieldDataset | Sequence[FieldDataset],
    *,
    chunk: int = 16,
    force: bool = False,
) -> Path:
    """Write fields that are in memory, one subgroup a data set (say predictions)."""
    raise NotImplementedError
