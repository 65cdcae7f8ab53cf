"""Truncated singular value decompositions beside scikit-learn, PyTorch and ARPACK on the same matrices.

scikit-learn and SciPy bring a BLAS of their own, which threadpoolctl holds to one thread as PyTorch's is.
"""

from functools import cache

import pytest
import scipy
import scipy.sparse
import sklearn
import torch
from scipy.sparse.linalg import svds
from sklearn.decomposition import PCA
from sklearn.utils.extmath import randomized_svd as sklearn_svd
from threadpoolctl import threadpool_limits

from lemmata.sketching.lowrank import pca, randomized_svd

ROWS, COLUMNS, RANK = 4000, 2000, 50
INDEX = torch.arange(1, COLUMNS + 1, dtype=torch.float64)
SPECTRA = {"0.9^i": 0.9**INDEX, "i^-0.5": INDEX**-0.5}
SKLEARN = f"scikit-learn {sklearn.__version__}"


@cache
def dense(name: str) -> torch.Tensor:
    """Make a matrix with these singular values."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, dtype=torch.float64, generator=generator)).Q
    return left * SPECTRA[name] @ right.mT


@cache
def sparse() -> scipy.sparse.csr_array:
    """Make a sparse matrix with a few columns that matter more."""
    import numpy as np

    found = scipy.sparse.random_array(
        (20000, 5000), density=0.005, format="csr", rng=np.random.default_rng(0)
    )
    return scipy.sparse.csr_array(found * (1 / (1 + np.arange(5000) / 50)))


def race(benchmark, function, *, bar: float | None = None) -> None:
    """Time one side on one thread, and keep its error over the optimum where it has one."""
    if bar is not None:
        benchmark.extra_info["bar"] = bar
    with threadpool_limits(1):
        benchmark.pedantic(function, rounds=7, warmup_rounds=1)


def error(a: torch.Tensor, name: str, u, s, vh) -> float:
    """Return the Frobenius error over the best of this rank."""
    u, s, vh = (
        torch.as_tensor(factor.copy() if hasattr(factor, "copy") else factor) for factor in (u, s, vh)
    )
    best = torch.linalg.vector_norm(SPECTRA[name][RANK:])
    return float(torch.linalg.vector_norm(a - u * s @ vh) / best)


def race_svd(benchmark, side: str, name: str, peer, bar: float) -> None:
    """Time a truncated SVD and keep its error."""
    a = dense(name)
    generator = torch.Generator().manual_seed(0)

    def ours():
        return randomized_svd(a, RANK, generator=generator)

    function = ours if side == "lemmata" else peer
    race(benchmark, function, bar=bar if side == "lemmata" else None)
    benchmark.extra_info["error over the optimum"] = round(error(a, name, *function()), 6)


@pytest.mark.parametrize("side", ["lemmata", SKLEARN])
@pytest.mark.benchmark(group="SVD to rank 50 of 4000 x 2000, singular values 0.9^i")
def bench_fast_spectrum(benchmark, side):
    """Time against scikit-learn where singular values fall fast."""
    array = dense("0.9^i").numpy()
    race_svd(benchmark, side, "0.9^i", lambda: sklearn_svd(array, RANK, random_state=0), 1.0)


@pytest.mark.parametrize("side", ["lemmata", SKLEARN])
@pytest.mark.benchmark(group="SVD to rank 50 of 4000 x 2000, singular values i^-0.5")
def bench_slow_spectrum(benchmark, side):
    """Time against scikit-learn where singular values fall slowly."""
    array = dense("i^-0.5").numpy()
    race_svd(benchmark, side, "i^-0.5", lambda: sklearn_svd(array, RANK, random_state=0), 1.0)


@pytest.mark.parametrize("side", ["lemmata", f"torch {torch.__version__} svd_lowrank"])
@pytest.mark.benchmark(group="SVD to rank 50 of 4000 x 2000, singular values i^-0.5, PyTorch's")
def bench_torch(benchmark, side):
    """Time against PyTorch's function, which does not oversample and is far from the optimum."""
    a = dense("i^-0.5")

    def peer():
        u, s, v = torch.svd_lowrank(a, RANK)
        return u, s, v.mT

    race_svd(benchmark, side, "i^-0.5", peer, 1.5)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} svds"])
@pytest.mark.benchmark(group="SVD to rank 50 of 4000 x 2000, singular values i^-0.5, ARPACK")
def bench_arpack(benchmark, side):
    """Time against a Lanczos iteration to rounding."""
    array = dense("i^-0.5").numpy()
    race_svd(benchmark, side, "i^-0.5", lambda: svds(array, RANK, random_state=0), 1.0)


@pytest.mark.parametrize("side", ["lemmata", SKLEARN])
@pytest.mark.benchmark(group="SVD to rank 20 of a sparse 20,000 x 5000 with 500,000 entries")
def bench_sparse(benchmark, side):
    """Time on a sparse matrix."""
    a = sparse()
    generator = torch.Generator().manual_seed(0)
    if side == "lemmata":
        race(benchmark, lambda: randomized_svd(a, 20, generator=generator), bar=1.0)
        return
    race(benchmark, lambda: sklearn_svd(a, 20, random_state=0))


@pytest.mark.parametrize("side", ["lemmata", SKLEARN])
@pytest.mark.benchmark(group="PCA to 10 components of 100,000 x 200 in memory, three passes")
def bench_pca(benchmark, side):
    """Time principal components."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(100_000, 200, dtype=torch.float64, generator=generator) * 0.95 ** torch.arange(200)
    table = scores @ torch.randn(200, 200, dtype=torch.float64, generator=generator) + 3
    if side == "lemmata":
        race(benchmark, lambda: pca(table, 10), bar=1.0)
        return
    array = table.numpy()
    race(benchmark, lambda: PCA(10, svd_solver="randomized", random_state=0).fit(array))
