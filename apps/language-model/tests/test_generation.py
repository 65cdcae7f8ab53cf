"""Generation: equals full passes, greedy, top-k, distribution, sliding, seeds, errors."""

import pytest
import torch

from lemmata.apps.language_model.model import Decoder, DecoderConfig, generate

KINDS = {
    "latent": {},
    "latent, low-rank queries, normalised": {"query_rank": 10, "qk_norm": True},
    "multihead": {"attention": "multihead"},
    "dense": {"feedforward": "dense"},
    "multihead dense": {"attention": "multihead", "feedforward": "dense", "qk_norm": True},
}


def decoder(context=16, **options):
    config = DecoderConfig(**{"vocabulary": 11, "context": context, "width": 16, "depth": 2, **options})
    model = Decoder(config, generator=torch.Generator().manual_seed(2)).double()
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    return model


def prompt(batch=3, length=4, vocabulary=11):
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def greedy_by_full_passes(model, tokens, new_tokens):
    """Follow the documented rule for the context with full passes only."""
    context = model.config.context
    start = max(0, tokens.shape[1] - context)
    model.eval()
    for _ in range(new_tokens):
        if tokens.shape[1] - start > context:
            start = tokens.shape[1] - (context + 1) // 2
        tokens = torch.cat([tokens, model(tokens[:, start:])[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("length", "new_tokens"), [(4, 12), (4, 13), (1, 40), (16, 5), (30, 20), (4, 0)])
def test_equals_full_passes_within_the_context_and_beyond(options, length, new_tokens):
    model = decoder(**options)
    expected = greedy_by_full_passes(model, prompt(length=length), new_tokens)
    assert torch.equal(generate(model, prompt(length=length), new_tokens, temperature=0), expected)


@pytest.mark.parametrize("context", [1, 2, 3])
def test_tiny_contexts(context):
    model = decoder(context)
    expected = greedy_by_full_passes(model, prompt(length=5), 9)
    assert torch.equal(generate(model, prompt(length=5), 9, top_k=1), expected)


def test_zero_temperature_and_one_candidate_are_greedy_whatever_the_seed():
    model = decoder()
    one = generate(model, prompt(), 30, temperature=0, generator=torch.Generator().manual_seed(1))
    other = generate(model, prompt(), 30, top_k=1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(one, other)
    cold = generate(model, prompt(), 30, temperature=1e-9)
    assert torch.equal(one, cold)


def test_equal_seeds_give_equal_samples():
    model = decoder()
    runs = [
        generate(model, prompt(), 40, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_sequences_of_a_batch_do_not_influence_one_another():
    model = decoder()
    together = generate(model, prompt(), 25, temperature=0)
    alone = torch.cat([generate(model, one[None], 25, temperature=0) for one in prompt()])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (1.0, 3), (2.0, 100)])
@torch.no_grad()
def test_samples_follow_the_distribution(temperature, top_k):
    model = decoder()
    start = prompt(1, 3)
    logits = model(start)[0, -1] / temperature
    if top_k is not None and top_k < 11:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    n = 4000
    samples = generate(
        model,
        start.expand(n, 3),
        1,
        temperature=temperature,
        top_k=top_k,
        generator=torch.Generator().manual_seed(0),
    )
    chances = logits.softmax(-1)
    found = torch.bincount(samples[:, -1], minlength=11) / n
    assert bool(((found - chances).abs() <= 5 * (chances * (1 - chances) / n).sqrt()).all())


def test_leaves_model_and_prompt_as_they_were():
    model = decoder(dropout=0.5)
    start = prompt()
    before = start.clone()
    one = generate(model, start, 20, temperature=0)
    assert model.training
    assert torch.equal(start, before)
    assert torch.equal(one, generate(model.eval(), start, 20, temperature=0))
    assert not model.training
    assert not any(loads.sum() for loads in model.expert_loads().values())
    assert one.dtype == start.dtype
    assert torch.equal(one[:, :4], start)


def test_mode_comes_back_after_an_error():
    model = decoder()
    with pytest.raises(IndexError):
        generate(model, torch.tensor([[99]]), 3)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"new_tokens": -1}, r"`new_tokens` \(=-1\) must lie in \[0, inf\)"),
        ({"temperature": -0.5}, r"`temperature` \(=-0.5\) must lie in \[0, inf\)"),
        ({"temperature": float("nan")}, r"`temperature` \(=nan\)"),
        ({"temperature": float("inf")}, r"`temperature` \(=inf\)"),
        ({"top_k": 0}, r"`top_k` \(=0\) must lie in \[1, inf\)"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, r"`prompt` \(of shape \(2, 0\)\) must have shape"),
        ({"prompt": torch.zeros(2, dtype=torch.long)}, r"`prompt` \(of shape \(2,\)\) must have shape"),
        ({"prompt": torch.zeros(2, 2)}, r"`prompt` \(of dtype torch.float32\) must hold integers"),
    ],
)
def test_errors_name_argument_value_and_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(decoder(), **{"prompt": prompt(), "new_tokens": 3, **arguments})
