"""Pairs of input and target fields on one grid, and batches of them over several resolutions.

A `FieldDataset` holds what a solver made and where its points lie. A `MultiResolutionLoader`
mixes datasets of several resolutions, one resolution a batch, so that a model learns the operator and not the
grid.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lemmata.operators.grids import Grid

__all__ = ["FieldDataset", "FieldPairs", "MultiResolutionLoader", "fingerprint"]


@runtime_checkable
class FieldPairs(Protocol):
    """What `MultiResolutionLoader` needs of a dataset: a length, and pairs of fields by index."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Return one sample."""
        ...


class FieldDataset(Dataset[tuple[Tensor, Tensor]]):
    """Input and target fields on one grid.

    Args:
        inputs: Input fields `(n, c_in, *grid.shape)` of a floating type; cast boolean or integer
            coefficients first.
        targets: Target fields `(n, c_out, *grid.shape)` of a floating type.
        grid: The grid of both.
        attributes: What made the data (equation, parameters, solver, seed), as JSON types.

    Raises:
        TypeError: Where fields are not of a floating type.
        ValueError: Where shapes disagree with the grid or with each other.

    Examples:
        >>> grid = Grid((8, 8), (1.0, 1.0), "periodic")
        >>> data = FieldDataset(torch.zeros(5, 1, 8, 8), torch.ones(5, 2, 8, 8), grid)
        >>> len(data), data[0][1].shape
        (5, torch.Size([2, 8, 8]))
    """

    def __init__(
        self,
        inputs: Shaped[Tensor, "..."],
        targets: Shaped[Tensor, "..."],
        grid: Grid,
        *,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        for name, fields in (("inputs", inputs), ("targets", targets)):
            if not fields.is_floating_point():
                raise TypeError(
                    f"`{name}` must be of a floating type, got {fields.dtype}; cast it, say by `.float()`"
                )
            if fields.ndim != 2 + grid.dim or tuple(fields.shape[2:]) != grid.shape:
                expected = ", ".join(map(str, ("n", "channels", *grid.shape)))
                raise ValueError(
                    f"`{name}` has shape {tuple(fields.shape)}, expected ({expected}) for its grid"
                )
        if len(inputs) != len(targets):
            raise ValueError(f"`inputs` has {len(inputs)} samples and `targets` has {len(targets)}")
        self.inputs = inputs
        self.targets = targets
        self.grid = grid
        self.attributes = dict(attributes or {})

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, " c_in *grid"], Float[Tensor, " c_out *grid"]]:
        """Return one sample: the input and the target."""
        return self.inputs[index], self.targets[index]

    def __repr__(self) -> str:
        return (
            f"FieldDataset({len(self)} samples, {self.inputs.shape[1]} -> {self.targets.shape[1]} channels, "
            f"{self.grid})"
        )


class MultiResolutionLoader:
    """Batches of several datasets, one dataset a batch, in mixed order.

    Every sample of every dataset is seen once an epoch. Each iteration over the loader is an epoch; with
    `shuffle` it draws a new order, of samples within a dataset and of batches between datasets, from
    `generator`.

    Args:
        datasets: Datasets of `(input, target)` pairs, say one `FieldDataset` a resolution.
        batch_size: Samples in a batch; a sequence gives each dataset its own, say fewer where fields are
            larger.
        shuffle: Draw a new order each epoch; otherwise datasets and their samples come in order.
        drop_last: Leave out a dataset's last batch where it is smaller than the others.
        generator: Source of the orders; torch's global one where `None`.

    Raises:
        ValueError: Where there is no dataset, one is empty, or a batch size is not positive.

    Examples:
        >>> coarse = FieldDataset(torch.zeros(5, 1, 8), torch.zeros(5, 1, 8), Grid((8,), (1.0,), "periodic"))
        >>> fine = FieldDataset(torch.zeros(3, 1, 16), torch.zeros(3, 1, 16), Grid((16,), (1.0,), "periodic"))
        >>> loader = MultiResolutionLoader([coarse, fine], [4, 2], generator=torch.Generator().manual_seed(0))
        >>> len(loader), sorted(tuple(x.shape) for x, _ in loader)
        (4, [(1, 1, 8), (1, 1, 16), (2, 1, 16), (4, 1, 8)])
    """

    def __init__(
        self,
        datasets: Sequence[FieldPairs],
        batch_size: int | Sequence[int],
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if not datasets:
            raise ValueError("`datasets` is empty")
        empty = [index for index, dataset in enumerate(datasets) if len(dataset) == 0]
        if empty:
            raise ValueError(f"`datasets` {empty} have no samples")
        sizes = [batch_size] * len(datasets) if isinstance(batch_size, int) else list(batch_size)
        if len(sizes) != len(datasets) or min(sizes) < 1:
            raise ValueError(
                f"`batch_size` (={batch_size}) must be a positive integer, "
                f"or one for each of {len(datasets)} datasets"
            )
        self.datasets = list(datasets)
        self.batch_sizes = sizes
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.generator = generator

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        pairs = zip(self.datasets, self.batch_sizes, strict=True)
        return sum(len(data) // size if self.drop_last else -(-len(data) // size) for data, size in pairs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches: inputs `(batch, c_in, *grid)`, targets `(batch, c_out, *grid)`."""
        batches: list[tuple[FieldPairs, list[int]]] = []
        for data, size in zip(self.datasets, self.batch_sizes, strict=True):
            order = self._order(len(data))
            chunks = [order[start : start + size] for start in range(0, len(order), size)]
            if self.drop_last and len(chunks[-1]) < size:
                chunks.pop()
            batches.extend((data, chunk) for chunk in chunks)
        for index in self._order(len(batches)):
            data, chunk = batches[index]
            inputs, targets = default_collate([data[sample] for sample in chunk])
            yield inputs, targets

    def _order(self, n: int) -> list[int]:
        """Return `range(n)`, shuffled where the loader shuffles."""
        if not self.shuffle:
            return list(range(n))
        device = self.generator.device if self.generator is not None else None
        return [int(index) for index in torch.randperm(n, generator=self.generator, device=device)]


def fingerprint(samples: Shaped[Tensor, "n ..."]) -> str:
    """Return a SHA-256 that names a set of samples, whatever their order and batching.

    Each sample's digest covers its bytes, shape and type. Digests are added modulo 2^256, so that the
    fingerprint of a set can be had in pieces and a repeated sample counts.

    Args:
        samples: Samples along the first axis.

    Returns:
        64 hexadecimal digits.

    Examples:
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> fingerprint(x) == fingerprint(x.flip(0)), fingerprint(x) == fingerprint(x[:2])
        (True, False)
    """
    return finish_fingerprint(len(samples), digest_sum(samples))


def digest_sum(samples: Shaped[Tensor, "n ..."]) -> int:
    """Return the sum of the samples' SHA-256 digests modulo 2^256, which pieces of a set add up.

    Args:
        samples: Samples along the first axis.

    Returns:
        An integer in `[0, 2^256)`.
    """
    total = 0
    header = f"{samples.dtype} {tuple(samples.shape[1:])}".encode()
    for sample in samples.detach().cpu():
        data = sample.contiguous().reshape(-1).view(torch.uint8).numpy()
        total += int.from_bytes(hashlib.sha256(header + data.tobytes()).digest(), "big")
    return total % 2**256


def finish_fingerprint(count: int, digests: int) -> str:
    """Return the fingerprint of `count` samples whose digests add up to `digests`.

    Args:
        count: Number of samples.
        digests: What `digest_sum` returned, or a sum of several modulo 2^256.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(count.to_bytes(8, "big") + (digests % 2**256).to_bytes(32, "big")).hexdigest()
