"""Make reference data: sample geometries around a start, and label them with GFN2-xTB."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from lemmata.apps.interatomic.labelling import Recipe
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Atoms = "ase.Atoms"
    Recipe = "lemmata.apps.interatomic.labelling.Recipe"

__all__ = ["label"]

DEFAULT_COUNT = 200
# One thread for linear algebra a process: more would share the cores, and sum in another order.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def label(
    source: Path | str,
    out: Path,
    *,
    method: str = "GFN2-xTB",
    sample: str = "none",
    count: int | None = None,
    temperature: float = 300.0,
    amplitude: float = 0.05,
    strain: float = 0.0,
    timestep: float = 0.5,
    equilibration: int = 200,
    interval: int = 20,
    trajectory: int = 20,
    relax: bool = True,
    charge: int = 0,
    multiplicity: int | None = None,
    isolated: bool = True,
    seed: int = 0,
    workers: int | None = None,
    force: bool = False,
) -> Path:
    """Sample geometries, compute their energies and forces with tblite, and write them as extended XYZ.

    Interrupted? The same command goes on where it stopped, and ends with the file of an uninterrupted run: a
    frame depends on the seed and its number, not on the number of processes or what was done before. Frames
    whose calculation fails are left out and counted. Called from a script, workers need the usual guard
    `if __name__ == "__main__":`; workers=0 stays in the process and needs none.

    Args:
        source: A molecule that ASE knows, such as CH3CH2OH, a file of geometries, or a published set.
        out: File to write; what was done is told in a .json beside it.
        method: GFN2-xTB, GFN1-xTB or IPEA1-xTB.
        sample: Geometries around the source's: none (label those), displace (random displacements),
            normal-modes (thermal harmonic vibrations) or md (short Langevin trajectories).
        count: Number of frames; 200, or with none all of the source.
        temperature: Of normal-modes and md, in K.
        amplitude: Of displace: standard deviation of a component of a displacement, in Å.
        strain: Of displace: standard deviation of a component of the strain of a cell that repeats.
        timestep: Of md, in fs.
        equilibration: Of md: steps before the first frame of a trajectory.
        interval: Of md: steps between two frames.
        trajectory: Of md: frames of a trajectory.
        relax: Relax the source's geometries before sampling around them.
        charge: Total charge, in e.
        multiplicity: Spin multiplicity; the lowest where not given.
        isolated: Label the free atoms too, which energies are measured from.
        seed: Seed of the samples.
        workers: Processes, each with one thread; as many as there are cores where not given, 0 for this one.
        force: Replace the file, and what is left of an interrupted run with other arguments.

    Returns:
        The file.

    Raises:
        FileExistsError: Where the file exists and `force` is not given.
        FileNotFoundError: Where the source does not exist.
        ChildProcessError: Where a worker was lost; what is done is kept.
        ValueError: Where an argument is out of range, an interrupted run had other ones, or no frame could be
            labelled.
    """
    from lemmata.apps.interatomic.labelling import RECIPE, Recipe, pieces, recipe_file, write_start
    from lemmata.apps.kit.files import write_json

    source, out = str(source), Path(out)
    if out.suffix not in {".xyz", ".extxyz"}:
        raise ValueError(f"`out` (={str(out)!r}) must end in .xyz or .extxyz")
    if workers is not None and workers < 0:
        raise ValueError(f"`workers` (={workers}) must be at least 0")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")
    starts = _starts(source)
    number = (len(starts) if sample == "none" else DEFAULT_COUNT) if count is None else count
    starts = starts[: max(1, number)]
    recipe = Recipe(
        method=method,
        sample=sample,
        count=min(number, len(starts)) if sample == "none" else number,
        starts=len(starts),
        seed=seed,
        temperature=temperature,
        amplitude=amplitude,
        strain=strain,
        timestep=timestep,
        equilibration=equilibration,
        interval=interval,
        trajectory=trajectory,
        relax=relax,
        charge=charge,
        multiplicity=multiplicity,
        isolated=isolated,
    )
    content = recipe_file(recipe, _facts(starts))
    folder = out.with_name(f"{out.name}.partial")
    if not _goes_on(folder, content, force=force):
        folder.mkdir(parents=True)
        for index, atoms in enumerate(starts):
            write_start(folder, index, atoms)
        write_json(folder / RECIPE, content)  # written last: where it is, the starts are complete
    first, rest = pieces(recipe)
    processes = (os.cpu_count() or 1) if workers is None else workers
    _make_all(folder, first, rest, recipe.count, min(processes, max(len(first), len(rest))))
    outcome = _outcome(folder, first, rest, source=source, content=content)
    if not outcome["frames"]:
        shutil.rmtree(folder)
        reasons = ", ".join(f"{reason} ({times})" for reason, times in outcome["failed"]["reasons"].items())
        raise ValueError(f"none of {recipe.count} frames could be labelled: {reasons}")
    _merge(folder, rest, out)
    write_json(out.with_suffix(".json"), outcome)
    shutil.rmtree(folder)
    _tell(out, outcome)
    return out


def _starts(source: str) -> "list[Atoms]":
    """Return the geometries of a source, without labels."""
    from lemmata.apps.interatomic.frames import read_frames
    from lemmata.apps.interatomic.sources import PUBLISHED, locate
    from lemmata.apps.interatomic.structures import read_structure, read_structures

    path = locate(source).frames if source in PUBLISHED else Path(source)
    if path.suffix in {".xyz", ".extxyz"} and path.is_file():
        frames, _ = read_frames(path, require=(), max_force=float("inf"))
    elif path.is_file():
        frames = read_structures(path)
    else:
        frames = [read_structure(source)]
    for atoms in frames:
        atoms.calc = None
    return frames


def _facts(starts: "Sequence[Atoms]") -> dict[str, Any]:
    """Return what determines the frames besides the recipe: the starts, and the versions of what computes."""
    import hashlib
    import importlib.metadata

    digest = hashlib.sha256()
    for atoms in starts:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(array.tobytes())
    return {
        "starts_sha256": digest.hexdigest(),
        "versions": {name: importlib.metadata.version(name) for name in ("ase", "numpy", "tblite")},
    }


def _goes_on(folder: Path, content: Mapping[str, Any], *, force: bool) -> bool:
    """Tell whether a folder holds an interrupted run of the same content; remove what is not to be kept."""
    from lemmata.apps.interatomic.labelling import RECIPE
    from lemmata.apps.kit.files import read_json

    if not folder.exists():
        return False
    if (folder / RECIPE).is_file():
        found = read_json(folder / RECIPE)
        if found == content:
            return True
        if not force:
            old, new = ({**side.get("recipe", {}), **side} for side in (found, content))
            other = [name for name in new if name != "recipe" and old.get(name) != new[name]]
            raise ValueError(
                f"{folder} holds an interrupted run with another {', '.join(other)}; "
                "repeat its command to go on, or pass --force to start anew"
            )
    shutil.rmtree(folder)
    return False


def _make_all(folder: Path, first: Sequence[str], rest: Sequence[str], frames: int, workers: int) -> None:
    """Make every piece that has not been made, the first before the rest."""
    from rich.console import Console
    from rich.progress import Progress

    from lemmata.apps.interatomic.labelling import complete, make

    progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with progress, _pool(workers) as pool:
        bar = progress.add_task("Labelling", total=frames)
        for names in (first, rest):
            kept = [name for name in names if complete(folder, name)]
            progress.advance(bar, sum(make(folder, name) for name in kept))
            missing = [name for name in names if name not in set(kept)]
            for done in _made(pool, folder, missing):
                progress.advance(bar, done)


@contextlib.contextmanager
def _pool(workers: int) -> "Iterator[concurrent.futures.Executor | None]":
    """Give processes with one thread each; None for this process.

    A local pool, not a cluster: a set of some thousand frames takes minutes, and a frame milliseconds.
    """
    if workers == 0:
        yield None
        return
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # read when a process loads its libraries
    try:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _made(pool: "concurrent.futures.Executor | None", folder: Path, names: Sequence[str]) -> Iterator[int]:
    """Make pieces, and give the number of frames of each as it is done."""
    from lemmata.apps.interatomic.labelling import make

    if pool is None:
        yield from (make(folder, name) for name in names)
        return
    pending = [pool.submit(make, folder, name) for name in names]
    try:
        for future in concurrent.futures.as_completed(pending):
            yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process was lost (killed, or out of memory); what is labelled is kept: "
            "run the same command again to go on"
        ) from error
    finally:
        for future in pending:
            future.cancel()


def _outcome(
    folder: Path, first: Sequence[str], rest: Sequence[str], *, source: str, content: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what was done."""
    from collections import Counter

    from lemmata.apps.kit.files import read_json

    parts = [read_json(folder / f"{name}.json") for name in rest]
    starts = [read_json(folder / f"{name}.json") for name in first]
    failed = [failure for part in parts for failure in part["failed"]]
    lost = sum(isinstance(failure["frame"], int) for failure in failed)
    return {
        "source": source,
        **content,
        "frames": sum(part["frames"] for part in parts) - lost,
        "failed": {
            "count": len(failed),
            "reasons": dict(Counter(failure["reason"] for failure in failed)),
            "frames": failed[:100],
        },
        "starts_not_relaxed": [n for n, start in enumerate(starts) if start["relaxed"] is False],
        "starts_downhill": [
            n for n, start in enumerate(starts) if min([0, *start.get("wavenumbers", [])]) < -50
        ],
    }


def _merge(folder: Path, names: Sequence[str], out: Path) -> None:
    """Put the files of pieces together, in their order."""
    from lemmata.apps.kit.files import write_atomically

    with write_atomically(out) as draft, draft.open("wb") as file:
        for name in names:
            if (path := folder / f"{name}.xyz").is_file():
                file.write(path.read_bytes())


def _tell(out: Path, outcome: Mapping[str, Any]) -> None:
    """Say what was done."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    method = outcome["recipe"]["method"]
    lines = [f"Labelled {outcome['frames']} frames of {outcome['source']} with {method}: {out}"]
    if outcome["failed"]["count"]:
        reasons = ", ".join(f"{reason} ({times})" for reason, times in outcome["failed"]["reasons"].items())
        lines.append(f"Left out {outcome['failed']['count']}: {reasons}")
    if outcome["starts_not_relaxed"]:
        lines.append(f"Note: starts {outcome['starts_not_relaxed']} are not relaxed after 500 steps")
    if outcome["starts_downhill"]:
        lines.append(f"Note: starts {outcome['starts_downhill']} are no minima; their modes point downhill")
    lines.append(f"Next: interatomic prepare {out} {out.with_suffix('')}")
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
