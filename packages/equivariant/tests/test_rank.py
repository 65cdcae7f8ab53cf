"""Ranks of path weights: exact sums of terms are found, and what is found reproduces the target."""

import pytest
import torch

from lemmata.equivariant.expressivity import coupling_strengths
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.rank import fit_degree_rank


def triangle(*sizes):
    l1, l2, l3 = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return ((l1 - l2).abs() <= l3) & (l3 <= l1 + l2)


def reproduced(found):
    return torch.einsum("ir,jr,kr->ijk", *found.factors)


@pytest.mark.parametrize("sizes", [(2, 3, 4), (4, 4, 4), (5, 3, 6)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_sums_of_few_terms_are_found(rank, sizes):
    """One and two terms exactly; of three, alternating may miss the decomposition by a term."""
    generator = torch.Generator().manual_seed(rank)
    factors = [torch.randn(size, rank, generator=generator) for size in sizes]
    target = torch.einsum("ir,jr,kr->ijk", *factors)
    found = fit_degree_rank(target, 1e-3, generator=generator)
    assert found.rank <= rank + (rank == 3)
    mask = triangle(*sizes)
    error = torch.linalg.vector_norm((reproduced(found) - target)[mask]) / torch.linalg.vector_norm(
        target[mask]
    )
    assert error <= 1e-3
    assert found.error == pytest.approx(error.item(), abs=1e-6)


def test_entries_off_the_mask_do_not_matter():
    a, b, c = torch.randn(3, 4, 1)
    target = torch.einsum("ir,jr,kr->ijk", a, b, c)
    mask = torch.rand(4, 4, 4) < 0.7
    spoilt = torch.where(mask, target, torch.nan)
    found = fit_degree_rank(spoilt, 1e-6, mask=mask)
    assert found.rank == 1
    torch.testing.assert_close(reproduced(found)[mask].float(), target[mask], rtol=1e-4, atol=1e-5)


def test_full_matrices_of_any_weights():
    """On a full mask, a tensor with one output degree is a matrix and has its rank."""
    target = torch.randn(4, 5, 1)
    assert fit_degree_rank(target, 1e-6, mask=torch.ones(4, 5, 1, dtype=torch.bool)).rank == 4


def test_terms_rebuild_a_product_with_given_path_weights():
    """A sum of degree-weighted fixed products is the product with one weight a path."""
    lmax = 2
    wanted = torch.randn(3, 3, 3, dtype=torch.float64)
    fixed = CompleteTensorProduct(lmax, lmax, lmax, degree_weights=False, dtype=torch.float64)
    strengths = coupling_strengths(fixed)
    target = torch.where(strengths != 0, wanted / strengths, 0.0)
    found = fit_degree_rank(target, 1e-8, mask=strengths != 0)
    module = CompleteTensorProduct(lmax, lmax, lmax, channels=found.rank, dtype=torch.float64)
    with torch.no_grad():
        for parameter, factor in zip(module.parameters(), found.factors, strict=True):
            parameter.copy_(factor.mT.expand_as(parameter))
    x, y = torch.randn(2, 6, 1, 9, dtype=torch.float64)
    summed = sum(module(x, y)).sum(-2)
    from lemmata.equivariant.o3 import wigner_3j

    expected = torch.zeros(6, 9, dtype=torch.float64)
    for l1, l2, l3 in strengths.nonzero().tolist():
        u, v = x[:, 0, l1 * l1 : (l1 + 1) ** 2], y[:, 0, l2 * l2 : (l2 + 1) ** 2]
        path = torch.einsum("abm,za,zb->zm", wigner_3j(l1, l2, l3), u, v)
        expected[:, l3 * l3 : (l3 + 1) ** 2] += wanted[l1, l2, l3] * path
    torch.testing.assert_close(summed, expected, rtol=0, atol=1e-6)


def test_ranks_of_random_weights_stay_far_below_the_bound():
    ranks = [fit_degree_rank(torch.randn(size, size, size), 1e-2).rank for size in (2, 3, 4)]
    assert ranks[0] <= 2
    assert ranks[1] <= 4
    assert ranks[2] <= 6


def test_zero_weights():
    assert fit_degree_rank(torch.zeros(2, 2, 2)).error == 0.0


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.zeros(2, 2), {}, "`target` must have three axes"),
        (torch.zeros(0, 2, 2), {}, "`target` must have three axes"),
        (torch.full((2, 2, 2), torch.nan), {}, "`target` must be finite"),
        (torch.ones(2, 2, 2), {"tol": 0.0}, r"`tol` \(=0.0\) must be above 0"),
        (
            torch.ones(2, 2, 2),
            {"mask": torch.ones(2, 2, 1, dtype=torch.bool)},
            "`mask` must have the target's",
        ),
        (torch.randn(3, 3, 3), {"max_rank": 1, "tol": 1e-6}, r"no rank up to `max_rank` \(=1\)"),
    ],
)
def test_bad_input(target, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        fit_degree_rank(target, **options)
