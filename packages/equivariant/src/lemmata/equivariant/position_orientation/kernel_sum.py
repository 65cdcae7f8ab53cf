r"""Sums over edges of features times kernels, without keeping the kernels.

$$y_i = \sum_{j \to i} (W b_{ij}) \odot x_j$$

Written as three operations, kernels and messages take as much memory as the basis $b$ for each layer, and
time to be written and read again. Here edges are worked off in chunks that fit a cache, and the backward
pass evaluates kernels anew. $\langle g, y \rangle$ is linear in each of $g$, $x$, $b$ and $W$, so
derivatives of every order are sums of the same two operations, and as lean.

Axis letters used below: `N` points, `E` edges, `B` basis functions, `C` channels; `*O` are axes that features
and bases share, none or orientations.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

__all__ = ["kernel_sum"]

# Entries of a chunk: half a megabyte in float32 for a CPU's cache, 64 to keep an accelerator busy.
CPU_ENTRIES = 2**17
ACCELERATOR_ENTRIES = 2**24


def kernel_sum(
    x: Float[Tensor, "N *O C"],
    basis: Float[Tensor, "E *O B"],
    weight: Float[Tensor, "C B"],
    edge_index: Int[Tensor, "2 E"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, "N *O C"]:
    """Return the sums over each point's neighbours, in the widest of the dtypes.

    Args:
        x: Features.
        basis: Basis functions of each edge.
        weight: Makes kernels of them.
        edge_index: Senders and receivers.
        chunk: Edges worked off at once; chosen to fit a cache where None.

    Examples:
        >>> x, basis, weight = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]]), torch.ones(1, 1)
        >>> kernel_sum(x, basis, weight, torch.tensor([[0, 1], [1, 1]]))
        tensor([[ 0.],
                [13.]])
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, basis.dtype), weight.dtype)
    if chunk is None:
        entries = CPU_ENTRIES if x.device.type == "cpu" else ACCELERATOR_ENTRIES
        width = max(1, x[0].numel() if len(x) else 1, basis[0].numel() if len(basis) else 1)
        chunk = max(1, entries // width)
    with torch.autocast(x.device.type, enabled=False):
        return _sums(x.to(dtype), basis.to(dtype), weight.to(dtype), edge_index[0], edge_index[1], chunk)


def _sums(*inputs: Any) -> Tensor:
    """Return the sums."""
    found: Tensor = _KernelSum.apply(*inputs)
    return found


class _KernelSum(Function):
    """The sum; its derivative is `_KernelSumBackward`."""

    @staticmethod
    def forward(
        x: Tensor, basis: Tensor, weight: Tensor, source: Tensor, target: Tensor, chunk: int
    ) -> Tensor:
        total = torch.zeros_like(x)
        for start in range(0, len(source), chunk):
            part = slice(start, start + chunk)
            kernel = basis[part] @ weight.mT
            total.index_add_(0, target[part], kernel.mul_(x.index_select(0, source[part])))
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004 # torch's name
        *tensors, ctx.chunk = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        wanted = tuple(ctx.needs_input_grad[:3])
        return (*_slopes(grad, *ctx.saved_tensors, ctx.chunk, wanted), None, None, None)


class _KernelSumBackward(Function):
    """Derivatives of the inner product of the sum with `grad`, those that are wanted."""

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        basis: Tensor,
        weight: Tensor,
        source: Tensor,
        target: Tensor,
        chunk: int,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        grad_x = torch.zeros_like(x) if wanted[0] else None
        grad_basis = torch.empty_like(basis) if wanted[1] else None
        grad_weight = torch.zeros_like(weight) if wanted[2] else None
        for start in range(0, len(source), chunk):
            part = slice(start, start + chunk)
            received = grad.index_select(0, target[part])
            if grad_x is not None:
                grad_x.index_add_(0, source[part], (basis[part] @ weight.mT).mul_(received))
            if grad_basis is None and grad_weight is None:
                continue
            product = received.mul_(x.index_select(0, source[part]))
            if grad_basis is not None:
                torch.matmul(product, weight, out=grad_basis[part])
            if grad_weight is not None:
                rows = product.reshape(-1, product.shape[-1])
                grad_weight.addmm_(rows.mT, basis[part].reshape(len(rows), -1))
        return grad_x, grad_basis, grad_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004 # torch's name
        *tensors, ctx.chunk, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, basis, weight, source, target = ctx.saved_tensors
        factors = [x, basis, weight]
        total: list[Tensor | None] = [None] * 4
        # A direction takes the place of the factor in which the slope was taken.
        for place, direction in enumerate(directions):
            if direction is None:
                continue
            replaced = [*factors[:place], direction, *factors[place + 1 :]]
            if ctx.needs_input_grad[0]:
                total[0] = _plus(total[0], _sums(*replaced, source, target, ctx.chunk))
            wanted = tuple(ctx.needs_input_grad[1 + i] and i != place for i in range(3))
            if any(wanted):
                for i, slope in enumerate(_slopes(grad, *replaced, source, target, ctx.chunk, wanted)):
                    total[1 + i] = _plus(total[1 + i], slope)
        return (*total, None, None, None, None)


def _slopes(*inputs: Any) -> tuple[Tensor | None, ...]:
    """Return the derivatives of `_KernelSumBackward`."""
    found: tuple[Tensor | None, ...] = _KernelSumBackward.apply(*inputs)
    return found


def _plus(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    """Add what there is."""
    if total is None or term is None:
        return term if total is None else total
    return total + term
