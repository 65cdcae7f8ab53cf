"""Charged bodies in motion, plain and equivariant networks for them, and how they are trained.

The task is to tell where five charged bodies will be from where they are and how they move. `n_body` holds
its data, the networks that methods are measured against, and one way of training for all of them. A model
maps positions and velocities `(*batch, bodies, 3)` and charges `(*batch, bodies, 1)` to positions; any number
of leading axes is allowed, so that frames can be folded in. A run is set by its seed.
"""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lemmata.equivariant.o3.rotation import rand_rotation

BATCH = 100
WARMUP = 0.1


class Bodies(NamedTuple):
    """Configurations of charged bodies, and where the bodies are later, float64.

    Args:
        positions: Shape `(samples, bodies, 3)`.
        velocities: Shape `(samples, bodies, 3)`.
        charges: -1 or 1, shape `(samples, bodies, 1)`.
        targets: Positions later, shape `(samples, bodies, 3)`.
    """

    positions: Tensor
    velocities: Tensor
    charges: Tensor
    targets: Tensor

    def to(self, dtype: torch.dtype) -> "Bodies":
        """Return the same in another dtype."""
        return Bodies(*(tensor.to(dtype) for tensor in self))

    def take(self, index: Tensor) -> "Bodies":
        """Return some of the samples."""
        return Bodies(*(tensor[index] for tensor in self))

    def rotated(self, rotation: Tensor) -> "Bodies":
        """Return each sample turned by a rotation of its own, `(samples, 3, 3)`."""
        turn = rotation.to(self.positions).mT
        return Bodies(self.positions @ turn, self.velocities @ turn, self.charges, self.targets @ turn)


def simulate(
    samples: int, seed: int, *, bodies: int = 5, start: int = 300, horizon: int = 1000, step: float = 1e-3
) -> Bodies:
    """Integrate Coulomb's forces by the semi-implicit Euler method, all samples at once in float64.

    Positions are normal, velocities of length 0.5 in random directions and charges -1 or 1 at first. Inputs
    are taken after `start` steps, targets `horizon` steps later. Forces are clipped to `0.1 / step` by
    component.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, bodies, 3, generator=generator, dtype=torch.float64)
    v = torch.randn(samples, bodies, 3, generator=generator, dtype=torch.float64)
    v = 0.5 * v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    q = 2.0 * torch.randint(2, (samples, bodies, 1), generator=generator).double() - 1
    products = q @ q.mT
    positions, velocities = x, v
    for index in range(start + horizon):
        if index == start:
            positions, velocities = x, v
        v = v + step * coulomb(x, products).clamp(-0.1 / step, 0.1 / step)
        x = x + step * v
    return Bodies(positions, velocities, q, x)


def coulomb(x: Tensor, products: Tensor) -> Tensor:
    """Return the force on each body, charges' products given, shape `(samples, bodies, bodies)`."""
    gap = x[:, :, None] - x[:, None]
    cubed = gap.square().sum(-1).pow(1.5)
    cubed.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    return ((products / cubed)[..., None] * gap).sum(2)


class MessagePassing(nn.Module):
    """A network that knows nothing of rotations: it reads coordinates as they come.

    Nodes hold position from the centroid, velocity and charge; messages also see the difference of positions,
    the distance and the product of the charges. It returns positions plus a displacement.
    """

    def __init__(self, hidden: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(7, hidden)
        self.messages = nn.ModuleList(two_layers(2 * hidden + 5, hidden) for _ in range(layers))
        self.updates = nn.ModuleList(two_layers(2 * hidden, hidden) for _ in range(layers))
        self.readout = two_layers(hidden, hidden, 3)

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Return positions later, `(*batch, bodies, 3)`."""
        centred = positions - positions.mean(-2, keepdim=True)
        gap, distance = differences(positions)
        edges = torch.cat([gap, distance, (charges @ charges.mT)[..., None]], dim=-1)
        h = self.embed(torch.cat([centred, velocities, charges], dim=-1))
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = others(message(torch.cat([*pairs(h), edges], dim=-1)))
            h = h + update(torch.cat([h, sent], dim=-1))
        displacement: Tensor = self.readout(h)
        return positions + displacement


class EGNN(nn.Module):
    """The E(n)-equivariant graph network with velocities.

    References:
        V. G. Satorras, E. Hoogeboom, M. Welling, E(n) Equivariant Graph Neural Networks, ICML 2021,
        arXiv:2102.09844.
    """

    def __init__(self, hidden: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(2, hidden)
        self.messages = nn.ModuleList(
            nn.Sequential(two_layers(2 * hidden + 2, hidden), nn.SiLU()) for _ in range(layers)
        )
        self.updates = nn.ModuleList(two_layers(2 * hidden, hidden) for _ in range(layers))
        self.along = nn.ModuleList(two_layers(hidden, hidden, 1) for _ in range(layers))
        self.inertia = nn.ModuleList(two_layers(hidden, hidden, 1) for _ in range(layers))

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Return positions later, `(*batch, bodies, 3)`."""
        x = positions
        speed = torch.linalg.vector_norm(velocities, dim=-1, keepdim=True)
        products = (charges @ charges.mT)[..., None]
        h = self.embed(torch.cat([speed, charges], dim=-1))
        for message, update, along, inertia in zip(
            self.messages, self.updates, self.along, self.inertia, strict=True
        ):
            gap, distance = differences(x)
            m = message(torch.cat([*pairs(h), distance.square(), products], dim=-1))
            x = x + inertia(h) * velocities + others(gap * along(m)) / (x.shape[-2] - 1)
            h = h + update(torch.cat([h, others(m)], dim=-1))
        return x


def two_layers(inputs: int, hidden: int, outputs: int | None = None) -> nn.Sequential:
    """Return a perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs or hidden))


def pairs(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of receivers and senders, `(*batch, bodies, bodies, channels)` each."""
    n = h.shape[-2]
    shape = (*h.shape[:-2], n, n, h.shape[-1])
    return h[..., :, None, :].expand(shape), h[..., None, :, :].expand(shape)


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return receivers' positions minus senders', and the distances."""
    gap = x[..., :, None, :] - x[..., None, :, :]
    return gap, (gap.square().sum(-1, keepdim=True) + 1e-12).sqrt()


def others(messages: Tensor) -> Tensor:
    """Sum `(*batch, bodies, bodies, channels)` over the senders that are not the receiver."""
    n = messages.shape[-2]
    apart = 1 - torch.eye(n, dtype=messages.dtype, device=messages.device)
    return (messages * apart[..., None]).sum(-2)


@dataclass(frozen=True)
class Run:
    """A trained model and what it reached.

    Args:
        model: In evaluation mode.
        train_mse: On all of the training set, in evaluation mode.
        test_mse: On all of the test set.
        seconds: Of training.
        curve: Epochs and the test error then, where `every` was given.
    """

    model: nn.Module
    train_mse: float
    test_mse: float
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()


@dataclass
class NBody:
    """The task: its data, networks to compare with, and training.

    `n_body.fit(lambda: FrameAveraging(n_body.message_passing(), ...), epochs=60, seed=0)` trains a model;
    `n_body.baseline("message passing", epochs=60, seed=0, augment=True)` trains one of ours once a session.
    """

    samples: int = 1000
    runs: dict[Hashable, Run] = field(default_factory=dict)

    @cached_property
    def train_set(self) -> Bodies:
        """The samples to learn from."""
        return simulate(self.samples, seed=1)

    @cached_property
    def test_set(self) -> Bodies:
        """1000 other samples."""
        return simulate(1000, seed=2)

    @staticmethod
    def message_passing(hidden: int = 64, layers: int = 3) -> nn.Module:
        """Return the backbone that is not equivariant."""
        return MessagePassing(hidden, layers)

    @staticmethod
    def egnn(hidden: int = 64, layers: int = 4) -> nn.Module:
        """Return the E(n)-equivariant graph network."""
        return EGNN(hidden, layers)

    def baseline(self, name: str, *, epochs: int, seed: int, lr: float = 1e-2, augment: bool = False) -> Run:
        """Train the network called `"message passing"` or `"egnn"`, or return its run of this session."""
        key = (name, epochs, seed, lr, augment)
        if key not in self.runs:
            make = {"message passing": self.message_passing, "egnn": self.egnn}[name]
            self.runs[key] = self.fit(make, epochs=epochs, seed=seed, lr=lr, augment=augment)
        return self.runs[key]

    def fit(
        self,
        make_model: Callable[[], nn.Module],
        *,
        epochs: int,
        seed: int,
        lr: float = 1e-2,
        augment: bool = False,
        every: int | None = None,
        prepare: Callable[[nn.Module, Bodies], object] | None = None,
    ) -> Run:
        """Train by Adam on batches of 100 with a warm-up over a tenth of the steps, then a cosine to zero.

        Args:
            make_model: Builds the model; initial weights follow from the seed.
            epochs: Passes over the training set.
            seed: Of weights, order and rotations.
            lr: Largest learning rate.
            augment: Turn each sample of a batch at random.
            every: Test each so many epochs.
            prepare: Called with the model and the first batch before training.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make_model()
            return self._fit(model, epochs, lr, augment=augment, every=every, prepare=prepare)

    def _fit(
        self,
        model: nn.Module,
        epochs: int,
        lr: float,
        *,
        augment: bool,
        every: int | None,
        prepare: Callable[[nn.Module, Bodies], object] | None,
    ) -> Run:
        dtype = next(model.parameters()).dtype
        data = self.train_set.to(dtype)
        samples = len(data.positions)
        steps = epochs * math.ceil(samples / BATCH)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-10)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step, steps))
        if prepare is not None:
            prepare(model, data.take(torch.arange(min(BATCH, samples))))
        curve, begun = [], time.perf_counter()
        for epoch in range(1, epochs + 1):
            model.train()
            for index in torch.randperm(samples).split(BATCH):
                batch = data.take(index)
                batch = batch.rotated(rand_rotation(len(index), dtype=dtype)) if augment else batch
                loss = (model(*batch[:3]) - batch.targets).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
            if every and epoch % every == 0:
                curve.append((epoch, self.mse(model, self.test_set)))
        seconds = time.perf_counter() - begun
        return Run(
            model, self.mse(model, self.train_set), self.mse(model, self.test_set), seconds, tuple(curve)
        )

    @staticmethod
    def mse(model: nn.Module, data: Bodies) -> float:
        """Return the squared error of a component of a position, mean over samples, evaluated."""
        model.eval()
        data = data.to(next(model.parameters()).dtype)
        errors = []
        with torch.no_grad():
            for index in torch.arange(len(data.positions)).split(BATCH):
                batch = data.take(index)
                errors.append((model(*batch[:3]) - batch.targets).double().square().mean((1, 2)))
        return float(torch.cat(errors).mean())


def pace(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear up over a tenth of the steps, then a cosine down."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@pytest.fixture(scope="session")
def n_body() -> NBody:
    """Return the task with 1000 samples to learn from; data and baselines are made once a session."""
    return NBody()
