r"""Subsampled randomised Hadamard transforms: as sharp as a Gaussian sketch, in $O(n \log m)$ a column.

Random signs and a Walsh-Hadamard transform spread every row of the data evenly over all rows, so that a
uniform sample of them keeps the geometry. Every entry of these matrices is $\pm 1 / \sqrt m$.

Axis letters: m rows of the sketch, n rows of the data, d columns of the data, p the next power of two.

References:
    J. A. Tropp, Improved analysis of the subsampled randomized Hadamard transform, 2011, arXiv:1011.1595.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.sketching.operators.counter import words
from lemmata.sketching.operators.hadamard import hadamard_rows, hadamard_rows_t
from lemmata.sketching.operators.operator import SketchOperator

__all__ = ["SRHT", "BlockSRHT", "choose_rows", "range_signs"]

_ROWS, _COLUMNS, _BLOCKS = 1, 2, 3  # streams of random words


class SRHT(SketchOperator):
    r"""The sketch $S = \sqrt{p / m}\, R H D$: random signs, a Hadamard transform, a sample of its rows.

    $D$ has a random sign for each row of the data, $H$ is the orthonormal Walsh-Hadamard matrix of order $p$,
    the next power of two, and $R$ picks rows uniformly without replacement. Beyond $m = p$ all rows are taken
    as often as they fit, and the rest is sampled; $E[S^\top S] = I$ holds for every `m`.

    It streams: a block of rows costs a transform of about its own length, wherever it begins, and a gather.

    Args:
        m: Rows of the sketch; 4 d is the usual choice.
        n: Rows of the data.
        seed: Any integer.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Examples:
        >>> S = SRHT(40, 1000, seed=3)
        >>> A = torch.ones(1000, 2, dtype=torch.float64)
        >>> torch.allclose(S @ A, S.partial(A[:300], 0) + S.partial(A[300:], 300))
        True
        >>> (S.to_dense().abs() * 40**0.5).unique().round()
        tensor([1.], dtype=torch.float64)
    """

    def __init__(
        self, m: int, n: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, device: Any = "cpu"
    ) -> None:
        super().__init__(m, n, seed=seed, dtype=dtype, device=device)
        self.rows = choose_rows(self.seed, m, next_power_of_two(n))

    @property
    def kind(self) -> str:
        """`srht`."""
        return "srht"

    def _rows_at_once(self, columns: int) -> int:
        return rows_of_a_transform(self.shape[0], columns)

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        signed = block * self._signs(row_offset, block.shape[0], block)
        return hadamard_rows(signed, row_offset, self.rows.to(block.device)) / math.sqrt(self.shape[0])

    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        out = hadamard_rows_t(y / math.sqrt(self.shape[0]), row_offset, rows, self.rows.to(y.device))
        return out * self._signs(row_offset, rows, y)

    def _signs(self, offset: int, rows: int, like: Tensor) -> Tensor:
        return range_signs(self.seed, offset, rows, _COLUMNS, like)[:, None]


class BlockSRHT(SketchOperator):
    r"""A sketch of `block_rows` rows at a time, $S = [S_1\ S_2 \dots]$, where workers hold whole blocks.

    Each block has $S_b = \sqrt{p_b / m}\, E_b R H D_b$ with random signs $D_b$ and $E_b$ of its own, the
    Hadamard matrix of order $p_b$ = `block_rows`, and a sample $R$ that all blocks share; the last block is
    padded with zeros. Unlike those of `SRHT`, its blocks are independent sketches of their rows.

    Args:
        m: Rows of the sketch; 4 d is the usual choice.
        n: Rows of the data.
        block_rows: Rows of a block, a power of two; several times `m` is the usual choice.
        seed: Any integer.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Raises:
        ValueError: Where `block_rows` is not a power of two.

    Examples:
        >>> S = BlockSRHT(40, 1000, 256, seed=3)
        >>> A = torch.ones(1000, 2, dtype=torch.float64)
        >>> torch.allclose(S @ A, S.partial(A[:300], 0) + S.partial(A[300:], 300))
        True
    """

    def __init__(
        self,
        m: int,
        n: int,
        block_rows: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        super().__init__(m, n, seed=seed, dtype=dtype, device=device)
        if block_rows < 1 or block_rows & (block_rows - 1):
            raise ValueError(f"`block_rows` (={block_rows}) must be a power of two")
        self.block_rows = int(block_rows)
        self.rows = choose_rows(self.seed, m, self.block_rows)

    @property
    def kind(self) -> str:
        """`block_srht` with the rows of a block."""
        return f"block_srht(block_rows={self.block_rows})"

    def _rows_at_once(self, columns: int) -> int:
        # A power of two like `block_rows`: whole blocks, or parts of one that are transforms themselves.
        return rows_of_a_transform(self.shape[0], columns)

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        rows = self.rows.to(block.device)
        signed = block * range_signs(self.seed, row_offset, block.shape[0], _COLUMNS, block)[:, None]
        out = block.new_zeros(self.shape[0], block.shape[1])
        for index, start, stop in self._blocks(row_offset, block.shape[0]):
            part = signed[start:stop]
            inside = row_offset + start - index * self.block_rows
            out += self._row_signs(index, block) * hadamard_rows(part, inside, rows)
        return out

    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        chosen, parts = self.rows.to(y.device), [y.new_zeros(0, y.shape[1])]
        for index, start, stop in self._blocks(row_offset, rows):
            inside = row_offset + start - index * self.block_rows
            parts.append(hadamard_rows_t(self._row_signs(index, y) * y, inside, stop - start, chosen))
        return torch.cat(parts) * range_signs(self.seed, row_offset, rows, _COLUMNS, y)[:, None]

    def _blocks(self, offset: int, rows: int) -> list[tuple[int, int, int]]:
        """Return which blocks a range of rows meets, and the part of the range in each."""
        first, last = offset // self.block_rows, -(-(offset + rows) // self.block_rows)
        edges = [min(max(i * self.block_rows - offset, 0), rows) for i in range(first, last + 1)]
        return [(first + i, edges[i], edges[i + 1]) for i in range(last - first)]

    def _row_signs(self, index: int, like: Tensor) -> Tensor:
        """Return the diagonal of $E_b$, scaled, as a column."""
        m = self.shape[0]
        return range_signs(self.seed, index * m, m, _BLOCKS, like)[:, None] / math.sqrt(m)


def choose_rows(seed: int, count: int, p: int, *, stream: int = _ROWS) -> Int[Tensor, " count"]:
    """Return `count` of `p` rows, sorted, sampled without replacement as a function of the seed alone.

    Up to half of the rows are the first distinct ones of a sequence of independent uniform draws, which takes
    memory for `count` numbers, not `p`; more than half are the start of a random permutation. Beyond `p`, all
    rows are taken as often as they fit and the rest is sampled.

    Args:
        seed: Any integer.
        count: Rows to choose.
        p: Rows there are, a power of two up to $2^{62}$.
        stream: Which of the families of random words.

    Examples:
        >>> choose_rows(0, 9, 4).bincount()
        tensor([2, 2, 2, 3])
        >>> choose_rows(1, 100000, 2**40).unique().numel()
        100000
    """
    rounds, rest = divmod(count, p)
    chosen = torch.arange(p if rounds else 0).repeat(rounds)
    if 2 * rest > p:
        chosen = torch.cat((chosen, _draws(seed, p, 1 << 62, stream).argsort(stable=True)[:rest]))
    elif rest:
        chosen = torch.cat((chosen, _first_distinct(seed, rest, p, stream)))
    return chosen.sort().values


def _first_distinct(seed: int, count: int, p: int, stream: int) -> Tensor:
    """Return the first distinct numbers of a sequence; how many were looked at makes no difference."""
    drawn = 2 * count + 64
    while True:
        values, position = _draws(seed, drawn, p, stream).sort(stable=True)
        fresh = torch.ones_like(values, dtype=torch.bool)
        fresh[1:] = values[1:] != values[:-1]
        if int(fresh.sum()) >= count:
            return values[fresh][position[fresh].argsort()[:count]]
        drawn *= 2


def _draws(seed: int, count: int, p: int, stream: int) -> Tensor:
    """Return independent numbers, uniform below a power of two."""
    high, low = words(seed, torch.arange(count), 2, stream=stream)
    drawn: Tensor = (high << 32 | low) & (p - 1)
    return drawn


def range_signs(seed: int, offset: int, count: int, stream: int, like: Tensor) -> Float[Tensor, " count"]:
    """Return the random signs of consecutive indices, 128 of them from one counter.

    Args:
        seed: Any integer.
        offset: The first index.
        count: Signs wanted.
        stream: Which of the families of random words.
        like: A tensor of the dtype and device of the signs.

    Examples:
        >>> late, early = range_signs(5, 900, 50, 2, torch.ones(1)), range_signs(5, 0, 1000, 2, torch.ones(1))
        >>> bool((late == early[900:950]).all())
        True
    """
    first, last = offset >> 7, -(-(offset + count) >> 7)
    drawn = words(seed, torch.arange(first, last, device=like.device), 4, stream=stream).T.reshape(-1, 1)
    bits = (drawn >> torch.arange(32, device=like.device) & 1).reshape(-1)[offset - 128 * first :][:count]
    return (1 - 2 * bits).to(like.dtype)


def rows_of_a_transform(m: int, columns: int) -> int:
    """Return how many rows to transform together: gathering m of them should cost little beside it."""
    return max(1 << 12, next_power_of_two(4 * m), 1 << ((1 << 18) // max(columns, 1)).bit_length() - 1)


def next_power_of_two(n: int) -> int:
    """Return the least power of two that is not below `n`.

    Examples:
        >>> [next_power_of_two(n) for n in (1, 2, 3, 1000)]
        [1, 2, 4, 1024]
    """
    return 1 << (n - 1).bit_length()
