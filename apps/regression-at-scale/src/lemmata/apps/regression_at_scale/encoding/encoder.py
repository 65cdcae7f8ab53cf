r"""From the columns of a table to the rows of a design matrix, and back to the user's units.

A numeric feature becomes a column, a categorical one a column of zeros and ones for each of its levels; the
column of ones, the intercept, is the last. With an intercept the first level of each categorical feature is
left out (it is what the others are compared with). Levels are in alphabetical order: the same matrix in every
process and on every machine.

Axis letters: d columns of the design matrix, c targets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.encoding.moments import Moments, State, check_finite
from lemmata.apps.regression_at_scale.sources.part import Block
from lemmata.apps.regression_at_scale.sources.schema import CATEGORICAL, Column, Selection

__all__ = ["INTERCEPT", "Encoder", "Rows"]

INTERCEPT = "(intercept)"
_TILE = 1 << 17  # numbers written at once: columns are interleaved while their rows stay in the cache


class Rows(NamedTuple):
    """Rows of a design matrix.

    Attributes:
        offset: Rows of the table before them.
        x: Features, shape (rows, d).
        y: Targets, shape (rows, c); c is 0 where they were not read.
        weights: Weights, shape (rows,), or None.
    """

    offset: int
    x: Tensor
    y: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Encoder:
    """How rows are encoded; plain values, so that it is sent and saved as it is.

    Args:
        selection: Which columns are features, targets and weights.
        intercept: Whether a column of ones is appended.
        impute: What becomes of a missing feature: `"error"`, or `"mean"` (of a categorical feature, the share
            of each level). A missing target or weight is always an error.
        unknown: What becomes of a level that was not declared: `"error"`, or `"zero"` (zeros in all of the
            feature's columns).
        standardise: Whether numeric features are divided by their standard deviation, and centred where there
            is an intercept.
        levels: Levels of each categorical feature, in order.
        shares: Share of the rows of each level, where `impute` needs it.
        means: Mean of each numeric feature, in their order, where `impute` or `standardise` needs it.
        scales: Standard deviation of each numeric feature (1 where it is constant), where `standardise` does.

    Raises:
        ValueError: Where an option is unknown, or what it needs is not given.

    Examples:
        >>> pair = (Column("size", "numeric", "double"), Column("city", "categorical", "string"))
        >>> Encoder(Selection(pair, ("rent",)), levels={"city": ("Bonn", "Köln")}).feature_names
        ('size', 'city=Köln', '(intercept)')
    """

    selection: Selection
    intercept: bool = True
    impute: str = "error"
    unknown: str = "error"
    standardise: bool = False
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("impute", self.impute, ("error", "mean")),
            ("unknown", self.unknown, ("error", "zero")),
        ):
            if value not in known:
                raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(known)}")
        for name in self.selection.categorical:
            if not self.levels.get(name):
                raise ValueError(f"`levels` lacks those of {name!r}")
            if self.impute == "mean" and len(self.shares.get(name, ())) != len(self.levels[name]):
                raise ValueError(f"`shares` lacks those of {name!r}")
        numeric = len(self.selection.numeric)
        if self.standardise or self.impute == "mean":
            _check_length("means", self.means, numeric)
        if self.standardise:
            _check_length("scales", self.scales, numeric)
            if not all(scale > 0 for scale in self.scales):
                raise ValueError(f"`scales` must be positive; the least is {min(self.scales)}")

    @staticmethod
    def needs_moments(selection: Selection, *, impute: str = "error", standardise: bool = False) -> bool:
        """Tell whether pass 0 must run before rows can be encoded."""
        return bool(selection.categorical) or standardise or impute == "mean"

    @classmethod
    def from_moments(
        cls,
        moments: Moments,
        state: State,
        *,
        intercept: bool = True,
        unknown: str = "error",
        standardise: bool = False,
    ) -> "Encoder":
        """Return the encoder that pass 0 gives.

        Args:
            moments: The pass; its selection and `impute` are taken over.
            state: What it found.
            intercept: Whether a column of ones is appended.
            unknown: What becomes of a level that pass 0 did not see.
            standardise: Whether numeric features are standardised.

        Returns:
            The encoder.

        Raises:
            ValueError: Where a feature has no value at all.
        """
        selection = moments.selection
        count = len(selection.numeric)
        for place, name in enumerate(moments.columns):
            if not state["count"][place]:
                raise ValueError(f"column {name!r} has no value in any row")
        levels = {name: tuple(sorted(counts)) for name, counts in state["levels"].items()}
        shares = {}
        for name, counts in state["levels"].items():
            present = sum(counts.values())
            if not present:
                raise ValueError(f"column {name!r} has no value in any row")
            shares[name] = tuple(counts[level] / present for level in levels[name])
        deviation = moments.deviation(state)[:count]
        return cls(
            selection,
            intercept=intercept,
            impute=moments.impute,
            unknown=unknown,
            standardise=standardise,
            levels=levels,
            shares=shares,
            means=tuple(state["mean"][:count].tolist()),
            scales=tuple(torch.where(deviation > 0, deviation, 1).tolist()),
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the design matrix's columns: `name`, `name=level`, and the intercept last."""
        names: list[str] = []
        for column in self.selection.features:
            if column.kind == CATEGORICAL:
                names += [f"{column.name}={level}" for level in self._shown(column.name)]
            else:
                names.append(column.name)
        return (*names, INTERCEPT) if self.intercept else tuple(names)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets."""
        return self.selection.targets

    def encode(self, rows: Block, *, dtype: torch.dtype = torch.float64, targets: bool = True) -> Rows:
        """Encode a chunk's rows.

        Args:
            rows: Rows as they stand in the file.
            dtype: Type of the features; targets and weights are float64.
            targets: Whether targets and weights are in `rows` and wanted.

        Returns:
            The rows of the design matrix, targets and weights.

        Raises:
            ValueError: Where a value is missing, infinite or of an unknown level, or a weight negative; the
                message names file, row group or line, row and column.
        """
        width = self._width()
        x = np.empty((rows.rows, width), dtype=np.float32 if dtype == torch.float32 else np.float64)
        numeric, categorical = self._places()
        self._write_numbers(rows, x, numeric)
        for name, place in categorical.items():
            self._write_levels(rows, x, name, place)
        if self.intercept:
            x[:, -1] = 1
        y = np.empty((rows.rows, len(self.target_names) if targets else 0))
        for place, name in enumerate(self.target_names if targets else ()):
            y[:, place] = rows.numbers(name)
            _check_column(rows, name, y[:, place])
        return Rows(
            rows.offset, torch.from_numpy(x), torch.from_numpy(y), self._weights(rows) if targets else None
        )

    def in_user_units(self, coefficients: Float[Tensor, "d c"]) -> Float[Tensor, "d c"]:
        r"""Return coefficients of the features as the user gave them.

        With $z_j = (x_j - m_j) / s_j$, the coefficient of $x_j$ is $\beta_j / s_j$, and
        $\sum_j \beta_j m_j / s_j$ is taken from the intercept.

        Args:
            coefficients: Coefficients of the encoded features.

        Returns:
            Coefficients in the features' own units.
        """
        return self.unit_map().to(coefficients) @ coefficients

    def unit_map(self) -> Float[Tensor, "d d"]:
        r"""Return the matrix $J$ that takes encoded coefficients to the user's units.

        A covariance $C$ of coefficients becomes $J C J^T$.
        """
        width = self._width()
        map_ = torch.eye(width, dtype=torch.float64)
        if self.standardise:
            places = torch.tensor(list(self._places()[0].values()), dtype=torch.int64)
            scales = torch.tensor(self.scales, dtype=torch.float64)
            map_[places, places] = 1 / scales
            if self.intercept:
                map_[-1, places] = -torch.tensor(self.means, dtype=torch.float64) / scales
        return map_

    def state_dict(self) -> dict[str, Any]:
        """Return plain values that rebuild the encoder; `torch.load(weights_only=True)` reads them."""
        return {
            "features": [(column.name, column.kind, column.type) for column in self.selection.features],
            "targets": list(self.selection.targets),
            "weight": self.selection.weight,
            "intercept": self.intercept,
            "impute": self.impute,
            "unknown": self.unknown,
            "standardise": self.standardise,
            "levels": {name: list(levels) for name, levels in self.levels.items()},
            "shares": {name: list(shares) for name, shares in self.shares.items()},
            "means": list(self.means),
            "scales": list(self.scales),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Encoder":
        """Rebuild an encoder from `state_dict`'s values.

        Args:
            state: The values.

        Returns:
            The encoder.
        """
        features = tuple(Column(*column) for column in state["features"])
        return cls(
            Selection(features, tuple(state["targets"]), state["weight"]),
            intercept=state["intercept"],
            impute=state["impute"],
            unknown=state["unknown"],
            standardise=state["standardise"],
            levels={name: tuple(levels) for name, levels in state["levels"].items()},
            shares={name: tuple(shares) for name, shares in state["shares"].items()},
            means=tuple(state["means"]),
            scales=tuple(state["scales"]),
        )

    def _shown(self, name: str) -> tuple[str, ...]:
        """Return the levels of a categorical feature that have a column."""
        return self.levels[name][1:] if self.intercept else self.levels[name]

    def _width(self) -> int:
        """Return d."""
        shown = sum(len(self._shown(name)) for name in self.selection.categorical)
        return len(self.selection.numeric) + shown + self.intercept

    def _places(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the (first) column of each numeric and of each categorical feature."""
        numeric: dict[str, int] = {}
        categorical: dict[str, int] = {}
        place = 0
        for column in self.selection.features:
            if column.kind == CATEGORICAL:
                categorical[column.name] = place
                place += len(self._shown(column.name))
            else:
                numeric[column.name] = place
                place += 1
        return numeric, categorical

    def _write_numbers(self, rows: Block, x: npt.NDArray[Any], places: dict[str, int]) -> None:
        """Write numeric features into their columns, a tile of rows at a time."""
        columns = [(place, rows.numbers(name)) for name, place in places.items()]
        step = max(16, _TILE // max(1, x.shape[1]))
        every = list(places.values())
        together = every == list(range(len(every)))
        means, scales = np.asarray(self.means), np.asarray(self.scales)
        for start in range(0, rows.rows, step):
            tile = x[start : start + step]
            with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is found below
                for place, values in columns:
                    tile[:, place] = values[start : start + step]
                numbers = tile[:, : len(every)] if together else tile[:, every]
                total = numbers.sum(dtype=np.float64)
            if not np.isfinite(total):
                self._impute(rows, tile, start, places)
                numbers = tile[:, : len(every)] if together else tile[:, every]
            if self.standardise:
                if self.intercept:
                    numbers -= means
                numbers /= scales
                if not together:
                    tile[:, every] = numbers

    def _impute(self, rows: Block, tile: npt.NDArray[Any], start: int, places: dict[str, int]) -> None:
        """Replace what is missing in a tile; raise where it must not be, or a number is infinite."""
        for number, (name, place) in enumerate(places.items()):
            column = tile[:, place]
            _check_column(rows, name, column, start=start, may_miss=self.impute == "mean")
            if self.impute == "mean":
                column[np.isnan(column)] = self.means[number]

    def _write_levels(self, rows: Block, x: npt.NDArray[Any], name: str, place: int) -> None:
        """Write the zeros and ones of a categorical feature."""
        categories, declared = rows.categories(name), self.levels[name]
        shown = self._shown(name)
        dropped = len(declared) - len(shown)
        number = {level: code for code, level in enumerate(declared)}
        # The table's last entry is that of code -1, a missing value.
        table = np.array([*(number.get(level, -2) for level in categories.levels), -1])
        codes = table[categories.codes]
        region = x[:, place : place + len(shown)]
        region[:] = 0
        if (unknown := codes == -2).any() and self.unknown == "error":
            row = int(unknown.argmax())
            level = categories.levels[int(categories.codes[row])]
            raise ValueError(f"{rows.locate(row)}, column {name!r}: unknown level {level!r}")
        if (missing := codes == -1).any():
            if self.impute == "error":
                row = int(missing.argmax())
                raise ValueError(f"{rows.locate(row)}, column {name!r}: the value is missing")
            region[missing] = self.shares[name][dropped:]
        marked = np.flatnonzero(codes >= dropped)
        region[marked, codes[marked] - dropped] = 1

    def _weights(self, rows: Block) -> Tensor | None:
        """Return the rows' weights."""
        name = self.selection.weight
        if name is None:
            return None
        weights = np.array(rows.numbers(name), dtype=np.float64)
        _check_column(rows, name, weights)
        if (weights < 0).any():
            raise ValueError(f"{rows.locate(int((weights < 0).argmax()))}, column {name!r}: negative weight")
        return torch.from_numpy(weights)


def _check_column(
    rows: Block, name: str, values: npt.NDArray[Any], *, start: int = 0, may_miss: bool = False
) -> None:
    """Raise where a value cannot be used; the sum tells at little cost that all can."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total):
        check_finite(rows, name, values, start=start, may_miss=may_miss)


def _check_length(name: str, values: tuple[float, ...], expected: int) -> None:
    """Raise where statistics are missing."""
    if len(values) != expected:
        raise ValueError(f"`{name}` has {len(values)} values; expected one for each of {expected} features")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"`{name}` must be finite")
