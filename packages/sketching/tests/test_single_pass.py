"""One look at a matrix: accuracy, order and cut of its rows, states that merge."""

import io
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.lowrank import SinglePassSVD, single_pass_svd
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(n: int, d: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = draws(seed)
    u = torch.linalg.qr(torch.randn(n, len(values), dtype=F64, generator=generator)).Q
    v = torch.linalg.qr(torch.randn(d, len(values), dtype=F64, generator=generator)).Q
    return u * values @ v.mT


def full(result) -> torch.Tensor:
    return result.U * result.s @ result.Vh


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 60), d=st.integers(1, 40), r=st.integers(1, 20), seed=st.integers(0, 99))
def test_exact_on_matrices_of_the_rank_for_any_shape(n, d, r, seed):
    r = min(n, d, r)
    a = torch.randn(n, r, dtype=F64, generator=draws(seed)) @ torch.randn(
        r, d, dtype=F64, generator=draws(seed + 1)
    )
    result = single_pass_svd(a, r, seed)
    assert torch.linalg.vector_norm(full(result) - a) <= 1e-10 * torch.linalg.vector_norm(a)
    for basis in (result.U, result.Vh.mT):
        torch.testing.assert_close(basis.mT @ basis, torch.eye(r, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["geometric", "algebraic", "noise"])
@pytest.mark.parametrize("r", [5, 40])
def test_error_is_a_small_multiple_of_the_best_and_certified(name, r):
    values = {
        "geometric": 0.9 ** torch.arange(200, dtype=F64),
        "algebraic": 1 / torch.arange(1, 201, dtype=F64),
        "noise": torch.cat((torch.ones(r, dtype=F64), torch.full((200 - r,), 1e-2, dtype=F64))),
    }[name]
    a = with_spectrum(500, 200, values)
    blocks = RowBlocks.from_tensor(a, rows=77)
    result = single_pass_svd(blocks, r, seed=1)
    best = float(values[r:].square().sum().sqrt())
    error = float(torch.linalg.vector_norm(full(result) - a))
    assert error <= 3 * best
    assert error / 2 < result.certificate.error < 2 * error
    assert blocks.passes == result.certificate.passes == 1


def test_the_estimate_of_the_squared_error_is_unbiased():
    a = with_spectrum(80, 30, 1 / torch.arange(1, 31, dtype=F64))
    ratios = []
    for seed in range(200):
        result = single_pass_svd(a, 3, seed)
        ratios.append(float(result.certificate.error / torch.linalg.vector_norm(full(result) - a)) ** 2)
    found = torch.tensor(ratios)
    assert abs(found.mean() - 1) < 4 * found.std() / 200**0.5


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 70), max_size=6), order=st.randoms(use_true_random=False))
def test_any_cut_and_order_of_the_rows_gives_the_same(cuts, order):
    a = with_spectrum(70, 25, 0.7 ** torch.arange(25, dtype=F64))
    edges = sorted({0, 70, *cuts})
    pieces = [(start, a[start:stop]) for start, stop in itertools.pairwise(edges)]
    order.shuffle(pieces)
    run = SinglePassSVD((70, 25), 4, seed=5)
    for start, piece in pieces:
        run.partial_fit(piece, start)
    torch.testing.assert_close(full(run.finalise()), full(single_pass_svd(a, 4, 5)), rtol=0, atol=1e-11)


def test_workers_merge_after_a_journey():
    a = with_spectrum(90, 40, 0.7 ** torch.arange(40, dtype=F64))
    workers = [SinglePassSVD((90, 40), 5, seed=2) for _ in range(3)]
    for i, start in enumerate(range(0, 90, 15)):
        workers[i % 3].partial_fit(a[start : start + 15], start)
    file = io.BytesIO()
    torch.save(workers[1].state_dict(), file)
    file.seek(0)
    restored = SinglePassSVD.from_state_dict(torch.load(file, weights_only=True))
    merged = workers[0].merge(restored).merge(pickle.loads(pickle.dumps(workers[2])))
    assert merged.rows_seen == ((0, 90),)
    torch.testing.assert_close(full(merged.finalise()), full(single_pass_svd(a, 5, 2)), rtol=0, atol=1e-11)


def test_sparse_and_float32_rows():
    a = with_spectrum(90, 40, 0.5 ** torch.arange(40, dtype=F64))
    a = torch.where(a.abs() > 0.02, a, 0.0)
    dense = single_pass_svd(a, 30)
    torch.testing.assert_close(full(single_pass_svd(a.to_sparse_csr(), 30)), full(dense), rtol=0, atol=1e-10)
    narrow = single_pass_svd(a.float(), 30)
    assert narrow.U.dtype == torch.float32
    torch.testing.assert_close(full(narrow).double(), full(dense), rtol=0, atol=1e-5)


def test_rows_are_taken_once_and_all():
    a = torch.ones(10, 4, dtype=F64)
    run = SinglePassSVD((10, 4), 1)
    run.partial_fit(a[:4], 0)
    with pytest.raises(ValueError, match="rows 2:4 were seen before"):
        run.partial_fit(a[:4], 2)
    with pytest.raises(ValueError, match="row 4 was not seen"):
        run.finalise()
    other = SinglePassSVD((10, 4), 1)
    other.partial_fit(a[:1], 3)
    with pytest.raises(ValueError, match="rows 3:4 were seen before"):
        run.merge(other)
    with pytest.raises(ValueError, match="different seed: 0 and 1"):
        run.merge(SinglePassSVD((10, 4), 1, seed=1))
    with pytest.raises(ValueError, match="different shape"):
        run.merge(SinglePassSVD((11, 4), 1))


def test_bad_rows_change_nothing():
    run = SinglePassSVD((10, 4), 1)
    bad = torch.ones(3, 4, dtype=F64)
    bad[1, 2] = float("nan")
    with pytest.raises(ValueError, match="row 6 has an entry"):
        run.partial_fit(bad, 5)
    with pytest.raises(ValueError, match="rows 8:11 outside a matrix of 10 rows"):
        run.partial_fit(bad, 8)
    with pytest.raises(ValueError, match="must have 4 columns"):
        run.partial_fit(torch.ones(3, 5, dtype=F64), 0)
    with pytest.raises(TypeError, match="int64"):
        run.partial_fit(torch.ones(3, 4, dtype=torch.int64), 0)
    assert run.rows_seen == ()
    run.partial_fit(torch.ones(0, 4, dtype=F64), 3)
    assert run.rows_seen == ()


@pytest.mark.parametrize("rank", [0, 5])
def test_ranks_out_of_range(rank):
    with pytest.raises(ValueError, match=r"must lie in \[1, 4\]"):
        SinglePassSVD((10, 4), rank)


def test_types_without_fractions():
    with pytest.raises(TypeError, match="int64"):
        SinglePassSVD((10, 4), 1, dtype=torch.int64)
