"""Formats that hold a tree of arrays: HDF5 (PDEBench's layouts among it), NetCDF and Zarr."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lemmata.apps.pde_surrogate.formats.source import ArraySource, reading

__all__ = ["is_zarr", "open_hdf5", "open_netcdf", "open_zarr"]


def open_hdf5(path: Path) -> dict[str, ArraySource]:
    """List the data sets of an HDF5 file.

    A file with one group a sample (`0000/data`, `0001/data`, ... as some of PDEBench's) appears as arrays
    with a leading sample axis, named by what lies in the groups (`data`).

    Args:
        path: The file.

    Returns:
        Data sets by name; groups are separated by `/`.

    Raises:
        FieldFileError: Where the file is not HDF5, truncated or corrupt.
    """
    found: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found.append((name, tuple(item.shape), np.dtype(item.dtype)))

    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        file.visititems(visit)
        samples = sorted(file) if all(key.isdigit() for key in file) else []
    if not samples:
        return {
            name: ArraySource(path, name, shape, dtype, partial(_load_hdf5, path, name))
            for name, shape, dtype in found
        }
    first = {
        name.partition("/")[2]: (shape, dtype)
        for name, shape, dtype in found
        if name.startswith(samples[0] + "/")
    }
    return {
        name: ArraySource(
            path, name, (len(samples), *shape), dtype, partial(_load_samples, path, samples, name)
        )
        for name, (shape, dtype) in first.items()
    }


def open_netcdf(path: Path) -> dict[str, ArraySource]:
    """List the variables and coordinates of a NetCDF file, version 3 or 4.

    Args:
        path: The file.

    Returns:
        Variables and coordinates by name; packed values unpacked, missing ones NaN.

    Raises:
        FieldFileError: Where the file is not NetCDF, truncated or corrupt.
    """
    with reading(path, "a NetCDF file"), _netcdf(path) as dataset:
        return {
            str(name): ArraySource(
                path,
                str(name),
                tuple(variable.shape),
                np.dtype(variable.dtype),
                partial(_load_netcdf, path, str(name)),
            )
            for name, variable in dataset.variables.items()
        }


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a Zarr store or array, of version 2 or 3.

    Args:
        path: The folder.

    Returns:
        Whether Zarr's metadata lie in it.
    """
    return any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))


def open_zarr(path: Path) -> dict[str, ArraySource]:
    """List the arrays of a Zarr store.

    Args:
        path: The store's folder.

    Returns:
        Arrays by name; groups are separated by `/`; a lone array by the folder's stem.

    Raises:
        FieldFileError: Where the store's metadata cannot be read.
    """
    import zarr

    with reading(path, "a Zarr store"):
        root = zarr.open(path, mode="r")
        arrays = (
            {path.stem: root}
            if isinstance(root, zarr.Array)
            else {name: item for name, item in root.members(max_depth=None) if isinstance(item, zarr.Array)}
        )
        return {
            name: ArraySource(path, name, array.shape, np.dtype(array.dtype), partial(_load_zarr, array))
            for name, array in sorted(arrays.items())
        }


def _load_hdf5(path: Path, name: str) -> npt.NDArray[Any]:
    with h5py.File(path, "r") as file:
        return np.asarray(file[name][()])


def _load_samples(path: Path, samples: list[str], name: str) -> npt.NDArray[Any]:
    with h5py.File(path, "r") as file:
        return np.stack([np.asarray(file[sample][name][()]) for sample in samples])


def _netcdf(path: Path) -> Any:
    """Open a NetCDF file of either family."""
    import xarray as xr

    with path.open("rb") as file:
        classic = file.read(3) == b"CDF"
    if not classic:
        return xr.open_dataset(path, engine="h5netcdf", decode_times=False)
    # From memory: SciPy maps classic files, and leaves those open that turn out to be truncated.
    return xr.open_dataset(io.BytesIO(path.read_bytes()), engine="scipy", decode_times=False)


def _load_netcdf(path: Path, name: str) -> npt.NDArray[Any]:
    with _netcdf(path) as dataset:
        return np.array(dataset.variables[name].values)


def _load_zarr(array: Any) -> npt.NDArray[Any]:
    return np.asarray(array[...])
