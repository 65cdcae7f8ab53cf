"""Sketched least squares beside SciPy's on the same tall matrices, one thread on both sides."""

import pytest
import scipy
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from lemmata.sketching.least_squares import lstsq

SIDES = ["lemmata", f"scipy {scipy.__version__} gelsd"]


def race(
    benchmark, side: str, n: int, d: int, dtype: torch.dtype = torch.float64, *, bar: float = 0.6, **options
):
    """Time one side."""
    a = torch.randn(n, d, dtype=dtype)
    b = torch.randn(n, dtype=dtype)
    with threadpool_limits(1):
        if side == "lemmata":
            benchmark.extra_info["bar"] = bar
            benchmark.pedantic(lambda: lstsq(a, b, **options), rounds=3, warmup_rounds=1)
            return
        rows, targets = a.numpy(), b.numpy()
        benchmark.pedantic(
            lambda: scipy.linalg.lstsq(rows, targets, lapack_driver="gelsd"), rounds=3, warmup_rounds=1
        )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="least squares, 100,000 x 100")
def bench_lstsq_100(benchmark, side):
    """Time the smallest."""
    race(benchmark, side, 100_000, 100)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="least squares, 100,000 x 300")
def bench_lstsq_300(benchmark, side):
    """Time the size that the bar is stated at."""
    race(benchmark, side, 100_000, 300)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="least squares, 100,000 x 300, with a certificate's third pass")
def bench_lstsq_300_certified(benchmark, side):
    """Time the third pass too."""
    race(benchmark, side, 100_000, 300, bar=1.0, certify=True)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="least squares, 100,000 x 300, float32")
def bench_lstsq_300_float32(benchmark, side):
    """Time data in single precision, computed in double on our side."""
    race(benchmark, side, 100_000, 300, torch.float32, bar=1.0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="least squares, 50,000 x 500")
def bench_lstsq_500(benchmark, side):
    """Time more columns."""
    race(benchmark, side, 50_000, 500)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="least squares, 1,000,000 x 50")
def bench_lstsq_million(benchmark, side):
    """Time many rows."""
    race(benchmark, side, 1_000_000, 50)
