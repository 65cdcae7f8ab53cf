"""Compare trained potentials on the same labels, and tell how far they disagree."""

from pathlib import Path
from typing import Any

__all__ = ["compare"]


def compare(
    source: str,
    *,
    checkpoints: list[Path],
    out: Path | None = None,
    part: str = "test",
    batch_size: int = 32,
    device: str = "cpu",
    force: bool = False,
) -> list[dict[str, Any]]:
    """Compare potentials on the same labels: errors, size, speed, and their disagreement.

    Args:
        source: A folder that prepare wrote, a labelled extended-XYZ file, or a published set.
        checkpoints: Checkpoints, runs' folders, or files that export wrote; two or more.
        out: Folder to write: comparison.csv and comparison.md; nothing is written where not given.
        part: Which part of a prepared folder: train, validation or test.
        batch_size: Frames at once.
        device: Where to compute.
        force: Replace what the folder holds.

    Returns:
        One row a potential, and last how far the committee of all of them is from the labels and how its
        spread goes with its errors.

    Raises:
        FileExistsError: Where the folder is not empty and `force` is not given.
        FileNotFoundError: Where a checkpoint or the labels do not exist.
        ValueError: Where fewer than two potentials are given, or labels cannot be read.
    """
    import time

    from lemmata.apps.interatomic.labelled import labelled_frames
    from lemmata.apps.interatomic.scoring import score, table_rows
    from lemmata.apps.interatomic.trained import load_potential
    from lemmata.apps.kit.files import new_output
    from lemmata.apps.kit.tables import Table

    if len(checkpoints) < 2:
        raise ValueError(f"`checkpoints` (={[str(path) for path in checkpoints]}) must be two or more")
    frames = labelled_frames(source, part)
    found, rows = [], []
    for checkpoint in checkpoints:
        potential = load_potential(checkpoint, device=device)
        score(potential, frames[:1])  # what a first call costs is not the model's speed
        started = time.perf_counter()
        scored = score(potential, frames, batch_size=batch_size)
        seconds = time.perf_counter() - started
        found.append(scored)
        [errors, *_] = table_rows(scored)
        rows.append(
            {"model": str(checkpoint), "parameters": sum(p.numel() for p in potential.parameters())}
            | {name: value for name, value in errors.items() if name not in ("of", "frames")}
            | {"ms/frame": 1000 * seconds / len(frames)}
        )
    rows.append(_committee(found))
    table = Table.from_records(rows, title=f"{len(frames)} frames of {source}")
    table.print()
    if out is not None:
        new_output(out, force=force).mkdir(exist_ok=True)
        table.save(out / "comparison")
    return rows


def _committee(found: list[Any]) -> dict[str, Any]:
    """Return the errors of the mean of all potentials, their spread, and how the two go together."""
    from dataclasses import replace

    import numpy as np

    from lemmata.apps.interatomic.scoring import table_rows

    forces = np.stack([one.forces for one in found])
    mean = replace(
        found[0],
        energy=np.mean([one.energy for one in found], axis=0),
        forces=forces.mean(axis=0),
        stress=np.mean([one.stress for one in found], axis=0),
    )
    [errors, *_] = table_rows(mean)
    spread = np.sqrt(forces.var(axis=0, ddof=1).sum(axis=-1))
    error = np.linalg.norm(mean.forces_error, axis=-1)
    known = np.isfinite(error)
    varies = known.sum() > 1 and spread[known].std() > 0 and error[known].std() > 0
    return (
        {"model": "mean of all"}
        | {name: value for name, value in errors.items() if name not in ("of", "frames")}
        | {
            "spread of forces (meV/A)": 1000 * float(spread.mean()),
            "correlation of spread and error": (
                float(np.corrcoef(spread[known], error[known])[0, 1]) if varies else None
            ),
        }
    )
