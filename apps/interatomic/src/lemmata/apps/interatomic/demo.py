"""Label ethanol with GFN2-xTB, train on it, and run dynamics: no data and no network needed."""

import time
from pathlib import Path
from typing import Any

__all__ = ["demo"]


def demo(
    *,
    out: Path = Path("runs/interatomic-demo"),
    molecule: str = "CH3CH2OH",
    frames: int = 300,
    epochs: int = 60,
    channels: int = 16,
    picoseconds: float = 2.0,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Label a molecule with GFN2-xTB, train a potential on it, and run dynamics with it.

    Nothing is downloaded. Frames are sampled by dynamics of the reference method at 500 K, the potential is
    judged on the last of them, and then keeps a simulation at 300 K going that it has never seen.

    Args:
        out: Folder to write.
        molecule: A molecule that ASE knows by name, or a file.
        frames: How many to label.
        epochs: Passes through them.
        channels: Width of the potential.
        picoseconds: Length of the simulation.
        seed: Of frames, weights and velocities.
        force: Replace an existing demo.

    Returns:
        The folder: labels, prepared data, the run, errors and dynamics, with their plots.

    Raises:
        FileExistsError: Where the folder exists and `force` is not given.
        FileNotFoundError: Where there is no such molecule.
        ValueError: Where an argument is out of range.
    """
    from rich.console import Console

    from lemmata.apps.interatomic.evaluate import evaluate
    from lemmata.apps.interatomic.label import label
    from lemmata.apps.interatomic.md import md
    from lemmata.apps.interatomic.plot import plot
    from lemmata.apps.interatomic.prepare import prepare
    from lemmata.apps.interatomic.training import train
    from lemmata.apps.kit.files import new_output

    if frames < 20:
        raise ValueError(f"`frames` (={frames}) must be at least 20")
    new_output(out, force=force).mkdir(exist_ok=True)
    console = Console()
    started = time.perf_counter()
    console.rule(f"1 of 4: label {frames} frames of {molecule} with GFN2-xTB")
    label(molecule, out / "labels.xyz", sample="md", count=frames, temperature=500.0, seed=seed)
    console.rule("2 of 4: prepare them, and train")
    prepare(str(out / "labels.xyz"), out / "data")
    run = train(
        out / "data",
        out / "run",
        epochs=epochs,
        model_options={"channels": channels},
        seed=seed,
        trainer={"accelerator": "cpu", "devices": 1},
    )
    plot(run)
    console.rule("3 of 4: errors on frames it has not seen")
    evaluate(run, str(out / "data"), out=out / "errors")
    console.rule(f"4 of 4: {picoseconds:g} ps of dynamics at 300 K")
    md(run, str(out / "data" / "test.xyz"), out=out / "md", picoseconds=picoseconds, seed=seed)
    _say_where(console, out, time.perf_counter() - started)
    return out


def _say_where(console: Any, out: Path, seconds: float) -> None:
    """Say what lies where, and how to go on."""
    console.print(f"\nDone in {seconds:.0f} s. Everything lies in {out}:", highlight=False)
    for name, what in (
        ("labels.xyz", "the frames with energies and forces"),
        ("data", "the same, split, with a card that describes them"),
        ("run", "checkpoints, metrics.csv, plots of the training"),
        ("errors", "tables of errors and parity plots"),
        ("md", "trajectory.xyz, samples.csv, report.json and plots"),
    ):
        console.print(f"  {name:<11} {what}", highlight=False)
    console.print("Next: interatomic prepare YOUR_FILE.xyz --out data", highlight=False)
