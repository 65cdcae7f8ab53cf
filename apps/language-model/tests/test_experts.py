"""Experts: a loop over tokens as oracle, both ways of applying them, idle experts, balance, precision."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lemmata.apps.language_model.model import MixtureOfExperts, SwiGLU

WIDTH, HIDDEN, EXPERTS = 6, 5, 4


def mixture(experts=EXPERTS, **options):
    options = {"active": 2, "generator": torch.Generator().manual_seed(3), **options}
    return MixtureOfExperts(WIDTH, HIDDEN, experts=experts, **options).double()


def by_hand(m, x):
    """Send one token after the other through its experts."""
    out = []
    for token in x.reshape(-1, WIDTH):
        logits = m.router.weight @ token
        scores = logits.softmax(0) if m.scores == "softmax" else logits.sigmoid()
        chosen = sorted(range(m.experts), key=lambda e: -float((scores + m.bias)[e].detach()))[: m.active]
        total = sum(scores[e] for e in chosen) if m.active > 1 else 1
        y = sum(
            scores[e] / total * (m.down[e] @ (functional.silu(m.gate[e] @ token) * (m.up[e] @ token)))
            for e in chosen
        )
        out.append(y if m.shared is None else y + m.shared(token))
    return torch.stack(out).view(x.shape)


def ways(m, x):
    """Return what both ways of applying the routed experts give for the same choice."""
    chosen, _, share = m._route(x)
    counts = torch.zeros_like(share, dtype=torch.int64)
    counts.scatter_add_(0, chosen.flatten(), torch.ones_like(chosen).flatten())
    return m._by_slices(x, chosen, counts), m._by_blocks(x, chosen, counts)


def gradients(m, y):
    m.zero_grad()
    y.square().sum().backward()
    return [p.grad.clone() for p in m.parameters()]


@pytest.mark.parametrize("router", ["sigmoid", "softmax"])
@pytest.mark.parametrize("balance", ["bias", "loss"])
@pytest.mark.parametrize(("active", "shared"), [(1, 0), (1, 1), (2, 0), (2, 2), (4, 1)])
@pytest.mark.parametrize("shape", [(1,), (2, 9), (40,)])
def test_equals_a_loop_over_tokens_with_its_gradients(router, balance, active, shared, shape):
    m = mixture(active=active, shared=shared, router=router, balance=balance)
    m.bias.uniform_(-0.1, 0.1)
    x = torch.randn(*shape, WIDTH, dtype=torch.float64)
    expected = by_hand(m, x)
    y = m(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients(m, y), gradients_or_zero(m, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def gradients_or_zero(m, y):
    m.zero_grad()
    y.square().sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in m.parameters()]


@given(
    tokens=st.integers(0, 70), experts=st.integers(1, 9), skew=st.floats(0, 30), seed=st.integers(0, 10**6)
)
@settings(deadline=None, max_examples=60)
def test_slices_and_blocks_agree_for_any_loads(tokens, experts, skew, seed):
    generator = torch.Generator().manual_seed(seed)
    m = mixture(experts, active=min(2, experts), generator=generator)
    m.bias += skew * torch.rand(experts, generator=generator)
    x = torch.randn(tokens, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    sliced, blocked = ways(m, x)
    torch.testing.assert_close(sliced, blocked, rtol=0, atol=1e-12)
    found = [torch.autograd.grad(y.square().sum(), [x, m.gate, m.up, m.down]) for y in (sliced, blocked)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_an_idle_expert_has_a_gradient_of_zeros():
    m = mixture()
    with torch.no_grad():
        m.bias[0] = -100.0
    for y in (*ways(m, torch.randn(30, WIDTH, dtype=torch.float64)), m(torch.randn(30, WIDTH).double())):
        m.zero_grad()
        y.square().sum().backward()
        for stack in (m.gate, m.up, m.down):
            assert torch.equal(stack.grad[0], torch.zeros_like(stack[0]))
            assert bool((stack.grad[1:].abs().sum((1, 2)) > 0).all())


def test_no_token_is_dropped_when_all_choose_the_same_experts():
    m = mixture(shared=0)
    with torch.no_grad():
        m.bias[:2] = 100.0
    x = torch.randn(64, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(m(x), by_hand(m, x), rtol=0, atol=1e-12)
    assert m.pending_loads.tolist() == [64, 64, 0, 0]


def test_tokens_do_not_influence_one_another():
    m = mixture()
    x = torch.randn(20, WIDTH, dtype=torch.float64)
    together = m(x)
    alone = torch.cat([m(token[None]) for token in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("balance", ["bias", "loss"])
def test_gradients_are_those_of_differences(balance):
    m = mixture(balance=balance)
    x = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*m.named_parameters(), strict=True)

    def function(x, *values):
        y = torch.func.functional_call(m, dict(zip(names, values, strict=True)), x)
        return y, m.auxiliary_loss + 0 * y.sum()

    assert torch.autograd.gradcheck(function, (x, *parameters))


def test_one_active_expert_still_trains_the_router():
    m = mixture(active=1)
    m(torch.randn(20, WIDTH, dtype=torch.float64)).square().sum().backward()
    assert float(m.router.weight.grad.abs().sum()) > 0


# Balance


def test_bias_follows_the_rule_and_takes_part_in_the_choice_only():
    m = mixture(balance_rate=0.01)
    m.update_balance(torch.tensor([5, 1, 3, 3]))
    torch.testing.assert_close(m.bias, torch.tensor([-0.01, 0.01, 0.0, 0.0], dtype=torch.float64))
    assert m.loads.tolist() == [5, 1, 3, 3]
    assert "bias" in m.state_dict()
    assert "bias" not in dict(m.named_parameters())
    x = torch.randn(10, WIDTH, dtype=torch.float64)
    before = m(x)
    m.bias += 7.0  # the same for all experts: the choice stays, and so do the weights
    torch.testing.assert_close(m(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("router", ["sigmoid", "softmax"])
def test_bias_evens_out_loads(router):
    m = mixture(router=router, balance_rate=3e-3)
    torch.nn.init.normal_(m.router.weight, std=0.5)
    x = torch.randn(400, WIDTH, dtype=torch.float64) + 0.7
    first = None
    for _ in range(300):
        with torch.no_grad():
            m(x)
        last = m.pending_loads / m.pending_loads.sum()
        first = last if first is None else first
        m.update_balance(m.pending_loads)
    assert float(first.max()) > 0.3
    assert float((last - 1 / EXPERTS).abs().max()) < 0.03


def test_auxiliary_loss_is_the_formula_and_least_where_even():
    m = mixture(balance="loss", balance_rate=0.5, router="softmax")
    x = torch.randn(50, WIDTH, dtype=torch.float64)
    m(x)
    scores = (x @ m.router.weight.T).softmax(-1)
    chosen = scores.topk(2).indices
    fraction = torch.stack([(chosen == e).double().mean() for e in range(EXPERTS)])
    expected = 0.5 * EXPERTS * (fraction * scores.mean(0)).sum()
    torch.testing.assert_close(m.auxiliary_loss, expected, rtol=0, atol=1e-12)
    before = m.bias.clone()
    m.update_balance(m.pending_loads)
    assert torch.equal(m.bias, before)
    with torch.no_grad():
        m.router.weight.zero_()
    m(x)
    torch.testing.assert_close(float(m.auxiliary_loss.detach()), 0.5)


def test_gradient_of_the_auxiliary_loss_takes_score_from_the_busy():
    m = mixture(balance="loss", balance_rate=1.0, router="softmax")
    x = torch.randn(200, WIDTH, dtype=torch.float64) + 1.0
    optimizer = torch.optim.SGD(m.parameters(), lr=1.0)
    loads = []
    for _ in range(200):
        m(x)
        loads.append(m.pending_loads / m.pending_loads.sum())
        m.update_balance(m.pending_loads)
        optimizer.zero_grad()
        m.auxiliary_loss.backward()
        optimizer.step()
    assert float(loads[-1].max()) < float(loads[0].max())


def test_counts_only_while_training_and_from_scratch_after_an_update():
    m = mixture()
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    m(x)
    m(x)
    assert int(m.pending_loads.sum()) == 2 * 15 * 2
    m.update_balance(m.pending_loads)
    m.eval()
    m(x)
    assert int(m.pending_loads.sum()) == 0
    assert int(m.loads.sum()) == 60


# Precision, copies, errors


def test_router_and_bias_stay_in_float32_at_least():
    single = mixture().float()
    half = copy.deepcopy(single).bfloat16()
    assert half.bias.dtype == torch.float32
    assert half.router.weight.dtype == torch.bfloat16
    x = torch.randn(30, WIDTH)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        chosen, weights, _ = single._route(x)
        y = single(x)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(chosen, single._route(x)[0])
    torch.testing.assert_close(y.float(), single(x), rtol=0, atol=0.1)


def test_underflowing_scores_do_not_make_nan():
    m = mixture().float()
    torch.nn.init.constant_(m.router.weight, -1e4)
    x = torch.ones(8, WIDTH, requires_grad=True)
    m(x).sum().backward()
    assert bool(x.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in m.parameters())


def test_copies_and_pickles_after_a_forward_pass():
    m = mixture(balance="loss")
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    y = m(x)
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        torch.testing.assert_close(twin(x), y)
    assert m.auxiliary_loss.requires_grad


def test_counts_parameters():
    m = mixture(shared=1)
    expert = 3 * WIDTH * HIDDEN
    assert m.parameter_counts == (5 * expert + WIDTH * EXPERTS, 3 * expert + WIDTH * EXPERTS)


def test_swiglu_is_the_formula():
    m = SwiGLU(WIDTH, HIDDEN).double()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    gate = x @ m.gate.weight.T
    expected = (gate * torch.sigmoid(gate) * (x @ m.up.weight.T)) @ m.down.weight.T
    torch.testing.assert_close(m(x), expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"active": 5}, r"`active` \(=5\) must lie in \[1, `experts` \(=4\)\]"),
        ({"active": 0}, r"`active` \(=0\)"),
        ({"shared": -1}, r"`shared` \(=-1\) must not be negative"),
        ({"router": "hash"}, r"`router` \(='hash'\) must be one of sigmoid, softmax"),
        ({"balance": "none"}, r"`balance` \(='none'\) must be one of bias, loss"),
        ({"balance_rate": -1.0}, r"`balance_rate` \(=-1.0\) must lie in \[0, inf\)"),
    ],
)
def test_errors_name_option_value_and_range(options, message):
    with pytest.raises(ValueError, match=message):
        mixture(**options)
