"""Published data sets: where they come from, their hashes and licences, and one cache for all apps.

The registry, `datasets.tsv` beside this module, names each file's place in the cache, its SHA-256, its
address, its licence and who publishes it. The cache is the folder that the environment variable
`LEMMATA_DATA` names, else the platform's. A file that is there with the right content is used as it is,
also from a folder that cannot be written.
"""

import csv
import functools
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lemmata.apps.kit.files import sha256

__all__ = ["Dataset", "cache_folder", "datasets", "fetch"]


@dataclass(frozen=True)
class Dataset:
    """One published file.

    Args:
        name: `"folder/file"`: its place in the cache.
        sha256: Hash of its content.
        address: Where it is downloaded from.
        licence: Licence it is published under.
        source: Who publishes it, and what it is.
    """

    name: str
    sha256: str
    address: str
    licence: str
    source: str


def datasets(folder: str | None = None) -> dict[str, Dataset]:
    """Return the registered files by name; those of one folder where given.

    Raises:
        ValueError: Where there is no such folder.

    Examples:
        >>> list(datasets("neuralop"))
        ['neuralop/darcy_train_16.pt', 'neuralop/darcy_test_16.pt', 'neuralop/burgers_train_16.pt']
    """
    if folder is None:
        return dict(_registry())
    found = {name: entry for name, entry in _registry().items() if name.startswith(f"{folder}/")}
    if not found:
        folders = dict.fromkeys(name.split("/")[0] for name in _registry())
        raise ValueError(f"`folder` (={folder!r}) is not registered; expected one of {', '.join(folders)}")
    return found


def cache_folder() -> Path:
    """Return the cache: the folder `LEMMATA_DATA` names where set, else the platform's cache folder."""
    if named := os.environ.get("LEMMATA_DATA"):
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("lemmata"))


def fetch(name: str) -> Path:
    """Return the path of a published file, downloading it where the cache does not hold it.

    Args:
        name: A name of the registry.

    Returns:
        The file in the cache, its content verified.

    Raises:
        ValueError: Where the name is not registered, or the file's content is not what the registry says.
        OSError: Where the file is neither in the cache nor can be downloaded, or the cache cannot be written.
    """
    registry = _registry()
    if name not in registry:
        raise ValueError(f"data set {name!r} is not registered; expected one of {', '.join(registry)}")
    entry = registry[name]
    path = cache_folder() / name
    if not path.is_file():
        _download(entry, path)
    found = sha256(path)
    if found != entry.sha256:
        raise ValueError(
            f"{path} is not the published file: its SHA-256 is {found}, expected {entry.sha256}; "
            "remove it, and it is downloaded again"
        )
    return path


@functools.cache
def _registry() -> dict[str, Dataset]:
    """Read the registry."""
    text = (resources.files("lemmata.apps.kit") / "datasets.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {row["name"]: Dataset(**row) for row in rows}


def _download(entry: Dataset, path: Path) -> None:
    """Download a file into the cache with pooch, which checks its hash before it takes its place."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(entry.address, f"sha256:{entry.sha256}", fname=path.name, path=path.parent)
    except PermissionError as error:
        raise OSError(f"the data cache {path.parent} cannot be written; set LEMMATA_DATA") from error
    except OSError as error:  # what requests raises is one
        raise ConnectionError(
            f"{entry.name} could not be downloaded from {entry.address}; "
            f"download it by hand and put it at {path}"
        ) from error
    except ValueError as error:  # pooch's word for a wrong hash
        raise ValueError(
            f"{entry.address} does not give the published file any more: its SHA-256 is not {entry.sha256}"
        ) from error
