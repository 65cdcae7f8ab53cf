"""The fast Walsh-Hadamard transform against SciPy's matrix and a butterfly written here."""

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.operators import hadamard
from lemmata.sketching.operators.hadamard import fwht, hadamard_rows, hadamard_rows_t

RTOL = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def matrix(n):
    return torch.as_tensor(scipy.linalg.hadamard(n), dtype=torch.float64)


def butterfly(x):
    """Add and subtract halves, level by level."""
    n, h = len(x), 1
    while h < n:
        pairs = x.reshape(n // (2 * h), 2, h, -1)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), 1).reshape(x.shape)
        h *= 2
    return x


@pytest.mark.parametrize("level", range(9))
@pytest.mark.parametrize("columns", [(), (1,), (3,), (2, 5), (40,)])
def test_it_is_scipys_matrix(level, columns):
    n = 1 << level
    x = torch.randn(n, *columns, dtype=torch.float64)
    expected = torch.tensordot(matrix(n), x, 1)
    torch.testing.assert_close(fwht(x, normalize=False), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(fwht(x), expected / n**0.5, rtol=0, atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    level=st.integers(0, 12),
    before=st.integers(1, 3),
    after=st.integers(1, 40),
    tile=st.integers(12, 16),
    single=st.booleans(),
)
def test_tiles_of_any_size_give_the_butterfly(level, before, after, tile, single):
    """Small tiles take the passes over columns that only long data takes otherwise."""
    dtype = torch.float32 if single else torch.float64
    x = torch.randn(before, 1 << level, after, dtype=dtype)
    default = hadamard._TILE
    try:
        hadamard._TILE = 1 << tile
        found = fwht(x, dim=1, normalize=False)
    finally:
        hadamard._TILE = default
    expected = torch.stack([butterfly(part) for part in x.to(torch.float64)])
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= RTOL[dtype] * scale


@pytest.mark.parametrize(("n", "d"), [(1 << 17, 3), (1 << 20, 1), (1 << 13, 33), (2, 300_000)])
def test_long_and_wide_data(n, d):
    x = torch.randn(n, d, dtype=torch.float64)
    torch.testing.assert_close(fwht(x, normalize=False), butterfly(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "s"), [(8, 1), (4096, 3), (1024, 40)])
def test_whole_stages_as_on_a_gpu_agree(n, s):
    x = torch.randn(n * s, dtype=torch.float64)
    staged = hadamard._staged(x, n, s, normalize=True)
    torch.testing.assert_close(staged, fwht(x.reshape(n, s)).reshape(-1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", RTOL)
def test_it_is_orthonormal_and_its_own_inverse(dtype):
    x = torch.randn(256, 7).to(dtype)
    y = fwht(x)
    assert y.dtype == dtype
    scale = float(x.abs().max())
    assert float((fwht(y) - x).abs().max()) <= 4 * RTOL[dtype] * scale
    assert float(y.double().square().sum() / x.double().square().sum() - 1) < RTOL[dtype]


def test_it_leaves_its_argument_alone():
    for n in (1, 4):
        x = torch.ones(n, 2)
        y = fwht(x)
        y += 1
        assert bool((x == 1).all())


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_any_axis_of_strided_data(dim):
    x = torch.randn(8, 4, 16, dtype=torch.float64).permute(2, 0, 1)
    n = x.shape[dim]
    expected = torch.tensordot(matrix(n), x.movedim(dim, 0), 1).movedim(0, dim) / n**0.5
    torch.testing.assert_close(fwht(x, dim), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (0, 4, 0)])
def test_empty_data_stays_empty(shape):
    assert fwht(torch.empty(shape), dim=shape.index(4)).shape == shape


def test_derivatives_of_all_kinds():
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fwht, (x, 0), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: fwht(x, 0, normalize=False).pow(3), (x,))


def test_it_composes_with_func():
    x = torch.randn(4, dtype=torch.float64)
    expected = matrix(4) / 2
    torch.testing.assert_close(torch.func.jacrev(fwht)(x), expected)
    torch.testing.assert_close(torch.func.jacfwd(fwht)(x), expected)
    batch = torch.randn(3, 8, 5, dtype=torch.float64)
    for axis in range(3):
        dim = 0 if axis == 1 else 1
        if batch.movedim(axis, 0).shape[1 + dim] == 8:
            found = torch.func.vmap(lambda x, dim=dim: fwht(x, dim), in_dims=axis)(batch)
            each = torch.stack([fwht(part, dim) for part in batch.unbind(axis)])
            torch.testing.assert_close(found, each)
    hessian = torch.func.hessian(lambda x: fwht(x).pow(4).sum())(x)
    torch.testing.assert_close(hessian, expected @ torch.diag(12 * (expected @ x) ** 2) @ expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match=str(dtype)):
        fwht(torch.ones(4).to(dtype))


@pytest.mark.parametrize(
    ("shape", "dim", "words"),
    [
        ((3,), 0, "3 entries"),
        ((4, 12), 1, "12 entries"),
        ((0,), 0, "0 entries"),
        ((), 0, "scalar"),
        ((4,), 1, "dim"),
    ],
)
def test_other_shapes_are_refused(shape, dim, words):
    with pytest.raises(ValueError, match=words):
        fwht(torch.ones(shape), dim)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), level=st.integers(0, 8), columns=st.integers(0, 3))
def test_rows_of_a_range_of_columns(data, level, columns):
    p = 1 << level
    start = data.draw(st.integers(0, p))
    stop = data.draw(st.integers(start, p))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, p - 1), max_size=12)), dtype=torch.int64)
    x = torch.randn(stop - start, columns, dtype=torch.float64)
    y = torch.randn(len(rows), columns, dtype=torch.float64)
    part = matrix(p)[rows, start:stop]
    torch.testing.assert_close(hadamard_rows(x, start, rows), part @ x, rtol=0, atol=1e-12)
    torch.testing.assert_close(hadamard_rows_t(y, start, stop - start, rows), part.T @ y, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(offset=st.integers(0, 1 << 50), n=st.integers(1, 1 << 20))
def test_a_range_takes_two_aligned_blocks_of_less_than_twice_its_length(offset, n):
    pieces = list(hadamard._aligned(offset, n))
    assert len(pieces) <= 2
    assert sum(order for _, order, _, _ in pieces) < 2 * n or n == 1
    covered = 0
    for corner, order, start, stop in pieces:
        assert corner % order == 0
        assert corner <= offset + start < offset + stop <= corner + order
        assert start == covered
        covered = stop
    assert covered == n


def test_rows_far_out():
    """Entries are signs by the parity of common bits, whatever the size of the indices."""
    offset, rows = (1 << 40) - 3, [0, 5, (1 << 41) + 7, (1 << 40) - 1]
    expected = [
        [float((-1) ** (row & column).bit_count()) for column in range(offset, offset + 6)] for row in rows
    ]
    found = hadamard_rows(torch.eye(6, dtype=torch.float64), offset, torch.tensor(rows))
    assert found.tolist() == expected
