"""Principal components from mergeable sums, against LAPACK and scikit-learn's definitions."""

import io
import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.lowrank import PCASums, pca, pca_basis, pca_finish, pca_step
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(n: int = 600, d: int = 40, decay: float = 0.8, offset: float = 5.0, seed: int = 0) -> torch.Tensor:
    generator = draws(seed)
    scores = torch.randn(n, d, dtype=F64, generator=generator) * decay ** torch.arange(d, dtype=F64)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=F64, generator=generator)).Q
    return scores @ turn + offset * torch.randn(d, dtype=F64, generator=generator)


def exact(a: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(torch.cov(a.mT))
    return vectors.flip(1)[:, :rank].mT, values.flip(0)[:rank]


@pytest.mark.parametrize("passes", [1, 2, 3, 5])
def test_components_and_variances_converge_and_never_exceed(passes):
    a = table()
    components, variances = exact(a, 5)
    result = pca(RowBlocks.from_tensor(a, rows=77), 5, passes=passes)
    assert (result.explained_variance <= variances * (1 + 1e-12)).all()
    tolerance = {1: 0.3, 2: 1e-3, 3: 1e-6, 5: 1e-10}[passes]
    torch.testing.assert_close(result.explained_variance, variances, rtol=tolerance, atol=0)
    overlap = torch.linalg.svdvals(result.components @ components.mT)
    assert overlap[-1] > 1 - tolerance
    torch.testing.assert_close(
        result.components @ result.components.mT, torch.eye(5, dtype=F64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(result.mean, a.mean(0))
    assert result.certificate.passes == passes
    assert result.certificate.rows == 600


def test_ratio_and_certificate_bound_what_is_missed():
    for seed in range(10):
        a = table(decay=0.9, seed=seed)
        result = pca(a, 4, passes=1, seed=seed)
        total = float(a.var(0).sum())
        best = float(exact(a, 4)[1].sum()) / total
        actual = float(((a - a.mean(0)) @ result.components.mT).square().sum()) / (599 * total)
        assert result.certificate.captured <= actual + 1e-12
        assert best <= result.certificate.captured + result.certificate.missed + 1e-12
        torch.testing.assert_close(result.explained_variance_ratio.sum().item(), result.certificate.captured)
        values = exact(a, 40)[1]
        nearest = (result.explained_variance[0] - values).abs().min() / values[0]
        assert nearest <= result.certificate.residual + 1e-12


def test_passes_over_blocks_are_counted():
    blocks = RowBlocks.from_tensor(table(), rows=100)
    pca(blocks, 3, passes=2)
    assert blocks.passes == 2


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 20), seed=st.integers(0, 99), center=st.booleans())
def test_exact_with_as_many_columns_as_the_table(n, d, seed, center):
    a = torch.randn(n, d, dtype=F64, generator=draws(seed)) + 3
    rank = min(n, d)
    result = pca(a, rank, passes=1, center=center, oversample=d)
    held = a - a.mean(0) if center else a
    values = torch.linalg.svdvals(held)[:rank].square() / (max(1, n - 1) if center else n)
    torch.testing.assert_close(
        result.explained_variance, values, rtol=1e-8, atol=1e-11 * float(values[0] + 1)
    )


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 50), max_size=5), center=st.booleans())
def test_sums_of_any_cut_are_those_of_the_whole(cuts, center):
    a, w = table(50, 8, offset=1e3), pca_basis(8, 2, oversample=1)
    edges = [0, *sorted(cuts), 50]
    parts = [PCASums.partial(a[i:j], w, center=center) for i, j in itertools.pairwise(edges)]
    total = sum(parts[::-1], PCASums.zeros(w))
    whole = PCASums.partial(a, w, center=center).state_dict()
    for name, value in total.state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-9, msg=name)


def test_a_large_mean_costs_no_digits():
    a = table(offset=0.0)
    shifted = a + 1e7 * torch.randn(40, dtype=F64, generator=draws(9))
    plain, moved = (pca(RowBlocks.from_tensor(x, rows=50), 4) for x in (a, shifted))
    torch.testing.assert_close(moved.explained_variance, plain.explained_variance, rtol=1e-7, atol=0)


@pytest.mark.parametrize("center", [True, False])
def test_sparse_tables_stay_sparse_and_agree(center):
    a = table(offset=0.3)
    a = torch.where(a > 0.5, a, 0.0)
    expected = pca(a, 4, center=center)
    for form in (
        a.to_sparse_csr(),
        scipy.sparse.csr_array(a.numpy()),
        RowBlocks.from_tensor(a.to_sparse_csr(), 70),
    ):
        found = pca(form, 4, center=center)
        torch.testing.assert_close(found.components, expected.components, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.explained_variance, expected.explained_variance, rtol=1e-10, atol=0)
    scores = expected.transform(a.to_sparse_csr())
    torch.testing.assert_close(scores, expected.transform(a), rtol=0, atol=1e-10)


def test_standardised_columns_give_the_correlation_matrix():
    a = table() * torch.logspace(-3, 3, 40, dtype=F64)
    a[:, 7] = 2.5
    values = torch.linalg.eigvalsh(torch.corrcoef(a[:, torch.arange(40) != 7].mT)).flip(0)
    result = pca(a, 4, passes=5, standardize=True)
    torch.testing.assert_close(result.explained_variance, values[:4], rtol=1e-6, atol=0)
    assert result.scale[7] == 1
    assert pca(a, 4, passes=1, standardize=True, oversample=36).explained_variance[0] == pytest.approx(
        float(values[0])
    )


def test_scores_and_rows_are_inverse_on_low_rank():
    a = (
        torch.randn(200, 3, dtype=F64, generator=draws()) @ torch.randn(3, 12, dtype=F64, generator=draws(1))
        + 4
    )
    for standardize in (False, True):
        result = pca(a, 3, standardize=standardize)
        scores = result.transform(a)
        torch.testing.assert_close(result.inverse_transform(scores), a)
        torch.testing.assert_close(scores.var(0), result.explained_variance, rtol=1e-9, atol=0)
        torch.testing.assert_close(scores.mean(0), torch.zeros(3, dtype=F64), rtol=0, atol=1e-10)


def test_distributed_passes_equal_one_process():
    a = table()
    basis, shift = pca_basis(40, 5, seed=3), 0.0
    for last in (False, True):
        workers = [PCASums.partial(a[i : i + 150], basis) for i in range(0, 600, 150)]
        file = io.BytesIO()
        torch.save(workers[0].state_dict(), file)
        file.seek(0)
        workers[0] = PCASums.from_state_dict(torch.load(file, weights_only=True))
        workers[1] = pickle.loads(pickle.dumps(workers[1]))
        sums = (workers[0] + workers[1]) + (workers[2] + workers[3])
        if not last:
            basis, shift = pca_step(sums, basis, shift=shift)
    components, variances, mean = pca_finish(sums, basis, 5, passes=2)
    expected = pca(a, 5, passes=2, seed=3)
    torch.testing.assert_close(components, expected.components, rtol=0, atol=1e-10)
    torch.testing.assert_close(variances, expected.explained_variance)
    torch.testing.assert_close(mean, expected.mean)


def test_agrees_with_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    a = table()
    theirs = decomposition.PCA(5, svd_solver="full").fit(a.numpy())
    ours = pca(a, 5, passes=5)
    np.testing.assert_allclose(ours.explained_variance.numpy(), theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        ours.explained_variance_ratio.numpy(), theirs.explained_variance_ratio_, rtol=1e-9
    )
    np.testing.assert_allclose(np.abs(ours.components.numpy() @ theirs.components_.T), np.eye(5), atol=1e-4)


def test_float32_is_summed_in_float64():
    a = table(offset=0.0)
    result = pca(a.float() + 100, 4)
    assert result.components.dtype == result.explained_variance.dtype == torch.float32
    torch.testing.assert_close(result.explained_variance.double(), exact(a, 4)[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_scale_of_the_table_does_not_matter(scale):
    a = table()
    expected, found = pca(a, 4), pca(scale * a, 4)
    torch.testing.assert_close(found.explained_variance / scale / scale, expected.explained_variance)
    torch.testing.assert_close(found.components, expected.components)


def test_constant_tables_and_single_rows():
    constant = pca(torch.full((30, 4), 3.0, dtype=F64), 2)
    assert (constant.explained_variance < 1e-20).all()
    assert torch.isfinite(constant.components).all()
    single = pca(torch.tensor([[1.0, 2.0]], dtype=F64), 1)
    assert single.explained_variance.item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "`rank`"),
        ({"rank": 5}, r"`rank` \(=5\) must lie in \[1, 4\]"),
        ({"rank": 2, "passes": 0}, "`passes`"),
        ({"rank": 2, "oversample": -1}, "`oversample`"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        pca(torch.ones(6, 4, dtype=F64), **arguments)


def test_tables_that_cannot_be_used():
    bad = torch.ones(6, 4, dtype=F64)
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        pca(bad, 2)
    with pytest.raises(TypeError, match="int64"):
        pca(torch.ones(6, 4, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        pca(torch.ones(0, 4, dtype=F64), 1)
    with pytest.raises(ValueError, match="the blocks have 4 rows, the table 6"):
        pca(RowBlocks(lambda: [(0, torch.ones(4, 4, dtype=F64))], (6, 4)), 2)
    basis = pca_basis(4, 2)
    with pytest.raises(ValueError, match="4 columns"):
        PCASums.partial(torch.ones(3, 5, dtype=F64), basis)
    with pytest.raises(TypeError, match="int64"):
        PCASums.partial(torch.ones(3, 4, dtype=torch.int64), basis)
    with pytest.raises(ValueError, match="no rows"):
        pca_finish(PCASums.zeros(basis), basis, 2)
    with pytest.raises(ValueError, match="columns of `basis`"):
        pca_finish(PCASums.partial(torch.ones(3, 4, dtype=F64), basis), basis, 9)
