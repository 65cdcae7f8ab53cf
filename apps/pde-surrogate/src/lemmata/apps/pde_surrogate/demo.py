"""Run the whole pipeline on Darcy flow: generate, fit, evaluate, compare with the cheapened solver, plot."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["demo"]


@dataclass(frozen=True)
class Preset:
    """How large a demo is.

    Args:
        samples: Training fields.
        tests: Test fields at each resolution.
        resolution: Training resolution.
        size: Preset of the model.
        epochs: Passes over the training set.
        workers: Processes that generate; one a core where None.
        overrides: Arguments of the model.
    """

    samples: int
    tests: int
    resolution: int
    size: Literal["S", "M", "L"]
    epochs: int
    workers: int | None
    overrides: dict[str, Any] | None = None


PRESETS = {
    "full": Preset(
        samples=500, tests=64, resolution=32, size="S", epochs=60, workers=None, overrides={"modes": 12}
    ),
    "small": Preset(samples=64, tests=8, resolution=16, size="S", epochs=8, workers=0),
}


def demo(
    *,
    out: Path = Path("runs/pde-surrogate-demo"),
    preset: Literal["full", "small"] = "full",
    force: bool = False,
    seed: int = 0,
) -> Path:
    """Run the whole pipeline on Darcy flow, from nothing to tables and plots.

    Called from a script, the full preset needs the usual guard `if __name__ == "__main__":`, as it
    generates on every core.

    Args:
        out: Folder to write.
        preset: full takes minutes on two cores, small seconds.
        force: Replace an existing demo.
        seed: Seed of data and weights.

    Returns:
        The folder: train.zarr, run, evaluation and plots.

    Raises:
        FileExistsError: Where the folder exists and `force` is not given.
        ValueError: Where the preset is unknown.
    """
    from rich.console import Console

    from lemmata.apps.kit.files import new_output
    from lemmata.apps.pde_surrogate.evaluate import evaluate
    from lemmata.apps.pde_surrogate.fit import fit
    from lemmata.apps.pde_surrogate.generate import generate
    from lemmata.apps.pde_surrogate.plot import plot

    if preset not in PRESETS:
        raise ValueError(f"`preset` (={preset!r}) is not known; expected one of {', '.join(PRESETS)}")
    size = PRESETS[preset]
    new_output(out, force=force).mkdir(exist_ok=True)
    console = Console()
    started = time.perf_counter()
    n = size.resolution
    console.rule(f"1 of 4: generate {size.samples} Darcy fields at {n} x {n}")
    generate("darcy", out=out / "train.zarr", n=size.samples, res=n, seed=seed, workers=size.workers)
    console.rule(f"2 of 4: fit a Fourier neural operator for {size.epochs} epochs")
    fit(
        out / "train.zarr",
        out=out / "run",
        size=size.size,
        overrides=size.overrides,
        epochs=size.epochs,
        seed=seed,
        trainer={"accelerator": "cpu", "devices": 1},
    )
    console.rule("3 of 4: evaluate at three resolutions, race the cheapened solver")
    evaluate(out / "run", out=out / "evaluation", n=size.tests, seed=seed)
    console.rule("4 of 4: plot")
    plot(out / "evaluation", out=out / "plots")
    _say_where(console, out, time.perf_counter() - started)
    return out


def _say_where(console: Any, out: Path, seconds: float) -> None:
    """Say what lies where, and how to go on."""
    console.print(f"\nDone in {seconds:.0f} s. Everything lies in {out}:", highlight=False)
    for name, what in (
        ("train.zarr", "the training fields, with the error of their labels"),
        ("run", "checkpoints, metrics.csv and TensorBoard's events"),
        ("evaluation", "results.json, tables as CSV and Markdown"),
        ("plots", "figures as PNG and SVG, their numbers as CSV"),
    ):
        console.print(f"  {name:<12} {what}", highlight=False)
    console.print(f"Next: pde-surrogate predict {out / 'run'} YOUR_FIELDS.npy", highlight=False)
