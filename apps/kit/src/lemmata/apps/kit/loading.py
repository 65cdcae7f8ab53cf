"""Batches in an order that a killed run can take up again.

The order of an epoch is a function of (seed, epoch) alone, and so is whatever the data sets draw at random
while a batch is read: neither depends on the number of workers, on what else draws random numbers, or on
where the run was interrupted. In a run of several processes all share one order, of which each takes its
stride, so that W processes with batches of b see what one process with batches of W b sees.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, DistributedSampler, Sampler

__all__ = ["ResumableLoader", "ResumableSampler"]


class ResumableSampler(DistributedSampler[int]):
    """An order of samples that is a function of (seed, epoch) alone, shared by every process of a run.

    Equals `torch.utils.data.DistributedSampler` in how it deals samples to processes: process r of W takes
    every W-th sample of the order from the r-th on; the order is first padded from its own beginning, or cut
    with `drop_last`, to a multiple of W. Lightning leaves it in place under DDP.

    Args:
        length: Number of samples.
        seed: Seed of the order.
        shuffle: Draw a new order each epoch; otherwise samples come in order.
        drop_last: Cut the order to a multiple of the number of processes; otherwise pad it.
        num_replicas: Number of processes; by default that of `torch.distributed`, 1 where it is not in use.
        rank: This process; by default that of `torch.distributed`.

    Attributes:
        epoch: The epoch whose order is drawn.
        position: Samples of this process that the next iteration leaves out, as they were consumed before.

    Raises:
        ValueError: Where `length` or `num_replicas` is not positive or `rank` is not below
            `num_replicas`.

    Examples:
        >>> sampler = ResumableSampler(5, seed=1)
        >>> order = list(sampler)
        >>> sampler.position = 3
        >>> list(sampler) == order[3:]
        True
    """

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
        if length < 1:
            raise ValueError(f"`length` (={length}) must be a positive integer")
        if seed < 0:
            raise ValueError(f"`seed` (={seed}) must not be negative")
        replicas, this = _processes(num_replicas, rank)
        super().__init__(
            range(length),  # type: ignore[arg-type]  # only its length is asked for
            num_replicas=replicas,
            rank=this,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
        self.length = length
        self.position = 0

    def order(self) -> Tensor:
        """Return the epoch's order over all processes, `(length,)`, neither padded nor cut."""
        if not self.shuffle:
            return torch.arange(self.length)
        generator = torch.Generator().manual_seed(_seed(self.seed, self.epoch))
        return torch.randperm(self.length, generator=generator)

    def __iter__(self) -> Iterator[int]:
        """Yield this process's samples of the epoch, from `position` on."""
        order = self.order()
        if len(order) < self.total_size:
            order = order.repeat(-(-self.total_size // len(order)))
        mine: list[int] = order[: self.total_size][self.rank :: self.num_replicas].tolist()
        return iter(mine[self.position :])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than before starts from its beginning."""
        if epoch != self.epoch:
            self.position = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` needs."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position, "length": self.length}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take up an epoch where another sampler of the same seed and length stopped.

        Raises:
            ValueError: Where seed or length differ.
        """
        _check_same(state_dict, {"seed": self.seed, "length": self.length})
        self.epoch = state_dict["epoch"]
        self.position = state_dict["position"]


class ResumableLoader:
    """Batches of one data set, or of several of which no batch mixes two, from where a killed run stopped.

    Reading is torch's `DataLoader`'s, workers and all. Three things differ: the order is
    `ResumableSampler`'s; while a batch is read, the global generators of torch (CPU), numpy and Python
    are seeded by (seed, epoch, batch, process) and afterwards set back, so that random augmentation in a data
    set is the same for any number of workers and leaves the training's random numbers alone; and
    `state_dict` counts the batches handed out, not those a worker has read ahead. Lightning stores and
    restores that state by itself.

    Args:
        dataset: Map-style data set, or a sequence of them (say one a resolution).
        batch_size: Samples in a batch of each process; one for each data set where a sequence.
        seed: Seed of the order, and of what the data sets draw.
        shuffle: Draw a new order each epoch, of samples and of batches between data sets.
        drop_last: Leave out batches smaller than `batch_size`.
        num_replicas: Number of processes; by default that of `torch.distributed`.
        rank: This process; by default that of `torch.distributed`.
        loader_options: Further arguments of `DataLoader`: `num_workers`, `collate_fn`,
            `pin_memory`...

    Attributes:
        dataset: The data set; several are concatenated.
        sampler: The order of batches; Lightning tells it the epoch.
        before_fetch: Called before each batch is asked for; `RandomState`
            sets it.

    Raises:
        ValueError: Where there is no data set, one is empty, a batch size is not positive, or no batch is
            left.

    Examples:
        >>> loader = ResumableLoader(torch.arange(10), 4, shuffle=False)
        >>> [batch.tolist() for batch in loader]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        >>> loader.load_state_dict({**loader.state_dict(), "position": 2})
        >>> [batch.tolist() for batch in loader]
        [[8, 9]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | Sequence[int],
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
        **loader_options: Any,
    ) -> None:
        members = list(dataset) if isinstance(dataset, list | tuple) else [dataset]
        lengths = [len(member) for member in members]
        sizes = _batch_sizes(batch_size, lengths)
        self.dataset: Any = ConcatDataset(members) if len(members) > 1 else members[0]
        self.sampler = _Batches(
            [
                ResumableSampler(
                    length,
                    seed=_seed(seed, index) if index else seed,
                    shuffle=shuffle,
                    drop_last=drop_last,
                    num_replicas=num_replicas,
                    rank=rank,
                )
                for index, length in enumerate(lengths)
            ],
            sizes,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        self.batch_sampler = self.sampler  # validation loops of Lightning look for it under this name
        if not len(self.sampler):
            raise ValueError(
                f"no batch is left of data sets of {lengths} samples with `batch_size` (={batch_size}) "
                "and `drop_last`"
            )
        self.before_fetch: Callable[[], None] | None = None
        self._loader: DataLoader[Any] = DataLoader(
            _Seeded(self.dataset),
            batch_sampler=self.sampler,
            generator=torch.Generator().manual_seed(_seed(seed)),
            **loader_options,
        )
        self._handed_out = 0

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """Yield the epoch's batches, from the restored position on.

        Nothing is read before the first batch is asked for: Lightning makes the iterator before it tells the
        epoch.
        """
        start, self.sampler.position = self.sampler.position, 0
        self._handed_out = start
        self.sampler.start = start
        batches = iter(self._loader)
        for _ in range(start, len(self)):
            if self.before_fetch is not None:
                self.before_fetch()
            batch = next(batches)
            self._handed_out += 1
            yield batch
        self._handed_out = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than before starts from its beginning."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs; `position` counts the batches handed out."""
        return {**self.sampler.identity(), "epoch": self.sampler.epoch, "position": self._handed_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up an epoch where another loader of the same data sets stopped.

        Raises:
            ValueError: Where seed, lengths or batch sizes differ.
        """
        _check_same(state_dict, self.sampler.identity())
        self.sampler.set_epoch(state_dict["epoch"])
        self.sampler.position = self._handed_out = state_dict["position"]


class _Batch(list[int]):
    """The samples of a batch, and the seed of what is drawn while they are read; it travels to a worker."""

    seed: int = 0


class _Batches(Sampler[list[int]]):
    """The order of batches, no batch of samples of two data sets.

    `position` is where the next pass starts; `start` where this one did.
    """

    def __init__(
        self,
        samplers: list[ResumableSampler],
        sizes: list[int],
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
    ) -> None:
        self.samplers = samplers
        self.sizes = sizes
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0
        self.start = 0

    def __len__(self) -> int:
        return sum(
            len(sampler) // size if self.drop_last else -(-len(sampler) // size)
            for sampler, size in zip(self.samplers, self.sizes, strict=True)
        )

    def __iter__(self) -> Iterator[list[int]]:
        batches = []
        offset = 0
        for sampler, size in zip(self.samplers, self.sizes, strict=True):
            indices = [offset + index for index in sampler]
            stop = len(indices) - len(indices) % size if self.drop_last else len(indices)
            batches += [_Batch(indices[first : first + size]) for first in range(0, stop, size)]
            offset += sampler.length
        if self.shuffle and len(self.samplers) > 1:
            generator = torch.Generator().manual_seed(_seed(self.seed, self.epoch, 0))
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        for number in range(self.start, len(batches)):
            batches[number].seed = _seed(self.seed, self.epoch, self.samplers[0].rank, number)
            yield batches[number]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than before starts from its beginning."""
        if epoch != self.epoch:
            self.position = 0
        self.epoch = epoch
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a state to mean the same batches."""
        return {
            "seed": self.seed,
            "lengths": [sampler.length for sampler in self.samplers],
            "batch_sizes": self.sizes,
            "processes": self.samplers[0].num_replicas,
        }


class _Seeded(Dataset[Any]):
    """A data set whose random draws are a function of the batch's seed."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, batch: _Batch) -> list[Any]:
        """Read a batch."""
        before = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002  # the data set's own generator may be numpy's global one
        torch.default_generator.manual_seed(batch.seed)
        np.random.seed(batch.seed % 2**32)  # noqa: NPY002  # likewise
        random.seed(batch.seed)
        try:
            read = getattr(self.dataset, "__getitems__", None)
            return list(read(batch)) if read is not None else [self.dataset[index] for index in batch]
        finally:
            torch.set_rng_state(before[0])
            np.random.set_state(before[1])  # noqa: NPY002  # likewise
            random.setstate(before[2])


def _batch_sizes(batch_size: int | Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Return one batch size a data set."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"`dataset` must hold samples; its lengths are {list(lengths)}")
    sizes = [batch_size] * len(lengths) if isinstance(batch_size, int) else list(batch_size)
    if len(sizes) != len(lengths) or min(sizes) < 1:
        raise ValueError(
            f"`batch_size` (={batch_size}) must be a positive integer, "
            f"or one for each of {len(lengths)} data sets"
        )
    return sizes


def _processes(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Return the number of processes and this one's rank, from `torch.distributed` where not given."""
    active = torch.distributed.is_available() and torch.distributed.is_initialized()
    replicas = (
        num_replicas if num_replicas is not None else torch.distributed.get_world_size() if active else 1
    )
    this = rank if rank is not None else torch.distributed.get_rank() if active else 0
    if replicas < 1 or not 0 <= this < replicas:
        raise ValueError(f"`rank` (={this}) must be at least 0 and below `num_replicas` (={replicas})")
    return replicas, this


def _seed(seed: int, *key: int) -> int:
    """Return a seed of 63 bits for one purpose; unlike sums, keys of different seeds do not meet."""
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


def _check_same(state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise where a stored order is another than this one."""
    for name, value in expected.items():
        if state.get(name) != value:
            raise ValueError(
                f"the checkpoint's data order has {name} {state.get(name)}, this run has {value}; "
                "resume with the data and settings of the interrupted run"
            )
