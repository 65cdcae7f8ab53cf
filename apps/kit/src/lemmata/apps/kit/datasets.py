"""Published data sets: where they come from, their hashes and licences, and one cache for all apps."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Dataset", "cache_folder", "datasets", "fetch"]


@dataclass(frozen=True)
class Dataset:
    """One published file.

    Args:
        name: ``"folder/file"``: its place in the cache.
        sha256: Hash of its content.
        address: Where it is downloaded from.
        licence: Licence it is published under.
        source: Who publishes it.
    """

    name: str
    sha256: str
    address: str
    licence: str
    source: str


def datasets(folder: str | None = None) -> dict[str, Dataset]:
    """Return the registered files by name; those of one folder where given."""
    raise NotImplementedError


def cache_folder() -> Path:
    """Return the cache: ``LEMMATA_DATA`` where set, else the platform's cache folder."""
    raise NotImplementedError


def fetch(name: str) -> Path:
    """Return the path of a published file, downloading it where the cache does not hold it."""
    raise NotImplementedError
