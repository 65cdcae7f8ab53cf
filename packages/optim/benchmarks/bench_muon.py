"""A step of Muon beside torch's, which works on one matrix at a time in bfloat16, and beside AdamW.

The data type of our iteration is what Muon chooses on the machine at hand; the name of the workload tells it,
and whether the CPU multiplies bfloat16 natively. Gradients stay the same from step to step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lemmata.optim.optimizers.muon import Muon
from lemmata.optim.optimizers.orthogonalize import CPU_BFLOAT16, iteration_dtype, orthogonalize, polar

LAYER = [(1152, 384), (384, 384), (1536, 384), (384, 1536)]
SMALL, MIDDLE, DECODER = [(32, 32)] * 400, [(128, 128)] * 60, LAYER * 8
DTYPE = str(iteration_dtype(torch.zeros(1, 1))).removeprefix("torch.")
WHERE = f"iterated in {DTYPE}, which this CPU multiplies {'natively' if CPU_BFLOAT16 else 'as all others'}"

pytestmark = pytest.mark.usefixtures("unchecked")

SIDES: dict[str, Callable[..., Optimizer]] = {
    "lemmata": Muon,
    "torch.optim.Muon": torch.optim.Muon,
    "AdamW(foreach=True)": partial(AdamW, foreach=True),
    "AdamW(fused=True)": partial(AdamW, fused=True),
}


def cases(name: str, peers: list[str]) -> Any:
    """Return a benchmark's sides, in a group of a name."""
    mark = pytest.mark.benchmark(group=f"{name}, {WHERE}")
    return pytest.mark.parametrize("side", [pytest.param(side, marks=mark) for side in ["lemmata", *peers]])


@cases("one Muon step on 400 matrices of 32 x 32, beside torch's", ["torch.optim.Muon"])
def bench_small_beside_torch(benchmark: Any, side: str) -> None:
    """Batched products against a loop."""
    measure(benchmark, side, SMALL, bar=0.15)


@cases("one Muon step on 400 matrices of 32 x 32, beside AdamW", ["AdamW(foreach=True)"])
def bench_small_beside_adamw(benchmark: Any, side: str) -> None:
    """What orthogonalisation adds where overheads dominate."""
    measure(benchmark, side, SMALL, bar=1.1 if CPU_BFLOAT16 else 2.0)


@cases("one Muon step on 60 matrices of 128 x 128, beside torch's", ["torch.optim.Muon"])
def bench_middle_beside_torch(benchmark: Any, side: str) -> None:
    """Batches that fit the cache."""
    measure(benchmark, side, MIDDLE, bar=0.5)


@cases("one Muon step on a decoder of 14 million weights, beside torch's", ["torch.optim.Muon"])
def bench_decoder_beside_torch(benchmark: Any, side: str) -> None:
    """The same products on both sides, save the halves of symmetric ones."""
    measure(benchmark, side, DECODER, bar=1.0)


@cases(
    "one Muon step on a decoder of 14 million weights, beside AdamW",
    ["AdamW(foreach=True)", "AdamW(fused=True)"],
)
def bench_decoder_beside_adamw(benchmark: Any, side: str) -> None:
    """What orthogonalisation costs by itself; a training step hides most of it behind the backward pass."""
    measure(benchmark, side, DECODER)


@pytest.mark.benchmark(group=f"orthogonalise 32 matrices of 256 x 512, {WHERE}")
@pytest.mark.parametrize("side", ["lemmata", "torch.linalg.svd"])
def bench_orthogonalize(benchmark: Any, side: str) -> None:
    """Five steps of the iteration against the decomposition that they stand in for."""
    x = torch.randn(32, 256, 512, generator=torch.Generator().manual_seed(0))
    call: Callable[[Tensor], Tensor] = orthogonalize if side == "lemmata" else polar
    benchmark.pedantic(lambda: call(x), rounds=5, warmup_rounds=1)


def measure(benchmark: Any, side: str, shapes: list[tuple[int, int]], bar: float | None = None) -> None:
    """Step on the same weights and gradients; note the bytes of state for each weight."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer = SIDES[side](params)
    optimizer.step()
    state = sum(value.nbytes for values in optimizer.state.values() for value in values.values())
    benchmark.extra_info["state_bytes_per_weight"] = round(state / sum(param.numel() for param in params), 3)
    if bar is not None:
        benchmark.extra_info["bar"] = bar
    benchmark.pedantic(optimizer.step, rounds=15, warmup_rounds=2)
