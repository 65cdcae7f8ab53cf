r"""Eigenvectors of symmetric matrices whose derivatives of every order stay finite.

The derivative of eigenvectors holds $1 / (\lambda_j - \lambda_i)$, which is infinite where eigenvalues meet.
Here it is exact while the gap exceeds a floor $\delta$, and $(\lambda_j - \lambda_i) / \delta^2$ below: it
falls to zero for the rotation between axes that the matrix does not tell apart.
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["symmetric_eigenvectors"]


def symmetric_eigenvectors(
    matrix: Float[Tensor, "*batch d d"], floor: float
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    """Return eigenvalues in rising order and eigenvectors as columns. Equals `torch.linalg.eigh`.

    Derivatives are reverse-mode, of any order.

    Args:
        matrix: Symmetric matrices.
        floor: Gaps below it count as none in derivatives, in the matrix's units.

    Examples:
        >>> c = torch.eye(3, dtype=torch.float64, requires_grad=True)
        >>> values, vectors = symmetric_eigenvectors(c, 1e-6)
        >>> torch.autograd.grad(vectors.sum(), c)[0].isfinite().all().item()
        True
    """
    values, vectors = _Eigenvectors.apply(matrix, floor)
    return values, vectors


@no_type_check  # wrapped in run-time checks, its methods would not compile
class _Eigenvectors(torch.autograd.Function):
    """`eigh` with its derivative regularised; the derivative is differentiable itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, floor: float) -> tuple[Tensor, Tensor]:  # noqa: ARG004 - for the derivative
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.floor = inputs[1]
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_values, grad_vectors = grads
        values, vectors = ctx.saved_tensors
        turn = (vectors.mT @ grad_vectors) * _inverse_gaps(values, ctx.floor)
        grad = vectors * grad_values[..., None, :] @ vectors.mT + vectors @ turn @ vectors.mT
        return (grad + grad.mT) / 2, None


def _inverse_gaps(values: Tensor, floor: float) -> Tensor:
    """Return `1 / (values[j] - values[i])` at `[i, j]`, zero on the diagonal; bent down below the floor."""
    diagonal = torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    # Infinity on the diagonal, and not a zero gap: its own derivative would be 1 / floor**2.
    gaps = (values[..., None, :] - values[..., :, None]).masked_fill(diagonal, torch.inf)
    close = gaps.abs() <= floor
    return torch.where(close, gaps / floor**2, gaps.masked_fill(close, 1.0).reciprocal())
