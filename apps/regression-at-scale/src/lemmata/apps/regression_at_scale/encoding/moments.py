r"""Pass 0: what must be known of every column before rows can be encoded.

Counts, means and squared deviations are merged by the pairwise formula
$M = M_a + M_b + \delta^2 n_a n_b / n$, $\delta = \bar x_b - \bar x_a$, which loses nothing where the mean is
large beside the deviation. A state is a dictionary of tensors and plain values; states of disjoint rows are
added in any grouping.

Axis letters: k numeric columns.

References:
    T. F. Chan, G. H. Golub, R. J. LeVeque, Algorithms for computing the sample variance: analysis and
    recommendations, 1983.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lemmata.apps.regression_at_scale.sources.part import Block
from lemmata.apps.regression_at_scale.sources.schema import Selection

__all__ = ["Moments", "State", "check_finite"]

State = dict[str, Any]
Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Moments:
    """The pass that finds moments of numeric columns and levels of categorical ones; run it on raw rows.

    The state holds `rows`, and over `columns` (numeric features, targets, the weight) the tensors `count`,
    `missing` (k,), `mean`, `squares` (squared deviations from the mean), `low`, `high` (k,); `levels` and
    `absent` give, by categorical feature, the rows of each level and the rows without a value.

    Args:
        selection: Which columns are read.
        impute: `"error"` to raise where a feature's value is missing, `"mean"` to count it.
        max_levels: Most levels a categorical feature may have.

    Examples:
        >>> from lemmata.apps.regression_at_scale.sources.schema import Column
        >>> Moments(Selection((Column("a", "numeric", "double"),), ("y",))).columns
        ('a', 'y')
    """

    selection: Selection
    impute: str = "error"
    max_levels: int = 1000

    @property
    def name(self) -> str:
        """Name of the pass."""
        return "moments"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the numeric columns, in the order of the state's tensors."""
        weight = () if self.selection.weight is None else (self.selection.weight,)
        return (*self.selection.numeric, *self.selection.targets, *weight)

    def partial(self, rows: Block) -> State:
        """Return the state of one chunk.

        Args:
            rows: Raw rows that hold the selection's columns.

        Returns:
            The state.

        Raises:
            ValueError: Where a number is infinite, a value is missing that must not be, or a feature has more
                than `max_levels` levels; the message names file, row and column.
        """
        free = set(self.selection.numeric) if self.impute == "mean" else set()
        scratch = np.empty(rows.rows)
        facts = [_of_column(rows, name, scratch, may_miss=name in free) for name in self.columns]
        state: State = {"rows": rows.rows, "levels": {}, "absent": {}}
        for place, key in enumerate(("count", "missing", "mean", "squares", "low", "high")):
            state[key] = torch.tensor([fact[place] for fact in facts], dtype=torch.float64)
        for name in self.selection.categorical:
            categories = rows.categories(name)
            codes = categories.codes
            absent = codes < 0
            if absent.any() and self.impute == "error":
                raise ValueError(
                    f"{rows.locate(int(absent.argmax()))}, column {name!r}: the value is missing"
                )
            counts = np.bincount(codes[~absent], minlength=len(categories.levels))
            held = {level: int(n) for level, n in zip(categories.levels, counts, strict=True) if n}
            state["levels"][name] = self._limited(name, held)
            state["absent"][name] = int(absent.sum())
        return state

    def add(self, a: State, b: State) -> State:
        """Return the state of the rows of both.

        Args:
            a: A state.
            b: The state of other rows.

        Returns:
            Their state together.

        Raises:
            ValueError: Where a feature has more than `max_levels` levels together.
        """
        total = a["count"] + b["count"]
        share = torch.where(total > 0, b["count"] / total.clamp(min=1), 0)
        delta = b["mean"] - a["mean"]
        levels = {}
        for name, counts in a["levels"].items():
            others: Mapping[str, int] = b["levels"][name]
            both = sorted(counts.keys() | others.keys())
            merged = {level: counts.get(level, 0) + others.get(level, 0) for level in both}
            levels[name] = self._limited(name, merged)
        return {
            "rows": a["rows"] + b["rows"],
            "count": total,
            "missing": a["missing"] + b["missing"],
            "mean": a["mean"] + delta * share,
            "squares": a["squares"] + b["squares"] + delta**2 * a["count"] * share,
            "low": torch.minimum(a["low"], b["low"]),
            "high": torch.maximum(a["high"], b["high"]),
            "levels": levels,
            "absent": {name: a["absent"][name] + b["absent"][name] for name in a["absent"]},
        }

    def deviation(self, state: State) -> Tensor:
        """Return the standard deviation (divisor n) of each numeric column, 0 where it is constant."""
        deviation: Tensor = (state["squares"] / state["count"].clamp(min=1)).sqrt()
        # A constant's squares are rounding of its mean, not spread.
        return torch.where(state["low"] < state["high"], deviation, 0)

    def _limited(self, name: str, counts: dict[str, int]) -> dict[str, int]:
        """Return counts by level; raise where there are too many."""
        if len(counts) > self.max_levels:
            raise ValueError(
                f"column {name!r} has more than {self.max_levels} levels; "
                "name it in `exclude`, or raise `max_levels`"
            )
        return counts


def _of_column(rows: Block, name: str, values: Floats, *, may_miss: bool) -> tuple[float, ...]:
    """Return count, missing, mean, squared deviations, minimum and maximum; `values` is overwritten."""
    values[:] = rows.numbers(name)
    missing = 0
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    if not np.isfinite(total):
        check_finite(rows, name, values, may_miss=may_miss)
        values = values[~np.isnan(values)]
        missing = rows.rows - len(values)
    if not len(values):
        return 0.0, float(missing), 0.0, 0.0, np.inf, -np.inf
    low, high = values.min(), values.max()
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean()
        if not np.isfinite(mean):  # the sum overflowed, the values did not
            mean = (values / len(values)).sum()
        values -= mean
        squares = np.square(values, out=values).sum()
    return float(len(values)), float(missing), float(mean), float(squares), low, high


def check_finite(
    rows: Block, name: str, values: npt.NDArray[Any], *, start: int = 0, may_miss: bool = False
) -> None:
    """Raise where a column holds an infinite number, or a missing one that must not be.

    Args:
        rows: The rows the column is of, to tell where they lie.
        name: Its name.
        values: Numbers of the column.
        start: Row of `rows` that the first of them is of.
        may_miss: Whether NaN, which stands for a missing value, is fine.

    Raises:
        ValueError: Naming file, row group or line, row and column.
    """
    bad = np.isinf(values) if may_miss else ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        what = "missing (empty, null or NaN)" if np.isnan(values[row]) else "infinite"
        raise ValueError(f"{rows.locate(start + row)}, column {name!r}: the value is {what}")
