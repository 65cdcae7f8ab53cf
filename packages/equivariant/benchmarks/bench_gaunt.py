"""Gaunt products forwards and backwards beside e3nn's, path by path, on the same numbers."""

from typing import Any

import e3nn.o3
import pytest
import torch

from lemmata.equivariant.o3 import Irreps, from_dense
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct

BATCH, CHANNELS = 64, 32


@pytest.mark.parametrize(
    ("lmax", "side"),
    [
        pytest.param(
            lmax,
            side,
            marks=pytest.mark.benchmark(
                group=f"Gaunt product up to degree {lmax}, {BATCH} x {CHANNELS}, forward and backward"
            ),
        )
        for lmax in (2, 4, 6)
        for side in ("lemmata", "e3nn")
    ],
)
def bench_gaunt_product(benchmark: Any, lmax: int, side: str) -> None:
    """The same couplings; e3nn has a weight for each, ours fixed proportions."""
    triples = [
        (l1, l2, l3)
        for l1 in range(lmax + 1)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), min(lmax, l1 + l2) + 1, 2)
    ]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, BATCH, CHANNELS, (lmax + 1) ** 2, generator=generator)
    if side == "lemmata":
        product: torch.nn.Module = GauntTensorProduct(lmax, lmax, lmax, channels=CHANNELS)
        benchmark.extra_info["bar"] = 0.2
        benchmark.extra_info["expressivity"] = 3 * lmax + 1
    else:
        irreps = e3nn.o3.Irreps([(CHANNELS, (l, (-1) ** l)) for l in range(lmax + 1)])
        paths = [(*triple, "uuu", True) for triple in triples]
        product = e3nn.o3.TensorProduct(irreps, irreps, irreps, paths, shared_weights=True)
        own = Irreps([(CHANNELS, (l, (-1) ** l)) for l in range(lmax + 1)])
        x, y = from_dense(own, x), from_dense(own, y)
        benchmark.extra_info["expressivity"] = len(triples)
    x.requires_grad_()
    y.requires_grad_()

    def step() -> None:
        product(x, y).sum().backward()

    benchmark.pedantic(step, rounds=15, warmup_rounds=3)
