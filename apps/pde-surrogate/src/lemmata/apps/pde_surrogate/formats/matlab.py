"""MATLAB's `.mat`: version 5 through SciPy, version 7.3 (HDF5 with reversed axes) through h5py."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.io
from scipy.io.matlab import MatReadWarning

from lemmata.apps.pde_surrogate.formats.source import ArraySource, reading

__all__ = ["open_matlab"]


def open_matlab(path: Path) -> dict[str, ArraySource]:
    """List the numeric variables of a `.mat` file, with their axes as MATLAB shows them.

    Args:
        path: The file, of any version.

    Returns:
        Variables by name.

    Raises:
        FieldFileError: Where the file is not a `.mat` file, truncated or corrupt.
    """
    with reading(path, "a MATLAB file"):
        with path.open("rb") as file:
            is_hdf5 = b"MATLAB 7.3" in file.read(128) or h5py.is_hdf5(path)
        return _open_v73(path) if is_hdf5 else _open_v5(path)


def _open_v5(path: Path) -> dict[str, ArraySource]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", MatReadWarning)
        variables = scipy.io.loadmat(path)
    return {
        name: ArraySource(path, name, value.shape, value.dtype, partial(_same, value))
        for name, value in variables.items()
        if isinstance(value, np.ndarray)
    }


def _open_v73(path: Path) -> dict[str, ArraySource]:
    sources: dict[str, ArraySource] = {}
    with h5py.File(path, "r") as file:
        for name, item in file.items():
            if name.startswith("#") or not isinstance(item, h5py.Dataset):
                continue  # MATLAB's own references, structs and sparse matrices
            # MATLAB stores column-major arrays as they lie in memory: HDF5 sees the axes reversed.
            sources[name] = ArraySource(
                path, name, tuple(reversed(item.shape)), _dtype(item), partial(_load_v73, path, name)
            )
    return sources


def _dtype(item: h5py.Dataset) -> np.dtype[Any]:
    if item.attrs.get("MATLAB_class") == b"logical":
        return np.dtype(bool)
    if item.dtype.names == ("real", "imag"):
        return np.dtype(np.complex64 if item.dtype["real"].itemsize == 4 else np.complex128)
    dtype: np.dtype[Any] = np.dtype(item.dtype)
    return dtype


def _load_v73(path: Path, name: str) -> npt.NDArray[Any]:
    with h5py.File(path, "r") as file:
        item = file[name]
        array = np.asarray(item[()])
        dtype = _dtype(item)
    if array.dtype.names == ("real", "imag"):
        array = array["real"] + 1j * array["imag"]
    return array.astype(dtype, copy=False).T


def _same(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array
