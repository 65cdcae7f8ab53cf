r"""The matrix product of features: embed degrees into square matrices, multiply them, read degrees back.

Matrices on the space of degree $k$ hold each degree $0, \dots, 2k$ once. With $W^{kkl}$ the 3j symbol,

$$M(x) = \sum_{l m} x_{lm} \sqrt{2l+1}\, W^{kkl}_{\cdot\cdot m}, \qquad
z_{lm} = \sqrt{2l+1} \sum_{ab} W^{kkl}_{abm} \left( M(x) M(y) \right)_{ab}.$$

A rotation acts as $M \mapsto D M D^T$, so the product is equivariant. Its strengths are, up to sign,
$\sqrt{(2l_1+1)(2l_2+1)(2l_3+1)}$ times the 6j symbol of $l_1 l_2 l_3$ and $k k k$. The anticommutator holds
the even sums $l_1 + l_2 + l_3$, the commutator the odd ones.

Axis letters used below: `C` channels, `N` components `(lmax + 1)**2`, `K` side of the matrices `2k + 1`.

References:
    O. T. Unke, H. Maennel, E3x: E(3)-Equivariant Deep Learning Made Easy, 2024, arXiv:2401.07595 (there as
    `FusedTensor`).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.o3 import wigner_3j
from lemmata.equivariant.tensor_product.degrees import FixedProduct, component_scale

__all__ = ["MatrixTensorProduct"]


class MatrixTensorProduct(FixedProduct):
    r"""Multiplies dense features as matrices: all couplings, natural and unnatural, in one block.

    Commutator and anticommutator have different parities, so the one block that `forward` returns is
    equivariant to rotations and not to reflections. `by_parity` returns both blocks apart, by one
    matrix product more.

    Args:
        lmax1: Largest degree of the first input.
        lmax2: Largest degree of the second input.
        lmax_out: Largest degree of the output.
        k: Degree of the space that the matrices act on, at least half of every `lmax`; by default
            `ceil((lmax1 + lmax2) / 2)`. Smaller matrices are faster and may lose couplings where a 6j symbol
            vanishes.
        channels: Channels with weights of their own; None for any number of channels.
        degree_weights: Whether numbers by degree are learnt, before and after, ones at first.
        normalization: `component` gives outputs variance 1 where the inputs' components are independent with
            variance 1; `none` leaves the formula above.
        dtype: Of weights and constants; torch's default where None.
        device: Of weights and constants.

    Raises:
        ValueError: Where `lmax_out` cannot be reached, a degree is negative, or `k` is too small.

    Examples:
        >>> product = MatrixTensorProduct(2, 2, 2)
        >>> product(torch.randn(5, 8, 9), torch.randn(5, 1, 9)).shape
        torch.Size([5, 8, 9])
    """

    embedding1: Tensor
    embedding2: Tensor
    projection: Tensor

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        *,
        k: int | None = None,
        channels: int | None = None,
        degree_weights: bool = False,
        normalization: Literal["component", "none"] = "component",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(lmax1, lmax2, lmax_out, channels, normalization)
        largest = max(lmax1, lmax2, lmax_out)
        self.k = math.ceil((lmax1 + lmax2) / 2) if k is None else k
        if 2 * self.k < largest:
            raise ValueError(
                f"`k` (={k}) must be at least {math.ceil(largest / 2)}: matrices on degree k hold degrees up"
                f" to 2k, and degree {largest} is asked for"
            )
        matrices = torch.cat(
            [math.sqrt(2 * l + 1) * wigner_3j(self.k, self.k, l) for l in range(largest + 1)], dim=-1
        ).movedim(-1, 0)
        first, second, out = (matrices[: (lmax + 1) ** 2] for lmax in (lmax1, lmax2, lmax_out))
        if normalization == "component":
            scale = component_scale(
                lambda place: (first.mT @ matrices[place]).flatten(1) @ second.flatten(1).mT, lmax_out
            )
            out = out * scale[:, None, None]
        self.register_constant("embedding1", first.flatten(1), dtype=dtype, device=device)
        self.register_constant("embedding2", second.flatten(1), dtype=dtype, device=device)
        self.register_constant("projection", out.flatten(1).mT, dtype=dtype, device=device)
        if degree_weights:
            self.learn_degree_weights(dtype=dtype, device=device)

    def forward(
        self, x: Float[Tensor, "*batch1 channel1 dim1"], y: Float[Tensor, "*batch2 channel2 dim2"]
    ) -> Float[Tensor, "*batch channel dim"]:
        """Return the product, even and odd sums in one block.

        Args:
            x: Dense features, `(..., C, (lmax1 + 1)**2)`.
            y: Dense features, `(..., C or 1, (lmax2 + 1)**2)`.

        Returns:
            Dense features, `(..., C, (lmax_out + 1)**2)`.
        """
        first, second = self._embed(x, y)
        return self._read(first @ second)

    def by_parity(
        self, x: Float[Tensor, "*batch1 channel1 dim1"], y: Float[Tensor, "*batch2 channel2 dim2"]
    ) -> tuple[Float[Tensor, "*batch channel dim"], Float[Tensor, "*batch channel dim"]]:
        """Return the natural block, even sums, and the unnatural block, odd sums; their sum is `forward`.

        Args:
            x: Dense features of natural parity, `(..., C, (lmax1 + 1)**2)`.
            y: Dense features of natural parity, `(..., C or 1, (lmax2 + 1)**2)`.

        Returns:
            Two tensors of dense features, `(..., C, (lmax_out + 1)**2)`.
        """
        first, second = self._embed(x, y)
        left, right = first @ second, second @ first
        return self._read((left + right) / 2), self._read((left - right) / 2)

    def _embed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrices of both inputs, `(..., C, K, K)`."""
        if self.weights1 is not None and self.weights2 is not None:
            x, y = self.weights1(x), self.weights2(y)
        side = 2 * self.k + 1
        return (
            (x @ self.embedding1).reshape(*x.shape[:-1], side, side),
            (y @ self.embedding2).reshape(*y.shape[:-1], side, side),
        )

    def _read(self, matrix: Tensor) -> Tensor:
        """Return the degrees that matrices hold."""
        out: Tensor = matrix.flatten(-2) @ self.projection
        return out if self.weights_out is None else self.weights_out(out)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{super().extra_repr()}, k={self.k}"
