"""Priority samples: unbiased, of fixed size, and the same for every chunking and order of merging."""

import io
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lemmata.sketching.lp.priority import PrioritySample


def draw(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return skewed scores and a payload that tells the row."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, dtype=torch.float64, generator=generator) ** 4
    return scores, torch.arange(n)[:, None] * torch.tensor([1, -1])


def same(a: PrioritySample, b: PrioritySample) -> bool:
    """Tell whether two samples agree to the last bit."""
    mine, others = a.state_dict(), b.state_dict()
    return all(
        torch.equal(value, others[name]) if isinstance(value, Tensor) else value == others[name]
        for name, value in mine.items()
    )


@given(st.integers(0, 60), st.integers(1, 20), st.lists(st.integers(0, 60), max_size=8), st.randoms())
@settings(deadline=None, max_examples=60)
def test_every_chunking_and_order_of_merging_gives_the_same_sample(n, size, cuts, random):
    scores, payload = draw(n)
    scores[scores < 0.05] = 0
    recipe = PrioritySample(size, seed=11)
    whole = recipe.partial(scores, 0, payload)
    edges = sorted({0, n, *(min(cut, n) for cut in cuts)})
    parts = [
        recipe.partial(scores[start:stop], start, payload[start:stop])
        for start, stop in itertools.pairwise(edges)
    ] or [whole]
    random.shuffle(parts)
    while len(parts) > 1:
        parts.append(parts.pop(random.randrange(len(parts))) + parts.pop())
    assert same(parts[0], whole)
    assert whole.rows == n


def test_the_kept_rows_are_those_of_smallest_priority():
    scores, payload = draw(1000)
    coreset = PrioritySample(50, seed=3).partial(scores, 0, payload).coreset()
    assert len(coreset) == 50
    assert (coreset.indices.diff() > 0).all()
    assert coreset.rows is not None
    assert (coreset.rows == payload[coreset.indices]).all()
    torch.testing.assert_close(coreset.weights, 1 / coreset.probabilities)
    # Rows that are not certain are kept with probabilities in proportion to their scores.
    thin = coreset.probabilities < 1
    ratio = coreset.probabilities[thin] / scores[coreset.indices[thin]]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_sums_are_unbiased():
    n, size, draws = 300, 20, 1000
    scores, _ = draw(n)
    values = scores * (1 + torch.rand(n, dtype=torch.float64)) + 0.01
    scores = scores + 1e-3
    sums = torch.stack(
        [PrioritySample(size, seed).partial(scores, 0).coreset().estimate(values) for seed in range(draws)]
    )
    assert abs(sums.mean() - values.sum()) <= 5 * sums.std() / math.sqrt(draws)


def test_a_sum_of_the_scores_is_almost_exact():
    scores, _ = draw(5000)
    estimates = torch.stack(
        [PrioritySample(100, seed).partial(scores, 0).coreset().estimate(scores) for seed in range(200)]
    )
    # Variance of priority sampling: at most (sum of scores)^2 / (size - 1).
    assert (estimates / scores.sum() - 1).square().mean() <= 1.3 / 99


def test_fewer_rows_than_the_size_are_all_kept():
    scores, payload = draw(9)
    scores[4] = 0
    for size in (8, 9, 100):
        coreset = PrioritySample(size).partial(scores, 0, payload).coreset()
        assert coreset.indices.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
        assert (coreset.probabilities == 1).all()
    assert len(PrioritySample(7).partial(scores, 0).coreset()) == 7


def test_empty_blocks_and_zero_scores():
    recipe = PrioritySample(3)
    empty = recipe.partial(torch.zeros(0), 5, torch.zeros(0, 2))
    none = recipe.partial(torch.zeros(4), 0, torch.ones(4, 2))
    assert len((empty + none).coreset()) == 0
    assert (empty + none).rows == 4
    some = recipe.partial(torch.ones(2), 9, torch.ones(2, 2))
    assert (empty + some + none).coreset().indices.tolist() == [9, 10]
    assert same(recipe + some, some)
    assert same(some + recipe, some)
    assert (recipe + recipe).rows == 0


def test_rows_far_out():
    offset = 2**52
    recipe = PrioritySample(4, seed=-1)
    sample = recipe.partial(torch.ones(100), offset)
    assert sample.coreset().indices.min() >= offset
    assert same(sample, recipe.partial(torch.ones(60), offset) + recipe.partial(torch.ones(40), offset + 60))


def test_ties_go_to_the_smaller_index(monkeypatch):
    from lemmata.sketching.operators import counter

    monkeypatch.setattr(
        counter, "uniforms", lambda seed, index, *_: torch.full((1, len(index)), 0.5).double()
    )
    recipe, ones = PrioritySample(3), torch.ones(4)
    whole = recipe.partial(torch.ones(8), 0)
    assert whole.held is not None
    assert whole.held.indices.tolist() == [0, 1, 2, 3]
    assert same(recipe.partial(ones, 4) + recipe.partial(ones, 0), whole)


def test_scores_of_any_scale():
    for scale in (1e-280, 1.0, 1e280):
        coreset = PrioritySample(5, seed=2).partial(scale * draw(50)[0], 0).coreset()
        expected = PrioritySample(5, seed=2).partial(draw(50)[0], 0).coreset()
        assert (coreset.indices == expected.indices).all()
        torch.testing.assert_close(coreset.weights, expected.weights)
    tiny = PrioritySample(2).partial(torch.full((9,), 1e-320, dtype=torch.float64), 0).coreset()
    assert torch.isfinite(tiny.weights).all()


def test_seeds_are_independent_samples():
    scores, _ = draw(1000)
    first, second = (PrioritySample(100, seed).partial(scores, 0).coreset().indices for seed in (1, 2))
    assert len(set(first.tolist()) & set(second.tolist())) < 80


def test_a_sample_travels():
    scores, payload = draw(100)
    sample = PrioritySample(10, seed=7).partial(scores, 0, payload.float())
    for sent in (sample, PrioritySample(3), PrioritySample(10).partial(scores, 0)):
        buffer = io.BytesIO()
        torch.save(sent.state_dict(), buffer)
        buffer.seek(0)
        assert same(PrioritySample.from_state_dict(torch.load(buffer, weights_only=True)), sent)
        assert same(pickle.loads(pickle.dumps(sent)), sent)
    assert sample.payload is not None
    assert (sample.payload == sample.coreset().rows).all()
    assert PrioritySample(3).payload is None


def test_the_payload_is_a_copy():
    scores, payload = draw(20)
    rows = payload.double()
    sample = PrioritySample(20).partial(scores, 0, rows)
    rows.zero_()
    assert sample.payload is not None
    assert sample.payload.any()


def test_merging_what_does_not_belong_together():
    ones = torch.ones(3)
    sample = PrioritySample(2).partial(ones, 0)
    with pytest.raises(ValueError, match="different seeds: 0 and 1"):
        sample + PrioritySample(2, seed=1).partial(ones, 3)
    with pytest.raises(ValueError, match="different sizes: 2 and 3"):
        sample + PrioritySample(3).partial(ones, 3)
    with pytest.raises(ValueError, match="both hold row"):
        sample + sample
    with pytest.raises(ValueError, match="columns: none and 2"):
        sample + PrioritySample(2).partial(ones, 3, torch.ones(3, 2))
    with pytest.raises(ValueError, match="columns: 1 and 2"):
        PrioritySample(2).partial(ones, 0, torch.ones(3, 1)) + PrioritySample(2).partial(
            ones, 3, torch.ones(3, 2)
        )


def test_bad_input():
    with pytest.raises(ValueError, match=r"`size` \(=0\)"):
        PrioritySample(0)
    recipe = PrioritySample(2)
    with pytest.raises(ValueError, match=r"`scores\[1\]`"):
        recipe.partial(torch.tensor([0.0, -1.0]), 0)
    with pytest.raises(ValueError, match=r"`scores\[0\]`"):
        recipe.partial(torch.tensor([torch.inf]), 0)
    with pytest.raises(ValueError, match="`row_offset`"):
        recipe.partial(torch.ones(1), -1)
    with pytest.raises(ValueError, match=r"shape \(3, k\)"):
        recipe.partial(torch.ones(3), 0, torch.ones(2, 2))
    with pytest.raises(ValueError, match="empty"):
        recipe.coreset()
    with pytest.raises(ValueError, match="`state`"):
        PrioritySample.from_state_dict({"size": 2})


def test_a_function_gives_what_kept_rows_carry() -> None:
    scores, rows = torch.rand(50, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    carried = PrioritySample(7, seed=2).partial(scores, 10, rows)
    fetched = PrioritySample(7, seed=2).partial(scores, 10, lambda places: rows[places])
    assert torch.equal(carried.payload, fetched.payload)
