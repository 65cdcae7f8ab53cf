"""The command line `language-model`."""

import sys
from collections.abc import Sequence

from lemmata.apps.kit.cli import App, TrainingVerbs, Verb
from lemmata.apps.kit.cli import main as run

__all__ = ["APP", "main"]

_HERE = "lemmata.apps.language_model"

APP = App(
    name="language-model",
    summary="Train a small language model on your own text, and compare optimisers on it honestly.",
    verbs={
        "demo": Verb(f"{_HERE}.demo:demo", "Train with two optimisers, compare, sample and plot in minutes"),
        "generate": Verb(f"{_HERE}.generate:generate", "Continue a text with a trained model"),
        "predict": Verb(f"{_HERE}.predict:predict", "Tell how well a trained model predicts a text"),
        "compare": Verb(f"{_HERE}.compare:compare", "Compare optimisers: steps to loss, sweeps and seeds"),
        "refine": Verb(f"{_HERE}.refine:refine", "Refine a schedule from a run's gradient norms"),
        "bench": Verb(f"{_HERE}.bench:bench", "Measure step times, cache sizes and decoding speed"),
        "plot": Verb(f"{_HERE}.plot:plot", "Draw what a training or a comparison recorded"),
        "export": Verb(f"{_HERE}.export:export", "Write weights, options and tokenizer for use elsewhere"),
    },
    training=TrainingVerbs(
        model=f"{_HERE}.module:LanguageModel",
        data=f"{_HERE}.datamodule:TextDataModule",
        config=f"{_HERE}:configs/fit.yaml",
        monitor="val_loss",
        configure=f"{_HERE}.training:configure",
        short={
            "--data": "--data.source",
            "--optimizer": "--model.optimizer",
            "--lr": "--model.lr",
            "--steps": "--trainer.max_steps",
            "--seed": "--seed_everything",
        },
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit code: besides those of `lemmata.apps.kit.main` 3 where another process of the run was lost.
    """
    try:
        return run(APP, argv)
    except RuntimeError as error:
        if not _lost_a_process(error):
            raise
        sys.stderr.write(
            "language-model: error: another process of the run was lost, so this one ends too; "
            "the last checkpoint is complete: start again with --resume last\n"
        )
        return 3


def _lost_a_process(error: RuntimeError) -> bool:
    """Tell whether an error is torch.distributed's about a connection that another process has left."""
    if "torch" not in sys.modules:
        return False
    message = str(error).lower()
    signs = (
        "connection closed by peer",
        "connection reset",
        "broken pipe",
        "connection refused",
        "timed out",
    )
    return any(sign in message for sign in signs)


if __name__ == "__main__":
    sys.exit(main())
