import copy
import dataclasses
import io
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

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
from lemmata.optim.optimizers.lion import LionK, constraint_violation
from lemmata.optim.optimizers.lyapunov import Flow, flow_of, lyapunov
from lemmata.optim.optimizers.muon import Muon

KAPPAS = [
    L1(),
    L2(),
    LP(1.5),
    LP(3.0),
    GroupL2(),
    GroupL2(0),
    Nuclear("svd"),
    TruncatedL1(0.3),
    HuberL1(0.5),
    Quadratic(),
]
every_kappa = pytest.mark.parametrize("kappa", KAPPAS, ids=repr)


@dataclasses.dataclass(frozen=True)
class Custom:
    """The four methods of the protocol and nothing else: half of the magnitudes."""

    def value(self, m):
        return m.abs().sum() / 2

    def subgradient(self, m):
        return m.sign() / 2

    def conjugate(self, x):
        return torch.where(x.abs().max() <= 0.5, 0.0, math.inf).to(x.dtype)

    def project(self, x, radius):
        return None


class Plain(Custom):
    """One that prints as an address."""

    __repr__ = object.__repr__


def parameters(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def run(params, steps=5, **options):
    optimizer = LionK(params, **options)
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    return optimizer


# The step


@pytest.mark.parametrize("foreach", [True, False, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_l1_it_is_lion_to_the_bit(dtype, foreach):
    shapes = [(33, 7), (5,), (), (300, 300)]
    ours, theirs = parameters(*shapes, dtype=dtype), parameters(*shapes, dtype=dtype)
    optimizer = LionK(ours, lr=0.01, betas=(0.9, 0.99), weight_decay=0.3, foreach=foreach)
    averages = [torch.zeros_like(param) for param in theirs]
    for step in range(20):
        for params in (ours, theirs):
            give_gradients(params, step)
        optimizer.step()
        with torch.no_grad():
            for x, average in zip(theirs, averages, strict=True):
                direction = average.mul(0.9).add(x.grad, alpha=1 - 0.9).sign()
                x.mul_(1 - 0.01 * 0.3).add_(direction, alpha=-0.01)
                average.mul_(0.99).add_(x.grad, alpha=1 - 0.99)
        for x, y, average in zip(ours, theirs, averages, strict=True):
            assert torch.equal(x, y)
            assert torch.equal(optimizer.state[x]["momentum_buffer"], -average)


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
def test_with_nuclear_it_is_muon_with_weight_decay(method):
    shapes = [(6, 9), (6, 9), (12, 4), (3, 5, 7)]
    ours, theirs = parameters(*shapes), parameters(*shapes)
    lion = LionK(ours, lr=0.02, betas=(0.9, 0.9), weight_decay=0.5, kappa=Nuclear(method))
    muon = Muon(theirs, lr=0.02, momentum=0.9, nesterov=False, weight_decay=0.5, scale="none", method=method)
    for step in range(8):
        for params, optimizer in ((ours, lion), (theirs, muon)):
            give_gradients(params, step)
            optimizer.step()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=2e-5)


def test_with_quadratic_it_is_the_heavy_ball():
    [x], [y] = parameters((5,), dtype=torch.float64), parameters((5,), dtype=torch.float64)
    lion = LionK([x], lr=0.1, betas=(0.9, 0.9), weight_decay=0.0, kappa=Quadratic())
    sgd = torch.optim.SGD([y], lr=0.1, momentum=0.9, dampening=0.9)
    sgd.state[y]["momentum_buffer"] = torch.zeros(5, dtype=torch.float64)
    for step in range(10):
        give_gradients([x], step)
        give_gradients([y], step)
        lion.step()
        sgd.step()
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@every_kappa
@pytest.mark.parametrize("decay", ["decoupled", "implicit"])
def test_foreach_equals_the_loop(kappa, decay):
    shapes = [(8, 6), (3, 4), (8, 6), (2, 3, 3)]
    together, alone = parameters(*shapes), parameters(*shapes)
    run(together, lr=0.05, kappa=kappa, decay=decay, foreach=True)
    run(alone, lr=0.05, kappa=kappa, decay=decay, foreach=False)
    # A product of a batch rounds in another order than that of its members.
    close = {"rtol": 0, "atol": 1e-5 if isinstance(kappa, Nuclear) else 0}
    for x, y in zip(together, alone, strict=True):
        torch.testing.assert_close(x, y, **close)


@every_kappa
def test_maximising_goes_up_where_minimising_the_negative_does(kappa):
    up, down = parameters((4, 3)), parameters((4, 3))
    ascent = LionK(up, lr=0.05, kappa=kappa, maximize=True)
    descent = LionK(down, lr=0.05, kappa=kappa)
    for step in range(4):
        give_gradients(up, step)
        give_gradients(down, step)
        down[0].grad.neg_()
        ascent.step()
        descent.step()
    assert torch.equal(up[0], down[0])


@pytest.mark.parametrize("decay", ["decoupled", "implicit"])
def test_learning_rate_may_be_a_tensor(decay):
    by_number, by_tensor = parameters((4, 3), (5,)), parameters((4, 3), (5,))
    run(by_number, lr=0.05, decay=decay)
    optimizer = run(by_tensor, lr=torch.tensor(0.05), decay=decay)
    for x, y in zip(by_number, by_tensor, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    half, single = parameters((64, 64), dtype=dtype), parameters((64, 64), dtype=dtype)
    single = [nn.Parameter(param.detach().float()) for param in single]
    optimizer = LionK(half, lr=0.01, weight_decay=0.5, kappa=HuberL1(0.5))
    reference = LionK(single, lr=0.01, weight_decay=0.5, kappa=HuberL1(0.5))
    for step in range(10):
        give_gradients(half, step)
        single[0].grad = half[0].grad.float()
        optimizer.step()
        reference.step()
        with torch.no_grad():
            single[0].copy_(single[0].to(dtype).float())
    assert optimizer.state[half[0]]["momentum_buffer"].dtype == torch.float32
    assert torch.equal(half[0].float(), single[0])


def test_sign_of_a_zero_momentum_is_zero():
    x = nn.Parameter(torch.ones(3))
    x.grad = torch.tensor([1.0, 0.0, -1.0])
    LionK([x], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(x.detach(), torch.tensor([0.9, 1.0, 1.1]))


def test_state_is_one_buffer():
    [x] = parameters((100, 10))
    optimizer = run([x])
    assert set(optimizer.state[x]) == {"momentum_buffer"}
    assert optimizer.state[x]["momentum_buffer"].nbytes == x.nbytes


def test_gradients_are_left_alone():
    for kappa in KAPPAS:
        [x] = parameters((4, 4))
        give_gradients([x], 0)
        before = x.grad.clone()
        LionK([x], kappa=kappa).step()
        assert torch.equal(x.grad, before)


def test_a_custom_kappa_needs_four_methods_only():
    ours, lion = parameters((4, 3)), parameters((4, 3))
    optimizer = run(ours, lr=0.1, weight_decay=0.0, kappa=Custom())
    run(lion, lr=0.05, weight_decay=0.0)
    assert torch.equal(ours[0], lion[0])
    assert math.isnan(constraint_violation(optimizer)[0])


# Checkpoints


def two_groups(params):
    return LionK(
        [{"params": params[:1], "kappa": Nuclear("svd")}, {"params": params[1:], "kappa": TruncatedL1(0.1)}],
        lr=0.05,
    )


def test_a_checkpoint_is_plain_and_resumes_to_the_bit():
    params = parameters((4, 3), (5,))
    optimizer = two_groups(params)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), [param.detach() for param in params]], file)
    file.seek(0)
    state, values = torch.load(file, weights_only=True)
    assert [group["kappa"] for group in state["param_groups"]] == [
        repr(Nuclear("svd")),
        repr(TruncatedL1(0.1)),
    ]

    resumed = [nn.Parameter(value) for value in values]
    other = two_groups(resumed)
    kappas = [group["kappa"] for group in other.param_groups]
    other.load_state_dict(state)
    assert all(group["kappa"] is kappa for group, kappa in zip(other.param_groups, kappas, strict=True))
    for step in range(3, 6):
        for members, each in ((params, optimizer), (resumed, other)):
            give_gradients(members, step)
            each.step()
    assert all(torch.equal(x, y) for x, y in zip(params, resumed, strict=True))


def test_another_kappa_than_the_saved_one_is_refused_before_anything_changes():
    [x] = parameters((4, 3))
    state = run([x], kappa=L2()).state_dict()
    other = LionK([x], lr=0.5)
    with pytest.raises(ValueError, match=r"group 0 was saved with kappa L2\(\) and has L1\(\) here"):
        other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.5
    assert not other.state
    del state["param_groups"][0]["kappa"]
    other.load_state_dict(state)
    assert other.param_groups[0]["kappa"] == L1()
    assert torch.equal(other.state[x]["momentum_buffer"], state["state"][0]["momentum_buffer"])


def test_a_kappa_that_prints_its_address_loads_again():
    [x] = parameters((4, 3))
    state = run([x], kappa=Plain()).state_dict()
    assert state["param_groups"][0]["kappa"] == "Plain"
    LionK([x], kappa=Plain()).load_state_dict(state)


def test_momenta_of_half_precision_survive_a_checkpoint():
    [x] = parameters((8, 8), dtype=torch.bfloat16)
    optimizer = run([x])
    other = LionK([x])
    other.load_state_dict(optimizer.state_dict())
    ours, theirs = (each.state[x]["momentum_buffer"] for each in (optimizer, other))
    assert theirs.dtype == torch.float32
    assert torch.equal(ours, theirs)
    assert ours.data_ptr() != theirs.data_ptr()


def test_pickles_and_copies_keep_the_kappa_of_each_group():
    params = parameters((4, 3), (5,))
    optimizer = two_groups(params)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert [group["kappa"] for group in other.param_groups] == [Nuclear("svd"), TruncatedL1(0.1)]


def test_older_pickles_get_the_options_they_lack():
    optimizer = LionK(parameters((4, 3)))
    state = optimizer.__getstate__()
    del state["param_groups"][0]["decay"]
    other = LionK(parameters((4, 3)))
    other.__setstate__(state)
    assert other.param_groups[0]["decay"] == "decoupled"


# The constraint


@every_kappa
@pytest.mark.parametrize("decay", ["decoupled", "implicit"])
def test_what_is_inside_stays_inside(kappa, decay):
    x = nn.Parameter(kappa.project(torch.randn(5, 4, dtype=torch.float64), 1.0) / 0.8)
    optimizer = LionK([x], lr=0.3, weight_decay=0.8, kappa=kappa, decay=decay)
    assert constraint_violation(optimizer)[0] <= 1e-12
    for step in range(15):
        give_gradients([x], step)
        optimizer.step()
        assert constraint_violation(optimizer)[0] <= 1e-12


@settings(deadline=None, max_examples=50)
@given(lr=st.floats(1e-6, 1e6), weight_decay=st.floats(1e-3, 1e3), kappa=st.sampled_from(KAPPAS))
def test_implicit_decay_stays_inside_at_every_learning_rate(lr, weight_decay, kappa):
    start = kappa.project(torch.randn(4, 4, dtype=torch.float64), 1.0) / weight_decay
    x = nn.Parameter(start)
    optimizer = LionK([x], lr=lr, weight_decay=weight_decay, kappa=kappa, decay="implicit")
    for step in range(5):
        give_gradients([x], step)
        optimizer.step()
    assert constraint_violation(optimizer)[0] <= 1e-11


@pytest.mark.parametrize("kappa", [L1(), L2(), GroupL2(), Nuclear("svd")], ids=repr)
def test_distance_to_the_constraint_falls_as_an_exponential(kappa):
    # The gradient pulls outwards, along the point's own direction: the bound is attained.
    weight_decay, lr = 2.0, 1e-3
    direction = kappa.subgradient(torch.randn(4, 4, dtype=torch.float64))
    x = nn.Parameter(5 * direction / weight_decay)
    optimizer = LionK([x], lr=lr, weight_decay=weight_decay, kappa=kappa)
    start = constraint_violation(optimizer)[0]
    for step in range(1, 1001):
        x.grad = -direction
        optimizer.step()
        if step % 100 == 0:
            expected = start * math.exp(-weight_decay * lr * step)
            assert constraint_violation(optimizer)[0] == pytest.approx(expected, rel=0.02)


@every_kappa
def test_distance_to_the_constraint_falls_at_least_that_fast(kappa):
    x = nn.Parameter(10 * torch.randn(4, 4, dtype=torch.float64))
    optimizer = LionK([x], lr=0.05, weight_decay=2.0, kappa=kappa)
    before = constraint_violation(optimizer)[0]
    for step in range(20):
        give_gradients([x], step)
        optimizer.step()
        after = constraint_violation(optimizer)[0]
        assert after <= before * (1 - 0.05 * 2.0) + 1e-12
        before = after


def test_violations_add_up_over_a_group_and_are_told_by_group():
    x, y = nn.Parameter(torch.tensor([4.0, 0.0])), nn.Parameter(torch.tensor([-5.0]))
    z, empty = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.zeros(0, 2))
    optimizer = LionK([{"params": [x, y, empty]}, {"params": [z], "kappa": L2()}], weight_decay=1.0)
    assert constraint_violation(optimizer) == {0: 5.0, 1: 4.0}


def test_without_decay_nothing_is_violated():
    [x] = parameters((4, 4))
    assert constraint_violation(LionK([x], weight_decay=0.0)) == {0: 0.0}


# The Lyapunov function


def quadratic_problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    target = 3 * torch.randn(4, 4, dtype=torch.float64, generator=generator)
    curvature = a @ a.T / 4 + 0.1 * torch.eye(4, dtype=torch.float64)
    return lambda x: 0.5 * torch.sum((x - target) * (curvature @ (x - target)))


@every_kappa
def test_it_never_increases_along_the_flow(kappa, unchecked):
    # Steps of length h are Euler's method for the flow with a = c = 1 and e = 1/2.
    h, weight_decay = 1e-3, 1.0
    loss = quadratic_problem()
    x = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    options = {"lr": h, "betas": (0.5, 1 - h), "weight_decay": weight_decay}
    optimizer = LionK([x], kappa=kappa, **options)
    flow = flow_of(**options)
    assert flow == pytest.approx(Flow(1.0, 1.0, 0.5, weight_decay))
    values = []
    for _ in range(1500):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        momentum = optimizer.state[x].get("momentum_buffer", torch.zeros_like(x))
        values.append(float(lyapunov(value.detach(), [x], [momentum], kappa, **flow._asdict())))
        optimizer.step()
    increases = [max(0.0, after - before) for before, after in itertools.pairwise(values)]
    assert values[0] - values[-1] > 0.5
    assert max(increases) <= 1e-5 * (values[0] - values[-1])


@pytest.mark.parametrize("kappa", [HuberL1(0.5), Quadratic(), L2()], ids=repr)
def test_its_rate_of_change_is_not_positive_at_any_state(kappa):
    flow, h = flow_of(lr=0.1, betas=(0.7, 0.9), weight_decay=0.7), 1e-6

    def rate(seed, eps):
        generator = torch.Generator().manual_seed(seed)
        m, g, x = torch.randn(3, 6, dtype=torch.float64, generator=generator)
        x = 0.9 * kappa.project(x, 1.0) / flow.lam
        change = -flow.alpha * g - flow.gamma * m
        velocity = kappa.subgradient(m + flow.eps * change) - flow.lam * x
        coefficients = flow._asdict() | {"eps": eps}
        before = lyapunov(0.0, [x], [m], kappa, **coefficients)
        # The loss changes by the gradient times the step.
        after = lyapunov(h * float(g @ velocity), [x + h * velocity], [m + h * change], kappa, **coefficients)
        return float(after - before) / h

    assert max(rate(seed, flow.eps) for seed in range(200)) <= 1e-4
    # Without the bracket it would rise at some of these states: they are a test.
    assert max(rate(seed, 1 / flow.gamma) for seed in range(200)) > 0.01


@every_kappa
def test_its_bracket_is_not_negative_and_vanishes_at_rest(kappa):
    coefficients = {"alpha": 1.0, "gamma": 0.0, "eps": 0.0, "lam": 0.5}
    for seed in range(10):
        [m] = parameters((3, 4), dtype=torch.float64, seed=seed)
        [x] = parameters((3, 4), dtype=torch.float64, seed=seed + 50)
        inside = kappa.project(x.detach(), 1.0) * (1 - 1e-12) / 0.5
        assert lyapunov(0.0, [inside], [m], kappa, **coefficients) >= -1e-12
        rest = kappa.subgradient(m.detach()) / 0.5
        assert abs(float(lyapunov(0.0, [rest], [m], kappa, **coefficients))) <= 1e-10


@pytest.mark.parametrize(
    "kappa", [L1(), L2(), TruncatedL1(0.3), HuberL1(0.5), Quadratic(), GroupL2(), Nuclear("svd")], ids=repr
)
def test_it_settles_where_the_composite_problem_is_solved(kappa, unchecked):
    # The oracle is proximal gradient descent on f(x) + kappa*(x): shrink by the penalty, then project.
    loss = quadratic_problem(seed=3)
    y = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    step = 0.1
    for _ in range(1000):
        [gradient] = torch.autograd.grad(loss(y), y)
        moved = (y - step * gradient).detach()
        if isinstance(kappa, TruncatedL1):
            moved = moved.sign() * (moved.abs() - step * kappa.e).clamp(min=0)
        elif isinstance(kappa, HuberL1):
            moved /= 1 + step * kappa.e
        elif isinstance(kappa, Quadratic):
            moved /= 1 + step
        y = kappa.project(moved, 1.0).requires_grad_()
    best = float(loss(y.detach()) + kappa.conjugate(y.detach()))

    x = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    optimizer = LionK([x], lr=0.05, betas=(0.9, 0.95), weight_decay=1.0, kappa=kappa)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 1500)
    for _ in range(1500):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
        schedule.step()
    found = float(loss(x.detach()) + kappa.conjugate(x.detach()))
    assert found == pytest.approx(best, rel=2e-3)


def test_infeasible_parameters_give_infinity_and_half_precision_single():
    x, m = torch.tensor([3.0], dtype=torch.bfloat16), torch.tensor([0.5])
    value = lyapunov(1.0, [x], [m], L1(), alpha=1.0, gamma=1.0, eps=0.1, lam=1.0)
    assert value == math.inf
    assert value.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lam": 0.0}, "`lam` .=0. must be positive: there is no constraint without decay"),
        ({"lam": -1.0}, "`lam` .=-1. must lie in"),
        ({"alpha": -1.0}, "`alpha`"),
        ({"gamma": -1.0}, "`gamma`"),
        ({"eps": -1.0}, "`eps`"),
        ({"eps": 2.0}, r"`eps` \* `gamma` .=2. must lie in \[0, 1\]"),
    ],
)
def test_bad_coefficients_are_named(change, words):
    coefficients = {"alpha": 1.0, "gamma": 1.0, "eps": 0.5, "lam": 1.0} | change
    with pytest.raises(ValueError, match=words):
        lyapunov(1.0, [torch.zeros(2)], [torch.zeros(2)], L1(), **coefficients)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="1 `params` but 0 `momenta`"):
        lyapunov(1.0, [torch.zeros(2)], [], L1(), alpha=1.0, gamma=1.0, eps=0.5, lam=1.0)
    with pytest.raises(TypeError, match="lacks value"):
        lyapunov(1.0, [], [], object(), alpha=1.0, gamma=1.0, eps=0.5, lam=1.0)


@settings(deadline=None, max_examples=50)
@given(lr=st.floats(1e-5, 1), betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)))
def test_the_step_is_an_euler_step_of_its_flow(lr, betas):
    flow = flow_of(lr=lr, betas=betas, weight_decay=0.5)
    assert flow.eps * flow.gamma == pytest.approx(1 - betas[0])
    m, g = torch.randn(2, 7, dtype=torch.float64)
    x = nn.Parameter(torch.randn(7, dtype=torch.float64))
    start = x.detach().clone()
    x.grad = g
    optimizer = LionK([x], lr=lr, betas=betas, weight_decay=0.5, kappa=HuberL1(0.5))
    optimizer.state[x]["momentum_buffer"] = m.clone()
    optimizer.step()
    change = -flow.alpha * g - flow.gamma * m
    torch.testing.assert_close(optimizer.state[x]["momentum_buffer"], m + lr * change, rtol=1e-9, atol=1e-9)
    velocity = HuberL1(0.5).subgradient(m + flow.eps * change) - flow.lam * start
    torch.testing.assert_close(x.detach(), start + lr * velocity, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "change", [{"lr": 0.0}, {"betas": (1.0, 0.5)}, {"betas": (0.5, 1.0)}, {"weight_decay": -1.0}]
)
def test_bad_options_have_no_flow(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        flow_of(**({"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.1} | change))


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1.0}, r"`lr` \(=-1\) must lie in \[0, inf\)"),
        ({"betas": (1.0, 0.9)}, r"`betas\[0\]` \(=1\) must lie in \[0, 1\)"),
        ({"betas": (0.9, -0.1)}, r"`betas\[1\]` \(=-0.1\) must lie in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"`weight_decay` \(=-1\) must lie in \[0, inf\)"),
        ({"lr": 0.5, "weight_decay": 2.0}, r"`lr` \* `weight_decay` \(=1\) .* overshoot the constraint set"),
        ({"kappa": Nuclear()}, r"takes matrices, and a parameter has shape \(3,\)"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        LionK([nn.Parameter(torch.zeros(3))], **options)


def test_bad_decays_are_named(unchecked):
    with pytest.raises(ValueError, match=r"`decay` \(='none'\) must be"):
        LionK([nn.Parameter(torch.zeros(3))], decay="none")
    with pytest.raises(ValueError, match="two numbers"):
        LionK([nn.Parameter(torch.zeros(3))], betas=(0.9, 0.9, 0.9))


def test_implicit_decay_takes_any_product():
    LionK([nn.Parameter(torch.zeros(3))], lr=10.0, weight_decay=10.0, decay="implicit")


def test_an_incomplete_kappa_is_refused():
    with pytest.raises(TypeError, match="lacks value, subgradient, conjugate, project"):
        LionK([nn.Parameter(torch.zeros(3))], kappa=abs)
    with pytest.raises(TypeError, match="an instance is expected"):
        LionK([nn.Parameter(torch.zeros(3))], kappa=L1)


def test_a_refused_group_is_not_added():
    optimizer = LionK(parameters((4, 3)))
    with pytest.raises(ValueError, match="takes matrices"):
        optimizer.add_param_group({"params": parameters((4,)), "kappa": Nuclear()})
    with pytest.raises(TypeError, match="lacks"):
        optimizer.add_param_group({"params": parameters((4,)), "kappa": None})
    assert len(optimizer.param_groups) == 1
