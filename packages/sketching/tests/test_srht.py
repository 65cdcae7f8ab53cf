"""Subsampled randomised Hadamard transforms against matrices built entry by entry with SciPy."""

import io
import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.operators.operator import SketchState
from lemmata.sketching.operators.srht import SRHT, BlockSRHT, choose_rows, next_power_of_two, range_signs
from lemmata.sketching.stream import RowBlocks

FAMILIES = [
    pytest.param(SRHT, (7, 100), id="srht"),
    pytest.param(SRHT, (300, 100), id="srht, m above p"),
    pytest.param(SRHT, (3, 1), id="srht, n=1"),
    pytest.param(BlockSRHT, (7, 100, 16), id="block"),
    pytest.param(BlockSRHT, (40, 100, 16), id="block, m above block_rows"),
    pytest.param(BlockSRHT, (9, 5, 64), id="block, one of them"),
    pytest.param(BlockSRHT, (4, 10, 1), id="block of one row"),
]


def cuts(data, n):
    inside = data.draw(st.lists(st.integers(0, n), max_size=5))
    edges = [0, *sorted(inside), n]
    return data.draw(st.permutations(list(itertools.pairwise(edges))))


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_any_cut_of_the_rows_in_any_order_gives_the_same(family, sizes, data, seed):
    S = family(*sizes, seed=seed)
    n = S.shape[1]
    a = torch.randn(n, 3, dtype=torch.float64)
    total = sum(S.partial(a[start:stop], start) for start, stop in cuts(data, n))
    torch.testing.assert_close(total, S @ a, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_the_matrix_and_its_transpose(family, sizes):
    S = family(*sizes, seed=5)
    m, n = S.shape
    dense = S.to_dense()
    a, y = torch.randn(n, 4, dtype=torch.float64), torch.randn(m, 2, dtype=torch.float64)
    torch.testing.assert_close(dense.abs(), torch.full((m, n), 1 / math.sqrt(m), dtype=torch.float64))
    torch.testing.assert_close(S @ a, dense @ a, rtol=0, atol=1e-12)
    torch.testing.assert_close(S @ a[:, 0], dense @ a[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(S.apply_t(y), dense.T @ y, rtol=0, atol=1e-12)
    for start, rows in ((0, n), (n // 3, n // 2), (n - 1, 1), (n, 0)):
        torch.testing.assert_close(
            S.partial_t(y, start, rows), dense.T[start : start + rows] @ y, rtol=0, atol=1e-12
        )


def test_srht_is_signs_transform_and_sample():
    S = SRHT(20, 50, seed=9)
    signs = range_signs(9, 0, 50, 2, torch.ones(1, dtype=torch.float64))
    orthonormal = torch.as_tensor(scipy.linalg.hadamard(64) / 8, dtype=torch.float64)
    expected = math.sqrt(64 / 20) * orthonormal[S.rows, :50] * signs
    torch.testing.assert_close(S.to_dense(), expected)


def test_block_srht_shares_its_sample_and_signs_its_rows():
    S = BlockSRHT(6, 40, 16, seed=2)
    orthonormal = torch.as_tensor(scipy.linalg.hadamard(16) / 4, dtype=torch.float64)
    dense = S.to_dense() / math.sqrt(16 / 6)
    for start in (0, 16, 32):
        block = dense[:, start : start + 16]
        ratio = block / orthonormal[S.rows][:, : block.shape[1]]
        assert torch.linalg.matrix_rank(ratio) == 1
        torch.testing.assert_close(ratio.abs(), torch.ones_like(ratio))
    ratios = [dense[:, start] / orthonormal[S.rows, 0] for start in (0, 16, 32)]
    assert not torch.equal(ratios[0], ratios[1]) or not torch.equal(ratios[1], ratios[2])


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        pytest.param(SRHT, (6, 16), id="srht"),
        pytest.param(SRHT, (12, 13), id="srht, padded, over half"),
        pytest.param(SRHT, (21, 16), id="srht, m above p"),
        pytest.param(BlockSRHT, (6, 16, 8), id="block"),
    ],
)
@pytest.mark.parametrize("count", [250, pytest.param(4000, marks=pytest.mark.slow)])
def test_it_is_isotropic(family, sizes, count):
    """The mean Gram matrix over seeds is the identity, entry by entry, to 5 standard errors."""
    total, squares = 0.0, 0.0
    for seed in range(count):
        dense = family(*sizes, seed=seed).to_dense()
        gram = dense.T @ dense
        total, squares = total + gram, squares + gram.square()
    mean = total / count
    error = ((squares / count - mean.square()).clamp_min(0) / count).sqrt()
    assert bool(((mean - torch.eye(len(mean))).abs() <= 5 * error + 1e-12).all())


@pytest.mark.parametrize(("family", "sizes"), [(SRHT, (800, 5000)), (BlockSRHT, (800, 5000, 2048))])
@pytest.mark.parametrize("coherent", [False, True])
def test_it_embeds_a_subspace(family, sizes, coherent):
    """Singular values of S Q lie within 1.25 sqrt(d / m) of one, and 0.05 more."""
    d = 50
    a = torch.randn(sizes[1], d, dtype=torch.float64)
    if coherent:
        a[:d] += 1e4 * torch.eye(d, dtype=torch.float64)
    q = torch.linalg.qr(a).Q
    values = torch.linalg.svdvals(family(*sizes, seed=1) @ q)
    assert float((values - 1).abs().max()) <= 1.25 * math.sqrt(d / sizes[0]) + 0.05


def test_large_blocks_are_cut_as_small_ones():
    """More rows than are transformed together, from an offset that no power of two divides."""
    n = 40_000
    a = torch.randn(n, 2, dtype=torch.float64)
    for S in (SRHT(9, n), BlockSRHT(9, n, 4096), BlockSRHT(9, n, 1 << 40), BlockSRHT(9, n, 512)):
        S._rows_at_once = lambda columns: 4096
        padded = torch.zeros(n, 2, dtype=torch.float64)
        padded[777:] = a[777:]
        torch.testing.assert_close(S.partial(a[777:], 777), S @ padded, rtol=0, atol=1e-11)


def test_rows_beyond_memory():
    """An operator of 2^40 columns needs memory for its m rows alone."""
    S = SRHT(50, 1 << 40, seed=3)
    block = torch.randn(100, 2, dtype=torch.float64)
    whole = S.partial(block, (1 << 39) - 37)
    parts = S.partial(block[:37], (1 << 39) - 37) + S.partial(block[37:], 1 << 39)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)
    entries = S.partial_t(torch.eye(50, dtype=torch.float64), (1 << 39) - 37, 100)
    torch.testing.assert_close(whole, entries.T @ block, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "sizes"), [(SRHT, (30, 500)), (BlockSRHT, (30, 500, 128))])
def test_types_layouts_and_streams(family, sizes):
    S = family(*sizes, seed=4)
    a = torch.randn(500, 6, dtype=torch.float64) * (torch.rand(500, 6) < 0.1)
    expected = S @ a
    single = S @ a.to(torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)
    assert S.to(dtype=torch.float32).partial(a.float(), 0).dtype == torch.float32
    torch.testing.assert_close(S @ scipy.sparse.csr_array(a.numpy()), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(S @ RowBlocks.from_tensor(a, 99), expected, rtol=0, atol=1e-12)
    operator = S.as_linear_operator()
    np.testing.assert_allclose(operator @ a.numpy(), expected.numpy(), atol=1e-12)
    assert (S @ torch.empty(500, 0)).shape == (30, 0)
    assert bool((S.partial(torch.empty(0, 6), 17) == 0).all())


@pytest.mark.parametrize(("family", "sizes"), [(SRHT, (5, 9)), (BlockSRHT, (5, 9, 4))])
def test_gradients_flow(family, sizes):
    S = family(*sizes, seed=4)
    a = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(S.apply, (a,))
    assert torch.autograd.gradcheck(lambda block: S.partial(block, 3), (a[3:8].detach().requires_grad_(),))
    y = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(S.apply_t, (y,))


@pytest.mark.parametrize(("family", "sizes"), [(SRHT, (5, 90)), (BlockSRHT, (5, 90, 32))])
def test_it_survives_pickling_and_states_add_up(family, sizes):
    S = family(*sizes, seed=11)
    again = pickle.loads(pickle.dumps(S))
    assert again.kind == S.kind
    assert torch.equal(again.to_dense(), S.to_dense())
    a = torch.randn(90, 2, dtype=torch.float64)
    first, second = SketchState.start(S, 2), SketchState.start(S, 2)
    first.update(S, a[40:], 40)
    second.update(again, a[:40], 0)
    file = io.BytesIO()
    torch.save((first + second).state_dict(), file)
    file.seek(0)
    loaded = SketchState.start(S, 2)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(loaded.value, S @ a, rtol=0, atol=1e-12)
    other = SketchState.start(family(*sizes, seed=12), 2)
    with pytest.raises(ValueError, match="11 and 12"):
        first + other


def test_seeds_and_kinds_differ():
    assert not torch.equal(SRHT(5, 90, seed=1).to_dense(), SRHT(5, 90, seed=2).to_dense())
    assert BlockSRHT(5, 90, 32).kind != BlockSRHT(5, 90, 64).kind


@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (-1, 5)])
def test_sizes_are_positive(m, n):
    for make in (lambda: SRHT(m, n), lambda: BlockSRHT(m, n, 4)):
        with pytest.raises(ValueError, match="must be at least 1"):
            make()


@pytest.mark.parametrize("block_rows", [0, -4, 3, 100])
def test_blocks_are_powers_of_two(block_rows):
    with pytest.raises(ValueError, match=rf"`block_rows` \(={block_rows}\) must be a power of two"):
        BlockSRHT(5, 100, block_rows)


def test_rows_outside_are_refused():
    with pytest.raises(ValueError, match="rows 900:1100 outside operator with 1000 columns"):
        SRHT(5, 1000).partial(torch.ones(200, 1), 900)
    with pytest.raises(TypeError, match="int64"):
        SRHT(5, 10).apply(torch.ones(10, dtype=torch.int64))


@pytest.mark.parametrize(("p", "count"), [(16, 5), (16, 8), (16, 11), (16, 16), (4, 1), (1, 1)])
def test_every_row_is_as_likely_as_another(p, count):
    """Counts of rows and of pairs over 600 seeds, by chi-square at one in ten thousand."""
    seeds = 600
    chosen = torch.zeros(seeds, p, dtype=torch.float64)
    for seed in range(seeds):
        rows = choose_rows(seed, count, p)
        assert rows.unique().numel() == count
        assert rows.min() >= 0
        assert rows.max() < p
        chosen[seed, rows] = 1
    together = chosen.T @ chosen
    if count == p:
        assert bool((together == seeds).all())
        return
    # Inclusion is negatively correlated, so the plain statistics have smaller tails than chi-square.
    single = together.diagonal()
    expected = seeds * count / p
    statistic = float(((single - expected) ** 2 / (expected * (1 - count / p))).sum()) * (p - 1) / p
    assert statistic < scipy.stats.chi2.isf(1e-4, p - 1)
    if count > 1:
        pairs = together[np.triu_indices(p, 1)]
        likely = count * (count - 1) / (p * (p - 1))
        deviation = (pairs - seeds * likely).abs() / math.sqrt(seeds * likely * (1 - likely))
        assert float(deviation.max()) < 4.5


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(-(2**63), 2**63), level=st.integers(1, 62), count=st.integers(1, 300))
def test_samples_nest_while_they_are_small(seed, level, count):
    """The first distinct draws stay the first however many are wanted."""
    p = 1 << level
    count = min(count, p // 2)
    larger = choose_rows(seed, min(2 * count, p // 2), p)
    smaller = choose_rows(seed, count, p)
    assert bool(torch.isin(smaller, larger).all())
    assert bool((smaller.diff() > 0).all())
    assert int(smaller[0]) >= 0
    assert int(smaller[-1]) < p


@pytest.mark.parametrize(("count", "p"), [(10, 4), (8, 4), (5, 1), (7, 8)])
def test_more_rows_than_there_are_come_in_rounds(count, p):
    counts = torch.bincount(choose_rows(3, count, p), minlength=p)
    assert set(counts.tolist()) <= {count // p, count // p + 1}
    assert int(counts.sum()) == count


def test_signs_are_fair_and_independent_of_the_range():
    like = torch.ones(1, dtype=torch.float64)
    signs = range_signs(1, 0, 100_000, 2, like)
    assert abs(float(signs.mean())) < 5 / math.sqrt(100_000)
    lags = [float((signs[:-k] * signs[k:]).mean()) for k in (1, 2, 31, 32, 33, 64, 127, 128, 129)]
    assert max(map(abs, lags)) < 5 / math.sqrt(99_000)
    assert torch.equal(range_signs(1, 777, 500, 2, like), signs[777:1277])
    assert not torch.equal(range_signs(1, 0, 500, 3, like), signs[:500])
    assert range_signs(1, 5, 0, 2, like).shape == (0,)


def test_powers_of_two():
    assert [next_power_of_two(n) for n in (1, 2, 3, 4, 5, 1 << 40, (1 << 40) + 1)] == [
        1,
        2,
        4,
        4,
        8,
        1 << 40,
        1 << 41,
    ]
