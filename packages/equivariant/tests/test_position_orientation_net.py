"""The network: symmetry, invariances of storage, derivatives, whatever users do to modules."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import rand_rotation
from lemmata.equivariant.position_orientation import FiberBundleConv, PositionOrientationNet

DOUBLE = torch.float64


def randn(*size):
    return torch.randn(*size, dtype=DOUBLE)


def full(nodes):
    return torch.cartesian_prod(torch.arange(nodes), torch.arange(nodes)).T


def cloud(nodes=6, dim=3):
    return randn(nodes, 2), randn(nodes, 1, dim), randn(nodes, dim), full(nodes)


def make(**options):
    given = {"hidden": 12, "layers": 2, "n_orientations": 12, "dtype": DOUBLE} | options
    return PositionOrientationNet(2, 1, out_scalars=2, out_vectors=2, **given)


def error(net, inputs, turn):
    """Relative differences of scalars and vectors after a motion, in the largest norm."""
    scalars, vectors, pos, edge_index = inputs
    s, v = net(*inputs)
    s2, v2 = net(scalars, vectors @ turn.T, pos @ turn.T + randn(pos.shape[-1]), edge_index)
    return max(((s2 - s).norm() / s.norm()).item(), ((v2 - v @ turn.T).norm() / v.norm()).item())


@pytest.mark.parametrize(("n", "kind"), [(12, "icosahedron"), (20, "dodecahedron")])
def test_polyhedra_are_exact_under_their_sixty_rotations(n, kind):
    net, inputs = make(n_orientations=n, grid=kind), cloud()
    assert len(net.grid.symmetry_group) == 60
    assert max(error(net, inputs, turn) for turn in net.grid.symmetry_group) < 1e-12
    assert error(net, inputs, rand_rotation(dtype=DOUBLE)) > 1e-4


@pytest.mark.parametrize("n", [5, 8])
def test_circles_are_exact_under_their_rotations(n):
    net, inputs = make(n_orientations=n, dim=2), cloud(dim=2)
    assert len(net.grid.symmetry_group) == n
    assert max(error(net, inputs, turn) for turn in net.grid.symmetry_group) < 1e-12


@pytest.mark.parametrize("grid", [None, "repulsion", "fibonacci", "icosahedron"])
@pytest.mark.parametrize("readout", ["node", "graph"])
def test_frames_of_the_data_are_exact_in_space(grid, readout):
    net, inputs = make(frame="data", grid=grid, readout=readout), cloud()
    assert max(error(net, inputs, turn) for turn in rand_rotation(5, dtype=DOUBLE)) < 1e-10


@pytest.mark.parametrize("n", [7, 8])
def test_frames_of_the_data_are_exact_in_the_plane(n):
    net, inputs = make(frame="data", n_orientations=n, dim=2), cloud(dim=2)
    cos, sin = math.cos(0.7), math.sin(0.7)
    assert error(net, inputs, torch.tensor([[cos, -sin], [sin, cos]], dtype=DOUBLE)) < 1e-10


def test_errors_fall_as_the_grid_grows():
    inputs = cloud(8)
    means = []
    for n in (20, 64):
        torch.manual_seed(1)
        net = make(n_orientations=n, hidden=32)
        means.append(sum(error(net, inputs, turn) for turn in rand_rotation(8, dtype=DOUBLE)) / 8)
    assert means[1] < means[0] / 3


def test_lengths_are_measured_in_a_unit():
    torch.manual_seed(0)
    net, (scalars, vectors, pos, edge_index) = make(length=1.0), cloud()
    torch.manual_seed(0)
    twin = make(length=2.5)
    expected, found = (
        net(scalars, vectors, pos, edge_index)[0],
        twin(scalars, vectors, 2.5 * pos, edge_index)[0],
    )
    assert torch.allclose(found, expected, atol=1e-12)


def test_permuted_points_and_edges_give_permuted_outputs():
    net = make(cutoff=3.0)
    scalars, vectors, pos, edge_index = cloud()
    order = torch.randperm(6)
    where = order.argsort()
    edges = where[edge_index][:, torch.randperm(36)]
    s, v = net(scalars, vectors, pos, edge_index)
    s2, v2 = net(scalars[order], vectors[order], pos[order], edges)
    assert torch.allclose(s2, s[order], atol=1e-12)
    assert torch.allclose(v2, v[order], atol=1e-12)


@pytest.mark.parametrize("frame", ["fixed", "data"])
@pytest.mark.parametrize("grid", ["dihedral", "repulsion"])
@pytest.mark.parametrize("readout", ["node", "graph"])
def test_batches_equal_graphs_one_by_one(frame, grid, readout):
    net = make(frame=frame, grid=grid, readout=readout)
    clouds = [cloud(nodes) for nodes in (3, 6, 4)]
    offsets = [0, 3, 9]
    scalars, vectors, pos = (torch.cat(parts) for parts in list(zip(*clouds, strict=True))[:3])
    edges = torch.cat([c[3] + offset for c, offset in zip(clouds, offsets, strict=True)], dim=1)
    batch = torch.tensor([0] * 3 + [1] * 6 + [2] * 4)
    apart = [torch.cat(parts) for parts in zip(*(net(*c) for c in clouds), strict=True)]
    for num_graphs in (None, 3):
        together = net(scalars, vectors, pos, edges, batch, num_graphs=num_graphs)
        for one, all_ in zip(apart, together, strict=True):
            assert torch.allclose(one, all_, atol=1e-10)
    if readout == "graph":
        scalars_of_four, vectors_of_four = net(scalars, vectors, pos, edges, batch, num_graphs=4)
        assert scalars_of_four.shape == (4, 2)
        assert vectors_of_four[3].abs().max() == 0


def test_edge_vectors_stand_for_positions():
    net, (scalars, vectors, pos, edge_index) = make(cutoff=2.5), cloud()
    edge_vec = pos[edge_index[0]] - pos[edge_index[1]]
    expected = net(scalars, vectors, pos, edge_index)
    found = net(scalars, vectors, 0 * pos, edge_index, edge_vec=edge_vec)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    shifted = net(scalars, vectors, pos, edge_index, edge_vec=edge_vec + 0.3)
    assert not torch.allclose(shifted[0], expected[0])


def test_edges_fade_towards_the_cutoff():
    net = make(cutoff=2.0, hidden=8)
    scalars, vectors, _, _ = cloud(2)
    edge_index = torch.tensor([[0], [1]])
    without = net(scalars, vectors, randn(2, 3), edge_index[:, :0])[0]
    at_one, near, beyond = (
        net(scalars, vectors, torch.tensor([[x, 0, 0], [0, 0, 0]], dtype=DOUBLE), edge_index)[0]
        for x in (1.0, 2.0 - 1e-5, 3.0)
    )
    assert torch.equal(beyond, without)
    assert (near - without).abs().max() < 1e-9
    assert (at_one - without).abs().max() > 1e-3


def test_isolated_points_and_empty_graphs():
    net = make(readout="node", cutoff=2.0)
    none = torch.zeros(2, 0, dtype=torch.long)
    pos = randn(3, 3).requires_grad_()
    s, v = net(randn(3, 2), randn(3, 1, 3), pos, none)
    s.sum().backward()
    assert s.isfinite().all()
    assert v.isfinite().all()
    s, v = net(randn(0, 2), randn(0, 1, 3), randn(0, 3), none)
    assert (s.shape, v.shape) == ((0, 2), (0, 2, 3))
    for frame in ("random", "data"):
        graphs = make(readout="graph", frame=frame)
        s, v = graphs(randn(0, 2), randn(0, 1, 3), randn(0, 3), none, torch.zeros(0, dtype=torch.long))
        assert (s.shape, v.shape) == ((0, 2), (0, 2, 3))
        alone, _ = graphs(randn(1, 2), randn(1, 1, 3), randn(1, 3), none)
        assert alone.isfinite().all()


def test_energies_have_two_derivatives_where_directions_end():
    net = PositionOrientationNet(1, 0, 8, 1, 0, 2, 12, grid="icosahedron", cutoff=4.0, dtype=DOUBLE)
    along = 1.5 * net.grid.vectors[3]
    pos = torch.stack([torch.zeros(3, dtype=DOUBLE), along]).requires_grad_()

    def energy(x):
        return net(torch.ones(2, 1, dtype=DOUBLE), None, x, full(2))[0].sum()

    hessian = torch.autograd.functional.hessian(energy, pos)
    assert hessian.isfinite().all()
    (force,) = torch.autograd.grad(energy(pos), pos, create_graph=True)
    force.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("frame", ["fixed", "data"])
def test_forces_are_differences_of_energies(frame):
    torch.manual_seed(3)
    net = PositionOrientationNet(1, 0, 8, 1, 0, 2, 8, cutoff=4.0, frame=frame, readout="graph", dtype=DOUBLE)
    species = randn(5, 1)
    assert torch.autograd.gradcheck(
        lambda x: net(species, None, x, full(5))[0], [randn(5, 3).requires_grad_()], atol=1e-6
    )
    pos = randn(3, 3).requires_grad_()
    if frame == "fixed":
        assert torch.autograd.gradgradcheck(lambda x: net(species[:3], None, x, full(3))[0], [pos], atol=1e-5)


@settings(deadline=None, max_examples=10)
@given(edge_chunk=st.sampled_from([None, 1, 5, 1000]), recompute=st.booleans())
def test_chunks_and_recomputation_change_nothing(edge_chunk, recompute):
    torch.manual_seed(0)
    inputs = cloud()

    def run(**options):
        torch.manual_seed(1)
        net = make(cutoff=3.0, **options)
        pos = inputs[2].clone().requires_grad_()
        energy = net(inputs[0], inputs[1], pos, inputs[3])[0].sum()
        (force,) = torch.autograd.grad(energy, pos, create_graph=True)
        force.square().sum().backward()
        return [energy, force, pos.grad, *(p.grad for p in net.parameters() if p.grad is not None)]

    for expected, found in zip(run(), run(edge_chunk=edge_chunk, recompute=recompute), strict=True):
        assert torch.allclose(expected, found, atol=1e-10)


def test_bases_are_evaluated_once_for_all_layers():
    net, inputs = make(layers=5), cloud()
    calls = []
    for basis in (net.spatial_basis, net.fiber_basis):
        basis.register_forward_hook(lambda module, *_: calls.append(module))
    net(*inputs)
    assert len(calls) == 2


def test_random_frames_follow_their_generator_and_rest_in_evaluation():
    net, inputs = make(frame="random"), cloud()
    first, second = (net(*inputs, generator=torch.Generator().manual_seed(5))[1] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(net(*inputs)[1], first)
    fixed = make()
    fixed.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(*inputs)[1], fixed(*inputs)[1])


def test_a_given_rotation_turns_the_grid():
    net, (scalars, vectors, pos, edge_index) = make(), cloud()
    turn = rand_rotation(dtype=DOUBLE)
    found = net(scalars, vectors @ turn.T, pos @ turn.T, edge_index, rotation=turn[None])
    expected = net(scalars, vectors, pos, edge_index)
    assert torch.allclose(found[0], expected[0], atol=1e-12)
    assert torch.allclose(found[1], expected[1] @ turn.T, atol=1e-12)


def test_random_frames_are_equivariant_on_average():
    torch.manual_seed(0)
    net, (scalars, vectors, pos, edge_index) = make(n_orientations=4), cloud(4)
    turn, rotations = rand_rotation(dtype=DOUBLE), rand_rotation(300, dtype=DOUBLE)

    def mean(turn):
        outputs = [
            net(scalars, vectors @ turn.T, pos @ turn.T, edge_index, rotation=r[None])[1] for r in rotations
        ]
        return torch.stack(outputs).mean(0)

    plain = [net(scalars, v, p, edge_index)[1] for v, p in ((vectors, pos), (vectors @ turn.T, pos @ turn.T))]
    fixed_error = (plain[1] - plain[0] @ turn.T).norm()
    assert (mean(turn) - mean(torch.eye(3, dtype=DOUBLE)) @ turn.T).norm() < fixed_error / 4


def test_calibration_is_done_once_and_saved():
    net, inputs = make(layers=4, hidden=16), cloud()
    assert not net.calibrated
    net.calibrate(*inputs)
    assert net.calibrated
    spreads = []
    for block in net.blocks:
        block.conv.register_forward_hook(lambda _, x, y: spreads.append((y.std() / x[0].std()).item()))
    before = net(*inputs)[0]
    assert spreads == pytest.approx([1.0] * 4)
    net.calibrate(randn(6, 2), *inputs[1:])
    assert torch.equal(net(*inputs)[0], before)
    fresh = make(layers=4, hidden=16)
    fresh.load_state_dict(net.state_dict())
    assert fresh.calibrated
    assert torch.equal(fresh(*inputs)[0], before)
    assert all(not conv._forward_pre_hooks for conv in net.modules() if isinstance(conv, FiberBundleConv))


def test_modules_survive_copies_casts_and_other_grids():
    net, inputs = make(n_orientations=16), cloud()
    expected = net(*inputs)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(*inputs)[1], expected[1])
    single = copy.deepcopy(net).float()
    found = single(*(x.float() if x.is_floating_point() else x for x in inputs))
    assert found[0].dtype == torch.float32
    assert torch.allclose(found[1].double(), expected[1], atol=1e-4)
    other = make(n_orientations=16, grid="dihedral")
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(*inputs)[1], expected[1])


def test_either_kind_of_input_and_output_may_be_absent():
    scalars, vectors, pos, edge_index = cloud()
    only = PositionOrientationNet(0, 1, 8, 0, 1, layers=1, n_orientations=4, dtype=DOUBLE)
    s, v = only(None, vectors, pos, edge_index)
    assert (s.shape, v.shape) == ((6, 0), (6, 1, 3))
    only = PositionOrientationNet(2, 0, 8, 3, 0, layers=1, n_orientations=4, dtype=DOUBLE, readout="graph")
    s, v = only(scalars, None, pos, edge_index)
    assert (s.shape, v.shape) == ((1, 3), (1, 0, 3))


@pytest.mark.slow
@pytest.mark.parametrize("frame", ["fixed", "random", "data"])
def test_networks_compile(unchecked, frame):
    torch.compiler.reset()
    net, inputs = make(frame=frame, cutoff=3.0).eval(), cloud()
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    compiled = torch.compile(net, fullgraph=True)
    for found, expected in zip(
        compiled(*inputs, batch, num_graphs=2), net(*inputs, batch, num_graphs=2), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, r"`hidden` \(=0\) must be at least 1"),
        ({"layers": 0}, r"`layers` \(=0\) must be at least 1"),
        ({"readout": "edge"}, r"`readout` \(='edge'\) must be 'node' or 'graph'"),
        ({"frame": "pca"}, r"`frame` \(='pca'\) must be"),
        ({"degree": 0}, r"`degree` \(=0\) must be at least 1"),
        ({"cutoff": -1.0}, r"`cutoff` \(=-1.0\)"),
        ({"length": 0.0}, r"`length` \(=0.0\) must lie in"),
        ({"dim": 4}, r"`dim` \(=4\) must be 2 or 3"),
        ({"grid": "icosahedron", "n_orientations": 20}, r"`n` \(=20\) must be 12"),
        ({"edge_chunk": 0}, r"`edge_chunk` \(=0\) must be at least 1"),
    ],
)
def test_bad_options_are_named(options, message):
    arguments = {
        "in_scalars": 1,
        "in_vectors": 1,
        "hidden": 4,
        "out_scalars": 1,
        "out_vectors": 0,
        "layers": 1,
    }
    with pytest.raises((ValueError, TypeError), match=message):
        PositionOrientationNet(**(arguments | {"n_orientations": 12} | options))


def test_bad_inputs_are_named():
    net, (scalars, vectors, pos, edge_index) = make(), cloud()
    with pytest.raises(ValueError, match=r"`vectors` has shape \(6, 1, 2\), expected \(6, 1, 3\)"):
        net(scalars, vectors[..., :2], pos, edge_index)
    with pytest.raises(ValueError, match=r"`scalars` has shape \(6, 0\), expected \(6, 2\)"):
        net(None, vectors, pos, edge_index)
    with pytest.raises(ValueError, match=r"`pos` has shape \(6, 2\)"):
        net(scalars, vectors, pos[:, :2], edge_index)
    with pytest.raises(ValueError, match=r"`edge_index` has shape"):
        net(scalars, vectors, pos, edge_index.T)
    with pytest.raises(ValueError, match="`in_scalars` and `in_vectors` \\(=0\\) must not both be 0"):
        PositionOrientationNet(0, 0, 4, 1, 1, 1)
    with pytest.raises(ValueError, match="`out_scalars` and `out_vectors` \\(=0\\) must not both be 0"):
        PositionOrientationNet(1, 1, 4, 0, 0, 1)
