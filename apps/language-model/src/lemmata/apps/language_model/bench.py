"""Measure what the parts cost, as ratios: optimisers' steps and state, latent attention's cache, experts."""

from pathlib import Path
from typing import Any

__all__ = ["bench"]

RESULTS = "bench.json"


def bench(
    *,
    out: Path = Path("runs/bench"),
    optimizers: list[str] | str = ["adamw", "muon", "lion", "auon", "hybrid-auon"],  # noqa: B006 - read only
    baseline: str = "adamw",
    model: dict[str, Any] | None = None,
    batch_size: int = 16,
    repeats: int = 10,
    prompt: int = 16,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Measure optimisers' step times and states, caches, decoding speed, and parameters of experts.

    Both sides of a ratio are measured in turns, in one process, on the same tensors; the ratio is that of the
    medians. Text plays no part: tokens are random.

    Args:
        out: Folder to write.
        optimizers: Optimisers by name; the baseline is added where it is missing.
        baseline: The optimiser whose step is 1.
        model: Fields of `DecoderConfig` that take the place of its defaults.
        batch_size: Windows in a training step, and sequences decoded at a time.
        repeats: How often each side is measured.
        prompt: Tokens in the prompt of decoding.
        seed: Seed of weights and tokens.
        force: Replace existing results.

    Returns:
        The folder: bench.json and tables as CSV and Markdown.

    Raises:
        FileExistsError: Where the results exist and `force` is not given.
        ValueError: Where an argument is out of range.
    """
    raise NotImplementedError
