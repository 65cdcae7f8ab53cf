"""Root mean square normalisation whose gain follows the input's precision."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["RMSNorm"]


class RMSNorm(nn.RMSNorm):
    r"""Divide vectors by their root mean square: $y = g \odot x / \sqrt{\overline{x^2} + \epsilon}$.

    `torch.nn.RMSNorm`, except that under autocast, where inputs are of lower precision than the gain, it
    still takes the fused implementation. The mean is taken in float32 at least.

    Args:
        width: Width of the vectors.

    Examples:
        >>> import torch
        >>> RMSNorm(2)(torch.tensor([3.0, 4.0]))
        tensor([0.8485, 1.1314], grad_fn=<MulBackward0>)
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise.

        Args:
            x: Vectors.

        Returns:
            The normalised vectors, in the dtype of `x`.
        """
        return functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
