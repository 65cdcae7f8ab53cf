r"""Low rank by the matrix's own columns and rows: interpolative and CUR decompositions.

Where factors must stay readable, sparse or non-negative: the skeleton columns of A are columns of A, and
every other column is a combination of them with small coefficients. They are picked by column-pivoted QR of
a random sketch of the rows.

Axis letters: n rows, d columns, r rank, l rows of the sketch.

References:
    H. Cheng, Z. Gimbutas, P.-G. Martinsson, V. Rokhlin, On the compression of low rank matrices, 2005.
    S. Voronin, P.-G. Martinsson, Efficient algorithms for CUR and interpolative matrix decompositions, 2017,
    arXiv:1412.8447.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.sketching.lowrank.products import MatrixProducts, as_products, gaussian

__all__ = ["CURResult", "ColumnID", "column_id", "cur"]

_PROBES = 10


@dataclass(frozen=True)
class ColumnID:
    r"""$A \approx A_{:, J} T$; unpacks into `indices` and `interp`.

    Args:
        indices: The columns J, in the order they were picked, (r,).
        interp: T (r, d), the identity in the columns J.
        error: Frobenius norm of the difference, estimated with ten random vectors.
        passes: Reads of A.
    """

    indices: Tensor
    interp: Tensor
    error: float
    passes: int

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.indices, self.interp))


@dataclass(frozen=True)
class CURResult:
    r"""$A \approx C U R$ with columns and rows of A; unpacks into `C`, `U` and `R`.

    Args:
        C: Columns of A (n, r).
        U: $C^+ A R^+$, the best link between them, (r, r).
        R: Rows of A (r, d).
        columns: Which columns, (r,).
        rows: Which rows, (r,).
        error: Frobenius norm of the difference, estimated with ten random vectors.
        passes: Reads of A.
    """

    C: Tensor
    U: Tensor
    R: Tensor
    columns: Tensor
    rows: Tensor
    error: float
    passes: int

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.C, self.U, self.R))


def column_id(
    A: Any,
    rank: int,
    *,
    oversample: int = 10,
    power_iters: int = 1,
    generator: torch.Generator | None = None,
) -> ColumnID:
    r"""Express all columns of a matrix through a few of them.

    Equals `scipy.linalg.interpolative.interp_decomp` with a given rank, for every form of matrix.

    Args:
        A: (n, d), in any form that `randomized_svd` takes, without batches.
        rank: Columns to pick, r.
        oversample: Further rows of the sketch.
        power_iters: Rounds of subspace iteration on the sketch: they matter where the spectrum falls slowly.
        generator: Draws.

    Raises:
        ValueError: Where a number is out of its range, or A is not finite.
        TypeError: Where A is not of a real floating type.

    Examples:
        >>> A = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 20, dtype=torch.float64)
        >>> indices, interp = column_id(A, 3)
        >>> torch.allclose(A[:, indices] @ interp, A)
        True
    """
    a = as_products(A)
    indices, interp = _pick_columns(a, rank, oversample, power_iters, generator)
    probe = gaussian((a.shape[1], _PROBES), a.device, generator)
    # A_J (T g) is A times the vector with T g in the places J: one product serves both terms.
    error = _frobenius(a.times(probe - _spread(indices, interp @ probe, a.shape[1])))
    return ColumnID(indices, interp.to(a.dtype), error, a.passes)


def cur(
    A: Any,
    rank: int,
    *,
    oversample: int = 10,
    power_iters: int = 1,
    generator: torch.Generator | None = None,
) -> CURResult:
    r"""Factorise a matrix through a few of its columns and rows.

    Args:
        A: (n, d), in any form that `randomized_svd` takes, without batches.
        rank: Columns and rows to pick, r.
        oversample: Further rows of the sketch.
        power_iters: Rounds of subspace iteration on the sketch.
        generator: Draws.

    Raises:
        ValueError: Where a number is out of its range, or A is not finite.
        TypeError: Where A is not of a real floating type.

    Examples:
        >>> A = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 20, dtype=torch.float64)
        >>> C, U, R = cur(A, 3)
        >>> torch.allclose(C @ U @ R, A)
        True
    """
    a = as_products(A)
    columns, _ = _pick_columns(a, rank, oversample, power_iters, generator)
    c = a.times(_unit(columns, a.shape[1]))
    rows, _ = pivoted_columns(c.mT, rank)
    r = a.transposed_times(_unit(rows, a.shape[0])).mT
    rtol = 10 * torch.finfo(a.dtype).eps * max(a.shape) ** 0.5
    probe = gaussian((a.shape[1], _PROBES), a.device, generator)
    product = a.times(torch.cat((torch.linalg.pinv(r, rtol=rtol), probe), 1))
    u = torch.linalg.pinv(c, rtol=rtol) @ product[:, :rank]
    error = _frobenius(product[:, rank:] - c @ (u @ (r @ probe)))
    return CURResult(c.to(a.dtype), u.to(a.dtype), r.to(a.dtype), columns, rows, error, a.passes)


def pivoted_columns(y: Float[Tensor, "l d"], rank: int) -> tuple[Int[Tensor, " r"], Float[Tensor, "r d"]]:
    """Return the columns that pivoted QR picks first, and all columns as combinations of them.

    Written out, because LAPACK's runs on the CPU alone: a step takes the column that is furthest from the
    span of those before it.

    Examples:
        >>> pivoted_columns(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.1, 0.0]], dtype=torch.float64), 2)[0]
        tensor([2, 1])
    """
    left, free = y.clone(), torch.ones(y.shape[1], dtype=torch.bool, device=y.device)
    picked, basis = [], y.new_zeros(y.shape[0], 0)
    tiny = torch.finfo(y.dtype).tiny
    for _ in range(rank):
        squares = left.square().sum(0).masked_fill(~free, -1.0)
        pivot = squares.argmax()
        q = left[:, pivot]
        q = q - basis @ (basis.mT @ q)
        q = q / torch.linalg.vector_norm(q).clamp(min=tiny)
        left = left - torch.outer(q, q @ left)
        free = free.index_fill(0, pivot[None], False)
        basis = torch.cat((basis, q[:, None]), 1)
        picked.append(pivot)
    indices = torch.stack(picked)
    # Where the rank of y is smaller, the last columns repeat others: the pseudoinverse gives them no weight.
    interp = torch.linalg.pinv(y[:, indices], rtol=10 * torch.finfo(y.dtype).eps * y.shape[1] ** 0.5) @ y
    interp[:, indices] = torch.eye(rank, dtype=y.dtype, device=y.device)
    return indices, interp


def _pick_columns(
    a: MatrixProducts, rank: int, oversample: int, power_iters: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    a.check_rank(rank)
    if oversample < 0 or power_iters < 0:
        raise ValueError(f"`oversample` (={oversample}), `power_iters` (={power_iters}) must not be negative")
    n, d = a.shape
    columns = min(n, d, rank + oversample)
    sketch = a.transposed_times(gaussian((n, columns), a.device, generator))
    a.check_finite(sketch)
    for _ in range(power_iters):
        q = torch.linalg.qr(a.times(torch.linalg.qr(sketch).Q)).Q
        sketch = a.transposed_times(q)
    return pivoted_columns(sketch.mT, rank)


def _unit(indices: Tensor, length: int) -> Tensor:
    """Return the columns of the identity with these indices."""
    eye = torch.eye(indices.numel(), dtype=torch.float64, device=indices.device)
    return _spread(indices, eye, length)


def _spread(indices: Tensor, values: Tensor, length: int) -> Tensor:
    """Return zeros (length, c) with the rows of `values` in the places `indices`."""
    return values.new_zeros(length, values.shape[1]).index_copy(0, indices, values)


def _frobenius(missed: Tensor) -> float:
    """Return the norm of the matrix that took standard normal vectors to `missed`."""
    return float((missed.square().sum() / missed.shape[1]).sqrt())
