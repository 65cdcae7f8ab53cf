"""Structures to start from: a frame of a file, or a molecule by name."""

from pathlib import Path

import ase
import ase.io

__all__ = ["read_structure", "read_structures"]


def read_structure(source: Path | str, frame: int = -1) -> ase.Atoms:
    """Return one structure, without a calculator.

    Args:
        source: A file in any format that ASE reads, or a molecule that ASE knows by name.
        frame: Which frame of the file, from the end where negative.

    Raises:
        FileNotFoundError: Where neither file nor molecule of this name exists.
        ValueError: Where the file cannot be read, or has no such frame.

    Examples:
        >>> read_structure("CH3CH2OH").get_chemical_formula()
        'C2H6O'
    """
    if not Path(source).exists():
        return _molecule(str(source))
    frames = read_structures(source)
    if not -len(frames) <= frame < len(frames):
        raise ValueError(f"`frame` (={frame}) does not exist: {source} has {len(frames)} frames")
    return frames[frame]


def read_structures(source: Path | str) -> list[ase.Atoms]:
    """Return all frames of a file, without calculators.

    Args:
        source: A file in any format that ASE reads.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it cannot be read, or is empty.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        frames = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsing hits
        raise ValueError(f"{path} cannot be read as atoms: {type(error).__name__}: {error}") from error
    frames = [frames] if isinstance(frames, ase.Atoms) else list(frames)
    if not frames:
        raise ValueError(f"{path} holds no atoms")
    for atoms in frames:
        atoms.calc = None
    return frames


def _molecule(name: str) -> ase.Atoms:
    """Return a molecule of ASE's collection."""
    from ase.build import molecule

    try:
        found: ase.Atoms = molecule(name)
    except KeyError:
        raise FileNotFoundError(
            f"{name} is neither a file nor a molecule that ASE knows, such as CH3CH2OH"
        ) from None
    return found
