"""Exact resume: a run killed at any point and resumed equals one that was never interrupted, bit for bit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

__all__ = ["LastCheckpoint", "RandomState", "ResumableLoader", "ResumableSampler"]


class ResumableSampler(DistributedSampler[int]):
    """An order of samples that is a function of (seed, epoch) alone, shared by every process of a run."""

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        raise NotImplementedError

    def order(self) -> Tensor:
        """Return the epoch's order of all processes."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        """Return seed, epoch and position."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore epoch and position."""
        raise NotImplementedError


class ResumableLoader:
    """Batches of one data set, or of several of which no batch mixes two, from where a killed run stopped.

    Args:
        dataset: Map-style data set, or a sequence of them (say one a resolution).
        batch_size: Samples in a batch of each process; one for each data set where a sequence.
        seed: Seed of the order, and of what the data sets draw at random.
        shuffle: Draw a new order each epoch.
        drop_last: Leave out batches smaller than the others.
        loader_options: Further arguments of ``torch.utils.data.DataLoader``: ``num_workers``, ``collate_fn``...
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Sequence[Dataset[Any]],
        batch_size: int | Sequence[int],
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
        **loader_options: Any,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        """Yield the epoch's batches, from the restored position on."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        """Return seed, epoch and position in batches."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore epoch and position."""
        raise NotImplementedError


class RandomState(Callback):
    """Saves and restores the random states of torch, numpy and Python; validation leaves them alone."""


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` between two steps: every n steps, at each epoch's end and at the run's end.

    Args:
        folder: Folder of the checkpoint; the trainer's ``default_root_dir`` by default.
        every_n_train_steps: Optimiser steps between two saves within an epoch; 0 saves at epochs' ends alone.
    """

    def __init__(self, folder: Path | str | None = None, *, every_n_train_steps: int = 0) -> None:
        raise NotImplementedError
