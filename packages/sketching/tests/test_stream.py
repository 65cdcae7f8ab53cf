"""Matrices in pieces: every source gives the same matrix, and what does not fit is refused."""

import pickle
import resource

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.operators import SketchState, SparseSign
from lemmata.sketching.stream import RowBlocks, as_row_blocks, sketch_and_apply


def data(n, d, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def whole(blocks):
    """Put the blocks of a pass where they say they belong."""
    out = torch.full(blocks.shape, torch.nan, dtype=blocks.dtype)
    for offset, block in blocks:
        out[offset : offset + block.shape[0]] = block.to_dense() if block.is_sparse_csr else block
    return out


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 50), d=st.integers(0, 4), rows=st.integers(1, 60))
def test_a_tensor_is_cut_and_found_again(n, d, rows):
    A = data(n, d)
    blocks = RowBlocks.from_tensor(A, rows)
    for passes in (1, 2):
        assert bool((whole(blocks) == A).all())
        assert blocks.passes == passes
    assert blocks.shape == (n, d)


def test_blocks_of_a_tensor_are_views():
    A = data(10, 2)
    (_, block), *_ = RowBlocks.from_tensor(A, 4)
    assert block.data_ptr() == A.data_ptr()


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files(tmp_path, dtype, order):
    a = np.asarray(data(101, 7).numpy(), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", a)
    blocks = RowBlocks.from_memmap(tmp_path / "a.npy", rows=30)
    np.testing.assert_array_equal(whole(blocks).numpy(), a)
    assert [block.shape[0] for _, block in blocks] == [30, 30, 30, 11]
    torch.testing.assert_close(whole(pickle.loads(pickle.dumps(blocks))), whole(blocks))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_small_npy_files(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape))
    assert whole(RowBlocks.from_memmap(tmp_path / "a.npy")).shape == shape


def test_npy_files_that_do_not_serve(tmp_path):
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="not a matrix"):
        RowBlocks.from_memmap(tmp_path / "cube.npy")
    np.save(tmp_path / "whole.npy", np.ones((2, 2), dtype=int))
    with pytest.raises(TypeError, match="int64"):
        RowBlocks.from_memmap(tmp_path / "whole.npy")
    np.save(tmp_path / "cut.npy", np.ones((2000, 4)))
    blocks = RowBlocks.from_memmap(tmp_path / "cut.npy", rows=100)
    with (tmp_path / "cut.npy").open("r+b") as file:
        file.truncate(20000)
    with pytest.raises(ValueError, match="ends before"):
        whole(blocks)
    with pytest.raises(FileNotFoundError):
        RowBlocks.from_memmap(tmp_path / "none.npy")


def test_reading_a_file_holds_a_block_in_memory(tmp_path):
    file = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.float64, shape=(200_000, 100))
    del file  # 160 MB of zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, block in RowBlocks.from_memmap(tmp_path / "a.npy", rows=4096):
        assert block.shape[1] == 100
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000
    )  # kB; a map would take 160,000


def test_numpy_arrays_that_must_not_be_written(tmp_path):
    a = data(50, 3).numpy().copy()
    a.flags.writeable = False
    np.testing.assert_array_equal(whole(as_row_blocks(a, 20)).numpy(), a)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(whole(as_row_blocks(mapped, 20)).numpy(), a)
    sparse = scipy.sparse.csr_array(a)
    sparse.data.flags.writeable = False
    np.testing.assert_array_equal(whole(RowBlocks.from_scipy(sparse, 20)).numpy(), a)


def test_sparse_matrices_stay_sparse():
    a = scipy.sparse.random_array((100, 30), density=0.1, rng=np.random.default_rng(0))
    for blocks in (as_row_blocks(a, 40), as_row_blocks(torch.from_numpy(a.toarray()).to_sparse_csr(), 40)):
        assert all(block.is_sparse_csr for _, block in blocks)
        np.testing.assert_array_equal(whole(blocks).numpy(), a.toarray())


def test_blocks_of_an_iterable_are_counted():
    pieces = [data(3, 2), data(0, 2), data(5, 2)]
    blocks = RowBlocks.from_iterable(lambda: pieces, (8, 2))
    assert bool((whole(blocks) == torch.cat(pieces)).all())
    once = iter(pieces)
    spent = RowBlocks.from_iterable(lambda: once, (8, 2))
    assert whole(spent).isfinite().all()
    with pytest.raises(ValueError, match="ended after 0 of 8 rows"):
        whole(spent)
    with pytest.raises(ValueError, match="ended after 8 of 9 rows"):
        whole(RowBlocks.from_iterable(lambda: pieces, (9, 2)))
    with pytest.raises(ValueError, match="rows 3:8 outside a matrix of 7 rows"):
        whole(RowBlocks.from_iterable(lambda: pieces, (7, 2)))


def test_blocks_that_do_not_fit_are_refused():
    def blocks(block, offset=0):
        return RowBlocks(lambda: [(offset, block)], (10, 2))

    with pytest.raises(ValueError, match=r"shape \(4, 3\), not \(r, 2\)"):
        list(blocks(torch.zeros(4, 3, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        list(blocks(torch.zeros(4, dtype=torch.float64)))
    with pytest.raises(ValueError, match="rows 7:11 outside"):
        list(blocks(torch.zeros(4, 2, dtype=torch.float64), 7))
    with pytest.raises(ValueError, match="rows -1:3 outside"):
        list(blocks(torch.zeros(4, 2, dtype=torch.float64), -1))
    with pytest.raises(TypeError, match=r"row 0 is of torch\.float32, not a tensor of torch\.float64"):
        list(blocks(torch.zeros(4, 2)))
    with pytest.raises(TypeError, match="float64"):
        list(blocks(np.zeros((4, 2))))


def test_bad_sources():
    with pytest.raises(ValueError, match="`rows`"):
        RowBlocks.from_tensor(data(3, 2), 0)
    with pytest.raises(ValueError, match="must be a matrix"):
        RowBlocks.from_tensor(data(3, 2)[:, 0])
    with pytest.raises(TypeError, match="int64"):
        as_row_blocks(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="list"):
        as_row_blocks([[1.0]])
    with pytest.raises(ValueError, match="`shape`"):
        RowBlocks(list, (-1, 2))


def test_map():
    A = data(20, 3)
    blocks = RowBlocks.from_tensor(A, 6)
    mapped = blocks.map(lambda block: block.float() @ torch.ones(3, 1), 1, dtype=torch.float32)
    torch.testing.assert_close(whole(mapped), A.float().sum(1, keepdim=True))
    assert (mapped.passes, blocks.passes) == (1, 1)
    with pytest.raises(ValueError, match="made 5 rows of 6"):
        whole(blocks.map(lambda block: block[1:]))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("c", [None, 1, 3])
def test_augment(sparse, c):
    A = data(20, 3) * (data(20, 3) > 0)
    b = data(20, c or 1)
    source = RowBlocks.from_tensor(A.to_sparse_csr() if sparse else A, 6)
    expected = torch.cat((A, b), 1)
    wide = source.augment(b[:, 0] if c is None else b)
    assert bool((whole(wide) == expected).all())
    assert all(block.is_sparse_csr == sparse for _, block in wide)
    torch.testing.assert_close(whole(source.augment(RowBlocks.from_tensor(b, 6))), expected)
    narrow = RowBlocks.from_tensor(A.float(), 6).augment(b)
    assert narrow.dtype == torch.float64  # the right-hand side keeps its digits
    assert bool((whole(narrow)[:, 3:] == b).all())


def test_augment_refuses_other_rows():
    source = RowBlocks.from_tensor(data(20, 3), 6)
    with pytest.raises(ValueError, match="must have 20 rows"):
        source.augment(torch.zeros(19))
    with pytest.raises(ValueError, match="rows 0:6 meet rows 0:5 of `b`"):
        whole(source.augment(RowBlocks.from_tensor(data(20, 1), 5)))


def test_sources_are_pickled():
    blocks = RowBlocks.from_tensor(data(20, 3), 6).augment(data(20, 1)).map(torch.neg)
    assert bool((whole(pickle.loads(pickle.dumps(blocks))) == whole(blocks)).all())


def test_a_sketch_of_blocks_is_the_sketch():
    A, S, seen = data(1000, 4), SparseSign(40, 1000), []
    state = sketch_and_apply(S, RowBlocks.from_tensor(A, 300), lambda done, rows: seen.append((done, rows)))
    torch.testing.assert_close(state.value, S @ A, rtol=1e-12, atol=1e-12)
    assert seen == [(300, 1000), (600, 1000), (900, 1000), (1000, 1000)]
    assert state.complete
    single = RowBlocks.from_tensor(A.float(), 300)
    assert (S @ single).dtype == torch.float32
    assert single.passes == 1


def test_a_sketch_is_continued_where_it_stopped():
    A, S = data(1000, 4), SparseSign(40, 1000)

    def stop(done, rows):
        if done >= 600:
            raise InterruptedError

    state = SketchState.start(S, 4)
    with pytest.raises(InterruptedError):
        sketch_and_apply(S, RowBlocks.from_tensor(A, 300), stop, state=state)
    assert state.rows_seen == ((0, 600),)
    sketch_and_apply(S, RowBlocks.from_tensor(A, 300), state=state)
    assert bool((state.value == sketch_and_apply(S, RowBlocks.from_tensor(A, 300)).value).all())


def test_a_part_is_not_taken_for_the_whole():
    A, S = data(100, 2), SparseSign(40, 100)
    part = RowBlocks(lambda: [(10, A[10:60])], (100, 2))
    assert sketch_and_apply(S, part).rows_seen == ((10, 60),)
    with pytest.raises(ValueError, match=r"gave rows \(\(10, 60\),\) only, of 100"):
        S.apply(part)
    with pytest.raises(ValueError, match="must have 100 rows"):
        sketch_and_apply(S, RowBlocks.from_tensor(A[:50]))
    twice = RowBlocks(lambda: [(0, A[:60]), (50, A[50:])], (100, 2))
    with pytest.raises(ValueError, match="rows 50:60 were sketched already"):
        sketch_and_apply(S, twice)
    A[70, 1] = torch.nan
    with pytest.raises(ValueError, match="row 70 is not finite"):
        S.apply(RowBlocks.from_tensor(A, 30), check_finite=True)
