"""Attention: the formula written out, absorbed equals expanded, caches, causality, positions, gradients."""

import copy
import math

import pytest
import torch
from torch import nn

from lemmata.apps.language_model.model import (
    KeyValueCache,
    LatentCache,
    MultiHeadAttention,
    MultiHeadLatentAttention,
    RotaryEmbedding,
)
from lemmata.apps.language_model.model.norm import RMSNorm

WIDTH, HEADS, LATENT, ROPE, CONTEXT = 24, 3, 10, 4, 12

LATENT_OPTIONS = {
    "plain": {},
    "query rank": {"query_rank": 7},
    "qk norm": {"qk_norm": True},
    "wide value": {"value_width": 13, "nope_width": 5},
    "narrow value": {"value_width": 3, "nope_width": 9},
    "everything": {"query_rank": 7, "qk_norm": True, "value_width": 5},
}


def latent(**options):
    options.setdefault("generator", torch.Generator().manual_seed(1))
    return MultiHeadLatentAttention(WIDTH, HEADS, LATENT, RotaryEmbedding(ROPE, CONTEXT), **options)


def multihead(**options):
    options.setdefault("generator", torch.Generator().manual_seed(1))
    return MultiHeadAttention(WIDTH, HEADS, RotaryEmbedding(WIDTH // HEADS, CONTEXT), **options)


KINDS = {
    **{name: lambda options=options: latent(**options) for name, options in LATENT_OPTIONS.items()},
    "multihead": multihead,
    "multihead qk norm": lambda: multihead(qk_norm=True),
}


def scramble_gains(module):
    """Make norms' gains differ from one, so that a forgotten one shows."""
    for child in module.modules():
        if isinstance(child, RMSNorm):
            nn.init.uniform_(child.weight, 0.5, 1.5)
    return module


@pytest.fixture(params=KINDS, ids=lambda name: name.replace(" ", "_"))
def attention(request):
    return scramble_gains(KINDS[request.param]()).double()


def rotate(x, position, base=10_000.0):
    """Rotate one vector, pair by pair."""
    half = x.shape[-1] // 2
    out = x.clone()
    for i in range(half):
        angle = position * base ** (-2 * i / x.shape[-1])
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def rms(norm, x):
    if isinstance(norm, nn.Identity):
        return x
    return x / (x.square().mean() + 1e-6).sqrt() * norm.weight


def heads_of(weight, head):
    return weight.unflatten(0, (HEADS, -1))[head]


def latent_by_hand(m, x):
    """Follow the formula for one sequence: token by token, head by head."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        source = x[t] if isinstance(m.query_latent, nn.Identity) else None
        if source is None:
            source = rms(m.query_latent[1], m.query_latent[0].weight @ x[t])
        heads = []
        for h in range(HEADS):
            q_nope = rms(m.query_norm, heads_of(m.query.weight, h) @ source)
            q_rope = rotate(rms(m.query_rope_norm, heads_of(m.query_rope.weight, h) @ source), t)
            scores, values = [], []
            for s in range(t + 1):
                c = rms(m.latent_norm, m.latent.weight @ x[s])
                k_rope = rotate(rms(m.key_rope_norm, m.key_rope.weight @ x[s]), s)
                score = q_nope @ (heads_of(m.key.weight, h) @ c) + q_rope @ k_rope
                scores.append(score / math.sqrt(m.nope_width + ROPE))
                values.append(heads_of(m.value.weight, h) @ c)
            heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
        out[t] = m.output.weight @ torch.cat(heads)
    return out


def multihead_by_hand(m, x):
    out = torch.zeros_like(x)
    for t in range(len(x)):
        heads = []
        for h in range(HEADS):
            q = rotate(rms(m.query_norm, heads_of(m.query.weight, h) @ x[t]), t)
            keys = [rotate(rms(m.key_norm, heads_of(m.key.weight, h) @ x[s]), s) for s in range(t + 1)]
            values = [heads_of(m.value.weight, h) @ x[s] for s in range(t + 1)]
            weights = (torch.stack(keys) @ q / math.sqrt(m.head_width)).softmax(0)
            heads.append(weights @ torch.stack(values))
        out[t] = m.output.weight @ torch.cat(heads)
    return out


@torch.no_grad()
def test_equals_the_formula_written_out(attention):
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    by_hand = latent_by_hand if isinstance(attention, MultiHeadLatentAttention) else multihead_by_hand
    expected = torch.stack([by_hand(attention, sequence) for sequence in x])
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("split", [[1] * CONTEXT, [CONTEXT], [5, 1, 1, 5], [1, 4, 7]])
@torch.no_grad()
def test_absorbed_equals_expanded_in_any_pieces(attention, split, dtype, tolerance):
    attention = attention.to(dtype)
    x = torch.randn(3, CONTEXT, WIDTH, dtype=dtype)
    cache = attention.new_cache(3, CONTEXT)
    pieces = [attention.forward_cached(piece, cache) for piece in x.split(split, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), attention(x), rtol=0, atol=tolerance)
    assert cache.length == CONTEXT


@torch.no_grad()
def test_a_later_token_changes_nothing_earlier(attention):
    x = torch.randn(2, CONTEXT, WIDTH, dtype=torch.float64)
    before = attention(x)
    for t in range(1, CONTEXT):
        changed = x.clone()
        changed[:, t:] = torch.randn(2, CONTEXT - t, WIDTH, dtype=torch.float64)
        assert torch.equal(attention(changed)[:, :t], before[:, :t])


def test_caches_count_what_they_keep():
    m = latent()
    assert isinstance(m.new_cache(2, 5), LatentCache)
    assert m.cache_numbers_per_token == m.new_cache(2, 5).numbers_per_token == LATENT + ROPE
    assert m.new_cache(2, 5).nbytes == 2 * 5 * (LATENT + ROPE) * 4
    m = multihead().double()
    assert isinstance(m.new_cache(2, 5), KeyValueCache)
    assert m.cache_numbers_per_token == m.new_cache(2, 5).numbers_per_token == 2 * WIDTH
    assert m.new_cache(2, 5).nbytes == 2 * 5 * 2 * WIDTH * 8


@torch.no_grad()
def test_truncation_takes_a_cache_back(attention):
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    cache = attention.new_cache(1, CONTEXT)
    attention.forward_cached(x[:, :4], cache)
    attention.forward_cached(torch.randn(1, 3, WIDTH, dtype=torch.float64), cache)
    cache.truncate(4)
    after = attention.forward_cached(x[:, 4:], cache)
    torch.testing.assert_close(after, attention(x)[:, 4:], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"`length` \(=7\) must lie in \[0, 6\]"):
        cache.truncate(7)


@torch.no_grad()
def test_what_does_not_fit_is_refused_and_leaves_the_cache_alone(attention):
    cache = attention.new_cache(1, 4)
    attention.forward_cached(torch.randn(1, 3, WIDTH, dtype=torch.float64), cache)
    with pytest.raises(ValueError, match=r"2 tokens after 3 do not fit the cache's `capacity` \(=4\)"):
        attention.forward_cached(torch.randn(1, 2, WIDTH, dtype=torch.float64), cache)
    assert cache.length == 3
    with pytest.raises(ValueError, match=r"13 tokens from position 0 on end beyond `context` \(=12\)"):
        attention(torch.randn(1, 13, WIDTH, dtype=torch.float64))


def test_gradients_are_those_of_differences(attention):
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*attention.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(function, (x, *parameters), fast_mode=True)
    attention(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in attention.parameters())


def test_half_precision_stays_near_and_autocast_works(attention):
    single = attention.float()
    x = torch.randn(2, CONTEXT, WIDTH)
    expected = single(x)
    half = copy.deepcopy(single).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(half(x.bfloat16()).float(), expected, rtol=0, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(single(x).float(), expected, rtol=0, atol=0.1)
        cache = single.new_cache(2, CONTEXT)
        pieces = [single.forward_cached(piece, cache) for piece in x.split([4, 1, 7], 1)]
        torch.testing.assert_close(torch.cat(pieces, 1).float(), expected, rtol=0, atol=0.1)


def test_equal_seeds_give_equal_weights():
    for build in (latent, multihead):
        one, other = (build(generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_errors():
    rotary = RotaryEmbedding(4, 8)
    with pytest.raises(ValueError, match=r"`heads` \(=5\) must divide `width` \(=24\)"):
        MultiHeadLatentAttention(24, 5, 8, rotary)
    with pytest.raises(ValueError, match=r"`latent_rank` \(=0\) must be positive"):
        MultiHeadLatentAttention(24, 3, 0, rotary)
    with pytest.raises(ValueError, match=r"`query_rank` \(=0\) must be positive"):
        MultiHeadLatentAttention(24, 3, 8, rotary, query_rank=0)
    with pytest.raises(ValueError, match=r"`rotary` \(of width 4\) must have the width of a head, 8"):
        MultiHeadAttention(24, 3, rotary)
    with pytest.raises(ValueError, match=r"`width` \(=3\) must be even and positive"):
        RotaryEmbedding(3, 8)


# Rotary embedding


def test_rotation_is_that_of_pairs_in_float64():
    rotary = RotaryEmbedding(6, 50, base=100.0).double()
    x = torch.randn(50, 6, dtype=torch.float64)
    expected = torch.stack([rotate(row, t, 100.0) for t, row in enumerate(x)])
    torch.testing.assert_close(rotary(x), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(rotary(x[30:], start=30), expected[30:], rtol=0, atol=1e-14)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1))


def test_rotation_depends_on_differences_of_positions_only():
    rotary = RotaryEmbedding(8, 64).double()
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    score = [float((rotary(q, t + 5) * rotary(k, t)).sum()) for t in range(50)]
    assert max(score) - min(score) < 1e-13


def test_tables_stay_precise_in_half_models_and_out_of_checkpoints():
    rotary = RotaryEmbedding(8, 64).bfloat16()
    assert rotary.cosine.dtype == torch.float32
    assert not rotary.state_dict()
    back = rotary.double()
    assert torch.equal(back.cosine, RotaryEmbedding(8, 64).double().cosine)


def test_tables_are_right_after_materialising_from_meta():
    with torch.device("meta"):
        rotary = RotaryEmbedding(8, 64)
    assert torch.equal(rotary.to_empty(device="cpu").cosine, RotaryEmbedding(8, 64).cosine)
