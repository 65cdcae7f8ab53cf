"""What a fit would do, and how much memory it would take, without reading a row."""

import math
from dataclasses import dataclass

from lemmata.apps.regression_at_scale.engine.memory import held_memory

__all__ = ["Plan"]

_FLOAT = 8
# Arrow's columns, the design matrix, and a block's copies on the way through sketch and triangular solve.
_COPIES_OF_A_CHUNK = 2.5
_PROCESS = 350e6  # a process with its libraries, where the platform does not tell
_LATER = 150e6  # what libraries take when they are first used


@dataclass(frozen=True)
class Plan:
    """What a fit would do.

    Args:
        rows: Rows of the table.
        columns: Columns that are read.
        features: Columns of the design matrix; None where categories are yet to be found.
        targets: Number of targets.
        chunk_rows: Most rows of a chunk.
        chunks: Number of chunks.
        bytes: Size of the files.
        sketch_rows: Rows of the sketch; None for the default.
        folds: Gram matrices that are summed side by side.
        workers: Tasks that run at the same time.
        passes: Names of the passes, in their order.
    """

    rows: int
    columns: int
    features: int | None
    targets: int
    chunk_rows: int
    chunks: int
    bytes: int
    sketch_rows: int
    folds: int
    workers: int
    passes: tuple[str, ...]

    @property
    def memory(self) -> float:
        """About how many bytes this process would hold at most."""
        d = self.features or self.columns
        wide = d + self.targets
        chunk = min(self.chunk_rows, self.rows) * (self.columns + wide) * _FLOAT * _COPIES_OF_A_CHUNK / 2
        state = _FLOAT * max(self.sketch_rows * wide, self.folds * d * wide)
        # A worker's own state and that of its chunk, as many waiting to be folded, and the fold.
        held = held_memory() * 1e6
        process = (_PROCESS if math.isnan(held) else held) + _LATER
        return process + self.workers * (chunk + 4 * state) + 2 * state

    def text(self) -> str:
        """Return the plan for reading.

        Examples:
            >>> plan = Plan(1000, 4, 4, 1, 256, 4, 32000, 64, 1, 2, ("sketch", "gram", "residuals"))
            >>> print(plan.text().splitlines()[0])
            1,000 rows of 4 columns (0.0 MB) in 4 chunks
        """
        known = "some" if self.features is None else f"{self.features:,}"
        size, targets = self.bytes / 1e6, f"{self.targets} target{'s' if self.targets > 1 else ''}"
        lines = [
            f"{self.rows:,} rows of {self.columns} columns ({size:,.1f} MB) in {self.chunks:,} chunks",
            f"at most {self.chunk_rows:,} rows of a chunk in a worker's memory",
            f"{known} features, {targets}, a sketch of {self.sketch_rows:,} rows",
            f"{len(self.passes)} passes over the rows: {', '.join(self.passes)}",
            f"about {self.memory / 1e6:,.0f} MB of memory with {self.workers} workers",
        ]
        return "\n".join(lines) + "\n"
