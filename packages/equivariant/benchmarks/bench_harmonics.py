"""Spherical harmonics beside e3nn and sphericart, and layers beside e3nn's."""

from collections.abc import Callable
from typing import Any

import e3nn.nn
import e3nn.o3
import pytest
import torch
from torch import Tensor, nn

from lemmata.equivariant.nn import EquivariantLinear, Gate
from lemmata.equivariant.o3 import Irreps, spherical_harmonics

VECTORS = 20_000
SIDES = {"lemmata": spherical_harmonics, "e3nn": e3nn.o3.spherical_harmonics}
FEATURES = "64x0e + 64x1o + 64x2e"
GATE = ("64x0e", [nn.functional.silu], "64x0e", [torch.sigmoid], "32x1o + 32x2e")


def cases(workload: str, *values: Any) -> Any:
    """Return parameters for both sides of each value, in a group of its own."""
    return pytest.mark.parametrize(
        ("value", "side"),
        [
            pytest.param(value, side, marks=pytest.mark.benchmark(group=workload.format(value)))
            for value in values
            for side in SIDES
        ],
    )


def vectors(count: int = VECTORS) -> Tensor:
    """Return the same vectors for both sides."""
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


@cases("spherical harmonics up to degree {} of 20,000 vectors", 2, 4, 6, 8)
def bench_harmonics(benchmark: Any, value: int, side: str) -> None:
    """Values alone."""
    x, degrees = vectors(), list(range(value + 1))
    measure(benchmark, side, 1.5, lambda: SIDES[side](degrees, x, True, normalization="component"))


@cases("spherical harmonics up to degree {} of 20,000 vectors, and their slopes", 2, 4, 6, 8)
def bench_slopes(benchmark: Any, value: int, side: str) -> None:
    """Values and a backward pass."""
    x, degrees = vectors().requires_grad_(), list(range(value + 1))
    weight = torch.randn(VECTORS, (value + 1) ** 2)

    def step() -> Tensor:
        y = SIDES[side](degrees, x, True, normalization="component")
        return torch.autograd.grad((y * weight).sum(), x)[0]

    measure(benchmark, side, 1.5, step)


@cases("spherical harmonics up to degree {} of 2,000 vectors, twice differentiated", 2, 4)
def bench_curvature(benchmark: Any, value: int, side: str) -> None:
    """What training on forces asks for."""
    x, degrees = vectors(2000).requires_grad_(), list(range(value + 1))

    def step() -> Tensor:
        y = SIDES[side](degrees, x, True, normalization="component")
        (force,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(force.square().sum(), x)[0]

    measure(benchmark, side, 1.5, step)


@cases("a linear map of " + FEATURES + ", {} nodes, forward and backward", 1000)
def bench_linear(benchmark: Any, value: int, side: str) -> None:
    """One matrix product an irrep on both sides."""
    make = {"lemmata": EquivariantLinear, "e3nn": e3nn.o3.Linear}
    train(benchmark, side, make[side](FEATURES, FEATURES), Irreps(FEATURES).randn(value, -1))


@cases("a gate of 64 scalars and 64 gated irreps, {} nodes, forward and backward", 1000)
def bench_gate(benchmark: Any, value: int, side: str) -> None:
    """Elementwise work, and how it is cut up."""
    make = {"lemmata": Gate, "e3nn": e3nn.nn.Gate}
    gate = make[side](*GATE)
    train(benchmark, side, gate, Irreps(str(gate.irreps_in)).randn(value, -1))


def train(benchmark: Any, side: str, module: nn.Module, x: Tensor) -> None:
    """Measure a forward and a backward pass of a module."""
    x.requires_grad_()
    measure(benchmark, side, 1.0, lambda: module(x).sum().backward())


def measure(benchmark: Any, side: str, bar: float, call: Callable[[], Any]) -> None:
    """Measure a call, with the ratio aimed for on our side."""
    if side == "lemmata":
        benchmark.extra_info["bar"] = bar
    benchmark.pedantic(call, rounds=31, warmup_rounds=3)
