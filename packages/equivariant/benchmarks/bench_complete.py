"""Products that reach every coupling, natural and unnatural, beside e3nn's, one path after another."""

from typing import Any

import pytest
import torch

from lemmata.equivariant.expressivity import expressivity, interactability
from lemmata.equivariant.tensor_product.comparison import PRODUCTS

BATCH, CHANNELS = 64, 32
SIDES = {"lemmata": "complete", "e3nn": "e3nn"}


def cases(what: str) -> Any:
    """Return both sides at every degree, in a group of each degree."""
    return pytest.mark.parametrize(
        ("lmax", "side"),
        [
            pytest.param(
                lmax,
                side,
                marks=pytest.mark.benchmark(
                    group=f"all couplings of degrees up to {lmax}, {BATCH} x {CHANNELS} channels, {what}"
                ),
            )
            for lmax in (2, 3, 4, 5, 6)
            for side in SIDES
        ],
    )


@cases("forwards")
def bench_forward(benchmark: Any, lmax: int, side: str) -> None:
    """Without gradients."""
    product, x, y = prepare(benchmark, lmax, side)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1 / 3
    with torch.no_grad():
        benchmark.pedantic(lambda: product(x, y), rounds=30, warmup_rounds=5)


@cases("forwards and backwards")
def bench_backward(benchmark: Any, lmax: int, side: str) -> None:
    """With the derivatives by both inputs and the weights; reported without a bar."""
    product, x, y = prepare(benchmark, lmax, side)
    x.requires_grad_()
    y.requires_grad_()

    def step() -> None:
        out = product(x, y)
        total = sum(block.sum() for block in out) if isinstance(out, tuple) else out.sum()
        torch.autograd.backward(total)

    benchmark.pedantic(step, rounds=20, warmup_rounds=3)


def prepare(benchmark: Any, lmax: int, side: str) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a side's product with inputs in its layout, and note what it can express."""
    name = SIDES[side]
    single = PRODUCTS[name](lmax, 1)
    benchmark.extra_info["expressivity"] = expressivity(single)
    benchmark.extra_info["couplings"] = int(interactability(single).sum())
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, BATCH, CHANNELS, (lmax + 1) ** 2, generator=generator)
    if side == "e3nn":
        x, y = x.flatten(-2), y.flatten(-2)  # as many random numbers; the order does not matter
    return PRODUCTS[name](lmax, CHANNELS), x, y
