r"""A subsampled randomised Hadamard transform of Kronecker products, which never forms the product.

$H D$ of $x \otimes y$ is $(H_1 D_1 x) \otimes (H_2 D_2 y)$ where the signs factor, $D = D_1 \otimes D_2$: a
sampled row of the transform is one entry of each factor's, multiplied.

Axis letters: m rows of the sketch, n1 and n2 lengths of the factors, p1 and p2 the next powers of two, d
columns of the data.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.operators.hadamard import fwht, hadamard_rows, hadamard_rows_t
from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.operators.srht import choose_rows, next_power_of_two, range_signs, rows_of_a_transform

__all__ = ["TensorSRHT"]

_ROWS, _LEFT, _RIGHT = 1, 2, 3  # streams of random words


class TensorSRHT(SketchOperator):
    r"""A sketch of vectors of length `n1 * n2` that takes a Kronecker product by its two factors.

    Row $r$ is $\sqrt{p_1 p_2 / m}$ times row $i_r$ of $H_1 D_1$ Kronecker row $j_r$ of $H_2 D_2$; the pairs
    $(i_r, j_r)$ are sampled without replacement, and beyond $m = p_1 p_2$ as in `SRHT`. Element
    `i * n2 + j` of a sketched vector belongs to the pair `(i, j)`, as in `torch.kron`.

    It has fewer random signs than `SRHT`, and needs a few more rows for the same distortion.

    Args:
        m: Rows of the sketch.
        n1: Length of the left factor.
        n2: Length of the right factor.
        seed: Any integer.
        dtype: What the sketch computes in, at least.
        device: Where `to_dense` makes the entries.

    Raises:
        ValueError: Where `m`, `n1` or `n2` is not positive.

    Examples:
        >>> S = TensorSRHT(50, 30, 20, seed=1)
        >>> x, y = torch.arange(30.0), torch.ones(20)
        >>> torch.allclose(S.apply_kron(x, y), S @ torch.kron(x, y), rtol=1e-4, atol=1e-3)
        True

    References:
        T. D. Ahle et al., Oblivious sketching of high-degree polynomial kernels, 2020, arXiv:1909.01410.
    """

    def __init__(
        self,
        m: int,
        n1: int,
        n2: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        for name, value in (("n1", n1), ("n2", n2)):
            if value <= 0:
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        super().__init__(m, n1 * n2, seed=seed, dtype=dtype, device=device)
        self.n1, self.n2 = int(n1), int(n2)
        self._p1, self._p2 = next_power_of_two(n1), next_power_of_two(n2)
        # The Kronecker product of two Hadamard matrices is one: a pair of rows is a row of that.
        self.rows = choose_rows(self.seed, m, self._p1 * self._p2, stream=_ROWS)

    @property
    def kind(self) -> str:
        """`tensor_srht` with the lengths of the factors."""
        return f"tensor_srht(n1={self.n1}, n2={self.n2})"

    def apply_kron(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Return the sketch of $x \otimes y$ in $O(n_1 \log n_1 + n_2 \log n_2 + m)$.

        Further axes are batches and broadcast: equal ones give the products of columns (Khatri-Rao), and
        `x[:, :, None]` with `y[:, None, :]` all pairs of columns. Gradients flow to both factors.

        Args:
            x: Left factors, (n1, ...).
            y: Right factors, (n2, ...).

        Returns:
            (m, ...), in the wider of the two dtypes.

        Raises:
            ValueError: Where the lengths are not n1 and n2.
            TypeError: Where `x` or `y` is not real floating point.
        """
        for name, factor, n in (("x", x, self.n1), ("y", y, self.n2)):
            if not factor.is_floating_point():
                raise TypeError(f"`{name}` (of {factor.dtype}) must be a real floating type")
            if factor.ndim == 0 or factor.shape[0] != n:
                raise ValueError(f"`{name}` (of shape {tuple(factor.shape)}) must have {n} rows")
        given = torch.promote_types(x.dtype, y.dtype)
        dtype = torch.promote_types(given, self.dtype)
        rows = self.rows.to(x.device)
        left = self._transform(x.to(dtype), _LEFT, self._p1, rows // self._p2)
        right = self._transform(y.to(dtype), _RIGHT, self._p2, rows % self._p2)
        return (left * right / math.sqrt(self.shape[0])).to(given)

    def _transform(self, x: Tensor, stream: int, p: int, chosen: Tensor) -> Tensor:
        """Return chosen rows of the transform of one factor."""
        flat = x.reshape(len(x), -1)
        signed = flat * range_signs(self.seed, 0, len(x), stream, x)[:, None]
        padded = torch.nn.functional.pad(signed, (0, 0, 0, p - len(x)))
        return fwht(padded, normalize=False).index_select(0, chosen).reshape(len(chosen), *x.shape[1:])

    def _rows_at_once(self, columns: int) -> int:
        rows = rows_of_a_transform(self.shape[0], columns)
        return rows // self._p2 * self.n2 if rows >= self._p2 else rows

    def _partial(self, block: Tensor, row_offset: int) -> Tensor:
        rows = self.rows.to(block.device)
        signed = block * self._signs(row_offset, block.shape[0], block)
        out = block.new_zeros(self.shape[0], block.shape[1])
        for start, stop, offset in self._runs(row_offset, block.shape[0]):
            out += hadamard_rows(self._pad(signed[start:stop]), offset, rows)
        return out / math.sqrt(self.shape[0])

    def _partial_t(self, y: Tensor, row_offset: int, rows: int) -> Tensor:
        chosen, parts = self.rows.to(y.device), [y.new_zeros(0, y.shape[1])]
        for start, stop, offset in self._runs(row_offset, rows):
            wide = self._padded(stop - start)
            parts.append(self._cut(hadamard_rows_t(y, offset, wide, chosen), stop - start))
        return torch.cat(parts) * self._signs(row_offset, rows, y) / math.sqrt(self.shape[0])

    def _runs(self, offset: int, rows: int) -> list[tuple[int, int, int]]:
        """Cut a range into its ragged ends and the whole rows of pairs between them.

        Returns for each the part of the range, and where it begins among the p1 * p2 padded pairs.
        """
        last = offset + rows
        head, tail = min(-(-offset // self.n2) * self.n2, last), max(last // self.n2 * self.n2, offset)
        if tail < head:  # all within one row of pairs
            head = tail = last
        edges = (offset, head, tail, last)
        return [
            (start - offset, stop - offset, start // self.n2 * self._p2 + start % self.n2)
            for start, stop in itertools.pairwise(edges)
            if start < stop
        ]

    def _padded(self, rows: int) -> int:
        """Return how many padded pairs a run takes."""
        return rows if rows < self.n2 else rows // self.n2 * self._p2

    def _pad(self, run: Tensor) -> Tensor:
        if run.shape[0] < self.n2 or self.n2 == self._p2:
            return run
        pairs = run.reshape(-1, self.n2, run.shape[1])
        return torch.nn.functional.pad(pairs, (0, 0, 0, self._p2 - self.n2)).reshape(-1, run.shape[1])

    def _cut(self, run: Tensor, rows: int) -> Tensor:
        if rows < self.n2 or self.n2 == self._p2:
            return run
        return run.reshape(-1, self._p2, run.shape[1])[:, : self.n2].reshape(rows, run.shape[1])

    def _signs(self, offset: int, rows: int, like: Tensor) -> Tensor:
        """Return the products of the signs of both factors for a range of pairs, as a column."""
        first, last = offset // self.n2, -(-(offset + rows) // self.n2)
        left = range_signs(self.seed, first, last - first, _LEFT, like)
        start = offset - first * self.n2
        if last - first == 1:
            return left[:, None] * range_signs(self.seed, start, rows, _RIGHT, like)[:, None]
        right = range_signs(self.seed, 0, self.n2, _RIGHT, like)
        return (left[:, None] * right).reshape(-1)[start : start + rows, None]
