"""AuON: a step beside Muon on the same machinery, which it is to cost less than, and beside AdamW."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from lemmata.optim.optimizers.auon import AuON, HybridAuON
from lemmata.optim.optimizers.muon import Muon

LAYER = [(1152, 384), (384, 384), (1536, 384), (384, 1536)]
SETS = {"a decoder of 14 million weights": LAYER * 8, "400 matrices of 32 x 32": [(32, 32)] * 400}


@pytest.mark.parametrize(
    ("weights", "side"),
    [
        pytest.param(
            weights, side, marks=pytest.mark.benchmark(group=f"one AuON step on {weights}, beside Muon")
        )
        for weights in SETS
        for side in ("lemmata", "lemmata Muon")
    ],
)
def bench_auon_beside_muon(benchmark: Any, weights: str, side: str) -> None:
    """The same machinery, with two reductions in place of five iterations."""
    benchmark.extra_info["bar"] = 0.5
    measure(benchmark, AuON if side == "lemmata" else Muon, SETS[weights])


@pytest.mark.parametrize(
    ("weights", "side"),
    [
        pytest.param(
            weights, side, marks=pytest.mark.benchmark(group=f"one AuON step on {weights}, beside AdamW")
        )
        for weights in SETS
        for side in ("lemmata", "AdamW(foreach=True)")
    ],
)
def bench_auon_beside_adamw(benchmark: Any, weights: str, side: str) -> None:
    """One buffer and two reductions, against two buffers."""
    benchmark.extra_info["bar"] = 1.25
    measure(benchmark, AuON if side == "lemmata" else partial(AdamW, foreach=True), SETS[weights])


@pytest.mark.benchmark(group="one Hybrid-AuON step, of one iteration, on a decoder of 14 million weights")
@pytest.mark.parametrize("side", ["lemmata", "lemmata Muon"])
def bench_hybrid_auon(benchmark: Any, side: str) -> None:
    """A fifth of Muon's products, and AuON's reductions."""
    measure(benchmark, HybridAuON if side == "lemmata" else Muon, LAYER * 8)


def measure(benchmark: Any, make: Callable[..., Optimizer], shapes: list[tuple[int, int]]) -> None:
    """Step on the same weights and gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    benchmark.pedantic(make(params).step, rounds=15, warmup_rounds=3)
