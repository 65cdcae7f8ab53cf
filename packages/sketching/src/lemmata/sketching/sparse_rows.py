"""Sparse CSR tensors: made without PyTorch's notice that they are new, cut by rows, widened by columns."""

import warnings
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["csr_append", "csr_from_scipy", "csr_matrix", "csr_rows"]

# PyTorch tells once a process that CSR tensors are in beta and that it trusts them: it tells it here, where
# one thread imports, and not in the middle of somebody's pass.
with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", message="Sparse (CSR tensor support|invariant checks)", category=UserWarning
    )
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1))


def csr_matrix(
    starts: Int[Tensor, " rows_plus_1"], columns: Int[Tensor, " nnz"], values: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Return the sparse CSR tensor of row starts, column indices and values, which are trusted.

    Examples:
        >>> a = csr_matrix(torch.tensor([0, 1, 2]), torch.tensor([2, 0]), torch.tensor([5.0, 7.0]), (2, 3))
        >>> a.to_dense()
        tensor([[0., 0., 5.],
                [7., 0., 0.]])
    """
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def csr_rows(a: Tensor, start: int, stop: int) -> Tensor:
    """Return rows `start : stop` of a sparse CSR tensor; column indices and values are views.

    Examples:
        >>> csr_rows(torch.eye(3, dtype=torch.float64).to_sparse_csr(), 1, 2).to_dense()
        tensor([[0., 1., 0.]], dtype=torch.float64)
    """
    starts = a.crow_indices()[start : stop + 1]
    first, last = int(starts[0]), int(starts[-1])
    return csr_matrix(
        starts - first,
        a.col_indices()[first:last],
        a.values()[first:last],
        (stop - start, a.shape[1]),
    )


def csr_append(a: Tensor, b: Tensor) -> Tensor:
    """Return a sparse CSR tensor with dense columns (r, c) behind its own.

    Examples:
        >>> csr_append(torch.eye(2).to_sparse_csr(), torch.full((2, 1), 9.0)).to_dense()
        tensor([[1., 0., 9.],
                [0., 1., 9.]])
    """
    (rows, d), c = a.shape, b.shape[1]
    starts, index = a.crow_indices(), torch.arange(rows, device=b.device)
    owner = torch.repeat_interleave(starts.diff())
    mine = torch.arange(owner.numel(), device=b.device) + c * owner
    theirs = (starts[1:] + c * index)[:, None] + torch.arange(c, device=b.device)
    columns = starts.new_empty(mine.numel() + theirs.numel())
    values = b.new_empty(columns.shape)
    columns[mine], values[mine] = a.col_indices().to(columns), a.values()
    columns[theirs.reshape(-1)] = torch.arange(d, d + c, device=b.device).to(columns).repeat(rows)
    values[theirs.reshape(-1)] = b.reshape(-1)
    return csr_matrix(
        starts + c * torch.arange(rows + 1, device=b.device).to(starts), columns, values, (rows, d + c)
    )


def csr_from_scipy(a: Any) -> Tensor:
    """Return a SciPy sparse matrix or array as a sparse CSR tensor; a CSR matrix shares its memory.

    Examples:
        >>> import scipy.sparse
        >>> csr_from_scipy(scipy.sparse.eye_array(2, format="csr")).to_dense()
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    rows = a.tocsr()
    starts, columns, values = (_shared(part) for part in (rows.indptr, rows.indices, rows.data))
    return csr_matrix(starts, columns, values, (int(rows.shape[0]), int(rows.shape[1])))


def _shared(a: Any) -> Tensor:
    """Return a tensor on the memory of a NumPy array, or on a copy where the array must not be written."""
    return torch.from_numpy(
        a if a.flags.writeable and a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))
    )
