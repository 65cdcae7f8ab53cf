"""Networks on adjacency matrices, averaged over orderings of the nodes."""

import copy
import itertools

import pytest
import torch
from torch import nn

from lemmata.equivariant.frames import GraphFrameAveraging
from lemmata.equivariant.testing import equivariance_error


def mlp(*sizes):
    layers = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


class WithFeatures(nn.Module):
    def __init__(self, n, channels, outputs, *, nodes=False):
        super().__init__()
        self.net = mlp(n * n + n * channels, 24, n * outputs if nodes else outputs)
        self.nodes = nodes

    def forward(self, a, x):
        y = self.net(torch.cat([a.flatten(1), x.flatten(1)], -1))
        return y.reshape(*x.shape[:2], -1) if self.nodes else y


def graphs(count, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    upper = (torch.rand(count, n, n, generator=generator) < 0.5).double().triu(1)
    return upper + upper.mT


def relabelled(a, order, x=None):
    moved = a[:, order][:, :, order]
    return moved if x is None else (moved, x[:, order])


def test_an_mlp_becomes_invariant():
    a, net = graphs(6, 6), mlp(36, 24, 2)
    perms = [torch.randperm(6) for _ in range(5)]
    act = lambda g, a: relabelled(a, g)  # noqa: E731
    elements = iter(perms * 2)
    assert equivariance_error(net, a, act, None, group=lambda generator: next(elements), n=5).max > 1e-2
    model = GraphFrameAveraging(net)
    assert equivariance_error(model, a, act, None, group=lambda generator: next(elements), n=5).max < 1e-13


def test_outputs_of_nodes_are_equivariant():
    a, x = graphs(5, 5), torch.randint(3, (5, 5, 2)).double()
    model = GraphFrameAveraging(WithFeatures(5, 2, 3, nodes=True), output="node")
    y = model(a, x)
    assert y.shape == (5, 5, 3)
    for _ in range(4):
        order = torch.randperm(5)
        assert torch.allclose(model(*relabelled(a, order, x)), y[:, order], atol=1e-13)


def test_symmetric_nodes_get_equal_outputs():
    star = torch.zeros(1, 5, 5, dtype=torch.float64)
    star[0, 0, 1:] = star[0, 1:, 0] = 1
    y = GraphFrameAveraging(WithFeatures(5, 1, 2, nodes=True), output="node")(
        star, torch.ones(1, 5, 1).double()
    )
    assert torch.allclose(y[0, 1:], y[0, 1:2].expand(4, 2), atol=1e-14)
    assert (y[0, 0] - y[0, 1]).abs().min() > 1e-4


def test_the_definition_written_out():
    a, x = graphs(3, 4), torch.randint(2, (3, 4, 1)).double()
    net, nodes = WithFeatures(4, 1, 2), WithFeatures(4, 1, 2, nodes=True)
    model, model_nodes = GraphFrameAveraging(net), GraphFrameAveraging(nodes, output="node")
    frames = model.make_frames(a, x)
    for i, found in enumerate(frames):
        total, total_nodes = 0, torch.zeros(4, 2, dtype=torch.float64)
        for order, weight in zip(found.order, found.weight, strict=True):
            view = a[i][order][:, order][None], x[i][order][None]
            total = total + weight * net(*view)[0]
            total_nodes[order] += weight * nodes(*view)[0]
        assert torch.allclose(model(a, x)[i], total)
        assert torch.allclose(model_nodes(a, x)[i], total_nodes)
    assert torch.equal(model(a, x, frames=frames), model(a, x))


def test_equal_views_are_computed_once():
    seen = []

    class Net(nn.Module):
        def forward(self, a):
            seen.append(len(a))
            return a.flatten(1).sum(-1)

    complete = (1 - torch.eye(5))[None]
    model = GraphFrameAveraging(Net())
    assert model(complete).tolist() == [20.0]
    assert seen == [1]
    assert model(complete.clone().requires_grad_()).tolist() == pytest.approx([20.0])
    assert seen == [1, 120]


def test_padding_changes_nothing():
    a, x = graphs(2, 4), torch.randint(2, (2, 4, 1)).double()
    net = WithFeatures(6, 1, 2)
    model = GraphFrameAveraging(net)
    zeros, mask = (
        torch.zeros(2, 6, 6).double(),
        torch.tensor([True, False, True, True, False, True]).expand(2, 6),
    )
    place = mask[0].nonzero()[:, 0]
    padded, features = torch.full_like(zeros, torch.nan), torch.full((2, 6, 1), torch.nan).double()
    padded[:, place[:, None], place] = a
    features[:, place] = x
    last, last_x, last_mask = zeros.clone(), torch.zeros(2, 6, 1).double(), (torch.arange(6) < 4).expand(2, 6)
    last[:, :4, :4], last_x[:, :4] = a, x
    assert torch.allclose(model(padded, features, mask), model(last, last_x, last_mask), atol=1e-14)


def test_derivatives_with_respect_to_features_and_weights():
    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(2, 4, 4, generator=generator, dtype=torch.float64)
    a, x = (
        (weights + weights.mT).requires_grad_(),
        torch.randn(2, 4, 1, dtype=torch.float64, requires_grad=True),
    )
    model = GraphFrameAveraging(WithFeatures(4, 1, 2))
    assert torch.autograd.gradcheck(model, (a, x))
    # Where nodes are alike, the derivative is the symmetric one.
    ones, star = torch.ones(1, 4, 1).double().requires_grad_(), torch.zeros(1, 4, 4).double()
    star[0, 0, 1:] = star[0, 1:, 0] = 1
    (grad,) = torch.autograd.grad(model(star, ones).sum(), ones)
    assert torch.allclose(grad[0, 1:], grad[0, 1:2].expand(3, 1), atol=1e-13)


def test_sampling_is_unbiased():
    a, net = torch.zeros(1, 5, 5).double(), WithFeatures(5, 1, 1)
    x = torch.arange(5).div(2, rounding_mode="floor").double().reshape(1, 5, 1)
    every = GraphFrameAveraging(net)(a, x)
    model = GraphFrameAveraging(net, max_frames=2, generator=torch.Generator().manual_seed(0))
    few = torch.stack([model(a, x) for _ in range(20)])
    assert (few.mean(0) - every).abs().max() <= 5 * few.std(0).max() / 20**0.5 + 1e-12


def test_state_copies_and_bad_input():
    model = GraphFrameAveraging(mlp(16, 8, 1))
    a = graphs(2, 4)
    other = GraphFrameAveraging(mlp(16, 8, 1))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(a), model(a))
    assert torch.equal(copy.deepcopy(model)(a), model(a))
    assert model.float()(a.float()).dtype == torch.float32
    with pytest.raises(ValueError, match="`adjacency`"):
        model(a[0])
    with pytest.raises(ValueError, match="`x`"):
        model(a, torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match="`mask`"):
        model(a, mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="`frames`"):
        model(a, frames=model.make_frames(a[:1]))
    with pytest.raises(ValueError, match="no graph"):
        model(a[:0])
    with pytest.raises(ValueError, match="`max_frames`"):
        GraphFrameAveraging(mlp(16, 1), max_frames=0)


@pytest.mark.usefixtures("unchecked")
def test_bad_output_is_named():
    with pytest.raises(ValueError, match="`output`"):
        GraphFrameAveraging(mlp(16, 1), output="edge")
