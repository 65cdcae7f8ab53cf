"""Train with Muon and with AdamW on text the machine already has, compare, sample and plot."""

from pathlib import Path

__all__ = ["demo"]


def demo(
    *,
    out: Path = Path("runs/demo"),
    steps: int = 300,
    width: int = 96,
    depth: int = 3,
    workers: int = 1,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Train with Muon and with AdamW on Python's own documentation strings, compare, sample and plot.

    Nothing is downloaded. The decoder has multi-head latent attention and a mixture of experts.

    Args:
        out: Folder to write.
        steps: Optimiser steps of each training.
        width: Width of the decoder.
        depth: Blocks of the decoder.
        workers: Processes that train at a time.
        seed: Seed of weights, order of the text, and samples.
        force: Replace an existing demo.

    Returns:
        The folder: the comparison with its trainings, the cost of the parts, samples and plots.

    Raises:
        FileExistsError: Where the folder exists and `force` is not given.
        ValueError: Where an argument is out of range.
    """
    raise NotImplementedError
