"""Functions of an order and an argument: checked, broadcast, evaluated in blocks, differentiable.

A function is given by a kernel of plain tensor operations. Its value is computed block by block, which keeps
temporaries in cache, and nothing but the inputs is kept for the backward pass, which evaluates the kernel
again. All of it is in float64, whatever the inputs' precision.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

__all__ = ["BLOCK", "Kernel", "by_region", "evaluate"]

BLOCK = 4096
"""Elements evaluated at a time on a CPU; an accelerator takes 32 times as many, to be busy."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""A function of orders and arguments, both of one axis, in float64."""


def evaluate(
    kernel: Kernel,
    slope: Kernel | None,
    v: Shaped[Tensor, "..."] | float,
    x: Shaped[Tensor, "..."] | float,
    *,
    signed_order: bool,
    validate: bool,
) -> Float[Tensor, "..."]:
    """Evaluate a kernel on broadcast inputs.

    Args:
        kernel: The function.
        slope: Its derivative in the argument; None to differentiate the kernel itself.
        v: Orders.
        x: Arguments, not negative.
        signed_order: Whether orders may be negative.
        validate: Check the ranges, which waits for an accelerator; left out under `torch.compile`.

    Returns:
        Values, in the promoted dtype of the inputs.

    Raises:
        TypeError: Where neither input is a tensor of floating point numbers, or one is complex.
        ValueError: Where an argument is negative, or an order is where it may not be.
    """
    orders, arguments = _tensors(v, x)
    if validate and not torch.compiler.is_compiling():
        _check("x", arguments)
        if not signed_order:
            _check("v", orders)
    dtype = torch.promote_types(orders.dtype, arguments.dtype)
    orders, arguments = torch.broadcast_tensors(orders, arguments)  # type: ignore[no-untyped-call]  # torch does not annotate it
    flat = (orders.double().reshape(-1), arguments.double().reshape(-1))
    value = kernel(*flat) if torch.compiler.is_compiling() else _Recomputed.apply(kernel, slope, *flat)
    return value.reshape(orders.shape).to(dtype)


def by_region(
    inside: Tensor,
    v: Float64[Tensor, " n"],
    x: Float64[Tensor, " n"],
    kernel_inside: Kernel,
    kernel_outside: Kernel,
    *,
    safe_inside: tuple[float, float],
    safe_outside: tuple[float, float],
) -> Float64[Tensor, " n"]:
    """Evaluate one kernel where a mask is true and another elsewhere, each on its own elements.

    Under `torch.compile` both are evaluated everywhere, on safe values where they do not count, so that
    neither value nor gradient of the unused one can be NaN.
    """
    if torch.compiler.is_compiling():
        first = kernel_inside(torch.where(inside, v, safe_inside[0]), torch.where(inside, x, safe_inside[1]))
        second = kernel_outside(
            torch.where(inside, safe_outside[0], v), torch.where(inside, safe_outside[1], x)
        )
        return torch.where(inside, first, second)
    if bool(inside.all()):
        return kernel_inside(v, x)
    if not bool(inside.any()):
        return kernel_outside(v, x)
    value = torch.empty_like(x).index_put((inside,), kernel_inside(v[inside], x[inside]))
    return value.index_put((~inside,), kernel_outside(v[~inside], x[~inside]))


class _Recomputed(torch.autograd.Function):
    """Keeps the inputs alone, and evaluates the kernel again for the backward pass, to any order."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, slope: Kernel | None, v: Tensor, x: Tensor) -> Tensor:
        ctx.kernel, ctx.slope = kernel, slope
        ctx.save_for_backward(v, x)
        size = BLOCK if x.device.type == "cpu" else 32 * BLOCK
        blocks = zip(torch.split(v, size), torch.split(x, size), strict=True)
        return torch.cat([kernel(v_block, x_block) for v_block, x_block in blocks])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), (v, x) = gradients, ctx.saved_tensors
        in_v, in_x = ctx.needs_input_grad[2:]
        again = torch.is_grad_enabled()
        grad_v = grad_x = None
        if in_x and ctx.slope is not None:
            grad_x = gradient * ctx.slope(v, x)
        if in_v or (in_x and ctx.slope is None):
            with torch.enable_grad():
                # Aliases that require gradients, so that the kernel's graph starts at the saved inputs.
                v_again = v if v.requires_grad else v.detach().requires_grad_()
                x_again = x if x.requires_grad else x.detach().requires_grad_()
                value = ctx.kernel(v_again, x_again)
            wanted = [*([v_again] if in_v else []), *([x_again] if in_x and ctx.slope is None else [])]
            found = list(torch.autograd.grad(value, wanted, gradient, create_graph=again))
            if in_v:
                grad_v = found.pop(0)
            if found:
                (grad_x,) = found
        return None, None, grad_v, grad_x


def _tensors(v: Tensor | float, x: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return both as real floating point tensors on one device."""
    given = [value for value in (v, x) if isinstance(value, Tensor)]
    for name, value in (("v", v), ("x", x)):
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise TypeError(f"`{name}` must hold real floating point numbers, got {value.dtype}")
    like = given[0] if given else torch.empty(0, dtype=torch.get_default_dtype())
    orders, arguments = (
        value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)
        for value in (v, x)
    )
    return orders, arguments


def _check(name: str, values: Tensor) -> None:
    """Raise where a value is negative."""
    values = values.detach()
    if values.numel() and bool((values < 0).any()):
        raise ValueError(f"`{name}` must not be negative, its smallest value is {values.min().item():g}")
