"""A CSV log that survives kill and resume: whole rows, each step once."""

from pathlib import Path

from lightning.pytorch.loggers import Logger

__all__ = ["CsvLogger"]


class CsvLogger(Logger):
    """Logs metrics to ``metrics.csv`` in a run's folder.

    Args:
        folder: The run's folder.
        flush_every: Rows between two writes.
    """

    def __init__(self, folder: Path | str, *, flush_every: int = 100) -> None:
        raise NotImplementedError
