r"""An orthonormal basis of a matrix's range, grown until a tolerance is met: $A \approx Q B$.

Use it where the rank is not known: the factorisation stops at the rank at which $\lVert A - Q B \rVert_F$
falls below `tol` times $\lVert A \rVert_F$. Blocks of random combinations of columns are added; while the
error is above the square root of rounding it is known exactly, as $\lVert A \rVert_F^2 - \lVert B
\rVert_F^2$, below it is probed with vectors that took no part.

Axis letters: n rows, d columns, r rank, b columns of a block.

References:
    P.-G. Martinsson, S. Voronin, A randomized blocked algorithm for efficiently computing rank-revealing
    factorizations of matrices, 2015, arXiv:1503.07157. W. Yu, Y. Gu, Y. Li, Efficient randomized algorithms
    for the fixed-precision low-rank matrix approximation, 2018, arXiv:1606.09402.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.lowrank.products import MatrixProducts, as_products, gaussian

__all__ = ["QBResult", "qb"]

_PROBES = 10
_DIFFERENCE = 16.0  # times sqrt(eps): the relative error down to which the difference of squares is trusted


@dataclass(frozen=True)
class QBResult:
    r"""$A \approx Q B$ with orthonormal columns in Q; unpacks into `Q`, `B` and `error`.

    Args:
        Q: (n, r).
        B: (r, d), the transpose of Q times A.
        error: Frobenius norm of $A - Q B$.
        relative_error: The same over that of A; zero for A = 0.
        rank: r.
        status: `"tolerance"` where `tol` was met, `"rank"` where `rank` was reached first, `"full"` where the
            basis spans everything.
        method: How the error was found: `"difference"` of squares, exact to rounding, or `"probe"` with ten
            random vectors, an unbiased estimate of its square that is within a factor of two with high
            probability.
        passes: Reads of A.
    """

    Q: Tensor
    B: Tensor
    error: float
    relative_error: float
    rank: int
    status: str
    method: str
    passes: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.Q, self.B, self.error))


def qb(
    A: Any,
    rank: int | None = None,
    tol: float | None = None,
    block: int = 16,
    power_iters: int = 1,
    generator: torch.Generator | None = None,
) -> QBResult:
    r"""Factorise a matrix to a rank, or to a tolerance, or to whichever comes first.

    Met at the tolerance, the basis is cut to the smallest rank that still meets it; one block fewer, and it
    would not. A tolerance below 10 roundings of the entries' type is taken as that.

    Args:
        A: (n, d): a dense or sparse tensor, a SciPy matrix or `LinearOperator`, `RowBlocks`, or an object
            with `.shape`, `@` and `.T`. An adaptive run over `RowBlocks` takes `power_iters + 2` passes a
            block.
        rank: The largest rank; alone, it is reached in one block.
        tol: Relative error in the Frobenius norm.
        block: Columns added at a time, b.
        power_iters: Rounds of subspace iteration a block: more bring the rank nearer to the smallest
            possible.
        generator: Draws.

    Raises:
        ValueError: Where neither rank nor tolerance is given, one is out of its range, or A is not finite.
        TypeError: Where A is not of a real floating type.

    Examples:
        >>> x = torch.linspace(0, 1, 300, dtype=torch.float64)
        >>> result = qb(1 / (1 + x[:, None] + x), tol=1e-6)
        >>> result.status, result.rank < 10, result.relative_error < 1e-6
        ('tolerance', True, True)
    """
    a = as_products(A)
    if rank is None and tol is None:
        raise ValueError("one of `rank` and `tol` must be given")
    if rank is not None:
        a.check_rank(rank)
    if tol is not None and not 0 < tol < 1:
        raise ValueError(f"`tol` (={tol}) must lie in (0, 1)")
    if block < 1 or power_iters < 0:
        raise ValueError(f"`block` (={block}) must be positive, `power_iters` (={power_iters}) not negative")
    run = _Run(a, tol, generator)
    largest = min(a.shape) if rank is None else rank
    while run.rank < largest and not run.met():
        run.extend(min(largest - run.rank, block if tol is not None else largest), power_iters)
    return run.result(largest if rank is not None else None)


class _Run:
    """The factorisation so far, and how far it is off."""

    def __init__(self, a: MatrixProducts, tol: float | None, generator: torch.Generator | None) -> None:
        n, d = a.shape
        self.a, self.generator = a, generator
        eps = torch.finfo(a.dtype).eps
        self.tol = 0.0 if tol is None else max(tol, 10 * eps)
        self.trusted = (_DIFFERENCE * eps**0.5) ** 2
        self.q = torch.zeros(n, 0, dtype=torch.float64, device=a.device)
        self.b = torch.zeros(0, d, dtype=torch.float64, device=a.device)
        self.probe: Tensor | None = None  # random vectors
        self.off: Tensor | None = None  # the error times these
        self.total, self.left = 0.0, float("inf")  # squares of A and of the error, once a pass was made

    @property
    def rank(self) -> int:
        return self.q.shape[1]

    def met(self) -> bool:
        return self.left <= self.tol**2 * self.total

    def extend(self, columns: int, power_iters: int) -> None:
        x = gaussian((self.a.shape[1], columns), self.a.device, self.generator)
        for _ in range(power_iters):
            # With orthonormal Q and B = Q^T A the error's Gram matrix is that of A less that of B.
            x = torch.linalg.qr(self.a.gram_times(x) - self.b.mT @ (self.b @ x)).Q
        y = self.a.times(x) - self.q @ (self.b @ x)
        self.a.check_finite(y)
        q = torch.linalg.qr(y).Q
        # Where y is mostly rounding, its directions lean on earlier ones: once more makes them orthogonal.
        q = torch.linalg.qr(q - self.q @ (self.q.mT @ q)).Q
        b = self.a.transposed_times(q).mT
        self.q, self.b = torch.cat((self.q, q), 1), torch.cat((self.b, b))
        self._judge(q, b)

    def _judge(self, q: Tensor, b: Tensor) -> None:
        """Bring the error up to date with the new block."""
        if self.off is None:
            square = self.a.square_norm()
            self.a.check_finite(square)
            if square is not None:
                self.total = float(square)
                self.left = max(0.0, self.total - float(self.b.square().sum()))
            if square is not None and self.left > self.trusted * self.total:
                return
            self.probe = gaussian((self.a.shape[1], _PROBES), self.a.device, self.generator)
            tested = self.a.times(self.probe)
            self.off = tested - self.q @ (self.b @ self.probe)
            if square is None:
                self.total = float(tested.square().sum() / _PROBES)
        elif self.probe is not None:
            self.off = self.off - q @ (b @ self.probe)
        self.left = float(self.off.square().sum() / _PROBES)

    def result(self, rank: int | None) -> QBResult:
        q, b = self.q, self.b
        status = "full" if self.rank == min(self.a.shape) else "rank"
        if self.tol and self.met():
            q, b = self._cut()
            status = "tolerance"
        elif rank is not None:
            status = "rank"
        error = self.left**0.5
        return QBResult(
            q.to(self.a.dtype),
            b.to(self.a.dtype),
            error,
            error / self.total**0.5 if self.total else 0.0,
            q.shape[1],
            status,
            "difference" if self.off is None else "probe",
            self.a.passes,
        )

    def _cut(self) -> tuple[Tensor, Tensor]:
        """Drop the directions that the tolerance can do without."""
        u, s, vh = torch.linalg.svd(self.b, full_matrices=False)
        tails = s.square().flip(0).cumsum(0).flip(0)  # what is lost by keeping the first i directions
        fits = self.left + tails <= self.tol**2 * self.total
        keep = max(1, int((~fits).sum()))
        if keep < s.numel():
            self.left += float(tails[keep])
        return self.q @ u[:, :keep], s[:keep, None] * vh[:keep]
