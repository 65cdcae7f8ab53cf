"""Tell how far a potential is from labels it was not trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.interatomic.scoring import Scored
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Scored = "lemmata.apps.interatomic.scoring.Scored"

__all__ = ["ERRORS", "evaluate"]

ERRORS = "errors"


def evaluate(
    checkpoint: Path,
    source: str,
    *,
    out: Path | None = None,
    part: str = "test",
    batch_size: int = 32,
    device: str = "cpu",
    force: bool = False,
) -> list[dict[str, Any]]:
    """Print and write a potential's errors of energies, forces and stress, with parity plots.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that export wrote.
        source: A folder that prepare wrote, a labelled extended-XYZ file, or a published set.
        out: Folder to write: errors.csv, errors.md, plots; nothing is written where not given.
        part: Which part of a prepared folder: train, validation or test.
        batch_size: Frames at once.
        device: Where to compute.
        force: Replace what the folder holds.

    Returns:
        Rows of errors: of all frames, by configuration type, and by element.

    Raises:
        FileExistsError: Where the folder is not empty and `force` is not given.
        FileNotFoundError: Where checkpoint or labels do not exist.
        ValueError: Where labels cannot be read, or an element is unknown to the potential.
    """
    from lemmata.apps.interatomic import figures
    from lemmata.apps.interatomic.labelled import labelled_frames
    from lemmata.apps.interatomic.scoring import score, table_rows
    from lemmata.apps.interatomic.trained import load_potential
    from lemmata.apps.kit.files import new_output
    from lemmata.apps.kit.tables import Table

    if batch_size < 1:
        raise ValueError(f"`batch_size` (={batch_size}) must be at least 1")
    potential = load_potential(checkpoint, device=device)
    scored = score(potential, labelled_frames(source, part), batch_size=batch_size)
    rows = table_rows(scored)
    table = Table.from_records(rows, title=f"Errors of {checkpoint} on {source}")
    table.print()
    if out is not None:
        new_output(out, force=force).mkdir(exist_ok=True)
        table.save(out / ERRORS)
        figures.save(_parity(scored), out / "plots")
    return rows


def _parity(scored: "Scored") -> list[Any]:
    """Return the parity plots of what is labelled."""
    import numpy as np

    from lemmata.apps.interatomic import figures

    pairs = {
        "energy": (
            "energy (eV/atom)",
            scored.energy_label / scored.atoms,
            scored.energy / scored.atoms,
        ),
        "forces": ("force (eV/A)", scored.forces_label, scored.forces),
        "stress": ("stress (eV/A^3)", scored.stress_label, scored.stress),
    }
    drawings = []
    for name, (quantity, label, predicted) in pairs.items():
        known = np.isfinite(label) & np.isfinite(predicted)
        if known.any():
            drawings.append(figures.draw_parity(name, quantity, label[known], predicted[known]))
    return drawings
