"""Where stores are put: what is recognised as one, what may be replaced, how the new takes its place.

Nothing here imports PyTorch or Zarr.
"""

import json
import shutil
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "VERSION", "check_replaceable", "is_store", "publish", "root_attributes"]

FORMAT = "lemmata-fields"
VERSION = 1


def is_store(path: Path | str) -> bool:
    """Tell whether a path holds a store of this app.

    Args:
        path: Any path.

    Returns:
        Whether it is a Zarr group that says so.
    """
    return root_attributes(path).get("format") == FORMAT


def root_attributes(path: Path | str) -> dict[str, Any]:
    """Return the attributes of a Zarr group without opening it.

    Args:
        path: Any path.

    Returns:
        The attributes; empty where there is no group or its metadata cannot be read.
    """
    try:
        metadata = json.loads((Path(path) / "zarr.json").read_bytes())
        return dict(metadata["attributes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_replaceable(path: Path, *, force: bool) -> None:
    """Raise where writing to a path would destroy what should stay.

    Args:
        path: Where a store is to be written.
        force: Whether an existing store may be replaced.

    Raises:
        FileExistsError: Where `path` exists and `force` is not given, or it is no store of this app.
    """
    if not path.exists():
        return
    if not is_store(path):
        raise FileExistsError(f"{path}: exists and is not a data set of this app; it is never replaced")
    if not force:
        raise FileExistsError(f"{path}: exists; --force replaces it")


def publish(finished: Path, path: Path) -> None:
    """Move a finished store to its place, in place of an older one.

    Args:
        finished: The finished store, on the same file system.
        path: Its place.
    """
    for litter in finished.rglob("*.partial"):
        litter.unlink()  # what a killed worker was writing
    if not path.exists():
        finished.replace(path)
        return
    older = finished.with_name(f"{finished.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    path.replace(older)
    finished.replace(path)
    shutil.rmtree(older)
