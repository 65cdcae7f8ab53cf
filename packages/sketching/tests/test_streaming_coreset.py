"""Merge and reduce: bounded memory, unbiased, and nearly as good as one sampling of all rows."""

import io
import math
import pickle

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from torch import Tensor

from lemmata.sketching.lp.sampling import Coreset, sample_rows, sampling_probabilities
from lemmata.sketching.lp.streaming import StreamingCoreset
from lemmata.sketching.stream import RowBlocks, as_row_blocks


def regression(n: int, d: int, seed: int = 0) -> Tensor:
    """Return [A b] with heavy rows, heavy-tailed noise and gross errors."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, d))
    a[:20] *= 100
    a[20:60, 0] *= 40
    b = a @ rng.standard_normal(d) + rng.standard_t(2.5, n)
    b[:20] += 100 * rng.standard_normal(20)
    order = rng.permutation(n)
    return torch.from_numpy(np.column_stack((a, b))[order])


def solve_l1(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Minimise the weighted sum of |A x - b| by the dual linear program of SciPy."""
    a, b = rows[:, :-1], rows[:, -1]
    d = a.shape[1]
    solved = scipy.optimize.linprog(
        -b, A_eq=a.T, b_eq=np.zeros(d), bounds=np.column_stack((-weights, weights)), method="highs"
    )
    assert solved.success
    return -solved.eqlin.marginals


def excess(rows: np.ndarray, coreset: Coreset, optimum: float) -> float:
    """Return the relative excess cost on all rows of the regression on a coreset."""
    x = solve_l1(rows[coreset.indices.numpy()], coreset.weights.numpy())
    return float(np.abs(rows[:, :-1] @ x - rows[:, -1]).sum() / optimum - 1)


def stream(rows: Tensor, size: int, chunk: int, p: float = 1.0, seed: int = 0) -> StreamingCoreset:
    """Return the coreset of rows that came in chunks."""
    coreset = StreamingCoreset(p, size, seed=seed)
    for start in range(0, len(rows), chunk):
        coreset.partial_fit(rows[start : start + chunk])
    return coreset


def same(a: Coreset, b: Coreset) -> bool:
    """Tell whether two coresets agree to the last bit."""
    assert a.rows is not None
    assert b.rows is not None
    return (
        torch.equal(a.indices, b.indices)
        and torch.equal(a.weights, b.weights)
        and torch.equal(a.rows, b.rows)
    )


def test_excess_cost_is_at_most_twice_that_of_one_sampling():
    rows = regression(6000, 5)
    whole = rows.numpy()
    optimum = float(np.abs(whole[:, :-1] @ solve_l1(whole, np.ones(6000)) - whole[:, -1]).sum())
    generator = torch.Generator().manual_seed(0)
    q = sampling_probabilities(rows, 1, 300)
    at_once = [excess(whole, sample_rows(q, generator), optimum) for _ in range(11)]
    streamed = [excess(whole, stream(rows, 300, 512, seed=seed).coreset(), optimum) for seed in range(11)]
    assert np.median(streamed) <= 2 * np.median(at_once)


@pytest.mark.parametrize("p", [1.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_costs_are_unbiased(p):
    rows = regression(300, 2)
    x = torch.tensor([0.3, -1.0, 1.0], dtype=torch.float64)
    cost = (rows @ x).abs() ** p
    draws = torch.stack([stream(rows, 40, 300, p, seed).coreset().estimate(cost) for seed in range(120)])
    assert abs(draws.mean() - cost.sum()) <= 5 * draws.std() / math.sqrt(120)


@pytest.mark.parametrize("chunk", [1, 33, 100, 1000])
def test_every_chunking_gives_the_same_coreset(chunk):
    rows = regression(1000, 3)
    assert same(stream(rows, 50, chunk).coreset(), stream(rows, 50, 77).coreset())


def test_memory_is_bounded():
    coreset = StreamingCoreset(1.0, 20)
    most = 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        coreset.partial_fit(torch.randn(50, 3, generator=generator))
        most = max(most, coreset.rows_held)
    assert coreset.rows_seen == 5000
    assert most <= 20 * (2 + math.log2(5000 / 20))
    assert len(coreset.coreset()) == 20


def test_the_coreset_can_be_asked_for_at_any_time():
    rows = regression(500, 3)
    asked = StreamingCoreset(1.0, 30)
    for start in range(0, 500, 100):
        asked.partial_fit(rows[start : start + 100])
        coreset = asked.coreset()
        assert len(coreset) <= 30
        assert coreset.indices.max() < start + 100
        assert (rows[coreset.indices] == coreset.rows).all()
        assert coreset.weights.sum().item() == pytest.approx(start + 100, rel=0.6)
    assert same(asked.coreset(), stream(rows, 30, 500).coreset())


def test_few_rows_are_kept_as_they_are():
    rows = regression(100, 3)[:40]
    coreset = stream(rows, 50, 7).coreset()
    assert coreset.indices.tolist() == list(range(40))
    assert (coreset.weights == 1).all()


def test_row_blocks_and_offsets():
    rows = regression(900, 3)
    fitted = StreamingCoreset(1.5, 60).fit(as_row_blocks(rows, 128)).coreset()
    assert same(fitted, stream(rows, 60, 900, 1.5).coreset())
    late = StreamingCoreset(1.5, 60)
    late.partial_fit(rows[:50], 7000)
    assert late.coreset().indices.tolist() == list(range(7000, 7050))
    dense = rows * (rows.abs() > 0.5)
    blocks = RowBlocks.from_scipy(scipy.sparse.csr_array(dense.numpy()), 200)
    assert same(StreamingCoreset(1.0, 60).fit(blocks).coreset(), stream(dense, 60, 900).coreset())


def test_merged_parts_are_a_coreset_of_all_rows():
    rows = regression(3000, 4)
    whole = rows.numpy()
    optimum = float(np.abs(whole[:, :-1] @ solve_l1(whole, np.ones(3000)) - whole[:, -1]).sum())
    parts = []
    for start in range(0, 3000, 1000):
        part = StreamingCoreset(1.0, 200)
        part.partial_fit(rows[start : start + 1000], start)
        parts.append(part)
    before = [part.coreset() for part in parts]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    coreset = merged.coreset()
    assert merged.rows_seen == 3000
    assert merged.rows_held <= 200 * (2 + math.log2(15))
    assert (rows[coreset.indices] == coreset.rows).all()
    assert excess(whole, coreset, optimum) < 0.1
    assert all(same(part.coreset(), old) for part, old in zip(parts, before, strict=True))
    empty = StreamingCoreset(1.0, 200)
    assert same(empty.merge(parts[0]).coreset(), before[0])
    assert same(parts[0].merge(empty).coreset(), before[0])


def test_zero_rows_and_rank_deficient_leaves():
    rows = regression(500, 3)
    rows[::3] = 0
    rows[:, 1] = rows[:, 0]
    coreset = stream(rows, 40, 64).coreset()
    assert not (coreset.indices % 3 == 0).any()
    assert len(coreset) == 40
    nothing = StreamingCoreset(1.0, 9)
    nothing.partial_fit(torch.zeros(100, 2))
    assert nothing.rows_seen == 100


def test_state():
    rows = regression(700, 3)
    half = stream(rows[:400], 40, 90)
    buffer = io.BytesIO()
    torch.save(half.state_dict(), buffer)
    buffer.seek(0)
    loaded = StreamingCoreset.from_state_dict(torch.load(buffer, weights_only=True))
    sent = pickle.loads(pickle.dumps(half))
    for resumed in (half, loaded, sent):
        resumed.partial_fit(rows[400:])
        assert same(resumed.coreset(), stream(rows, 40, 90).coreset())


def test_the_rows_are_copied():
    rows = regression(100, 3)
    block = rows.clone()
    coreset = stream(block, 200, 100)
    block.zero_()
    assert torch.equal(coreset.coreset().rows, rows)


def test_float32_rows_stay_float32():
    coreset = stream(regression(500, 3).float(), 40, 90).coreset()
    assert coreset.rows.dtype == torch.float32
    assert coreset.weights.dtype == torch.float64


def test_bad_input():
    with pytest.raises(ValueError, match="`p`"):
        StreamingCoreset(0.9, 10)
    with pytest.raises(ValueError, match="`size`"):
        StreamingCoreset(1.0, 1)
    coreset = StreamingCoreset(1.0, 4)
    with pytest.raises(ValueError, match="no rows"):
        coreset.coreset()
    with pytest.raises(ValueError, match=r"`size` \(=4\) must exceed the 4 columns"):
        coreset.partial_fit(torch.ones(3, 4))
    coreset.partial_fit(torch.ones(3, 2))
    with pytest.raises(ValueError, match="3 columns, those before had 2"):
        coreset.partial_fit(torch.ones(3, 3))
    with pytest.raises(ValueError, match="row 1"):
        coreset.partial_fit(torch.tensor([[1.0, 1.0], [torch.nan, 1.0]]))
    assert coreset.rows_seen == 3
    with pytest.raises(ValueError, match="different seed"):
        coreset.merge(StreamingCoreset(1.0, 4, seed=1))
    with pytest.raises(ValueError, match="both hold row 0"):
        coreset.merge(coreset)
    with pytest.raises(TypeError, match="int64"):
        coreset.partial_fit(torch.ones(3, 2, dtype=torch.int64))
