"""Tensor products along paths beside e3nn's, which takes one path after the other; same maps, same numbers.

Ratios below 1 mean that ours is faster. Weights are those of the workload: held by the module where it is a
layer between features, one set for each edge where it is a product in message passing.
"""

from collections.abc import Callable
from typing import Any

import e3nn.o3
import pytest
import torch
from torch import Tensor, nn

from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.tensor_product import TensorProduct

pytestmark = pytest.mark.usefixtures("unchecked")

EDGES = 1000


def forward(product: Callable[..., Tensor], arguments: list[Tensor]) -> None:
    """Take the product."""
    with torch.no_grad():
        product(*arguments)


def backward(product: Callable[..., Tensor], arguments: list[Tensor]) -> None:
    """Take the product and its gradients."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    product(*leaves).sum().backward()


def two_backward(product: Callable[..., Tensor], arguments: list[Tensor]) -> None:
    """Take the product, its gradient in the filters with a graph, and that gradient's gradients: forces."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    (force,) = torch.autograd.grad(product(*leaves).square().sum(), leaves[1], create_graph=True)
    force.square().sum().backward()


STEPS = {"forward": forward, "forward + backward": backward, "forward + two backward": two_backward}


def natural(channels: int, lmax: int) -> str:
    """Return irreps of functions on the sphere."""
    return "+".join(f"{channels}x{l}y" for l in range(lmax + 1))


def cases(name: str, values: list[tuple[Any, ...]]) -> Any:
    """Return both sides of each workload, in a group of its own."""
    return pytest.mark.parametrize(
        ("side", "values"),
        [
            pytest.param(
                side,
                value,
                marks=pytest.mark.benchmark(group=name.format(*value)),
                id=f"{'-'.join(map(str, value))}-{side}",
            )
            for value in values
            for side in ("lemmata", "e3nn")
        ],
    )


@cases(
    "fully connected product of {0} channels to degree {1}, batch {2}, {3}",
    [
        (channels, lmax, batch, what)
        for channels, lmax, batch in ((8, 2, 256), (32, 2, 64), (32, 3, 64))
        for what in ("forward", "forward + backward")
    ],
)
def bench_fully_connected(benchmark: Any, side: str, values: tuple[int, int, int, str]) -> None:
    """Every pair of copies, mixed by weights on every path."""
    channels, lmax, batch, what = values
    irreps = natural(channels, lmax)
    ours = TensorProduct(irreps, irreps, irreps, kind="fully_connected", batch=batch)
    theirs = e3nn.o3.FullyConnectedTensorProduct(*[str(Irreps(irreps))] * 3)
    theirs.load_state_dict(ours.state_dict() | theirs.state_dict() | {"weight": ours.weight})
    arguments = [torch.randn(batch, ours.irreps1.dim) for _ in range(2)]
    measure(benchmark, side, ours, theirs, arguments, what)


@cases(
    "product of 32 channels with harmonics on 1000 edges, degrees to {0}, weights of each edge, {1}",
    [(lmax, what) for lmax in (1, 2, 3) for what in STEPS],
)
def bench_edges(benchmark: Any, side: str, values: tuple[int, str]) -> None:
    """The product of message passing, in the layout that it works in fastest on each side."""
    lmax, what = values
    ours, theirs = edge_products(32, lmax)
    x = torch.randn(EDGES, ours.irreps1.dim)
    arguments = [x, torch.randn(EDGES, ours.irreps2.dim), torch.randn(EDGES, ours.weight_numel)]
    measure(benchmark, side, ours, theirs, arguments, what)


@cases(
    "messages of 64 channels summed over 1000 edges of 70 nodes, degrees to {0}, {1}",
    [(lmax, what) for lmax in (1, 2, 3) for what in STEPS],
)
def bench_messages(benchmark: Any, side: str, values: tuple[int, str]) -> None:
    """The product and the sum over edges in one pass, beside e3nn's product and `index_add`."""
    lmax, what = values
    ours, theirs = edge_products(64, lmax)
    edge_index = torch.randint(0, 70, (2, EDGES), generator=torch.Generator().manual_seed(0))
    edge_index = edge_index[:, edge_index[1].argsort()]

    def one_pass(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return ours.messages(x, y, weight, edge_index)

    def two_passes(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        products = theirs(x[edge_index[0]], y, weight)
        return products.new_zeros(len(x), products.shape[1]).index_add(0, edge_index[1], products)

    arguments = [torch.randn(70, ours.irreps1.dim), torch.randn(EDGES, ours.irreps2.dim)]
    arguments.append(torch.randn(EDGES, ours.weight_numel))
    measure(benchmark, side, one_pass, two_passes, arguments, what)


@cases(
    "product of 32 channels to degree {0}, a weight for each path and channel, batch 64, {1}",
    [(lmax, what) for lmax in range(1, 7) for what in ("forward", "forward + backward")],
)
def bench_channelwise(benchmark: Any, side: str, values: tuple[int, str]) -> None:
    """Features with features, copy by copy."""
    lmax, what = values
    irreps = natural(32, lmax)
    ours = TensorProduct(irreps, irreps, irreps, kind="channelwise", batch=64)
    theirs = along_the_same_paths(ours, shared=True)
    arguments = [torch.randn(64, ours.irreps1.dim) for _ in range(2)]
    measure(benchmark, side, ours, theirs, [*arguments, ours.weight.detach()], what)


def edge_products(channels: int, lmax: int) -> tuple[TensorProduct, nn.Module]:
    """Return both sides' product of features with spherical harmonics."""
    ours = TensorProduct(
        natural(channels, lmax),
        natural(1, lmax),
        kind="channelwise",
        keep=[entry.ir for entry in Irreps(natural(1, lmax))],
        shared_weights=False,
        batch=EDGES,
    )
    return ours, along_the_same_paths(ours, shared=False)


def along_the_same_paths(ours: TensorProduct, *, shared: bool) -> nn.Module:
    """Return e3nn's product along our paths."""
    product: nn.Module = e3nn.o3.TensorProduct(
        str(ours.irreps1),
        str(ours.irreps2),
        str(ours.irreps_out),
        [(path.i1, path.i2, path.i_out, path.mode, True) for path in ours.product.table.paths],
        shared_weights=shared,
        internal_weights=False,
    )
    return product


def measure(
    benchmark: Any,
    side: str,
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    arguments: list[Tensor],
    what: str,
    bar: float = 1.0,
) -> None:
    """Time one side after checking that both give the same numbers."""
    with torch.no_grad():
        torch.testing.assert_close(ours(*arguments), theirs(*arguments), rtol=1e-3, atol=1e-3)
    if side == "lemmata":
        benchmark.extra_info["bar"] = bar
        benchmark.extra_info["method"] = getattr(ours, "method", "")
    product = ours if side == "lemmata" else theirs
    benchmark.pedantic(STEPS[what], args=(product, arguments), rounds=15, warmup_rounds=3)
