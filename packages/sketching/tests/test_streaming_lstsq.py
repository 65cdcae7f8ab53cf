"""One-pass least squares: merging, order, restarts; and two-pass solutions of long streams."""

import io
import pickle

import pytest
import torch

from lemmata.sketching.least_squares import SketchedLeastSquares, lstsq
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64


@pytest.fixture
def data():
    a = torch.randn(3000, 6, dtype=F64)
    return a, a @ torch.randn(6, 2, dtype=F64) + 0.5 * torch.randn(3000, 2, dtype=F64)


def fitted(a, b, cuts, **options):
    sketch = SketchedLeastSquares(a.shape[1], b.shape[1], **options)
    for start, stop in cuts:
        sketch.partial_fit(a[start:stop], b[start:stop], start)
    return sketch


def test_halves_merge_to_the_whole(data):
    a, b = data
    whole = fitted(a, b, [(0, 3000)])
    merged = fitted(a, b, [(1500, 3000)]).merge(fitted(a, b, [(700, 1500), (0, 700)]))
    assert merged.rows_seen == whole.rows_seen == 3000
    assert torch.allclose(merged.solve().x, whole.solve().x, rtol=1e-12)
    assert torch.allclose(merged.solve(3.0).x, whole.solve(3.0).x, rtol=1e-12)


def test_is_near_the_best_and_says_how_near(data):
    a, b = data
    best = lstsq(a, b, certify=True)
    inside = 0
    for seed in range(20):
        found = fitted(a, b, [(0, 3000)], seed=seed).solve()
        distance = torch.linalg.vector_norm(a @ (found.x - best.x), dim=0)
        inside += int((distance <= found.certificate.excess_bound).all())
        assert (distance < 0.5 * best.residual_norm).all()
        assert torch.allclose(found.residual_norm, best.residual_norm, rtol=0.35)
    assert inside >= 18  # the bound is twice the root of the mean square
    assert found.certificate.status == "approximate"
    assert found.certificate.passes == 1


def test_a_vector_of_targets_and_sparse_rows(data):
    a, b = data
    sketch = SketchedLeastSquares(6).partial_fit(a.to_sparse_csr(), b[:, 0], 0)
    assert sketch.solve().x.shape == (6,)
    assert torch.allclose(sketch.solve().x, fitted(a, b[:, :1], [(0, 3000)]).solve().x[:, 0])


def test_few_rows(data):
    a, b = data
    sketch = fitted(a, b, [(0, 5)])
    with pytest.raises(ValueError, match="5 rows for 6 columns"):
        sketch.solve()
    assert sketch.solve(1.0).x.isfinite().all()


def test_restart(data):
    a, b = data
    first = fitted(a, b, [(0, 1000)])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = SketchedLeastSquares(6, 2)
    second.load_state_dict(torch.load(file, weights_only=True))
    third = pickle.loads(pickle.dumps(first))
    for sketch in (first, second, third):
        sketch.partial_fit(a[1000:], b[1000:], 1000)
    assert torch.equal(first.solve().x, second.solve().x)
    assert torch.equal(first.solve().x, third.solve().x)


def test_bad_input(data):
    a, b = data
    sketch = fitted(a, b, [(0, 100)])
    before = sketch.solve().x
    for block, target, offset, message in (
        (a[:10, :5], b[:10], 100, "6 and 2 columns"),
        (a[:10], b[:9], 100, "6 and 2 columns"),
        (a[:10], b[:10], 95, "95:100"),
        (a[:10] * torch.nan, b[:10], 100, "not finite"),
        (a[:10], b[:10], -1, "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            sketch.partial_fit(block, target, offset)
    assert torch.equal(sketch.solve().x, before)
    with pytest.raises(ValueError, match="different seeds"):
        sketch.merge(SketchedLeastSquares(6, 2, seed=1))
    with pytest.raises(ValueError, match="0:100"):
        sketch.merge(fitted(a, b, [(50, 150)]))
    with pytest.raises(ValueError, match="5 columns"):
        sketch.merge(SketchedLeastSquares(5, 2))
    with pytest.raises(ValueError, match="5 columns"):
        sketch.load_state_dict(SketchedLeastSquares(5, 2).state_dict())
    for options in ({"d": 0}, {"d": 3, "n_targets": 0}, {"d": 3, "sketch_rows": 3}):
        with pytest.raises(ValueError, match="`"):
            SketchedLeastSquares(**options)


@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_long_stream_in_five_chunkings(rows):
    def block(start, stop):
        i = torch.arange(start, stop, dtype=F64)[:, None]
        waves = torch.sin(i * torch.tensor([0.3, 0.70001, 1.1, 1.7, 2.3], dtype=F64))
        return waves * scale

    scale = torch.tensor([1.0, 1e-2, 1e-4, 1e2, 1e4], dtype=F64)
    target = (block(0, rows) / scale).sum(1) + torch.cos(torch.arange(rows, dtype=F64))
    solutions = []
    for step in (1009, 4096, 8192, 30_000, rows):
        cuts = [(s, min(s + step, rows)) for s in range(0, rows, step)]
        blocks = RowBlocks(lambda cuts=cuts: ((s, block(s, e)) for s, e in cuts), (rows, 5))
        result = lstsq(blocks, target)
        assert result.certificate.passes == blocks.passes == 2
        solutions.append(result.x)
    for x in solutions[1:]:
        assert torch.allclose(x, solutions[0], rtol=1e-10)
