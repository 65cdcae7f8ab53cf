"""Extended-XYZ files, a frame at a time, with errors that name file, line and frame.

ASE parses a frame. What is done here is what it leaves to chance: it stops at a blank line without a word,
and its errors do not say where they happened.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

__all__ = ["RawFrame", "iterate_frames"]

PLAIN_COLUMNS = "species:S:1:pos:R:3"


@dataclass(frozen=True)
class RawFrame:
    """A frame as the file has it, and where.

    Args:
        atoms: What ASE reads.
        frame: Its number in the file, from 0.
        line: The line of its number of atoms, from 1.
        where: Both in words, for messages.
    """

    atoms: Atoms
    frame: int
    line: int
    where: str


@dataclass(frozen=True)
class _Chunk:
    """The lines of a frame: number of atoms, comment, atoms, and vectors of the cell in an old variant."""

    lines: list[str]
    frame: int
    line: int


def iterate_frames(path: Path | str, *, progress: bool = False) -> Iterator[RawFrame]:
    """Yield the frames of an extended-XYZ file.

    Blank lines between frames are skipped.

    Args:
        path: The file, in UTF-8.
        progress: Show a progress bar.

    Yields:
        Each frame.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is empty or no text, ends within a frame, or a line cannot be read.
    """
    import rich.progress

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected an extended-XYZ file")
    found = False
    options = {"description": f"Reading {path.name}", "disable": not progress, "transient": True}
    try:
        with rich.progress.open(path, "r", encoding="utf-8-sig", **options) as file:  # type: ignore[call-overload]  # options are its keywords
            for chunk in _chunks(file, path):
                found = True
                where = f"{path}, frame {chunk.frame} (line {chunk.line})"
                yield RawFrame(_parse(chunk, path, where), chunk.frame, chunk.line, where)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; expected an extended-XYZ file") from error
    if not found:
        raise ValueError(f"{path} is empty; expected an extended-XYZ file")


def _chunks(file: Iterable[str], path: Path) -> Iterator[_Chunk]:
    """Yield the lines of each frame."""
    lines = enumerate(file, 1)
    header = next(lines, None)
    frame = 0
    while header is not None:
        number, line = header
        if line.strip():
            count = _count(line, path, number, frame)
            body = [line, *(next(lines, (0, ""))[1] for _ in range(1 + count))]
            there = sum(bool(text.strip()) for text in body[2:])
            if there < count or not body[1]:
                raise ValueError(
                    f"{path} is truncated: frame {frame} (line {number}) has {there} of {count} atoms"
                )
            header = next(lines, None)
            while header is not None and header[1].lstrip().startswith("VEC"):
                body.append(header[1])
                header = next(lines, None)
            yield _Chunk(body, frame, number)
            frame += 1
        else:
            header = next(lines, None)


def _count(line: str, path: Path, number: int, frame: int) -> int:
    """Return the number of atoms that a frame's first line tells."""
    try:
        count = int(line)
    except ValueError:
        count = -1
    if count < 0:
        raise ValueError(
            f"{path}, line {number}: expected the number of atoms of frame {frame}, "
            f"found {line.strip()[:60]!r}"
        )
    return count


def _parse(chunk: _Chunk, path: Path, where: str) -> Atoms:
    """Let ASE read a frame."""
    from ase.io.extxyz import read_xyz

    try:
        atoms: Atoms = next(read_xyz(io.StringIO("".join(chunk.lines)), index=0))
    except (ValueError, KeyError, TypeError, OSError, IndexError, AssertionError) as error:
        raise ValueError(f"{_blame(chunk, path) or where}: {error}") from error
    if (atoms.numbers < 1).any():
        place = int((atoms.numbers < 1).argmax())
        raise ValueError(f"{where}: atom {place} is of no element; expected a column of species or of Z")
    return atoms


def _blame(chunk: _Chunk, path: Path) -> str:
    """Return the place and fault of the first line of atoms that cannot be read; nothing where all can."""
    from ase.data import atomic_numbers

    try:
        properties = _properties(chunk.lines[1]).split(":")
        names, kinds, widths = properties[::3], properties[1::3], [int(width) for width in properties[2::3]]
    except (ValueError, TypeError):
        return ""
    columns = [
        (name, kind) for name, kind, width in zip(names, kinds, widths, strict=False) for _ in range(width)
    ]
    for number, line in enumerate(chunk.lines[2:], chunk.line + 2):
        cells = line.split()
        place = f"{path}, line {number} (frame {chunk.frame})"
        if len(cells) < len(columns):
            return f"{place} has {len(cells)} columns, expected {len(columns)}"
        for (name, kind), cell in zip(columns, cells, strict=False):
            if name == "species" and cell.capitalize() not in atomic_numbers:
                return f"{place}: {cell!r} is not an element"
            if kind in {"R", "I"} and not _is_number(cell):
                return f"{place}: {cell!r} of column {name} is not a number"
    return ""


def _properties(comment: str) -> str:
    """Return the columns that a comment tells of."""
    from ase.io.extxyz import key_val_str_to_dict

    pairs = key_val_str_to_dict(comment)
    return str(pairs.get("Properties", PLAIN_COLUMNS))


def _is_number(cell: str) -> bool:
    """Tell whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
