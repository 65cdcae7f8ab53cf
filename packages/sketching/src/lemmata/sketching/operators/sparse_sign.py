r"""Sparse sign embeddings: a few random signs a column, applied as one sparse product.

The rows of the sketch are cut into as many bands as a column has nonzeros, and each band gets one of them, so
that none meet. One nonzero is the CountSketch of streaming algorithms.

Axis letters: m rows of the sketch, r columns of S that a block of rows needs, k nonzeros a column.

References:
    J. Nelson, H. L. Nguyen, OSNAP: Faster numerical linear algebra algorithms via sparser subspace
    embeddings, 2013, arXiv:1211.1002.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.operators.counter import words
from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.sparse_rows import csr_matrix, csr_rows

__all__ = ["CountSketch", "SparseSign"]

_DRAWN = 1 << 14  # columns whose entries are drawn together


class SparseSign(SketchOperator):
    r"""A sketch with `nnz_per_col` entries $\pm 1 / \sqrt{k}$ in every column.

    The default for least squares: with $m = 4 d$ and $k = 8$ its distortion is that of a Gaussian matrix,
    about $\sqrt{d / m}$, at the cost of reading the data a few times.

    Args:
        m: Rows of the sketch; 4 d is the usual choice.
        n: Rows of the data.
        nnz_per_col: Nonzeros in each column, k.
        seed: Any integer.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Raises:
        ValueError: Where `nnz_per_col` is not in [1, m].

    Examples:
        >>> S = SparseSign(40, 1000, seed=3)
        >>> A = torch.ones(1000, 2, dtype=torch.float64)
        >>> torch.allclose(S @ A, S.partial(A[:300], 0) + S.partial(A[300:], 300))
        True
        >>> (S.to_dense() != 0).sum(0).unique()
        tensor([8])
    """

    def __init__(
        self,
        m: int,
        n: int,
        nnz_per_col: int = 8,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        super().__init__(m, n, seed=seed, dtype=dtype, device=device)
        if not 1 <= nnz_per_col <= m:
            raise ValueError(f"`nnz_per_col` (={nnz_per_col}) must lie in [1, m] with m = {m}")
        self.nnz_per_col = int(nnz_per_col)

    @property
    def kind(self) -> str:
        """`sparse_sign` with the nonzeros of a column."""
        return f"sparse_sign(nnz_per_col={self.nnz_per_col})"

    def _entries(self, offset: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the row of S, and 0 or 1 for a positive or negative sign, of each nonzero: (k, r) each."""
        index = torch.arange(offset, offset + rows, device=device)
        drawn = words(self.seed, index, self.nnz_per_col, stream=self._stream)
        # Band i has the rows [i m / k, (i + 1) m / k). The upper 31 bits choose one of them, which leaves the
        # lowest bit independent of the choice: it is the sign.
        edges = torch.arange(self.nnz_per_col + 1, device=device) * self.shape[0] // self.nnz_per_col
        bands = (edges[1:] - edges[:-1])[:, None]
        return ((drawn >> 1) * bands >> 31) + edges[:-1, None], drawn & 1

    def _columns(self, chosen: Tensor, negative: Tensor, dtype: torch.dtype) -> Tensor:
        """Return columns of S, given by their entries, as a sparse CSR tensor (m, r)."""
        rows = chosen.shape[1]
        bits = rows.bit_length() + 1
        # A key holds row, column and sign. Bands follow one another, so sorting each of them sorts all.
        keys = _sorted((chosen << bits) | (torch.arange(rows, device=chosen.device) << 1) | negative).reshape(
            -1
        )
        edges = torch.arange(self.shape[0] + 1, device=keys.device) << bits
        columns = keys >> 1 & ((1 << bits - 1) - 1)
        return csr_matrix(
            torch.searchsorted(keys, edges), columns, self._values(keys & 1, dtype), (self.shape[0], rows)
        )

    def _values(self, negative: Tensor, dtype: torch.dtype) -> Tensor:
        return (1 - 2 * negative).to(dtype).div_(math.sqrt(self.nnz_per_col))

    def _pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        """Cut rows into pieces that stay in cache while they are read k times, for one pass over S A."""
        step = max(_DRAWN // self.nnz_per_col, min(self.shape[0] // 2, _DRAWN // 2), 512)
        for start in range(0, rows, step):
            yield start, min(rows, start + step)

    def _sum_dense(self, block: Tensor, row_offset: int, dtype: torch.dtype) -> Tensor:
        out = block.new_zeros((self.shape[0], block.shape[1]), dtype=dtype)
        if not out.numel():
            return out
        for first in range(0, block.shape[0], _DRAWN):
            part = block[first : first + _DRAWN]
            chosen, negative = self._entries(row_offset + first, part.shape[0], block.device)
            for start, stop in self._pieces(part.shape[0]):
                columns = self._columns(chosen[:, start:stop], negative[:, start:stop], dtype)
                torch.addmm(out, columns, part[start:stop].to(dtype), out=out)
        return out

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        return self._sum_dense(block, row_offset, block.dtype)

    def _sum_csr(self, block: Tensor, row_offset: int, dtype: torch.dtype) -> Tensor:
        """Return S times a sparse CSR block: each of its nonzeros is added to k places of the sketch."""
        rows, columns = block.shape
        out = block.values().new_zeros(self.shape[0] * columns, dtype=dtype)
        for first in range(0, rows, _DRAWN):
            part = csr_rows(block, first, min(rows, first + _DRAWN))
            chosen, negative = self._entries(row_offset + first, part.shape[0], out.device)
            owner = torch.repeat_interleave(part.crow_indices().diff())
            signs, values = self._values(negative, dtype), part.values().to(dtype)
            for row, sign in zip(chosen * columns, signs, strict=True):
                out.scatter_add_(0, row[owner] + part.col_indices(), sign[owner] * values)
        return out.reshape(self.shape[0], columns)

    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        chosen, negative = self._entries(row_offset, rows, y.device)
        starts = torch.arange(rows + 1, device=y.device) * self.nnz_per_col
        values = self._values(negative.T.reshape(-1), y.dtype)
        return csr_matrix(starts, chosen.T.reshape(-1), values, (rows, self.shape[0])) @ y


class CountSketch(SparseSign):
    r"""A sketch with one sign in every column: the cheapest, and the least reliable on coherent data.

    It needs $m$ of the order $d^2$ for a guarantee, where `SparseSign` needs $d \log d$; `m = 8 d` does on
    incoherent data.

    Args:
        m: Rows of the sketch.
        n: Rows of the data.
        seed: Any integer.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Examples:
        >>> (CountSketch(5, 100).to_dense() != 0).sum(0).unique()
        tensor([1])
    """

    def __init__(
        self, m: int, n: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, device: Any = "cpu"
    ) -> None:
        super().__init__(m, n, 1, seed=seed, dtype=dtype, device=device)


def _sorted(keys: Tensor) -> Tensor:
    """Sort along the last axis: on the CPU by NumPy, ten times faster as it carries no permutation."""
    if keys.device.type == "cpu":
        return torch.from_numpy(np.sort(keys.numpy(), axis=-1))
    return keys.sort(-1).values
