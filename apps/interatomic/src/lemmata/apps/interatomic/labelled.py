"""Labelled frames to judge a potential on."""

import logging
from pathlib import Path

import ase

from lemmata.apps.interatomic.frames import is_isolated_atom, read_frames
from lemmata.apps.interatomic.sources import locate

__all__ = ["PARTS", "labelled_frames"]

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")


def labelled_frames(source: Path | str, part: str = "test") -> list[ase.Atoms]:
    """Return the frames of a part of a prepared folder, or of a labelled file, without isolated atoms.

    Args:
        source: A folder that prepare wrote, an extended-XYZ file, or a published set.
        part: Which part of a folder: train, validation or test.

    Raises:
        FileNotFoundError: Where the source does not exist, or the folder lacks the part.
        ValueError: Where the part is unknown, or the file cannot be read.
    """
    if part not in PARTS:
        raise ValueError(f"`part` (={part!r}) must be one of {', '.join(PARTS)}")
    found = locate(source)
    file = found.frames / f"{part}.xyz" if found.prepared else found.frames
    if not file.is_file():
        raise FileNotFoundError(f"{source} has no {part}.xyz; expected a folder that prepare wrote")
    frames, report = read_frames(file, require=())
    for reason, count in report.reasons.items():
        logger.warning("%s: left out %d frames: %s", file, count, reason)
    return [atoms for atoms in frames if not is_isolated_atom(atoms)]
