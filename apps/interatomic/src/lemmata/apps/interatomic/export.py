"""Write a trained potential as one file, for use without its training or this command line."""

from pathlib import Path

__all__ = ["export"]


def export(checkpoint: Path, *, out: Path, program: bool = False, force: bool = False) -> Path:
    """Write a trained potential as one file that holds numbers and plain values alone.

    Args:
        checkpoint: A checkpoint, a run's folder, or a file that this verb wrote.
        out: The file, which `trained.load_potential` reads: safetensors with the configuration as JSON among
            the metadata.
        program: Write beside it, with the suffix `.pt2`, a program of `torch.export` that needs no lemmata.
        force: Replace a file that is there.

    Returns:
        The file.
    """
    raise NotImplementedError
