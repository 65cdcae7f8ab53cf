"""Orderings of nodes: leaves of a search tree that knows nothing of how nodes are numbered."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.frames import graph_frames


def circulant(n, steps):
    i = torch.arange(n)
    return torch.isin(
        (i[:, None] - i) % n, torch.tensor([s % n for step in steps for s in (step, -step)])
    ).long()


def symmetries(a, x=None):
    """All automorphisms, by brute force."""
    orders = [torch.tensor(order) for order in itertools.permutations(range(len(a)))]
    return [
        o for o in orders
        if torch.equal(a[o][:, o], a) and (x is None or torch.equal(x[o], x))
    ]  # fmt: skip


def orders_of(frames):
    return {tuple(order) for order in frames.order.tolist()}


def random_graph(n, seed, density=0.5):
    generator = torch.Generator().manual_seed(seed)
    upper = (torch.rand(n, n, generator=generator) < density).long().triu(1)
    return upper + upper.T, generator


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 0.8]), st.booleans())
def test_orderings_follow_a_relabelling(n, seed, density, directed):
    a, generator = random_graph(n, seed, density)
    if directed:
        a = a * torch.randint(2, (n, n), generator=generator)
    order = torch.randperm(n, generator=generator)
    place = order.argsort()
    # Seven nodes without edges have 7! orderings.
    frames, relabelled = graph_frames(a, max_frames=5040), graph_frames(a[order][:, order], max_frames=5040)
    assert orders_of(relabelled) == {tuple(place[o].tolist()) for o in frames.order}
    assert frames.exact
    assert frames.weight.sum().item() == pytest.approx(1)
    assert len(orders_of(frames)) == len(frames.order)
    assert len(frames.order) % len(symmetries(a)) == 0
    weights = {tuple(place[o].tolist()): w for o, w in zip(frames.order, frames.weight.tolist(), strict=True)}
    for o, w in zip(relabelled.order.tolist(), relabelled.weight.tolist(), strict=True):
        assert weights[tuple(o)] == pytest.approx(w)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_symmetries_permute_the_orderings(n, seed):
    a, generator = random_graph(n, seed)
    x = torch.randint(2, (n, 2), generator=generator).float()
    found = orders_of(graph_frames(a, x))
    for symmetry in symmetries(a, x):
        assert {tuple(symmetry[list(o)].tolist()) for o in found} == found


@pytest.mark.parametrize(("adjacency", "leaves"), [
    (torch.zeros(4, 4), math.factorial(4)),
    (1 - torch.eye(4), math.factorial(4)),
    (circulant(5, [1]), 10),
    (circulant(8, [1]), 16),
    (torch.zeros(1, 1), 1),
    (torch.zeros(0, 0), 1),
    (torch.diag(torch.arange(5.0)), 1),  # loops with weights of their own
    (torch.arange(16.0).reshape(4, 4), 1),
])  # fmt: skip
def test_numbers_of_orderings(adjacency, leaves):
    frames = graph_frames(adjacency)
    assert frames.order.shape == (leaves, len(adjacency))
    assert frames.exact


def test_colours_are_finer_than_degrees():
    """A node is known by what is around it: the path's ends are the only pair."""
    path = torch.diag(torch.ones(6), 1) + torch.diag(torch.ones(6), -1)
    assert len(graph_frames(path).order) == 2
    assert len(graph_frames(path, torch.arange(7)).order) == 1


def test_weights_are_chances_of_even_descents():
    """Two triangles joined by nothing and an isolated edge: branches of different sizes."""
    a = torch.zeros(5, 5)
    a[0, 1] = a[1, 0] = 1  # an edge, and three nodes alone
    frames = graph_frames(a)
    assert len(frames.order) == 12
    assert torch.allclose(frames.weight, torch.full((12,), 1 / 12, dtype=torch.float64))


def test_features_of_edges_and_direction_count():
    a = circulant(4, [1])
    assert len(graph_frames(a).order) == 8
    colours = torch.stack([a, torch.zeros_like(a)], -1)
    assert len(graph_frames(colours).order) == 8
    colours[0, 1, 1] = colours[1, 0, 1] = 5
    assert len(graph_frames(colours).order) == 2
    directed = torch.diag(torch.ones(3), 1)
    directed[3, 0] = 1
    assert len(graph_frames(directed).order) == 4
    assert len(graph_frames(directed[:3, :3]).order) == 1


def test_dtypes_and_signs_of_zero():
    a = circulant(5, [1])
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float64):
        assert torch.equal(graph_frames(a.to(dtype)).order, graph_frames(a).order)
    assert torch.equal(graph_frames(torch.where(a > 0, 1.0, -0.0)).order, graph_frames(a.float()).order)


def test_samples_are_descents_to_leaves():
    a = circulant(6, [1])
    every = orders_of(graph_frames(a))
    few = graph_frames(a, max_frames=5, generator=torch.Generator().manual_seed(0))
    assert not few.exact
    assert few.order.shape == (5, 6)
    assert torch.allclose(few.weight, torch.full((5,), 0.2, dtype=torch.float64))
    assert orders_of(few) <= every
    again = graph_frames(a, max_frames=5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.order, few.order)
    assert graph_frames(a, max_frames=12).exact


def test_samples_are_even():
    a = torch.zeros(3, 3)
    sample = torch.cat([graph_frames(a, max_frames=5).order for _ in range(600)])
    counts = torch.unique(sample, dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert (counts - 500).abs().max() < 5 * math.sqrt(500)


def test_large_graphs():
    a, _ = random_graph(200, 0, 0.1)
    frames = graph_frames(a)
    assert frames.exact
    assert frames.order.shape == (1, 200)
    empty = graph_frames(torch.zeros(60, 60), max_frames=3)
    assert not empty.exact
    assert (empty.order.sort(-1)[0] == torch.arange(60)).all()


@pytest.mark.parametrize(("args", "options", "match"), [
    ((torch.zeros(3, 4),), {}, "`adjacency`"),
    ((torch.zeros(3),), {}, "`adjacency`"),
    ((torch.zeros(3, 3), torch.zeros(4, 1)), {}, "`x`"),
    ((torch.full((2, 2), torch.nan),), {}, "NaN"),
    ((torch.zeros(2, 2), torch.full((2,), torch.nan)), {}, "`x` contains NaN"),
    ((torch.zeros(2, 2),), {"max_frames": 0}, "`max_frames`"),
])  # fmt: skip
def test_bad_input_is_named(args, options, match):
    with pytest.raises(ValueError, match=match):
        graph_frames(*args, **options)
