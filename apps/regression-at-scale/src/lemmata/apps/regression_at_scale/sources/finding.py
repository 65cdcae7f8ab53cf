"""From what a person names (files, patterns, folders) to the parts of a table, in order."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FORMATS", "find_parts"]

FORMATS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet", ".parq", ".pq"),
    "csv": (".csv", ".tsv"),
    "npy": (".npy",),
    "zarr": (".zarr",),
    "libsvm": (".libsvm", ".svmlight", ".svm"),
}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")


def find_parts(paths: Sequence[str | Path], forced: str | None = None) -> tuple[str, list[str]]:
    """Find the parts of a table.

    Args:
        paths: Files, patterns, folders of parts and Zarr stores.
        forced: Their format, where names do not tell.

    Returns:
        Format, and absolute paths of the parts: in the order given, those of a pattern or folder by name.

    Raises:
        FileNotFoundError: Where nothing is at a path.
        ValueError: Where a folder or pattern holds no parts, formats are mixed or unknown, a file is empty or
            named twice.
    """
    if forced is not None and forced not in FORMATS:
        raise ValueError(f"`format` (={forced!r}) must be one of {', '.join(FORMATS)}")
    if not paths:
        raise ValueError("no files: `paths` is empty")
    files = [file for path in paths for file in _expand(str(path), forced)]
    formats = [(forced or _format_of(file), file) for file in files]
    first, first_file = formats[0]
    for name, file in formats:
        if name != first:
            raise ValueError(f"{file} is {name}, but {first_file} is {first}; a table has one format")
        if file.is_file() and not file.stat().st_size:
            raise ValueError(f"{file}: is empty (0 bytes)")
    _check_once(files)
    # Workers may run in another folder.
    return first, [str(file.absolute()) for file in files]


def _expand(path: str, forced: str | None) -> list[Path]:
    """Return the parts that one path names."""
    if Path(path).is_dir():
        return _folder(Path(path), forced)
    if Path(path).exists():
        return [Path(path)]
    if glob.has_magic(path):
        matches = sorted(map(Path, glob.glob(path, recursive=True)), key=_natural)  # noqa: PTH207 (absolute)
        if not matches:
            raise FileNotFoundError(f"{path}: matches no file")
        return [part for match in matches for part in (_folder(match, forced) if match.is_dir() else [match])]
    raise FileNotFoundError(f"{path}: no such file or folder")


def _folder(folder: Path, forced: str | None) -> list[Path]:
    """Return a Zarr store itself, or the parts in a folder."""
    if _is_store(folder):
        return [folder]
    wanted = FORMATS if forced is None else {forced: FORMATS[forced]}
    suffixes = {suffix for each in wanted.values() for suffix in each}
    members = sorted((member for member in folder.iterdir() if member.name[0] not in "._"), key=_natural)
    parts = [member for member in members if member.suffix.lower() in suffixes]
    if parts:
        return [part for part in parts if part.is_file() or _is_store(part)]
    if nested := [member for member in members if member.is_dir()]:
        raise ValueError(f"{folder}: holds folders, not parts; name what to read, say {nested[0]}")
    raise ValueError(f"{folder}: holds no parts ({', '.join(sorted(suffixes))})")


def _is_store(folder: Path) -> bool:
    """Tell whether a folder is a Zarr store."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Return a key that sorts part-2 before part-10."""
    pieces = re.split(r"(\d+)", str(path))
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece]


def _format_of(file: Path) -> str:
    """Return the format that a name tells."""
    suffix = file.suffix.lower()
    if suffix in _PACKED:
        raise ValueError(f"{file}: is compressed as a whole, so no part of it can be read alone; unpack it")
    if file.is_dir():
        return "zarr"
    for name, suffixes in FORMATS.items():
        if suffix in suffixes:
            return name
    known = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
    raise ValueError(f"{file}: unknown format {suffix!r}; expected {known}, or name the `format`")


def _check_once(files: list[Path]) -> None:
    """Raise where a file is named twice, whose rows would count twice."""
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise ValueError(f"{file}: is named twice")
        seen.add(file.resolve())
