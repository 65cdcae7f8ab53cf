"""The fast Walsh-Hadamard transform beside two butterflies: the usual one, and one written with care."""

import pytest
import torch

from lemmata.sketching.operators import fwht

STACKED = "butterfly, a stack a level"
BUFFERED = "butterfly, two buffers"
SHAPES = {
    "131072 x 101, float64": (1 << 17, 101, torch.float64),
    "131072 x 101, float32": (1 << 17, 101, torch.float32),
    "1048576 x 1, float64": (1 << 20, 1, torch.float64),
    "4096 x 300, float64": (1 << 12, 300, torch.float64),
}


def stacked(x: torch.Tensor) -> torch.Tensor:
    """Add and subtract halves, level by level."""
    n, h = len(x), 1
    while h < n:
        pairs = x.reshape(n // (2 * h), 2, h, -1)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), 1).reshape(x.shape)
        h *= 2
    return x / n**0.5


def buffered(x: torch.Tensor) -> torch.Tensor:
    """Do the same through views of two buffers, without an allocation a level."""
    n, h = len(x), 1
    x, y = x / n**0.5, torch.empty_like(x)
    while h < n:
        source, target = x.view(n // (2 * h), 2, -1), y.view(n // (2 * h), 2, -1)
        torch.add(source[:, 0], source[:, 1], out=target[:, 0])
        torch.sub(source[:, 0], source[:, 1], out=target[:, 1])
        x, y, h = y, x, 2 * h
    return x


def race(benchmark, side: str, shape: str, bar: float) -> None:
    """Time one side on the same data."""
    n, d, dtype = SHAPES[shape]
    x = torch.randn(n, d, dtype=dtype)
    if side == "lemmata":
        benchmark.extra_info["bar"] = bar
    transform = {"lemmata": fwht, STACKED: stacked, BUFFERED: buffered}[side]
    benchmark.pedantic(lambda: transform(x), rounds=5 if n * d > 1 << 22 else 25, warmup_rounds=2)


@pytest.mark.parametrize("side", ["lemmata", STACKED])
@pytest.mark.benchmark(group="Walsh-Hadamard transform of 131072 x 101 in float64, beside a stack a level")
def bench_tall_beside_a_stack(benchmark, side):
    """Time data that leaves every cache."""
    race(benchmark, side, "131072 x 101, float64", 0.2)


@pytest.mark.parametrize("side", ["lemmata", BUFFERED])
@pytest.mark.benchmark(group="Walsh-Hadamard transform of 131072 x 101 in float64, beside two buffers")
def bench_tall_beside_buffers(benchmark, side):
    """Time data that leaves every cache."""
    race(benchmark, side, "131072 x 101, float64", 1.0)


@pytest.mark.parametrize("side", ["lemmata", STACKED])
@pytest.mark.benchmark(group="Walsh-Hadamard transform of 131072 x 101 in float32, beside a stack a level")
def bench_tall_single_beside_a_stack(benchmark, side):
    """Time data that leaves every cache."""
    race(benchmark, side, "131072 x 101, float32", 0.2)


@pytest.mark.parametrize("side", ["lemmata", STACKED])
@pytest.mark.benchmark(group="Walsh-Hadamard transform of a vector of 1048576, beside a stack a level")
def bench_vector_beside_a_stack(benchmark, side):
    """Time data without columns to work on together."""
    race(benchmark, side, "1048576 x 1, float64", 1.0)


@pytest.mark.parametrize("side", ["lemmata", BUFFERED])
@pytest.mark.benchmark(group="Walsh-Hadamard transform of 4096 x 300 in float64, beside two buffers")
def bench_block_beside_buffers(benchmark, side):
    """Time data that fits the last cache, where the butterfly suffers least."""
    race(benchmark, side, "4096 x 300, float64", 1.0)
