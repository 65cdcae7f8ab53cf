"""Convolutions on edge lists beside all pairs, shared bases beside ones a layer, sums beside messages."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lemmata.equivariant.position_orientation import (
    FiberBundleConv,
    KernelBasis,
    OrientationGrid,
    PositionOrientationNet,
)
from lemmata.equivariant.position_orientation.attributes import fiber_attributes, spatial_attributes

ORIENTATIONS, CHANNELS, BASIS = 20, 32, 32

pytestmark = pytest.mark.usefixtures("unchecked")


def cloud(points: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Return positions in a box and the edges from each point's nearest, itself included."""
    generator = torch.Generator().manual_seed(0)
    pos = torch.rand(points, 3, generator=generator) * (points / neighbours) ** (1 / 3)
    nearest = torch.cdist(pos, pos).topk(neighbours, largest=False).indices
    target = torch.arange(points).repeat_interleave(neighbours)
    return pos, torch.stack([nearest.flatten(), target])


class Convolution(nn.Module):
    """One convolution with its bases, on an edge list or on all pairs, most of which count nothing."""

    def __init__(self, pos: Tensor, edge_index: Tensor, *, dense: bool) -> None:
        super().__init__()
        self.dense = dense
        self.grid = OrientationGrid(ORIENTATIONS)
        self.spatial = KernelBasis(2, BASIS)
        self.fiber = KernelBasis(1, BASIS)
        self.conv = FiberBundleConv(CHANNELS, CHANNELS, BASIS)
        self.pos, self.edge_index = pos, edge_index
        self.adjacency = torch.zeros(len(pos), len(pos))
        self.adjacency[edge_index[1], edge_index[0]] = 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `(points, orientations, channels)`."""
        fiber_basis = self.fiber(fiber_attributes(self.grid.vectors))
        if not self.dense:
            edge_vec = self.pos[self.edge_index[0]] - self.pos[self.edge_index[1]]
            basis = self.spatial(spatial_attributes(edge_vec, self.grid.vectors))
            found: Tensor = self.conv(x, self.edge_index, basis, fiber_basis)
            return found
        pairs = (self.pos - self.pos[:, None]).flatten(0, 1)
        basis = self.spatial(spatial_attributes(pairs, self.grid.vectors))
        kernel = self.conv.kernel(basis).reshape(len(x), len(x), ORIENTATIONS, CHANNELS)
        gathered = torch.einsum("ij,ijoc,joc->ioc", self.adjacency, kernel, x)
        return torch.einsum("opc,npc->noc", self.conv.fiber_kernel(fiber_basis) / ORIENTATIONS, gathered)


def step(module: nn.Module, call: Callable[[], Tensor]) -> None:
    """Run forward and backward."""
    module.zero_grad()
    call().square().sum().backward()


@pytest.mark.benchmark(
    group="forward and backward of a FiberBundleConv with its bases, 100 points, 12 neighbours"
)
@pytest.mark.parametrize("side", ["lemmata", "dense einsum"])
def bench_edge_lists_beside_all_pairs(benchmark: Any, side: str) -> None:
    """The same sums, with or without the pairs that are no neighbours."""
    torch.manual_seed(0)
    pos, edge_index = cloud(100, 12)
    module = Convolution(pos, edge_index, dense=side != "lemmata")
    x = torch.randn(len(pos), ORIENTATIONS, CHANNELS, requires_grad=True)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 0.2
        twin = Convolution(pos, edge_index, dense=True)
        twin.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(x), twin(x), rtol=1e-4, atol=1e-5)
    pairs = len(pos) ** 2 if module.dense else edge_index.shape[1]
    benchmark.extra_info["pairs"] = pairs
    benchmark.pedantic(partial(step, module, partial(module, x)), rounds=7, warmup_rounds=1)


class BasisForEachLayer(PositionOrientationNet):
    """The network with a basis of its own for each layer, at the same sizes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        basis = self.spatial_basis[1].out_features
        self.spatial_bases = nn.ModuleList(KernelBasis(2, basis) for _ in self.blocks)
        self.fiber_bases = nn.ModuleList(KernelBasis(1, basis) for _ in self.blocks)
        for block, spatial, fiber in zip(self.blocks, self.spatial_bases, self.fiber_bases, strict=True):
            block.conv.register_forward_pre_hook(partial(self._own_bases, spatial, fiber))

    def _own_bases(
        self, spatial: nn.Module, fiber: nn.Module, _: nn.Module, inputs: Any
    ) -> tuple[Tensor, ...]:
        """Return a convolution's arguments with bases of its own."""
        x, edge_index, _, _ = inputs
        vectors = self.grid.vectors
        edge_vec = self.pos[edge_index[0]] - self.pos[edge_index[1]]
        return x, edge_index, spatial(spatial_attributes(edge_vec, vectors)), fiber(fiber_attributes(vectors))

    def _edge_basis(self, edge_vec: Tensor) -> Tensor:
        """Return nothing: layers have their own."""
        return edge_vec.new_zeros(len(edge_vec), 0, 0)


@pytest.mark.benchmark(
    group="forward and backward of a PositionOrientationNet of 5 layers, 200 points, 16 neighbours"
)
@pytest.mark.parametrize("side", ["lemmata", "bases for each layer"])
def bench_shared_bases(benchmark: Any, side: str) -> None:
    """What evaluating the kernels' bases once for all layers saves."""
    torch.manual_seed(0)
    pos, edge_index = cloud(200, 16)
    kind = PositionOrientationNet if side == "lemmata" else BasisForEachLayer
    net = kind(1, 0, CHANNELS, 1, 0, 5, ORIENTATIONS, basis_dim=BASIS)
    net.pos = pos
    scalars = torch.randn(len(pos), 1)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 0.75
    call = partial(net, scalars, None, pos, edge_index)
    benchmark.pedantic(partial(step, net, lambda: call()[0]), rounds=5, warmup_rounds=1)


class Messages(FiberBundleConv):
    """The convolution by messages that are written, kept and summed."""

    def gather(self, x: Tensor, edge_index: Tensor, basis: Tensor) -> Tensor:
        """Return the sums over neighbours."""
        found: Tensor = self.propagate(edge_index, x=x, basis=basis, size=(len(x), len(x)))
        return found


@pytest.mark.benchmark(
    group="forward and backward of one FiberBundleConv, 400 points, 24 neighbours, bases given"
)
@pytest.mark.parametrize("side", ["lemmata", "torch_geometric messages"])
def bench_sums_beside_messages(benchmark: Any, side: str) -> None:
    """Kernels evaluated anew in the backward pass beside kernels and messages that are kept."""
    torch.manual_seed(0)
    pos, edge_index = cloud(400, 24)
    edges = edge_index.shape[1]
    conv = (FiberBundleConv if side == "lemmata" else Messages)(CHANNELS, CHANNELS, BASIS)
    x = torch.randn(len(pos), ORIENTATIONS, CHANNELS, requires_grad=True)
    basis = torch.randn(edges, ORIENTATIONS, BASIS, requires_grad=True)
    fiber_basis = torch.randn(ORIENTATIONS, ORIENTATIONS, BASIS)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        conv(x, edge_index, basis, fiber_basis)
    benchmark.extra_info["kept_megabytes"] = round(sum(kept) / 1e6, 1)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
    call = partial(conv, x, edge_index, basis, fiber_basis)
    benchmark.pedantic(partial(step, conv, call), rounds=7, warmup_rounds=1)
