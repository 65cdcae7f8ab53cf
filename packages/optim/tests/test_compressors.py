"""Compressors: the contraction that they promise, exact messages, sizes, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.optim.communication import Compressor, LowRank, Quantize, RandK, SignNorm, TopK
from lemmata.optim.communication.compressors import SAMPLED_FROM


def make(name: str, generator: torch.Generator | None = None) -> Compressor:
    return {
        "top": lambda: TopK(0.1),
        "top 3": lambda: TopK(k=3),
        "random": lambda: RandK(0.1, generator),
        "shared": lambda: RandK(0.1, generator or torch.Generator(), shared=True),
        "sign": SignNorm,
        "sign in blocks": lambda: SignNorm(block=7),
        "rank 2": lambda: LowRank(2, generator=generator),
        "rank 1, two iterations": lambda: LowRank(1, iterations=2, generator=generator),
        "2 bits": lambda: Quantize(2),
        "4 bits": lambda: Quantize(4),
        "8 bits in blocks": lambda: Quantize(8, block=16),
    }[name]()


NAMES = [
    "top", "top 3", "random", "shared", "sign", "sign in blocks", "rank 2", "rank 1, two iterations",
    "2 bits", "4 bits", "8 bits in blocks",
]  # fmt: skip
RANDOM = {"random", "shared", "rank 2", "rank 1, two iterations"}


def vectors(d: int) -> dict[str, Tensor]:
    sparse = torch.zeros(d, dtype=torch.float64)
    sparse[d // 2] = -3.0
    half_steps = torch.full((d,), 0.5, dtype=torch.float64)
    half_steps[0] = 1.0
    return {
        "Gaussian": torch.randn(d, dtype=torch.float64),
        "sparse": sparse,
        "constant": torch.full((d,), -2.0, dtype=torch.float64),
        "zero": torch.zeros(d, dtype=torch.float64),
        "heavy": torch.randn(d, dtype=torch.float64).pow(7),
        "half steps": half_steps,
        "identity matrix": torch.eye(int(d**0.5), dtype=torch.float64).flatten(),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d", [9, 64, 100])
def test_contracts(name: str, d: int) -> None:
    """Every draw for deterministic compressors; the mean over 4000 draws, with its error, for random ones."""
    compressor = make(name, torch.Generator().manual_seed(0))
    for kind, x in vectors(d).items():
        rows = x.expand(4000 if name in RANDOM else 1, -1)
        lost = (compressor.decompress(compressor.compress(rows)) - rows).square().sum(-1)
        if name == "shared":  # one draw for all rows
            drawn = [compressor.decompress(compressor.compress(x)) - x for _ in range(1500)]
            lost = torch.stack(drawn).square().sum(-1)
        sampling = 4 * lost.std() / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        bound = (1 - compressor.delta(x.numel())) * x.square().sum()
        assert lost.mean() <= bound + sampling + 1e-12, (kind, d)


@given(
    entries=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    name=st.sampled_from(["top", "sign", "sign in blocks", "2 bits", "4 bits", "8 bits in blocks"]),
)
@settings(deadline=None, max_examples=60)
def test_deterministic_compressors_contract_every_vector(entries: list[float], name: str) -> None:
    x = torch.tensor(entries, dtype=torch.float64)
    compressor = make(name)
    lost = (compressor.decompress(compressor.compress(x)) - x).square().sum()
    bound = (1 - compressor.delta(len(x))) * x.square().sum()
    assert lost <= bound * (1 + 1e-9) + 1e-300


def test_the_promised_contractions_are_attained() -> None:
    """Vectors for which no larger delta would be true."""
    d = 64
    one_hot = torch.eye(d, dtype=torch.float64)[0]
    constant = torch.ones(d, dtype=torch.float64)
    half = torch.full((d,), 0.5, dtype=torch.float64)
    half[0] = 1.0
    for compressor, x in (
        (TopK(0.125), constant),
        (SignNorm(), one_hot),
        (Quantize(2), half),
        (Quantize(4), torch.cat([torch.ones(1), torch.full((d - 1,), 0.5 / 7)]).double()),
    ):
        lost = (compressor.decompress(compressor.compress(x)) - x).square().sum() / x.square().sum()
        assert lost >= 0.99 * (1 - compressor.delta(d)), compressor
    gaussian = torch.randn(20_000, dtype=torch.float64)
    sign = SignNorm()
    lost = (sign.decompress(sign.compress(gaussian)) - gaussian).square().sum() / gaussian.square().sum()
    assert float(1 - lost) == pytest.approx(2 / math.pi, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_are_those_of_the_parts(name: str, dtype: torch.dtype) -> None:
    compressor = make(name, torch.Generator().manual_seed(0))
    x = torch.randn(3, 50, dtype=dtype)
    message = compressor.compress(x)
    assert compressor.bytes(message) == sum(part.numel() * part.itemsize for part in message.parts)
    decompressed = compressor.decompress(message)
    assert decompressed.shape == x.shape
    assert decompressed.dtype == dtype
    total = torch.ones_like(x)
    assert compressor.add_to(total, message, -2.0) is total
    torch.testing.assert_close(total, 1 - 2 * decompressed)


def test_sizes_in_bytes() -> None:
    x = torch.randn(1000)
    sizes = {
        TopK(0.01): 10 * 8,
        RandK(0.01): 10 * 8,
        RandK(0.01, torch.Generator(), shared=True): 10 * 4,
        SignNorm(): 4 + 125,
        SignNorm(block=100): 40 + 125,
        Quantize(2): 4 + 250,
        Quantize(4): 4 + 500,
        Quantize(8): 4 + 1000,
        LowRank(2): 2 * (33 + 31) * 4,
        TopK(1.0): 4000,
    }
    for compressor, size in sizes.items():
        assert compressor.bytes(compressor.compress(x)) == size, compressor


@pytest.mark.parametrize("name", [name for name in NAMES if name not in RANDOM])
def test_rows_are_compressed_one_by_one(name: str) -> None:
    compressor = make(name)
    x = torch.randn(2, 3, 40, dtype=torch.float64)
    together = compressor.decompress(compressor.compress(x))
    for index in [(0, 0), (1, 2)]:
        assert torch.equal(together[index], compressor.decompress(compressor.compress(x[index])))


@pytest.mark.parametrize("k", [1, 7, 400, 5000])
def test_largest_entries_of_long_vectors(k: int) -> None:
    """The sampled threshold changes the time, not the result; vectors made to mislead it included."""
    d = SAMPLED_FROM + 123
    top = TopK(k=k)
    periodic = torch.zeros(d)
    periodic[:: math.isqrt(d) // 4 | 1] = torch.arange(1.0, 1 + len(periodic[:: math.isqrt(d) // 4 | 1]))
    for x in (torch.randn(d), torch.randn(d).pow(9), periodic, torch.arange(float(d)), -torch.rand(d)):
        kept = top.decompress(top.compress(x)).abs()
        expected = x.abs().topk(k).values
        assert torch.equal(kept.topk(k).values, expected)
        assert int(kept.count_nonzero()) <= k


def test_ties_never_exceed_k() -> None:
    for d in (10, SAMPLED_FROM + 1):
        top = TopK(0.01 if d > 10 else 0.2)
        kept = top.decompress(top.compress(torch.ones(d)))
        assert int(kept.count_nonzero()) == top.k(d)


def test_k_is_the_share_rounded_up() -> None:
    assert [TopK(0.01).k(d) for d in (0, 1, 99, 100, 101, 700)] == [0, 1, 1, 1, 2, 7]
    assert TopK(0.07).k(100) == 7  # 0.07 * 100 is a little more than 7 in floating point
    assert TopK(1.0).k(3) == 3


@pytest.mark.parametrize("name", NAMES)
def test_vectors_of_one_entry_and_of_none(name: str) -> None:
    if name == "top 3":
        pytest.skip("needs three entries")
    compressor = make(name, torch.Generator().manual_seed(0))
    assert compressor.decompress(compressor.compress(torch.zeros(0))).shape == (0,)
    one = torch.tensor([-2.5])
    assert torch.equal(compressor.decompress(compressor.compress(one)), one)
    assert compressor.delta(1) == 1


def test_random_positions_are_uniform_and_unbiased() -> None:
    keep = RandK(k=2, generator=torch.Generator().manual_seed(0), unbiased=True)
    x = torch.arange(1.0, 9.0, dtype=torch.float64)
    kept = keep.decompress(keep.compress(x.expand(40_000, -1)))
    assert torch.all(kept.count_nonzero(dim=-1) == 2)
    frequency = (kept != 0).double().mean(0)
    torch.testing.assert_close(frequency, torch.full_like(x, 0.25), atol=0.015, rtol=0)
    torch.testing.assert_close(kept.mean(0), x, atol=0, rtol=0.06)
    assert keep.delta(8) == 0
    assert RandK(0.75, unbiased=True).delta(8) == pytest.approx(2 - 4 / 3)


def test_shared_positions_are_the_same_for_all() -> None:
    """Two workers with generators in one state; the mean of the messages is the message of the mean."""
    a, b = (RandK(0.2, torch.Generator().manual_seed(5), shared=True) for _ in range(2))
    x, y = torch.randn(2, 50, dtype=torch.float64)
    for _ in range(3):
        mine, yours = a.compress(x), b.compress(y)
        assert torch.equal(mine.known[0], yours.known[0])
        rows = a.compress(torch.stack([x, y]))
        b.compress(x)
        assert torch.equal(rows.known[0][0], rows.known[0][1])


def test_low_rank_is_exact_on_matrices_of_that_rank_and_an_orthogonal_projection() -> None:
    low = LowRank(2, generator=torch.Generator().manual_seed(0))
    for shape in [(30, 12), (12, 30), (12, 5, 6)]:
        matrix = torch.randn(shape[0], 2, dtype=torch.float64) @ torch.randn(
            2, math.prod(shape[1:]), dtype=torch.float64
        )
        message = low.compress_tensor(matrix.flatten(), shape=shape)
        torch.testing.assert_close(low.decompress(message), matrix.flatten())
    full = torch.randn(30 * 12, dtype=torch.float64)
    kept = low.decompress(low.compress_tensor(full, shape=(30, 12)))
    torch.testing.assert_close(kept @ (full - kept), torch.zeros((), dtype=torch.float64))


def test_warm_start_is_a_power_iteration() -> None:
    """Successive messages of one matrix approach its best approximation, as scipy's SVD gives it."""
    scipy_linalg = pytest.importorskip("scipy.linalg")
    low = LowRank(2, warm_start=True, generator=torch.Generator().manual_seed(0))
    matrix = (
        torch.randn(40, 25, dtype=torch.float64) + 4 * torch.outer(torch.ones(40), torch.ones(25)).double()
    )
    values = scipy_linalg.svdvals(matrix.numpy())
    message = None
    for _ in range(200):
        message = low.compress_tensor(matrix.flatten(), shape=(40, 25), previous=message)
    lost = (low.decompress(message) - matrix.flatten()).norm()
    assert float(lost) == pytest.approx(float((values[2:] ** 2).sum() ** 0.5), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x = torch.randn(60).to(dtype)
    for name in ("top", "random", "sign", "4 bits"):
        compressor = make(name)
        assert compressor.decompress(compressor.compress(x)).dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TopK(0.0), r"`ratio` \(=0\) must lie in \(0, 1\]"),
        (lambda: TopK(1.5), r"`ratio` \(=1.5\) must lie in \(0, 1\]"),
        (lambda: RandK(-0.1), r"`ratio` \(=-0.1\) must lie in \(0, 1\]"),
        (lambda: TopK(float("nan")), r"`ratio` \(=nan\) must lie in"),
        (TopK, "exactly one of `ratio`"),
        (lambda: TopK(0.1, k=3), "exactly one of `ratio`"),
        (lambda: TopK(k=0), r"`k` \(=0\) must be at least 1"),
        (lambda: TopK(k=5).compress(torch.ones(4)), r"`k` \(=5\) must not exceed .* \(=4\)"),
        (lambda: RandK(0.1, shared=True), "`shared` .* needs a `generator`"),
        (lambda: SignNorm(block=0), r"`block` \(=0\) must be at least 1"),
        (lambda: LowRank(0), r"`rank` \(=0\) must be at least 1"),
        (lambda: LowRank(1, iterations=0), r"`iterations` \(=0\) must be at least 1"),
        (lambda: Quantize(3), r"`bits` \(=3\) must be 2, 4 or 8"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
