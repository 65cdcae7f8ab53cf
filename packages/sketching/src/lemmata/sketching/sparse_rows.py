"""Sparse CSR tensors, made without PyTorch's notice that they are new, and cut by rows."""

import warnings
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["csr_from_scipy", "csr_matrix", "csr_rows"]

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
        >>> csr_matrix(torch.tensor([0, 1, 2]), torch.tensor([2, 0]), torch.tensor([5.0, 7.0]), (2, 3)).to_dense()
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


def csr_from_scipy(a: Any) -> Tensor:
    """Return a SciPy sparse matrix or array as a sparse CSR tensor; a CSR matrix shares its memory.

    Examples:
        >>> import scipy.sparse
        >>> csr_from_scipy(scipy.sparse.eye_array(2, format="csr")).to_dense()
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    rows = a.tocsr()
    parts = (torch.from_numpy(part) for part in (rows.indptr, rows.indices, rows.data))
    starts, columns, values = parts
    return csr_matrix(starts, columns, values, (int(rows.shape[0]), int(rows.shape[1])))
