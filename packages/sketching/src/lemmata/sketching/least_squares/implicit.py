r"""Derivatives of a least-squares solution by its normal equations, not through the solver.

With $w = (A^\top A + \rho I)^{-1} \bar x$ for the gradient $\bar x$ of a solution, the gradients are
$\bar b = A w$ and $\bar A = r w^\top - A w\, x^\top$, and where the rank is deficient one term more for the
minimum norm. All are made of solutions of the same kind, so they can be differentiated again.

Axis letters: n rows, d columns, c targets.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.least_squares.preconditioner import Preconditioner

__all__ = ["NormalEquations", "attach"]


class NormalEquations:
    r"""What the backward pass needs: the inverse of $A^\top A + \rho I$, and products with $A$.

    Args:
        preconditioner: $R^{-1}$.
        cholesky: A function that returns the lower factor of the preconditioned normal equations.
        product: A function that multiplies A (n, d) by (d, c), where A itself is not a dense tensor.
    """

    def __init__(
        self,
        preconditioner: Preconditioner,
        cholesky: Callable[[], Tensor],
        product: Callable[[Tensor], Tensor],
    ) -> None:
        self.preconditioner = preconditioner
        self._cholesky = cholesky
        self._lower: Tensor | None = None
        self.product = product

    def solve(self, g: Tensor) -> Tensor:
        """Return the inverse, or pseudo-inverse, times `g` (d, c) in the dtype of `g`."""
        if self._lower is None:
            self._lower = self._cholesky()
        z: Tensor = torch.cholesky_solve(self.preconditioner.solve_t(g.to(self._lower.dtype)), self._lower)
        return self.preconditioner.solve(z).to(g.dtype)


def attach(a: Tensor | None, b: Tensor, x: Tensor, normal: NormalEquations) -> Tensor:
    """Return the solution `x` (d, c) with gradients to a dense `a` (n, d) and to `b` (n, c)."""
    attached: Tensor = _Solution.apply(a, b, x, normal)
    return attached


class _Solution(torch.autograd.Function):
    """The minimiser as a function of A and b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor | None, b: Tensor, x: Tensor, normal: NormalEquations) -> Tensor:
        out = x.clone()
        ctx.normal = normal
        ctx.save_for_backward(a, b, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, x = ctx.saved_tensors
        normal: NormalEquations = ctx.normal
        null = normal.preconditioner.null
        if null.shape[1] and torch.is_grad_enabled():
            raise RuntimeError(
                f"second derivatives need full rank: `A` has rank {normal.preconditioner.rank} "
                f"and {len(null)} columns"
            )
        w = _Solve.apply(a, grad, normal)
        if a is None:
            return None, normal.product(w).to(b.dtype), None, None
        aw = a @ w
        grad_a = (b - a @ x) @ w.T - aw @ x.T
        if null.shape[1]:
            unseen = (null @ (null.T @ grad.to(null.dtype))).to(a.dtype)
            grad_a = grad_a + a @ normal.solve(x) @ unseen.T
        return grad_a, aw, None, None


class _Solve(torch.autograd.Function):
    """The solution of the normal equations as a function of A and the right-hand side."""

    @staticmethod
    def forward(ctx: Any, a: Tensor | None, g: Tensor, normal: NormalEquations) -> Tensor:
        w = normal.solve(g)
        ctx.normal = normal
        ctx.save_for_backward(a, w)
        return w

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, w = ctx.saved_tensors
        v = _Solve.apply(a, grad, ctx.normal)
        if a is None:
            return None, v, None
        return -(a @ v) @ w.T - (a @ w) @ v.T, v, None
