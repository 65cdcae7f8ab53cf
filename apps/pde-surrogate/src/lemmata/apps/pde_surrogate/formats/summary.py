"""The dry run's table: what a file holds, and how it would be read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from rich.text import Text

from lemmata.apps.pde_surrogate.formats.guessing import is_periodic
from lemmata.apps.pde_surrogate.formats.source import ArraySource, FieldFileError

__all__ = ["ArraySummary", "Inspection", "summarise"]


@dataclass(frozen=True)
class ArraySummary:
    """One array of a file.

    Args:
        name: Its name in the file.
        shape: Its shape there.
        dtype: Its type there.
        low: Smallest finite value, `None` where there is none.
        high: Largest finite value, `None` where there is none.
        bad: Number of NaN and infinite values.
        periodic: Guess along every axis but the first, say `"x no, y yes"`; empty where it makes no sense.
        note: Why it cannot be read, or how it would be cast.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None = None
    high: float | None = None
    bad: int = 0
    periodic: str = ""
    note: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a file holds, and how it would be read; rich prints it as a table.

    Args:
        path: The file.
        arrays: Its arrays.
        notices: What reading it would assume, cast or find odd.
        problem: Why it cannot be read as input and target; `None` where it can.
    """

    path: Path
    arrays: tuple[ArraySummary, ...]
    notices: tuple[str, ...]
    problem: str | None = None

    def __rich__(self) -> Table:
        """Render as a table."""
        table = Table(title=str(self.path), caption=self._caption(), caption_justify="left")
        for heading in ("array", "shape", "dtype", "range", "NaN", "periodic", "note"):
            table.add_column(heading, overflow="fold")
        for array in self.arrays:
            span = "" if array.low is None else f"{array.low:.4g} to {array.high:.4g}"
            shape = " x ".join(map(str, array.shape)) or "scalar"
            cells = (array.name, shape, array.dtype, span, str(array.bad), array.periodic, array.note)
            table.add_row(*map(Text, cells))
        return table

    def _caption(self) -> Text:
        return Text("\n".join([*self.notices, *([self.problem] if self.problem else [])]))


def summarise(source: ArraySource) -> ArraySummary:
    """Describe one array.

    Args:
        source: The array.

    Returns:
        Its line in the table; an array that cannot be read says why in its note.
    """
    announced = ArraySummary(source.name, source.shape, str(source.dtype))
    try:
        array = source.read()
    except FieldFileError as error:
        return ArraySummary(**{**vars(announced), "note": str(error).partition(": ")[2]})
    note = "cast to a floating type" if array.dtype.kind in "biu" else ""
    if array.dtype.kind == "c":
        note = f"complex, imaginary part up to {np.abs(array.imag).max(initial=0.0):.3g}"
        array = array.real
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.reshape(-1)
    return ArraySummary(
        source.name,
        source.shape,
        str(source.dtype),
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
        bad=int(array.size - finite.size),
        periodic=_periodic(array) if finite.size == array.size else "",
        note=note,
    )


def _periodic(array: npt.NDArray[np.generic]) -> str:
    if array.ndim < 2 or min(array.shape[1:]) < 5 or len(array) == 0:
        return ""
    fields = torch.from_numpy(array.astype(np.float64))[:, None]
    return " ".join("yes" if guess else "no" for guess in is_periodic(fields))
