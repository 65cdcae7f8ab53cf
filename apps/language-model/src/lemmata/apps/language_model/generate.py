"""Continue a text with a trained model."""

import sys
from pathlib import Path

__all__ = ["generate"]


def generate(
    checkpoint: Path,
    *,
    prompt: str = "\n",
    new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Continue a text, and print it with its continuation.

    Args:
        checkpoint: A checkpoint, a run's folder, or a folder that export wrote.
        prompt: The beginning of the text.
        new_tokens: How many tokens to add.
        temperature: How freely to choose: 0 takes the likeliest token, 1 follows the model.
        top_k: Choose among so many of the likeliest tokens; among all where not given.
        seed: Seed of the choices.
        device: Where to compute, say cuda.

    Returns:
        The prompt and what follows.

    Raises:
        FileNotFoundError: Where there is no such checkpoint.
        ValueError: Where the checkpoint cannot be read, a number is out of range, or the prompt has
            characters that the model does not know.
    """
    import torch

    from lemmata.apps.language_model.model.generation import generate as continue_tokens
    from lemmata.apps.language_model.trained import TrainedModel

    if not prompt:
        raise ValueError("`prompt` (='') must hold at least one character")
    if seed < 0:
        raise ValueError(f"`seed` (={seed}) must be an integer of at least 0")
    model = TrainedModel.load(checkpoint, device=device)
    if unknown := model.tokenizer.unknown(prompt):
        raise ValueError(
            f"`prompt` has characters that the model's text does not: {unknown!r}; leave them out, or train "
            "with `data.tokenizer` bpe"
        )
    tokens = torch.as_tensor(model.tokenizer.encode(prompt).astype("int64"), device=device)[None]
    whole = continue_tokens(
        model.decoder,
        tokens,
        new_tokens,
        temperature=temperature,
        top_k=top_k,
        generator=torch.Generator(device).manual_seed(seed),
    )
    text = prompt + model.tokenizer.decode(whole[0, tokens.shape[1] :].cpu().numpy())
    sys.stdout.write(text + "\n")
    return text
