"""Tables as rows of numbers: what a pass over the data reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lemmata.apps.regression_at_scale.encoding.encoder import Encoder, Rows
from lemmata.apps.regression_at_scale.sources.part import Block, Chunk
from lemmata.apps.regression_at_scale.sources.schema import CATEGORICAL, NUMERIC, Selection
from lemmata.apps.regression_at_scale.sources.table import Table
from lemmata.sketching.stream import RowBlocks

__all__ = ["Dataset", "RawDataset", "Rows"]


@dataclass(frozen=True)
class RawDataset:
    """A table's chunks as they stand in the file: what pass 0 reads.

    Args:
        table: The table.
        selection: Which of its columns are read.
    """

    table: Table
    selection: Selection

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Ranges of rows that are read at once."""
        return self.table.chunks

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.table.rows

    @property
    def fingerprint(self) -> str:
        """Hash that tells other data."""
        return self.table.fingerprint

    def read(self, chunk: Chunk) -> Block:
        """Read one chunk."""
        return self.table.read(chunk, self.selection.columns)

    def stream(self, chunks: Sequence[Chunk]) -> Iterator[Block]:
        """Read chunks one after another."""
        return self.table.stream(chunks, self.selection.columns)


@dataclass(frozen=True)
class Dataset:
    """A table and how its rows are encoded: features, targets and weights, chunk by chunk.

    It holds no rows, and is made to be sent to other processes.

    Args:
        table: The table.
        encoder: How its rows become numbers.
        dtype: Type of the features.
        targets: Whether targets and weights are read; not where they are to be predicted.

    Raises:
        ValueError: Where the table lacks a column that the encoder needs, or has it of another kind.

    Examples:
        >>> import tempfile, pathlib, numpy as np
        >>> from lemmata.apps.regression_at_scale.sources.schema import select
        >>> from lemmata.apps.regression_at_scale.sources import open_table
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "table.npy"
        >>> np.save(path, np.arange(12.0).reshape(4, 3))
        >>> table = open_table(path, chunk_rows=3)
        >>> dataset = Dataset(table, Encoder(select(table.columns, target="c2")))
        >>> rows = dataset.read(dataset.chunks[1])
        >>> rows.offset, rows.x.tolist(), rows.y.tolist()
        (3, [[9.0, 10.0, 1.0]], [[11.0]])
    """

    table: Table
    encoder: Encoder
    dtype: torch.dtype = torch.float64
    targets: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in {torch.float64, torch.float32}:
            raise ValueError(f"`dtype` (={self.dtype}) must be torch.float64 or torch.float32")
        known = {column.name: column for column in self.table.columns}
        path, text = self.table.parts[0].path, self.encoder.selection.categorical
        for name in self._columns():
            if name not in known:
                raise ValueError(f"{path}: lacks column {name!r}")
            if known[name].kind not in ({NUMERIC, CATEGORICAL} if name in text else {NUMERIC}):
                raise ValueError(f"{path}: column {name!r} is {known[name].type}, but must be numeric")

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Ranges of rows that are read at once."""
        return self.table.chunks

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.table.rows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the design matrix."""
        return self.rows, len(self.feature_names)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the design matrix's columns."""
        return self.encoder.feature_names

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets that are read."""
        return self.encoder.target_names if self.targets else ()

    @property
    def fingerprint(self) -> str:
        """Hash that tells other data."""
        return self.table.fingerprint

    def read(self, chunk: Chunk) -> Rows:
        """Read and encode one chunk.

        Args:
            chunk: One of `chunks`.

        Returns:
            Its rows.

        Raises:
            ValueError: Where a file is broken or a value cannot be used; the message tells where.
        """
        return next(self.stream([chunk]))

    def stream(self, chunks: Sequence[Chunk]) -> Iterator[Rows]:
        """Read and encode chunks one after another; a file is opened once for all that lie in it.

        Args:
            chunks: Some of `chunks`, in their order.

        Yields:
            The rows of each chunk.
        """
        for block in self.table.stream(chunks, self._columns()):
            rows = self.encoder.encode(block, dtype=self.dtype, targets=self.targets)
            del block  # what was read and what was encoded are freed before the next chunk is read
            yield rows
            del rows

    def row_blocks(self) -> RowBlocks:
        """Return the design matrix as a stream of blocks that is read again in each pass."""

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for rows in self.stream(self.chunks):
                yield rows.offset, rows.x

        return RowBlocks(blocks, self.shape, dtype=self.dtype)

    def _columns(self) -> tuple[str, ...]:
        """Return the names of the columns to read."""
        selection = self.encoder.selection
        return selection.columns if self.targets else tuple(column.name for column in selection.features)
