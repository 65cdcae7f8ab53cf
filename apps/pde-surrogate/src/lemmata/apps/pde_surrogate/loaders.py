"""Load fields from the files people have: NumPy, MATLAB, HDF5, NetCDF, Zarr, PyTorch dictionaries.

`load_fields` finds input and target by their usual names or by `map`, brings their axes to
`(n, channels, *grid)` by `layout`, casts to one floating type and says, in the data set's `notices`,
everything it assumed or found odd. It never drops, repairs or reorders a sample, and never runs code from a
file. `inspect` is the dry run.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.pde_surrogate.formats import FieldFileError, open_arrays
from lemmata.apps.pde_surrogate.formats.guessing import looks_like_darcy
from lemmata.apps.pde_surrogate.formats.reader import FieldReader, Roles
from lemmata.apps.pde_surrogate.formats.summary import Inspection, summarise
from lemmata.apps.pde_surrogate.store import is_store, read_store
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid, Layout

__all__ = ["FieldFileError", "inspect", "load_fields", "load_input"]


def load_fields(
    path: Path | str,
    *,
    map: Roles | None = None,  # noqa: A002 - the command line's `--map`
    layout: Roles | None = None,
    resolution: int | None = None,
    length: float | Sequence[float] | None = None,
    grid_layout: Layout | None = None,
    dtype: torch.dtype = torch.float32,
) -> FieldDataset:
    """Load pairs of input and target fields.

    Args:
        path: A `.npy` folder, `.npz`, `.mat`, HDF5, NetCDF, `.pt` file, a Zarr store, or a data set
            written by this app.
        map: Which arrays are input and target, `"input=coeff target=sol"`; usual names are found without.
            `@` selects times: `"input=tensor@0 target=tensor@-1"`, `"input=u@:-1 target=u@1:"`.
            Without it an input takes the first time of a trajectory and a target the last.
        layout: One letter an axis (`n` samples, `t` time, `c` channels, `x y z` space), `"nxyc"` or
            `"input=nxy target=ntxy"`; guessed from shapes where `None`.
        resolution: Which resolution of a data set of this app; for other files, the number of points along
            the first axis that is expected.
        length: Length of the box in physical units, one for all axes or one each; from coordinates in the
            file where there are, else 1.
        grid_layout: Where the points lie (see `Grid`); guessed where `None`.
        dtype: Floating type of the result.

    Returns:
        The fields; `attributes["notices"]` lists what was assumed, cast or found odd.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        ValueError: Where the file is truncated, corrupt or of unknown format, an array is missing, not
            numeric or not finite, or shapes or numbers of samples disagree; the line names file and array.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "pairs.npz", coeff=np.ones((4, 8, 8), dtype=bool), sol=np.zeros((4, 8, 8)))
        >>> data = load_fields(folder / "pairs.npz", map="input=coeff target=sol", grid_layout="nodes")
        >>> data.inputs.shape, data.inputs.dtype
        (torch.Size([4, 1, 8, 8]), torch.float32)
        >>> data.attributes["notices"][1]
        "input: array 'coeff' is bool, cast to float32"
    """
    path = Path(path)
    if is_store(path):
        return _load_own(path, map, layout, resolution, dtype)
    reader = FieldReader(path, map, layout, dtype)
    inputs = reader.role("input")
    targets = reader.role("target", like=inputs)
    _check_pair(path, inputs, targets)
    grid = reader.grid(targets, resolution, length, grid_layout)
    if looks_like_darcy(inputs, targets):
        reader.notice(_below_zero(targets))
    return FieldDataset(
        inputs, targets, grid, attributes={"source": str(path), "notices": reader.logged_notices()}
    )


def load_input(
    path: Path | str,
    *,
    map: Roles | None = None,  # noqa: A002 - the command line's `--map`
    layout: Roles | None = None,
    resolution: int | None = None,
    length: float | Sequence[float] | None = None,
    grid_layout: Layout | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "n c_in *grid"], Grid]:
    """Load input fields alone, for predictions; a file's only array needs no `map`.

    Args:
        path: As for `load_fields`.
        map: As for `load_fields`; `"input=coeff"` or `"coeff"`.
        layout: As for `load_fields`.
        resolution: As for `load_fields`.
        length: As for `load_fields`.
        grid_layout: As for `load_fields`.
        dtype: Floating type of the result.

    Returns:
        Fields `(n, c_in, *grid)` and their grid.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        ValueError: As for `load_fields`.
    """
    path = Path(path)
    if is_store(path):
        data = _load_own(path, map, layout, resolution, dtype)
        return data.inputs, data.grid
    reader = FieldReader(path, map, layout, dtype)
    inputs = reader.role("input")
    grid = reader.grid(inputs, resolution, length, grid_layout)
    reader.logged_notices()
    return inputs, grid


def inspect(
    path: Path | str,
    *,
    map: Roles | None = None,  # noqa: A002 - the command line's `--map`
    layout: Roles | None = None,
    resolution: int | None = None,
) -> Inspection:
    """Tell what a file holds and how it would be read: the dry run of `load_fields`.

    Args:
        path: As for `load_fields`.
        map: As for `load_fields`.
        layout: As for `load_fields`.
        resolution: As for `load_fields`.

    Returns:
        Every array with its shape, type, range, number of NaN and guessed periodicity; what reading would
        assume; and the problem, where it would fail. `rich.print` shows it as a table.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        ValueError: Where the file cannot be opened at all.
    """
    path = Path(path)
    arrays = tuple(summarise(source) for source in open_arrays(path).values())
    try:
        data = load_fields(path, map=map, layout=layout, resolution=resolution)
    except ValueError as error:
        return Inspection(path, arrays, (), str(error))
    return Inspection(path, arrays, tuple(data.attributes.get("notices", ())))


def _load_own(
    path: Path, map_: Roles | None, layout: Roles | None, resolution: int | None, dtype: torch.dtype
) -> FieldDataset:
    if map_ is not None or layout is not None:
        raise FieldFileError(f"{path}: is a data set of this app, which needs neither `map` nor `layout`")
    data = read_store(path, resolution)
    attributes = {**data.attributes, "source": str(path)}
    return FieldDataset(data.inputs.to(dtype), data.targets.to(dtype), data.grid, attributes=attributes)


def _check_pair(path: Path, inputs: Tensor, targets: Tensor) -> None:
    if len(inputs) != len(targets):
        raise FieldFileError(f"{path}: input has {len(inputs)} samples and target has {len(targets)}")
    if inputs.shape[2:] != targets.shape[2:]:
        raise FieldFileError(
            f"{path}: input lies on a grid {tuple(inputs.shape[2:])} and target on "
            f"{tuple(targets.shape[2:])}, expected the same; check `map` and `layout`"
        )


def _below_zero(targets: Tensor) -> str:
    lowest = targets.flatten(1).amin(1)
    count = int((lowest < 0).sum())
    if not count:
        return ""
    return (
        f"target: {count} of {len(targets)} fields dip below zero (lowest {float(lowest.min()):.3g}), "
        "which Darcy's maximum principle u >= 0 forbids; all kept"
    )
