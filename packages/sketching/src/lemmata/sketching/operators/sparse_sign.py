r"""Sparse sign embeddings: a few random signs a column, applied as one sparse product.

The rows of the sketch are cut into as many bands as a column has nonzeros, and each band gets one of them, so
that none meet. One nonzero is the CountSketch of streaming algorithms.

Axis letters: m rows of the sketch, r columns of S that a block of rows needs, k nonzeros a column.

References:
    J. Nelson, H. L. Nguyen, OSNAP: Faster numerical linear algebra algorithms via sparser subspace
    embeddings, 2013, arXiv:1211.1002.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.operators.counter import words
from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.sparse_rows import csr_matrix

__all__ = ["CountSketch", "SparseSign"]


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
        drawn = words(self.seed, index, self.nnz_per_col)
        # Band i has the rows [i m / k, (i + 1) m / k): the upper 31 bits choose one, the lowest is the sign.
        edges = torch.arange(self.nnz_per_col + 1, device=device) * self.shape[0] // self.nnz_per_col
        bands = (edges[1:] - edges[:-1])[:, None]
        return ((drawn >> 1) * bands >> 31) + edges[:-1, None], drawn & 1

    def _values(self, negative: Tensor, dtype: torch.dtype) -> Tensor:
        return (1 - 2 * negative).to(dtype) / math.sqrt(self.nnz_per_col)

    def _columns(self, offset: int, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return r columns of S as a sparse CSR tensor (m, r)."""
        chosen, negative = self._entries(offset, rows, device)
        # A row of S lies in one band, so sorting each band by (row, column) sorts all.
        keys = ((chosen * rows + torch.arange(rows, device=device)) * 2 + negative).sort(1).values.reshape(-1)
        edges = torch.arange(self.shape[0] + 1, device=device) * (2 * rows)
        starts = torch.searchsorted(keys, edges)
        return csr_matrix(starts, (keys >> 1) % rows, self._values(keys & 1, dtype), (self.shape[0], rows))

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        return self._columns(row_offset, block.shape[0], block.dtype, block.device) @ block

    def _partial_csr(self, block: Tensor, row_offset: int) -> Tensor:
        columns = self._columns(row_offset, block.shape[0], block.dtype, block.device)
        return (columns @ block).to_dense()

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
