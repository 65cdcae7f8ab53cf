"""Convolutions over positions and orientations against loops over every pair."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from lemmata.equivariant.o3 import rand_rotation
from lemmata.equivariant.position_orientation import (
    ConvNextBlock,
    FiberBundleConv,
    KernelBasis,
    PointCloudConv,
    edges_to_points,
    invariant_attributes,
)
from lemmata.equivariant.position_orientation.kernel_sum import kernel_sum

DOUBLE = torch.float64


def randn(*size):
    return torch.randn(*size, dtype=DOUBLE)


def workload(nodes=5, edges=11, orientations=4, basis=3, channels=6):
    return (
        randn(nodes, orientations, channels),
        torch.randint(nodes, (2, edges)),
        randn(edges, orientations, basis),
        randn(orientations, orientations, basis),
    )


def test_separable_depthwise_convolution_equals_four_loops():
    x, edge_index, basis, fiber_basis = workload()
    conv = FiberBundleConv(6, 6, 3, dtype=DOUBLE)
    k1 = basis @ conv.kernel.weight.T
    k2 = fiber_basis @ conv.fiber_kernel.weight.T
    expected = torch.zeros_like(x)
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        for o in range(4):
            for p in range(4):
                for c in range(6):
                    expected[i, o, c] += k2[o, p, c] * k1[e, p, c] * x[j, p, c] / 4
    assert torch.allclose(conv(x, edge_index, basis, fiber_basis), expected, atol=1e-12)


def test_dense_convolution_mixes_channels_over_orientations():
    x, edge_index, basis, fiber_basis = workload(channels=3)
    conv = FiberBundleConv(3, 5, 3, depthwise=False, dtype=DOUBLE)
    k1 = basis @ conv.kernel.weight.T
    k2 = (fiber_basis @ conv.fiber_kernel.weight.T).reshape(4, 4, 5, 3)
    expected = torch.zeros(5, 4, 5, dtype=DOUBLE)
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        for o in range(4):
            for p in range(4):
                expected[i, o] += k2[o, p] @ (k1[e, p] * x[j, p]) / 4
    assert torch.allclose(conv(x, edge_index, basis, fiber_basis), expected, atol=1e-12)


def test_convolution_with_one_kernel_equals_four_loops():
    x, edge_index, _, _ = workload()
    basis = randn(11, 4, 4, 3)
    conv = FiberBundleConv(6, 6, 3, separable=False, dtype=DOUBLE)
    kernel = basis @ conv.kernel.weight.T
    expected = torch.zeros_like(x)
    for e, (j, i) in enumerate(edge_index.T.tolist()):
        for o in range(4):
            for p in range(4):
                expected[i, o] += kernel[e, o, p] * x[j, p] / 4
    assert torch.allclose(conv(x, edge_index, basis), expected, atol=1e-12)


def test_a_product_of_kernels_makes_both_the_same():
    x, edge_index, basis, fiber_basis = workload(channels=1)
    separable = FiberBundleConv(1, 1, 3, dtype=DOUBLE)
    whole = FiberBundleConv(1, 1, 9, separable=False, dtype=DOUBLE)
    joint = (fiber_basis[None, :, :, :, None] * basis[:, None, :, None, :]).flatten(-2)
    weight = separable.fiber_kernel.weight[:, :, None] * separable.kernel.weight[:, None]
    whole.load_state_dict({"kernel.weight": weight.flatten(1), "calibrated": torch.tensor(False)})
    found = separable(x, edge_index, basis, fiber_basis)
    assert torch.allclose(found, whole(x, edge_index, joint), atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    nodes=st.integers(1, 5),
    edges=st.integers(0, 9),
    middle=st.lists(st.integers(1, 3), max_size=2),
    chunk=st.sampled_from([None, 1, 2, 100]),
)
def test_sums_in_chunks_equal_messages(nodes, edges, middle, chunk):
    x, basis = randn(nodes, *middle, 4), randn(edges, *middle, 3)
    weight, edge_index = randn(4, 3), torch.randint(nodes, (2, edges))
    expected = torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]] * (basis @ weight.T))
    assert torch.allclose(kernel_sum(x, basis, weight, edge_index, chunk=chunk), expected)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 2)])
def test_derivatives_of_sums_are_right(chunk, frozen):
    edge_index = torch.tensor([[0, 1, 1, 2, 0], [1, 0, 1, 1, 1]])
    inputs = [randn(3, 2, 2), randn(5, 2, 3), randn(2, 3)]
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i not in frozen)

    def sums(*tensors):
        return kernel_sum(*tensors, edge_index, chunk=chunk)

    assert gradcheck(sums, inputs)
    assert gradgradcheck(sums, inputs)


def test_third_derivatives_of_sums_are_right():
    edge_index = torch.tensor([[0, 1, 1], [1, 0, 1]])
    inputs = [randn(2, 2).requires_grad_(), randn(3, 2).requires_grad_(), randn(2, 2).requires_grad_()]

    def slope(*tensors):
        value = kernel_sum(*tensors, edge_index, chunk=2).pow(3).sum()
        return torch.autograd.grad(value, tensors, create_graph=True)

    assert gradgradcheck(slope, inputs)


def test_sums_take_mixed_dtypes_and_autocast():
    x, edge_index, basis, _ = workload()
    weight = randn(6, 3)
    expected = kernel_sum(x, basis, weight, edge_index)
    assert kernel_sum(x.float(), basis, weight.float(), edge_index).dtype == DOUBLE
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kernel_sum(x.float(), basis.bfloat16(), weight.float(), edge_index)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=0.1)


def test_gradients_under_functional_transforms():
    x, edge_index, basis, _ = workload()
    weight = randn(6, 3)

    def energy(b):
        return kernel_sum(x, b, weight, edge_index).square().sum()

    leaf = basis.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(leaf), leaf)
    assert torch.allclose(torch.func.grad(energy)(basis), expected)


@pytest.mark.parametrize("edge_chunk", [None, 3])
def test_messages_and_their_sums_agree(edge_chunk):
    x, edge_index, basis, fiber_basis = workload()
    conv = FiberBundleConv(6, 6, 3, edge_chunk=edge_chunk, dtype=DOUBLE)
    fused = conv(x, edge_index, basis, fiber_basis)
    messages = conv.propagate(edge_index, x=x, basis=basis, size=(5, 5))
    assert torch.allclose(conv._over_orientations(messages, fiber_basis), fused)


def test_nothing_is_kept_of_the_edges_but_the_basis():
    x, edge_index, basis, _ = workload(nodes=3, edges=500, channels=8)
    leaves = [x.requires_grad_(), basis.requires_grad_(), randn(8, 3).requires_grad_()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        kernel_sum(*leaves, edge_index)
    assert sum(t.numel() for t in kept) <= sum(t.numel() for t in leaves) + edge_index.numel()


def test_points_of_edges_make_an_exactly_invariant_network():
    pos = randn(5, 3)
    edge_index = torch.tensor([[j, i] for i in range(5) for j in range(5) if i != j]).T
    basis = KernelBasis(5, 8, dtype=DOUBLE)
    blocks = [ConvNextBlock(6, PointCloudConv(6, 8, dtype=DOUBLE), dtype=DOUBLE) for _ in range(2)]
    node_features = randn(5, 6)

    def network(pos, vector):
        edge_vec = pos[edge_index[0]] - pos[edge_index[1]]
        points = edges_to_points(edge_index, edge_vec, 5)
        sender, receiver = points.edge_index
        shared = basis(
            invariant_attributes(points.edge_vec, points.orientation[receiver], points.orientation[sender])
        )
        x = node_features[points.origin] * (vector[points.origin] * points.orientation).sum(-1, keepdim=True)
        for block in blocks:
            x = block(x, points.edge_index, shared)
        vectors = torch.zeros(5, 3, dtype=DOUBLE)
        return x, vectors.index_add(0, points.origin, x[:, :1] * points.orientation)

    vector = randn(5, 3)
    scalars, vectors = network(pos, vector)
    for turn in rand_rotation(4, dtype=DOUBLE):
        turned_scalars, turned_vectors = network(pos @ turn.T + randn(3), vector @ turn.T)
        assert (turned_scalars - scalars).abs().max() < 1e-12 * scalars.abs().max()
        assert (turned_vectors - vectors @ turn.T).abs().max() < 1e-12 * vectors.abs().max()


def test_calibration_makes_outputs_as_spread_as_inputs_once():
    x, edge_index, basis, fiber_basis = workload(nodes=30, edges=200)
    conv = FiberBundleConv(6, 6, 3, dtype=DOUBLE)
    assert not conv.calibrated
    conv.calibrate(x, edge_index, 100 * basis, fiber_basis)
    assert conv.calibrated
    assert conv(x, edge_index, 100 * basis, fiber_basis).std().item() == pytest.approx(x.std().item())
    before = conv.kernel.weight.clone()
    conv.calibrate(x, edge_index, basis, fiber_basis)
    assert torch.equal(conv.kernel.weight, before)
    fresh = FiberBundleConv(6, 6, 3, dtype=DOUBLE)
    fresh.load_state_dict(conv.state_dict())
    assert fresh.calibrated
    points = PointCloudConv(6, 3, dtype=DOUBLE)
    points.calibrate(x[:, 0], edge_index, 7 * basis[:, 0])
    assert points(x[:, 0], edge_index, 7 * basis[:, 0]).std().item() == pytest.approx(x[:, 0].std().item())


def test_calibration_without_edges_changes_nothing():
    conv = FiberBundleConv(6, 6, 3, dtype=DOUBLE)
    before = copy.deepcopy(conv.state_dict())
    none = torch.zeros(2, 0, dtype=torch.long)
    conv.calibrate(randn(4, 5, 6), none, randn(0, 5, 3), randn(5, 5, 3))
    assert torch.equal(conv.kernel.weight, before["kernel.weight"])
    assert conv.kernel.weight.isfinite().all()


def test_blocks_add_to_their_input():
    x, edge_index, basis, fiber_basis = workload()
    block = ConvNextBlock(6, FiberBundleConv(6, 6, 3, dtype=DOUBLE), layer_scale=0.0, dtype=DOUBLE)
    assert torch.equal(block(x, edge_index, basis, fiber_basis), x)
    assert "scale" in dict(block.named_parameters())
    free = ConvNextBlock(6, FiberBundleConv(6, 6, 3, dtype=DOUBLE), widening=2, dtype=DOUBLE)
    assert free.widen.out_features == 12
    assert "scale" not in dict(free.named_parameters())
    inner = free.conv(x, edge_index, basis, fiber_basis)
    expected = x + free.narrow(nn.functional.gelu(free.widen(free.norm(inner))))
    assert torch.equal(free(x, edge_index, basis, fiber_basis), expected)


def test_modules_survive_copies_and_casts():
    x, edge_index, basis, fiber_basis = workload()
    conv = FiberBundleConv(6, 6, 3, dtype=DOUBLE)
    expected = conv(x, edge_index, basis, fiber_basis)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(twin(x, edge_index, basis, fiber_basis), expected)
    narrow = copy.deepcopy(conv).float()
    found = narrow(x.float(), edge_index, basis.float(), fiber_basis.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert "depthwise=True" in repr(conv)


@pytest.mark.slow
def test_convolutions_compile(unchecked):
    torch.compiler.reset()
    x, edge_index, basis, fiber_basis = workload()
    conv = FiberBundleConv(6, 6, 3, dtype=DOUBLE)
    compiled = torch.compile(conv, fullgraph=True)
    assert torch.allclose(
        compiled(x, edge_index, basis, fiber_basis), conv(x, edge_index, basis, fiber_basis), atol=1e-12
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiberBundleConv(4, 5, 3), r"`channels_out` \(=5\) must equal `channels_in` \(=4\)"),
        (lambda: FiberBundleConv(4, 4, 3, False, False), r"`depthwise` \(=False\) needs `separable`"),
        (lambda: FiberBundleConv(0, 0, 3), r"`channels_in` \(=0\) must be at least 1"),
        (lambda: PointCloudConv(4, 0), r"`basis_dim` \(=0\) must be at least 1"),
        (lambda: PointCloudConv(4, 3, edge_chunk=0), r"`edge_chunk` \(=0\) must be at least 1"),
        (lambda: ConvNextBlock(4, nn.Identity(), widening=0), r"`widening` \(=0\) must be at least 1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
