"""Labelled frames as shuffled batches of graphs for training, and in order for validation and tests."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch_geometric.data import Batch

from lemmata.apps.interatomic.dataset import Prepared, check_elements, open_dataset
from lemmata.apps.interatomic.graphs import AtomGraphs
from lemmata.apps.interatomic.reference import Reference, average_neighbours
from lemmata.apps.interatomic.sources import locate
from lemmata.apps.interatomic.splitting import Split
from lemmata.apps.kit.loading import ResumableLoader

__all__ = ["AtomsDataModule"]

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class AtomsDataModule(LightningDataModule):
    """Labelled frames for training, validation and tests, as batches of graphs (see `graphs.to_data`).

    The order of frames is a function of `seed` and the epoch alone, so that a resumed run continues where it
    stopped, and W processes with batches of b see what one process with batches of W b sees. Graphs are built
    when first asked for and kept in memory.

    Args:
        source: A folder that `prepare` wrote, an extended-XYZ file (prepared in memory, with the options
            below), or the published `acetylacetone`, `3bpa` or `3bpa-mixed`.
        cutoff: Atoms nearer than this are joined, in Å.
        batch_size: Frames in a batch of each process.
        validation_batch_size: Frames in a batch of validation and tests; four times `batch_size` where null.
        validation: A file to validate on, in place of a part of the source.
        test: A file to test on, in place of a part of the source.
        isolated: A file of free atoms with their energies.
        energy_key: What the files call energies; the usual names are recognised where null.
        forces_key: What the files call forces, likewise.
        stress_key: What the files call stresses or virials, likewise.
        split: How a file is split: `blocks` or `hash`.
        split_key: An entry of the comment line whose frames stay together; `blocks` keeps `trajectory`
            together.
        validation_fraction: Fraction of a file for validation.
        test_fraction: Fraction of a file for tests.
        gap: With `blocks`, frames to leave out between two parts.
        max_force: Frames of a file with a longer force are dropped, in eV/Å.
        dtype: Type of positions and forces: `float32` or `float64`. Energies are float64.
        seed: Seed of the order of frames, and of a split by hash.
        num_workers: Processes that build graphs; they are kept in memory, so none is usually quickest.
        keep_graphs: Keep graphs in memory; else each is built every time, for sets that do not fit.

    Attributes:
        card: What describes the data, after `setup`.
        reference: E0s, scale and number of neighbours of the training frames, after `setup`.

    Raises:
        FileNotFoundError: Where a file does not exist.
        ValueError: Where a number is out of range or a name unknown.
    """

    def __init__(
        self,
        source: str,
        cutoff: float = 5.0,
        batch_size: int = 5,
        validation_batch_size: int | None = None,
        validation: str | None = None,
        test: str | None = None,
        isolated: str | None = None,
        energy_key: str | None = None,
        forces_key: str | None = None,
        stress_key: str | None = None,
        split: str = "blocks",
        split_key: str | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        gap: int = 0,
        max_force: float = 100.0,
        dtype: str = "float32",
        seed: int = 0,
        num_workers: int = 0,
        keep_graphs: bool = True,
    ) -> None:
        super().__init__()
        for option, value, low in (
            ("batch_size", batch_size, 1),
            ("validation_batch_size", validation_batch_size, 1),
            ("seed", seed, 0),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < low:
                raise ValueError(f"`data.{option}` (={value}) must be an integer of at least {low}")
        if not 0 < cutoff < float("inf"):
            raise ValueError(f"`data.cutoff` (={cutoff}) must be positive and finite, in Å")
        if dtype not in DTYPES:
            raise ValueError(f"`data.dtype` (={dtype!r}) is not known; expected one of {', '.join(DTYPES)}")
        for option, file in (("validation", validation), ("test", test), ("isolated", isolated)):
            if file is not None and not Path(file).is_file():
                raise FileNotFoundError(f"`data.{option}` (={file!r}) does not exist; expected a file")
        self.source = str(source)
        self.cutoff = float(cutoff)
        self.batch_size = batch_size
        self.validation_batch_size = validation_batch_size or 4 * batch_size
        self.dtype = dtype
        self.seed = seed
        self.num_workers = num_workers
        self.keep_graphs = keep_graphs
        self.card: dict[str, Any] = {}
        self._options: dict[str, Any] = {
            "validation": validation,
            "test": test,
            "isolated": isolated,
            "energy_key": energy_key,
            "forces_key": forces_key,
            "stress_key": stress_key,
            "split": Split(split, validation_fraction, test_fraction, gap, split_key, seed),
            "max_force": max_force,
        }
        self._data: Prepared | None = None
        self._reference: Reference | None = None
        self._graphs: dict[str, AtomGraphs] = {}

    @property
    def reference(self) -> Reference:
        """E0s, scale and number of neighbours of the training frames, counted with this module's cutoff.

        Raises:
            RuntimeError: Before `setup`.
        """
        if self._reference is None:
            raise RuntimeError("the data have not been read yet; call `setup` first")
        return self._reference

    def prepare_data(self) -> None:
        """Download a published set, in one process."""
        locate(self.source, "data.source")

    def setup(self, stage: str | None = None) -> None:
        """Read and check the frames.

        Args:
            stage: `"fit"`, `"validate"`, `"test"` or None; the frames are the same, and are read once.

        Raises:
            FileNotFoundError: Where a file does not exist.
            ValueError: Where a file cannot be read or lacks labels, nothing is left for a part, an element is
                not among those trained on, or there are no frames to test on.
        """
        if self._data is None:
            locate(self.source, "data.source")
            self._data = open_dataset(self.source, cutoff=self.cutoff, **self._options)
            self.card = dict(self._data.card)
            self._reference = self._counted(self._data)
            self._tell()
        if stage == "test" and not self._data.parts["test"]:
            raise ValueError("`data.test` is missing: the data hold no frames for tests; expected a file")

    def use(self, elements: Sequence[int], cutoff: float) -> None:
        """Evaluate, or go on training, with what a checkpoint knows.

        Args:
            elements: Atomic numbers that the model knows.
            cutoff: The model's cutoff, in Å.

        Raises:
            ValueError: Where a frame has an element that the model does not know.
        """
        if cutoff != self.cutoff:
            self.cutoff = float(cutoff)
            self._graphs.clear()
        for part, frames in (self._data.parts if self._data is not None else {}).items():
            check_elements(frames, tuple(elements), f"{part} frame", "the checkpoint's training data")

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches, of one size where there are enough frames; each process has its share."""
        graphs = self._part("train")
        return ResumableLoader(
            graphs,
            self.batch_size,
            seed=self.seed,
            shuffle=True,
            drop_last=len(graphs) >= self.batch_size * self._processes(),
            collate_fn=Batch.from_data_list,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Return validation batches in order; every process sees all of them. There may be none."""
        return self._in_order("validation")

    def test_dataloader(self) -> ResumableLoader | list[Any]:
        """Return test batches in order; every process sees all of them."""
        return self._in_order("test")

    def _in_order(self, part: str) -> ResumableLoader | list[Any]:
        """Return a part's batches in order."""
        graphs = self._part(part)
        if not len(graphs):
            return []
        return ResumableLoader(
            graphs,
            self.validation_batch_size,
            shuffle=False,
            num_replicas=1,
            rank=0,
            collate_fn=Batch.from_data_list,
        )

    def _part(self, part: str) -> AtomGraphs:
        """Return the graphs of a part, built anew where the cutoff has changed."""
        if self._data is None:
            raise RuntimeError("the data have not been read yet; call `setup` first")
        if part not in self._graphs:
            self._graphs[part] = AtomGraphs(
                self._data.parts[part], self.cutoff, dtype=DTYPES[self.dtype], keep=self.keep_graphs
            )
        return self._graphs[part]

    def _counted(self, data: Prepared) -> Reference:
        """Return the reference, its neighbours counted with this module's cutoff."""
        from dataclasses import replace

        reference = data.reference
        if reference.cutoff == self.cutoff:
            return reference
        count = average_neighbours(data.parts["train"], self.cutoff)
        return replace(reference, average_neighbours=count, cutoff=self.cutoff)

    def _processes(self) -> int:
        """Return the number of processes that share the training frames."""
        return 1 if self.trainer is None else self.trainer.world_size

    def _tell(self) -> None:
        """Log what was dropped and what should be known, in one process."""
        if self.trainer is not None and not self.trainer.is_global_zero:
            return
        dropped = self.card["dropped"]
        if dropped["count"]:
            logger.warning("dropped %d frames: %s", dropped["count"], dropped["reasons"])
        for notice in self.card["notices"]:
            logger.info(notice)
