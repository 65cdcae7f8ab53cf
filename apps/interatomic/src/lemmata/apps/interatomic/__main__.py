"""The command line `interatomic`."""

import sys
import warnings
from collections.abc import Sequence

from lemmata.apps.kit.cli import App, TrainingVerbs, Verb
from lemmata.apps.kit.cli import main as run

__all__ = ["APP", "main"]

_HERE = "lemmata.apps.interatomic"

APP = App(
    name="interatomic",
    summary="From an extended-XYZ file to molecular dynamics with an equivariant interatomic potential.",
    verbs={
        "demo": Verb(f"{_HERE}.demo:demo", "Label, train, evaluate and run molecular dynamics in minutes"),
        "label": Verb(f"{_HERE}.label:label", "Make reference data: sample geometries, label with GFN2-xTB"),
        "prepare": Verb(f"{_HERE}.prepare:prepare", "Check, split and describe extended-XYZ files"),
        "evaluate": Verb(f"{_HERE}.evaluate:evaluate", "Tabulate errors of energies, forces and stress"),
        "predict": Verb(f"{_HERE}.predict:predict", "Predict energies and forces of your own structures"),
        "md": Verb(f"{_HERE}.md:md", "Run molecular dynamics, and tell how stable it is"),
        "relax": Verb(f"{_HERE}.relax:relax", "Relax geometries"),
        "scan": Verb(f"{_HERE}.scan:scan", "Follow a dihedral angle or a reaction path"),
        "compare": Verb(f"{_HERE}.compare:compare", "Compare trained potentials on the same data"),
        "plot": Verb(f"{_HERE}.plot:plot", "Draw what a training or an evaluation recorded"),
        "export": Verb(f"{_HERE}.export:export", "Write the potential as one file for use elsewhere"),
    },
    training=TrainingVerbs(
        model=f"{_HERE}.module:InteratomicModule",
        data=f"{_HERE}.datamodule:AtomsDataModule",
        config=f"{_HERE}:configs/fit.yaml",
        monitor="val_loss",
        configure=f"{_HERE}.training:configure",
        short={
            "--data": "--data.source",
            "--model": "--model.model",
            "--lr": "--model.lr",
            "--cutoff": "--data.cutoff",
            "--batch_size": "--data.batch_size",
            "--epochs": "--trainer.max_epochs",
            "--seed": "--seed_everything",
        },
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit code.
    """
    # torch-geometric scripts functions when it is imported, which a user can do nothing about.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    return run(APP, argv)


if __name__ == "__main__":
    sys.exit(main())
