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
from lemmata.equivariant.tensor_product.degrees import WeightedProduct, component_scale

__all__ = ["MatrixTensorProduct"]


class MatrixTensorProduct(WeightedProduct):
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
        shared_y: Whether the second input has one channel for all of the first one's, as filters on edges
            have: the module's own weights of y are then the same for all channels.
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
        shared_y: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            lmax1,
            lmax2,
            lmax_out,
            copies=((), (), ()),
            channels=channels,
            degree_weights=degree_weights,
            normalization=normalization,
            shared_y=shared_y,
            dtype=dtype,
            device=device,
        )
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

    def forward(
        self,
        x: Float[Tensor, "*#batch channel dim1"],
        y: Float[Tensor, "*#batch #channel dim2"],
        weight: Tensor | None = None,
    ) -> Float[Tensor, "*batch channel dim"]:
        """Return the product, even and odd sums in one block.

        Args:
            x: Dense features, `(..., C, (lmax1 + 1)**2)`.
            y: Dense features, `(..., C or 1, (lmax2 + 1)**2)`.
            weight: Degree weights to use in place of the module's own, `(..., C or 1, weight_numel)`: those
                of x, of y and of the output side by side.

        Returns:
            Dense features, `(..., C, (lmax_out + 1)**2)`.
        """
        weight1, weight2, weight_out = self.component_weights(weight)
        first = self._embed(x, self.embedding1, weight1)
        second = self._embed(y, self.embedding2, weight2)
        return self._read(first @ second, weight_out)

    def by_parity(
        self,
        x: Float[Tensor, "*#batch channel dim1"],
        y: Float[Tensor, "*#batch #channel dim2"],
        weight: Tensor | None = None,
    ) -> tuple[Float[Tensor, "*batch channel dim"], Float[Tensor, "*batch channel dim"]]:
        """Return the natural block, even sums, and the unnatural block, odd sums; their sum is `forward`.

        Args:
            x: Dense features of natural parity, `(..., C, (lmax1 + 1)**2)`.
            y: Dense features of natural parity, `(..., C or 1, (lmax2 + 1)**2)`.
            weight: As `forward`.

        Returns:
            Two tensors of dense features, `(..., C, (lmax_out + 1)**2)`.
        """
        weight1, weight2, weight_out = self.component_weights(weight)
        first = self._embed(x, self.embedding1, weight1)
        second = self._embed(y, self.embedding2, weight2)
        left, right = first @ second, second @ first
        return self._read((left + right) / 2, weight_out), self._read((left - right) / 2, weight_out)

    def _embed(self, x: Tensor, embedding: Tensor, weight: Tensor | None) -> Tensor:
        """Return the matrices of an input, `(..., C, K, K)`."""
        matrix = (x if weight is None else x * weight) @ embedding
        side = 2 * self.k + 1
        return matrix.reshape(*matrix.shape[:-1], side, side)

    def _read(self, matrix: Tensor, weight: Tensor | None) -> Tensor:
        """Return the degrees that matrices hold."""
        out: Tensor = matrix.flatten(-2) @ self.projection
        return out if weight is None else out * weight

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{super().extra_repr()}, k={self.k}"
