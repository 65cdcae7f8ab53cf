"""NumPy's `.npy` and `.npz`; pickled objects are never loaded."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemmata.apps.pde_surrogate.formats.source import ArraySource, FieldFileError, reading

__all__ = ["open_npy", "open_npy_folder", "open_npz"]


def open_npy(path: Path) -> dict[str, ArraySource]:
    """List the one array of an `.npy` file, named by the file's stem.

    Args:
        path: The file.

    Returns:
        The array by its name.

    Raises:
        FieldFileError: Where the file is not an `.npy` file, or shorter than its header announces.
    """
    with reading(path, "a .npy file"), path.open("rb") as file:
        shape, dtype = _header(file)
        # Measured before anything is allocated: a corrupt header may announce any shape.
        held = path.stat().st_size - file.tell()
    _check_size(path, path.stem, shape, dtype, held)
    return {path.stem: ArraySource(path, path.stem, shape, dtype, partial(_load_npy, path))}


def open_npy_folder(path: Path) -> dict[str, ArraySource]:
    """List the arrays of every `.npy` file in a folder.

    Args:
        path: The folder.

    Returns:
        Arrays by the stems of their files.

    Raises:
        FieldFileError: Where the folder holds none, or one is not an `.npy` file.
    """
    files = sorted(path.glob("*.npy"))
    if not files:
        raise FieldFileError(f"{path}: is a folder without .npy files; expected those, or a Zarr store")
    return {name: source for file in files for name, source in open_npy(file).items()}


def open_npz(path: Path) -> dict[str, ArraySource]:
    """List the arrays of an `.npz` archive.

    Args:
        path: The file.

    Returns:
        Arrays by name.

    Raises:
        FieldFileError: Where the file is not such an archive, or an array is shorter than it announces.
    """
    sources: dict[str, ArraySource] = {}
    with reading(path, "a .npz archive"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                shape, dtype = _header(file)
                _check_size(path, name, shape, dtype, member.file_size - file.tell())
            sources[name] = ArraySource(path, name, shape, dtype, partial(_load_npz, path, name))
    return sources


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _check_size(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], held: int) -> None:
    if dtype.hasobject:
        return  # refused when read
    expected = dtype.itemsize
    for extent in shape:
        expected *= extent
    if held < expected:
        raise FieldFileError(
            f"{path}: array {name!r} is truncated: found {held} bytes, expected {expected} for shape {shape} "
            f"of {dtype}"
        )


def _load_npy(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return array


def _load_npz(path: Path, name: str) -> npt.NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        array: npt.NDArray[Any] = archive[name]
    return array
