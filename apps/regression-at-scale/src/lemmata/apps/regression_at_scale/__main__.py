"""The command line `regression-at-scale`."""

import sys
from collections.abc import Sequence

from lemmata.apps.kit.cli import App, Verb
from lemmata.apps.kit.cli import main as run

__all__ = ["APP", "main"]

_VERBS = "lemmata.apps.regression_at_scale.verbs"

APP = App(
    name="regression-at-scale",
    summary="Fit regressions and principal components to tables larger than memory, with a certificate.",
    verbs={
        "demo": Verb(
            f"{_VERBS}.demo:demo", "Make a table of 4 GB, fit it within 1 GB of memory, and check it"
        ),
        "fit": Verb(f"{_VERBS}.fit:fit", "Fit a regression: l_2, ridge, l_1, l_p or Huber"),
        "test": Verb(f"{_VERBS}.score:score", "Score a fitted model on other data"),
        "predict": Verb(f"{_VERBS}.predict:predict", "Write a model's predictions for a table"),
        "pca": Verb(f"{_VERBS}.pca:pca", "Find the principal components of a table"),
        "compare": Verb(
            f"{_VERBS}.compare:compare", "Compare with scikit-learn and SciPy on a sample of rows"
        ),
        "coreset": Verb(
            f"{_VERBS}.coreset:coreset", "Write a small weighted table that stands for a large one"
        ),
        "doctor": Verb(
            f"{_VERBS}.doctor:doctor", "Look at conditioning, coherence and rows of high leverage"
        ),
        "generate": Verb(f"{_VERBS}.generate:generate", "Make a table with a known answer, of any size"),
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit code: 0, 2 for an expected error, 1 where a certificate misses the tolerance asked for.
    """
    return run(APP, argv)


if __name__ == "__main__":
    sys.exit(main())
