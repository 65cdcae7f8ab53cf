"""Files that are either complete or not there, and output that is never overwritten by accident.

A result is written beside its final place, forced to the disk, and renamed over it: a killed run leaves the
old file or the new one, never half of either.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["new_output", "read_json", "sha256", "write_atomically", "write_json"]


def new_output(path: Path | str, *, force: bool = False) -> Path:
    """Return a path that is free for new output.

    An empty folder counts as free. The parent folder is created.

    Args:
        path: File or folder about to be written.
        force: Remove what is there.

    Returns:
        The path, at which nothing (or an empty folder) exists now.

    Raises:
        FileExistsError: Where something is there and `force` is not given.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     new_output(Path(folder) / "results" / "table.csv").name
        'table.csv'
    """
    path = Path(path)
    if path.is_symlink() or path.exists():
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            return path
        if not force:
            raise FileExistsError(f"{path} exists already; pass --force to replace it")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def write_atomically(path: Path | str) -> Iterator[Path]:
    """Give a temporary file to write; it takes the path's place when the block ends without an exception.

    Args:
        path: File to write; its folder is created. A file that is there is replaced.

    Yields:
        A file in the same folder and with the same suffix, empty, for the block to write (or replace).

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with write_atomically(Path(folder) / "note.txt") as draft:
        ...         _ = draft.write_text("complete")
        ...     (Path(folder) / "note.txt").read_text()
        'complete'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o666 & ~_umask())
        _to_disk(draft)
        draft.replace(path)
        _to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "empty").write_bytes(b"")
        ...     sha256(Path(folder) / "empty")[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path | str, value: Any) -> Path:
    """Write a value as JSON, atomically: two spaces of indentation, keys in their order, a final newline.

    Raises:
        ValueError: Where a number is not finite, which JSON cannot hold.
        TypeError: Where the value holds something that JSON does not know.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    with write_atomically(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is not JSON; the message names the file and the line.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON: it is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: line {error.lineno}: {error.msg}") from error


def _umask() -> int:
    """Return the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _to_disk(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no handle on a folder; a rename is durable there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
