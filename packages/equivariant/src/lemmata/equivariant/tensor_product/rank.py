r"""How many fixed products, each weighted by degree, make a product with given weights on all paths.

A fixed product with weights by degree sets $W_{l_1 l_2 l_3} = a_{l_1} b_{l_2} c_{l_3}$ relative to its own
strengths, and `R` of them a sum of `R` such terms: a canonical polyadic (CP) decomposition of the tensor of
path weights, of which only the entries that exist matter. Channels mixed before and after give the same
freedom: `R` channels are `R` terms.

Axis letters used below: `I J K` degrees of inputs and output, `R` terms.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["DegreeRank", "fit_degree_rank"]


class DegreeRank(NamedTuple):
    """What `fit_degree_rank` found."""

    rank: int
    """Number of terms."""
    factors: tuple[Float[Tensor, "I R"], Float[Tensor, "J R"], Float[Tensor, "K R"]]
    """Weights by degree of the first input, the second input and the output, for each term."""
    error: float
    """Norm of the difference over the entries that exist, divided by that of the target."""


def fit_degree_rank(
    target: Tensor,
    tol: float = 1e-3,
    *,
    mask: Bool[Tensor, "I J K"] | None = None,
    max_rank: int | None = None,
    restarts: int = 3,
    sweeps: int = 100,
    generator: torch.Generator | None = None,
) -> DegreeRank:
    """Find the smallest number of degree-weighted terms that reproduce path weights.

    Alternating least squares on the entries that exist, then steps on all factors together, from several
    random starts, with one term more until the error is small enough. Every start can end above a
    decomposition that exists, so the rank found is an upper bound.

    Args:
        target: Path weights by degrees, `(L1 + 1, L2 + 1, L3 + 1)`. For a product with strengths `s`
            (`coupling_strengths`) that shall equal weights `w` along the 3j symbols, `w / s`.
        tol: Largest relative error.
        mask: Entries that exist; by default all triples of degrees that satisfy the triangle inequality.
        max_rank: Largest number of terms tried; by default as many as always suffice, the product of the two
            smaller sizes.
        restarts: Random starts for each number of terms.
        sweeps: Most sweeps of each start, and most steps after them.
        generator: Source of the random starts.

    Raises:
        ValueError: Where the target does not have three axes or is not finite on the mask, the mask has
            another shape, `tol` is not positive, or no rank up to `max_rank` is good enough.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> a, b, c = torch.rand(3, 4, 2, generator=generator)
        >>> fit_degree_rank(torch.einsum("ir,jr,kr->ijk", a, b, c), generator=generator).rank
        2
    """
    if target.ndim != 3 or not target.numel():
        raise ValueError(f"`target` must have three axes of degrees, got shape {tuple(target.shape)}")
    if not tol > 0:
        raise ValueError(f"`tol` (={tol}) must be above 0")
    exists = _triangle(target.shape, target.device) if mask is None else mask
    if exists.shape != target.shape:
        raise ValueError(
            f"`mask` must have the target's shape {tuple(target.shape)}, got {tuple(exists.shape)}"
        )
    if not target[exists].isfinite().all():
        raise ValueError("`target` must be finite wherever the mask is set")
    wanted = torch.where(exists, target, 0.0).to(torch.float64)
    first, second, _ = sorted(target.shape)
    largest = first * second if max_rank is None else max_rank
    best = float("inf")
    for rank in range(1, largest + 1):
        for _ in range(restarts):
            found = _fit(wanted, exists, rank, tol, sweeps, generator)
            if found.error <= tol:
                return found
            best = min(best, found.error)
    raise ValueError(
        f"no rank up to `max_rank` (={largest}) reaches `tol` (={tol}); smallest error {best:.2e}"
    )


def _fit(
    wanted: Tensor, exists: Tensor, rank: int, tol: float, sweeps: int, generator: torch.Generator | None
) -> DegreeRank:
    """Fit from one random start: alternate until at rest, then improve all factors together."""
    factors = [
        torch.randn(size, rank, generator=generator, dtype=wanted.dtype).to(wanted.device)
        for size in wanted.shape
    ]
    error = last = float("inf")
    for _ in range(sweeps):
        for axis in range(3):
            one, two = (factors[other] for other in range(3) if other != axis)
            factors[axis] = _solve(wanted.movedim(axis, 0), exists.movedim(axis, 0), one, two)
            factors = _even_out(factors)
        error = _error(wanted, exists, factors)
        if error <= tol or error > 0.99 * last:
            break
        last = error
    if error > tol:
        factors = _improve_together(wanted, exists, factors, tol, sweeps)
    return DegreeRank(rank, (factors[0], factors[1], factors[2]), _error(wanted, exists, factors))


def _solve(wanted_IJK: Tensor, exists_IJK: Tensor, one_JR: Tensor, two_KR: Tensor) -> Tensor:
    """Return the factor of the first axis that fits best, the other two being given."""
    design_JKR = one_JR[:, None] * two_KR
    masked = (design_JKR * exists_IJK[..., None]).flatten(1, 2)
    gram = masked.mT @ masked
    # A ridge far below the tolerance keeps rows with fewer entries than terms solvable.
    ridge = 1e-12 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp(min=1e-30)
    gram = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    right = masked.mT @ wanted_IJK.flatten(1)[..., None]
    solution: Tensor = torch.linalg.solve(gram, right)
    return solution[..., 0]


def _improve_together(
    wanted: Tensor, exists: Tensor, factors: list[Tensor], tol: float, steps: int
) -> list[Tensor]:
    """Take damped Gauss-Newton steps, which leave the flat valleys in which alternating crawls."""
    damping, error = 1e-3, _error(wanted, exists, factors)
    for _ in range(steps):
        a, b, c = factors
        eyes = [torch.eye(len(factor), dtype=wanted.dtype, device=wanted.device) for factor in factors]
        jacobian = torch.cat(
            [
                torch.einsum("ix,jr,kr->ijkxr", eyes[0], b, c).flatten(3),
                torch.einsum("ir,jx,kr->ijkxr", a, eyes[1], c).flatten(3),
                torch.einsum("ir,jr,kx->ijkxr", a, b, eyes[2]).flatten(3),
            ],
            dim=-1,
        )[exists]
        residual = (wanted - torch.einsum("ir,jr,kr->ijk", a, b, c))[exists]
        gram = jacobian.mT @ jacobian
        scale = gram.diagonal().mean().clamp(min=1e-30)
        gram.diagonal().add_(damping * scale)
        step = torch.linalg.solve(gram, jacobian.mT @ residual)
        moves = step.split([factor.numel() for factor in factors])
        tried = [factor + move.reshape(factor.shape) for factor, move in zip(factors, moves, strict=True)]
        found = _error(wanted, exists, tried)
        if found < error:
            factors, error, damping = tried, found, max(damping / 3, 1e-12)
        else:
            damping *= 4
        if error <= tol or damping > 1e6:
            break
    return factors


def _even_out(factors: list[Tensor]) -> list[Tensor]:
    """Return terms whose three factors have equal lengths, so that none grows while another shrinks."""
    lengths = torch.stack([torch.linalg.vector_norm(factor, dim=0) for factor in factors])
    mean = lengths.log().mean(0).exp()
    return [f * torch.where(mean > 0, mean / l, 0.0) for f, l in zip(factors, lengths, strict=True)]


def _error(wanted: Tensor, exists: Tensor, factors: list[Tensor]) -> float:
    """Return the relative error over the entries that exist."""
    difference = torch.where(exists, torch.einsum("ir,jr,kr->ijk", *factors) - wanted, 0.0)
    norm = torch.linalg.vector_norm(wanted).clamp(min=torch.finfo(wanted.dtype).tiny)
    return float(torch.linalg.vector_norm(difference) / norm)


def _triangle(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return which triples of degrees satisfy the triangle inequality."""
    l1, l2, l3 = torch.meshgrid(*(torch.arange(size, device=device) for size in shape), indexing="ij")
    return ((l1 - l2).abs() <= l3) & (l3 <= l1 + l2)
