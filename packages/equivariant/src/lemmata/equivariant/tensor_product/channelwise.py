r"""Channelwise products of features and filters along edges, block by block of edges, in the cache.

Message passing multiplies the features of an edge's source $x$ (`C` channels) with a filter $y$ (one channel,
usually spherical harmonics of the edge's vector) along every path $p$, each with a weight of its own for each
edge and channel:

$$m_{p k c} = w_{p c} \sum_{i j} \kappa^p_{i j k}\, x_{i c}\, y_j .$$

The filter is contracted with the couplings first, to one small matrix $T_{(pk) i}$ for each edge, which then
multiplies the features of all channels. What comes out is ten times larger than what went in, so that time
goes to memory rather than arithmetic: blocks of edges are therefore taken through all steps while they are in
the cache, gradients and their gradients likewise, and nothing of the size of the messages is kept for them.
Messages can be summed over the edges of each target on the way, and then are never stored at all.

Axis letters used below: `Z` edges, `N` nodes, `I` components of the features, `J` of the filter, `Q` rows of
the messages, `P` paths, `C` channels.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Run", "Runs", "channelwise_product", "channelwise_reference"]

BLOCK_ELEMENTS = 1 << 18
"""Messages of about this many elements (1 MiB in float32) are in work at once on a CPU."""


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


Runs = tuple[Run, ...]


def channelwise_product(
    x: Float[Tensor, "n i channel"],
    y: Float[Tensor, "edge j"],
    weight: Float[Tensor, "edge_or_1 path channel"],
    coupling: Float[Tensor, "j qi"],
    runs: Runs,
    source: Int[Tensor, " edge"] | None = None,
    target: Int[Tensor, " edge"] | None = None,
    size: int | None = None,
) -> Float[Tensor, "m k channel"]:
    """Return the messages of edges, or their sums over the edges of each target.

    Args:
        x: Features of the edges, or of the nodes where `source` is given.
        y: Filters of the edges.
        weight: Of the edges, or one for all.
        coupling: Couplings, of shape `(J, Q * I)`; row `q` runs over entries, then paths, then components.
        runs: What the rows of the messages are.
        source: The node whose features each edge takes.
        target: The node to which each edge's message is added.
        size: Number of targets.

    Returns:
        A row for each edge, or for each target where `target` is given.
    """
    if torch.compiler.is_compiling():
        return channelwise_reference(x, y, weight, coupling, runs, source, target, size)
    layout = _Layout(runs, x.shape[1], size)
    result: Tensor = _Product.apply(x, y, weight, coupling, source, target, layout)  # type: ignore[no-untyped-call] # torch leaves it without types
    return result


def channelwise_reference(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    coupling: Tensor,
    runs: Runs,
    source: Tensor | None = None,
    target: Tensor | None = None,
    size: int | None = None,
) -> Tensor:
    """Return the same by plain differentiable operations, for `torch.compile` and for higher derivatives."""
    x_ZIC = x if source is None else x.index_select(0, source)
    rows_ZQC = torch.bmm((y @ coupling).reshape(y.shape[0], -1, x.shape[1]), x_ZIC)
    parts, q, p = [], 0, 0
    for run in runs:
        n, paths, dim = run.entries, run.paths, run.dim
        rows = rows_ZQC[:, q : q + n * paths * dim].reshape(-1, n, paths, dim, x.shape[2])
        weights = weight[:, p : p + n * paths].reshape(-1, n, paths, 1, x.shape[2])
        product = (rows * weights).squeeze(2) if paths == 1 else (rows * weights).sum(2)
        parts.append(product.reshape(y.shape[0], n * dim, x.shape[2]))
        q, p = q + n * paths * dim, p + n * paths
    messages = torch.cat(parts, dim=1)
    if target is None:
        return messages
    sums = messages.new_zeros((size or 0, *messages.shape[1:]))
    return sums.index_add(0, target, messages)


@dataclass(frozen=True)
class _Layout:
    """Sizes of a product, and the steps that its blocks of edges go through; nothing here records gradients."""

    runs: Runs
    components: int
    size: int | None

    def rows(self) -> int:
        """Return the number of rows before paths are summed."""
        return sum(run.entries * run.paths * run.dim for run in self.runs)

    def length(self) -> int:
        """Return the number of rows of the output."""
        return sum(run.entries * run.dim for run in self.runs)

    def blocks(self, x: Tensor, edges: int) -> Iterator[slice]:
        """Return the blocks of edges: all at once on a device that is not a CPU."""
        step = edges
        if x.device.type == "cpu":
            step = max(BLOCK_ELEMENTS // max(1, self.rows() * x.shape[2]), 16)
        starts = [*range(0, edges, max(step, 1)), edges]
        return (slice(start, stop) for start, stop in itertools.pairwise(starts))

    def matrices(self, y: Tensor, coupling: Tensor) -> Tensor:
        """Return the matrix of each edge, `T_ZQI`."""
        return (y @ coupling).view(y.shape[0], self.rows(), self.components)

    def views(self, rows: Tensor, out: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return rows `(Z, n, paths, dim, C)`, output `(Z, n, dim, C)` and weights `(Z, n, paths, C)` of runs."""
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

    def dot(self, out: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """Write the transpose of `scale` in the weights."""
        for rows_, out_, weight_ in self.views(rows, out, weight):
            torch.mul(rows_[:, :, :, 0], out_[:, :, None, 0], out=weight_)
            for k in range(1, rows_.shape[3]):
                weight_.addcmul_(rows_[:, :, :, k], out_[:, :, None, k])
        return weight


class _Product(torch.autograd.Function):
    """The product; its gradients are `_Gradient`."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        coupling: Tensor,
        source: Tensor | None,
        target: Tensor | None,
        layout: _Layout,
    ) -> Tensor:
        edges, channels = y.shape[0], x.shape[2]
        rows = edges if target is None else layout.size or 0
        shape = (rows, layout.length(), channels)
        out = x.new_empty(shape) if target is None else x.new_zeros(shape)
        for block in layout.blocks(x, edges):
            x_ZIC, w_ZPC = _take(x, source, block), _of_edges(weight, block)
            rows_ZQC = torch.bmm(layout.matrices(y[block], coupling), x_ZIC)
            if target is None:
                layout.scale(rows_ZQC, w_ZPC, out[block])
            else:
                part = out.new_empty((rows_ZQC.shape[0], *shape[1:]))
                out.index_add_(0, target[block], layout.scale(rows_ZQC, w_ZPC, part))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        *tensors, layout = inputs
        ctx.save_for_backward(*tensors)
        ctx.layout = layout

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, y, weight, coupling, source, target = ctx.saved_tensors
        arguments = (grads[0].contiguous(), x, y, weight, coupling, source, target, ctx.layout)
        return (*_Gradient.apply(*arguments), None, None, None, None)  # type: ignore[no-untyped-call] # torch leaves it without types

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004 - torch's signature
        in_dims: tuple[Any, ...],
        *inputs: Any,
    ) -> tuple[Tensor, int]:
        x, y, weight, coupling, source, target, layout = inputs

        def plain(*tensors: Any) -> Tensor:
            x, y, weight, coupling, source, target = tensors
            return channelwise_reference(x, y, weight, coupling, layout.runs, source, target, layout.size)

        mapped = torch.vmap(plain, in_dims=tuple(in_dims[:6]))
        return mapped(x, y, weight, coupling, source, target), 0


class _Gradient(torch.autograd.Function):
    """The gradients of the product with respect to features, filters and weights, and their gradients."""

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        coupling: Tensor,
        source: Tensor | None,
        target: Tensor | None,
        layout: _Layout,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_x = torch.empty_like(x) if source is None else torch.zeros_like(x)
        grad_y, grad_w = torch.empty_like(y), _like_edges(weight, y)
        for block in layout.blocks(x, y.shape[0]):
            g_ZKC, x_ZIC, w_ZPC = (
                _take(grad, target, block),
                _take(x, source, block),
                _of_edges(weight, block),
            )
            matrices = layout.matrices(y[block], coupling)
            rows = torch.bmm(matrices, x_ZIC)
            layout.dot(g_ZKC, rows, grad_w[block])
            layout.spread(g_ZKC, w_ZPC, rows)
            _put(grad_x, source, block, torch.bmm(matrices.mT, rows))
            grad_y[block] = torch.bmm(rows, x_ZIC.mT).flatten(1) @ coupling.mT
        return grad_x, grad_y, _sum_like(grad_w, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004 - torch's signature
        *tensors, layout = inputs
        ctx.save_for_backward(*tensors)
        ctx.layout = layout

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        grad, x, y, weight, coupling, source, target = ctx.saved_tensors
        parts = (*cotangents, grad, x, y, weight, coupling, source, target, ctx.layout)
        return (*(_differentiable if torch.is_grad_enabled() else _second)(*parts), None, None, None, None)

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004 - torch's signature
        in_dims: tuple[Any, ...],
        *inputs: Any,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        layout = inputs[7]

        def plain(grad: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
            def product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
                coupling, source, target = tensors[3:]
                return channelwise_reference(x, y, weight, coupling, layout.runs, source, target, layout.size)

            gradients: tuple[Tensor, ...] = torch.func.vjp(product, *tensors[:3])[1](grad)
            return gradients

        return torch.vmap(plain, in_dims=tuple(in_dims[:7]))(*inputs[:7]), (0, 0, 0)


def _second(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    coupling: Tensor,
    source: Tensor | None,
    target: Tensor | None,
    layout: _Layout,
) -> tuple[Tensor, ...]:
    """Return gradients of <a, grad_x> + <b, grad_y> + <c, grad_w> with respect to grad, x, y and weight."""
    grad_g = torch.empty_like(grad) if target is None else torch.zeros_like(grad)
    grad_x = torch.empty_like(x) if source is None else torch.zeros_like(x)
    grad_y, grad_w = torch.empty_like(y), _like_edges(weight, y)
    for block in layout.blocks(x, y.shape[0]):
        g, x_, w = _take(grad, target, block), _take(x, source, block), _of_edges(weight, block)
        a_, c_ = _take(a, source, block), _of_edges(c, block)
        matrices, turned = layout.matrices(y[block], coupling), layout.matrices(b[block], coupling)
        rows = torch.bmm(matrices, x_)
        moved = torch.baddbmm(torch.bmm(matrices, a_), turned, x_)
        part = grad_g[block] if target is None else torch.empty_like(g)
        layout.scale(moved, w, part)
        layout.scale(rows, c_, part, add=True)
        if target is not None:
            grad_g.index_add_(0, target[block], part)
        layout.dot(g, moved, grad_w[block])
        spread_w, spread_c = layout.spread(g, w, rows), layout.spread(g, c_, moved)
        _put(grad_x, source, block, torch.baddbmm(torch.bmm(turned.mT, spread_w), matrices.mT, spread_c))
        outer = torch.baddbmm(torch.bmm(spread_w, a_.mT), spread_c, x_.mT)
        grad_y[block] = outer.flatten(1) @ coupling.mT
    return grad_g, grad_x, grad_y, _sum_like(grad_w, weight)


def _differentiable(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    coupling: Tensor,
    source: Tensor | None,
    target: Tensor | None,
    layout: _Layout,
) -> tuple[Tensor | None, ...]:
    """Return what `_second` returns, with a graph for third derivatives."""
    inputs = [
        tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in (x, y, weight)
    ]
    grad = grad if grad.requires_grad else grad.detach().requires_grad_()
    product = channelwise_reference(
        inputs[0], inputs[1], inputs[2], coupling, layout.runs, source, target, layout.size
    )
    first = torch.autograd.grad(product, inputs, grad, create_graph=True)
    return torch.autograd.grad(first, (grad, *inputs), (a, b, c), create_graph=True, allow_unused=True)


def _take(x: Tensor, index: Tensor | None, block: slice) -> Tensor:
    """Return the rows of a block of edges."""
    return x[block] if index is None else x.index_select(0, index[block])


def _put(x: Tensor, index: Tensor | None, block: slice, values: Tensor) -> None:
    """Write the rows of a block of edges, or add them to their nodes."""
    if index is None:
        x[block] = values
    else:
        x.index_add_(0, index[block], values)


def _of_edges(weight: Tensor, block: slice) -> Tensor:
    """Return the weights of a block of edges, or those of all."""
    return weight if weight.shape[0] == 1 else weight[block]


def _like_edges(weight: Tensor, y: Tensor) -> Tensor:
    """Return room for a gradient of each edge's weights."""
    return weight.new_empty((y.shape[0], *weight.shape[1:]))


def _sum_like(grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the weights, summed where one serves all edges."""
    return grad if grad.shape[0] == weight.shape[0] else grad.sum(0, keepdim=True)
