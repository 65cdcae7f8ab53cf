"""A data set ready to train from: checked frames in three parts, and the card that describes them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from lemmata.apps.interatomic.card import make_card, read_card
from lemmata.apps.interatomic.frames import is_isolated_atom, read_frames, write_frames
from lemmata.apps.interatomic.reference import Reference, isolated_energies, measure
from lemmata.apps.interatomic.sources import CARD, Source, locate
from lemmata.apps.interatomic.splitting import (
    HASH,
    PARTS,
    Split,
    fingerprint,
    looks_like_a_trajectory,
    split_frames,
)

__all__ = ["Prepared", "assemble", "check_elements", "load_prepared", "open_dataset", "write_prepared"]

BYTES_OF_AN_EDGE = 28
PAIRS_TO_COMPARE = 2_000_000


@dataclass(frozen=True)
class Prepared:
    """Checked frames in parts, and their card.

    Args:
        parts: Frames by `train`, `validation` and `test`.
        card: What `card.make_card` returned.
    """

    parts: Mapping[str, Sequence[Atoms]]
    card: Mapping[str, Any]

    @property
    def reference(self) -> Reference:
        """What a potential needs to know of the training frames."""
        return Reference.from_dict(self.card)


def assemble(
    source: Path | str,
    *,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    isolated: Path | str | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    split: Split | None = None,
    max_force: float = 100.0,
    cutoff: float = 5.0,
    progress: bool = False,
) -> Prepared:
    """Read, check and split frames, and measure what training starts from; nothing is written.

    Args:
        source: An extended-XYZ file, or the name of a published set.
        validation: A file to validate on, in place of a part of the source.
        test: A file to test on, in place of a part of the source.
        isolated: A file of free atoms; those among the frames of the source are used besides.
        energy_key: What the files call energies; recognised where None, `none` to do without.
        forces_key: What they call forces, likewise.
        stress_key: What they call stresses or virials, likewise.
        split: How to split the source; by blocks, 10 % each for validation and tests, where None.
        max_force: Frames with a force longer than this are dropped, in eV/Å.
        cutoff: Cutoff to count neighbours with, in Å.
        progress: Show a progress bar.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: Where a file does not exist.
        ValueError: Where a file cannot be read or lacks labels, nothing is left for a part, or validation or
            tests hold an element that the training frames lack.
    """
    found = locate(source)
    if found.prepared:
        raise ValueError(f"`source` (={str(source)!r}) is prepared already; expected an extended-XYZ file")
    options: dict[str, Any] = {
        "energy_key": energy_key,
        "forces_key": forces_key,
        "stress_key": stress_key,
        "max_force": max_force,
        "progress": progress,
    }
    frames, report = read_frames(found.frames, **options)
    reports = [report]
    molecules = [atoms for atoms in frames if not is_isolated_atom(atoms)]
    free = [atoms for atoms in frames if is_isolated_atom(atoms) and "energy" in atoms.calc.results]
    if not molecules:
        raise ValueError(f"{found.frames} holds free atoms alone; expected frames to train on")
    if (file := Path(isolated) if isolated is not None else found.isolated) is not None:
        more, report = read_frames(file, energy_key=energy_key, forces_key="none", require=("energy",))
        free += more
        reports.append(report)
    given = {
        part: Path(file) for part, file in (("validation", validation), ("test", test)) if file is not None
    }
    split = split or Split()
    split = replace(
        split,
        validation=0.0 if "validation" in given else split.validation,
        test=0.0 if "test" in given else split.test,
    )
    parts = {
        part: [molecules[number] for number in numbers]
        for part, numbers in split_frames(molecules, split).items()
    }
    for part, file in given.items():
        others, report = read_frames(file, **options)
        parts[part] = [atoms for atoms in others if not is_isolated_atom(atoms)]
        reports.append(report)
    reference = measure(parts["train"], cutoff, isolated=isolated_energies(free))
    for part in PARTS[1:]:
        check_elements(parts[part], reference.elements, f"{part} frame", "the training frames")
    card = make_card(
        parts,
        reference,
        reports,
        source=str(source),
        split=split,
        files={part: str(file) for part, file in given.items()},
        notices=[*_notices(molecules, split, reference), *_copies(parts)],
    )
    return Prepared(parts, card)


def write_prepared(data: Prepared, folder: Path | str) -> Path:
    """Write a data set to a folder: a file a part, and the card last.

    Args:
        data: The data set.
        folder: Where to; it is created.

    Returns:
        The folder.
    """
    from lemmata.apps.kit.files import write_json

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part, frames in data.parts.items():
        if frames:
            write_frames(folder / f"{part}.xyz", frames)
    write_json(folder / CARD, data.card)
    return folder


def load_prepared(folder: Path | str) -> Prepared:
    """Read a folder that `prepare` wrote.

    Args:
        folder: The folder.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: Where the card or the file of a part is missing.
        ValueError: Where a file does not hold what the card says.
    """
    folder = Path(folder)
    card = read_card(folder)
    parts: dict[str, list[Atoms]] = {}
    for part in PARTS:
        expected = card["parts"][part]["frames"]
        path = folder / f"{part}.xyz"
        parts[part] = read_frames(path, max_force=float("inf"), require=())[0] if expected else []
        if len(parts[part]) != expected:
            raise ValueError(
                f"{path} holds {len(parts[part])} frames, its card says {expected}; prepare the data again"
            )
    return Prepared(parts, card)


def open_dataset(source: Path | str, **options: Any) -> Prepared:
    """Return a data set: as it was prepared, or made of a file here and now.

    Args:
        source: A folder that `prepare` wrote, an extended-XYZ file, or the name of a published set.
        options: Further arguments of `assemble`, which a prepared folder has no use for.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: Where a file does not exist.
        ValueError: Where something is wrong with a file; see `assemble` and `load_prepared`.
    """
    found: Source = locate(source)
    return load_prepared(found.frames) if found.prepared else assemble(source, **options)


def check_elements(frames: Iterable[Atoms], elements: Sequence[int], what: str, known: str) -> None:
    """Raise where a frame holds an element that is not known.

    Args:
        frames: The frames.
        elements: Atomic numbers that are known.
        what: What a frame is, for the message.
        known: What knows the elements, for the message.

    Raises:
        ValueError: Naming the first such frame and its elements.
    """
    for number, atoms in enumerate(frames):
        if missing := sorted({int(z) for z in np.unique(atoms.numbers)} - set(elements)):
            raise ValueError(
                f"{what} {number} has {', '.join(chemical_symbols[z] for z in missing)}, which {known} lack; "
                f"they have {', '.join(chemical_symbols[z] for z in elements)}"
            )


def _notices(frames: Sequence[Atoms], split: Split, reference: Reference) -> list[str]:
    """Return what a reader should know of the frames as a whole."""
    notices = []
    if split.rule == HASH and split.key is None and looks_like_a_trajectory(frames):
        notices.append(
            "neighbouring frames are much alike, as in a trajectory: split by hash, the test holds near "
            "copies of training frames; use blocks, or a `split_key` that says which frames belong together"
        )
    heights = [height for atoms in frames for height in _heights(atoms)]
    if heights and reference.cutoff > min(heights) / 2:
        edges = reference.average_neighbours * sum(map(len, frames))
        notices.append(
            f"the cutoff {reference.cutoff:g} Å is more than half of the smallest height of a cell, "
            f"{min(heights):.2f} Å: atoms are joined to several images of one another, and the graphs of all "
            f"frames take {edges * BYTES_OF_AN_EDGE / 1e6:.3g} MB"
        )
    return notices


def _copies(parts: Mapping[str, Sequence[Atoms]]) -> list[str]:
    """Return notices of frames that are copies of training frames, but for rotation and order."""
    if sum(len(atoms) ** 2 for frames in parts.values() for atoms in frames) > PAIRS_TO_COMPARE:
        return []  # seconds, and more where cells repeat
    trained = {fingerprint(atoms) for atoms in parts["train"]}
    counts = {part: sum(fingerprint(atoms) in trained for atoms in parts[part]) for part in PARTS[1:]}
    return [
        f"{part} frames that are copies of training frames: {count}"
        for part, count in counts.items()
        if count
    ]


def _heights(atoms: Atoms) -> list[float]:
    """Return the distances between opposite faces of a cell, along the directions that repeat."""
    from ase.geometry import complete_cell

    if not atoms.pbc.any():
        return []
    inverse = np.linalg.inv(complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)))
    return [float(1 / np.linalg.norm(inverse[:, axis])) for axis in np.flatnonzero(atoms.pbc)]
