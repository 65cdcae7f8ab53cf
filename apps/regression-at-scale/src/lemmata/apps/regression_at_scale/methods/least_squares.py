r"""Least squares in two passes: sketch the rows, then sum up their Gram matrix in coordinates that fit them.

The first pass sketches $[A\ b]$; its triangular factor $R$ makes $B = A R^{-1}$ well conditioned however ill
conditioned $A$ is, and its own solution $x_0$ is within a constant factor of the best. The second adds up
$B^\top B$ and $B^\top (b - A x_0)$, a Gram matrix per fold where a penalty is chosen by cross-validation.
What it solves for is the small correction of $x_0$, so that a target that is nearly explained, or far from
zero, costs no digits. Weights multiply squared residuals.

Axis letters: m rows of the sketch, d features, c targets, r rank, k folds.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.blocks import in_blocks
from lemmata.sketching.least_squares import PreconditionedGram, Preconditioner
from lemmata.sketching.operators import RowSampling, SketchOperator, SparseSign
from lemmata.sketching.operators.counter import words

__all__ = ["GramPass", "GramSums", "SketchPass", "Sketched", "default_sketch_rows"]

_FOLD_STREAM = 11  # of the counter's families of random words, the one that deals rows to folds
_STATISTICS = ("count", "weight", "mean", "squares", "low", "high")


def default_sketch_rows(columns: int) -> int:
    """Return rows of a sketch whose distortion is about a half, for this many columns.

    Examples:
        >>> default_sketch_rows(61)
        244
    """
    return max(4 * columns, 64)


@dataclass(frozen=True)
class SketchPass:
    """The pass that sketches features and targets, and finds their moments on the way.

    Args:
        rows: Rows of the table, n.
        sketch_rows: Rows of the sketch, m. A table with no more rows than that is kept as it is.
        seed: Seed of the sketch.
    """

    rows: int
    sketch_rows: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the pass."""
        return "sketch"

    def operator(self) -> SketchOperator:
        """Return the sketch."""
        if self.rows <= self.sketch_rows:
            return RowSampling(torch.arange(self.rows), torch.ones(self.rows, dtype=torch.float64), self.rows)
        return SparseSign(self.sketch_rows, self.rows, min(8, self.sketch_rows), seed=self.seed)

    def partial(self, rows: Rows) -> State:
        """Return the sketch of a chunk and the moments of its columns.

        Args:
            rows: The chunk's rows.

        Returns:
            `sketch` (m, d + c), and over the d + c columns the weighted `mean` and `squares` (deviations
            from it), `low`, `high`; `weight`, their sum, and `count`, the rows of positive weight.
        """
        operator = self.operator()

        def of_block(block: Rows) -> State:
            joined = torch.cat((block.x.double(), block.y), 1)
            state = _moments(joined, block.weights)
            scaled = joined if block.weights is None else joined * block.weights.sqrt()[:, None]
            return {**state, "sketch": operator.partial(scaled, block.offset)}

        return in_blocks(rows, of_block, self.add)

    def add(self, first: State, second: State) -> State:
        """Merge the states of two sets of rows.

        Args:
            first: State of some rows.
            second: State of others.

        Returns:
            Their state together.
        """
        weight = first["weight"] + second["weight"]
        share = torch.where(weight > 0, second["weight"] / weight.clamp_min(1e-300), 0.0)
        delta = second["mean"] - first["mean"]
        return {
            "count": first["count"] + second["count"],
            "weight": weight,
            "mean": first["mean"] + delta * share,
            "squares": first["squares"] + second["squares"] + delta.square() * first["weight"] * share,
            "low": torch.minimum(first["low"], second["low"]),
            "high": torch.maximum(first["high"], second["high"]),
            "sketch": first["sketch"].add_(second["sketch"]),
        }


@dataclass(frozen=True)
class Sketched:
    r"""What the first pass tells.

    Args:
        sketch: $S [A\ b]$, shape (m, d + c).
        preconditioner: $R^{-1}$ of the sketched features.
        start: Sketch-and-solve's coefficients $x_0$, shape (d, c).
        start_coordinates: $R x_0$, shape (r, c).
        count: Rows of positive weight.
        weight: Sum of the weights, or of the rows where there are none.
        mean: Weighted means of the d + c columns.
        variance: Weighted variances (divisor: the sum of weights), 0 of a column that is constant.
        low: Least values.
        high: Largest values.
        features: Number of features, d.
    """

    sketch: Float[Tensor, "m columns"]
    preconditioner: Preconditioner
    start: Float[Tensor, "d c"]
    start_coordinates: Float[Tensor, "r c"]
    count: int
    weight: float
    mean: Float[Tensor, " columns"]
    variance: Float[Tensor, " columns"]
    low: Float[Tensor, " columns"]
    high: Float[Tensor, " columns"]
    features: int

    @classmethod
    def from_state(cls, state: State, *, rows: int, features: int) -> "Sketched":
        """Solve the sketched problem.

        Args:
            state: What the pass returned.
            rows: Rows of the table.
            features: Number of features.

        Returns:
            The sketch and what follows from it.
        """
        a, b = state["sketch"][:, :features], state["sketch"][:, features:]
        preconditioner = Preconditioner.from_sketch(a, n=rows)
        coordinates = preconditioner.right(a).T @ b
        weight = float(state["weight"])
        spread = state["low"] < state["high"]
        return cls(
            sketch=state["sketch"],
            preconditioner=preconditioner,
            start=preconditioner.solve(coordinates),
            start_coordinates=coordinates,
            count=int(state["count"]),
            weight=weight,
            mean=state["mean"],
            # The squares of a constant are the rounding of its mean.
            variance=torch.where(spread, state["squares"] / max(weight, 1e-300), 0.0),
            low=state["low"],
            high=state["high"],
            features=features,
        )

    def residual_scale(self, coefficients: Float[Tensor, "d c"]) -> Float[Tensor, " c"]:
        """Return about how large the residuals of coefficients are (root mean square), by the sketch."""
        a, b = self.sketch[:, : self.features], self.sketch[:, self.features :]
        size: Tensor = torch.linalg.vector_norm(b - a @ coefficients, dim=0)
        least: Tensor = 1e-14 * torch.linalg.vector_norm(b, dim=0)
        return torch.maximum(size, least).clamp_min(1e-300) / math.sqrt(max(self.weight, 1e-300))


@dataclass(frozen=True)
class GramPass:
    """The pass that adds up Gram matrices in preconditioned coordinates, one a fold.

    Folds are dealt by the number of the row: among k consecutive rows each goes to another fold, by a random
    rotation. The same rows are in the same fold for every chunking.

    Args:
        preconditioner: From the sketch.
        start: Coefficients whose residuals stand in for the targets, shape (d, c).
        folds: Number of folds; 1 for none.
        seed: Seed of the folds.
    """

    preconditioner: Preconditioner
    start: Tensor
    folds: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the pass."""
        return "gram"

    def partial(self, rows: Rows) -> State:
        """Return the sums over a chunk.

        Args:
            rows: The chunk's rows.

        Returns:
            `gram` (k, r, r), `cross` (k, r, c), `target` (k, c) of the residuals of `start`, `length` (c,),
            the squared length of the targets themselves, and `weight` (k,), the sum of the weights.
        """
        weights = rows.weights
        residual = rows.y - rows.x.double() @ self.start
        length = rows.y.square() if weights is None else rows.y.square() * weights[:, None]
        fold = self.fold(rows.offset, len(rows.x))
        parts, sums = [], []
        for number in range(self.folds):
            chosen = slice(None) if self.folds == 1 else (fold == number).nonzero()[:, 0]
            held = None if weights is None else weights[chosen]
            x, y = rows.x[chosen], residual[chosen]
            parts.append(PreconditionedGram.partial(self.preconditioner, x, y, held))
            sums.append(float(len(x)) if held is None else float(held.sum()))
        return {
            "gram": torch.stack([part.gram for part in parts]),
            "cross": torch.stack([part.cross for part in parts]),
            "target": torch.stack([part.target for part in parts]),
            "length": length.sum(0),
            "weight": torch.tensor(sums, dtype=torch.float64),
        }

    def add(self, first: State, second: State) -> State:
        """Merge the sums over two sets of rows.

        Args:
            first: Sums over some rows.
            second: Sums over others.

        Returns:
            Sums over both.
        """
        return {name: value.add_(second[name]) for name, value in first.items()}

    def fold(self, offset: int, rows: int) -> Tensor:
        """Return the fold of each of consecutive rows.

        Args:
            offset: Number of the first row.
            rows: How many.

        Returns:
            Numbers of folds, shape (rows,).
        """
        index = torch.arange(offset, offset + rows)
        if self.folds == 1:
            return torch.zeros_like(index)
        turn = words(self.seed, index // self.folds, 1, stream=_FOLD_STREAM)[0]
        return torch.remainder(index + turn, self.folds)


@dataclass(frozen=True)
class GramSums:
    """What the second pass tells: sums over all rows and over each fold.

    Args:
        grams: One Gram matrix a fold, shape (k, r, r).
        crosses: Products with the residuals of `start`, shape (k, r, c).
        targets: Squared lengths of these residuals, shape (k, c).
        length: Squared lengths of the targets, shape (c,).
        weights: Sums of weights, shape (k,).
        start: Coordinates of the coefficients whose residuals they are, shape (r, c).
    """

    grams: Float[Tensor, "k r r"]
    crosses: Float[Tensor, "k r c"]
    targets: Float[Tensor, "k c"]
    length: Float[Tensor, " c"]
    weights: Float[Tensor, " k"]
    start: Float[Tensor, "r c"]

    @classmethod
    def from_state(cls, state: State, sketched: Sketched) -> "GramSums":
        """Take over a state of `GramPass`.

        Args:
            state: What the pass returned.
            sketched: What it was made with.

        Returns:
            The sums.
        """
        return cls(
            grams=state["gram"],
            crosses=state["cross"],
            targets=state["target"],
            length=state["length"],
            weights=state["weight"],
            start=sketched.start_coordinates,
        )

    @property
    def gram(self) -> Float[Tensor, "r r"]:
        """The Gram matrix of all rows."""
        return self.grams.sum(0)

    def cross(self, fold: int | None = None) -> Float[Tensor, "r c"]:
        """Return the product of the rows with the targets themselves.

        Args:
            fold: Leave this fold out.

        Returns:
            The product.
        """
        gram, cross = self.gram, self.crosses.sum(0)
        if fold is not None:
            gram, cross = gram - self.grams[fold], cross - self.crosses[fold]
        return cross + gram @ self.start

    def squares(self, coordinates: Float[Tensor, "r c"], fold: int | None = None) -> Float[Tensor, " c"]:
        """Return sums of squared residuals.

        Args:
            coordinates: R times coefficients.
            fold: Over the rows of this fold; over all rows by default.

        Returns:
            A sum a target.
        """
        every = fold is None
        gram = self.gram if every else self.grams[fold]
        cross = self.crosses.sum(0) if every else self.crosses[fold]
        target = self.targets.sum(0) if every else self.targets[fold]
        step = coordinates - self.start
        return (target + (step * (gram @ step - 2 * cross)).sum(0)).clamp_min(0.0)

    def whole(self) -> PreconditionedGram:
        """Return the sums over all rows, of the targets' own lengths, as certificates want them."""
        return PreconditionedGram(self.gram, self.cross(), self.length, int(self.weights.sum()))


def _moments(block: Tensor, weights: Tensor | None) -> State:
    """Return the moments of a block's columns; rows of weight 0 do not count."""
    width = block.shape[1]
    if weights is not None:
        held = weights > 0
        block, weights = block[held], weights[held]
    if not len(block):
        zeros = block.new_zeros(width)
        infinite = torch.full_like(zeros, torch.inf)
        none = block.new_zeros(())
        return dict(zip(_STATISTICS, (none, none, zeros, zeros, infinite, -infinite), strict=True))
    weight = block.new_tensor(float(len(block))) if weights is None else weights.sum()
    mean = block.mean(0) if weights is None else weights @ block / weight
    squares = (block - mean).square_()
    return {
        "count": block.new_tensor(float(len(block))),
        "weight": weight,
        "mean": mean,
        "squares": squares.sum(0) if weights is None else weights @ squares,
        # Twice as fast as `aminmax`.
        "low": block.amin(0),
        "high": block.amax(0),
    }
