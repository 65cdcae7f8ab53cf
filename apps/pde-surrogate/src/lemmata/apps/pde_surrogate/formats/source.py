"""An array in a file: what it is called, its shape and type, and how to read it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ArraySource", "FieldFileError", "reading"]


class FieldFileError(ValueError):
    """A file of fields cannot be read or is not what it should be; the message is one line."""


@dataclass(frozen=True)
class ArraySource:
    """One array of a file, not read yet.

    Args:
        file: The file it lies in.
        name: Its name there; groups are separated by `/`.
        shape: Its shape.
        dtype: Its type as NumPy names it.
        load: Reads it.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], npt.NDArray[Any]]

    @property
    def numeric(self) -> bool:
        """Whether its entries are numbers (or booleans)."""
        return self.dtype.kind in "biufc"

    def check(self) -> None:
        """Raise where the array does not hold numbers.

        Raises:
            FieldFileError: Where it does not.
        """
        if not self.numeric:
            raise FieldFileError(
                f"{self.file}: array {self.name!r} holds {_describe(self.dtype)}, expected numbers"
            )

    def read(self) -> npt.NDArray[Any]:
        """Read the array.

        Returns:
            The array, of the shape and type announced.

        Raises:
            FieldFileError: Where it does not hold numbers, or the file is truncated or corrupt.
        """
        self.check()
        with reading(self.file, f"array {self.name!r}"):
            array = self.load()
        if array.shape != self.shape:
            raise FieldFileError(
                f"{self.file}: array {self.name!r} has shape {array.shape}, "
                f"but the file announces {self.shape}"
            )
        return array


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises on a bad file into one line that names the file.

    Args:
        path: The file.
        what: What it is read as, or which of its arrays.

    Raises:
        FieldFileError: Where the block raises anything but a `FieldFileError`.
    """
    try:
        yield
    except FieldFileError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise FieldFileError(
            f"{path}: cannot read {what}: the file is truncated, corrupt or of another format "
            f"({type(error).__name__}: {lines[0][:200]})"
        ) from error


def _describe(dtype: np.dtype[Any]) -> str:
    if dtype.hasobject:
        return f"Python objects (dtype {dtype}), which are never loaded"
    return f"dtype {dtype}"
