r"""A coreset of rows that come by once: merge and reduce, with the weights carried.

Rows are collected in leaves of `2 size` rows, and every leaf is reduced to `size` weighted rows; two reduced
buckets of one level are joined and reduced to a bucket of the next. So there are never more than
$\log_2(n / \text{size})$ buckets of `size` rows.

A reduction scores rows by the Lewis weights of the bucket, in which row i counts $v_i$ times, and keeps
`size` of them by priority. It uses one uniform number $u_i$ a row, all the way up: a row of weight
$v_i = 1/q_i$ is there because $u_i < q_i$, so $u_i v_i$ is again uniform. With $w_i$ the Lewis weight of one
of its $v_i$ copies, its weight becomes $\max(v_i, 1 / (w_i t))$: what one sampling by $w_i$ would have given.
Errors of the levels therefore do not pile up as those of independent samples do.

References:
    M. B. Cohen, R. Peng, L_p row sampling by Lewis weights, 2015, arXiv:1412.0588.
    N. Duffield, C. Lund, M. Thorup, Priority sampling for estimation of arbitrary subset sums, 2007.

Axis letters: n rows of a block, d columns, s rows of a bucket.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.sketching.lp.leverage import check_matrix
from lemmata.sketching.lp.lewis import check_exponent, lewis_fixed_point
from lemmata.sketching.lp.sampling import Coreset
from lemmata.sketching.operators import counter
from lemmata.sketching.stream import RowBlocks

__all__ = ["StreamingCoreset"]

_TOLERANCE = 1e-2  # of Lewis weights that are only sampled by
_ROUNDS = 100
_UNIFORM = 0.05  # part of the mass of scores that is spread evenly


@dataclass(frozen=True, eq=False)
class Bucket:
    """Weighted rows.

    Args:
        indices: Which rows.
        weights: How often each counts, float64.
        rows: The rows.
    """

    indices: Int[Tensor, " s"]
    weights: Float[Tensor, " s"]
    rows: Float[Tensor, "s d"]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.indices.numel()

    def __getitem__(self, which: slice | Tensor) -> "Bucket":
        """Return some of the rows."""
        return Bucket(self.indices[which], self.weights[which], self.rows[which])


class StreamingCoreset:
    r"""A coreset for $\sum_i |a_i x|^p$ in one pass and bounded memory.

    For regression the rows are those of [A b]. Memory is at most $(2 + \log_2(n / \text{size}))$ times `size`
    rows. Rows that come one after the other are cut into leaves by their position, so blocks of any size give
    the same coreset. `merge` joins the coresets of two parts of the data.

    Args:
        p: Exponent in [1, inf).
        size: Rows of the coreset; more than the d columns.
        seed: Any integer; the same for parts that are merged.

    Raises:
        ValueError: Where p or `size` is not as said.

    Examples:
        >>> rows = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        >>> stream = StreamingCoreset(p=1.0, size=100)
        >>> for start in range(0, 1000, 300):
        ...     stream.partial_fit(rows[start : start + 300])
        >>> coreset = stream.coreset()
        >>> len(coreset), bool((rows[coreset.indices] == coreset.rows).all())
        (100, True)

    References:
        Cohen and Peng 2015; Duffield, Lund and Thorup 2007.
    """

    def __init__(self, p: float, size: int, *, seed: int = 0) -> None:
        check_exponent(p)
        if size < 2:
            raise ValueError(f"`size` (={size}) must be at least 2")
        self.p = float(p)
        self.size = int(size)
        self.seed = int(seed)
        self.rows_seen = 0
        self._leaf: list[Bucket] = []
        self._levels: dict[int, Bucket] = {}

    def fit(self, blocks: RowBlocks) -> "StreamingCoreset":
        """Read all blocks, once, and return this."""
        for offset, block in blocks:
            self.partial_fit(block, offset)
        return self

    def partial_fit(self, block: Tensor, row_offset: int | None = None) -> None:
        """Take in a block of rows, dense or sparse CSR, shape (n, d).

        Args:
            block: The rows; no row may come twice, which is not checked.
            row_offset: Index of the first; by default the rows follow on those seen so far.

        Raises:
            ValueError: Where the block is not a matrix, is not finite, has another number of columns than
                those before, or d is not below `size`.
            TypeError: Where the block is not of a real floating type.
        """
        if block.ndim == 2 and block.shape[0] == 0 and block.shape[1] > 0:
            return
        check_matrix(block)
        n, d = block.shape
        self._check_columns(d)
        first = self.rows_seen if row_offset is None else row_offset
        dense = (block.to_dense() if block.layout == torch.sparse_csr else block).detach()
        local = (dense != 0).any(1).nonzero()[:, 0]  # all-zero rows cost nothing
        ones = torch.ones(len(local), dtype=torch.float64, device=dense.device)
        self.rows_seen += n
        self._take(Bucket(local + first, ones, dense[local]))

    def _check_columns(self, d: int) -> None:
        """Raise where rows of d columns do not fit."""
        if d >= self.size:
            raise ValueError(f"`size` (={self.size}) must exceed the {d} columns of the rows")
        for bucket in self._held()[:1]:
            if bucket.rows.shape[1] != d:
                raise ValueError(f"rows have {d} columns, those before had {bucket.rows.shape[1]}")

    def _take(self, fresh: Bucket) -> None:
        """Fill leaves with rows of weight 1, and send full ones up."""
        capacity = 2 * self.size
        while len(fresh):
            room = capacity - sum(len(piece) for piece in self._leaf)
            piece, fresh = fresh[:room], fresh[room:]
            self._leaf.append(piece)
            if len(piece) == room:
                full, self._leaf = _join(self._leaf), []
                self._carry(self._reduce(full), 0)

    def _carry(self, bucket: Bucket, level: int) -> None:
        """Put a bucket on its level, joining it with the one that is there as a binary counter carries."""
        while level in self._levels:
            bucket = self._reduce(_join([self._levels.pop(level), bucket]))
            level += 1
        self._levels[level] = bucket

    def _reduce(self, bucket: Bucket) -> Bucket:
        """Keep at most `size` rows of a bucket, by priority sampling with Lewis weights as scores."""
        if len(bucket) <= self.size:
            return bucket
        weights = bucket.weights
        lewis = lewis_fixed_point(bucket.rows, self.p, weights, _TOLERANCE, _ROUNDS).weights
        evenly = weights / weights.sum()
        scores = (1 - _UNIFORM) * lewis / lewis.sum() + _UNIFORM * evenly
        # What is left of the row's one uniform number, given that it has been kept so far.
        uniforms = counter.uniforms(self.seed, bucket.indices)[0] * weights
        priorities = uniforms / scores
        by_index = torch.argsort(bucket.indices)
        order = by_index[torch.argsort(priorities[by_index], stable=True)]
        kept = order[: self.size].sort().values
        q = (scores[kept] * priorities[order[self.size]]).clamp(max=1)
        return Bucket(bucket.indices[kept], weights[kept] / q, bucket.rows[kept])

    def merge(self, other: "StreamingCoreset") -> "StreamingCoreset":
        """Return the coreset of the rows of both; neither is changed.

        Raises:
            ValueError: Where p, sizes, seeds or columns differ, or a row is in both.
        """
        for name in ("p", "size", "seed"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                raise ValueError(f"cannot merge coresets with different {name}: {mine} and {others}")
        merged = StreamingCoreset.from_state_dict(self.state_dict())
        held = other._held()
        if not held:
            return merged
        merged._check_columns(held[0].rows.shape[1])
        _check_disjoint(torch.cat([bucket.indices for bucket in (*self._held(), *held)]))
        merged.rows_seen += other.rows_seen
        for level, bucket in sorted(other._levels.items()):
            merged._carry(bucket, level)
        for piece in other._leaf:
            merged._take(piece)
        return merged

    def _held(self) -> list[Bucket]:
        """Return all buckets."""
        return [*self._levels.values(), *self._leaf]

    @property
    def rows_held(self) -> int:
        """How many rows are in memory."""
        return sum(len(bucket) for bucket in self._held())

    def coreset(self) -> Coreset:
        """Return the coreset of the rows seen so far, by ascending index, with the rows; more may follow.

        Raises:
            ValueError: Where there were no rows.
        """
        held = self._held()
        if not held:
            raise ValueError("no rows have come: call `partial_fit` first")
        reduced = self._reduce(_join(held))
        reduced = reduced[torch.argsort(reduced.indices)]
        return Coreset(reduced.indices, reduced.weights, 1 / reduced.weights, reduced.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which `torch.load` reads with `weights_only=True`."""
        recipe = {name: getattr(self, name) for name in ("p", "size", "seed", "rows_seen")}
        levels = {level: _pack(bucket) for level, bucket in self._levels.items()}
        return recipe | {"leaf": [_pack(piece) for piece in self._leaf], "levels": levels}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "StreamingCoreset":
        """Return the coreset that `state_dict` described."""
        coreset = cls(state["p"], state["size"], seed=state["seed"])
        coreset.rows_seen = state["rows_seen"]
        coreset._leaf = [Bucket(*piece) for piece in state["leaf"]]
        coreset._levels = {level: Bucket(*bucket) for level, bucket in state["levels"].items()}
        return coreset


def _join(buckets: list[Bucket]) -> Bucket:
    """Return the rows of all buckets."""
    if len(buckets) == 1:
        return buckets[0]
    indices, weights, rows = (torch.cat(parts) for parts in zip(*map(_pack, buckets), strict=True))
    return Bucket(indices, weights, rows)


def _pack(bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
    """Return a bucket's tensors."""
    return bucket.indices, bucket.weights, bucket.rows


def _check_disjoint(indices: Tensor) -> None:
    """Raise where a row is there twice."""
    distinct, counts = torch.unique(indices, return_counts=True)
    if len(distinct) < len(indices):
        raise ValueError(f"cannot merge coresets that both hold row {int(distinct[counts > 1][0])}")
