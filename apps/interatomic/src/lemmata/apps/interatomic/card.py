"""A data set's card: what is in it, where it is from, how it was split, and what was left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from lemmata.apps.interatomic.frames import Report
from lemmata.apps.interatomic.reference import Reference
from lemmata.apps.interatomic.sources import CARD
from lemmata.apps.interatomic.splitting import Split

__all__ = ["make_card", "print_card", "read_card"]

FORMAT, VERSION = "lemmata-atoms", 1
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
DROPPED_LISTED = 100


def make_card(
    parts: Mapping[str, Sequence[Atoms]],
    reference: Reference,
    reports: Sequence[Report],
    *,
    source: str,
    split: Split,
    files: Mapping[str, str] | None = None,
    notices: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe a data set in JSON's types.

    Args:
        parts: Frames by `train`, `validation` and `test`.
        reference: What was measured on the training frames.
        reports: What reading each file found.
        source: Where the frames are from.
        split: How they were split.
        files: Files that parts were read from instead, by part.
        notices: What a reader should know, a sentence each.

    Returns:
        `elements`, `E0s`, `E0s_from`, `scale`, `average_neighbours`, `cutoff` (see `Reference`); `parts`
        (frames, atoms, labels, kinds of frames); `species`, `energy` and `forces` of the training frames;
        `split`; `files` (each with its labels' names, frames read and kept); `dropped`; `notices`.
    """
    train = parts["train"]
    drops = [
        {"file": report.file, "frame": drop.frame, "line": drop.line, "reason": drop.reason}
        for report in reports
        for drop in report.dropped
    ]
    measured = reference.to_dict()
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": source,
        "units": UNITS,
        **{name: value for name, value in measured.items() if name != "notices"},
        "parts": {part: _part(frames) for part, frames in parts.items()},
        "species": _species(train),
        "energy": _energies(train, reference),
        "forces": _forces(train),
        "split": _split(split, files or {}),
        "files": [
            {
                "file": report.file,
                "read": report.read,
                "kept": report.kept,
                "keys": report.keys.to_dict(),
                "labelled": dict(report.labelled),
            }
            for report in reports
        ],
        "dropped": {
            "count": len(drops),
            "reasons": dict(Counter(drop["reason"] for drop in drops)),
            "frames": drops[:DROPPED_LISTED],
        },
        "notices": [*measured["notices"], *(n for report in reports for n in report.notices), *notices],
    }


def read_card(folder: Path | str) -> dict[str, Any]:
    """Read the card of a folder that `prepare` wrote.

    Args:
        folder: The folder.

    Returns:
        What `make_card` returned.

    Raises:
        FileNotFoundError: Where there is no card.
        ValueError: Where it is not one, or one of a later version.
    """
    from lemmata.apps.kit.files import read_json

    path = Path(folder) / CARD
    card = read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(f"{path} is not the card of a data set of this app")
    if card.get("version") != VERSION:
        raise ValueError(f"{path} has version {card.get('version')}, expected {VERSION}; prepare it again")
    return card


def print_card(card: Mapping[str, Any], console: Any = None) -> None:
    """Show a card in the terminal.

    Args:
        card: What `make_card` returned.
        console: A `rich.console.Console`; one on stdout where None.
    """
    from rich.console import Console
    from rich.markup import escape

    from lemmata.apps.kit.tables import Table

    console = console or Console()
    Table.from_records(
        [
            {
                "part": part,
                "frames": row["frames"],
                "atoms": row["atoms"],
                **row["labelled"],
                "kinds": len(row["kinds"]),
            }
            for part, row in card["parts"].items()
        ],
        title=f"Frames of {card['source']}, with their labels",
    ).print(console)
    Table.from_records(
        [
            {
                "element": symbol,
                "E0 (eV)": f"{card['E0s'][symbol]:.4f}",
                "from": card["E0s_from"][symbol],
                "atoms": row["atoms"],
                "RMS force (eV/Å)": row["rms_force"],
            }
            for symbol, row in card["species"].items()
        ],
        title="Elements of the training frames",
    ).print(console)
    for line in _lines(card):
        console.print(escape(line), highlight=False)


def _lines(card: Mapping[str, Any]) -> list[str]:
    """Return what a card says in sentences."""
    energy, split, dropped = card["energy"], card["split"], card["dropped"]
    around = f"{card['average_neighbours']:.1f} neighbours within {card['cutoff']:g} Å"
    lines = [f"RMS force {card['scale']:.4g} eV/Å; {around}"]
    if energy:
        lines.append(
            f"Energy beyond E0s {energy['mean_per_atom']:.4f} eV an atom, standard deviation "
            f"{1000 * energy['std_per_atom']:.2f} meV an atom"
        )
    lines.append(f"Split: {split['description']}")
    if dropped["count"]:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped["reasons"].items())
        lines.append(f"Dropped {dropped['count']} frames: {reasons}")
    return [*lines, *(f"Note: {notice}" for notice in card["notices"])]


def _part(frames: Sequence[Atoms]) -> dict[str, Any]:
    """Count the frames of a part."""
    return {
        "frames": len(frames),
        "atoms": sum(map(len, frames)),
        "labelled": {
            label: sum(label in getattr(atoms.calc, "results", {}) for atoms in frames)
            for label in ("energy", "forces", "stress")
        },
        "kinds": dict(Counter(str(atoms.info.get("config_type", "default")) for atoms in frames)),
    }


def _species(frames: Sequence[Atoms]) -> dict[str, dict[str, Any]]:
    """Count the atoms of each element, and measure the forces on them."""
    rows = {}
    for z in sorted({int(z) for atoms in frames for z in atoms.numbers}):
        forces = [a.calc.results["forces"][a.numbers == z] for a in frames if _has(a, "forces")]
        squares = np.concatenate([np.zeros((0, 3)), *forces]) ** 2
        rows[chemical_symbols[z]] = {
            "atoms": sum(int((atoms.numbers == z).sum()) for atoms in frames),
            "rms_force": float(np.sqrt(squares.mean())) if squares.size else None,
        }
    return rows


def _energies(frames: Sequence[Atoms], reference: Reference) -> dict[str, float] | None:
    """Measure energies beyond those of free atoms; None where there are none."""
    rest = np.array(
        [
            (a.calc.results["energy"] - sum(reference.e0[int(z)] for z in a.numbers)) / len(a)
            for a in frames
            if _has(a, "energy")
        ]
    )
    if not rest.size:
        return None
    return {
        "mean_per_atom": float(rest.mean()),
        "std_per_atom": float(rest.std()),
        "min_per_atom": float(rest.min()),
        "max_per_atom": float(rest.max()),
    }


def _forces(frames: Sequence[Atoms]) -> dict[str, float] | None:
    """Measure forces by component; None where there are none."""
    forces = [a.calc.results["forces"].ravel() for a in frames if _has(a, "forces")]
    if not forces:
        return None
    every = np.concatenate(forces)
    return {"rms": float(np.sqrt(np.mean(every**2))), "max": float(np.abs(every).max())}


def _split(split: Split, files: Mapping[str, str]) -> dict[str, Any]:
    """Describe the split."""
    how = {
        "blocks": "contiguous blocks in the order of the file, the last for tests"
        + (f", {split.gap} frames left out between" if split.gap else ""),
        "hash": f"hash of {'the structure' if split.key is None else f'`{split.key}`'}",
    }[split.rule]
    cut = [f"{f:.0%} {part}" for part, f in (("validation", split.validation), ("test", split.test)) if f]
    together = f", `{split.key}` kept together" if split.key is not None and split.rule == "blocks" else ""
    given = [f"{part} from {file}" for part, file in files.items()]
    return {
        "rule": split.rule,
        "validation_fraction": split.validation,
        "test_fraction": split.test,
        "gap": split.gap,
        "key": split.key,
        "seed": split.seed,
        "files": dict(files),
        "description": "; ".join([*([f"{how}{together} ({', '.join(cut)})"] if cut else []), *given])
        or "all for training",
    }


def _has(atoms: Atoms, label: str) -> bool:
    """Tell whether a frame has a label."""
    return label in getattr(atoms.calc, "results", {})
