r"""Regression in l_1, l_p and Huber's loss on rows that do not fit in memory, with a certificate.

1. A sketch of features and target scores rows by root leverage $\tau_i^{p/2}$; a second pass draws a sample.
2. Lewis' quadratic form of that sample scores all rows again; a third pass draws the coreset.
3. The coreset is solved in memory, to the last digit.
4. Two passes over all rows give the true cost, a lower bound that no coefficients undercut, and a Newton step
   that is taken where it helps. They are repeated until the gap is small enough.

Huber's loss is a square near zero and an absolute value far out, and so is its importance: the sum of the
scores for p = 2 and p = 1, in one sampling pass.

References:
    D. P. Woodruff, T. Yasuda, Sharper bounds for l_p sensitivity sampling, 2023.

Axis letters: d features, s rows of a coreset.
"""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.blocks import in_blocks
from lemmata.apps.regression_at_scale.methods.least_squares import default_sketch_rows
from lemmata.apps.regression_at_scale.methods.sampling import (
    JointSketch,
    RowScores,
    SamplePass,
    parts,
)
from lemmata.apps.regression_at_scale.model import Loss
from lemmata.sketching.least_squares import Preconditioner
from lemmata.sketching.lp import (
    Coreset,
    DualSums,
    HuberLoss,
    LewisScores,
    NewtonSums,
    PowerLoss,
    huber_regression,
    lewis_quadratic,
    lp_regression,
)

__all__ = ["RobustFit", "draw_coreset", "fit_robust"]

_UNIFORM = 0.05  # share of the scores that is spread evenly
_ROUNDS = 10  # pairs of passes at most
_EFFICIENT = 1.345  # Huber's threshold in standard deviations: 95 % efficient on normal errors
_NORMAL = 1.4826  # standard deviations in a median absolute deviation of normal errors


@dataclass(frozen=True)
class RobustFit:
    """What `fit_robust` found.

    Args:
        coefficients: Coefficients of the encoded features, shape (d, 1).
        certificate: The true cost, the lower bound, their relative gap, rows of the coreset and its own cost
            with it, rounds of improvement, passes.
        loss: The loss, with the threshold that was found where none was given.
    """

    coefficients: Float[Tensor, "d 1"]
    certificate: dict[str, Any]
    loss: Loss


def fit_robust(
    engine: Engine,
    loss: Loss,
    *,
    sketch: Float[Tensor, "m columns"] | None = None,
    sketch_rows: int | None = None,
    coreset_size: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> RobustFit:
    """Fit a regression in a loss other than the square.

    Args:
        engine: Runs the passes, over a dataset with one target.
        loss: The loss.
        sketch: Of features and target, where there is one already; rows scaled by weights to the power 1/p.
        sketch_rows: Rows of the sketch; four a column by default.
        coreset_size: Rows of the coreset; 20,000, or 100 a column, by default.
        rtol: Gap to reach, relative to the cost, if ten rounds of two passes do; one round by default.
        seed: Seed of sketch and samples.

    Returns:
        The fit.

    Raises:
        ValueError: Where the dataset has several targets, or fewer rows of positive weight than features.
    """
    dataset: Any = engine.dataset
    (n, d), targets = dataset.shape, dataset.target_names
    if len(targets) != 1:
        raise ValueError(f"`target` ({len(targets)} columns): a loss of kind {loss} takes one at a time")
    coreset, sketch = draw_coreset(
        engine, loss, size=coreset_size, sketch=sketch, sketch_rows=sketch_rows, seed=seed
    )
    x, y, weights = parts(coreset, d)
    if int((weights > 0).sum()) < d:
        raise ValueError(f"{len(coreset)} rows of positive weight do not determine {d} coefficients")
    preconditioner = Preconditioner.from_sketch(sketch[:, :d], n=n)
    basis = preconditioner.right(x)
    rho, answer = _solve(loss, basis, y[:, 0], weights)
    start = preconditioner.solve(answer.x[:, None])
    residual = y[:, 0] - x @ start[:, 0]
    levels: tuple[float, ...] = (0.0,)
    if isinstance(rho, PowerLoss) and rho.p < 2:
        scale = float((weights * residual.abs()).sum() / weights.sum()) or 1.0
        levels = (0.3 * scale, 0.03 * scale, 0.003 * scale)
    coefficients, found = _improve(engine, rho, preconditioner, start, levels, rtol)
    certificate = {
        **found,
        "rank": preconditioner.rank,
        "condition": preconditioner.condition,
        "sketch_rows": len(sketch),
        "coreset_rows": len(coreset),
        "coreset_status": answer.status,
        "passes": engine.passes_run,
    }
    told = Loss("huber", delta=rho.delta) if isinstance(rho, HuberLoss) else loss
    return RobustFit(coefficients, certificate, told)


def draw_coreset(
    engine: Engine,
    loss: Loss,
    *,
    size: int | None = None,
    sketch: Float[Tensor, "m columns"] | None = None,
    sketch_rows: int | None = None,
    seed: int = 0,
) -> tuple[Coreset, Float[Tensor, "m columns"]]:
    """Draw the rows that matter for a loss: a sketch, then one pass for Huber's loss and two otherwise.

    Sketch and samples are independent: each has its own seed.

    Args:
        engine: Runs the passes.
        loss: The loss.
        size: Rows of the coreset; 20,000, or 100 a column, by default.
        sketch: As in `fit_robust`.
        sketch_rows: Rows of the sketch; four a column by default.
        seed: Seed of sketch and samples.

    Returns:
        The coreset, whose rows hold features, targets and weight; and the sketch of features and targets.

    Raises:
        ValueError: Where the coreset would have fewer rows than columns.
    """
    dataset: Any = engine.dataset
    n, columns = dataset.rows, dataset.shape[1] + len(dataset.target_names)
    size = max(20_000, 100 * columns) if size is None else size
    if size < columns:
        raise ValueError(f"`size` (={size}) of the coreset must be at least {columns}, one a column")
    size, power = min(size, n), 2.0 if loss.p is None else loss.p
    if sketch is None:
        m = default_sketch_rows(columns) if sketch_rows is None else sketch_rows
        sketch = engine.run(JointSketch(m, n, power, seed))["sketch"]
    if loss.p is None:
        squares, absolutes = LewisScores.from_sketch(sketch, 2.0), LewisScores.from_sketch(sketch, 1.0)
        # Leverages sum to d, their roots to at most sqrt(n d): both are brought to a sum of about one.
        mixed = ((squares, 1 / columns), (absolutes, 1 / math.sqrt(n * columns)))
        task = SamplePass(RowScores(mixed, _UNIFORM / n), size, seed + 1, "coreset")
        return task.coreset(engine.run(task)), sketch
    leverage = RowScores(((LewisScores.from_sketch(sketch, loss.p), 1.0),))
    first = SamplePass(leverage, size, seed + 1, "sample by leverage")
    sample = first.coreset(engine.run(first))
    if loss.p == 2:  # leverages are Lewis weights
        return sample, sketch
    held: Any = sample.rows
    quadratic = lewis_quadratic(held[:, :-1], loss.p, sample.weights * held[:, -1], tol=1e-2)
    # Lewis weights sum to the number of columns.
    scores = RowScores(((quadratic, 1.0),), _UNIFORM * columns / n)
    second = SamplePass(scores, size, seed + 2, "coreset by Lewis weights")
    return second.coreset(engine.run(second)), sketch


def _solve(loss: Loss, basis: Tensor, y: Tensor, weights: Tensor) -> tuple[PowerLoss | HuberLoss, Any]:
    """Solve the coreset's problem; return the loss, with Huber's threshold found where none was given."""
    if loss.p is not None:
        return PowerLoss(loss.p), lp_regression(basis, y, loss.p, weights)
    delta = loss.delta
    if delta is None:
        robust = lp_regression(basis, y, 1.0, weights, tol=1e-4)
        deviation = _weighted_median((y - basis @ robust.x).abs(), weights)
        if deviation == 0:
            raise ValueError(
                "`loss` ('huber'): half of the rows are fitted exactly, which leaves no scale for the "
                "threshold; give one, 'huber:DELTA', or use l1"
            )
        delta = _EFFICIENT * _NORMAL * deviation
    return HuberLoss(delta), huber_regression(basis, y, delta, weights)


def _weighted_median(values: Tensor, weights: Tensor) -> float:
    """Return the smallest value that half of the weight does not exceed."""
    order = values.argsort()
    passed = weights[order].cumsum(0)
    return float(values[order][int((passed < passed[-1] / 2).sum())])


def _improve(
    engine: Engine,
    loss: PowerLoss | HuberLoss,
    preconditioner: Preconditioner,
    coefficients: Tensor,
    levels: tuple[float, ...],
    rtol: float | None,
) -> tuple[Tensor, dict[str, Any]]:
    """Certify coefficients on all rows and take the steps that help, until the gap is small enough."""
    bound, first, rounds = 0.0, math.nan, 0
    for rounds in range(1, (1 if rtol is None else _ROUNDS) + 1):
        newton_pass = NewtonPass(loss, preconditioner, coefficients, levels)
        newton = NewtonSums.from_state_dict(engine.run(newton_pass))
        dual = DualSums.from_state_dict(engine.run(DualPass(newton_pass, newton)))
        first = float(newton.cost) if rounds == 1 else first
        bound = max(bound, float(dual.lower_bound(newton)))
        level, place, cost = dual.best()
        coefficients = coefficients + place * preconditioner.solve(newton.steps()[level][:, None])
        gap = (cost - bound) / cost if cost > 0 else 0.0
        if rtol is None or gap <= rtol:
            break
        # The smoothing that helped is about as large as what was still to be gained: go on from there.
        finest = levels[level] if place else 0.3 * levels[0]
        levels = (finest, 0.1 * finest, 0.01 * finest) if finest else levels
    return coefficients, {
        "cost": cost,
        "lower_bound": bound,
        "relative_gap": gap,
        "coreset_cost": first,
        "rounds": rounds,
    }


@dataclass(frozen=True)
class NewtonPass:
    """Cost, gradient and curvature at given coefficients, over all rows."""

    loss: PowerLoss | HuberLoss
    preconditioner: Preconditioner
    coefficients: Tensor
    levels: tuple[float, ...]
    name: str = "cost and gradient"

    def place(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return rows in well conditioned coordinates, residuals and weights."""
        x = rows.x.double()
        return self.preconditioner.right(x), rows.y[:, 0] - (x @ self.coefficients)[:, 0], rows.weights

    def partial(self, rows: Rows) -> State:
        """Return a chunk's sums."""
        return in_blocks(rows, self._block, self.add)

    def _block(self, rows: Rows) -> State:
        basis, residual, weights = self.place(rows)
        return NewtonSums.partial(self.loss, basis, residual, weights, levels=self.levels).state_dict()

    def add(self, first: State, second: State) -> State:
        """Add two states."""
        return (NewtonSums.from_state_dict(first) + NewtonSums.from_state_dict(second)).state_dict()


@dataclass(frozen=True)
class DualPass:
    """What dual feasible vectors say about the best cost, and the cost along the steps."""

    at: NewtonPass
    newton: NewtonSums
    name: str = "lower bound"

    def partial(self, rows: Rows) -> State:
        """Return a chunk's sums."""
        return in_blocks(rows, self._block, self.add)

    def _block(self, rows: Rows) -> State:
        return DualSums.partial(self.newton, *self.at.place(rows)).state_dict()

    def add(self, first: State, second: State) -> State:
        """Add two states."""
        return (DualSums.from_state_dict(first) + DualSums.from_state_dict(second)).state_dict()
