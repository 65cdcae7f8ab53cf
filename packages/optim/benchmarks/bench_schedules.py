"""Schedules: what recording costs in a step, and refinement and the bound against what a user would write."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import nn

from lemmata.optim.schedules import GradientNormRecorder, last_iterate_bound, refine_schedule

MEDIAN = "scipy median_filter and numpy"
CLIP = "torch clip_grad_norm_"
LOOP = "a double loop in numpy"


def decoder_shapes(width: int = 256, depth: int = 4) -> list[tuple[int, ...]]:
    """Return the shapes of a decoder's parameters."""
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (width,), (width,)]
    return [(1000, width), *block * depth, (1000, width)]


@pytest.mark.benchmark(group="gradient norm of one step, decoder of 3.7 million parameters")
@pytest.mark.parametrize("side", ["lemmata", CLIP])
def bench_record(benchmark: Any, side: str) -> None:
    """Record a norm, beside clipping, which computes the same norm and scales the gradients."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in decoder_shapes()]
    for param in parameters:
        param.grad = torch.randn(param.shape, generator=generator)
    recorder = GradientNormRecorder(torch.optim.SGD(parameters, lr=0.1), hook=False)
    recorder.record()
    norm = nn.utils.clip_grad_norm_(parameters, 1e9)
    assert torch.allclose(recorder.norms()[0].float(), norm)
    sides: dict[str, Callable[[], Any]] = {
        "lemmata": recorder.record,
        CLIP: lambda: nn.utils.clip_grad_norm_(parameters, 1e9),
    }
    benchmark.extra_info["bar"] = 1.0
    benchmark(sides[side])


@pytest.mark.benchmark(group="refine a schedule from 10,000 norms, median of a tenth")
@pytest.mark.parametrize("side", ["lemmata", MEDIAN])
def bench_refine(benchmark: Any, side: str) -> None:
    """Refine a schedule from a recording of usual length."""
    refine(benchmark, side, 10_000)


@pytest.mark.benchmark(group="refine a schedule from 100,000 norms, median of a tenth")
@pytest.mark.parametrize("side", ["lemmata", MEDIAN])
def bench_refine_long(benchmark: Any, side: str) -> None:
    """Refine a schedule from a long recording."""
    refine(benchmark, side, 100_000)


def refine(benchmark: Any, side: str, steps: int) -> None:
    """Measure one side on the same norms, which vary by ten and are noisy."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(steps, generator=generator, dtype=torch.float64)
    norms = torch.logspace(0, -1, steps, dtype=torch.float64) * noise.exp()
    array = norms.numpy()

    def by_hand() -> Any:
        half = int(0.1 * steps / 2)
        padded = np.concatenate([np.repeat(array[:1], half), array, array[::-1][:half]])
        smooth = median_filter(padded, 2 * half + 1)[half : half + steps]
        w = smooth**-2.0
        eta = w * np.append(np.cumsum(w[:0:-1])[::-1], 0)
        return eta / eta.max()

    # Without a bar: this runs once a training run, and scipy is a compiled filter that we do without.
    np.testing.assert_allclose(refine_schedule(norms).numpy(), by_hand(), rtol=1e-9, atol=1e-12)
    benchmark({"lemmata": lambda: refine_schedule(norms), MEDIAN: by_hand}[side])


@pytest.mark.benchmark(group="last-iterate bound of 2,000 steps")
@pytest.mark.parametrize("side", ["lemmata", LOOP])
def bench_bound(benchmark: Any, side: str) -> None:
    """Evaluate the bound by reversed sums, beside its formula as printed."""
    steps = 2000
    norms = torch.rand(steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    lrs = 0.02 * (1 - torch.arange(steps, dtype=torch.float64) / steps)
    eta, G = lrs.numpy(), norms.numpy()

    def loop() -> float:
        S = np.array([eta[k:].sum() for k in range(steps)])
        Q = np.array([(eta[k:] ** 2 * G[k:] ** 2).sum() for k in range(steps)])
        last = sum(eta[k] / S[k + 1] * Q[k] / S[k] for k in range(steps - 1))
        return float((1 + Q[0]) / (2 * S[0]) + 0.5 * last)

    np.testing.assert_allclose(float(last_iterate_bound(lrs, norms, 1.0)), loop(), rtol=1e-10)
    benchmark.extra_info["bar"] = 0.1
    benchmark({"lemmata": lambda: last_iterate_bound(lrs, norms, 1.0), LOOP: loop}[side])
