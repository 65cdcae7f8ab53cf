"""Passes that draw the rows that matter: a sketch to score them by, and samples of fixed size.

Axis letters: d features, c targets, s rows of a sample.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.blocks import in_blocks
from lemmata.apps.regression_at_scale.methods.least_squares import SketchPass
from lemmata.sketching.lp import Coreset, LewisScores, PrioritySample

__all__ = ["JointSketch", "RowScores", "SamplePass", "joined", "parts"]


def joined(rows: Rows) -> Tensor:
    """Return features and targets side by side, shape (rows, d + c), float64."""
    return torch.cat((rows.x.double(), rows.y), 1)


@dataclass(frozen=True)
class JointSketch:
    r"""A sketch of features and targets, each row scaled by its weight to the power 1/p.

    Args:
        rows: Rows of the sketch.
        of: Rows of the table.
        p: Power of the loss.
        seed: Seed of the sketch.
    """

    rows: int
    of: int
    p: float
    seed: int
    name: str = "sketch"

    def partial(self, rows: Rows) -> State:
        """Return a chunk's part of the sketch."""
        return in_blocks(rows, self._block, self.add)

    def _block(self, rows: Rows) -> State:
        block = joined(rows)
        if rows.weights is not None:
            block = block * rows.weights[:, None] ** (1 / self.p)
        operator = SketchPass(self.of, self.rows, self.seed).operator()
        return {"sketch": operator.partial(block, rows.offset)}

    def add(self, first: State, second: State) -> State:
        """Add two sketches."""
        return {"sketch": first["sketch"] + second["sketch"]}


@dataclass(frozen=True)
class RowScores:
    """Importance of rows: a sum of scores, each with a factor, and a constant that every row gets.

    The constant keeps the weight of a row whose score is far too low from exploding.

    Args:
        parts: Scores and their factors.
        constant: Added to the score of every row.
    """

    parts: tuple[tuple[LewisScores, float], ...]
    constant: float = 0.0

    def __call__(self, block: Tensor, weights: Tensor | None) -> Tensor:
        """Return the scores of rows; a row that counts for nothing has none."""
        total = torch.full(block.shape[:1], self.constant, dtype=torch.float64, device=block.device)
        for scores, factor in self.parts:
            total += factor * scores(block, weights)
        return total if weights is None else total * (weights > 0)


@dataclass(frozen=True)
class SamplePass:
    """A sample of `size` rows by importance, with their features, targets and weights.

    Args:
        scores: Importance of rows; the same for all where None.
        size: Rows to keep.
        seed: Seed of the sample.
        name: What people see.
    """

    scores: RowScores | None
    size: int
    seed: int
    name: str = "sample"

    def partial(self, rows: Rows) -> State:
        """Return the sample of a chunk."""
        weights = torch.ones(len(rows.x), dtype=torch.float64) if rows.weights is None else rows.weights
        scores = in_blocks(rows, self._scores, _follow)["scores"]

        def kept(places: Tensor) -> Tensor:
            return torch.cat((rows.x[places].double(), rows.y[places], weights[places, None]), 1)

        return PrioritySample(self.size, self.seed).partial(scores, rows.offset, kept).state_dict()

    def _scores(self, rows: Rows) -> State:
        """Return the scores of a block."""
        if self.scores is not None:
            return {"scores": self.scores(joined(rows), rows.weights)}
        ones = torch.ones(len(rows.x), dtype=torch.float64)
        return {"scores": ones if rows.weights is None else (rows.weights > 0).double()}

    def add(self, first: State, second: State) -> State:
        """Merge two samples."""
        return (PrioritySample.from_state_dict(first) + PrioritySample.from_state_dict(second)).state_dict()

    def coreset(self, state: State) -> Coreset:
        """Return the sample: its `rows` hold features, targets and, last, the rows' own weights."""
        return PrioritySample.from_state_dict(state).coreset()


def _follow(first: State, second: State) -> State:
    """Put the scores of one block behind those of another."""
    return {"scores": torch.cat((first["scores"], second["scores"]))}


def parts(coreset: Coreset, features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take a sample's rows apart.

    Args:
        coreset: What `SamplePass.coreset` returned.
        features: Number of features, d.

    Returns:
        Features (s, d), targets (s, c), and how often the loss of each row counts (s,).
    """
    held: Any = coreset.rows
    return held[:, :features], held[:, features:-1], coreset.weights * held[:, -1]
