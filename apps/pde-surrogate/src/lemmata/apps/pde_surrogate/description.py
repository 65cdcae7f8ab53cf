"""What a surrogate was trained on, in JSON types; it makes a checkpoint self-contained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid

__all__ = ["ChannelRange", "DataDescription", "describe"]


@dataclass(frozen=True)
class ChannelRange:
    """Ranges of one channel over a training set.

    Args:
        low: Smallest value.
        high: Largest value.
        lowest_mean: Smallest mean of a sample over its grid.
        highest_mean: Largest mean of a sample over its grid.
    """

    low: float
    high: float
    lowest_mean: float
    highest_mean: float


@dataclass(frozen=True)
class DataDescription:
    """What a surrogate was trained on.

    Args:
        inputs: Ranges of each input channel.
        targets: Ranges of each target channel.
        grids: Training grids, from coarse to fine.
        samples: Number of training samples.
        fingerprint: Name of the training set's content, as the normaliser's fit returned it.
        equation: Name of the equation that made the data, where known.
        parameters: The equation's parameters.
        seed: Seed the data were generated with, where known.
        fine_factor: How many times finer the solver's grid was than the data's, where known.
    """

    inputs: tuple[ChannelRange, ...]
    targets: tuple[ChannelRange, ...]
    grids: tuple[Grid, ...]
    samples: int
    fingerprint: str
    equation: str | None = None
    parameters: Mapping[str, Any] | None = None
    seed: int | None = None
    fine_factor: int | None = None

    @property
    def in_channels(self) -> int:
        """Channels of the input fields."""
        return len(self.inputs)

    @property
    def out_channels(self) -> int:
        """Channels of the target fields."""
        return len(self.targets)

    def grid(self, shape: Sequence[int]) -> Grid:
        """Return the training grids' box and layout with another number of points.

        Args:
            shape: Points along each axis.

        Returns:
            A grid.
        """
        return self.grids[0].with_shape(shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON types."""
        grids = [grid.to_dict() for grid in self.grids]
        ranges = {
            name: [asdict(channel) for channel in getattr(self, name)] for name in ("inputs", "targets")
        }
        parameters = dict(self.parameters) if self.parameters is not None else None
        return {
            **ranges,
            "grids": grids,
            "samples": self.samples,
            "fingerprint": self.fingerprint,
            "equation": self.equation,
            "parameters": parameters,
            "seed": self.seed,
            "fine_factor": self.fine_factor,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "DataDescription":
        """Return the description that `to_dict` wrote.

        Args:
            record: JSON types.

        Returns:
            The description.
        """
        ranges = {
            name: tuple(ChannelRange(**entry) for entry in record[name]) for name in ("inputs", "targets")
        }
        grids = tuple(Grid.from_dict(entry) for entry in record["grids"])
        return cls(**{**record, **ranges, "grids": grids})


def describe(datasets: Sequence[FieldDataset], fingerprint: str) -> DataDescription:
    """Describe a training set, one data set a resolution.

    Args:
        datasets: Data sets of one equation, channel count and layout.
        fingerprint: Name of their content.

    Returns:
        The description.

    Examples:
        >>> grid = Grid((4,), (1.0,), "periodic")
        >>> data = FieldDataset(torch.tensor([[[0.0, 1.0, 2.0, 1.0]]]), torch.ones(1, 2, 4), grid)
        >>> description = describe([data], "none")
        >>> description.out_channels, description.inputs[0].high
        (2, 2.0)
    """
    attributes = datasets[0].attributes
    ordered = sorted({data.grid for data in datasets}, key=lambda grid: grid.shape)
    return DataDescription(
        inputs=_ranges([data.inputs for data in datasets]),
        targets=_ranges([data.targets for data in datasets]),
        grids=tuple(ordered),
        samples=sum(map(len, datasets)),
        fingerprint=fingerprint,
        equation=attributes.get("equation"),
        parameters=attributes.get("parameters"),
        seed=attributes.get("seed"),
        fine_factor=attributes.get("fine_factor"),
    )


def _ranges(fields: Sequence[Float[Tensor, "n channel ..."]]) -> tuple[ChannelRange, ...]:
    """Return each channel's ranges over fields of several resolutions."""
    flat = [entry.double().flatten(2) for entry in fields]
    means = torch.cat([entry.mean(2) for entry in flat])
    low = torch.stack([entry.amin((0, 2)) for entry in flat]).amin(0)
    high = torch.stack([entry.amax((0, 2)) for entry in flat]).amax(0)
    columns = zip(low.tolist(), high.tolist(), means.amin(0).tolist(), means.amax(0).tolist(), strict=True)
    return tuple(ChannelRange(*column) for column in columns)
