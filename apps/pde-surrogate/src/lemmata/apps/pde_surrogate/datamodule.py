"""Training, validation and test fields from the app's data sets or files, in batches of one grid."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lemmata.apps.kit.resume import ResumableLoader
from lemmata.apps.pde_surrogate.loaders import load_fields
from lemmata.apps.pde_surrogate.store import is_store, resolutions
from lemmata.operators.data import FieldDataset, MultiResolutionLoader

__all__ = ["FieldDataModule"]

logger = logging.getLogger(__name__)


class FieldDataModule(LightningDataModule):
    """Pairs of input and target fields for training, validation and tests.

    Several training sets, or a data set that holds several resolutions, give batches of one resolution each,
    in mixed order. The order of samples is a function of `seed` and the epoch alone, so that a resumed run
    continues where it stopped.

    Args:
        train: Data set of the app or file of fields, or several.
        val: The same for validation, or the fraction of the training samples to set aside; none where null.
        test: The same for tests.
        batch_size: Samples in a batch of each process.
        seed: Seed of the order of samples and of the split.
        resolution: Which resolutions of the app's data sets to use; all where null.
        map: Which arrays of a file are input and target, say `input=coeff target=sol`.
        layout: One letter an axis of a file's arrays, say `nxyc`.
        length: Length of a file's box in physical units, one for all axes or one each.
        grid_layout: Where a file's points lie: periodic, nodes, interior or cells; guessed where null.
        num_workers: Processes that prepare batches; fields are in memory, so none is usually quickest.

    Raises:
        ValueError: Where a number is out of range.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: float | str | list[str] | None = 0.1,
        test: str | list[str] | None = None,
        batch_size: int = 20,
        seed: int = 0,
        resolution: int | list[int] | None = None,
        map: str | None = None,  # noqa: A002 - the command line's `--map`
        layout: str | None = None,
        length: float | list[float] | None = None,
        grid_layout: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` (={batch_size}) must be a positive integer")
        if isinstance(val, float | int) and not 0 < val < 1:
            raise ValueError(f"`val` (={val}) must be a path, or a fraction between 0 and 1")
        self.sources = {"train": train, "val": val, "test": test}
        self.batch_size = batch_size
        self.seed = seed
        self.resolution = resolution
        self.options = {"map": map, "layout": layout, "length": length, "grid_layout": grid_layout}
        self.num_workers = num_workers
        self._sets: dict[str, list[FieldDataset]] = {}

    def setup(self, stage: str) -> None:
        """Read what a stage needs, once.

        Args:
            stage: `"fit"`, `"validate"` or `"test"`.

        Raises:
            ValueError: Where a path is missing from the configuration, a file cannot be read, or data sets do
                not fit each other.
        """
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]
        for role in wanted:
            if role not in self._sets:
                self._sets[role] = self._load(role)
        if stage == "fit" and not self._sets["val"] and self.trainer is not None:
            self.trainer.limit_val_batches = 0

    def training_sets(self) -> list[FieldDataset]:
        """Return the training set, one data set a resolution."""
        return self._sets["train"]

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled training batches, of which each process has its share."""
        return ResumableLoader(
            self._sets["train"],
            self.batch_size,
            seed=self.seed,
            shuffle=True,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> MultiResolutionLoader | list[Any]:
        """Return validation batches in order; every process sees all of them."""
        return self._in_order("val") if self._sets.get("val") else []

    def test_dataloader(self) -> MultiResolutionLoader:
        """Return test batches in order; every process sees all of them."""
        return self._in_order("test")

    def _in_order(self, role: str) -> MultiResolutionLoader:
        """Return a role's batches in order."""
        return MultiResolutionLoader(self._sets[role], self.batch_size, shuffle=False)

    def _load(self, role: str) -> list[FieldDataset]:
        """Return a role's data sets, where need be by splitting the training set."""
        source = self.sources[role]
        if role == "val" and isinstance(source, float | int):
            if "train" not in self._sets:
                self._sets["train"] = self._load("train")
            splits = [_split(data, float(source), self.seed) for data in self._sets["train"]]
            self._sets["train"] = [kept for kept, _ in splits]
            return [aside for _, aside in splits]
        if source is None:
            if role == "val" and "train" in self._sets:
                return []
            raise ValueError(f"`data.{role}` is missing; expected a data set or a file of fields")
        paths = list(source) if isinstance(source, list) else [str(source)]
        sets = [data for path in paths for data in self._read(Path(path))]
        known = [*self._sets.get("train", ()), *sets]
        for data in known[1:]:
            _check_alike(known[0], data)
        return sets

    def _read(self, path: Path) -> list[FieldDataset]:
        """Read a path, one data set a resolution."""
        chosen = self.resolution
        wanted: Sequence[int | None] = [chosen] if isinstance(chosen, int) or chosen is None else list(chosen)
        if chosen is None and is_store(path):
            wanted = list(resolutions(path))
        options: dict[str, Any] = {} if is_store(path) else self.options
        sets = [load_fields(path, resolution=resolution, **options) for resolution in wanted]
        for data in sets:
            zero = int((data.targets.flatten(1) == 0).all(1).sum())
            if zero:
                raise ValueError(
                    f"{path}: {zero} target fields are zero everywhere; relative errors need others"
                )
            logger.info("%s: %s", path, data)
        return sets


def _split(data: FieldDataset, fraction: float, seed: int) -> tuple[FieldDataset, FieldDataset]:
    """Set a random fraction of a data set aside; sets of one length and seed are split alike."""
    count = round(fraction * len(data))
    if not 0 < count < len(data):
        raise ValueError(f"`val` (={fraction}) of {len(data)} samples leaves {count} for validation")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    aside, kept = (order[:count].sort().values, order[count:].sort().values)
    return _take(data, kept), _take(data, aside)


def _take(data: FieldDataset, indices: torch.Tensor) -> FieldDataset:
    """Return some samples of a data set."""
    return FieldDataset(data.inputs[indices], data.targets[indices], data.grid, attributes=data.attributes)


def _check_alike(first: FieldDataset, other: FieldDataset) -> None:
    """Raise where two data sets cannot train or test one model."""
    facts = (_facts(first), _facts(other))
    for what in facts[0]:
        expected, found = (known[what] for known in facts)
        if found != expected:
            names = [str(data.attributes.get("source", "a data set")) for data in (first, other)]
            raise ValueError(f"{names[1]}: found {found} {what}, expected {expected} as in {names[0]}")


def _facts(data: FieldDataset) -> dict[str, Any]:
    """Return what data sets of one model have in common."""
    return {
        "input channels": data.inputs.shape[1],
        "target channels": data.targets.shape[1],
        "axes": data.grid.dim,
        "grid layout": data.grid.layout,
        "box length": data.grid.length,
    }
