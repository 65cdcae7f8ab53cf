import copy
import io
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR, LinearLR, SequentialLR

from lemmata.optim.schedules import ArraySchedule, LinearDecay

BUILD = {
    "decay": lambda optimizer, **options: LinearDecay(optimizer, 7, **options),
    "warm-up": lambda optimizer, **options: LinearDecay(optimizer, 7, warmup_steps=3, final=0.1, **options),
    "array": lambda optimizer, **options: ArraySchedule(optimizer, torch.tensor([0.2, 1, 0.7, 0]), **options),
}


def parameters(groups=2, tensor_lr=False):
    rates = [0.3 / (1 + index) for index in range(groups)]
    return [
        {"params": [torch.zeros(2, requires_grad=True)], "lr": torch.tensor(lr) if tensor_lr else lr}
        for lr in rates
    ]


def sgd(**options):
    return torch.optim.SGD(parameters(**options), lr=1.0)


def take(optimizer, schedule, steps):
    """Return the learning rates used by each of some steps."""
    used = []
    for _ in range(steps):
        used.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_linear_decay_is_one_minus_k_over_T(steps):
    schedule = LinearDecay(sgd(), steps)
    for k in range(steps):
        assert schedule.multiplier(k) == pytest.approx(1 - k / steps, abs=1e-15)
    assert schedule.multiplier(0) == 1
    assert schedule.multiplier(steps) == schedule.multiplier(10 * steps) == 0


def test_linear_decay_equals_torchs_linear_lr():
    ours, theirs = sgd(), sgd()
    schedule = LinearDecay(ours, 50, final=0.2)
    reference = LinearLR(theirs, start_factor=1.0, end_factor=0.2, total_iters=50)
    torch.testing.assert_close(take(ours, schedule, 60), take(theirs, reference, 60), rtol=1e-12, atol=0)


@given(
    steps=st.integers(1, 500),
    warmup=st.floats(0, 1, exclude_max=True),
    final=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_linear_decay_rises_to_one_and_falls_to_the_end(steps, warmup, final):
    warmup = int(warmup * steps)
    schedule = LinearDecay(sgd(), steps, warmup, final)
    values = [schedule.multiplier(k) for k in range(steps + 2)]
    assert values[0] > 0
    assert values[warmup] == 1
    assert values[steps] == values[steps + 1] == final
    assert all(a < b for a, b in itertools.pairwise(values[: warmup + 1]))
    # Where `final` is one ulp below 1, neighbours may round to the same number.
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(values[warmup:]))


def test_array_schedule_follows_its_array_and_holds_the_last_value():
    optimizer = sgd()
    schedule = BUILD["array"](optimizer)
    used = torch.tensor(take(optimizer, schedule, 6), dtype=torch.float64)
    expected = torch.tensor([0.2, 1, 0.7, 0, 0, 0]).double()[:, None] * torch.tensor([0.3, 0.15]).double()
    torch.testing.assert_close(used, expected, rtol=1e-7, atol=0)


def test_array_schedule_does_not_follow_what_is_written_into_the_array_later():
    multipliers = torch.ones(3, dtype=torch.float64)
    schedule = ArraySchedule(sgd(), multipliers)
    multipliers.fill_(5)
    assert schedule.multiplier(1) == 1


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("kind", BUILD)
def test_lr_is_what_the_steps_use_and_leaves_the_optimizer_alone(kind, tensor_lr):
    optimizer = sgd(tensor_lr=tensor_lr)
    schedule = BUILD[kind](optimizer)
    foreseen = [[float(lr) for lr in schedule.lr(step)] for step in range(10)]
    assert take(optimizer, schedule, 10) == foreseen


@pytest.mark.parametrize("kind", BUILD)
def test_tensor_learning_rates_are_filled_in_place(kind):
    optimizer = sgd(tensor_lr=True)
    tensors = [group["lr"] for group in optimizer.param_groups]
    schedule = BUILD[kind](optimizer)
    take(optimizer, schedule, 3)
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))
    assert [float(tensor) for tensor in tensors] == [float(lr) for lr in schedule.lr(3)]
    before = float(tensors[0])
    schedule.get_last_lr()[0].zero_()
    assert float(tensors[0]) == before


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("kind", BUILD)
def test_resume_at_every_step_equals_uninterrupted(kind, tensor_lr, order):
    straight = sgd(tensor_lr=tensor_lr)
    expected = take(straight, BUILD[kind](straight), 10)
    for stop in range(1, 10):
        first = sgd(tensor_lr=tensor_lr)
        schedule = BUILD[kind](first)
        used = take(first, schedule, stop)
        file = io.BytesIO()
        torch.save({"optimizer": first.state_dict(), "scheduler": schedule.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        second = sgd(tensor_lr=tensor_lr)
        if order == "optimizer first":
            second.load_state_dict(saved["optimizer"])
            schedule = BUILD[kind](second)
            schedule.load_state_dict(saved["scheduler"])
        else:
            schedule = BUILD[kind](second)
            schedule.load_state_dict(saved["scheduler"])
            second.load_state_dict(saved["optimizer"])
        assert used + take(second, schedule, 10 - stop) == expected


@pytest.mark.parametrize("kind", BUILD)
def test_last_epoch_resumes_from_the_optimizers_state_alone(kind):
    straight = sgd()
    expected = take(straight, BUILD[kind](straight), 9)
    first = sgd()
    take(first, BUILD[kind](first), 4)
    second = sgd()
    second.load_state_dict(first.state_dict())
    schedule = BUILD[kind](second, last_epoch=3)
    assert take(second, schedule, 5) == expected[4:]


def test_state_dict_restores_the_multipliers():
    saved = ArraySchedule(sgd(), torch.tensor([0.1, 0.9, 0.3])).state_dict()
    other = ArraySchedule(sgd(), torch.ones(5))
    other.load_state_dict(saved)
    assert [other.multiplier(step) for step in range(3)] == pytest.approx([0.1, 0.9, 0.3])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("kind", BUILD)
def test_copies_go_on_alike(kind, copied):
    optimizer = sgd()
    schedule = BUILD[kind](optimizer)
    take(optimizer, schedule, 2)
    other = copied(schedule)
    assert other.optimizer is not optimizer
    assert take(other.optimizer, other, 5) == take(optimizer, schedule, 5)


def test_a_group_added_later_by_a_second_scheduler_keeps_its_base():
    optimizer = sgd()
    take(optimizer, LinearDecay(optimizer, 4), 2)
    # `initial_lr` is where torch keeps the base: a second scheduler starts from it, not from what is left.
    assert LinearDecay(optimizer, 4).lr(0) == [0.3, 0.15]


def test_within_sequential_lr():
    optimizer, reference = sgd(), sgd()
    warm = LinearLR(optimizer, start_factor=0.5, total_iters=3)
    sequence = SequentialLR(optimizer, [warm, LinearDecay(optimizer, 5)], milestones=[3])
    factors = [0.5, 0.5 + 0.5 / 3, 0.5 + 1 / 3, 1, 0.8, 0.6, 0.4, 0.2, 0]
    other = LambdaLR(reference, lambda step: factors[min(step, 8)])
    used = take(optimizer, sequence, 9)
    torch.testing.assert_close(used, take(reference, other, 9), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, r"`total_steps` \(=0\)"),
        ({"total_steps": -3}, r"`total_steps` \(=-3\)"),
        ({"total_steps": 5, "warmup_steps": 5}, r"`warmup_steps` \(=5\)"),
        ({"total_steps": 5, "warmup_steps": -1}, r"`warmup_steps` \(=-1\)"),
        ({"total_steps": 5, "final": 1.5}, r"`final` \(=1.5\)"),
        ({"total_steps": 5, "final": float("nan")}, r"`final` \(=nan\)"),
        ({"total_steps": 5, "last_epoch": -2}, r"`last_epoch` \(=-2\)"),
    ],
)
def test_linear_decay_names_what_does_not_fit(options, message):
    optimizer = sgd()
    with pytest.raises(ValueError, match=message):
        LinearDecay(optimizer, **options)
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_steps_must_be_integers():
    with pytest.raises(TypeError, match=r"`total_steps` \(=2.5\)"):
        LinearDecay(sgd(), 2.5)


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        ([], "at least one entry"),
        ([[1.0]], r"one axis.*\(1, 1\)"),
        ([1.0, -0.5, -1.0], r"number 1 \(=-0.5\)"),
        ([1.0, 0.5, float("nan")], r"number 2 \(=nan\)"),
        ([float("inf")], r"number 0 \(=inf\)"),
    ],
)
def test_array_schedule_names_what_does_not_fit(multipliers, message):
    with pytest.raises(ValueError, match=message):
        ArraySchedule(sgd(), torch.tensor(multipliers))


@pytest.mark.parametrize("kind", BUILD)
def test_negative_steps_raise(kind):
    with pytest.raises(ValueError, match=r"`step` \(=-1\)"):
        BUILD[kind](sgd()).lr(-1)


def test_a_state_for_other_groups_raises():
    saved = LinearDecay(sgd(groups=3), 5).state_dict()
    schedule = LinearDecay(sgd(groups=2), 9)
    with pytest.raises(ValueError, match="3 parameter groups; the optimizer has 2"):
        schedule.load_state_dict(saved)
    assert schedule.total_steps == 9


def test_resuming_without_the_optimizers_state_raises():
    with pytest.raises(KeyError, match="initial_lr"):
        LinearDecay(sgd(), 5, last_epoch=3)
