r"""Products channel by channel, a weight for each path and channel, block by block of samples in the cache.

Message passing multiplies the features of an edge's source $x$ (`C` channels) with a filter $y$ (one channel,
usually spherical harmonics of the edge's vector) along every path $p$, each with a weight of its own for
each edge and channel; products of two features do the same with as many channels in $y$:

$$m_{p k c} = w_{p c} \sum_{i j} \kappa^p_{i j k}\, x_{i c}\, y_{j c} .$$

What comes out, and what lies between, is many times larger than what goes in, so that time goes to memory
rather than to arithmetic. Blocks of samples are therefore taken through all steps while they are in the
cache. Gradients and their gradients are taken in the same way, from inputs alone, so that nothing of the size
of the products is kept for them; derivatives beyond the second go through plain operations. Messages can be
summed over the edges of each target on the way, and are then never stored at all.

Axis letters used below: `Z` samples or edges, `N` nodes, `I` and `J` components of the inputs, `M` rows (the
components of all paths), `K` components of the output, `P` paths, `C` channels.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BLOCK_ELEMENTS",
    "Bilinear",
    "Plan",
    "Run",
    "channelwise_product",
    "channelwise_reference",
    "weighted_sums",
]

BLOCK_ELEMENTS = 1 << 18
"""About this many numbers are in work at once on a CPU: 1 MiB of float32."""


@dataclass(frozen=True)
class Run:
    """Consecutive entries of the output of one degree, each the sum of equally many paths.

    Attributes:
        entries: Number of entries.
        paths: Number of paths to each.
        dim: Components of each.
    """

    entries: int
    paths: int
    dim: int


class Bilinear(ABC):
    """The products along all paths, and the transposes of that map in either input.

    `x` has shape `(Z, I, C)`, `y` shape `(Z, J, C)` or `(Z, J, 1)`, rows have shape `(Z, M, C)`.
    """

    @abstractmethod
    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products."""

    @abstractmethod
    def to_first(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return the gradient in the first input."""

    @abstractmethod
    def to_second(self, rows: Tensor, x: Tensor, channels: int) -> Tensor:
        """Return the gradient in the second input, which has as many channels as told."""

    @abstractmethod
    def plain_rows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the products by operations that record gradients and that the compiler traces."""

    @abstractmethod
    def block(self, channels: int) -> int:
        """Return how many samples fit the cache."""


def channelwise_product(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bilinear: Bilinear,
    runs: tuple[Run, ...],
    source: Tensor | None = None,
    target: Tensor | None = None,
    size: int | None = None,
) -> Tensor:
    """Return weighted products, summed over the paths to each entry of the output.

    Args:
        x: First input of the samples, shape `(Z, I, C)`; of the nodes, `(N, I, C)`, where `source` is given.
        y: Second input of the samples, shape `(Z, J, C)` or `(Z, J, 1)`.
        weight: Of each sample, shape `(Z, P, C)`, or one for all, `(1, P, C)`.
        bilinear: The products along paths; rows run over entries, then paths, then components.
        runs: What the rows are.
        source: The node whose features each edge takes, shape `(Z,)`.
        target: The node to which each edge's product is added, shape `(Z,)`.
        size: Number of targets.

    Returns:
        Shape `(Z, K, C)`, or a row for each target where `target` is given.

    What is compiled calls `weighted_sums` instead, for the compiler neither traces the derivatives nor needs
    blocks.
    """
    result: Tensor = _Product.apply(x, y, weight, source, target, Plan(runs, bilinear, size))
    return result


class Plan:
    """A product's map, and the steps around it, which record no gradients.

    Args:
        runs: What the rows are.
        bilinear: The products along paths.
        size: Number of targets.
    """

    def __init__(self, runs: tuple[Run, ...], bilinear: Bilinear, size: int | None) -> None:
        self.runs, self.bilinear, self.size = runs, bilinear, size

    @property
    def rows(self) -> int:
        """Number of components of all paths."""
        return sum(run.entries * run.paths * run.dim for run in self.runs)

    @property
    def length(self) -> int:
        """Number of components of the output."""
        return sum(run.entries * run.dim for run in self.runs)

    def blocks(self, x: Tensor, samples: int) -> Iterator[slice]:
        """Return the blocks of samples: all at once on a device that is not a CPU."""
        step = samples
        if x.device.type == "cpu":
            step = self.bilinear.block(x.shape[2])
        starts = [*range(0, samples, max(step, 1)), samples]
        return (slice(start, stop) for start, stop in itertools.pairwise(starts))

    def views(self, rows: Tensor, out: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return rows `(Z, n, paths, dim, C)`, output `(Z, n, dim, C)` and weights `(Z, n, paths, C)`."""
        q = o = p = 0
        channels = rows.shape[2]
        for run in self.runs:
            n, paths, dim = run.entries, run.paths, run.dim
            yield (
                rows[:, q : q + n * paths * dim].view(rows.shape[0], n, paths, dim, channels),
                out[:, o : o + n * dim].view(out.shape[0], n, dim, channels),
                weight[:, p : p + n * paths].view(weight.shape[0], n, paths, channels),
            )
            q, o, p = q + n * paths * dim, o + n * dim, p + n * paths

    def scale(self, rows: Tensor, weight: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """Write (or add) rows times weights, summed over paths."""
        for rows_, out_, weight_ in self.views(rows, out, weight):
            for p in range(rows_.shape[2]):
                if p or add:
                    out_.addcmul_(rows_[:, :, p], weight_[:, :, p, None])
                else:
                    torch.mul(rows_[:, :, p], weight_[:, :, p, None], out=out_)
        return out

    def spread(self, out: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
        """Write the transpose of `scale` in the rows."""
        for rows_, out_, weight_ in self.views(rows, out, weight):
            torch.mul(out_[:, :, None], weight_[:, :, :, None], out=rows_)
        return rows

    def dot(self, out: Tensor, rows: Tensor) -> Tensor:
        """Return the transpose of `scale` in the weights."""
        paths = sum(run.entries * run.paths for run in self.runs)
        weight = out.new_empty((out.shape[0], paths, out.shape[2]))
        for rows_, out_, weight_ in self.views(rows, out, weight):
            torch.mul(rows_[:, :, :, 0], out_[:, :, None, 0], out=weight_)
            for k in range(1, rows_.shape[3]):
                weight_.addcmul_(rows_[:, :, :, k], out_[:, :, None, k])
        return weight


def channelwise_reference(
    x: Tensor, y: Tensor, weight: Tensor, source: Tensor | None, target: Tensor | None, plan: "Plan"
) -> Tensor:
    """Return the same by plain operations, for `torch.vmap` and for derivatives beyond the second."""
    x_ZIC = x if source is None else x.index_select(0, source)
    products = weighted_sums(plan.bilinear.plain_rows(x_ZIC, y), weight, plan.runs)
    if target is None:
        return products
    return products.new_zeros((plan.size or 0, *products.shape[1:])).index_add(0, target, products)


def weighted_sums(rows_ZMC: Tensor, weight: Tensor, runs: tuple[Run, ...]) -> Tensor:
    """Return rows times weights, summed over the paths to each entry, by plain operations.

    Args:
        rows_ZMC: Products along paths.
        weight: Of each sample, or one for all.
        runs: What the rows are.
    """
    samples, _, channels = rows_ZMC.shape
    parts, q, p = [], 0, 0
    for run in runs:
        n, paths, dim = run.entries, run.paths, run.dim
        rows = rows_ZMC[:, q : q + n * paths * dim].reshape(samples, n, paths, dim, channels)
        weights = weight[:, p : p + n * paths].reshape(weight.shape[0], n, paths, 1, channels)
        product = (rows * weights).squeeze(2) if paths == 1 else (rows * weights).sum(2)
        parts.append(product.reshape(samples, n * dim, channels))
        q, p = q + n * paths * dim, p + n * paths
    return torch.cat(parts, dim=1)


class _Product(torch.autograd.Function):
    """The product; its gradients are `_Gradient`."""

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, weight: Tensor, source: Tensor | None, target: Tensor | None, plan: Plan
    ) -> Tensor:
        rows = y.shape[0] if target is None else plan.size or 0
        shape = (rows, plan.length, x.shape[2])
        out = x.new_empty(shape) if target is None else x.new_zeros(shape)
        for block in plan.blocks(x, y.shape[0]):
            w = _of_samples(weight, block)
            products = plan.bilinear.rows(_take(x, source, block), y[block])
            if target is None:
                plan.scale(products, w, out[block])
            else:
                part = out.new_empty((products.shape[0], *shape[1:]))
                out.index_add_(0, target[block], plan.scale(products, w, part))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        *tensors, plan = inputs
        ctx.save_for_backward(*tensors)
        ctx.plan = plan

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return (*_Gradient.apply(grads[0].contiguous(), *ctx.saved_tensors, ctx.plan), None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:  # noqa: ARG004 - torch's signature
        *tensors, plan = inputs

        def product(*tensors: Any) -> Tensor:
            x, y, weight, source, target = tensors
            return channelwise_reference(x, y, weight, source, target, plan)

        return torch.vmap(product, in_dims=in_dims[:-1])(*tensors), 0


class _Gradient(torch.autograd.Function):
    """The gradients of the product in both inputs and the weights."""

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        source: Tensor | None,
        target: Tensor | None,
        plan: Plan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_x, grad_y, grad_w = torch.zeros_like(x), torch.empty_like(y), torch.zeros_like(weight)
        for block in plan.blocks(x, y.shape[0]):
            g, x_, y_ = _take(grad, target, block), _take(x, source, block), y[block]
            rows = plan.bilinear.rows(x_, y_)
            _put(grad_w, None, block, plan.dot(g, rows))
            plan.spread(g, _of_samples(weight, block), rows)
            _put(grad_x, source, block, plan.bilinear.to_first(rows, y_))
            grad_y[block] = plan.bilinear.to_second(rows, x_, y.shape[2])
        return grad_x, grad_y, grad_w

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004 - torch's signature
        *tensors, plan = inputs
        ctx.save_for_backward(*tensors)
        ctx.plan = plan
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        gradients = _third if torch.is_grad_enabled() else _second
        grad, x, y, weight, source, target = ctx.saved_tensors
        a, b, c = cotangents
        found = gradients(a, b, c, grad, x, y, weight, source, target, ctx.plan)
        return (*found, None, None, None)

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004 - torch's signature
        in_dims: tuple[Any, ...],
        *inputs: Any,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, plan = inputs

        def gradient(
            grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, source: Any, target: Any
        ) -> tuple[Tensor, ...]:
            def product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
                return channelwise_reference(x, y, weight, source, target, plan)

            gradients: tuple[Tensor, ...] = torch.func.vjp(product, x, y, weight)[1](grad)
            return gradients

        return torch.vmap(gradient, in_dims=in_dims[:-1])(*tensors), (0, 0, 0)


def _second(
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    source: Tensor | None,
    target: Tensor | None,
    plan: Plan,
) -> tuple[Tensor, ...]:
    """Return gradients of <a, grad_x> + <b, grad_y> + <c, grad_w> in gradient, inputs and weights.

    None stands for zeros: forces often need some of the three only.
    """
    bilinear, channels = plan.bilinear, y.shape[2]
    grad_g, grad_x, grad_y = torch.zeros_like(grad), torch.zeros_like(x), torch.zeros_like(y)
    grad_w = torch.zeros_like(weight)
    for block in plan.blocks(x, y.shape[0]):
        g, x_, y_ = _take(grad, target, block), _take(x, source, block), y[block]
        w = _of_samples(weight, block)
        part = torch.zeros_like(g)
        if a is not None or b is not None:
            spread = plan.spread(g, w, g.new_empty((g.shape[0], plan.rows, g.shape[2])))
        if a is not None:
            a_ = _take(a, source, block)
            moved = bilinear.rows(a_, y_)
            plan.scale(moved, w, part, add=True)
            _put(grad_w, None, block, plan.dot(g, moved))
            _put(grad_y, None, block, bilinear.to_second(spread, a_, channels))
        if b is not None:
            moved = bilinear.rows(x_, b[block])
            plan.scale(moved, w, part, add=True)
            _put(grad_w, None, block, plan.dot(g, moved))
            _put(grad_x, source, block, bilinear.to_first(spread, b[block]))
        if c is not None:
            c_ = _of_samples(c, block)
            rows = bilinear.rows(x_, y_)
            plan.scale(rows, c_, part, add=True)
            plan.spread(g, c_, rows)
            _put(grad_x, source, block, bilinear.to_first(rows, y_))
            _put(grad_y, None, block, bilinear.to_second(rows, x_, channels))
        _put(grad_g, target, block, part)
    return grad_g, grad_x, grad_y, grad_w


def _third(
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    source: Tensor | None,
    target: Tensor | None,
    plan: Plan,
) -> tuple[Tensor | None, ...]:
    """Return what `_second` returns, with a graph for third derivatives."""
    # Views, so that derivatives are partial: `grad` may itself depend on x, y and the weights.
    leaves = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in (grad, x, y, weight)]
    product = channelwise_reference(leaves[1], leaves[2], leaves[3], source, target, plan)
    first = torch.autograd.grad(product, leaves[1:], leaves[0], create_graph=True)
    used = [(value, along) for value, along in zip(first, (a, b, c), strict=True) if along is not None]
    values, along = zip(*used, strict=True)
    return torch.autograd.grad(values, leaves, along, create_graph=True, allow_unused=True)


def _take(x: Tensor, index: Tensor | None, block: slice) -> Tensor:
    """Return the rows of a block of samples."""
    return x[block] if index is None else x.index_select(0, index[block])


def _put(x: Tensor, index: Tensor | None, block: slice, values: Tensor) -> None:
    """Add to the rows of a block of samples, to those of their nodes, or to the one that serves all."""
    if index is not None:
        x.index_add_(0, index[block], values)
    elif x.shape[0] == 1:
        x += values.sum(0, keepdim=True)
    else:
        x[block] += values


def _of_samples(weight: Tensor, block: slice) -> Tensor:
    """Return the weights of a block of samples, or those of all."""
    return weight if weight.shape[0] == 1 else weight[block]
