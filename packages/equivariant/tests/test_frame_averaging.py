"""Averaging over frames: exact for any network, dense or on graph batches, with forces that are right."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch_geometric.nn import global_add_pool

from lemmata.equivariant.frames import (
    DegenerateFrameError,
    FrameAveraging,
    frame_average,
    pca_frames,
    weighted_frames,
)
from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.testing import Motion, equivariance_error

GROUPS = {"SE": "SE3", "E": "E3", "SO": "SO3", "O": "O3"}


def mlp(*sizes):
    layers = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


class Transformer(nn.Module):
    """Reads coordinates and features of points as they come."""

    def __init__(self, features=4, outputs=3):
        super().__init__()
        self.embed = nn.Linear(3 + features, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.readout = nn.Linear(16, outputs)
        self.double()

    def forward(self, x, features, mask=None):
        h = self.embed(torch.cat([x, features], dim=-1))
        return self.readout(self.layer(h, src_key_padding_mask=None if mask is None else ~mask))


class GraphNetwork(nn.Module):
    """Message passing with absolute coordinates, in PyTorch Geometric's signature."""

    def __init__(self, channels=4, outputs=1, *, pool=True):
        super().__init__()
        self.message = nn.Linear(2 * channels + 9, channels)
        self.readout = nn.Linear(channels + 3, outputs)
        self.pool = pool
        self.double()

    def forward(self, x, pos, edge_index, shift, batch, num_graphs=None):
        source, target = edge_index
        arrow = pos[source] - pos[target] + shift
        sent = self.message(torch.cat([x[source], x[target], pos[source], pos[target], arrow], -1)).tanh()
        x = x + torch.zeros_like(x).index_add(0, target, sent)
        y = self.readout(torch.cat([x, pos], -1)).sin()
        return global_add_pool(y, batch, size=num_graphs) if self.pool else y


def graph_batch(sizes=(5, 3, 6)):
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    edge_index = (batch[:, None] == batch).fill_diagonal_(False).nonzero().T
    pos = torch.randn(len(batch), 3, dtype=torch.float64)
    x = torch.randn(len(batch), 4, dtype=torch.float64)
    return x, pos, edge_index, torch.randn(edge_index.shape[1], 3, dtype=torch.float64), batch


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("options", [{}, {"frames": "skew"}, {"sample": "weighted"}], ids=str)
def test_an_mlp_becomes_invariant(group, options):
    x = torch.randn(5, 4, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0])
    net = mlp(12, 32, 2)
    model = FrameAveraging(net, group=group, **options)
    assert equivariance_error(net, x, "positions", None, group=GROUPS[group]).max > 0.1
    assert equivariance_error(model, x, "positions", None, group=GROUPS[group]).max < 1e-12


@pytest.mark.parametrize("group", GROUPS)
def test_a_transformer_becomes_equivariant(group):
    x, features = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    inputs = ["positions", "scalars"]
    for output, action in (("positions", "positions"), ("vectors", "1o"), ("1e", "1e"), ("scalars", None)):
        model = FrameAveraging(Transformer(), group=group, inputs=inputs, output=output)
        report = equivariance_error(model, (x, features), ["positions", None], action, group=GROUPS[group])
        assert report.max < 1e-11, output


def test_every_kind_at_once():
    irreps = Irreps("2x0e + 1x0o + 1x1o + 1x2e + 1x3o")
    sizes = (3, 3, 2 * 3, 9, irreps.dim, 2)

    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = mlp(sum(sizes), 40, 3 + 9 + irreps.dim + 1)

        def forward(self, *args):
            y = self.mix(torch.cat([a.flatten(2) for a in args], -1).flatten(0, 1))
            y = y.reshape(*args[0].shape[:2], -1)
            return y[..., :3], y[..., 3:12].unflatten(-1, (3, 3)), y[..., 12:-1], y[..., -1]

    model = FrameAveraging(
        Everything(),
        group="E",
        inputs=["positions", "positions", "vectors", "matrices", irreps, "scalars"],
        output=["positions", "matrices", str(irreps), "scalars"],
    )

    def matrices(g, x):
        r = g.rotation if isinstance(g, Motion) else g
        return r @ x @ r.T

    x = torch.randn(4, 5, 3, dtype=torch.float64)
    args = [
        x,
        x + torch.randn_like(x),
        torch.randn(4, 5, 2, 3, dtype=torch.float64),
        torch.randn(4, 5, 3, 3, dtype=torch.float64),
        irreps.randn(4, 5, -1, dtype=torch.float64),
        torch.randn(4, 5, 2, dtype=torch.float64),
    ]
    report = equivariance_error(
        model,
        args,
        ["positions", "positions", "1o", matrices, irreps, None],
        ["positions", matrices, irreps, None],
        group="E3",
    )
    assert report.max < 1e-10


@pytest.mark.parametrize("d", [2, 4])
def test_other_dimensions(d):
    x, q = (
        torch.randn(6, 7, d, dtype=torch.float64),
        torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0],
    )
    model = FrameAveraging(mlp(7 * d, 30, d), group="E", output="vectors")
    assert torch.allclose(model(x @ q.T + 3), model(x) @ q.T, atol=1e-11)


def test_reflections_are_kept_apart_under_se_alone():
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    mirrored, net = x * torch.tensor([-1.0, 1, 1]), mlp(18, 32, 1)
    proper, full = FrameAveraging(net, group="SE"), FrameAveraging(net, group="E")
    assert torch.allclose(full(x), full(mirrored), atol=1e-12)
    assert ((proper(x) - proper(mirrored)).abs() > 1e-4).all()
    # Averaging what SE tells of both hands is what E tells.
    assert torch.allclose((proper(x) + proper(mirrored)) / 2, full(x), atol=1e-12)


def test_flat_and_straight_clouds_are_exact():
    x = torch.randn(3, 6, 3, dtype=torch.float64)
    x[..., 2] = 0
    for group, action in (("E", "E3"), ("SE", "SE3")):
        model = FrameAveraging(mlp(18, 32, 3), group=group, output="vectors")
        assert equivariance_error(model, x, "positions", "1o", group=action).max < 1e-10
        # What is left of a vector along an undetermined axis is cancelled by the signs.
        assert model(x)[..., 2].abs().max() < 1e-12 or group == "SE"
        line = x * torch.tensor([1.0, 0, 0])
        assert equivariance_error(model, line, "positions", "1o", group=action).max < 1e-10


def test_symmetric_clouds_jump():
    """Documented: what a methane-like cloud gives depends on which way it is disturbed."""
    x = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    near = x + 1e-9 * torch.randn(20, 5, 3, dtype=torch.float64)
    net = mlp(15, 32, 1)
    jump = FrameAveraging(net)(near)
    smooth = FrameAveraging(net, sample="weighted")(near)
    assert jump.std() > 1e-3
    assert smooth.std() < 1e-7
    with pytest.raises(DegenerateFrameError):
        FrameAveraging(net, strict=True)(near)


def test_rotation_permutation_and_features_together():
    x, features = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 6, 4, dtype=torch.float64)
    model = FrameAveraging(Transformer(), group="SE", inputs=["positions", "scalars"], output="positions")
    order = torch.randperm(6)

    def act(g, x):
        return (x @ g.rotation.T + g.translation)[:, order]

    report = equivariance_error(model, (x, features), [act, lambda g, f: f[:, order]], [act], group="SE3")
    assert report.max < 1e-11


def test_padding_changes_nothing():
    x, features = torch.randn(3, 7, 3, dtype=torch.float64), torch.randn(3, 7, 4, dtype=torch.float64)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 4:] = False
    model = FrameAveraging(
        Transformer(), inputs=["positions", "scalars", "mask"], output="positions", group="E"
    )
    y = model(torch.where(mask[..., None], x, torch.nan), features, mask)
    assert torch.allclose(y[0, :4], model(x[:1, :4], features[:1, :4], None)[0], atol=1e-12)
    assert torch.allclose(y[1:], model(x[1:], features[1:], mask[1:]), atol=1e-12)


def test_single_clouds_and_several_axes_of_batch():
    model = FrameAveraging(mlp(15, 8, 3), output="vectors")
    x = torch.randn(2, 3, 5, 3, dtype=torch.float64)
    y = model(x)
    assert y.shape == (2, 3, 3)
    assert torch.allclose(model(x[1, 2]), y[1, 2])
    assert model(x[:0]).shape == (0, 3, 3)


def test_a_plain_loop_gives_the_same():
    """The definition, frame by frame."""
    x, v = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    net = mlp(30, 16, 15)

    def backbone(x, v):
        return net(torch.cat([x, v], -1)).reshape(-1, 5, 3)

    frames = pca_frames(x, group="E")
    total = 0
    for r in frames.rotation:
        total = total + backbone((x - frames.origin)[None] @ r, v[None] @ r)[0] @ r.T + frames.origin
    y = frame_average(backbone, x, v, frames=frames, inputs=["positions", "vectors"], output="positions")
    assert torch.allclose(y, total / 8)


@pytest.mark.parametrize("group", ["SE", "E"])
def test_graph_batches_are_equivariant(group):
    x, pos, edge_index, shift, batch = graph_batch()
    inputs = ["scalars", "positions", "edge_index", "edge vectors", "batch"]
    energy = FrameAveraging(GraphNetwork(), group=group, inputs=inputs, output="graph scalars")
    moves = [None, "positions", None, "1o", None]
    args = (x, pos, edge_index, shift, batch)
    assert energy(*args).shape == (3, 1)
    counted = FrameAveraging(
        energy.module, group=group, inputs=[*inputs, "num_graphs"], output="graph scalars"
    )
    assert torch.allclose(counted(*args, 3), energy(*args))
    assert equivariance_error(energy, args, moves, None, group=GROUPS[group]).max < 1e-11
    for word, outputs, pool, action in (("vectors", 3, False, "1o"), ("positions", 3, False, "positions"),
                                        ("2e", 5, False, "2e"), ("graph vectors", 3, True, "1o"),
                                        ("graph 2e", 5, True, "2e")):  # fmt: skip
        net = GraphNetwork(outputs=outputs, pool=pool)
        model = FrameAveraging(net, group=group, inputs=inputs, output=word)
        assert equivariance_error(model, args, moves, action, group=GROUPS[group]).max < 1e-11, word


def test_graph_batches_give_what_single_graphs_give():
    x, pos, edge_index, shift, batch = graph_batch()
    inputs = ["scalars", "positions", "edge_index", "edge vectors", "batch"]
    energy = FrameAveraging(GraphNetwork(), inputs=inputs, output="graph scalars")
    together = energy(x, pos, edge_index, shift, batch)
    start = 0
    for g, size in enumerate((5, 3, 6)):
        edges = batch[edge_index[0]] == g
        nodes = slice(start, start + size)
        alone = energy(x[nodes], pos[nodes], edge_index[:, edges] - start, shift[edges], None)
        assert torch.allclose(alone[0], together[g])
        start += size


def test_graphs_of_one_node_and_of_none():
    x, pos, edge_index, shift, batch = graph_batch((1, 4, 1))
    inputs = ["scalars", "positions", "edge_index", "edge vectors", "batch"]
    energy = FrameAveraging(GraphNetwork(), group="E", inputs=inputs, output="graph scalars")
    moves = [None, "positions", None, "1o", None]
    report = equivariance_error(energy, (x, pos, edge_index, shift, batch), moves, None, group="E3")
    assert report.max < 1e-11
    counted = FrameAveraging(energy.module, inputs=[*inputs, "num_graphs"], output="graph scalars")
    nothing = counted(x[:0], pos[:0], edge_index[:, :0], shift[:0], batch[:0], 2)
    assert torch.equal(nothing, torch.zeros(2, 1, dtype=torch.float64))


def test_graph_level_inputs():
    _, pos, _, _, batch = graph_batch()
    cell, field = torch.randn(3, 3, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)

    class Net(nn.Module):
        def forward(self, pos, cell, field, batch):
            rows = torch.cat([pos, cell.flatten(1)[batch], field[batch]], -1)
            return global_add_pool(rows.cumsum(-1).sin().sum(-1, keepdim=True), batch)

    inputs = ["positions", "graph matrices", "graph vectors", "batch"]
    model = FrameAveraging(Net(), inputs=inputs, output="graph scalars", group="E")

    def matrices(g, x):
        return g.rotation @ x @ g.rotation.T

    moves = ["positions", matrices, "1o", None]
    assert equivariance_error(model, (pos, cell, field, batch), moves, None, group="E3").max < 1e-11


@pytest.mark.parametrize(
    "options", [{}, {"frames": "skew"}, {"sample": "weighted", "candidates": 3}], ids=str
)
def test_forces_are_derivatives_of_the_energy(options):
    x, pos, edge_index, shift, batch = graph_batch((4, 5))
    inputs = ["scalars", "positions", "edge_index", "edge vectors", "batch"]
    energy = FrameAveraging(GraphNetwork(), group="E", inputs=inputs, output="graph scalars", **options)
    fn = lambda pos: energy(x, pos, edge_index, shift, batch)  # noqa: E731
    assert torch.autograd.gradcheck(fn, pos.requires_grad_())
    assert torch.autograd.gradgradcheck(fn, pos, fast_mode=True)


def test_forces_are_equivariant_and_wrong_where_frames_are_detached():
    net = mlp(12, 32, 1)

    def forces(model, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(model(x).sum(), x)[0]

    x = torch.randn(3, 4, 3, dtype=torch.float64)
    attached, loose = FrameAveraging(net), FrameAveraging(net, detach_frames=True)
    assert torch.allclose(attached(x), loose(x))
    report = equivariance_error(lambda x: forces(attached, x), x, "positions", "1o", group="SE3")
    assert report.max < 1e-9
    assert forces(attached, x).sum(1).abs().max() < 1e-10
    torque = torch.linalg.cross(x, forces(attached, x)).sum(1)
    assert torque.abs().max() < 1e-10
    assert torch.linalg.cross(x, forces(loose, x)).sum(1).abs().max() > 1e-4
    first = torch.autograd.grad(attached(x).sum(), list(net.parameters()))
    second = torch.autograd.grad(loose(x).sum(), list(net.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_one_frame_in_training_is_unbiased_and_all_are_used_in_evaluation():
    net = mlp(12, 32, 1)
    model = FrameAveraging(net, sample="one", generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    every = FrameAveraging(net)(x)
    drawn = torch.stack([model(x) for _ in range(100)])
    assert len({round(v, 9) for v in drawn[:, 0, 0].tolist()}) == 4
    assert (drawn.mean(0) - every).abs().max() < 5 * drawn.std(0).max() / 10
    model.eval()
    assert torch.allclose(model(x), every)
    again = FrameAveraging(net, sample="one", generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), drawn[0])


def test_frames_for_each_neighbourhood():
    """Local frames through the same functions: about each node, of its edges, weighted by their length."""
    _, pos, edge_index, _, _ = graph_batch((6, 5))
    net = mlp(3, 16, 3)

    def local(pos):
        arrows = pos[edge_index[0]] - pos[edge_index[1]]
        weights = torch.exp(-arrows.square().sum(-1))
        frames = pca_frames(arrows, batch=edge_index[1], num_clouds=len(pos), weights=weights, group="O")
        inputs = ["positions", "batch"]
        return frame_average(
            lambda arrows, batch: global_add_pool(net(arrows), batch, size=8 * len(pos)),
            arrows, edge_index[1], frames=frames, inputs=inputs, output="graph vectors",
        )  # fmt: skip

    assert equivariance_error(local, pos, "positions", "1o", group="E3").max < 1e-11


def test_keywords_and_none_reach_the_module():
    class Net(nn.Module):
        def forward(self, x, extra, *, scale):
            assert extra is None
            return scale * x.pow(3).sum((-1, -2))

    model = FrameAveraging(Net(), inputs=["positions", "scalars"])
    x = torch.randn(2, 4, 3)
    assert torch.allclose(model(x, None, scale=2.0), 2 * model(x, None, scale=1.0))


def test_state_copies_and_pickles():
    model = FrameAveraging(mlp(12, 8, 1), sample="one", generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    same = copy.deepcopy(model).eval(), pickle.loads(pickle.dumps(model)).eval()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = FrameAveraging(mlp(12, 8, 1))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for found in (*same, other):
        assert torch.equal(found(x), model.eval()(x))
    assert list(model.state_dict()) == [f"module.{name}" for name in model.module.state_dict()]
    single = model.to(torch.float32)
    assert single(x.float()).dtype == torch.float32
    assert "positions" in repr(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.randn(5, 4, 3)
    net = mlp(12, 8, 3).float()
    full = FrameAveraging(net, output="vectors")(x)
    low = FrameAveraging(copy.deepcopy(net).to(dtype), output="vectors")(x.to(dtype))
    assert low.dtype == dtype
    assert (low.float() - full).abs().max() < 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (FrameAveraging(net, output="vectors")(x).float() - full).abs().max() < 0.1


@pytest.mark.parametrize(("options", "error", "match"), [
    ({"group": "SU"}, ValueError, "`group`"),
    ({"frames": "random"}, ValueError, "`frames`"),
    ({"sample": "two"}, ValueError, "`sample`"),
    ({"frames": "skew", "sample": "one"}, ValueError, "skew"),
    ({"candidates": 3}, ValueError, "`candidates`"),
    ({"inputs": ["vectors"]}, ValueError, "'positions'"),
    ({"inputs": ["positions", "vector"]}, ValueError, "'vector' is unknown"),
    ({"inputs": "positions"}, TypeError, "sequence"),
    ({"inputs": ["positions", "edge vectors"]}, ValueError, "edge_index"),
    ({"output": "graph scalars"}, ValueError, "'batch'"),
    ({"inputs": ["positions", "mask", "batch"]}, ValueError, "at once"),
    ({"output": "mask"}, ValueError, "'mask' is unknown"),
])  # fmt: skip
@pytest.mark.usefixtures("unchecked")
def test_bad_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        FrameAveraging(mlp(12, 1), **options)


def test_bad_input_is_named():
    model = FrameAveraging(mlp(12, 1), inputs=["positions", "scalars"])
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="2 arguments"):
        model(x)
    with pytest.raises(ValueError, match="scalars must have shape"):
        model(x, x[:1])
    with pytest.raises(ValueError, match="2 tensors"):
        FrameAveraging(mlp(12, 1), output=["scalars", "vectors"])(x)
    with pytest.raises(ValueError, match="vectors must have shape"):
        FrameAveraging(mlp(12, 2), output="vectors")(x)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_compiles_to_one_graph():
    torch.compiler.reset()
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    model = FrameAveraging(mlp(12, 16, 3), output="vectors", group="E")
    compiled = torch.compile(model, fullgraph=True)
    assert torch.allclose(compiled(x), model(x))
    first, second = (torch.autograd.grad(m(x).square().sum(), x)[0] for m in (compiled, model))
    assert torch.allclose(first, second, atol=1e-10)
    args = graph_batch()
    inputs = ["scalars", "positions", "edge_index", "edge vectors", "batch", "num_graphs"]
    graphs = FrameAveraging(GraphNetwork(pool=False, outputs=3), inputs=inputs, output="vectors")
    assert torch.allclose(torch.compile(graphs, fullgraph=True)(*args, 3), graphs(*args, 3))


def test_weighted_frames_of_a_batch():
    x, pos, edge_index, shift, batch = graph_batch()
    inputs = ["scalars", "positions", "edge_index", "edge vectors", "batch"]
    model = FrameAveraging(GraphNetwork(), inputs=inputs, output="graph scalars", sample="weighted")
    frames = model.make_frames(x, pos, edge_index, shift, batch)
    assert frames.rotation.shape == (3, 36, 3, 3)
    expected = weighted_frames(pos[:5], flips=False)
    assert torch.allclose(frames.weight[0].sum(), expected.weight.sum())
    moves = [None, "positions", None, "1o", None]
    report = equivariance_error(model, (x, pos, edge_index, shift, batch), moves, None, group="SE3")
    assert report.max < 1e-11
