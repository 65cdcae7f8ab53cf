"""Importance scores beside what one would write with NumPy and SciPy: fixed point, and QR."""

import numpy as np
import pytest
import scipy
import scipy.linalg
import torch

from lemmata.sketching.lp import leverage_scores, lewis_weights

NUMPY = f"numpy {np.__version__} fixed point"
QR = f"scipy {scipy.__version__} qr"


def heavy(n: int, d: int) -> torch.Tensor:
    """Return a Gaussian matrix in which one row in a thousand is a hundred times as long."""
    a = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[::1000] *= 100
    return a


def numpy_lewis(a: np.ndarray, p: float, tol: float = 1e-6) -> np.ndarray:
    """Iterate w = (a_i (A^T W^(1 - 2/p) A)^-1 a_i)^(p/2), as Cohen and Peng do for p < 4."""
    w = np.full(len(a), a.shape[1] / len(a))
    for _ in range(200):
        gram = a.T @ (a * w[:, None] ** (1 - 2 / p))
        new = np.einsum("ij,ij->i", a @ np.linalg.inv(gram), a) ** (p / 2)
        if np.abs(new / w - 1).max() <= tol:
            return new
        w = new
    raise RuntimeError("the fixed point was not reached")


def race_lewis(benchmark, side: str, p: float, n: int, d: int) -> None:
    """Time one side, to a residual of 1e-6."""
    a = heavy(n, d)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 0.6
        benchmark.pedantic(lambda: lewis_weights(a, p), rounds=5, warmup_rounds=1)
        return
    rows = a.numpy()
    weights = benchmark.pedantic(lambda: numpy_lewis(rows, p), rounds=5, warmup_rounds=1)
    benchmark.extra_info["differs by"] = float(np.abs(lewis_weights(a, p).numpy() / weights - 1).max())


@pytest.mark.parametrize("side", ["lemmata", NUMPY])
@pytest.mark.benchmark(group="Lewis weights to 1e-6, p = 1, 100,000 x 50 with heavy rows")
def bench_lewis_1(benchmark, side):
    """Time Lewis weights for p = 1."""
    race_lewis(benchmark, side, 1.0, 100_000, 50)


@pytest.mark.parametrize("side", ["lemmata", NUMPY])
@pytest.mark.benchmark(group="Lewis weights to 1e-6, p = 3.5, 100,000 x 50 with heavy rows")
def bench_lewis_3_5(benchmark, side):
    """Time Lewis weights for p = 3.5, near the end of where the plain iteration converges."""
    race_lewis(benchmark, side, 3.5, 100_000, 50)


def race_leverage(benchmark, side: str, method: str, bar: float) -> None:
    """Time one side on 200,000 x 100, and tell how far the scores are off."""
    a = heavy(200_000, 100)
    if side != "lemmata":
        rows = a.numpy()
        benchmark.pedantic(
            lambda: (scipy.linalg.qr(rows, mode="economic", check_finite=False)[0] ** 2).sum(1),
            rounds=3,
            warmup_rounds=1,
        )
        return
    benchmark.extra_info["bar"] = bar
    scores = benchmark.pedantic(lambda: leverage_scores(a, method), rounds=3, warmup_rounds=1)
    exact = (torch.linalg.qr(a).Q ** 2).sum(1)
    error = (scores / exact - 1).abs()
    benchmark.extra_info["median relative error"] = error.median().item()
    benchmark.extra_info["largest relative error"] = error.max().item()


@pytest.mark.parametrize("side", ["lemmata", QR])
@pytest.mark.benchmark(group="leverage scores by sketching, 200,000 x 100")
def bench_leverage_sketched(benchmark, side):
    """Time sketched leverage scores."""
    race_leverage(benchmark, side, "sketch", 0.3)


@pytest.mark.parametrize("side", ["lemmata", QR])
@pytest.mark.benchmark(group="exact leverage scores, 200,000 x 100")
def bench_leverage_exact(benchmark, side):
    """Time exact leverage scores."""
    race_leverage(benchmark, side, "qr", 1.0)
