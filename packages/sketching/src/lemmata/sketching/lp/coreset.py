r"""Regression on a coreset, and how well a coreset preserves the cost of every direction.

The rows of $[A\ b]$ are scored, so that an outlier of $b$ is seen, a few are drawn, and the weighted
regression on them is solved. The paper's promise is about all directions at once: with enough rows, sampled
by their sensitivities,

$$(1 - \epsilon)\, \|A x\|_p^p \le \sum_{i \in S} \frac{1}{q_i} |a_i x|^p \le (1 + \epsilon)\, \|A x\|_p^p
\quad \text{for all } x .$$

`lp_distortion` searches for the x where that is worst. It ascends, so it finds a lower bound of the true
distortion, which no polynomial method computes for p other than 2.

References:
    D. P. Woodruff, T. Yasuda, "Sharper bounds for l_p sensitivity sampling", 2023.

Axis letters: n rows, d columns, s rows kept, k probes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.losses import PowerLoss
from lemmata.sketching.lp.problem import orthonormal_basis
from lemmata.sketching.lp.regression import LpResult, lp_regression
from lemmata.sketching.lp.sampling import Coreset, sample_rows, sampling_probabilities

__all__ = ["CoresetRegression", "lp_coreset_regression", "lp_distortion"]


@dataclass(frozen=True, eq=False)
class CoresetRegression:
    """A regression on sampled rows.

    Args:
        x: Coefficients, (d,).
        cost: Their cost over all rows, where it was asked for.
        coreset: The sampled rows, their weights and probabilities.
        fit: The regression on them, with its own cost and gap: an estimate of the cost over all rows that is
            too low, since x was fitted to it.
    """

    x: Float[Tensor, " d"]
    cost: Float[Tensor, ""] | None
    coreset: Coreset
    fit: LpResult


def lp_coreset_regression(
    A: Tensor,
    b: Tensor,
    p: float,
    size: int,
    scheme: str = "lewis",
    generator: torch.Generator | None = None,
    *,
    evaluate: bool = True,
) -> CoresetRegression:
    """Solve l_p regression on about `size` rows, drawn by their importance.

    Args:
        A: Matrix, (n, d), float32 or float64.
        b: Right-hand side, (n,).
        p: Exponent, in [1, inf).
        size: Expected number of rows, from d + 1 to n.
        scheme: How rows of [A b] are scored, as for `sampling_probabilities`: "lewis", "sensitivity",
            "root_leverage", "leverage_plus_sensitivity" or "uniform".
        generator: Where the random numbers come from.
        evaluate: Whether to compute the cost over all rows.

    Raises:
        TypeError: Where an argument is not a tensor of floats.
        ValueError: Where `p`, `size` or `scheme` is out of range or shapes do not fit.

    Warns:
        RuntimeWarning: With the rank, where the columns of [A b] are dependent.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> A = torch.randn(2000, 3, generator=generator)
        >>> b = A @ torch.tensor([1.0, 2.0, 3.0]) + 0.1 * torch.randn(2000, generator=generator)
        >>> few = lp_coreset_regression(A, b, 1, 200, generator=generator)
        >>> bool(few.cost < 1.02 * lp_regression(A, b, 1).cost)
        True
    """
    if A.ndim != 2 or b.shape != A.shape[:1]:
        raise ValueError(
            f"`b` must have as many entries as `A` rows, got {tuple(b.shape)} and {tuple(A.shape)}"
        )
    n, d = A.shape
    if not d + 1 <= size <= n:
        raise ValueError(f"`size` (={size}) must lie in [{d + 1}, {n}], from d + 1 to the number of rows")
    loss = PowerLoss(float(p))
    q = sampling_probabilities(torch.cat((A, b[:, None]), 1), p, size, scheme)
    coreset = sample_rows(q, generator)
    fit = lp_regression(coreset.take(A), coreset.take(b), p, coreset.weights.to(A.dtype))
    cost = loss.value(b.double() - A.double() @ fit.x.double()).sum() if evaluate else None
    return CoresetRegression(fit.x, cost, coreset, fit)


def lp_distortion(
    A: Tensor,
    coreset: Coreset,
    p: float,
    probes: int | Tensor = 500,
    *,
    refinements: int = 30,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return the largest $|\sum_S |a_i x|^p / q_i - \|A x\|_p^p| / \|A x\|_p^p$ found over directions x.

    Half of the probes start where single rows stand out most, those of the largest leverage, the others
    anywhere. Each then climbs away from the ratio 1 along the gradient, with a step that grows where it
    helps and halves where it does not.

    Args:
        A: Matrix, (n, d).
        coreset: Rows of it.
        p: Exponent, in [1, inf).
        probes: How many directions to try, or the directions themselves, (d, k).
        refinements: Steps of each probe.
        generator: Where the random directions come from.

    Returns:
        A lower bound of the distortion, in [0, inf); 1 where a direction is missed altogether.

    Raises:
        ValueError: Where shapes do not fit, `A` is zero, or `p`, `probes` or `refinements` is out of range.

    Examples:
        >>> A = torch.eye(3, dtype=torch.float64)
        >>> two = Coreset(torch.tensor([0, 1]), torch.ones(2), torch.ones(2))  # row 2 was not drawn
        >>> lp_distortion(A, two, 1.0, probes=8)
        1.0
    """
    loss = PowerLoss(float(p))
    if A.ndim != 2 or not A.is_floating_point():
        raise ValueError(f"`A` must be a matrix of floats, got shape {tuple(A.shape)}, dtype {A.dtype}")
    if refinements < 0:
        raise ValueError(f"`refinements` (={refinements}) must be at least 0")
    Q, _ = orthonormal_basis(A.double(), torch.finfo(A.dtype).eps * len(A))
    if Q.shape[1] == 0:
        raise ValueError("`A` is zero, which has no directions")
    z = _start(A, Q, probes, generator)
    kept, weights = coreset.take(Q), coreset.weights.to(Q)[:, None]

    def climb(z: Tensor) -> tuple[Tensor, Tensor]:
        """Return logarithms of the ratio and their gradients."""
        full, part = Q @ z, kept @ z
        scale = full.abs().amax(0)
        full, part = full / scale, part / scale
        whole, drawn = loss.value(full).sum(0), (weights * loss.value(part)).sum(0)
        slope_whole = Q.mT @ (torch.sign(full) * full.abs() ** (loss.p - 1)) / whole
        slope_drawn = kept.mT @ (weights * torch.sign(part) * part.abs() ** (loss.p - 1))
        return (drawn / whole).log(), (slope_drawn / drawn.clamp(min=1e-300) - slope_whole) / scale

    height, slope = climb(z)
    upwards = torch.sign(height)
    step = torch.full_like(height, 0.1)
    for _ in range(refinements):
        uphill = torch.nn.functional.normalize(slope, dim=0) * upwards
        tried = torch.nn.functional.normalize(z + step * uphill, dim=0)
        reached, following = climb(tried)
        better = upwards * reached > upwards * height
        z = torch.where(better, tried, z)
        height, slope = torch.where(better, reached, height), torch.where(better, following, slope)
        step = torch.where(better, 1.5 * step, step / 2)
    return torch.expm1(height).abs().max().item()


def _start(A: Tensor, Q: Tensor, probes: int | Tensor, generator: torch.Generator | None) -> Tensor:
    """Return directions of unit length in coordinates of the basis."""
    if isinstance(probes, Tensor):
        if probes.ndim != 2 or len(probes) != A.shape[1]:
            raise ValueError(f"`probes` must have shape ({A.shape[1]}, k), got {tuple(probes.shape)}")
        z = Q.mT @ (A.double() @ probes.double())
        if not z.numel() or not bool((torch.linalg.vector_norm(z, dim=0) > 0).all()):
            raise ValueError("`probes` must be directions that `A` does not map to zero")
        return torch.nn.functional.normalize(z, dim=0)
    if probes < 1:
        raise ValueError(f"`probes` (={probes}) must be at least 1")
    leverage = torch.linalg.vector_norm(Q, dim=1)
    rows = torch.topk(leverage, min(probes // 2, int((leverage > 0).sum()))).indices
    shape = (Q.shape[1], probes - len(rows))
    drawn = torch.randn(shape, dtype=Q.dtype, device=Q.device, generator=generator)
    return torch.nn.functional.normalize(torch.cat((Q[rows].mT, drawn), 1), dim=0)
