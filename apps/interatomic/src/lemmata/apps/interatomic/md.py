"""Run molecular dynamics with a trained potential, and say how it kept."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lemmata.apps.interatomic.dynamics import Samples
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Samples = "lemmata.apps.interatomic.dynamics.Samples"

__all__ = ["REPORT", "SAMPLES", "md"]

REPORT, SAMPLES = "report.json", "samples.csv"


def md(
    checkpoint: Path,
    structure: str,
    *,
    out: Path = Path("runs/interatomic-md"),
    ensemble: Literal["nve", "nvt"] = "nve",
    picoseconds: float = 5.0,
    timestep: float = 0.5,
    temperature: float = 300.0,
    friction: float = 0.01,
    frame: int = -1,
    committee: list[Path] | None = None,
    sample_every: int = 10,
    skin: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
    precision: Literal["float32", "float64"] = "float64",
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Run molecular dynamics with a trained potential, and report drift, survival and bonds.

    An interrupted run goes on with --resume as if it had not been: the same trajectory, bit for bit on one
    machine. A run stops where a bond is half an Angstrom longer than at the start; a hydrogen may change its
    partner.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that export wrote.
        structure: A file that ASE reads, or a molecule that ASE knows by name, say CH3CH2OH.
        out: Folder to write: trajectory.xyz, samples.csv, report.json, plots.
        ensemble: nve (constant energy) or nvt (a Langevin thermostat).
        picoseconds: Length of the run.
        timestep: In fs.
        temperature: Of the first velocities and the thermostat, in K.
        friction: Of the thermostat, in 1/fs.
        frame: Which frame of the file to start from; the last by default.
        committee: Further models; their disagreement about forces is recorded.
        sample_every: Steps between two samples.
        skin: How far beyond the cutoff the neighbour list reaches, in A.
        seed: Of velocities and thermostat.
        device: Where to compute, say cuda.
        precision: Of the network.
        resume: Go on with the run in the folder.
        force: Replace what the folder holds.

    Returns:
        The report.

    Raises:
        FileExistsError: Where the folder holds a run and neither `force` nor `resume` is given.
        FileNotFoundError: Where a file does not exist, or there is nothing to resume.
        ValueError: Where an argument is out of range, or the model does not know an element.
    """
    import torch

    from lemmata.apps.interatomic.calculator import InteratomicCalculator
    from lemmata.apps.interatomic.dynamics import simulate
    from lemmata.apps.interatomic.structures import read_structure
    from lemmata.apps.kit.files import new_output

    for name, value in (
        ("picoseconds", picoseconds),
        ("timestep", timestep),
        ("temperature", temperature),
        ("friction", friction),
        ("sample_every", sample_every),
    ):
        if not 0 < value < float("inf"):
            raise ValueError(f"`{name}` (={value}) must be positive and finite")
    if ensemble not in ("nve", "nvt"):
        raise ValueError(f"`ensemble` (={ensemble!r}) must be nve or nvt")
    atoms = read_structure(structure, frame)
    atoms.calc = InteratomicCalculator(
        [checkpoint, *(committee or [])], device=device, dtype=getattr(torch, precision), skin=skin
    )
    if not resume:
        new_output(out, force=force).mkdir(exist_ok=True)
    started, made = time.perf_counter(), 0
    with _progress(picoseconds) as progress:
        samples = simulate(
            atoms,
            out,
            ensemble=ensemble,
            temperature=temperature,
            picoseconds=picoseconds,
            timestep=timestep,
            friction=friction,
            sample_every=sample_every,
            seed=seed,
            resume=resume,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    made = round(samples.picoseconds[-1] * 1000 / timestep)
    report = _report(samples, ensemble, temperature, len(atoms)) | {"steps": made, "seconds": seconds}
    _write(out, samples, report)
    return report


def _report(samples: "Samples", ensemble: str, temperature: float, atoms: int) -> dict[str, Any]:
    """Return how the run kept."""
    import numpy as np

    from lemmata.apps.interatomic.stability import drift, survival

    spread = samples.spread[np.isfinite(samples.spread)]
    lost = survival(samples.picoseconds, samples.stretch, samples.temperature, temperature)
    return {
        "ensemble": ensemble,
        "atoms": atoms,
        "picoseconds": float(samples.picoseconds[-1]),
        "kept": lost is None,
        "lost at (ps)": lost,
        "drift (meV/atom/ps)": (
            drift(samples.picoseconds, samples.total, atoms) if ensemble == "nve" else None
        ),
        "energy fluctuation (meV/atom)": float(1000 * samples.total.std() / atoms),
        "mean temperature (K)": float(samples.temperature.mean()),
        "largest stretch (A)": float(samples.stretch.max()),
        "largest committee spread (eV/A)": float(spread.max()) if len(spread) else None,
    }


def _write(out: Path, samples: "Samples", report: dict[str, Any]) -> None:
    """Write samples, report and plots, and print the report."""
    from lemmata.apps.interatomic import figures
    from lemmata.apps.kit.files import write_atomically, write_json
    from lemmata.apps.kit.tables import Table

    columns = samples.columns()
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    with write_atomically(out / SAMPLES) as draft:
        draft.write_text(Table(list(columns), rows).to_csv(), encoding="utf-8")
    write_json(out / REPORT, report)
    figures.save([figures.draw_dynamics(samples), figures.draw_distances(out)], out / "plots")
    Table(["quantity", "value"], [[name, value] for name, value in report.items()]).print()


def _progress(picoseconds: float) -> Any:
    """Return a context that yields a function which shows how many picoseconds are done."""
    import contextlib
    import sys

    from rich.progress import Progress

    @contextlib.contextmanager
    def shown() -> Any:
        with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("picoseconds", total=picoseconds)
            yield lambda done: bar.update(task, completed=done)

    return shown()
