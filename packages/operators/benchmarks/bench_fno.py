"""The Fourier neural operator and its layer against those of neuraloperator 2.0.0.

Modes count differently. neuraloperator's ``n_modes=(16, 16)`` keeps the 16 frequencies -8 .. 7 along the
first axis and the 9 frequencies 0 .. 8 along the last; our ``modes=(16, 16)`` keeps the 17 frequencies
-8 .. 8 and the same 9, so that our side holds more weights and does more arithmetic. Lifting and head have 64
hidden channels on both sides, the skip is linear, the channel MLP off, the grid's coordinates are appended.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemmata.operators.neural import FNO, SpectralConv

PEER = "neuraloperator 2.0.0"
SIDES = ["lemmata", PEER]
WIDTH, MODES, DEPTH, BATCH = 32, (16, 16), 4, 8

pytestmark = pytest.mark.usefixtures("unchecked")

MODEL = "width 32, 4 layers, batch 8, modes 17 x 9 (lemmata) and 16 x 9 (neuraloperator), no channel MLP"


@pytest.mark.benchmark(group=f"FNO forward and backward at 64^2: {MODEL}")
@pytest.mark.parametrize("side", SIDES)
def bench_fno_step_64(benchmark: Any, side: str) -> None:
    """A training step without the optimiser's part."""
    measure_step(benchmark, model(side), torch.randn(BATCH, 1, 64, 64), bar=0.9)


@pytest.mark.benchmark(group=f"FNO forward and backward at 128^2: {MODEL}")
@pytest.mark.parametrize("side", SIDES)
def bench_fno_step_128(benchmark: Any, side: str) -> None:
    """The same on four times the points."""
    measure_step(benchmark, model(side), torch.randn(BATCH, 1, 128, 128), bar=0.85)


@pytest.mark.benchmark(group=f"FNO forward at 64^2: {MODEL}")
@pytest.mark.parametrize("side", SIDES)
def bench_fno_forward_64(benchmark: Any, side: str) -> None:
    """Prediction."""
    measure_forward(benchmark, model(side), torch.randn(BATCH, 1, 64, 64), bar=0.9)


@pytest.mark.benchmark(group=f"FNO forward at 128^2: {MODEL}")
@pytest.mark.parametrize("side", SIDES)
def bench_fno_forward_128(benchmark: Any, side: str) -> None:
    """Prediction on four times the points."""
    measure_forward(benchmark, model(side), torch.randn(BATCH, 1, 128, 128), bar=0.85)


@pytest.mark.benchmark(
    group="spectral convolution forward and backward at 64^2: 32 channels, batch 8, modes 17 x 9 (lemmata)"
    " and 16 x 9 (neuraloperator)"
)
@pytest.mark.parametrize("side", SIDES)
def bench_spectral_conv_step_64(benchmark: Any, side: str) -> None:
    """The layer alone, with the gradient of its input."""
    x = torch.randn(BATCH, WIDTH, 64, 64, requires_grad=True)
    measure_step(benchmark, layer(side), x, bar=0.9)


def model(side: str) -> nn.Module:
    """Build one side's model."""
    torch.manual_seed(0)
    if side == "lemmata":
        hidden = 2 * WIDTH
        return FNO(1, 1, WIDTH, MODES, DEPTH, lift_width=hidden, head_width=hidden, coordinates="nodes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports', which are not what is measured
        from neuralop.models import FNO as PeerFNO
    peer: nn.Module = PeerFNO(
        n_modes=MODES,
        in_channels=1,
        out_channels=1,
        hidden_channels=WIDTH,
        n_layers=DEPTH,
        lifting_channel_ratio=2,
        projection_channel_ratio=2,
        use_channel_mlp=False,
        fno_skip="linear",
    )
    return peer


def layer(side: str) -> nn.Module:
    """Build one side's spectral convolution, with a bias."""
    torch.manual_seed(0)
    if side == "lemmata":
        return SpectralConv(WIDTH, WIDTH, MODES, bias=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports', which are not what is measured
        from neuralop.layers.spectral_convolution import SpectralConv as PeerConv
    peer: nn.Module = PeerConv(WIDTH, WIDTH, MODES)
    return peer


def measure_step(benchmark: Any, module: nn.Module, x: Tensor, *, bar: float) -> None:
    """Measure forward and backward from cleared gradients."""

    def step() -> None:
        module.zero_grad()
        module(x).square().mean().backward()

    measure(benchmark, module, step, bar)


def measure_forward(benchmark: Any, module: nn.Module, x: Tensor, *, bar: float) -> None:
    """Measure prediction without a graph."""

    def forward() -> None:
        with torch.no_grad():
            module(x)

    measure(benchmark, module, forward, bar)


def measure(benchmark: Any, module: nn.Module, call: Callable[[], None], bar: float) -> None:
    """Measure a call after three that warm up, and note the number of real parameters."""
    parameters = sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())
    benchmark.extra_info.update(bar=bar, parameters=parameters)
    benchmark.pedantic(call, rounds=25, warmup_rounds=3)
