"""A step of every optimiser beside torch's AdamW, on the 14 million weights of a decoder."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from lemmata.optim.optimizers.auon import AuON, HybridAuON
from lemmata.optim.optimizers.kappa import L1, L2, LP, GroupL2, HuberL1, Nuclear, Quadratic, TruncatedL1
from lemmata.optim.optimizers.lion import LionK
from lemmata.optim.optimizers.muon import Muon

WIDTH, DEPTH = 384, 8
LAYER = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]

OURS: dict[str, tuple[Callable[..., Optimizer], float | None]] = {
    "Lion-K, L1": (partial(LionK, lr=1e-4, kappa=L1()), 1.2),
    "Lion-K, L2": (partial(LionK, lr=1e-4, kappa=L2()), 1.2),
    "Lion-K, LP(1.5)": (partial(LionK, lr=1e-4, kappa=LP(1.5)), 1.2),
    "Lion-K, GroupL2": (partial(LionK, lr=1e-4, kappa=GroupL2(-1)), 1.2),
    "Lion-K, TruncatedL1": (partial(LionK, lr=1e-4, kappa=TruncatedL1(1e-3)), 1.2),
    "Lion-K, HuberL1": (partial(LionK, lr=1e-4, kappa=HuberL1(1e-3)), 1.2),
    "Lion-K, Quadratic": (partial(LionK, lr=1e-4, kappa=Quadratic()), 1.2),
    "Lion-K, Nuclear": (partial(LionK, lr=1e-4, kappa=Nuclear()), None),
    "AuON": (AuON, 1.2),
    "normalised momentum (AuON, gamma=0)": (partial(AuON, gamma=0.0), 1.2),
    "Hybrid-AuON, one step": (HybridAuON, None),
    "Muon": (Muon, None),
}
PEERS: dict[str, Callable[..., Optimizer]] = {
    "AdamW(foreach=True)": partial(AdamW, foreach=True),
    "AdamW(foreach=False)": partial(AdamW, foreach=False),
}


@pytest.mark.parametrize(
    ("ours", "side"),
    [
        pytest.param(
            ours,
            side,
            marks=pytest.mark.benchmark(group=f"one step on a decoder of 14 million weights, {ours}"),
        )
        for ours in OURS
        for side in ["lemmata", *PEERS]
    ],
)
def bench_step(benchmark: Any, ours: str, side: str) -> None:
    """Step on float32 matrices of a decoder of width 384 with 8 layers."""
    make, bar = OURS[ours]
    optimizer = prepared(PEERS.get(side, make), LAYER * DEPTH)
    if bar is not None:
        benchmark.extra_info["bar"] = bar
    benchmark.extra_info["state_bytes_per_parameter"] = round(state_bytes_per_parameter(optimizer), 2)
    benchmark.pedantic(optimizer.step, rounds=15, warmup_rounds=2)


def prepared(make: Callable[..., Optimizer], shapes: list[tuple[int, ...]]) -> Optimizer:
    """Return an optimiser of matrices with gradients, the same for every side, that has taken a step."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer = make(params)
    optimizer.step()
    return optimizer


def state_bytes_per_parameter(optimizer: Optimizer) -> float:
    """Return the size of the optimiser's tensors over the number of weights."""
    held = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    return held / sum(param.numel() for group in optimizer.param_groups for param in group["params"])
