"""What every optimiser of the package does the same way: one battery, run on all of them."""

import copy
import io
import json
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer, lr_scheduler

from lemmata.optim.optimizers.auon import AuON, HybridAuON
from lemmata.optim.optimizers.kappa import (
    L1,
    L2,
    LP,
    GroupL2,
    HuberL1,
    Nuclear,
    Quadratic,
    TruncatedL1,
)
from lemmata.optim.optimizers.lion import LionK
from lemmata.optim.optimizers.muon import Muon

MATRICES = [(6, 8), (8, 6), (6, 8), (3, 4, 5)]
OTHERS = [(4,), (), (0, 3), (0,)]


@dataclass(frozen=True)
class Case:
    """An optimiser and what is particular about it.

    Attributes:
        make: Makes it from parameters and options.
        lr: A learning rate at which a least-squares problem is solved.
        matrices_only: Takes no parameter with fewer than two axes.
        elementwise: Has no reductions or products, so that all ways to compute a step agree bit for bit.
        copies: Bound of a multi-tensor step's temporaries, in copies of the parameters.
        bad: Options out of range, beside those all have.
    """

    make: Callable[..., Optimizer]
    lr: float = 0.05
    matrices_only: bool = False
    elementwise: bool = False
    copies: float = 1.1
    bad: dict[str, Any] = field(default_factory=dict)


MATRIX_OPTIONS = {"momentum": 1.0, "betas": (0.9, 1.0)}
LION_OPTIONS = {"betas": (-0.1, 0.9)}

CASES = {
    "Muon": Case(partial(Muon, adamw_lr=0.05), copies=4, bad={**MATRIX_OPTIONS, "steps": 0}),
    "Muon rms": Case(partial(Muon, adamw_lr=0.05, nesterov=False, scale="rms", weight_decay=0.01), copies=4),
    "AuON": Case(partial(AuON, adamw_lr=0.05), copies=3.1, bad={**MATRIX_OPTIONS, "gamma": -1.0}),
    "AuON released": Case(partial(AuON, adamw_lr=0.05, normalize=False, gamma=1.5), lr=0.5, copies=3.1),
    "normalised momentum": Case(partial(AuON, adamw_lr=0.05, gamma=0.0, weight_decay=0.01), copies=3.1),
    "HybridAuON": Case(partial(HybridAuON, adamw_lr=0.05), copies=4, bad={**MATRIX_OPTIONS, "steps": -1}),
    "LionK L1": Case(partial(LionK, kappa=L1(), weight_decay=0.01), elementwise=True, bad=LION_OPTIONS),
    "LionK implicit": Case(partial(LionK, kappa=L1(), weight_decay=0.01, decay="implicit"), elementwise=True),
    "LionK L2": Case(partial(LionK, kappa=L2(), weight_decay=0.0), copies=2.2),
    "LionK LP": Case(partial(LionK, kappa=LP(1.5), weight_decay=0.0), copies=2.2),
    "LionK TruncatedL1": Case(
        partial(LionK, kappa=TruncatedL1(1e-3), weight_decay=0.01), elementwise=True, copies=2.2
    ),
    "LionK HuberL1": Case(partial(LionK, kappa=HuberL1(0.1), weight_decay=0.01), elementwise=True),
    "LionK Quadratic": Case(partial(LionK, kappa=Quadratic(), weight_decay=0.0), lr=2.0, elementwise=True),
    "LionK GroupL2": Case(
        partial(LionK, kappa=GroupL2(-1), weight_decay=0.01), matrices_only=True, copies=2.2
    ),
    "LionK Nuclear": Case(partial(LionK, kappa=Nuclear(), weight_decay=0.01), matrices_only=True, copies=5),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def shapes_of(case: Case) -> list[tuple[int, ...]]:
    return MATRICES if case.matrices_only else [*MATRICES, *OTHERS]


def parameters(
    case: Case, dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] | None = None
) -> list[nn.Parameter]:
    """Return parameters of all shapes that the optimiser takes, always the same values."""
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes or shapes_of(case)
    ]


def set_gradients(params: Iterable[Tensor], step: int) -> None:
    """Give every parameter the gradient of a step, always the same values."""
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)


def take(optimizer: Optimizer, params: Sequence[Tensor], steps: Iterable[int]) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def after(
    case: Case, steps: int = 4, dtype: torch.dtype = torch.float32, **options: Any
) -> list[nn.Parameter]:
    """Return the parameters after some steps."""
    params = parameters(case, dtype)
    take(case.make(params, **{"lr": case.lr, **options}), params, range(steps))
    return params


def assert_same(found: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


def tensors_of(optimizer: Optimizer, params: Iterable[Tensor]) -> list[Tensor]:
    """Return copies of the parameters and all state, in a fixed order."""
    found = [param.detach().clone() for param in params]
    for param in params:
        found += [value.clone() for _, value in sorted(optimizer.state.get(param, {}).items())]
    return found


# --- Steps -----------------------------------------------------------------------------------------------


def test_every_parameter_with_elements_moves_and_stays_finite(case: Case) -> None:
    for start, param in zip(parameters(case), after(case), strict=True):
        assert param.isfinite().all()
        assert param.numel() == 0 or not torch.equal(param, start)


def test_state_has_the_known_keys_and_the_step_counts_in_float32(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    take(optimizer, params, range(3))
    for param in params:
        state = optimizer.state.get(param, {})
        assert set(state) <= {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}
        assert bool(state) == bool(param.numel())
        if "step" in state:
            torch.testing.assert_close(state["step"], torch.tensor(3.0), rtol=0, atol=0)


def test_parameters_without_gradient_or_elements_are_passed_over(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    set_gradients(params, 0)
    without = params[0]
    without.grad = None
    before = without.detach().clone()
    optimizer.step()
    assert torch.equal(without, before)
    passed_over = [param for param in params if param is without or not param.numel()]
    assert not any(param in optimizer.state for param in passed_over)
    take(optimizer, params, [1])
    assert not torch.equal(without, before)


def test_step_without_any_gradient_does_nothing(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    assert optimizer.step() is None
    assert_same(params, parameters(case))
    assert not optimizer.state


def test_zero_gradients_change_nothing(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr, weight_decay=0.0)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert_same(params, parameters(case))


def test_gradients_are_never_modified(case: Case) -> None:
    for options in ({}, {"maximize": True}, {"foreach": True}, {"foreach": False, "maximize": True}):
        params = parameters(case)
        optimizer = case.make(params, lr=case.lr, **options)
        for step in range(3):
            set_gradients(params, step)
            kept = [param.grad for param in params]
            copies = [grad.clone() for grad in kept]
            optimizer.step()
            assert all(param.grad is grad for param, grad in zip(params, kept, strict=True))
            assert_same(kept, copies)


def test_maximize_steps_on_the_negated_gradient(case: Case) -> None:
    params, mirrored = parameters(case), parameters(case)
    minimiser, maximiser = case.make(params, lr=case.lr), case.make(mirrored, lr=case.lr, maximize=True)
    for step in range(4):
        set_gradients(params, step)
        for param, other in zip(params, mirrored, strict=True):
            other.grad = -param.grad
        minimiser.step()
        maximiser.step()
    assert_same(mirrored, params)


def test_closure_runs_with_gradients_and_its_loss_is_returned(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = sum(param.square().sum() for param in params)
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first


def test_non_contiguous_parameters_and_gradients(case: Case) -> None:
    plain = parameters(case, torch.float64)
    turned = [
        nn.Parameter(param.detach().mT.contiguous().mT if param.ndim > 1 else param.detach().clone())
        for param in parameters(case, torch.float64)
    ]
    assert not turned[0].is_contiguous()
    first, second = (case.make(params, lr=case.lr) for params in (plain, turned))
    for step in range(4):
        set_gradients(plain, step)
        for param, other in zip(plain, turned, strict=True):
            # A layout of its own: that of a slice.
            other.grad = torch.stack([param.grad, param.grad], dim=-1)[..., 0]
        first.step()
        second.step()
    for param, other in zip(plain, turned, strict=True):
        torch.testing.assert_close(other, param, rtol=1e-10, atol=1e-12)


def test_parameters_that_are_slices_leave_their_surroundings_alone(case: Case) -> None:
    whole = torch.zeros(8, 9)
    param = nn.Parameter(whole[1:7, 2:7])
    optimizer = case.make([param], lr=case.lr)
    take(optimizer, [param], range(2))
    inside = whole.clone()
    whole[1:7, 2:7] = 0
    assert inside[1:7, 2:7].count_nonzero() > 0
    assert whole.count_nonzero() == 0


# --- Data types ------------------------------------------------------------------------------------------


def test_float64_is_float64_throughout(case: Case) -> None:
    params = parameters(case, torch.float64)
    optimizer = case.make(params, lr=case.lr)
    take(optimizer, params, range(3))
    for param in params:
        state = optimizer.state.get(param, {})
        dtypes = {value.dtype for name, value in state.items() if name != "step"}
        assert param.dtype == torch.float64
        assert dtypes <= {torch.float64}
    # Float32 would leave a difference near 1e-7 when the learning rate changes by 1e-12.
    nudged = after(case, 3, torch.float64, lr=case.lr * (1 + 1e-12))
    difference = max(
        float((one - two).detach().abs().max())
        for one, two in zip(params, nudged, strict=True)
        if one.numel()
    )
    assert 0 < difference < 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_steps_in_float32(case: Case, dtype: torch.dtype) -> None:
    """A step from the same values in float32, rounded, is the step in half precision."""
    halves = parameters(case, dtype)
    params = [nn.Parameter(half.detach().float()) for half in halves]
    optimizer, reference = case.make(halves, lr=case.lr), case.make(params, lr=case.lr)
    for step in range(4):
        set_gradients(halves, step)
        for half, param in zip(halves, params, strict=True):
            param.data.copy_(half.detach())
            param.grad = half.grad.float()
        optimizer.step()
        reference.step()
        for half, param in zip(halves, params, strict=True):
            assert half.dtype == dtype
            torch.testing.assert_close(half, param.to(dtype), rtol=0, atol=0)
            state = optimizer.state.get(half, {})
            assert all(value.dtype == torch.float32 for value in state.values())


def test_float32_and_float64_parameters_in_one_group(case: Case) -> None:
    single, double = parameters(case), parameters(case, torch.float64)
    take(case.make([*single, *double], lr=case.lr), [*single, *double], range(2))
    for one in single:
        assert one.dtype == torch.float32
    for one in double:
        assert one.dtype == torch.float64
        assert one.isfinite().all()


# --- Faults ----------------------------------------------------------------------------------------------


def assert_refused(case: Case, grad: Tensor, error: type[Exception], match: str) -> None:
    """Check that a gradient ends the step with an error and leaves everything as it was."""
    params = parameters(case, shapes=[(6, 8), (8, 6)])
    params[1] = nn.Parameter(params[1].detach().to(grad.dtype))
    optimizer = case.make(params, lr=case.lr)
    for started in (False, True):
        set_gradients(params, 0)
        if started:
            optimizer.step()
            set_gradients(params, 1)
        before = tensors_of(optimizer, params)
        params[1].grad = grad
        with pytest.raises(error, match=match):
            optimizer.step()
        assert_same(tensors_of(optimizer, params), before)
        if grad.is_complex():
            return


def test_sparse_gradients_are_refused_before_anything_changes(case: Case) -> None:
    assert_refused(case, torch.ones(8, 6).to_sparse(), TypeError, "sparse")


def test_complex_gradients_are_refused_before_anything_changes(case: Case) -> None:
    assert_refused(case, torch.ones(8, 6, dtype=torch.complex64), TypeError, "complex")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_refused_before_anything_changes(case: Case, value: float) -> None:
    grad = torch.ones(8, 6)
    grad[3, 4] = value
    assert_refused(case, grad, FloatingPointError, r"shape \(8, 6\) in group \d")


def test_gradients_that_are_not_finite_pass_on_request(case: Case) -> None:
    params = parameters(case, shapes=[(6, 8), (8, 6)])
    optimizer = case.make(params, lr=case.lr, error_if_nonfinite=False)
    set_gradients(params, 0)
    params[1].grad[3, 4] = math.nan
    optimizer.step()
    assert params[0].isfinite().all()
    assert not torch.equal(params[0], parameters(case, shapes=[(6, 8)])[0])


def test_large_finite_gradients_whose_norm_overflows_pass(case: Case) -> None:
    params = parameters(case, shapes=[(6, 8), (8, 6)])
    optimizer = case.make(params, lr=case.lr)
    for param in params:
        param.grad = torch.full_like(param, 1e30)
    optimizer.step()
    assert all(param.isfinite().all() for param in params)


@pytest.mark.parametrize("where", ["constructor", "group", "added"])
def test_options_out_of_range_are_named_with_their_range(case: Case, where: str) -> None:
    [param, other] = parameters(case, shapes=[(6, 8), (8, 6)])
    for name, value in {"lr": -1.0, "weight_decay": -0.5, **case.bad}.items():
        shown = rf"`{name}.*=.*{-0.5 if name == 'weight_decay' else ''}.*\) must"
        optimizer = case.make([param], lr=case.lr)
        ways: dict[str, Callable[[], object]] = {
            "constructor": partial(case.make, [param], **{"lr": case.lr, name: value}),
            "group": partial(case.make, [{"params": [param], name: value}], lr=case.lr),
            "added": partial(optimizer.add_param_group, {"params": [other], name: value}),
        }
        with pytest.raises(ValueError, match=shown):
            ways[where]()
        assert len(optimizer.param_groups) == 1


def test_nan_is_out_of_every_range(case: Case) -> None:
    with pytest.raises(ValueError, match=r"`lr` \(=nan\) must lie in"):
        case.make(parameters(case), lr=math.nan)


# --- Groups, learning rates and schedules ----------------------------------------------------------------


def test_groups_step_as_optimisers_of_their_own(case: Case) -> None:
    together, apart = parameters(case), parameters(case)
    half = len(together) // 2
    one = case.make(
        [{"params": together[:half]}, {"params": together[half:], "lr": case.lr / 4}],
        lr=case.lr,
        foreach=False,
    )
    two = [
        case.make(apart[:half], lr=case.lr, foreach=False),
        case.make([{"params": apart[half:], "lr": case.lr / 4}], lr=case.lr, foreach=False),
    ]
    for step in range(3):
        set_gradients(together, step)
        set_gradients(apart, step)
        one.step()
        for optimizer in two:
            optimizer.step()
    for found, expected in zip(together, apart, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_group_with_learning_rate_zero_stays(case: Case) -> None:
    params = parameters(case, shapes=[(6, 8), (8, 6)])
    optimizer = case.make([{"params": params[:1], "lr": 0.0}, {"params": params[1:]}], lr=case.lr)
    take(optimizer, params, range(3))
    first, second = parameters(case, shapes=[(6, 8), (8, 6)])
    assert torch.equal(params[0], first)
    assert not torch.equal(params[1], second)


def test_group_is_added_in_mid_training(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    take(optimizer, params, range(2))
    added = parameters(case)
    optimizer.add_param_group({"params": added[:1], "lr": case.lr / 2})
    take(optimizer, [*params, added[0]], range(2, 4))
    assert not torch.equal(added[0], parameters(case)[0])
    assert_same(params, after(case))
    saved = optimizer.state_dict()
    assert sum(len(group["params"]) for group in saved["param_groups"]) == len(params) + 1


def test_named_parameters_are_taken_and_names_kept(case: Case) -> None:
    params = parameters(case, shapes=[(6, 8), (8, 6)])
    optimizer = case.make([("first", params[0]), ("second", params[1])], lr=case.lr)
    take(optimizer, params, range(2))
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert names == ["first", "second"]


def test_learning_rate_may_be_a_tensor(case: Case) -> None:
    rate = 2.0**-6  # the same in float32
    params = parameters(case)
    optimizer = case.make(params, lr=torch.tensor(rate))
    take(optimizer, params, range(3))
    for found, expected in zip(params, after(case, 3, lr=rate), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    before = [param.detach().clone() for param in params]
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(0.0)
        else:
            group["lr"] = 0.0
    take(optimizer, params, [3])
    assert_same(params, before)


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_scale_every_group(case: Case, schedule: str) -> None:
    params, expected = parameters(case), parameters(case)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": case.lr / 4}]
    optimizer = case.make(groups, lr=case.lr)
    by_hand = case.make([{"params": expected[:2]}, {"params": expected[2:], "lr": case.lr / 4}], lr=case.lr)
    initial = [group["lr"] for group in optimizer.param_groups]
    scheduler = SCHEDULES[schedule](optimizer)
    for step in range(4):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rate * 0.5**step for rate in initial])
        for group, rate in zip(by_hand.param_groups, initial, strict=True):
            group["lr"] = rate * 0.5**step
        take(optimizer, params, [step])
        take(by_hand, expected, [step])
        scheduler.step()
    assert_same(params, expected)


def test_one_cycle_schedule_runs(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=case.lr, total_steps=5, cycle_momentum=False)
    for step in range(5):
        take(optimizer, params, [step])
        if step < 4:
            scheduler.step()
    assert all(param.isfinite().all() for param in params)


# --- Saving and copying ----------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["memory", "file"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_run_equals_an_uninterrupted_one(case: Case, through: str, dtype: torch.dtype) -> None:
    params = parameters(case, dtype)
    optimizer = case.make(params, lr=case.lr)
    take(optimizer, params, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    if through == "file":
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(param.detach().clone()) for param in params]
    other = case.make(resumed, lr=1.0)  # the state brings its own learning rate
    other.load_state_dict(saved)
    assert_same(tensors_of(other, resumed), tensors_of(optimizer, params))
    groups = zip(other.state_dict()["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    assert all(one.keys() == two.keys() for one, two in groups)
    take(optimizer, params, range(3, 6))
    take(other, resumed, range(3, 6))
    assert_same(tensors_of(other, resumed), tensors_of(optimizer, params))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_step_as_the_original(case: Case, way: str) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    take(optimizer, params, range(2))
    pair = (params, optimizer)
    copied, other = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(other) is type(optimizer)
    take(optimizer, params, range(2, 4))
    take(other, copied, range(2, 4))
    assert all(one is not two for one, two in zip(copied, params, strict=True))
    assert_same(tensors_of(other, copied), tensors_of(optimizer, params))


def test_pickle_from_before_an_option_existed_gets_its_default(case: Case) -> None:
    params = parameters(case)
    optimizer = case.make(params, lr=case.lr)
    take(optimizer, params, range(2))
    state = copy.deepcopy(optimizer.__getstate__())
    for group in state["param_groups"]:
        for option in ("maximize", "foreach", "error_if_nonfinite"):
            group.pop(option, None)
    old = type(optimizer).__new__(type(optimizer))
    old.__setstate__(state)
    copied = [param for group in old.param_groups for param in group["params"]]
    original = [param for group in optimizer.param_groups for param in group["params"]]
    take(optimizer, original, range(2, 4))
    take(old, copied, range(2, 4))
    assert_same(copied, original)


def test_distributed_checkpoint_state_round_trips(case: Case) -> None:
    def network() -> tuple[nn.Module, Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6, bias=not case.matrices_only), nn.Linear(6, 2, bias=False))
        return model, case.make(model.parameters(), lr=case.lr)

    model, optimizer = network()
    take(optimizer, list(model.parameters()), range(2))
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    fresh, other = network()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    set_optimizer_state_dict(fresh, other, saved)
    take(optimizer, list(model.parameters()), range(2, 4))
    take(other, list(fresh.parameters()), range(2, 4))
    assert_same(fresh.parameters(), model.parameters())


# --- Ways to compute a step ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_foreach_equals_loop(case: Case, dtype: torch.dtype) -> None:
    """Bit for bit where a step is elementwise; else to the rounding of sums in another order."""
    loop = after(case, 5, dtype, foreach=False)
    for foreach in (True, None):
        found = after(case, 5, dtype, foreach=foreach)
        if case.elementwise:
            assert_same(found, loop)
            continue
        tolerance = 1e-11 if dtype == torch.float64 else 5e-3 * case.lr
        for one, two in zip(found, loop, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


def peak_bytes(work: Callable[[], object], path: Path) -> int:
    """Return the most memory that work held at once beyond what there was before it."""
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as found:
        work()
    found.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def test_multi_tensor_step_holds_a_bounded_number_of_copies(case: Case, tmp_path: Path) -> None:
    shapes = [(128, 128)] * 32
    params = parameters(case, shapes=shapes)
    optimizer = case.make(params, lr=case.lr, foreach=True)
    take(optimizer, params, [0])
    size = sum(param.nbytes for param in params)
    assert peak_bytes(optimizer.step, tmp_path / "trace.json") <= case.copies * size


def test_loop_holds_temporaries_of_one_tensor(case: Case, tmp_path: Path) -> None:
    params = parameters(case, shapes=[(256, 512)] * 12)
    optimizer = case.make(params, lr=case.lr, foreach=False)
    take(optimizer, params, [0])
    assert peak_bytes(optimizer.step, tmp_path / "trace.json") <= 7 * params[0].nbytes


@pytest.mark.slow
def test_compiled_step_equals_eager(case: Case, unchecked: None) -> None:
    torch.compiler.reset()
    params, compiled = parameters(case), parameters(case)
    # A rate in a tensor spares a compilation for each of its values.
    optimizer = case.make(params, lr=torch.tensor(case.lr), error_if_nonfinite=False)
    other = case.make(compiled, lr=torch.tensor(case.lr), error_if_nonfinite=False)
    step = torch.compile(other.step, fullgraph=False)
    for number in range(4):
        set_gradients(params, number)
        set_gradients(compiled, number)
        optimizer.step()
        step()
    for one, two in zip(compiled, params, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=5e-3 * case.lr)


# --- Training --------------------------------------------------------------------------------------------


def least_squares(case: Case) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a linear map of zeros and its loss on data that one map explains exactly."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(64, 8, generator=generator)
    bias = not case.matrices_only
    truth = nn.Linear(8, 6, bias=bias)
    model = nn.Linear(8, 6, bias=bias)
    for param in truth.parameters():
        nn.init.normal_(param, std=0.3, generator=generator)
    for param in model.parameters():
        nn.init.zeros_(param)
    targets = truth(inputs).detach()
    return model, lambda: (model(inputs) - targets).square().mean()


def test_least_squares_is_solved_with_linear_decay(case: Case) -> None:
    """Take 200 steps to less than a hundredth of the loss at zero."""
    model, loss = least_squares(case)
    optimizer = case.make(model.parameters(), lr=case.lr)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 200)
    start = loss().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        scheduler.step()
    assert loss().item() < 0.01 * start


def test_scaled_gradients_step_as_unscaled_ones(case: Case) -> None:
    model, loss = least_squares(case)
    scaled, scaled_loss = least_squares(case)
    optimizer, other = (case.make(net.parameters(), lr=case.lr) for net in (model, scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        other.zero_grad()
        scaler.scale(scaled_loss()).backward()
        scaler.step(other)
        scaler.update()
    assert_same(scaled.parameters(), model.parameters())


def test_scaler_skips_a_step_that_overflowed(case: Case) -> None:
    model, loss = least_squares(case)
    optimizer = case.make(model.parameters(), lr=case.lr)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = [param.detach().clone() for param in model.parameters()]
    scaler.scale(loss()).backward()
    model.weight.grad[0, 0] = math.inf
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert_same(model.parameters(), before)
    assert not optimizer.state
