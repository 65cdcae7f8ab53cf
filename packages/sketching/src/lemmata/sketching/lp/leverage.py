r"""Leverage scores: how much of one row no other row can explain, in the Euclidean norm.

$\tau_i = \max_x \frac{(a_i x)^2}{\lVert A x \rVert_2^2} = a_i (A^\top A)^{+} a_i^\top$, the squared norm of
row $i$ of any orthonormal basis of the column space. They lie in $[0, 1]$ and sum to the rank.

References:
    P. Drineas, M. Magdon-Ismail, M. W. Mahoney, D. P. Woodruff, Fast approximation of matrix coherence and
    statistical leverage, 2012, arXiv:1109.3843.

Axis letters: n rows, d columns, r rank, m rows of a sketch, g directions of a projection.
"""

import math
import warnings

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lemmata.sketching.operators.counter import normals
from lemmata.sketching.operators.sparse_sign import SparseSign
from lemmata.sketching.stream import RowBlocks, as_row_blocks

__all__ = ["check_matrix", "leverage_scores", "triangular_factor", "warn_of_rank", "whitening"]

_DIRECTIONS_STREAM = 1  # the sketch uses family 0 of the same seed


def leverage_scores(A: Tensor | RowBlocks, method: str = "auto", seed: int = 0) -> Float[Tensor, " n"]:
    r"""Return the leverage score of every row.

    `"qr"` is exact: Householder QR of a dense tensor; for sparse CSR tensors and `RowBlocks` two passes, a QR
    factor that is updated block by block, then $\lVert a_i R^{-1} \rVert^2$. `"sketch"` takes $R$ from a
    sparse sign sketch of $8 d + 200$ rows, and where d is large it replaces $R^{-1}$ by its product with
    $8 \log n$ Gaussian columns: also two passes, a fraction of the work, a typical relative error of
    $\sqrt{2 / (7 d + 200)}$ (20 % with the Gaussian columns), which is plenty for sampling. The scores are
    then scaled to sum to the rank. `"auto"` is `"sketch"` for `RowBlocks` and `"qr"` for tensors.

    Args:
        A: Matrix, shape (n, d), dense or sparse CSR, or in blocks. Computed in float64 in any case.
        method: `"qr"`, `"sketch"` or `"auto"`.
        seed: Seed of the sketch, any integer.

    Returns:
        Scores in [0, 1] in the type of A; all-zero rows have 0. Exact scores of a dense A of full rank are
        differentiable.

    Raises:
        ValueError: Where A is not a matrix with entries, all finite, or the method is unknown.
        TypeError: Where A is not of a real floating type.

    Warns:
        RuntimeWarning: With the rank, where that is below d. The scores then are those of the column space.

    Examples:
        >>> leverage_scores(torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 4.0], [0.0, 0.0]]))
        tensor([1.0000, 0.3600, 0.6400, 0.0000])

    References:
        Drineas et al. 2012.
    """
    check_matrix(A)
    if method not in ("auto", "qr", "sketch"):
        raise ValueError(f'`method` (={method!r}) must be "auto", "qr" or "sketch"')
    if method == "auto":
        method = "sketch" if isinstance(A, RowBlocks) else "qr"
    n, d = A.shape
    sketch_rows = 8 * d + 200
    if method == "sketch" and sketch_rows < n:
        scores, rank = _sketched(as_row_blocks(A), sketch_rows, seed)
    elif isinstance(A, Tensor) and A.layout == torch.strided:
        scores, rank = _dense(A)
    else:
        scores, rank = _streamed(as_row_blocks(A))
    warn_of_rank(rank, d)
    return scores.clamp(max=1).to(A.dtype)


def check_matrix(A: Tensor | RowBlocks) -> None:
    """Raise where A is not a real matrix with rows and columns; a tensor's entries must be finite too."""
    if len(A.shape) != 2 or 0 in A.shape:
        raise ValueError(f"`A` must have shape (n, d) with n, d >= 1, got {tuple(A.shape)}")
    if not A.dtype.is_floating_point:
        raise TypeError(f"`A` must be of a real floating type, got {A.dtype}")
    if isinstance(A, Tensor):
        if A.layout not in (torch.strided, torch.sparse_csr):
            raise TypeError(f"`A` must be a dense or a sparse CSR tensor, got layout {A.layout}")
        _check_finite(A, 0)


def warn_of_rank(rank: int, columns: int) -> None:
    """Warn where a matrix has not full column rank."""
    if rank < columns:
        message = f"the matrix has rank {rank} of {columns} columns: scores are those of its column space"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def whitening(
    factor: Float[Tensor, "m d"], dtype: torch.dtype = torch.float64, *, rtol: float | None = None
) -> Float[Tensor, "d r"]:
    r"""Return $W$ such that $F W$ has orthonormal columns that span those of the factor $F$.

    With $F$ the triangular factor of $A$, or a sketch of it, the rows of $A W$ have the leverage scores of
    $A$ as squared norms, exactly or nearly. Columns are brought to one scale first, so that their units do
    not decide about the rank.

    Args:
        factor: Any matrix with (nearly) the Gram matrix of the data, float64.
        dtype: Type that the data came in: what its rounding errors can fake is not rank.
        rtol: Smallest singular value counted, relative to the largest; `8 d eps` of `dtype` by default.

    Examples:
        >>> whitening(torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)).abs()
        tensor([[0.0000],
                [0.5000]], dtype=torch.float64)
    """
    scale = factor.abs().amax(0)
    inverse = torch.where(scale > 0, scale, torch.inf).reciprocal()
    _, singular, right = torch.linalg.svd(factor * inverse, full_matrices=False)
    tolerance = 8 * factor.shape[1] * torch.finfo(dtype).eps if rtol is None else rtol
    kept = singular > tolerance * singular[0]
    whiten: Tensor = inverse[:, None] * (right[kept].mT / singular[kept])
    return whiten


def triangular_factor(blocks: RowBlocks) -> Float[Tensor, "m d"]:
    """Return the triangular factor of all rows: one pass, a QR of the factor so far above the next block."""
    d = blocks.shape[1]
    factor = torch.zeros((0, d), dtype=torch.float64, device=blocks.device)
    for offset, block in blocks:
        _check_finite(block, offset)
        dense = block.to_dense() if block.layout == torch.sparse_csr else block
        factor = torch.linalg.qr(torch.cat((factor, dense.double())), mode="r").R
    return factor


def _dense(A: Tensor) -> tuple[Tensor, int]:
    """Return exact scores, which are differentiable, from an explicit orthonormal basis; and the rank."""
    q, r = torch.linalg.qr(A.double())
    whiten = whitening(r.detach(), A.dtype)
    rank = whiten.shape[1]
    if rank < A.shape[1]:
        q = q @ (r @ whiten)
    return torch.where(A.detach().abs().amax(1) > 0, q.square().sum(1), 0.0), rank


def _streamed(blocks: RowBlocks) -> tuple[Tensor, int]:
    """Return exact scores and the rank in two passes."""
    whiten = whitening(triangular_factor(blocks), blocks.dtype)
    return _squared_norms(blocks, whiten), whiten.shape[1]


def _sketched(blocks: RowBlocks, sketch_rows: int, seed: int) -> tuple[Tensor, int]:
    """Return scores in two passes, a sketch and norms, scaled so that they sum to the rank; and the rank."""
    n, d = blocks.shape
    operator = SparseSign(sketch_rows, n, seed=seed, device=blocks.device)
    sketch = torch.zeros((sketch_rows, d), dtype=torch.float64, device=blocks.device)
    for offset, block in blocks:
        _check_finite(block, offset)
        sketch += operator.partial(block, offset)
    whiten = whitening(sketch, blocks.dtype)
    rank = whiten.shape[1]
    directions = math.ceil(8 * math.log(n))
    if 2 * directions < rank:
        index = torch.arange(rank, device=blocks.device)
        whiten = whiten @ normals(seed, index, directions, stream=_DIRECTIONS_STREAM).mT
    scores = _squared_norms(blocks, whiten)
    # The inverse of a sketched Gram matrix is too large by m / (m - d - 1) on average; the sum is known.
    return scores * (rank / scores.sum().clamp(min=1e-300)), rank


def _squared_norms(blocks: RowBlocks, whiten: Tensor) -> Tensor:
    """Return the squared norms of the rows of A W in one pass; blocks may come in any order."""
    out = whiten.new_zeros(blocks.shape[0])
    for offset, block in blocks:
        out[offset : offset + block.shape[0]] = (block.double() @ whiten).square().sum(1)
    return out


def _check_finite(block: Shaped[Tensor, "n d"], row_offset: int) -> None:
    """Raise where an entry is NaN or infinite, naming its row."""
    values = block.values() if block.layout == torch.sparse_csr else block
    bad = ~torch.isfinite(values)
    if not bool(bad.any()):
        return
    if block.layout == torch.sparse_csr:
        position = bad.nonzero()[0, 0]
        row = int(torch.searchsorted(block.crow_indices(), position, right=True)) - 1
    else:
        row = int(bad.nonzero()[0, 0])
    raise ValueError(f"`A` must be finite, row {row_offset + row} is not")
