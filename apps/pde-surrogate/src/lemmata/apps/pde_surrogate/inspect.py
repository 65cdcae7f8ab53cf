"""Tell what a file of fields holds: the dry run of loading it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing heavy is imported where an annotation alone needs it
    from lemmata.apps.pde_surrogate.formats.summary import Inspection

__all__ = ["inspect"]


def inspect(
    path: Path,
    *,
    map: str | None = None,  # noqa: A002 - the command line's `--map`
    layout: str | None = None,
    resolution: int | None = None,
) -> "Inspection":
    """Tell what a file of fields holds and how it would be read.

    Args:
        path: A .npy, .npz, .mat, HDF5, NetCDF, Zarr or .pt file, or a data set of the app.
        map: Which arrays are input and target, say input=coeff target=sol.
        layout: One letter an axis of the arrays, say nxyc.
        resolution: Which resolution of a data set of the app.

    Returns:
        Every array with its shape, type, range, number of NaN and guessed periodicity, and what reading would
        assume.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        ValueError: Where the file cannot be opened.
    """
    from rich.console import Console

    from lemmata.apps.pde_surrogate.loaders import inspect as look

    found = look(path, map=map, layout=layout, resolution=resolution)
    Console().print(found)
    return found
