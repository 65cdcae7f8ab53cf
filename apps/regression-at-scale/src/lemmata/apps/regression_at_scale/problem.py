r"""Regression problems with a known answer, whose rows are a function of the seed and their number.

Features are $x_i = V \operatorname{diag}(s) z_i$ with standard normal $z_i$, an orthogonal $V$ and singular
values $s$ spaced evenly in their logarithm from 1 to 1/condition; targets are
$y_i = x_i^\top \beta + \beta_0 + \text{noise}$.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Problem", "level_name"]

# Rows and numbers drawn from one stream of random numbers; changing them changes every generated table.
_BLOCK = 65536
_NUMBERS = 1 << 22
_OUTLIER = 100.0  # size of a gross error, in standard deviations of the signal
_HEAVY = 100.0  # factor of a heavy row

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """A generated regression problem; every block of its rows can be made on its own.

    Args:
        rows: Number of rows.
        columns: Number of numeric features.
        condition: Ratio of the largest to the smallest singular value.
        noise: Deviation of the noise, in deviations of the signal.
        outliers: Share of the rows with a gross error.
        heavy_rows: Rows whose features are a hundred times as large.
        dtype: `"float32"` or `"float64"`.
        categorical: Columns of text.
        seed: Its seed.

    Raises:
        ValueError: Where an argument is out of range.
    """

    rows: int
    columns: int
    condition: float = 1e4
    noise: float = 0.1
    outliers: float = 0.0
    heavy_rows: int = 0
    dtype: str = "float32"
    categorical: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("columns", 1), ("heavy_rows", 0), ("categorical", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least {least}")
        if not (math.isfinite(self.condition) and self.condition >= 1):
            raise ValueError(f"`condition` (={self.condition}) must lie in [1, inf)")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"`noise` (={self.noise}) must lie in [0, inf)")
        if not 0 <= self.outliers < 1:
            raise ValueError(f"`outliers` (={self.outliers}) must lie in [0, 1)")
        if self.heavy_rows > self.rows:
            raise ValueError(f"`heavy_rows` (={self.heavy_rows}) must be at most `rows` (={self.rows})")
        if self.dtype not in {"float32", "float64"}:
            raise ValueError(f"`dtype` (={self.dtype!r}) must be float32 or float64")

    @property
    def block_rows(self) -> int:
        """Rows that are made at once."""
        return max(1, min(_BLOCK, _NUMBERS // self.columns))

    @cached_property
    def singular_values(self) -> Floats:
        """Singular values of the features' covariance root, from 1 to 1/condition."""
        return np.logspace(0, -math.log10(self.condition), self.columns)

    @cached_property
    def basis(self) -> Floats:
        """The orthogonal matrix V."""
        return np.linalg.qr(self._random(0).standard_normal((self.columns, self.columns)))[0]

    @cached_property
    def coefficients(self) -> Floats:
        """Coefficients of the numeric features."""
        return self._random(1).standard_normal(self.columns)

    @cached_property
    def effects(self) -> tuple[Floats, ...]:
        """What each level of each column of text adds to the target; 0 for the first."""
        random = self._random(2)
        return tuple(
            np.concatenate(([0.0], random.standard_normal(2 + number % 4)))
            for number in range(self.categorical)
        )

    @property
    def signal(self) -> float:
        """Standard deviation of the numeric features' part of the target, heavy rows aside."""
        return float(np.linalg.norm(self.singular_values * (self.basis.T @ self.coefficients)))

    def block(self, number: int) -> tuple[Floats, Floats, list[Floats]]:
        """Draw one block of rows.

        Args:
            number: Which block.

        Returns:
            Features (columns, rows), targets (rows,), and the levels' codes of each column of text (rows,).
        """
        size = self.block_rows
        first = number * size
        count = min(size, self.rows - first)
        random = self._random(3, number)
        mix = (self.basis * self.singular_values).astype(self.dtype)
        # Drawn in full, so that row i is the same in a longer table.
        z = random.standard_normal((size, self.columns), dtype=np.dtype(self.dtype).type)[:count]
        x = mix @ z.T
        errors = random.standard_normal(size)[:count] * (self.noise * self.signal)
        gross = random.random(size)[:count] < self.outliers
        sizes = random.standard_normal(size)[:count]
        errors[gross] += _OUTLIER * self.signal * sizes[gross]
        codes = [random.integers(len(effects), size=size)[:count] for effects in self.effects]
        heavy = self._heavy(first, first + count)
        x[:, heavy] *= _HEAVY
        y = self.coefficients @ x.astype(np.float64) + 1.0 + errors
        for effects, code in zip(self.effects, codes, strict=True):
            y += effects[code]
        return x, y.astype(self.dtype), codes

    def between(self, first: int, last: int) -> Iterator[tuple[Floats, Floats, list[Floats]]]:
        """Draw rows `first` to `last`, block by block."""
        size = self.block_rows
        for number in range(first // size, -(-last // size)):
            x, y, codes = self.block(number)
            rows = slice(max(first - number * size, 0), last - number * size)
            yield x[:, rows], y[rows], [code[rows] for code in codes]

    def truth(self, format: str) -> dict[str, Any]:  # noqa: A002 (as in `generate`)
        """Return what a fit should find, under the names that the columns have in a format."""
        names = [f"{'c' if format == 'npy' else 'x'}{j}" for j in range(self.columns)]
        levels = {
            f"k{number}={level_name(code)}": float(effect)
            for number, effects in enumerate(self.effects)
            for code, effect in enumerate(effects)
            if code
        }
        return {
            **asdict(self),
            "target": f"c{self.columns}" if format == "npy" else "y",
            "coefficients": dict(zip(names, self.coefficients.tolist(), strict=True)) | levels,
            "intercept": 1.0,
            "signal_deviation": self.signal,
            "noise_deviation": self.noise * self.signal,
        }

    def _random(self, *place: int) -> np.random.Generator:
        """Return the stream of random numbers of a place in the problem."""
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.seed, spawn_key=place)))

    def _heavy(self, first: int, last: int) -> Floats:
        """Return the heavy rows between two rows, counted from the first."""
        if not self.heavy_rows:
            return np.empty(0, dtype=np.int64)
        begin, end = (-(-row * self.heavy_rows // self.rows) for row in (first, last))
        return np.arange(begin, end) * self.rows // self.heavy_rows - first


def level_name(code: int) -> str:
    """Return the name of a level."""
    return f"level{code}"
