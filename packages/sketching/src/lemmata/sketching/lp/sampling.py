r"""Rows drawn by their importance: probabilities from scores, and the weighted rows that are kept.

Row $i$ is kept independently with probability $q_i = \min(1, s_i / \alpha)$, where $s_i$ is its score and
$\alpha$ is such that `size` rows are expected. Two weights follow, and they are never mixed: the *loss* of a
kept row counts $1/q_i$ times, $\sum_{i \in S} |r_i|^p / q_i$ being an unbiased estimate of $\sum_i |r_i|^p$;
the same is said by scaling the *row* by $q_i^{-1/p}$. `Coreset.weights` are the loss weights $1/q_i$,
`Coreset.scale(p)` are the row scales.

Which scores: for $p < 2$ and heavy rows leverage scores promise little, take Lewis weights or, cheaper,
root leverage. For a regression it is the rows of $[A\ b]$ that are to be scored: scores of $A$ alone do not
see an outlier of $b$.

References:
    D. P. Woodruff, T. Yasuda, Sharper bounds for l_p sensitivity sampling, 2023.

Axis letters: n rows, d columns, s rows kept, k columns of what is carried along.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lemmata.sketching.lp.leverage import check_matrix, leverage_scores
from lemmata.sketching.lp.lewis import check_exponent, lewis_weights
from lemmata.sketching.lp.sensitivity import lp_sensitivities

__all__ = ["Coreset", "probabilities_from_scores", "sample_rows", "sampling_probabilities"]

_SCHEMES = ("lewis", "sensitivity", "root_leverage", "leverage_plus_sensitivity", "uniform")
_LEWIS_TOLERANCE = 1e-3  # far below what sampling notices


@dataclass(frozen=True, eq=False)
class Coreset:
    r"""A few weighted rows that stand for all.

    Args:
        indices: Which rows, ascending.
        weights: How often the loss of each counts, $1/q_i$. Not a scale of rows: see `scale`.
        probabilities: $q_i$, the probability with which each was kept.
        rows: The rows themselves, or what went with them, where the sampler carried them along.

    Examples:
        >>> coreset = Coreset(torch.tensor([2, 5]), torch.tensor([1.0, 4.0]), torch.tensor([1.0, 0.25]))
        >>> coreset.scale(2)
        tensor([1., 2.])
        >>> coreset.estimate(torch.arange(8.0))
        tensor(22.)
    """

    indices: Int[Tensor, " s"]
    weights: Float[Tensor, " s"]
    probabilities: Float[Tensor, " s"]
    rows: Shaped[Tensor, "s k"] | None = None

    def __len__(self) -> int:
        """Return the number of kept rows."""
        return self.indices.numel()

    def scale(self, p: float) -> Float[Tensor, " s"]:
        """Return the scales `q^(-1/p)` of rows and entries of `b`, which stand in for weights of the loss."""
        return self.weights ** (1 / p)

    def take(self, a: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "s ..."]:
        """Return the kept rows of `a`, not scaled."""
        return a.index_select(0, self.indices.to(a.device))

    def estimate(self, values: Float[Tensor, "n ..."]) -> Float[Tensor, "..."]:
        """Return the unbiased estimate of the sum of `values` over all rows, from the kept ones."""
        kept = self.take(values)
        return (self.weights.to(kept) @ kept.reshape(len(self), -1)).reshape(kept.shape[1:])


def sampling_probabilities(
    A: Tensor,
    p: float,
    size: int,
    scheme: str = "lewis",
    *,
    uniform: float = 0.05,
    sensitivities: str = "upper",
) -> Float[Tensor, " n"]:
    r"""Return with which probability to keep each row, `size` rows in expectation.

    Sizes that preserve all costs up to a factor, with total sensitivity S and up to logarithms: Lewis
    weights $d$ for $p < 2$ and $d^{p/2}$ for $p > 2$; sensitivities $S^{2/p}$ and $S^{2 - 2/p}$; root
    leverage $d$ for $p < 2$, applied repeatedly; leverage plus sensitivity $d^{2/p} S^{2 - 4/p}$ for $p > 2$.

    Args:
        A: Matrix, shape (n, d), dense or sparse CSR; for regression [A b].
        p: Exponent in [1, inf).
        size: Expected number of kept rows, in [d + 1, n]. Where fewer rows are not zero, those are kept.
        scheme: What rows are scored by: `"lewis"` weights; `"sensitivity"`; `"root_leverage"`, the leverage
            to the power of p / 2; `"leverage_plus_sensitivity"`, the sum of both; `"uniform"`, which scores
            all rows that are not zero alike.
        uniform: Part of the mass that is spread evenly, so that no row's weight explodes.
        sensitivities: `"upper"` bounds or `"exact"`, for up to 2000 rows, see `lp_sensitivities`.

    Returns:
        Probabilities in the type of A; 0 for all-zero rows and positive for all others.

    Raises:
        ValueError: Where A, p, `size`, `uniform` or a name is not as said.
        TypeError: Where A is not of a real floating type.

    Warns:
        RuntimeWarning: With the rank, where that is below d.

    Examples:
        >>> A = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
        >>> sampling_probabilities(A, p=1, size=3, uniform=0.0)
        tensor([1.0000, 1.0000, 0.5000, 0.5000, 0.0000])

    References:
        Woodruff and Yasuda 2023.
    """
    check_matrix(A)
    check_exponent(p)
    n, d = A.shape
    if not d < size <= n:
        raise ValueError(f"`size` (={size}) must lie in [d + 1, n] = [{d + 1}, {n}]")
    if scheme not in _SCHEMES:
        raise ValueError(f"`scheme` (={scheme!r}) must be one of {', '.join(_SCHEMES)}")
    scores = _scores(A.detach(), float(p), scheme, sensitivities).double()
    # A score that is too small for the type is still not that of a zero row.
    scores = torch.where(_not_zero(A.detach()), scores.clamp(min=1e-300), 0.0)
    return probabilities_from_scores(scores, size, uniform=uniform).to(A.dtype)


def _scores(A: Tensor, p: float, scheme: str, sensitivities: str) -> Tensor:
    """Return the scores of a scheme."""
    if scheme == "uniform":
        return _not_zero(A).to(A.dtype)
    if scheme == "lewis":
        return lewis_weights(A, p, _LEWIS_TOLERANCE, 200)
    if scheme == "root_leverage":
        return leverage_scores(A, "qr").double() ** (p / 2)
    by_sensitivity = lp_sensitivities(A, p, sensitivities).double()
    if scheme == "sensitivity":
        return by_sensitivity
    return by_sensitivity + leverage_scores(A, "qr")


def _not_zero(A: Tensor) -> Tensor:
    """Tell which rows have an entry that is not zero."""
    if A.layout == torch.strided:
        return (A != 0).any(1)
    row_of = torch.repeat_interleave(torch.arange(len(A), device=A.device), A.crow_indices().diff())
    counts = torch.zeros(len(A), dtype=torch.int64, device=A.device)
    return counts.index_add(0, row_of, (A.values() != 0).long()) > 0


def probabilities_from_scores(scores: Tensor, size: int, *, uniform: float = 0.05) -> Float[Tensor, " n"]:
    r"""Return $q_i = \min(1, s_i/\alpha)$ with $\sum_i q_i$ equal to `size`, exactly.

    Rows of score 0 are never kept. Of the others' mass a part `uniform` is spread evenly, so that a score
    that is far too low does not make the estimate's variance explode:
    $s_i \to (1 - u) s_i / \sum_j s_j + u / \#\{j : s_j > 0\}$.

    Args:
        scores: Importance of each row, not negative, finite, shape (n,).
        size: Expected number of kept rows; where fewer have a positive score, all those are kept.
        uniform: The part u, in [0, 1].

    Raises:
        ValueError: Where `scores` is not such a vector, `size` is below 1 or `uniform` outside [0, 1].

    Examples:
        >>> probabilities_from_scores(torch.tensor([8.0, 1.0, 1.0, 0.0]), 2, uniform=0.0)
        tensor([1.0000, 0.5000, 0.5000, 0.0000])
    """
    check_scores(scores)
    if size < 1:
        raise ValueError(f"`size` (={size}) must be at least 1")
    if not 0 <= uniform <= 1:
        raise ValueError(f"`uniform` (={uniform}) must lie in [0, 1]")
    positive = scores > 0
    count = int(positive.sum())
    if count <= size:
        return positive.to(scores.dtype)
    mass = scores.double() / scores.double().max()
    mixed = (1 - uniform) * mass / mass.sum() + uniform / count
    mixed = torch.where(positive, mixed, 0.0)
    return (mixed / _alpha(mixed, size)).clamp(max=1).to(scores.dtype)


def check_scores(scores: Tensor) -> None:
    """Raise where `scores` is not a vector of finite, non-negative numbers."""
    if scores.ndim != 1 or not scores.is_floating_point():
        raise ValueError(
            f"`scores` must be a vector of floats, got shape {tuple(scores.shape)}, dtype {scores.dtype}"
        )
    bad = ~(torch.isfinite(scores) & (scores >= 0))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise ValueError(f"`scores[{first}]` (={scores[first].item()}) must be finite and not negative")


def _alpha(scores: Tensor, size: int) -> Tensor:
    """Solve sum min(1, scores / alpha) = size, for more than `size` positive scores.

    With the k largest at probability 1, alpha is (the sum of the others) / (size - k). The right k is the
    first for which the largest of the others does not exceed it; k = size - 1 always is such.
    """
    largest_first = torch.sort(scores, descending=True).values
    others = largest_first.flip(0).cumsum(0).flip(0)[:size]  # the smallest are added first: nothing cancels
    candidates = others / (size - torch.arange(size, device=scores.device))
    first = torch.argmax((largest_first[:size] <= candidates).to(torch.uint8))
    return candidates[first]


def sample_rows(q: Tensor, generator: torch.Generator | None = None) -> Coreset:
    """Keep each row independently with its probability.

    Args:
        q: Probabilities in [0, 1], shape (n,), as `sampling_probabilities` returns them.
        generator: Where the random numbers come from, on the device of `q`.

    Returns:
        The kept rows; as many as `q` sums to in expectation, with a standard deviation below its root.

    Raises:
        ValueError: Where `q` is not a vector of numbers in [0, 1].

    Examples:
        >>> sample_rows(torch.tensor([1.0, 0.0, 1.0])).indices
        tensor([0, 2])
    """
    if q.ndim != 1 or not q.is_floating_point():
        raise ValueError(f"`q` must be a vector of floats, got shape {tuple(q.shape)}, dtype {q.dtype}")
    bad = ~((q >= 0) & (q <= 1))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise ValueError(f"`q[{first}]` (={q[first].item()}) must lie in [0, 1]")
    draws = torch.rand(q.shape, dtype=torch.float64, generator=generator, device=q.device)
    indices = (draws < q).nonzero()[:, 0]
    kept = q[indices]
    return Coreset(indices, 1 / kept, kept)
