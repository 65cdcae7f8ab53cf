"""Continue a text, token by token, over a cache."""

import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lemmata.apps.language_model.model.decoder import Decoder

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: Decoder,
    prompt: Shaped[Tensor, "..."],
    new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch total"]:
    """Append sampled tokens to each prompt of a batch.

    The model sees as many tokens as its context holds. When that is full, its older half is forgotten and
    the newer half read again, so every token follows from at least half a context; a longer prompt is read
    from its last `context` tokens. The model is in evaluation mode meanwhile.

    Args:
        model: A decoder.
        prompt: Tokens of shape (batch, length), at least one, on the model's device.
        new_tokens: How many tokens to append.
        temperature: Factor by which logits are divided; zero takes the likeliest token.
        top_k: Sample among so many of the likeliest tokens; among all where `None`.
        generator: Source of randomness, on the model's device; torch's global one where `None`.

    Returns:
        Prompts and new tokens.

    Raises:
        ValueError: Where the prompt does not hold integers, has not two axes or no token, or a number is out
            of its range.

    Examples:
        >>> from lemmata.apps.language_model.model import DecoderConfig
        >>> model = Decoder(DecoderConfig(vocabulary=65, context=16))
        >>> generate(model, torch.tensor([[1, 2, 3]]), 20).shape
        torch.Size([1, 23])
    """
    _check(prompt, new_tokens, temperature, top_k)
    batch, length = prompt.shape
    context = model.config.context
    tokens = torch.cat([prompt, prompt.new_zeros(batch, new_tokens)], 1)
    cache = model.new_cache(batch, min(context, length + new_tokens))
    unread = tokens[:, max(0, length - context) : length]
    training = model.training
    model.eval()
    try:
        for position in range(length, length + new_tokens):
            if cache.length + unread.shape[1] > context:
                cache.truncate(0)
                unread = tokens[:, position - (context + 1) // 2 : position]
            logits = model.forward_cached(unread, cache)[:, -1]
            tokens[:, position] = _sample(logits, temperature, top_k, generator)
            unread = tokens[:, position : position + 1]
    finally:
        model.train(training)
    return tokens


def _sample(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " batch"]:
    if temperature == 0 or top_k == 1:
        return logits.argmax(-1)
    count = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
    precision = torch.promote_types(logits.dtype, torch.float32)
    values, candidates = logits.to(precision).topk(count, dim=-1)
    # The largest is zero, so that no small temperature overflows.
    chances = ((values - values[:, :1]) / temperature).softmax(-1)
    return candidates.gather(-1, torch.multinomial(chances, 1, generator=generator)).squeeze(-1)


def _check(prompt: Tensor, new_tokens: int, temperature: float, top_k: int | None) -> None:
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(
            f"`prompt` (of shape {tuple(prompt.shape)}) must have shape (batch, length), length at least 1"
        )
    if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
        raise ValueError(f"`prompt` (of dtype {prompt.dtype}) must hold integers")
    if new_tokens < 0:
        raise ValueError(f"`new_tokens` (={new_tokens}) must lie in [0, inf)")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"`temperature` (={temperature:g}) must lie in [0, inf)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` (={top_k}) must lie in [1, inf)")
