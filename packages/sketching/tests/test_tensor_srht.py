"""The tensor SRHT against Kronecker products that are formed."""

import itertools
import math
import pickle

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.operators.srht import range_signs
from lemmata.sketching.operators.tensor import TensorSRHT

SIZES = [(9, 8, 8), (9, 5, 7), (9, 16, 3), (100, 1, 3), (6, 7, 1), (4, 1, 1), (200, 3, 5)]


def khatri_rao(x, y):
    return torch.stack([torch.kron(a, b) for a, b in zip(x.T, y.T, strict=True)], 1)


@pytest.mark.parametrize("sizes", SIZES)
def test_factors_give_what_the_product_gives(sizes):
    S = TensorSRHT(*sizes, seed=7)
    x, y = torch.randn(sizes[1], 4, dtype=torch.float64), torch.randn(sizes[2], 4, dtype=torch.float64)
    product = khatri_rao(x, y)
    dense = S.to_dense()
    torch.testing.assert_close(S.apply_kron(x, y), dense @ product, rtol=0, atol=1e-12)
    torch.testing.assert_close(S @ product, dense @ product, rtol=0, atol=1e-12)
    torch.testing.assert_close(S.apply_kron(x[:, 0], y[:, 0]), S @ product[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(9, 8, 8), (12, 5, 7)])
def test_it_is_a_sample_of_a_kronecker_product_of_transforms(sizes):
    m, n1, n2 = sizes
    S = TensorSRHT(*sizes, seed=1)
    like = torch.ones(1, dtype=torch.float64)
    left = torch.as_tensor(scipy.linalg.hadamard(8) / 8**0.5, dtype=torch.float64)[:, :n1]
    right = torch.as_tensor(scipy.linalg.hadamard(8) / 8**0.5, dtype=torch.float64)[:, :n2]
    whole = torch.kron(left * range_signs(1, 0, n1, 2, like), right * range_signs(1, 0, n2, 3, like))
    torch.testing.assert_close(S.to_dense(), math.sqrt(64 / m) * whole[S.rows])


def test_batches_broadcast_to_all_pairs_of_columns():
    S = TensorSRHT(20, 6, 10, seed=2)
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
    pairs = S.apply_kron(x[:, :, None], y[:, None, :])
    assert pairs.shape == (20, 3, 4)
    torch.testing.assert_close(pairs.reshape(20, 12), S @ torch.kron(x, y), rtol=0, atol=1e-12)
    assert S.apply_kron(x[:, :0], y[:, :0]).shape == (20, 0)


@pytest.mark.parametrize("sizes", SIZES)
@settings(deadline=None, max_examples=8)
@given(data=st.data(), step=st.sampled_from([1, 3, 16, 1 << 20]))
def test_any_cut_of_the_rows_in_any_order_gives_the_same(sizes, data, step):
    S = TensorSRHT(*sizes, seed=3)
    S._rows_at_once = lambda columns: step
    n = S.shape[1]
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=5))), n]
    ranges = data.draw(st.permutations(list(itertools.pairwise(edges))))
    a, y = torch.randn(n, 2, dtype=torch.float64), torch.randn(sizes[0], 2, dtype=torch.float64)
    dense = S.to_dense()
    total = sum(S.partial(a[start:stop], start) for start, stop in ranges)
    torch.testing.assert_close(total, dense @ a, rtol=0, atol=1e-12)
    for start, stop in ranges:
        part = S.partial_t(y, start, stop - start)
        torch.testing.assert_close(part, dense.T[start:stop] @ y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n1", "n2"), [(300, 200), (3, 20_000), (20_000, 3)])
def test_long_factors(n1, n2):
    S = TensorSRHT(50, n1, n2, seed=8)
    x, y = torch.randn(n1, dtype=torch.float64), torch.randn(n2, dtype=torch.float64)
    torch.testing.assert_close(S.apply_kron(x, y), S @ torch.kron(x, y), rtol=0, atol=1e-9)


def test_products_beyond_memory():
    """A product of 10^12 entries: norms are kept on average, to 5 standard errors of the mean of 100 rows."""
    S = TensorSRHT(4096, 10**6, 10**6, seed=0)
    x, y = torch.randn(10**6, dtype=torch.float64), torch.randn(10**6, dtype=torch.float64)
    norm = float(S.apply_kron(x, y).square().sum() / (x.square().sum() * y.square().sum()))
    # The square of a product of two normal numbers has variance 8.
    assert abs(norm - 1) < 5 * math.sqrt(8 / 4096)


@pytest.mark.parametrize("sizes", [(6, 4, 4), (5, 3, 5)])
@pytest.mark.parametrize("count", [250, pytest.param(4000, marks=pytest.mark.slow)])
def test_it_is_isotropic(sizes, count):
    """The mean Gram matrix over seeds is the identity, entry by entry, to 5 standard errors."""
    grams = []
    for seed in range(count):
        dense = TensorSRHT(*sizes, seed=seed).to_dense()
        grams.append(dense.T @ dense)
    stacked = torch.stack(grams)
    error = stacked.std(0) / math.sqrt(count)
    assert bool(((stacked.mean(0) - torch.eye(stacked.shape[1])).abs() <= 5 * error + 1e-12).all())


def test_gradients_flow_to_both_factors():
    S = TensorSRHT(7, 3, 5, seed=4)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(S.apply_kron, (x, y), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(S.apply_kron, (x, y))
    a = torch.randn(15, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(S.apply, (a,))


def test_types_and_pickling():
    S = TensorSRHT(7, 3, 5, seed=4)
    x, y = torch.randn(3), torch.randn(5, dtype=torch.float64)
    assert S.apply_kron(x, x.new_ones(5)).dtype == torch.float32
    assert S.apply_kron(x, y).dtype == torch.float64
    again = pickle.loads(pickle.dumps(S))
    assert again.kind == S.kind == "tensor_srht(n1=3, n2=5)"
    assert torch.equal(again.to_dense(), S.to_dense())


@pytest.mark.parametrize(("m", "n1", "n2", "name"), [(0, 2, 2, "m"), (2, 0, 2, "n1"), (2, 2, -1, "n2")])
def test_sizes_are_positive(m, n1, n2, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        TensorSRHT(m, n1, n2)


def test_factors_are_checked():
    S = TensorSRHT(7, 3, 5)
    with pytest.raises(ValueError, match=r"`y` \(of shape \(4,\)\) must have 5 rows"):
        S.apply_kron(torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match="`x`"):
        S.apply_kron(torch.ones(()), torch.ones(5))
    with pytest.raises(TypeError, match="complex64"):
        S.apply_kron(torch.ones(3, dtype=torch.complex64), torch.ones(5))
    with pytest.raises(ValueError, match="rows 10:20 outside operator with 15 columns"):
        S.partial(torch.ones(10, 1), 10)
