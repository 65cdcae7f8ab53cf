r"""Rotary position embedding: rotate pairs of a vector by angles proportional to its position.

$$\mathrm{RoPE}(x, t) = (x_1 \cos\omega t - x_2 \sin\omega t, \; x_2 \cos\omega t + x_1 \sin\omega t), \qquad
\omega_i = b^{-2i/d},$$

with $x_1, x_2$ the halves of $x \in \mathbb{R}^d$. The scalar product of two rotated vectors depends on their
positions by the difference only.

References:
    J. Su, Y. Lu, S. Pan, A. Murtadha, B. Wen, Y. Liu, "RoFormer: Enhanced Transformer with Rotary Position
    Embedding", 2021, arXiv:2104.09864.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["RotaryEmbedding"]


class RotaryEmbedding(nn.Module):
    """Rotate vectors by their position.

    Sines and cosines are computed in float64 and kept in the module's precision, float32 at least. They are
    no part of a checkpoint, and are computed anew wherever the module is moved or converted: in a float64
    model they are exact to float64, and `to_empty` leaves nothing undefined.

    Args:
        width: Even width of the vectors.
        context: Number of positions.
        base: Base of the geometric sequence of frequencies.

    Raises:
        ValueError: Where the width is not even and positive.

    Examples:
        >>> rotary = RotaryEmbedding(2, context=4)
        >>> rotary(torch.tensor([[1.0, 0.0]]), start=1)
        tensor([[0.5403, 0.8415]])
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, width: int, context: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"`width` (={width}) must be even and positive: rotations act on pairs")
        self.width = width
        self.context = context
        self.base = base
        dtype = torch.get_default_dtype()
        self.register_buffer("cosine", torch.empty(0, dtype=dtype), persistent=False)
        self.register_buffer("sine", torch.empty(0, dtype=dtype), persistent=False)
        self._fill()

    def forward(
        self, x: Float[Tensor, "*batch length width"], start: int = 0
    ) -> Float[Tensor, "*batch length width"]:
        """Rotate vectors at consecutive positions.

        Args:
            x: Vectors.
            start: Position of the first.

        Returns:
            The rotated vectors, in the dtype of `x`.

        Raises:
            ValueError: Where a position lies beyond the context.
        """
        end = start + x.shape[-2]
        if end > self.context:
            raise ValueError(
                f"{x.shape[-2]} tokens from position {start} on end beyond `context` (={self.context})"
            )
        # The sign of the sine's first half is in the table; rolling by half swaps the halves.
        turned = x.roll(self.width // 2, -1) * self.sine[start:end]
        return torch.addcmul(turned, x, self.cosine[start:end]).to(x.dtype)

    def extra_repr(self) -> str:
        """Describe the module."""
        return f"{self.width}, context={self.context}, base={self.base:g}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._fill()
        return self

    def _fill(self) -> None:
        """Compute the tables on the device and in the precision that the buffers have."""
        precision = torch.promote_types(self.cosine.dtype, torch.float32)
        exponent = torch.arange(0, self.width, 2, dtype=torch.float64, device="cpu") / self.width
        position = torch.arange(self.context, dtype=torch.float64, device="cpu")
        angle = torch.outer(position, self.base**-exponent)
        cosine, sine = angle.cos(), angle.sin()
        self.cosine = torch.cat([cosine, cosine], -1).to(self.cosine.device, precision)
        self.sine = torch.cat([-sine, sine], -1).to(self.sine.device, precision)
