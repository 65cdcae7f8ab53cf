"""Philox against its published vectors and against Python's integers; the numbers made of it."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.operators.counter import normals, philox, signs, uniforms, words

MASK = 2**32 - 1
# The vectors that come with the authors' library, philox4x32-10: counter, key, words.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_in_integers(counter, key):
    """Ten rounds as the paper writes them."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q & MASK, (p >> 32) ^ d ^ m, p & MASK
        k, m = (k + 0x9E3779B9) & MASK, (m + 0xBB67AE85) & MASK
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_words(counter, key, expected):
    given_counter = torch.tensor(counter)[:, None]
    assert tuple(philox(given_counter, key)[:, 0].tolist()) == expected
    assert tuple(given_counter[:, 0].tolist()) == counter  # and leaves its argument alone


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, MASK), min_size=4, max_size=4), st.integers(0, MASK), st.integers(0, MASK))
def test_philox_equals_integer_arithmetic(counter, first, second):
    ours = philox(torch.tensor(counter)[:, None], (first, second))[:, 0].tolist()
    assert tuple(ours) == philox_in_integers(counter, (first, second))


@settings(max_examples=30, deadline=None)
@given(st.integers(-(2**70), 2**70), st.integers(0, 2**62), st.integers(1, 11), st.integers(0, MASK))
def test_words_are_counters_of_index_and_draw(seed, index, draws, stream):
    found = words(seed, torch.tensor([index, 3]), draws, stream=stream)[:, 0].tolist()
    key = (seed & MASK, seed >> 32 & MASK)
    expected = []
    for four in range(-(-draws // 4)):
        expected += philox_in_integers((index & MASK, index >> 32, four, stream), key)
    assert found == expected[:draws]


@pytest.mark.parametrize(("indices", "draws"), [(0, 3), (1, 0), (1, 70000), (40000, 5), (17, 5000)])
def test_words_do_not_depend_on_how_many_are_asked_for(indices, draws):
    index = torch.arange(indices)
    found = words(5, index, draws)
    assert found.shape == (draws, indices)
    if indices and draws:
        assert bool((found[: draws // 2, -1:] == words(5, index[-1:], draws // 2)).all())
        assert found.min() >= 0
        assert found.max() <= MASK


def test_words_take_indices_of_any_integer_type_and_order():
    index = torch.tensor([9, 2, 5], dtype=torch.int32)
    assert bool((words(1, index, 2) == words(1, torch.arange(10), 2)[:, [9, 2, 5]]).all())


def test_seeds_indices_and_streams_do_not_meet():
    index = torch.arange(50000)
    drawn = torch.cat([words(0, index, 1), words(1, index, 1), words(0, index, 1, stream=1)])
    for first in range(3):
        for second in range(first):
            # Equal words are Poisson with mean 50000 / 2^32.
            assert int((drawn[first] == drawn[second]).sum()) <= 2


def test_uniforms_pass_a_kolmogorov_smirnov_test():
    u = uniforms(11, torch.arange(20000), 2)
    assert scipy.stats.kstest(u.reshape(-1).numpy(), "uniform").pvalue > 1e-4
    assert 0 < float(u.min()) < float(u.max()) < 1


def test_normals_pass_a_kolmogorov_smirnov_test_and_are_uncorrelated():
    z = normals(12, torch.arange(30000), 4)
    for row in z:
        assert scipy.stats.kstest(row.numpy(), "norm").pvalue > 1e-4
    gram = z @ z.T / z.shape[1]
    assert float((gram - torch.eye(4)).abs().max()) < 5 * math.sqrt(2 / z.shape[1])  # 5 sigma
    assert normals(12, torch.arange(7), 3).shape == (3, 7)


def test_signs_are_fair():
    drawn = signs(13, torch.arange(100000), dtype=torch.float32)
    assert drawn.dtype == torch.float32
    assert abs(float(drawn.mean())) < 5 / math.sqrt(100000)  # 5 sigma
    assert set(drawn.tolist()) == {-1.0, 1.0}
