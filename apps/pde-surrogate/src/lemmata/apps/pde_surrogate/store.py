"""The app's container of fields: a Zarr group with one subgroup a resolution.

`data.zarr/r32` holds `input (n, c_in, *grid)` and `target (n, c_out, *grid)`, chunked by samples, with
a checksum on every chunk; its attributes say what made them (equation, parameters, solver and its measured
error, seed, versions), where the points lie, and the SHA-256 of both arrays. The subgroups of one store hold
the same functions at several resolutions. A store is written elsewhere and renamed, so that a reader never
sees half of one.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor
from torch.utils.data import Dataset

from lemmata.apps.pde_surrogate.formats.source import FieldFileError, reading
from lemmata.apps.pde_surrogate.publishing import (
    FORMAT,
    VERSION,
    check_replaceable,
    is_store,
    publish,
    root_attributes,
)
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid

__all__ = [
    "StoredFields",
    "array_digests",
    "create_group",
    "is_store",
    "open_store",
    "read_store",
    "resolutions",
    "seal_group",
    "write_samples",
    "write_store",
]

ARRAYS = ("input", "target")


class StoredFields(Dataset[tuple[Tensor, Tensor]]):
    """Fields of one resolution of a store, read when asked for.

    A sample costs the reading of its chunk; `__getitems__` reads each chunk of a batch once.

    Args:
        path: The store.
        group: Its open group of one resolution, already checked.

    Attributes:
        grid: Where the points lie.
        attributes: What made the data.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self.attributes: dict[str, Any] = dict(group.attrs)
        self.grid = Grid.from_dict(self.attributes["grid"])
        self._name = group.basename
        self._arrays = {name: _array(path, group, name) for name in ARRAYS}

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._arrays["input"].shape[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one sample: the input and the target."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} is out of range")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Read several samples, each chunk once, for PyTorch's loaders."""
        order = np.asarray(indices, dtype=np.int64)
        chunk = self._arrays["input"].chunks[0]
        samples: dict[int, tuple[Tensor, Tensor]] = {}
        for number in np.unique(order // chunk).tolist():
            start, stop = number * chunk, min((number + 1) * chunk, len(self))
            inputs, targets = (torch.from_numpy(self._read(name, start, stop)) for name in ARRAYS)
            for index in order[order // chunk == number].tolist():
                samples[index] = (inputs[index - start], targets[index - start])
        return [samples[index] for index in order.tolist()]

    def read(self) -> FieldDataset:
        """Read all samples into memory.

        Returns:
            The data set.

        Raises:
            FieldFileError: Where a chunk is truncated or corrupt.
        """
        fields = {name: torch.from_numpy(np.empty(a.shape, a.dtype)) for name, a in self._arrays.items()}
        for name, array in self._arrays.items():
            for start in range(0, len(self), array.chunks[0]):
                stop = min(start + array.chunks[0], len(self))
                fields[name][start:stop] = torch.from_numpy(self._read(name, start, stop))
        return FieldDataset(fields["input"], fields["target"], self.grid, attributes=self.attributes)

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        with reading(self.path, f"array '{self._name}/{name}', samples {start} to {stop - 1}"):
            return np.array(self._arrays[name][start:stop])


def resolutions(path: Path | str) -> list[int]:
    """List the resolutions a store holds.

    Args:
        path: The store.

    Returns:
        Resolutions from coarse to fine.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        FieldFileError: Where it is not a store of this app, or unreadable.
    """
    return sorted(_groups(Path(path)))


def open_store(path: Path | str, resolution: int | None = None, *, verify: bool = False) -> StoredFields:
    """Open one resolution of a store without reading its fields.

    Args:
        path: The store.
        resolution: Which resolution (points along the first axis); may be left out where there is one.
        verify: Read everything once and compare its SHA-256 with the one stored.

    Returns:
        The fields, as a data set that reads samples when asked for them.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        FieldFileError: Where the store is incomplete, truncated or corrupt, or lacks the resolution.
    """
    path = Path(path)
    groups = _groups(path)
    if resolution is None and len(groups) > 1:
        raise FieldFileError(f"{path}: holds resolutions {_listing(groups)}; say which by `resolution`")
    chosen = next(iter(groups)) if resolution is None else resolution
    if chosen not in groups:
        raise FieldFileError(f"{path}: no resolution {chosen}; found {_listing(groups)}")
    group = groups[chosen]
    _check_group(path, group)
    fields = StoredFields(path, group)
    if verify:
        _verify(path, group)
    return fields


def read_store(path: Path | str, resolution: int | None = None, *, verify: bool = False) -> FieldDataset:
    """Read one resolution of a store into memory.

    Args:
        path: The store.
        resolution: Which resolution (points along the first axis); may be left out where there is one.
        verify: Compare the SHA-256 of what is read with the one stored.

    Returns:
        The data set; its attributes are the store's.

    Raises:
        FileNotFoundError: Where there is nothing at `path`.
        FieldFileError: Where the store is incomplete, truncated or corrupt, or lacks the resolution.
    """
    return open_store(path, resolution, verify=verify).read()


def write_store(
    path: Path | str,
    datasets: FieldDataset | Sequence[FieldDataset],
    *,
    chunk: int = 16,
    force: bool = False,
) -> Path:
    """Write fields that are in memory, one subgroup a data set (say predictions).

    Args:
        path: Folder to write, customarily ending in `.zarr`.
        datasets: Data sets of different resolutions; their attributes are stored with them.
        chunk: Samples in a chunk.
        force: Replace an existing store, once the new one is complete.

    Returns:
        `path`.

    Raises:
        FileExistsError: Where `path` exists and `force` is not given, or it is no store of this app.
        ValueError: Where two data sets have one resolution.

    Examples:
        >>> import tempfile
        >>> data = FieldDataset(torch.ones(3, 1, 8), torch.zeros(3, 1, 8), Grid((8,), (1.0,), "periodic"))
        >>> path = write_store(Path(tempfile.mkdtemp()) / "ones.zarr", data)
        >>> resolutions(path), len(open_store(path)), float(read_store(path, verify=True).inputs.sum())
        ([8], 3, 24.0)
    """
    path = Path(path)
    datasets = [datasets] if isinstance(datasets, FieldDataset) else list(datasets)
    shapes = [data.grid.shape[0] for data in datasets]
    if not shapes or len(set(shapes)) < len(shapes):
        raise ValueError(f"`datasets` must be of different resolutions, got {shapes}")
    check_replaceable(path, force=force)
    unfinished = path.with_name(f"{path.name}.writing")
    shutil.rmtree(unfinished, ignore_errors=True)
    create_root(unfinished, {})
    for data in datasets:
        inputs, targets = (fields.detach().cpu().numpy() for fields in (data.inputs, data.targets))
        create_group(unfinished, data.grid, len(data), inputs.shape[1], targets.shape[1], chunk, inputs.dtype)
        for start in range(0, len(data), chunk):
            block = slice(start, start + chunk)
            write_samples(unfinished, data.grid.shape[0], start, (inputs[block], targets[block]))
        seal_group(unfinished, data.grid.shape[0], data.attributes)
    publish(unfinished, path)
    return path


def create_root(path: Path, attributes: Mapping[str, Any]) -> None:
    """Create an empty store.

    Args:
        path: Folder that does not exist yet; its parents are made.
        attributes: Attributes of the root.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    zarr.create_group(path, attributes={"format": FORMAT, "version": VERSION, **attributes})


def create_group(
    path: Path,
    grid: Grid,
    n: int,
    in_channels: int,
    out_channels: int,
    chunk: int,
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """Create the empty arrays of one resolution.

    Args:
        path: The store.
        grid: Where the points lie.
        n: Number of samples.
        in_channels: Channels of the input.
        out_channels: Channels of the target.
        chunk: Samples in a chunk.
        dtype: Floating type.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group = zarr.open_group(path, mode="r+").create_group(
        _name(grid.shape[0]), attributes={"grid": grid.to_dict(), "complete": False}
    )
    for name, channels in zip(ARRAYS, (in_channels, out_channels), strict=True):
        group.create_array(
            name,
            shape=(n, channels, *grid.shape),
            chunks=(min(chunk, n), channels, *grid.shape),
            dtype=np.dtype(dtype),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            fill_value=float("nan"),
        )


def write_samples(
    path: Path, resolution: int, start: int, fields: Sequence[npt.NDArray[Any]]
) -> dict[str, str]:
    """Write a block of consecutive samples, made of whole chunks.

    Args:
        path: The store.
        resolution: Which resolution.
        start: First sample.
        fields: Inputs and targets `(block, channels, *grid)`.

    Returns:
        SHA-256 of the block of either array.
    """
    # Every chunk is a file, so that one that is missing is known to be lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(path, path=_name(resolution), mode="r+")
        for name, block in zip(ARRAYS, fields, strict=True):
            _array(path, group, name)[start : start + len(block)] = block
    return {name: _sha256([block]) for name, block in zip(ARRAYS, fields, strict=True)}


def array_digests(path: Path, resolution: int, start: int = 0, stop: int | None = None) -> dict[str, str]:
    """Read samples, a chunk at a time, and return their SHA-256.

    Args:
        path: The store.
        resolution: Which resolution.
        start: First sample, at the beginning of a chunk.
        stop: Sample after the last; all from `start` where `None`.

    Returns:
        SHA-256 of the samples' bytes in either array, in C order.

    Raises:
        FieldFileError: Where a chunk is missing, truncated or corrupt.
    """
    group = _open_group(path, _name(resolution))
    return {name: _sha256(_blocks(path, group, name, start, stop)) for name in ARRAYS}


def seal_group(path: Path, resolution: int, attributes: Mapping[str, Any]) -> None:
    """Store the attributes and hashes of one resolution and declare it complete.

    Args:
        path: The store.
        resolution: Which resolution; all its samples are written.
        attributes: What made the data, as JSON types.

    Raises:
        FieldFileError: Where a chunk is missing, truncated or corrupt.
    """
    digests = array_digests(path, resolution)
    group = zarr.open_group(path, path=_name(resolution), mode="r+")
    sealed = {
        **attributes,
        "grid": group.attrs["grid"],
        "format_version": VERSION,
        "resolution": resolution,
        "sha256": digests,
        "complete": True,
    }
    group.attrs.put(sealed)


def _name(resolution: int) -> str:
    return f"r{resolution}"


def _listing(groups: Mapping[int, zarr.Group]) -> str:
    return ", ".join(map(str, sorted(groups)))


def _groups(path: Path) -> dict[int, zarr.Group]:
    """Return the open groups of a store by resolution."""
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.partial")
        hint = f"; an unfinished run is at {unfinished}, --resume continues it" if unfinished.exists() else ""
        raise FileNotFoundError(f"{path}: no such data set{hint}")
    attributes = root_attributes(path)
    if attributes.get("format") != FORMAT:
        raise FieldFileError(
            f"{path}: found no attribute format={FORMAT!r} in zarr.json, expected a data set of this app"
        )
    if attributes.get("version") != VERSION:
        raise FieldFileError(
            f"{path}: found format version {attributes.get('version')!r}, expected {VERSION}; "
            "a newer version of the app wrote it"
        )
    with reading(path, "a data set of this app"):
        names = [item.name for item in path.iterdir() if item.name[:1] == "r" and item.name[1:].isdigit()]
        groups = {int(name[1:]): _open_group(path, name) for name in names}
    if not groups:
        raise FieldFileError(f"{path}: found no resolution (r32, say), expected one or more")
    return groups


def _open_group(path: Path, name: str) -> zarr.Group:
    with reading(path, f"group {name!r}"):
        return zarr.open_group(path, path=name, mode="r")


def _array(path: Path, group: zarr.Group, name: str) -> zarr.Array[Any]:
    with reading(path, f"array '{group.basename}/{name}'"):
        array = group[name]
    if not isinstance(array, zarr.Array):
        raise FieldFileError(f"{path}: '{group.basename}/{name}' is a group, expected an array")
    return array


def _check_group(path: Path, group: zarr.Group) -> None:
    """Raise where a resolution is incomplete or its arrays are not what the attributes say."""
    where = f"{path}: group '{group.basename}'"
    if group.attrs.get("complete") is not True:
        raise FieldFileError(
            f"{where} is incomplete: found complete={group.attrs.get('complete')}, expected True"
        )
    with reading(path, f"attributes of '{group.basename}'"):
        grid = Grid.from_dict(group.attrs["grid"])  # type: ignore[arg-type]  # JSON; checked by Grid
    arrays = {name: _array(path, group, name) for name in ARRAYS}
    n = arrays["input"].shape[0]
    for name, array in arrays.items():
        if len(array.shape) < 2 or array.shape[0] != n or array.shape[2:] != grid.shape:
            expected = ", ".join(map(str, (n, "channels", *grid.shape)))
            raise FieldFileError(
                f"{path}: array '{group.basename}/{name}' has shape {array.shape}, expected ({expected})"
            )
        if np.dtype(array.dtype).kind != "f":
            raise FieldFileError(
                f"{path}: array '{group.basename}/{name}' has dtype {array.dtype}, expected a floating type"
            )
        with reading(path, f"array '{group.basename}/{name}'"):
            found = array.nchunks_initialized
        if found != array.nchunks:
            raise FieldFileError(
                f"{path}: array '{group.basename}/{name}' is truncated: found {found} chunks, "
                f"expected {array.nchunks}"
            )


def _verify(path: Path, group: zarr.Group) -> None:
    stored = group.attrs.get("sha256")
    for name in ARRAYS:
        found = _sha256(_blocks(path, group, name, 0, None))
        expected = stored.get(name) if isinstance(stored, dict) else None
        if found != expected:
            raise FieldFileError(
                f"{path}: array '{group.basename}/{name}' is not what was written: found SHA-256 {found}, "
                f"expected {expected}"
            )


def _blocks(
    path: Path, group: zarr.Group, name: str, start: int, stop: int | None
) -> Iterator[npt.NDArray[Any]]:
    """Read samples a chunk at a time."""
    array = _array(path, group, name)
    stop = int(array.shape[0]) if stop is None else stop
    for first in range(start, stop, array.chunks[0]):
        last = min(first + array.chunks[0], stop)
        with reading(path, f"array '{group.basename}/{name}', samples {first} to {last - 1}"):
            block = np.asarray(array[first:last])
        yield block


def _sha256(blocks: Iterator[npt.NDArray[Any]] | Sequence[npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        little_endian = block.dtype.newbyteorder("<")
        digest.update(np.ascontiguousarray(block, dtype=little_endian).data)
    return digest.hexdigest()
