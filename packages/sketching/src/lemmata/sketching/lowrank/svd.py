r"""Truncated singular value decomposition by shifted subspace iteration on a random start.

The leading singular triplets of a matrix whose product with a few vectors is all that is affordable.
$A^\top A$ is applied to a random block with a shift that grows with what the iteration learns of the
spectrum, so that as few rounds separate the leading directions as unshifted ones would in half as many
again.

Axis letters: n rows, d columns, l columns of the block (rank and oversampling), r rank; `*batch` for dense
tensors.

References:
    N. Halko, P.-G. Martinsson, J. A. Tropp, Finding structure with randomness: probabilistic algorithms for
    constructing approximate matrix decompositions, 2011, arXiv:0909.4061.
    X. Feng, W. Yu, Y. Xie, J. Tang, Faster randomized SVD with dynamic shifts, 2024.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.lowrank.products import MatrixProducts, as_products, gaussian

__all__ = ["LowRankCertificate", "SVDResult", "randomized_svd"]

_PROBES = 10


@dataclass(frozen=True)
class LowRankCertificate:
    r"""How far a factorisation is from its matrix.

    Args:
        error: Frobenius norm of the difference, (*batch).
        relative_error: The same over the norm of the matrix; zero for the zero matrix.
        method: `"difference"`: of the squared norms of matrix and factorisation, exact to rounding.
            `"probe"`: with ten random vectors, an unbiased estimate of the square; used where the
            difference would be rounding, or the matrix's entries cannot be seen.
        power_iters: Rounds of subspace iteration.
        passes: Reads of the matrix.
    """

    error: Tensor
    relative_error: Tensor
    method: str
    power_iters: int
    passes: int


@dataclass(frozen=True)
class SVDResult:
    r"""$A \approx U \operatorname{diag}(s) V^\top$; unpacks into `U`, `s` and `Vh`.

    Args:
        U: Orthonormal columns (*batch, n, r); the entry of largest size in each is positive.
        s: Falling and non-negative (*batch, r), none above the true one beyond rounding.
        Vh: Orthonormal rows (*batch, r, d).
        certificate: The error.
    """

    U: Tensor
    s: Tensor
    Vh: Tensor
    certificate: LowRankCertificate

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.U, self.s, self.Vh))


def randomized_svd(
    A: Any,
    rank: int,
    oversample: int = 10,
    power_iters: int | str = "auto",
    generator: torch.Generator | None = None,
) -> SVDResult:
    r"""Return the leading singular triplets, as scikit-learn's function of the same name does.

    A round costs two products with rank + oversample vectors, and one pass over `RowBlocks`. `"auto"` makes
    4 for ranks below a tenth of min(n, d), 2 otherwise. Everything that a dense tensor goes through is
    differentiable where `torch.linalg.qr` and `torch.linalg.svd` are: singular values without condition,
    vectors where the values up to rank + oversample are distinct.

    Args:
        A: (n, d): a dense tensor (*batch, n, d), a sparse tensor, a SciPy matrix or `LinearOperator`,
            `RowBlocks`, or an object with `.shape`, `@` and `.T`.
        rank: r.
        oversample: Further columns to iterate on, dropped at the end.
        power_iters: Rounds, or `"auto"`.
        generator: Draws.

    Raises:
        ValueError: Where a number is out of its range, or A is not finite.
        TypeError: Where A is not of a real floating type.

    Examples:
        >>> A = torch.randn(200, 5, dtype=torch.float64) @ torch.randn(5, 80, dtype=torch.float64)
        >>> U, s, Vh = randomized_svd(A, 5)
        >>> torch.allclose(U * s @ Vh, A)
        True
    """
    a = as_products(A, batched=True)
    a.check_rank(rank)
    if oversample < 0:
        raise ValueError(f"`oversample` (={oversample}) must not be negative")
    rounds = _rounds(power_iters, rank, min(a.shape))
    columns = min(*a.shape, rank + oversample)
    # The block is orthonormalised in every round: the side on which it is short costs less.
    tall, flipped = a.smaller_side()
    x = _iterate(tall, columns, rounds, generator)
    y = tall.times(x)
    a.check_finite(y)
    q = torch.linalg.qr(y).Q
    u, s, vh = torch.linalg.svd(tall.transposed_times(q).mT, full_matrices=False)
    u = q @ u
    if flipped:
        u, vh = vh.mT, u.mT
    u, s, vh = u[..., :rank], s[..., :rank], vh[..., :rank, :]
    largest = u.abs().argmax(-2, keepdim=True)
    sign = torch.where(torch.gather(u, -2, largest) < 0, -1.0, 1.0)
    u, vh = u * sign, sign.mT * vh
    with torch.no_grad():
        error, total, method = _error(a, u, s, vh, generator)
    tiny = torch.finfo(torch.float64).tiny
    certificate = LowRankCertificate(error, error / total.clamp(min=tiny), method, rounds, a.passes)
    return SVDResult(u.to(a.dtype), s.to(a.dtype), vh.to(a.dtype), certificate)


def _rounds(power_iters: int | str, rank: int, smallest: int) -> int:
    if power_iters == "auto":
        return 4 if rank < 0.1 * smallest else 2
    if isinstance(power_iters, str) or power_iters < 0:
        raise ValueError(f'`power_iters` (={power_iters!r}) must be "auto" or a non-negative integer')
    return power_iters


def _iterate(a: MatrixProducts, columns: int, rounds: int, generator: torch.Generator | None) -> Tensor:
    """Return a basis (*batch, d, l) that leans on the leading right singular vectors."""
    x: Tensor = torch.linalg.qr(gaussian((*a.batch, a.shape[1], columns), a.device, generator)).Q
    shift = x.new_zeros((*a.batch, 1, 1))
    for done in range(rounds):
        y = a.gram_times(x) - shift * x
        if not done:
            a.check_finite(y)
        x, r = torch.linalg.qr(y)
        # The l-th singular value of (G - shift) x is at most the l-th eigenvalue of G less the shift, so the
        # shift stays below half of that eigenvalue, and the order of the leading ones stays.
        smallest = torch.linalg.svdvals(r.detach())[..., -1:, None]
        shift = torch.maximum(shift, (shift + smallest) / 2)
    return x


def _error(
    a: MatrixProducts, u: Tensor, s: Tensor, vh: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, str]:
    """Return the error in the Frobenius norm, the norm of A and how they were found."""
    square = a.square_norm()
    a.check_finite(square)
    if square is not None:
        # U U^T A = U diag(s) V^T, so by Pythagoras the squares subtract.
        left = square - s.square().sum(-1)
        if bool((left > 256 * torch.finfo(a.dtype).eps * square).all()):
            return left.sqrt(), square.sqrt(), "difference"
    probe = gaussian((*a.batch, a.shape[1], _PROBES), a.device, generator)
    tested = a.times(probe)
    missed = tested - u @ (s[..., None] * (vh @ probe))
    error = (missed.square().sum((-2, -1)) / _PROBES).sqrt()
    total = (tested.square().sum((-2, -1)) / _PROBES).sqrt() if square is None else square.sqrt()
    return error, total, "probe"
