"""Muon and the ground it shares with other matrix optimisers, against torch's optimisers and plain loops."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lemmata.optim.optimizers import blocks, matrix
from lemmata.optim.optimizers.kappa import Nuclear
from lemmata.optim.optimizers.lion import LionK
from lemmata.optim.optimizers.muon import Muon
from lemmata.optim.optimizers.orthogonalize import orthogonalize
from lemmata.optim.optimizers.partition import split_parameters

Shapes = Sequence[tuple[int, ...]]


def parameters(shapes: Shapes, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def set_gradients(params: Sequence[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def trained(
    params: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int = 3
) -> list[nn.Parameter]:
    for step in range(steps):
        set_gradients(params, step)
        optimizer.step()
    return params


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


# --- The step --------------------------------------------------------------------------------------------


class Plain:
    """Muon on matrices as the formula reads, one at a time."""

    def __init__(self, params: list[nn.Parameter], nesterov: bool, scale: str) -> None:
        self.params, self.nesterov, self.scale = params, nesterov, scale
        self.momenta = [torch.zeros_like(param) for param in params]

    @torch.no_grad()
    def step(self, lr: float = 0.02, mu: float = 0.95, decay: float = 0.1) -> None:
        for param, m in zip(self.params, self.momenta, strict=True):
            m.copy_(mu * m + (1 - mu) * param.grad)
            u = (1 - mu) * param.grad + mu * m if self.nesterov else m
            rows, columns = param.shape[-2:]
            s = {
                "spectral": math.sqrt(max(1, rows / columns)),
                "rms": 0.2 * math.sqrt(max(rows, columns)),
                "none": 1.0,
            }[self.scale]
            direction = torch.stack([orthogonalize(one) for one in u.reshape(-1, rows, columns)])
            param.copy_((1 - lr * decay) * param - lr * s * direction.view(param.shape))


SHAPE = st.one_of(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(SHAPE, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(["spectral", "rms", "none"]),
    st.sampled_from([None, True, False]),
)
def test_steps_are_those_of_the_formula(shapes: Shapes, nesterov: bool, scale: Any, foreach: Any) -> None:
    ours, plain = parameters(shapes), parameters(shapes)
    optimizer = Muon(ours, weight_decay=0.1, nesterov=nesterov, scale=scale, foreach=foreach)
    reference = Plain(plain, nesterov, scale)
    for step in range(3):
        set_gradients(ours, step)
        set_gradients(plain, step)
        optimizer.step()
        reference.step()
    assert_close(ours, plain)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (3, 300, 300)])
def test_large_matrices_step_as_the_formula(shape: tuple[int, ...]) -> None:
    ours, plain = parameters([shape]), parameters([shape])
    trained(ours, Muon(ours, weight_decay=0.1), 1)
    set_gradients(plain, 0)
    Plain(plain, nesterov=True, scale="spectral").step()
    assert_close(ours, plain)


@pytest.mark.parametrize(("scale", "theirs"), [("spectral", "original"), ("rms", "match_rms_adamw")])
@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (96, 48), (400, 300)])
def test_step_is_that_of_torch(shape: tuple[int, int], scale: Any, theirs: str) -> None:
    """Each step from the same point and state to 2 %: both round to bfloat16, in another order."""
    [ours], [peer] = parameters([shape], torch.float32), parameters([shape], torch.float32)
    optimizer = Muon([ours], lr=0.02, weight_decay=0.1, scale=scale, dtype=torch.bfloat16)
    reference = torch.optim.Muon([peer], lr=0.02, weight_decay=0.1, adjust_lr_fn=theirs)
    for step in range(5):
        before = ours.detach().clone()
        peer.data.copy_(before)
        set_gradients([ours], step)
        set_gradients([peer], step)
        optimizer.step()
        reference.step()
        assert (ours - peer).norm() <= 0.02 * (peer - before).norm()
    momenta = [optimizer.state[ours]["momentum_buffer"], reference.state[peer]["momentum_buffer"]]
    assert torch.equal(*momenta)


def test_loss_curve_is_that_of_torch() -> None:
    """Of a network of matrices alone, within 1 %."""
    curves = []
    for kind in ("ours", "torch"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64, bias=False), nn.Tanh(), nn.Linear(64, 8, bias=False))
        inputs = torch.randn(256, 16)
        targets = torch.tanh(inputs @ torch.randn(16, 8) / 4)
        optimizer: torch.optim.Optimizer = (
            Muon(model.parameters(), lr=0.02, dtype=torch.bfloat16)
            if kind == "ours"
            else torch.optim.Muon(model.parameters(), lr=0.02, weight_decay=0.0)
        )
        losses = []
        for _ in range(60):
            loss = (model(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.5 * curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=0.01)


def test_it_is_lion_with_the_nuclear_norm() -> None:
    shapes = [(5, 7), (7, 5), (3, 4, 4)]
    ours, lions = parameters(shapes), parameters(shapes)
    trained(ours, Muon(ours, lr=0.01, momentum=0.9, nesterov=False, weight_decay=0.1, scale="none"))
    trained(lions, LionK(lions, lr=0.01, betas=(0.9, 0.9), weight_decay=0.1, kappa=Nuclear()))
    assert_close(ours, lions)


@pytest.mark.parametrize("method", ["svd", "polar_express"])
def test_step_has_unit_spectral_norm_where_the_method_converges(method: Any) -> None:
    [param] = parameters([(5, 8)])
    before = param.detach().clone()
    trained([param], Muon([param], lr=0.5, method=method, steps=12), 1)
    singular = torch.linalg.svdvals(param.detach() - before)
    torch.testing.assert_close(singular, torch.full_like(singular, 0.5), rtol=1e-6, atol=0)


def test_zero_gradients_and_idle_experts_stay() -> None:
    params = parameters([(4, 6), (3, 4, 6), (5,)])
    before = [param.detach().clone() for param in params]
    set_gradients(params, 0)
    params[0].grad.zero_()
    params[1].grad[1] = 0
    params[2].grad.zero_()
    Muon(params).step()
    assert torch.equal(params[0], before[0])
    assert torch.equal(params[1][1], before[1][1])
    assert torch.equal(params[2], before[2])
    assert not torch.equal(params[1][0], before[1][0])


def test_resumed_at_step_seven_it_is_bitwise_the_same() -> None:
    shapes = [(6, 8), (8, 6), (300, 300), (4,), (2, 3, 4)]
    params = parameters(shapes, torch.float32)
    optimizer = Muon(params)
    trained(params, optimizer, 7)
    resumed = [nn.Parameter(param.detach().clone()) for param in params]
    other = Muon(resumed, lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(7, 12):
        for group in (params, resumed):
            set_gradients(group, step)
        optimizer.step()
        other.step()
    assert_close(resumed, params, 0)


# --- Blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "sizes"), [(3, (4, 4, 4)), ((8, 2, 2), (8, 2, 2)), ((12,), (12,)), (12, (1,) * 12)]
)
@pytest.mark.parametrize("scale", ["spectral", "rms", "none"])
@pytest.mark.parametrize("foreach", [True, False])
def test_split_rows_are_parameters_of_their_own(splits: Any, sizes: Any, scale: Any, foreach: bool) -> None:
    fused = parameters([(12, 6), (12, 6)])
    parts = [nn.Parameter(part.detach().clone()) for param in fused for part in param.split(sizes)]
    optimizer = Muon([{"params": fused, "splits": splits}], scale=scale, weight_decay=0.1, foreach=foreach)
    reference = Muon(parts, scale=scale, weight_decay=0.1)
    for step in range(3):
        set_gradients(fused, step)
        grads = [part for param in fused for part in param.grad.split(sizes)]
        for part, grad in zip(parts, grads, strict=True):
            part.grad = grad.clone()
        optimizer.step()
        reference.step()
    assert_close([part for param in fused for part in param.detach().split(sizes)], parts)


def test_stacked_experts_are_matrices_of_their_own() -> None:
    [stack] = parameters([(5, 8, 4)])
    experts = [nn.Parameter(one.detach().clone()) for one in stack]
    optimizer, reference = Muon([stack]), Muon(experts)
    for step in range(3):
        set_gradients([stack], step)
        for expert, grad in zip(experts, stack.grad, strict=True):
            expert.grad = grad.clone()
        optimizer.step()
        reference.step()
    assert_close(list(stack.detach()), experts)


def test_split_experts() -> None:
    [stack] = parameters([(2, 8, 4)])
    parts = [nn.Parameter(part.detach().clone()) for one in stack for part in one.split((6, 2))]
    set_gradients([stack], 0)
    for part, grad in zip(parts, [g for one in stack.grad for g in one.split((6, 2))], strict=True):
        part.grad = grad.clone()
    Muon([{"params": [stack], "splits": (6, 2)}]).step()
    Muon(parts).step()
    assert_close([part for one in stack.detach() for part in one.split((6, 2))], parts)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_weight_of_a_convolution_is_one_matrix(memory_format: torch.memory_format) -> None:
    [weight] = parameters([(6, 3, 2, 2)])
    flat = nn.Parameter(weight.detach().clone().view(6, 12))
    weight = nn.Parameter(weight.detach().clone(memory_format=memory_format))
    optimizer, reference = Muon([{"params": [weight], "flatten": True}]), Muon([flat])
    for step in range(3):
        set_gradients([weight], step)
        flat.grad = weight.grad.reshape(6, 12).clone()
        optimizer.step()
        reference.step()
    assert_close([weight.detach().reshape(6, 12)], [flat])


@pytest.mark.parametrize("limit", [1, 200, 1000])
def test_buckets_below_a_limit_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(4, 6), (6, 4), (4, 6), (5, 4, 6), (12, 6), (4, 6)]
    expected = trained(whole := parameters(shapes), Muon(whole))
    monkeypatch.setattr(blocks, "BUCKET_BYTES", limit)
    monkeypatch.setattr(matrix, "BUCKET_BYTES", limit)
    assert_close(trained(params := parameters(shapes), Muon(params)), expected)


def test_same_matrices_of_other_parameters_share_a_bucket() -> None:
    params = parameters([(4, 6), (6, 4), (4, 6), (5, 4, 6), (400, 300)], torch.float32)
    group = {"flatten": None, "splits": 1, "foreach": None}
    found = blocks.buckets(group, params)
    shapes = [[tuple(param.shape) for stack in bucket for param in stack] for bucket in found]
    assert shapes == [[(4, 6), (4, 6), (5, 4, 6)], [(6, 4)], [(400, 300)]]


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_work_is_shared_evenly(costs: list[int], processes: int) -> None:
    """No process has more than the least loaded one plus its last piece."""
    owners = blocks.assign(costs, processes)
    loads = [sum(c for c, o in zip(costs, owners, strict=True) if o == rank) for rank in range(processes)]
    assert sum(loads) == sum(costs)
    assert max(loads) - min(loads) <= max(costs, default=0)


# --- AdamW's part ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_parameters_are_bitwise_those_of_adamw(
    dtype: torch.dtype, maximize: bool, foreach: Any
) -> None:
    shapes = [(5,), (), (300, 400), (7, 3), (4,)]
    ours, theirs = parameters(shapes, dtype), parameters(shapes, dtype)
    options = {"betas": (0.8, 0.95), "eps": 1e-7, "foreach": foreach, "maximize": maximize}
    group = {"params": ours, "algorithm": "adamw"}
    trained(ours, Muon([group], adamw_lr=0.01, adamw_weight_decay=0.1, **options), 5)
    trained(theirs, torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1, **options), 5)
    assert_close(ours, theirs, 0)


def test_rates_of_groups() -> None:
    params = parameters([(2, 2), (2,), (2, 2), (2,), (2,), (2, 2)])
    groups = [
        {"params": params[:2], "lr": 0.5, "weight_decay": 0.3},
        {"params": params[2:3], "algorithm": "matrix"},
        {"params": params[3:4], "algorithm": "adamw"},
        {"params": params[4:5], "algorithm": "adamw", "lr": 0.7},
        {"params": params[5:], "adamw_lr": 0.9},
    ]
    optimizer = Muon(groups, lr=0.1, adamw_lr=0.01, adamw_weight_decay=0.2)
    found = [(g["algorithm"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [
        ("muon", 0.5, 0.3),
        ("adamw", 0.01, 0.2),
        ("muon", 0.1, 0.0),
        ("adamw", 0.01, 0.2),
        ("adamw", 0.7, 0.2),
        ("muon", 0.1, 0.0),
    ]
    assert all("adamw_lr" not in group for group in optimizer.param_groups)
    assert set(groups[0]) == {"params", "lr", "weight_decay"}


def test_a_scheduler_scales_both_learning_rates() -> None:
    params = parameters([(2, 2), (2,)])
    optimizer = Muon(params, lr=0.1, adamw_lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)
    trained(params, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.09, 0.009])
    assert optimizer.state[params[1]]["step"] == 1


# --- Groups of a model -----------------------------------------------------------------------------------


class Decoder(nn.Module):
    """A little of everything, with an output layer tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm((3, 8))
        self.qkv = nn.Linear(8, 24)
        self.conv = nn.Conv2d(4, 8, 3)
        self.grouped = nn.Conv1d(4, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)
        self.experts = nn.Parameter(torch.randn(5, 8, 6))
        self.expert_bias = nn.Parameter(torch.randn(5, 6))
        self.gate = nn.Linear(8, 1)
        self.plain = nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))
        self.bag = nn.utils.parametrizations.spectral_norm(nn.Embedding(5, 8))
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.embedding.weight
        self.lm_head = nn.Linear(8, 11, bias=False)


def names_by_group(model: nn.Module, groups: list[dict[str, Any]]) -> dict[Any, set[str]]:
    names = {param: name for name, param in model.named_parameters()}
    return {
        (group["algorithm"], group.get("flatten"), group.get("splits")): {names[p] for p in group["params"]}
        for group in groups
    }


def test_groups_of_a_model() -> None:
    model = Decoder()
    found = names_by_group(model, split_parameters(model, heads={"qkv": (8, 8, 8)}))
    adamw = found.pop(("adamw", None, None))
    assert found == {
        ("matrix", None, 3): {"attention.in_proj_weight"},
        ("matrix", None, None): {
            "attention.out_proj.weight",
            "experts",
            "plain.parametrizations.weight.original1",
        },
        ("matrix", None, (8, 8, 8)): {"qkv.weight"},
        ("matrix", True, None): {"conv.weight"},
        ("matrix", True, 2): {"grouped.weight"},
    }
    everything = {name for name, _ in model.named_parameters()}
    assert adamw == everything - set().union(*found.values())
    assert "embedding.weight" in adamw
    assert "bag.parametrizations.weight.original" in adamw


def test_groups_train_the_whole_model() -> None:
    model = Decoder()
    groups = split_parameters(model)
    params = [param for group in groups for param in group["params"]]
    assert len(params) == len(set(params)) == len(list(model.parameters()))
    before = [param.detach().clone() for param in params]
    trained(params, Muon(groups), 1)
    assert all(not torch.equal(one, two) for one, two in zip(params, before, strict=True))


def test_names_match_whole_components() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2, bias=False), "heads": nn.Linear(2, 2, bias=False)})
    found = names_by_group(model, split_parameters(model, exclude_names=("head",), heads={"heads": 2}))
    # Two rows by themselves are vectors.
    assert found == {("adamw", None, None): {"head.weight", "heads.weight"}}
    with pytest.raises(ValueError, match=r"`heads` names \['hea'\], which match no matrix"):
        split_parameters(model, heads={"hea": 2})


def test_frozen_model_and_model_without_matrices() -> None:
    assert split_parameters(nn.ReLU()) == []
    [group] = split_parameters(nn.LayerNorm(3))
    assert group["algorithm"] == "adamw"


# --- Bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -0.1}, r"`lr` \(=-0.1\) must lie in \[0, inf\)"),
        ({"momentum": 1.0}, r"`momentum` \(=1\) must lie in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"`weight_decay` \(=-1\)"),
        ({"steps": 0}, r"`steps` \(=0\) must lie in \[1, 100\)"),
        ({"steps": 100}, r"`steps` \(=100\)"),
        ({"coefficients": (1.0, 2.0)}, r"`coefficients` \(=\(1.0, 2.0\)\) must be three finite numbers"),
        ({"scale": "big"}, r"`scale` \(='big'\) must be one of spectral, rms, none"),
        ({"method": "qr"}, r"`method` \(='qr'\) must be one of"),
        ({"betas": (0.9, 1.0)}, r"`betas\[1\]` \(=1\)"),
        ({"eps": -1.0}, r"`eps`"),
        ({"adamw_lr": -1.0}, r"`adamw_lr`"),
        ({"adamw_weight_decay": -1.0}, r"`adamw_weight_decay`"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], match: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=match):
        Muon(parameters([(2, 2)]), **options)


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        ((3,), {"algorithm": "muon"}, r"shape \(3,\) is no matrix .*split_parameters"),
        ((3, 2, 2, 2), {}, r"shape \(3, 2, 2, 2\) may be the weight of a convolution .*flatten"),
        ((4, 2), {"splits": 3}, r"`splits` \(=3\) must divide the 4 rows"),
        ((4, 2), {"splits": 0}, r"`splits` \(=0\)"),
        ((4, 2), {"splits": (3, 2)}, r"`splits` \(=\(3, 2\)\) must be positive and sum to the 4 rows"),
        ((4, 2), {"splits": ()}, r"`splits` \(=\(\)\)"),
        ((4, 2), {"algorithm": "sgd"}, r"`algorithm` \(='sgd'\) must be 'muon', 'matrix' or 'adamw'"),
    ],
)
def test_groups_that_do_not_fit(shape: tuple[int, ...], options: dict[str, Any], match: str) -> None:
    params = parameters([shape])
    with pytest.raises(ValueError, match=match):
        Muon([{"params": params, **options}])
    optimizer = Muon(parameters([(2, 2)]))
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group({"params": params, **options})
    assert len(optimizer.param_groups) == 1


def test_a_set_of_parameters_is_refused() -> None:
    with pytest.raises(TypeError, match="ordered collections"):
        Muon([{"params": set(parameters([(2, 2)]))}])


def test_flattened_parameters_are_refused() -> None:
    [param] = parameters([(8,)])
    param._fsdp_flattened = True
    with pytest.raises(TypeError, match="fully_shard"):
        Muon([param])


@pytest.mark.slow
def test_compiled_step_on_large_matrices(unchecked: None) -> None:
    torch.compiler.reset()
    shapes = [(300, 400), (8, 8), (6,)]
    ours, compiled = parameters(shapes), parameters(shapes)
    rate = torch.tensor(0.02, dtype=torch.float64)
    optimizer = Muon(ours, lr=rate, error_if_nonfinite=False)
    other = Muon(compiled, lr=rate, error_if_nonfinite=False)
    step = torch.compile(other.step, fullgraph=False)
    for number in range(3):
        set_gradients(ours, number)
        set_gradients(compiled, number)
        optimizer.step()
        step()
    assert_close(compiled, ours, 1e-9)
