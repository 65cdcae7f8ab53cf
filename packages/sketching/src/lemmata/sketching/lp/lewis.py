r"""Lewis weights: leverage scores of a reweighted matrix, the importance of rows in the l_p norm.

They are the only weights with $w_i = \tau_i(W^{1/2 - 1/p} A)$. In terms of the quadratic form
$M = A^\top W^{1 - 2/p} A$ they are $w_i = (a_i M^{-1} a_i^\top)^{p/2} = \lVert a_i R^{-1} \rVert^p$ with
$M = R^\top R$: who has $R$ can score rows that were not there when it was computed, see `lewis_quadratic`.

With $y = \log w$ the fixed-point map is $T(y)_i = \frac p2 \log(a_i M(y)^{-1} a_i^\top)$. Its derivative
is $(1 - \frac p2) S$ with $S = \mathrm{diag}(\tau)^{-1} (P \circ P)$, $P$ the projection onto the weighted
column space; $S$ is stochastic and similar to a positive semi-definite matrix, so its eigenvalues lie in
$[0, 1]$. From this everything else follows:

1. The plain step $y + \theta (T(y) - y)$ with $\theta = \min(1, 2/p)$ converges from everywhere. For
   $p \le 2$ it is $T$, a contraction by $1 - p/2$. For $p > 2$ it is $w \leftarrow \tau(W^{1/2-1/p} A)$, the
   step of the averaged scheme; and it climbs the concave function
   $\log\det(A^\top W^{1-2/p} A) - (1 - \frac 2p) \sum_i w_i$ whose maximiser the Lewis weights are, for it
   maximises the tangent minorant of the first term, convex in $y$.
2. The best fixed step is $\theta = 4 / (2 + p)$, with factor $|p - 2| / (p + 2)$, for any $p$.
3. Mixing the last steps (Anderson) does to it what conjugate gradients do to gradient descent, here on a
   problem of condition $\max(p/2, 2/p)$. Where a mixed step makes the residual grow, the plain step is taken
   from the best point.

References:
    M. B. Cohen, R. Peng, L_p row sampling by Lewis weights, 2015, arXiv:1412.0588.
    M. Fazel, Y. T. Lee, S. Padmanabhan, A. Sidford, Computing Lewis weights to high precision, 2021.

Axis letters: n rows, d columns, r rank, m rows of a sketch.
"""

import math
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.leverage import check_matrix, triangular_factor, warn_of_rank, whitening
from lemmata.sketching.stream import as_row_blocks

__all__ = ["LewisScores", "check_exponent", "lewis_quadratic", "lewis_weights"]

_MEMORY = 5  # steps mixed
_NEGLIGIBLE = 1e-250  # leverage below which a row is taken for zero: logarithms need room for squares
_BLOCK = 4096  # rows whose products stay in cache between two uses


def lewis_weights(
    A: Tensor, p: float, tol: float = 1e-6, max_iter: int = 50, *, weights: Tensor | None = None
) -> Float[Tensor, " n"]:
    r"""Return the Lewis weight of every row: $w_i = \tau_i(W^{1/2 - 1/p} A)$.

    Args:
        A: Matrix, shape (n, d), dense or sparse CSR. Computed in float64, on n r numbers, in any case.
        p: Exponent in [1, inf).
        tol: Largest relative residual $|\tau_i(W^{1/2-1/p} A) / w_i - 1|$ allowed; 1e-2 will do for sampling.
        max_iter: Rounds, of one weighted Gram matrix and its Cholesky factor each. To 1e-6 it takes about 12
            for p = 1 or 4, 30 for p = 20.
        weights: How often each row counts, not negative, shape (n,): the loss weights of a coreset. Row i is
            then $a_i v_i^{1/p}$, and its Lewis weight the sum of those of $v_i$ copies of $a_i$.

    Returns:
        Weights in [0, 1] in the type of A, which sum to the rank (to within `tol`); all-zero rows have 0.

    Raises:
        ValueError: Where A has no rows or columns or is not finite, p is not in [1, inf), `tol` or `max_iter`
            is not positive, or weights are negative or not finite.
        TypeError: Where A is not of a real floating type.

    Warns:
        RuntimeWarning: With the rank, where that is below d; with the residual, where it stays above `tol`.

    Examples:
        >>> lewis_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 0.0]]), p=1)
        tensor([1.0000, 0.7500, 0.2500, 0.0000])

    References:
        Cohen and Peng 2015; Fazel, Lee, Padmanabhan and Sidford 2021.
    """
    fixed_point = _checked_fixed_point(A, p, weights, tol, max_iter)
    warn_of_rank(fixed_point.whitening.shape[1], A.shape[1])
    fixed_point.warn_unless_converged(tol)
    return fixed_point.weights.to(A.dtype)


def lewis_quadratic(
    A: Tensor, p: float, weights: Tensor | None = None, *, tol: float = 1e-6, max_iter: int = 50
) -> "LewisScores":
    r"""Return Lewis' quadratic form of weighted rows, to score other rows with.

    For data that do not fit: sample rows by root leverage (`LewisScores.from_sketch`) with a
    `PrioritySample`, give the sample and its weights to this function, and in a second pass sample by what it
    returns.

    Args:
        A: Rows of the sample, shape (n, d), not scaled by their weights.
        p: Exponent in [1, inf).
        weights: How often each counts, shape (n,).
        tol: As in `lewis_weights`.
        max_iter: As in `lewis_weights`.

    Raises:
        ValueError: As in `lewis_weights`.
        TypeError: As in `lewis_weights`.

    Warns:
        RuntimeWarning: With the residual, where it stays above `tol`. A rank below d is no reason: a sample
            may have it, and `LewisScores` takes care of rows outside of its span.

    Examples:
        >>> sample = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> scores = lewis_quadratic(sample, 1.0, weights=torch.tensor([1.0, 4.0]))
        >>> scores(sample)
        tensor([1.0000, 0.2500])
    """
    fixed_point = _checked_fixed_point(A, p, weights, tol, max_iter)
    fixed_point.warn_unless_converged(tol)
    return LewisScores(float(p), fixed_point.whitening)


@dataclass(frozen=True, eq=False)
class LewisScores:
    r"""Scores $\min(1, v_i \lVert a_i W \rVert_2^p)$ of rows, by a quadratic form $M^{-1} = W W^\top$.

    With Lewis' quadratic form these are Lewis weights, with $A^\top A$ or its sketch they are root leverages
    $\tau_i^{p/2}$. They never exceed 1, and neither do these. Where the form is of a sample, rows outside of
    the sample's span, of which it knows nothing, score 1.

    Args:
        p: Exponent in [1, inf).
        whitening: W, float64, (d, r).

    Examples:
        >>> root_leverage = LewisScores.from_sketch(torch.tensor([[4.0, 0.0], [0.0, 2.0]]), p=1)
        >>> root_leverage(torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 0.0]]))
        tensor([0.2500, 0.5000, 1.0000])
    """

    p: float
    whitening: Float[Tensor, "d r"]

    @classmethod
    def from_sketch(cls, sketch: Tensor, p: float) -> "LewisScores":
        r"""Return root leverages $\tau_i^{p/2}$ from a sketch $S A$ of the data, or from $A$, shape (m, d).

        Raises:
            ValueError: Where the sketch has no rows or columns or is not finite, or p is not in [1, inf).
            TypeError: Where the sketch is not of a real floating type.
        """
        check_matrix(sketch)
        check_exponent(p)
        return cls(float(p), whitening(triangular_factor(as_row_blocks(sketch)), sketch.dtype))

    @property
    def rank(self) -> int:
        """Rank of the rows that the form was made of."""
        return self.whitening.shape[1]

    def __call__(self, rows: Tensor, weights: Tensor | None = None) -> Float[Tensor, " n"]:
        """Score rows, shape (n, d), dense or sparse CSR, that count `weights` times each.

        Raises:
            ValueError: Where the columns are not d.
        """
        d = self.whitening.shape[0]
        if rows.ndim != 2 or rows.shape[1] != d:
            raise ValueError(f"`rows` must have shape (n, {d}), got {tuple(rows.shape)}")
        whiten = self.whitening.to(rows.device)
        white = rows.double() @ whiten
        scores: Tensor = torch.linalg.vector_norm(white, dim=1) ** self.p
        if self.rank < d:
            scores = torch.where(self._outside(rows, white, whiten), 1.0, scores)
        if weights is not None:
            scores = scores * weights.to(scores)
        return scores.clamp(max=1).to(rows.dtype)

    def _outside(self, rows: Tensor, white: Tensor, whiten: Tensor) -> Tensor:
        """Tell which rows have a part that the form does not see."""
        dense = (rows.to_dense() if rows.layout == torch.sparse_csr else rows).double()
        # W has a null space on the left: the rows of W's pseudo-inverse span what it sees.
        unseen = torch.linalg.vector_norm(dense - white @ torch.linalg.pinv(whiten), dim=1)
        outside: Tensor = unseen > torch.linalg.vector_norm(dense, dim=1) * math.sqrt(
            torch.finfo(rows.dtype).eps
        )
        return outside

    def state_dict(self) -> dict[str, Any]:
        """Return a number and a tensor, which `torch.load` reads with `weights_only=True`."""
        return {"p": self.p, "whitening": self.whitening}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "LewisScores":
        """Return the scores that `state_dict` described."""
        return cls(state["p"], state["whitening"])


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """Where the iteration ended.

    Args:
        weights: Lewis weights of all rows, float64.
        whitening: W with M^-1 = W W^T, of rows that are not scaled by their weights.
        residual: Bound of the relative residual.
        rounds: Gram matrices made.
    """

    weights: Float[Tensor, " n"]
    whitening: Float[Tensor, "d r"]
    residual: float
    rounds: int

    def warn_unless_converged(self, tol: float) -> None:
        """Warn with the residual where it is above `tol`."""
        if self.residual > tol:
            message = (
                f"Lewis weights have a residual of {self.residual:.1e} > {tol:.1e} after {self.rounds} rounds"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def check_exponent(p: float) -> None:
    """Raise where p is not in [1, inf)."""
    if not 1 <= p < math.inf:
        raise ValueError(f"`p` (={p}) must lie in [1, inf)")


def _checked_fixed_point(
    A: Tensor, p: float, weights: Tensor | None, tol: float, max_iter: int
) -> FixedPoint:
    """Check arguments, then iterate."""
    check_matrix(A)
    check_exponent(p)
    if not tol > 0:
        raise ValueError(f"`tol` (={tol}) must be positive")
    if max_iter < 1:
        raise ValueError(f"`max_iter` (={max_iter}) must be at least 1")
    if weights is not None:
        if weights.shape != A.shape[:1]:
            raise ValueError(f"`weights` must have shape ({A.shape[0]},), got {tuple(weights.shape)}")
        if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise ValueError("`weights` must be finite and not negative")
    return lewis_fixed_point(A.detach(), float(p), weights, tol, max_iter)


def lewis_fixed_point(A: Tensor, p: float, weights: Tensor | None, tol: float, max_iter: int) -> FixedPoint:
    """Iterate for Lewis weights of rows that count `weights` times, without a warning."""
    dense = (A.to_dense() if A.layout == torch.sparse_csr else A).double()
    if weights is not None:
        dense = dense * weights.double()[:, None] ** (1 / p)
    whiten = whitening(triangular_factor(as_row_blocks(dense)), A.dtype)
    white = dense @ whiten
    scored = (white.square().sum(1) > _NEGLIGIBLE).nonzero()[:, 0]
    out = dense.new_zeros(dense.shape[0])
    if not len(scored):
        return FixedPoint(out, whiten, 0.0, 0)
    white = white if len(scored) == len(white) else white[scored]
    log_weights, change, residual, rounds = _iterate(white, p, tol, max_iter)
    out[scored] = log_weights.exp().clamp(max=1)
    return FixedPoint(out, whiten @ change, residual, rounds)


def _iterate(white: Tensor, p: float, tol: float, max_iter: int) -> tuple[Tensor, Tensor, float, int]:
    """Return log weights, the change of basis to where M = I, the residual's bound and the rounds."""
    n, rank = white.shape
    plain, mixed = min(1.0, 2 / p), 4 / (2 + p)
    y = white.new_full((n,), math.log(rank / n))
    change = torch.eye(rank, dtype=white.dtype, device=white.device)
    mixing = _Mixing(mixed)
    best, fallback = math.inf, y
    for done in range(1, max_iter + 1):
        step, q = _whiten(white, ((1 - 2 / p) * y).exp())
        change = change @ step
        f = p / 2 * q.log() - y
        # The plain step shrinks the residual to at most twice what it moves by, see the derivative above.
        residual = 2 * plain * f.abs().max().item()
        if residual <= tol or done == max_iter:
            break
        if residual < best:
            best, fallback = residual, y + plain * f
        if done == 1 or not residual <= 2 * best:
            mixing, y = _Mixing(mixed), fallback
        else:
            y = mixing.next(y, f).clamp(max=0)
    return y + plain * f, change, residual, done


def _whiten(white: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Change the basis so that its Gram matrix under weights c is the identity; return the change and norms.

    It is changed in place, round by round: so each round's Gram matrix is as well conditioned as the weights
    changed little since the last.
    """
    n, rank = white.shape
    gram = white.new_zeros(rank, rank)
    for start in range(0, n, _BLOCK):
        block = white[start : start + _BLOCK]
        gram.addmm_((block * c[start : start + _BLOCK, None]).mT, block)
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)
    if bool(failed):
        factor = torch.linalg.qr(white * c.sqrt()[:, None], mode="r").R
    step = torch.linalg.inv(factor)
    q = white.new_empty(n)
    for start in range(0, n, _BLOCK):
        block = white[start : start + _BLOCK]
        torch.mm(block.clone(), step, out=block)
        torch.linalg.vector_norm(block, dim=1, out=q[start : start + _BLOCK])
    return step, q.square()


class _Mixing:
    """Anderson's mixing of the last steps of a fixed-point iteration."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.last: tuple[Tensor, Tensor] | None = None
        self.differences: deque[tuple[Tensor, Tensor]] = deque(maxlen=_MEMORY)

    def next(self, y: Tensor, f: Tensor) -> Tensor:
        """Return the next point from this one and its residual."""
        if self.last is not None:
            self.differences.append((y - self.last[0], f - self.last[1]))
        self.last = (y, f)
        if not self.differences:
            return y + self.step * f
        dy, df = (torch.stack(side) for side in zip(*self.differences, strict=True))
        # The derivative is symmetric in the norm of the weights; their mean keeps light rows in the picture.
        weights = y.exp()
        weighted = df * (weights + weights.mean())
        gram = weighted @ df.mT
        scale = gram.diagonal().clamp(min=1e-300).rsqrt()
        inverse = torch.linalg.pinv(scale[:, None] * gram * scale, rtol=1e-13, hermitian=True)
        mix: Tensor = scale * (inverse @ (scale * (weighted @ f)))
        return y + self.step * f - mix @ (dy + self.step * df)
