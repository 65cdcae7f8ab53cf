"""Choose the reader of a file by its name."""

from collections.abc import Callable
from pathlib import Path

from lemmata.apps.pde_surrogate.formats.hierarchical import is_zarr, open_hdf5, open_netcdf, open_zarr
from lemmata.apps.pde_surrogate.formats.matlab import open_matlab
from lemmata.apps.pde_surrogate.formats.numpy_files import open_npy, open_npy_folder, open_npz
from lemmata.apps.pde_surrogate.formats.source import ArraySource, FieldFileError
from lemmata.apps.pde_surrogate.formats.torch_files import open_torch

__all__ = ["open_arrays"]

_READERS: dict[str, Callable[[Path], dict[str, ArraySource]]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".mat": open_matlab,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".he5": open_hdf5,
    ".nc": open_netcdf,
    ".nc4": open_netcdf,
    ".cdf": open_netcdf,
    ".pt": open_torch,
    ".pth": open_torch,
}


def open_arrays(path: Path) -> dict[str, ArraySource]:
    """List the arrays of a file or folder without converting them.

    Args:
        path: A file whose suffix names its format, a Zarr store, or a folder of `.npy` files.

    Returns:
        Arrays by name, never empty.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        FieldFileError: Where the format is unknown, the file is truncated or corrupt, or it holds no array.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        arrays = open_zarr(path) if is_zarr(path) else open_npy_folder(path)
    else:
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise FieldFileError(
                f"{path}: unknown format {path.suffix!r}; expected one of {', '.join(_READERS)}, "
                "a Zarr store or a folder of .npy files"
            )
        arrays = reader(path)
    if not arrays:
        raise FieldFileError(f"{path}: holds no array")
    return arrays
