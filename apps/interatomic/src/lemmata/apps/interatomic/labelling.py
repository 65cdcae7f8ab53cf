"""The pieces that labelling is made of, each a function of the recipe and its number alone.

A recipe lies in a folder with the start geometries. A piece reads what it needs there, computes, and leaves
files of which the last says that it is complete; pieces can be made by any number of processes, again after a
kill, and come out the same to the last bit.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError

from lemmata.apps.interatomic.frames import write_frames
from lemmata.apps.interatomic.sampling import NormalModes, displace, langevin, normal_modes, relax
from lemmata.apps.kit.files import read_json, write_atomically, write_json

__all__ = ["METHODS", "SAMPLES", "Recipe", "complete", "make", "pieces", "write_start"]

METHODS = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
SAMPLES = ("none", "displace", "normal-modes", "md")
RECIPE = "recipe.json"
FRAMES_OF_A_PIECE = 16
# At tblite's own accuracy of 1 forces have noise of 0.3 meV/Å; at 0.1 a tenth of that, for 15 % more time.
ACCURACY = 0.1
DECIMALS = 8


@dataclass(frozen=True)
class Recipe:
    """What determines a labelled set, besides the start geometries.

    Args:
        method: One of `METHODS`.
        sample: One of `SAMPLES`.
        count: Number of frames.
        starts: Number of start geometries; they take turns.
        seed: Seed of frame i (of trajectory i, with `md`) together with i.
        temperature: With `normal-modes` and `md`, in K.
        amplitude: With `displace`, standard deviation of a component of a displacement, in Å.
        strain: With `displace`, that of a component of the strain of a cell.
        timestep: With `md`, in fs.
        equilibration: With `md`, steps before a trajectory's first frame.
        interval: With `md`, steps between two frames.
        trajectory: With `md`, frames of a trajectory.
        relax: Relax the starts before anything is sampled.
        charge: Total charge in e.
        multiplicity: Spin multiplicity; the lowest where None.
        isolated: Label the free atoms too.

    Raises:
        ValueError: Where an argument is out of range.
    """

    method: str = "GFN2-xTB"
    sample: str = "none"
    count: int = 1
    starts: int = 1
    seed: int = 0
    temperature: float = 300.0
    amplitude: float = 0.05
    strain: float = 0.0
    timestep: float = 0.5
    equilibration: int = 200
    interval: int = 20
    trajectory: int = 20
    relax: bool = True
    charge: int = 0
    multiplicity: int | None = None
    isolated: bool = True

    def __post_init__(self) -> None:
        for option, value, known in (("method", self.method, METHODS), ("sample", self.sample, SAMPLES)):
            if value not in known:
                raise ValueError(f"`{option}` (={value!r}) is not known; expected one of {', '.join(known)}")
        for option, least in (
            ("count", 1),
            ("seed", 0),
            ("equilibration", 0),
            ("interval", 1),
            ("trajectory", 1),
            ("amplitude", 0),
            ("strain", 0),
        ):
            if not least <= getattr(self, option) < float("inf"):
                raise ValueError(f"`{option}` (={getattr(self, option)}) must be at least {least}")
        for option in ("temperature", "timestep"):
            if not 0 < getattr(self, option) < float("inf"):
                raise ValueError(f"`{option}` (={getattr(self, option)}) must be positive and finite")
        if self.multiplicity is not None and self.multiplicity < 1:
            raise ValueError(f"`multiplicity` (={self.multiplicity}) must be at least 1")

    @property
    def kind(self) -> str | None:
        """The `config_type` of its frames; None where they keep their own."""
        thermal = self.sample in {"normal-modes", "md"}
        return None if self.sample == "none" else self.sample + (f"-{self.temperature:g}K" if thermal else "")

    def calculator(self, *, free_atom: bool = False) -> Calculator:
        """Return a silent calculator that keeps nothing from one frame to the next.

        Args:
            free_atom: For a free atom, which is neutral.
        """
        from tblite.ase import TBLite

        calculator: Calculator = TBLite(
            method=self.method,
            accuracy=ACCURACY,
            charge=0 if free_atom else self.charge,
            multiplicity=None if free_atom else self.multiplicity,
            cache_api=False,
            verbosity=0,
        )
        return calculator


def pieces(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Return the names of a recipe's pieces: those to make first, and those that need these.

    Args:
        recipe: The recipe.

    Examples:
        >>> pieces(Recipe(sample="displace", count=20, isolated=False))
        (['start-00000'], ['part-00000', 'part-00001'])
    """
    frames = _frames_of_a_piece(recipe)
    starts = [] if recipe.sample == "none" else [f"start-{n:05d}" for n in range(recipe.starts)]
    parts = [f"part-{n:05d}" for n in range(-(-recipe.count // frames))]
    return starts, [*parts, *(["free-atoms"] if recipe.isolated else [])]


def complete(folder: Path, piece: str) -> bool:
    """Tell whether a piece has been made.

    Args:
        folder: The recipe's folder.
        piece: The piece's name.
    """
    return (folder / f"{piece}.json").is_file()


def write_start(folder: Path, number: int, atoms: Atoms) -> None:
    """Write a start geometry to the recipe's folder, in full precision.

    Args:
        folder: The folder.
        number: The start's number.
        atoms: The geometry.
    """
    _save(folder / f"given-{number:05d}.npz", _arrays(atoms), kind=str(atoms.info.get("config_type", "")))


def make(folder: Path, piece: str) -> int:
    """Make a piece, unless it has been made.

    Args:
        folder: The recipe's folder.
        piece: The piece's name.

    Returns:
        How many frames it stands for, labelled or failed.
    """
    if complete(folder, piece):
        return int(read_json(folder / f"{piece}.json")["frames"])
    recipe = Recipe(**read_json(folder / RECIPE)["recipe"])
    name, _, number = piece.partition("-")
    if name == "start":
        outcome = _make_start(folder, recipe, int(number))
    elif name == "part":
        outcome = _make_part(folder, recipe, int(number))
    else:
        outcome = _make_free_atoms(folder, recipe)
    write_json(folder / f"{piece}.json", outcome)
    return int(outcome["frames"])


def recipe_file(recipe: Recipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipe's file holds: all that must be the same for pieces to be kept.

    Args:
        recipe: The recipe.
        facts: What else determines the frames.
    """
    return {"recipe": asdict(recipe), **facts}


def _frames_of_a_piece(recipe: Recipe) -> int:
    """Return how many frames are made at a time."""
    return recipe.trajectory if recipe.sample == "md" else FRAMES_OF_A_PIECE


def _make_start(folder: Path, recipe: Recipe, number: int) -> dict[str, Any]:
    """Relax a start, and find its normal modes where they are wanted."""
    atoms, kind = _load(folder / f"given-{number:05d}.npz")
    atoms.calc = recipe.calculator()
    outcome: dict[str, Any] = {"frames": 0, "error": None, "relaxed": None}
    arrays: dict[str, np.ndarray] = {}
    try:
        if recipe.relax:
            outcome["relaxed"] = relax(atoms)
        if recipe.sample == "normal-modes":
            modes = normal_modes(
                atoms, lambda moved: _label(moved, recipe.calculator()).calc.results["forces"]
            )
            arrays = {"eigenvalues": modes.eigenvalues, "modes": modes.modes}
            outcome["wavenumbers"] = [round(float(value), 1) for value in modes.wavenumbers]
    except (CalculatorError, RuntimeError, ValueError) as error:
        outcome["error"] = _one_line(error)
    _save(folder / f"start-{number:05d}.npz", {**_arrays(atoms), **arrays}, kind=kind)
    return outcome


def _make_part(folder: Path, recipe: Recipe, number: int) -> dict[str, Any]:
    """Sample and label the frames of a part."""
    size = _frames_of_a_piece(recipe)
    wanted = range(number * size, min(recipe.count, (number + 1) * size))
    labelled: list[Atoms] = []
    failed: list[dict[str, Any]] = []
    samples = _trajectory(folder, recipe, number, len(wanted)) if recipe.sample == "md" else None
    for frame in wanted:
        try:
            atoms = _sample(folder, recipe, frame) if samples is None else next(samples)
            found = _label(atoms, recipe.calculator())
            found.info |= {"frame": frame, **({"trajectory": number} if samples is not None else {})}
            labelled.append(found)
        except StopIteration:  # the trajectory ended with the frame before, which says why
            failed.append({"frame": frame, "reason": failed[-1]["reason"]})
        except (CalculatorError, RuntimeError, ValueError) as error:
            failed.append({"frame": frame, "reason": _one_line(error)})
    if labelled:
        write_frames(folder / f"part-{number:05d}.xyz", labelled)
    return {"frames": len(wanted), "failed": failed}


def _make_free_atoms(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Label a free atom of each element."""
    numbers = {int(z) for n in range(recipe.starts) for z in _load(folder / f"given-{n:05d}.npz")[0].numbers}
    labelled: list[Atoms] = []
    failed: list[dict[str, Any]] = []
    for z in sorted(numbers):
        atoms = Atoms([z], positions=[[0.0, 0.0, 0.0]], info={"config_type": "IsolatedAtom"})
        try:
            labelled.append(_label(atoms, recipe.calculator(free_atom=True)))
        except (CalculatorError, RuntimeError, ValueError) as error:
            failed.append({"frame": f"free {atoms.symbols[0]}", "reason": _one_line(error)})
    if labelled:
        write_frames(folder / "free-atoms.xyz", labelled)
    return {"frames": 0, "failed": failed}


def _sample(folder: Path, recipe: Recipe, frame: int) -> Atoms:
    """Return the geometry of a frame."""
    if recipe.sample == "none":
        atoms, kind = _load(folder / f"given-{frame:05d}.npz")
        atoms.info.update({"config_type": kind} if kind else {})
        return atoms
    generator = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(frame,)))
    start, modes = _start(folder, frame % recipe.starts)
    if modes is None:
        atoms = displace(start, generator, amplitude=recipe.amplitude, strain=recipe.strain)
    else:
        atoms = modes.draw(start, generator, temperature=recipe.temperature)
    atoms.info["config_type"] = recipe.kind
    return atoms


def _trajectory(folder: Path, recipe: Recipe, number: int, count: int) -> Iterator[Atoms]:
    """Yield the geometries of a trajectory."""
    generator = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(number,)))
    start, _ = _start(folder, number % recipe.starts)
    start.calc = recipe.calculator()
    for atoms in langevin(
        start,
        generator,
        temperature=recipe.temperature,
        count=count,
        timestep=recipe.timestep,
        equilibration=recipe.equilibration,
        interval=recipe.interval,
    ):
        atoms.info["config_type"] = recipe.kind
        yield atoms


def _start(folder: Path, number: int) -> tuple[Atoms, NormalModes | None]:
    """Return a start as it was relaxed, with its normal modes where they were wanted."""
    if (error := read_json(folder / f"start-{number:05d}.json")["error"]) is not None:
        raise ValueError(f"start {number}: {error}")
    path = folder / f"start-{number:05d}.npz"
    with np.load(path, allow_pickle=False) as arrays:
        modes = NormalModes(arrays["eigenvalues"], arrays["modes"]) if "modes" in arrays else None
    return _load(path)[0], modes


def _label(atoms: Atoms, calculator: Calculator) -> Atoms:
    """Return a frame with its labels, which belong to its positions as they are written.

    Raises:
        CalculatorError: Where the calculation fails.
        ValueError: Where what it returns is not finite.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    labelled: Atoms = atoms.copy()
    labelled.positions = labelled.positions.round(DECIMALS)
    properties = ["energy", "forces", *(["stress"] if atoms.pbc.any() else [])]
    labelled.calc = calculator
    results = {name: calculator.get_property(name, labelled) for name in properties}
    if not all(np.isfinite(value).all() for value in results.values()):
        raise ValueError("the labels are not finite")
    labelled.calc = SinglePointCalculator(labelled, **results)
    return labelled


def _one_line(error: Exception) -> str:
    """Return an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _arrays(atoms: Atoms) -> dict[str, np.ndarray]:
    """Return a geometry as arrays."""
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
    }


def _save(path: Path, arrays: Mapping[str, np.ndarray], *, kind: str) -> None:
    """Write a geometry and what goes with it, atomically."""
    memory = io.BytesIO()
    np.savez(memory, kind=np.array(kind), **arrays)  # type: ignore[arg-type]  # arrays by name
    with write_atomically(path) as draft:
        draft.write_bytes(memory.getvalue())


def _load(path: Path) -> tuple[Atoms, str]:
    """Read a geometry and its kind."""
    with np.load(path, allow_pickle=False) as arrays:
        atoms = Atoms(arrays["numbers"], arrays["positions"], cell=arrays["cell"], pbc=arrays["pbc"])
        return atoms, str(arrays["kind"])
