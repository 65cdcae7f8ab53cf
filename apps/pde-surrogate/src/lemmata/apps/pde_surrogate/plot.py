"""Draw what an evaluation found: fields, errors, accuracy per second, spectra, training curves."""

from pathlib import Path

__all__ = ["plot"]


def plot(results: Path, *, out: Path | None = None, force: bool = False) -> list[Path]:
    """Draw what an evaluation found, as PNG and SVG with the numbers beside them as CSV.

    Args:
        results: Folder of an evaluation, or of a run that holds one.
        out: Folder to write; "plots" in the evaluation's folder where not given.
        force: Replace existing plots.

    Returns:
        The files written.

    Raises:
        FileExistsError: Where the plots exist and `force` is not given.
        FileNotFoundError: Where there is no evaluation.
        ValueError: Where its files cannot be read.
    """
    from lemmata.apps.kit.files import new_output
    from lemmata.apps.kit.plots import style
    from lemmata.apps.pde_surrogate.figures import draw, read_evaluation

    evaluation = read_evaluation(results)
    out = evaluation.folder / "plots" if out is None else out
    new_output(out, force=force)
    with style():
        return draw(evaluation, out)
