"""Products with a sketch as functions that PyTorch differentiates, in both modes, and batches.

A sketch is linear, so each derivative is again a product with it, or with its transpose: nothing is kept for
the backward pass, and derivatives of any order follow.
"""

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["Product", "TransposedProduct"]


class Product(torch.autograd.Function):
    """A block of columns of S times a dense matrix; its derivative is the transposed product."""

    @staticmethod
    def forward(block: Tensor, operator: Any, offset: int, dtype: torch.dtype) -> Tensor:
        """Return the product."""
        return cast("Tensor", operator._sum_dense(block, offset, dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives need: not the data."""
        block, ctx.operator, ctx.offset, _ = inputs
        ctx.rows, ctx.dtype, ctx.out_dtype = block.shape[0], block.dtype, output.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivative with respect to the matrix."""
        back = TransposedProduct.apply(gradient, ctx.operator, ctx.offset, ctx.rows, gradient.dtype)
        return back.to(ctx.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Any:
        """Return the derivative along a tangent."""
        return Product.apply(tangent, ctx.operator, ctx.offset, ctx.out_dtype)

    @staticmethod
    def vmap(_: Any, in_dims: tuple[Any, ...], block: Tensor, *rest: Any) -> tuple[Tensor, int]:
        """Return the products of a batch, and the axis it lies on."""
        return _batched(Product, in_dims[0], block, rest), 2


class TransposedProduct(torch.autograd.Function):
    """The transpose of a block of columns of S times a dense matrix; its derivative is the product."""

    @staticmethod
    def forward(y: Tensor, operator: Any, offset: int, rows: int, dtype: torch.dtype) -> Tensor:
        """Return the product."""
        return cast("Tensor", operator._sum_t(y, offset, rows, dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives need: not the data."""
        y, ctx.operator, ctx.offset, ctx.rows, _ = inputs
        ctx.dtype, ctx.out_dtype = y.dtype, output.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivative with respect to the matrix."""
        back = Product.apply(gradient, ctx.operator, ctx.offset, gradient.dtype)
        return back.to(ctx.dtype), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Any:
        """Return the derivative along a tangent."""
        return TransposedProduct.apply(tangent, ctx.operator, ctx.offset, ctx.rows, ctx.out_dtype)

    @staticmethod
    def vmap(_: Any, in_dims: tuple[Any, ...], y: Tensor, *rest: Any) -> tuple[Tensor, int]:
        """Return the products of a batch, and the axis it lies on."""
        return _batched(TransposedProduct, in_dims[0], y, rest), 2


def _batched(function: Any, axis: int, x: Tensor, rest: tuple[Any, ...]) -> Tensor:
    """Return one product for a batch of matrices, which lie side by side in it; the batch comes last."""
    beside = x.movedim(axis, -1)
    out = function.apply(beside.reshape(beside.shape[0], -1), *rest)
    return cast("Tensor", out.reshape(-1, *beside.shape[1:]))
