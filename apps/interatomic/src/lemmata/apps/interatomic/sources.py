"""Where frames come from: a file, a folder that was prepared, or a published set."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["CARD", "PUBLISHED", "Source", "locate"]

CARD = "card.json"


@dataclass(frozen=True)
class Source:
    """Where frames are on this machine.

    Args:
        frames: An extended-XYZ file, or a folder that `prepare` wrote.
        isolated: A file of free atoms that belongs to it.
    """

    frames: Path
    isolated: Path | None = None

    @property
    def prepared(self) -> bool:
        """Whether it is a folder that `prepare` wrote."""
        return (self.frames / CARD).is_file()


# Names in kit's registry of the frames and of the free atoms.
PUBLISHED = {
    "acetylacetone": ("acetylacetone/train_300K.xyz", "acetylacetone/isolated_atoms.xyz"),
    "3bpa": ("3bpa/train_300K.xyz", "3bpa/iso_atoms.xyz"),
    "3bpa-mixed": ("3bpa/train_mixedT.xyz", "3bpa/iso_atoms.xyz"),
}


def locate(source: Path | str, option: str = "source") -> Source:
    """Return where a source is on this machine, downloading a published one that is not yet.

    Args:
        source: An extended-XYZ file, a folder that `prepare` wrote, or one of the published `acetylacetone`,
            `3bpa` (both at 300 K) and `3bpa-mixed` (at mixed temperatures).
        option: What the source is called in errors.

    Returns:
        Its files.

    Raises:
        FileNotFoundError: Where there is no such file, folder or name.
        ValueError: Where a folder is not one that `prepare` wrote, or a published file has other content.
        OSError: Where a published file can neither be found nor downloaded.
    """
    if str(source) in PUBLISHED:
        from lemmata.apps.kit.datasets import fetch

        frames, isolated = PUBLISHED[str(source)]
        return Source(fetch(frames), fetch(isolated))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"`{option}` (={str(source)!r}) does not exist; expected an extended-XYZ file, a folder that "
            f"`prepare` wrote, or one of {', '.join(PUBLISHED)}"
        )
    found = Source(path)
    if path.is_dir() and not found.prepared:
        raise ValueError(
            f"`{option}` (={str(source)!r}) is a folder without {CARD}; expected one of `prepare`"
        )
    return found
