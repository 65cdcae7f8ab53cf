"""The products through which randomised methods see a matrix, whatever it is stored as.

A dense tensor, a sparse CSR tensor, a SciPy sparse matrix, `RowBlocks` that do not fit in memory, a SciPy
`LinearOperator`, or any object with `.shape`, `@` and `.T @` on tensors: each is multiplied from either side,
and every read of its entries is counted, for that is what data on a disk costs.

Axis letters: n rows, d columns, c vectors at a time; `*batch` for dense tensors only.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.sketching.sparse_rows import csr_from_scipy
from lemmata.sketching.stream import RowBlocks

__all__ = ["MatrixProducts", "as_products", "gaussian", "transposed_csr"]


class MatrixProducts(ABC):
    """A matrix (*batch, n, d) as its two products, in float64 outside whatever the entries' type.

    Args:
        shape: (*batch, n, d).
        dtype: Type of the entries, which results are returned in.
        device: Where the entries lie.

    Raises:
        TypeError: Where `dtype` is not a real floating type.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        if not dtype.is_floating_point:
            raise TypeError(f"`A` (of {dtype}) must be of a real floating type")
        self.batch, self.shape = tuple(shape[:-2]), (int(shape[-2]), int(shape[-1]))
        self.dtype, self.device = dtype, device
        self.passes = 0

    @abstractmethod
    def times(self, x: Tensor) -> Tensor:
        """Return A x, (*batch, n, c), of x (*batch, d, c), in one read."""

    @abstractmethod
    def transposed_times(self, y: Tensor) -> Tensor:
        """Return the transpose of A times y (*batch, n, c), (*batch, d, c), in one read."""

    @abstractmethod
    def square_norm(self) -> Tensor | None:
        """Return the squared Frobenius norm (*batch), or None where entries cannot be looked at."""

    def gram_times(self, x: Tensor) -> Tensor:
        """Return the transpose of A times A x: two reads, or one where blocks of rows allow it."""
        return self.transposed_times(self.times(x))

    def smaller_side(self) -> tuple["MatrixProducts", bool]:
        """Return the matrix, or its transpose where that has fewer columns, and whether it is the latter."""
        wide = self.shape[0] < self.shape[1]
        return (_Transposed(self), True) if wide else (self, False)

    def check_rank(self, rank: int, name: str = "rank") -> None:
        """Raise a ValueError where a rank is not in [1, min(n, d)]."""
        if not 1 <= rank <= min(self.shape):
            raise ValueError(f"`{name}` (={rank}) must lie in [1, {min(self.shape)}], A being {self.shape}")

    def check_finite(self, value: Tensor | None) -> None:
        """Raise a ValueError where a number that every entry went into is not finite."""
        if value is not None and not bool(torch.isfinite(value).all()):
            raise ValueError("`A` has entries that are not finite, or so large that their squares are not")


class _Transposed(MatrixProducts):
    def __init__(self, a: MatrixProducts) -> None:
        super().__init__((*a.batch, *a.shape[::-1]), a.dtype, a.device)
        self.a = a

    def times(self, x: Tensor) -> Tensor:
        return self.a.transposed_times(x)

    def transposed_times(self, y: Tensor) -> Tensor:
        return self.a.times(y)

    def square_norm(self) -> Tensor | None:
        return self.a.square_norm()


class _Dense(MatrixProducts):
    def __init__(self, a: Tensor) -> None:
        super().__init__(tuple(a.shape), a.dtype, a.device)
        self.a = a

    def times(self, x: Tensor) -> Tensor:
        self.passes += 1
        return (self.a @ x.to(self.dtype)).to(torch.float64)

    def transposed_times(self, y: Tensor) -> Tensor:
        self.passes += 1
        return (self.a.mT @ y.to(self.dtype)).to(torch.float64)

    def square_norm(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(self.a, dim=(-2, -1), dtype=torch.float64)
        return norm.square()


class _Sparse(MatrixProducts):
    def __init__(self, a: Tensor) -> None:
        super().__init__(tuple(a.shape), a.dtype, a.device)
        self.a, self.a_t = a, transposed_csr(a)

    def times(self, x: Tensor) -> Tensor:
        self.passes += 1
        return (self.a @ x.to(self.dtype)).to(torch.float64)

    def transposed_times(self, y: Tensor) -> Tensor:
        self.passes += 1
        return (self.a_t @ y.to(self.dtype)).to(torch.float64)

    def square_norm(self) -> Tensor:
        return self.a.values().to(torch.float64).square().sum()


class _Blocks(MatrixProducts):
    """Blocks of rows: the norm is added up in whatever pass comes first."""

    def __init__(self, a: RowBlocks) -> None:
        super().__init__(a.shape, a.dtype, a.device)
        self.a, self.begun = a, a.passes
        self._square_norm: Tensor | None = None

    @property
    def passes(self) -> int:
        return self.a.passes - self.begun

    @passes.setter
    def passes(self, value: int) -> None:
        pass  # the blocks count for themselves

    def times(self, x: Tensor) -> Tensor:
        out = x.new_empty(self.shape[0], x.shape[1])
        for offset, block in self._blocks():
            out[offset : offset + block.shape[0]] = block @ x
        return out

    def transposed_times(self, y: Tensor) -> Tensor:
        out = y.new_zeros(self.shape[1], y.shape[1])
        for offset, block in self._blocks():
            out += _transpose(block) @ y[offset : offset + block.shape[0]]
        return out

    def smaller_side(self) -> tuple[MatrixProducts, bool]:
        return self, False  # one pass multiplies by the Gram matrix of the columns, and only by that

    def gram_times(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for _, block in self._blocks():
            out += _transpose(block) @ (block @ x)
        return out

    def square_norm(self) -> Tensor | None:
        if self._square_norm is None:
            for _ in self._blocks():
                pass
        return self._square_norm

    def _blocks(self) -> Any:
        """Iterate over the blocks in float64; count their rows and their squares."""
        squares, rows = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for offset, block in self.a:
            wide = block.to(torch.float64)
            entries = wide.values() if wide.layout == torch.sparse_csr else wide
            squares, rows = squares + entries.square().sum(), rows + block.shape[0]
            yield offset, wide
        if rows != self.shape[0]:
            raise ValueError(f"the blocks have {rows} rows, the matrix {self.shape[0]}")
        self._square_norm = squares


class _Operator(MatrixProducts):
    """Anything with `@` and `.T @`; `foreign` where it multiplies NumPy arrays."""

    def __init__(self, a: Any, *, foreign: bool) -> None:
        dtype = getattr(a, "dtype", None) or torch.float64
        if not isinstance(dtype, torch.dtype):
            dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        device = getattr(a, "device", None)
        super().__init__(
            tuple(a.shape), dtype, device if isinstance(device, torch.device) else torch.device("cpu")
        )
        self.a, self.foreign = a, foreign

    def times(self, x: Tensor) -> Tensor:
        return self._multiply(self.a, x)

    def transposed_times(self, y: Tensor) -> Tensor:
        return self._multiply(self.a.T, y)

    def square_norm(self) -> None:
        return None

    def _multiply(self, a: Any, x: Tensor) -> Tensor:
        self.passes += 1
        if self.foreign:
            return torch.as_tensor(np.asarray(a @ x.detach().numpy()), dtype=torch.float64)
        product: Tensor = a @ x.to(self.dtype)
        return product.to(torch.float64)


def as_products(a: Any, *, batched: bool = False) -> MatrixProducts:
    """Return the products of whatever holds a matrix.

    Args:
        a: The matrix, in any of the forms that the module names.
        batched: Whether a dense tensor may have more than two axes.

    Raises:
        TypeError: Where it is none of these, or not of a real floating type.
        ValueError: Where it has not two axes.

    Examples:
        >>> a = as_products(torch.eye(3, dtype=torch.float64)[:, :2])
        >>> a.gram_times(torch.ones(2, 1, dtype=torch.float64)).T, a.passes
        (tensor([[1., 1.]], dtype=torch.float64), 2)
    """
    shape = tuple(getattr(a, "shape", ()))
    if len(shape) != 2 and not (batched and isinstance(a, Tensor) and len(shape) > 2):
        raise ValueError(f"`A` (of shape {shape}) must have two axes")
    if isinstance(a, RowBlocks):
        return _Blocks(a)
    if isinstance(a, Tensor):
        return _Dense(a) if a.layout == torch.strided else _Sparse(a.to_sparse_csr())
    if isinstance(a, np.ndarray):
        raise TypeError("`A` (a NumPy array) must be a tensor: torch.from_numpy shares its memory")
    if hasattr(a, "tocsr"):
        return _Sparse(csr_from_scipy(a))
    if not (hasattr(a, "T") and hasattr(a, "__matmul__")):
        raise TypeError(f"`A` (a {type(a).__name__}) must have `.shape`, `@` and `.T`")
    # SciPy's operators multiply NumPy arrays; everything else is expected to speak tensors.
    return _Operator(a, foreign=hasattr(a, "_matvec") or hasattr(a, "rmatvec"))


def transposed_csr(a: Tensor) -> Tensor:
    """Return the transpose of a sparse CSR tensor, as one: its rows are the columns of a CSC tensor.

    Examples:
        >>> transposed_csr(torch.tensor([[0.0, 2.0]]).to_sparse_csr()).to_dense()
        tensor([[0.],
                [2.]])
    """
    shape = (a.shape[1], a.shape[0])
    flipped = torch.sparse_csc_tensor(
        a.crow_indices(), a.col_indices(), a.values(), shape, check_invariants=False
    )
    return flipped.to_sparse_csr()


def _transpose(block: Tensor) -> Tensor:
    return transposed_csr(block) if block.layout == torch.sparse_csr else block.mT


def gaussian(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return standard normal numbers in float64, drawn where the generator lives and moved to `device`.

    Examples:
        >>> gaussian((4, 2), torch.device("cpu"), torch.Generator().manual_seed(0)).shape
        torch.Size([4, 2])
    """
    place = device if generator is None else generator.device
    return torch.randn(shape, dtype=torch.float64, device=place, generator=generator).to(device)
