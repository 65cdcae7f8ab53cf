"""Sparse sign sketches beside SciPy's sparse product with the same matrix, and beside SciPy's own sketch.

SciPy's products run on one thread by nature; torch is held to one by the root conftest.
"""

import pytest
import scipy.linalg
import scipy.sparse
import torch

from lemmata.sketching.operators import CountSketch, SparseSign

ROWS, COLUMNS, SKETCH = 100_000, 300, 1200
SCIPY = f"scipy {scipy.__version__}"


def data() -> torch.Tensor:
    """Draw a tall matrix."""
    return torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def assembled(sketch: SparseSign) -> scipy.sparse.csr_array:
    """Return the sketch as SciPy's sparse matrix, by applying it to unit vectors a block at a time."""
    pieces = []
    for start in range(0, ROWS, 5000):
        rows = sketch.partial_t(torch.eye(SKETCH, dtype=torch.float64), start, min(5000, ROWS - start))
        pieces.append(scipy.sparse.csr_array(rows.numpy()))
    return scipy.sparse.vstack(pieces).T.tocsr()


@pytest.mark.parametrize("side", ["lemmata", f"{SCIPY} CSR product"])
@pytest.mark.benchmark(group="sparse sign sketch with 8 nonzeros of 100,000 x 300, m = 1200")
def bench_sparse_sign(benchmark, side):
    """Time ours, which draws its entries too, against the product alone of the matrix SciPy holds."""
    sketch, a = SparseSign(SKETCH, ROWS, seed=0), data()
    if side == "lemmata":
        benchmark.extra_info["bar"] = 2.0
        benchmark.pedantic(lambda: sketch @ a, rounds=7, warmup_rounds=1)
        return
    matrix, rows = assembled(sketch), a.numpy()
    benchmark.pedantic(lambda: matrix @ rows, rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("side", ["lemmata", f"{SCIPY} clarkson_woodruff_transform"])
@pytest.mark.benchmark(group="CountSketch of 100,000 x 300, m = 1200")
def bench_count_sketch(benchmark, side):
    """Time the whole: drawing and applying, on both sides."""
    a = data()
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
        benchmark.pedantic(lambda: CountSketch(SKETCH, ROWS, seed=0) @ a, rounds=7, warmup_rounds=1)
        return
    rows = a.numpy()
    benchmark.pedantic(
        lambda: scipy.linalg.clarkson_woodruff_transform(rows, SKETCH, rng=0), rounds=7, warmup_rounds=1
    )


@pytest.mark.parametrize("side", ["lemmata", f"{SCIPY} sparse product"])
@pytest.mark.benchmark(
    group="sparse sign sketch with 8 nonzeros of sparse 100,000 x 10,000, one in a thousand"
)
def bench_sparse_sign_of_sparse_data(benchmark, side):
    """Time ours, which draws its entries too, against SciPy's product of two sparse matrices, made dense."""
    sketch = SparseSign(SKETCH, ROWS, seed=0)
    a = scipy.sparse.random_array((ROWS, 10_000), density=1e-3, format="csr", rng=0)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 2.0
        benchmark.pedantic(lambda: sketch @ a, rounds=5, warmup_rounds=1)
        return
    matrix = assembled(sketch)

    def product():
        return (matrix @ a).toarray()

    benchmark.pedantic(product, rounds=5, warmup_rounds=1)
