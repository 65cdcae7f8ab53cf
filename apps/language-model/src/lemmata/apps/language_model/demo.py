"""Train with Muon and with AdamW on text the machine already has, compare, sample and plot."""

import time
from pathlib import Path
from typing import Any

__all__ = ["demo"]

# As many learning rates for one as for the other.
RATES = {"adamw": [1e-3, 3e-3, 1e-2], "muon": [0.02, 0.04, 0.08]}


def demo(
    *,
    out: Path = Path("runs/language-model-demo"),
    steps: int = 200,
    width: int = 96,
    depth: int = 3,
    workers: int = 2,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Train with Muon and with AdamW on Python's own documentation strings, compare, sample and plot.

    Nothing is downloaded. The decoder has multi-head latent attention and a mixture of experts. Called from a
    script, more workers than one need the usual guard `if __name__ == "__main__":`.

    Args:
        out: Folder to write.
        steps: Optimiser steps of each training.
        width: Width of the decoder.
        depth: Blocks of the decoder.
        workers: Processes that train at a time.
        seed: Seed of weights, order of the text, and samples.
        force: Replace an existing demo.

    Returns:
        The folder: the comparison with its trainings, the cost of the parts, samples and plots.

    Raises:
        FileExistsError: Where the folder exists and `force` is not given.
        ValueError: Where an argument is out of range.
    """
    from rich.console import Console

    from lemmata.apps.kit.files import new_output, read_json, write_atomically
    from lemmata.apps.language_model.bench import bench
    from lemmata.apps.language_model.compare import RESULTS, compare, run_name
    from lemmata.apps.language_model.generate import generate

    if steps < 2:
        raise ValueError(f"`steps` (={steps}) must be at least 2")
    model: dict[str, Any] = {"width": width, "depth": depth}
    new_output(out, force=force).mkdir(exist_ok=True)
    console = Console()
    started = time.perf_counter()
    runs = sum(map(len, RATES.values()))
    console.rule(f"1 of 3: train with Muon and AdamW, {runs} times {steps} steps, and compare")
    compare(
        data="docstrings",
        out=out / "compare",
        optimizers=list(RATES),
        lrs=RATES,
        seeds=[seed],
        steps=steps,
        validate_every=max(n for n in range(1, steps // 10 + 2) if steps % n == 0),
        model={**model, "singular_values_every": max(1, steps // 6)},
        workers=workers,
    )
    console.rule("2 of 3: sample what the decoder trained with Muon has learned")
    [best] = [row for row in read_json(out / "compare" / RESULTS)["standings"] if row["optimizer"] == "muon"]
    run = out / "compare" / "runs" / run_name("muon", best["lr"], seed)
    text = generate(run, prompt="The ", new_tokens=400, seed=seed)
    with write_atomically(out / "sample.txt") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    console.rule("3 of 3: measure optimisers, latent attention's cache and experts")
    bench(out=out / "bench", optimizers=["adamw", "muon", "lion"], model=model, repeats=3)
    _say_where(console, out, time.perf_counter() - started)
    return out


def _say_where(console: Any, out: Path, seconds: float) -> None:
    """Say what lies where, and how to go on."""
    console.print(f"\nDone in {seconds:.0f} s. Everything lies in {out}:", highlight=False)
    for name, what in (
        ("compare", "compare.json, its table as CSV and Markdown, and the trainings under runs"),
        ("compare/plots", "figures as PNG and SVG, their numbers as CSV"),
        ("bench", "what the parts cost, as ratios"),
        ("sample.txt", "text that the decoder wrote"),
    ):
        console.print(f"  {name:<13} {what}", highlight=False)
    console.print("Next: language-model fit --data.source YOUR_TEXT.txt", highlight=False)
