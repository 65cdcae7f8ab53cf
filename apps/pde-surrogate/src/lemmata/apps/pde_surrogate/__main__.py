"""The command line `pde-surrogate`."""

import sys

from lemmata.apps.kit.cli import App, TrainingVerbs, Verb
from lemmata.apps.kit.cli import main as run

__all__ = ["APP", "main"]

_HERE = "lemmata.apps.pde_surrogate"

APP = App(
    name="pde-surrogate",
    summary="Learn a PDE's solution operator, and compare it honestly with the classical solver.",
    verbs={
        "demo": Verb(f"{_HERE}.demo:demo", "Generate, fit, evaluate, compare and plot Darcy flow in minutes"),
        "generate": Verb(
            f"{_HERE}.generate:generate", "Make a data set with a reference solver, on every core"
        ),
        "inspect": Verb(
            f"{_HERE}.inspect:inspect", "Tell what a file of fields holds and how it would be read"
        ),
        "evaluate": Verb(
            f"{_HERE}.evaluate:evaluate", "Measure errors over resolutions, and race the cheapened solver"
        ),
        "plot": Verb(f"{_HERE}.plot:plot", "Draw what an evaluation found"),
        "predict": Verb(f"{_HERE}.predict:predict", "Predict solutions for the fields of a file"),
    },
    training=TrainingVerbs(
        model=f"{_HERE}.module:SurrogateModule",
        data=f"{_HERE}.datamodule:FieldDataModule",
        config=f"{_HERE}:configs/fit.yaml",
        monitor="val_l2",
    ),
)


def main() -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    return run(APP)


if __name__ == "__main__":
    sys.exit(main())
