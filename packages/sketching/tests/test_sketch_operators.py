"""What every sketch must do, run over all families; and what only some of them do."""

import functools
import io
import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from lemmata.sketching.operators import (
    SRHT,
    BlockSRHT,
    CountSketch,
    GaussianSketch,
    RowSampling,
    SketchState,
    SparseSign,
)
from lemmata.sketching.stream import RowBlocks


def row_sampling(m, n, *, seed=0, **options):
    """Draw rows with replacement, evenly: weights 1 / sqrt(m q)."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, n, (m,), generator=generator)
    return RowSampling(indices, torch.full((m,), math.sqrt(n / m)), n, **options)


FAMILIES = {
    "sparse_sign": SparseSign,
    "sparse_sign_3": lambda m, n, **options: SparseSign(m, n, 3, **options),
    "count": CountSketch,
    "gaussian": GaussianSketch,
    "srht": SRHT,
    "block_srht": lambda m, n, **options: BlockSRHT(m, n, 64, **options),
    "row_sampling": row_sampling,
}
SEEDED = sorted(set(FAMILIES) - {"row_sampling"})
every_family = pytest.mark.parametrize("family", FAMILIES)


def data(n, d, dtype=torch.float64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@every_family
def test_dense_matrix_and_product_agree(family):
    S, A = FAMILIES[family](24, 150, seed=4), data(150, 5)
    torch.testing.assert_close(S @ A, S.to_dense() @ A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(S.apply(A[:, 0]), S.to_dense() @ A[:, 0], rtol=1e-12, atol=1e-12)


@every_family
@pytest.mark.parametrize(("m", "n", "d"), [(8, 1, 3), (16, 5, 2), (8, 100, 1), (8, 100, 0), (33, 257, 4)])
def test_odd_shapes(family, m, n, d):
    if family == "srht" and m > n:
        m = 1 << (n - 1).bit_length()  # it keeps each row of the transform once
    if family == "block_srht" and m > 64:
        m = 64
    S, A = FAMILIES[family](m, n, seed=1), data(n, d)
    assert S.shape == (m, n)
    assert (S @ A).shape == (m, d)
    torch.testing.assert_close(S @ A, S.to_dense() @ A, rtol=1e-12, atol=1e-12)
    assert S.partial(A[:0], 0).abs().sum() == 0


@pytest.mark.parametrize("count", [200, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", SEEDED)
def test_expectation_of_the_gram_matrix_is_the_identity(family, count, unchecked):
    """E[S^T S] = I at n = 16, entrywise within five standard errors over so many seeds."""
    n = 16
    total, squares = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for seed in range(count):
        S = FAMILIES[family](8, n, seed=seed).to_dense()
        gram = S.T @ S
        total += gram
        squares += gram.square()
    mean = total / count
    error = ((squares / count - mean.square()).clamp_min(0) / count).sqrt()
    assert bool(((mean - torch.eye(n)).abs() <= 5 * error + 1e-12).all())


def test_row_sampling_is_unbiased():
    """The same for rows drawn with replacement: the diagonal is binomial."""
    counts = torch.stack([row_sampling(8, 16, seed=s).to_dense().square().sum(0) for s in range(500)])
    assert bool(((counts.mean(0) - 1).abs() < 5 * counts.std(0) / math.sqrt(500)).all())  # 5 sigma


@every_family
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), order=st.randoms())
def test_partial_sketches_of_any_chunking_in_any_order_sum_to_the_sketch(family, cuts, order):
    S, A = FAMILIES[family](20, 300, seed=9), data(300, 3)
    edges = sorted({0, 300, *cuts})
    pieces = list(itertools.pairwise(edges))
    order.shuffle(pieces)
    total = sum(S.partial(A[start:stop], start) for start, stop in pieces)
    torch.testing.assert_close(total, S @ A, rtol=1e-12, atol=1e-12)


@every_family
def test_adjoint_identity(family):
    S, x, y = FAMILIES[family](24, 150, seed=2), data(150, 2), data(24, 2, seed=1)
    torch.testing.assert_close(((S @ x) * y).sum(), (x * S.apply_t(y)).sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(S.partial_t(y, 40, 30), S.apply_t(y)[40:70], rtol=1e-12, atol=1e-12)


@every_family
def test_rows_far_away_cost_nothing(family):
    """A partial sketch at row 10^12 needs no memory for what lies before."""
    if family in {"row_sampling", "srht"}:
        pytest.skip("its rows are drawn from all n")
    n = 2**40
    S, block = FAMILIES[family](16, n, seed=3), data(50, 2)
    there = S.partial(block, 10**12)
    torch.testing.assert_close(there, S.partial(block[:20], 10**12) + S.partial(block[20:], 10**12 + 20))
    assert float(there.abs().sum()) > 0


@every_family
def test_dtypes(family):
    S, A = FAMILIES[family](24, 150, seed=4), data(150, 3, torch.float32)
    exact = S @ A.double()
    assert (S @ A).dtype == torch.float32
    assert S.partial(A, 0).dtype == torch.float64
    torch.testing.assert_close(S.partial(A, 0), exact, rtol=1e-12, atol=1e-12)
    moved = S.to(dtype=torch.float32)
    assert moved.partial(A, 0).dtype == torch.float32
    assert moved.to_dense().dtype == torch.float32
    torch.testing.assert_close(moved @ A, exact.float(), rtol=1e-4, atol=1e-4)
    assert (S @ A.half()).dtype == torch.float16
    assert S.dtype == torch.float64


@every_family
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_entries_are_the_same_on_a_gpu(family):
    S, A = FAMILIES[family](24, 150, seed=4), data(150, 3)
    torch.testing.assert_close((S @ A.cuda()).cpu(), S @ A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(S.to(device="cuda").to_dense().cpu(), S.to_dense(), rtol=1e-13, atol=1e-13)


@every_family
def test_gradients_of_first_and_second_order(family):
    S = FAMILIES[family](8, 40, seed=4)
    x = data(9, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda block: S.partial(block, 20), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda block: S.partial(block, 20), x)
    y = data(8, 2).requires_grad_()
    assert torch.autograd.gradcheck(S.apply_t, y)


@every_family
def test_jacobian_and_batches_by_torch_func(family):
    S, x, batch = FAMILIES[family](8, 40, seed=4), data(40, 1)[:, 0], data(120, 2).reshape(3, 40, 2)
    torch.testing.assert_close(torch.func.jacrev(S.apply)(x), S.to_dense())
    torch.testing.assert_close(torch.vmap(S.apply)(batch), S.to_dense() @ batch)


@every_family
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5])
def test_sparse_data(family, density):
    S = FAMILIES[family](24, 300, seed=4)
    a = scipy.sparse.random_array((300, 40), density=density, format="csr", rng=np.random.default_rng(0))
    expected = S @ torch.from_numpy(a.toarray())
    torch.testing.assert_close(S @ a, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(S @ a.tocsc().astype(np.float32), expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(S @ RowBlocks.from_scipy(a, rows=70), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(S @ aslinearoperator(a), expected, rtol=1e-12, atol=1e-12)


@every_family
def test_linear_operator(family):
    S = FAMILIES[family](24, 150, seed=4)
    L, x, y = S.as_linear_operator(), data(150, 2).numpy(), data(24, 2).numpy()
    assert L.shape == (24, 150)
    for result, expected in ((L @ x, S.to_dense().numpy() @ x), (L.T @ y, S.to_dense().numpy().T @ y)):
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
    assert L.matvec(x[:, 0]).shape == (24,)
    assert L.rmatvec(y[:, 0]).shape == (150,)


@every_family
def test_operators_are_pickled_and_print_themselves(family):
    S, A = FAMILIES[family](24, 150, seed=4), data(150, 2)
    again = pickle.loads(pickle.dumps(S))
    assert bool((again @ A == S @ A).all())
    assert again.kind == S.kind
    assert "24, 150" in repr(S)


@pytest.mark.parametrize("family", SEEDED)
def test_seeds_and_kinds_are_independent(family):
    first, second = (FAMILIES[family](16, 64, seed=s).to_dense() for s in (1, 2))
    assert bool((first != second).any())
    if family == "sparse_sign":
        S = SparseSign(16, 4096, 4, seed=1).to_dense()[:4]
        C = SparseSign(16, 4096, 8, seed=1).to_dense()[:4]
        # Signs of two kinds with one seed agree in half of the places where both are not zero.
        both = (S * C)[S * C != 0].sign()
        assert abs(float(both.mean())) < 5 / math.sqrt(both.numel())


@every_family
def test_states_merge_and_survive_a_file(family):
    S, A = FAMILIES[family](20, 300, seed=5), data(300, 3)
    parts = []
    for start, stop in ((120, 200), (0, 120), (200, 300)):
        state = SketchState.start(S, 3)
        state.update(S, A[start:stop], start)
        file = io.BytesIO()
        torch.save(state.state_dict(), file)
        file.seek(0)
        loaded = SketchState.start(S, 3)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        assert loaded.rows_seen == ((start, stop),)
        parts.append(loaded)
    assert not parts[0].complete
    whole = functools.reduce(lambda a, b: a + b, parts)
    assert whole.complete
    torch.testing.assert_close(whole.value, S @ A, rtol=1e-12, atol=1e-12)


def test_states_refuse_what_does_not_belong_together():
    A = data(100, 2)
    mine = SketchState.start(SparseSign(20, 100, seed=1), 2)
    mine.update(SparseSign(20, 100, seed=1), A[:50], 0)
    before = mine.value.clone()
    for other, message in (
        (SparseSign(20, 100, seed=2), "cannot merge sketches with different seeds: 1 and 2"),
        (SparseSign(20, 100, 4, seed=1), "different kinds: .*8.* and .*4"),
        (SparseSign(21, 100, seed=1), r"different shapes: \(20, 100\) and \(21, 100\)"),
    ):
        with pytest.raises(ValueError, match=message):
            mine + SketchState.start(other, 2)
        with pytest.raises(ValueError, match=message):
            mine.update(other, A[50:], 50)
        with pytest.raises(ValueError, match=message):
            mine.load_state_dict(SketchState.start(other, 2).state_dict())
    with pytest.raises(ValueError, match="numbers of columns: 2 and 3"):
        mine + SketchState.start(SparseSign(20, 100, seed=1), 3)
    with pytest.raises(ValueError, match="must have 2 columns"):
        mine.update(SparseSign(20, 100, seed=1), A[50:, :1], 50)
    with pytest.raises(ValueError, match="rows 40:50 were sketched already"):
        mine.update(SparseSign(20, 100, seed=1), A[40:60], 40)
    with pytest.raises(ValueError, match="rows 0:50 were sketched already"):
        mine + mine
    assert bool((mine.value == before).all())
    assert mine.rows_seen == ((0, 50),)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(8)))
def test_rows_seen_are_joined_in_any_order(order):
    S = CountSketch(4, 40)
    state = SketchState.start(S, 1)
    for i in order:
        assert not state.has_seen(5 * i, 5 * i + 5)
        state.update(S, torch.ones(5), 5 * i)
    assert state.rows_seen == ((0, 40),)


@every_family
def test_bad_input(family):
    S = FAMILIES[family](20, 1000, seed=0)
    with pytest.raises(ValueError, match="rows 900:1100 outside operator with 1000 columns"):
        S.partial(torch.zeros(200, 2), 900)
    with pytest.raises(ValueError, match="outside operator"):
        S.partial(torch.zeros(200, 2), -1)
    with pytest.raises(ValueError, match="must have 1000 rows"):
        S.apply(torch.zeros(999, 2))
    with pytest.raises(ValueError, match="must have 20 rows"):
        S.apply_t(torch.zeros(19, 2))
    for dtype in (torch.int64, torch.complex128, torch.bool):
        with pytest.raises(TypeError, match=str(dtype)):
            S.apply(torch.zeros(1000, 2, dtype=dtype))
    with pytest.raises(TypeError, match="ndarray"):
        S.apply(np.zeros((1000, 2)))
    with pytest.raises(ValueError, match="sparse_coo"):
        S.partial(torch.zeros(1000, 2).to_sparse_coo(), 0)
    A = data(1000, 2)
    A[[700, 800], [1, 0]] = torch.tensor([math.nan, math.inf], dtype=torch.float64)
    with pytest.raises(ValueError, match="row 700 is not finite"):
        S.apply(A, check_finite=True)
    with pytest.raises(ValueError, match="row 800 is not finite"):
        S.partial(A[750:], 750, check_finite=True)
    with pytest.raises(ValueError, match="row 700 is not finite"):
        S.apply(scipy.sparse.csr_array(A.numpy()), check_finite=True)
    with pytest.raises(TypeError, match="float16"):
        S.to(dtype=torch.float16)


def test_bad_parameters():
    for m, n, name in ((0, 5, "m"), (5, 0, "n"), (-1, 5, "m")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            SparseSign(m, n, 1)
    with pytest.raises(ValueError, match="`nnz_per_col`"):
        SparseSign(4, 10, 5)
    with pytest.raises(ValueError, match="`nnz_per_col`"):
        SparseSign(4, 10, 0)
    with pytest.raises(TypeError, match="int64"):
        GaussianSketch(4, 10, dtype=torch.int64)
    with pytest.raises(ValueError, match="`indices`"):
        RowSampling(torch.tensor([0, 10]), torch.ones(2), 10)
    with pytest.raises(ValueError, match="`weights`"):
        RowSampling(torch.tensor([0, 1]), torch.ones(3), 10)
    with pytest.raises(TypeError, match="`indices`"):
        RowSampling(torch.tensor([0.0, 1.0]), torch.ones(2), 10)


@pytest.mark.parametrize(("m", "k"), [(40, 8), (41, 8), (8, 8), (7, 1), (1200, 3)])
def test_columns_have_one_sign_in_each_band(m, k):
    S = SparseSign(m, 5000, k, seed=6).to_dense()
    edges = [i * m // k for i in range(k + 1)]
    for low, high in itertools.pairwise(edges):
        assert bool(((S[low:high] != 0).sum(0) == 1).all())
    torch.testing.assert_close(S.abs().max(0).values, torch.full((5000,), k**-0.5, dtype=torch.float64))
    hits = (S != 0).double().mean(1)
    chance = torch.cat([torch.full((b - a,), 1 / (b - a)) for a, b in itertools.pairwise(edges)])
    spread = (chance * (1 - chance) / 5000).sqrt()
    assert bool(((hits - chance).abs() <= 5.5 * spread).all())  # 5.5 sigma over at most 1200 rows
    fair = (S.sum(1) / S.abs().sum(1)).abs() * (S != 0).sum(1).sqrt()
    assert float(fair.max()) < 5.5


def test_gaussian_entries_are_normal():
    S = GaussianSketch(50, 400, seed=7).to_dense() * math.sqrt(50)
    assert scipy.stats.kstest(S.reshape(-1).numpy(), "norm").pvalue > 1e-4


def test_row_sampling_keeps_repeated_rows():
    A = data(10, 3)
    S = RowSampling(torch.tensor([7, 2, 7]), torch.tensor([1.0, 2.0, 3.0]), 10)
    torch.testing.assert_close(S @ A, torch.stack([A[7], 2 * A[2], 3 * A[7]]))
    assert S.kind != RowSampling(torch.tensor([7, 2, 7]), torch.tensor([1.0, 2.0, 4.0]), 10).kind


@pytest.mark.parametrize("layout", ["fortran", "strided", "expanded"])
def test_data_of_any_strides(layout):
    A = data(5000, 6)
    given_data = {"fortran": A.T.contiguous().T, "strided": A[::2, ::3], "expanded": A[:, :1].expand(-1, 4)}
    x = given_data[layout]
    S = SparseSign(30, x.shape[0])
    torch.testing.assert_close(S @ x, S @ x.contiguous(), rtol=1e-13, atol=1e-13)


def test_one_product_equals_scipy_over_many_pieces():
    """More rows than are drawn or multiplied at once, against SciPy's product of the dense matrix."""
    S, A = SparseSign(100, 20001, seed=8), data(20001, 7)
    expected = scipy.sparse.csr_array(S.to_dense().numpy()) @ A.numpy()
    np.testing.assert_allclose((S @ A).numpy(), expected, rtol=1e-12, atol=1e-12)
