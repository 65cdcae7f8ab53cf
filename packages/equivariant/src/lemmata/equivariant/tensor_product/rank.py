r"""How many fixed products, each weighted by degree, make a product with given weights on all paths.

A fixed product with weights by degree sets $W_{l_1 l_2 l_3} = a_{l_1} b_{l_2} c_{l_3}$ relative to its own
strengths, and `R` of them a sum of `R` such terms: a canonical polyadic (CP) decomposition of the tensor of path
weights, of which only the entries that exist matter. Channels mixed before and after give the same freedom: `R`
channels are `R` terms.

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
    sweeps: int = 300,
    generator: torch.Generator | None = None,
) -> DegreeRank:
    """Find the smallest number of degree-weighted terms that reproduce path weights.

    Alternating least squares on the entries that exist, from several random starts, with one term more until
    the error is small enough. Alternating can stall above a decomposition that exists: the rank found is an
    upper bound.

    Args:
        target: Path weights by degrees, `(L1 + 1, L2 + 1, L3 + 1)`. For a product with strengths `s`
            (`coupling_strengths`) that shall equal weights `w` along the 3j symbols, `w / s`.
        tol: Largest relative error.
        mask: Entries that exist; by default all triples of degrees that satisfy the triangle inequality.
        max_rank: Largest number of terms tried; by default as many as always suffice, the product of the two
            smaller sizes.
        restarts: Random starts for each number of terms.
        sweeps: Most sweeps of each start.
        generator: Source of the random starts.

    Raises:
        ValueError: Where the target does not have three axes or is not finite on the mask, the mask has
            another shape, `tol` is not positive, or no rank up to `max_rank` is good enough.

    Examples:
        >>> a, b, c = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
        >>> fit_degree_rank(torch.einsum("ir,jr,kr->ijk", a, b, c)).rank
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
            found = _alternate(wanted, exists, rank, tol, sweeps, generator)
            if found.error <= tol:
                return found
            best = min(best, found.error)
    raise ValueError(
        f"no rank up to `max_rank` (={largest}) reaches `tol` (={tol}); smallest error {best:.2e}"
    )


def _alternate(
    wanted: Tensor, exists: Tensor, rank: int, tol: float, sweeps: int, generator: torch.Generator | None
) -> DegreeRank:
    """Run alternating least squares from one random start, until good enough or at rest."""
    factors = [
        torch.randn(size, rank, generator=generator, dtype=wanted.dtype).to(wanted.device)
        for size in wanted.shape
    ]
    norm = torch.linalg.vector_norm(wanted).clamp(min=torch.finfo(wanted.dtype).tiny)
    error = last = float("inf")
    for sweep in range(sweeps):
        for axis in range(3):
            one, two = (factors[other] for other in range(3) if other != axis)
            factors[axis] = _solve(wanted.movedim(axis, 0), exists.movedim(axis, 0), one, two)
            # Terms of equal length, so that none grows while another shrinks.
            lengths = torch.stack([torch.linalg.vector_norm(factor, dim=0) for factor in factors])
            mean = lengths.log().mean(0).exp().nan_to_num()
            factors = [f * torch.where(l > 0, mean / l, 0.0) for f, l in zip(factors, lengths, strict=True)]
        fitted = torch.einsum("ir,jr,kr->ijk", *factors)
        error = (torch.linalg.vector_norm(torch.where(exists, fitted - wanted, 0.0)) / norm).item()
        if error <= tol or (sweep % 20 == 19 and error > 0.999 * last):
            break
        last = error if sweep % 20 == 19 else last
    return DegreeRank(rank, (factors[0], factors[1], factors[2]), error)


def _solve(wanted_IJK: Tensor, exists_IJK: Tensor, one_JR: Tensor, two_KR: Tensor) -> Tensor:
    """Return the factor of the first axis that fits best, the other two being given."""
    design_JKR = one_JR[:, None] * two_KR
    masked = (design_JKR * exists_IJK[..., None]).flatten(1, 2)
    gram = masked.mT @ masked
    # A ridge far below the tolerance keeps rows with fewer entries than terms solvable.
    ridge = 1e-12 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp(min=1e-30)
    gram = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    right = masked.mT @ wanted_IJK.flatten(1)[..., None]
    return torch.linalg.solve(gram, right)[..., 0]


def _triangle(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return which triples of degrees satisfy the triangle inequality."""
    l1, l2, l3 = torch.meshgrid(*(torch.arange(size, device=device) for size in shape), indexing="ij")
    return ((l1 - l2).abs() <= l3) & (l3 <= l1 + l2)
