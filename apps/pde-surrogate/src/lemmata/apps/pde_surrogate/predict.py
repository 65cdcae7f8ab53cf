"""Predict solutions for the user's own fields."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lemmata.operators.data import FieldDataset
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    FieldDataset = "lemmata.operators.data.FieldDataset"

__all__ = ["predict"]


def predict(
    checkpoint: Path,
    fields: Path,
    *,
    out: Path | None = None,
    map: str | None = None,  # noqa: A002 - the command line's `--map`
    layout: str | None = None,
    resolution: int | None = None,
    length: float | list[float] | None = None,
    grid_layout: Literal["periodic", "nodes", "interior", "cells"] | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    force: bool = False,
) -> Path:
    """Predict solutions for the fields of a file.

    Args:
        checkpoint: A checkpoint of this app, or a run's folder.
        fields: A data set of the app, or a .npy, .npz, .mat, HDF5, NetCDF, Zarr or .pt file.
        out: Where to write: a folder ending in .zarr (the app's container, inputs beside predictions), or a
            .npy file (predictions alone). Beside the fields, as NAME-prediction.zarr, where not given.
        map: Which array holds the input, say input=coeff.
        layout: One letter an axis of the array, say nxyc.
        resolution: Which resolution of a data set of the app.
        length: Length of the box in physical units; the training data's where not given.
        grid_layout: Where the points lie; as in the training data where not given.
        batch_size: Fields predicted at once; bounded by memory where not given.
        device: Where to predict, say cuda.
        force: Replace existing output.

    Returns:
        The path written.

    Raises:
        FileExistsError: Where the output exists and `force` is not given.
        FileNotFoundError: Where the checkpoint or the file does not exist.
        ValueError: Where either cannot be read, or the fields do not fit the surrogate.
    """
    from lemmata.apps.pde_surrogate.loaders import load_input
    from lemmata.apps.pde_surrogate.store import is_store
    from lemmata.apps.pde_surrogate.surrogate import Surrogate
    from lemmata.operators.data import FieldDataset as Pairs

    out = fields.with_name(f"{fields.stem}-prediction.zarr") if out is None else out
    _check_output(out, force=force)
    surrogate = Surrogate.load(checkpoint, device=device)
    own = surrogate.description.grids[0]
    options: dict[str, Any] = {"map": map, "layout": layout}
    if not is_store(fields):
        options |= {
            "length": own.length if length is None else length,
            "grid_layout": grid_layout or own.layout,
        }
    inputs, grid = load_input(fields, resolution=resolution, **options)
    try:
        predictions = surrogate(inputs, batch_size=batch_size)
    except ValueError as error:
        raise ValueError(f"{fields}: {error}") from error
    attributes = {"kind": "prediction", "checkpoint": str(checkpoint), "source": str(fields)}
    _write(Pairs(inputs, predictions, grid, attributes=attributes), out, force=force)
    return out


def _check_output(out: Path, *, force: bool) -> None:
    """Raise before any work where the output cannot be written."""
    if out.suffix not in {".npy", ".zarr"}:
        raise ValueError(f"`out` (={out}) must end in .npy or .zarr")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")


def _write(data: "FieldDataset", out: Path, *, force: bool) -> None:
    """Write predictions in the container that the suffix names."""
    if out.suffix == ".zarr":
        from lemmata.apps.pde_surrogate.store import write_store

        write_store(out, data, force=force)
        return
    import numpy as np

    from lemmata.apps.kit.files import write_atomically

    with write_atomically(out) as draft, draft.open("wb") as file:
        np.save(file, data.targets.numpy(), allow_pickle=False)
