r"""The pass that looks at what a solution leaves: residuals, leverage, and the sums behind its certificate.

Residuals are counted in bins even in $\operatorname{arsinh}(r / s)$, with $s$ about their size: fine where
they are many, coarse where they are large. Counts of chunks add up, so quantiles are the same for every
chunking, and off by no more than half a bin. A row's leverage is its squared length in orthonormal
coordinates: how much its own target pulls its fitted value.

Axis letters: d features, c targets, r rank, t rows listed.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.blocks import in_blocks
from lemmata.sketching.least_squares import Preconditioner
from lemmata.sketching.lp import PrioritySample

__all__ = ["DiagnosticsPass", "quantiles"]

_REACH = 16.0  # bins reach to residuals of sinh(16), four million times their typical size
_SAMPLED_TARGETS = 8  # targets whose residuals are sampled
_SUMS = ("squares", "leveraged", "absolute", "projected", "bins", "leverage", "weight", "count")


@dataclass(frozen=True)
class DiagnosticsPass:
    r"""The pass with a solution.

    Args:
        preconditioner: From the sketch.
        lower: Lower factor of the Gram matrix in preconditioned coordinates, shape (r, r); the identity gives
            leverages by the sketch alone, right within its distortion.
        coefficients: The solution, shape (d, c).
        scale: About the size of each target's residuals, shape (c,), positive.
        top: Rows listed, of largest leverage and of largest residual.
        sample: Rows of a uniform sample, for plots.
        seed: Seed of the sample.
    """

    preconditioner: Preconditioner
    lower: Tensor
    coefficients: Tensor
    scale: Tensor
    top: int = 20
    sample: int = 2000
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the pass."""
        return "residuals"

    @property
    def bins(self) -> int:
        """Bins of each target's residuals, an even number."""
        return max(256, min(8192, 2 * ((1 << 19) // max(1, len(self.scale)))))

    def partial(self, rows: Rows) -> State:
        r"""Return what a chunk leaves.

        Args:
            rows: The chunk's rows.

        Returns:
            Sums over the rows: `squares` and `absolute` residuals (c,), `projected` $B^\top r$ (r, c), `bins`
            (c, bins), `leverage`, `weight`, `count`; `low` and `high` residuals (c,); `by_leverage` and
            `by_residual`: for the t rows largest in it, `rank` (t,), `row` (t,) and `facts` (t, 1 + 2 c),
            its leverage, fitted values and residuals; `sample`, a `PrioritySample` of the same facts.
        """
        # The matrix is well conditioned, so its inverse is as good as substitution and several times faster.
        identity = torch.eye(len(self.lower), dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(self.lower, identity, upper=False)

        def of_block(block: Rows) -> State:
            return self._block(block.offset, block.x.double(), block.y, block.weights, inverse)

        return in_blocks(rows, of_block, self.add)

    def add(self, first: State, second: State) -> State:
        """Merge what two sets of rows leave.

        Args:
            first: State of the rows that come first.
            second: State of rows after them.

        Returns:
            State of both.
        """
        state: State = {name: first[name].add_(second[name]) for name in _SUMS}
        state["low"] = torch.minimum(first["low"], second["low"])
        state["high"] = torch.maximum(first["high"], second["high"])
        for name in ("by_leverage", "by_residual"):
            held = {key: torch.cat((first[name][key], second[name][key])) for key in first[name]}
            state[name] = _largest(held, self.top)
        samples = [PrioritySample.from_state_dict(part["sample"]) for part in (first, second)]
        state["sample"] = (samples[0] + samples[1]).state_dict()
        return state

    def _block(self, offset: int, x: Tensor, y: Tensor, weights: Tensor | None, inverse: Tensor) -> State:
        """Return what a block of rows leaves."""
        fitted = x @ self.coefficients
        residual = y - fitted
        w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
        root = w.sqrt()[:, None]
        basis = self.preconditioner.right(x * root)
        leverage = (basis @ inverse.T).square().sum(1)
        held = (w > 0).nonzero()[:, 0]
        kept = residual[held]
        none = torch.full_like(self.scale, torch.inf)
        facts = torch.cat((leverage[:, None], fitted, residual), 1)[held]
        row = held + offset
        worst = (root * residual / self.scale)[held].abs().amax(1)
        few = [0, *range(1, 1 + min(y.shape[1], _SAMPLED_TARGETS))]
        few += [place + y.shape[1] for place in few[1:]]
        recipe = PrioritySample(self.sample, self.seed)
        return {
            "squares": (w[:, None] * residual.square()).sum(0),
            "leveraged": basis.square().sum(1) @ (root * residual).square(),
            "absolute": w @ residual.abs(),
            "projected": basis.T @ (root * residual),
            "bins": self._count(kept),
            "leverage": leverage.sum(),
            "weight": w.sum(),
            "count": w.new_tensor(float(len(held))),
            "low": kept.amin(0) if len(held) else none,
            "high": kept.amax(0) if len(held) else -none,
            "by_leverage": _largest({"rank": leverage[held], "row": row, "facts": facts}, self.top),
            "by_residual": _largest({"rank": worst, "row": row, "facts": facts}, self.top),
            "sample": recipe.partial(
                (w > 0).double(), offset, _spread(facts[:, few], held, len(x))
            ).state_dict(),
        }

    def _count(self, residual: Tensor) -> Tensor:
        """Count residuals in bins."""
        half = self.bins // 2
        place = (residual / self.scale).asinh() * (half / _REACH)
        index = (place.floor().clamp(-half, half - 1) + half).long()
        index += torch.arange(residual.shape[1]) * self.bins
        counts = torch.bincount(index.reshape(-1), minlength=self.bins * residual.shape[1])
        return counts.reshape(residual.shape[1], self.bins)

    def sampled(self, state: State) -> Float[Tensor, "s facts"]:
        """Return the sampled rows of a state.

        Args:
            state: The state.

        Returns:
            Leverage, fitted values and residuals of up to eight targets, a row each.
        """
        rows = PrioritySample.from_state_dict(state["sample"]).payload
        return self.scale.new_zeros((0, 1)) if rows is None else rows

    def edges(self) -> Float[Tensor, "c edges"]:
        """Return the edges of the bins, in units of the targets."""
        place = torch.linspace(-_REACH, _REACH, self.bins + 1, dtype=torch.float64)
        return place.sinh() * self.scale[:, None]


def quantiles(
    counts: Tensor, edges: Float[Tensor, " edges"], levels: list[float], *, low: float, high: float
) -> list[float]:
    """Return quantiles of what was counted in bins, interpolated within a bin.

    Args:
        counts: Counts of the bins.
        edges: Their edges.
        levels: Which quantiles, in [0, 1].
        low: The least value, which bounds the outermost bins.
        high: The largest.

    Returns:
        A quantile a level.

    Examples:
        >>> edges = torch.linspace(0, 4, 5)
        >>> quantiles(torch.tensor([1, 1, 1, 1]), edges, [0.0, 0.5, 1.0], low=0.5, high=3.5)
        [0.5, 2.0, 3.5]
    """
    cumulative = counts.cumsum(0).double()
    total = float(cumulative[-1]) if len(cumulative) else 0.0
    if not total:
        return [math.nan] * len(levels)
    found = []
    for level in levels:
        wanted = level * total
        place = min(int(torch.searchsorted(cumulative, wanted)), len(counts) - 1)
        inside = (wanted - float(cumulative[place] - counts[place])) / max(float(counts[place]), 1.0)
        value = float(edges[place]) + inside * float(edges[place + 1] - edges[place])
        found.append(min(max(value, low), high))
    return found


def _largest(held: dict[str, Tensor], top: int) -> dict[str, Tensor]:
    """Keep the rows of largest rank; of equal ones those that come first."""
    rank = held["rank"]
    if len(rank) > 4 * top:
        least = rank.topk(top).values[-1]
        held = {name: value[rank >= least] for name, value in held.items()}
    order = torch.sort(held["rank"], descending=True, stable=True).indices[:top]
    return {name: value[order] for name, value in held.items()}


def _spread(facts: Tensor, held: Tensor, rows: int) -> Tensor:
    """Return facts of some rows as those of all; the others are never looked at."""
    every = facts.new_zeros((rows, facts.shape[1]))
    every[held] = facts
    return every
