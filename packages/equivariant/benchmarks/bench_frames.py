"""Frames: what averaging adds to the network's own time, and frames of many clouds beside SVDs one by one."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lemmata.equivariant.frames import FrameAveraging, pca_frames

FRAMES = {"SE": 4, "E": 8}
CLOUDS, POINTS = 1000, 20


class MessagePassing(nn.Module):
    """Three layers between all pairs of bodies, of width 64, as in the claims."""

    def __init__(self, hidden: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(7, hidden)
        self.messages = nn.ModuleList(two_layers(2 * hidden + 3, hidden) for _ in range(layers))
        self.updates = nn.ModuleList(two_layers(2 * hidden, hidden) for _ in range(layers))
        self.readout = nn.Linear(hidden, 3)

    def forward(self, x: Tensor, v: Tensor, q: Tensor) -> Tensor:
        """Return positions, of the shape of `x`."""
        gaps = x[:, :, None] - x[:, None]
        h = self.embed(torch.cat([x, v, q], dim=-1))
        for message, update in zip(self.messages, self.updates, strict=True):
            shape = (*gaps.shape[:3], h.shape[-1])
            pairs = torch.cat([h[:, :, None].expand(shape), h[:, None].expand(shape), gaps], dim=-1)
            h = h + update(torch.cat([h, message(pairs).sum(2)], dim=-1))
        y: Tensor = x + self.readout(h)
        return y


def two_layers(inputs: int, hidden: int) -> nn.Sequential:
    """Return a perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


@pytest.mark.parametrize(
    ("work", "group", "side"),
    [
        pytest.param(
            work,
            group,
            side,
            marks=pytest.mark.benchmark(group=f"{work} of message passing averaged over {count} frames"),
        )
        for work in ("forward", "forward and backward")
        for group, count in FRAMES.items()
        for side in ("lemmata", f"the network alone, batch {count} times as large")
    ],
)
def bench_frame_averaging(benchmark: Any, work: str, group: Any, side: str) -> None:
    """100 samples of 5 bodies: what frames, turning and averaging cost beside the network."""
    torch.manual_seed(0)
    network = MessagePassing()
    args = [torch.randn(100, 5, width) for width in (3, 3, 1)]
    model: nn.Module = network
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.25
        model = FrameAveraging(
            network, group=group, inputs=["positions", "vectors", "scalars"], output="positions"
        )
    else:
        args = [arg.repeat(FRAMES[group], 1, 1) for arg in args]
    benchmark.pedantic(task(model, args, work), rounds=30, warmup_rounds=5)


@pytest.mark.benchmark(group=f"frames of {CLOUDS} clouds of {POINTS} points")
@pytest.mark.parametrize("side", ["lemmata", "numpy SVD, cloud by cloud"])
def bench_pca_frames(benchmark: Any, side: str) -> None:
    """Axes with all signs of determinant 1."""
    x = torch.randn(CLOUDS, POINTS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 0.2
        benchmark.pedantic(pca_frames, (x,), rounds=20, warmup_rounds=3)
    else:
        clouds = x.numpy()
        benchmark.pedantic(lambda: [by_svd(cloud) for cloud in clouds], rounds=20, warmup_rounds=3)


def task(model: nn.Module, args: list[Tensor], work: str) -> Callable[[], None]:
    """Return one call of a model, with or without the gradients of its weights."""

    def forward() -> None:
        with torch.no_grad():
            model(*args)

    def both() -> None:
        model.zero_grad()
        model(*args).square().mean().backward()

    return forward if work == "forward" else both


def by_svd(cloud: np.ndarray) -> np.ndarray:
    """Return the frames of one cloud, as a user writes them."""
    _, _, axes = np.linalg.svd(cloud - cloud.mean(0), full_matrices=False)
    axes = axes.T
    axes[:, 0] *= np.sign(np.linalg.det(axes))
    signs = np.array([s for s in itertools.product((1, -1), repeat=3) if np.prod(s) > 0])
    frames: np.ndarray = axes[None] * signs[:, None]
    return frames
