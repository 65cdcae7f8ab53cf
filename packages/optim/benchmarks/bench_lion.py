"""A step of Lion-K beside what a user would take instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from lemmata.optim.optimizers.kappa import L1, GroupL2, HuberL1, Kappa, Nuclear
from lemmata.optim.optimizers.lion import LionK, constraint_violation

WIDTH, DEPTH = 384, 8
DECODER = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)] * DEPTH
SMALL = [(32, 32)] * 400
ADAMW = "AdamW(foreach)"
MUON = "torch.optim.Muon"


@pytest.mark.benchmark(group="one step of Lion on 14 million weights of a decoder, float32")
@pytest.mark.parametrize("side", ["lemmata", ADAMW])
def bench_lion_decoder(benchmark: Any, side: str) -> None:
    """Large tensors, one after another."""
    measure(benchmark, side, DECODER, L1(), bar=0.5)


@pytest.mark.benchmark(group="one step of Lion on 400 matrices of 32 x 32, float32")
@pytest.mark.parametrize("side", ["lemmata", ADAMW])
def bench_lion_small(benchmark: Any, side: str) -> None:
    """Small tensors, all together."""
    measure(benchmark, side, SMALL, L1(), bar=1.0)


@pytest.mark.benchmark(group="one step of Lion-K with HuberL1 on 400 matrices of 32 x 32, float32")
@pytest.mark.parametrize("side", ["lemmata", ADAMW])
def bench_huber_small(benchmark: Any, side: str) -> None:
    """Another kappa that takes all tensors together."""
    measure(benchmark, side, SMALL, HuberL1(1e-3), bar=1.2)


@pytest.mark.benchmark(group="one step of Lion-K with GroupL2 on 14 million weights of a decoder, float32")
@pytest.mark.parametrize("side", ["lemmata", ADAMW])
def bench_groups_decoder(benchmark: Any, side: str) -> None:
    """Norms of rows."""
    measure(benchmark, side, DECODER, GroupL2(), bar=1.2)


@pytest.mark.benchmark(group="one step of Lion-K with Nuclear on 400 matrices of 32 x 32, float32")
@pytest.mark.parametrize("side", ["lemmata", MUON])
def bench_nuclear_small(benchmark: Any, side: str) -> None:
    """Matrices of one shape, orthogonalised as a batch."""
    measure(benchmark, side, SMALL, Nuclear(), bar=0.15)


@pytest.mark.benchmark(group="distance of 14 million weights of a decoder to the box")
@pytest.mark.parametrize("side", ["lemmata", ADAMW])
def bench_constraint_violation(benchmark: Any, side: str) -> None:
    """The diagnostic, beside a step of the optimiser."""
    params = parameters(DECODER)
    optimizer = LionK(params)
    adamw = AdamW(params, foreach=True)
    adamw.step()
    sides: dict[str, Callable[[], Any]] = {
        "lemmata": lambda: constraint_violation(optimizer),
        ADAMW: adamw.step,
    }
    benchmark.extra_info["bar"] = 1.0
    benchmark(sides[side])


def measure(benchmark: Any, side: str, shapes: list[tuple[int, ...]], kappa: Kappa, bar: float) -> None:
    """Measure one side's step on the same parameters and gradients."""
    params = parameters(shapes)
    sides: dict[str, Callable[[], Optimizer]] = {
        "lemmata": lambda: LionK(params, lr=1e-4, kappa=kappa),
        ADAMW: lambda: AdamW(params, lr=1e-4, foreach=True),
        MUON: lambda: torch.optim.Muon(params, lr=1e-4, nesterov=False),
    }
    optimizer = sides[side]()
    optimizer.step()
    state = sum(value.nbytes for entry in optimizer.state.values() for value in entry.values())
    benchmark.extra_info["bar"] = bar
    benchmark.extra_info["state bytes per parameter"] = round(state / sum(p.numel() for p in params), 2)
    benchmark(optimizer.step)


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """Return parameters with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params
