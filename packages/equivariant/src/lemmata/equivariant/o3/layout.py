"""Two layouts of the same features: flat, as e3nn stores them, and dense, as products want them.

Flat: `(..., sum of mul * (2l + 1))`, each block `mul x ir` stored row-major as `(mul, 2l + 1)`.
Dense: `(..., C, (L + 1)**2)` for irreps that hold `C` copies of each degree from 0 to `L`, in order.

Axis letters used below: `C` channels.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor

from lemmata.equivariant.o3.irreps import Irreps

__all__ = ["from_dense", "to_dense"]


def to_dense(irreps: Irreps | str, x: Tensor) -> Shaped[Tensor, "*batch channel dim"]:
    """Return flat features in the dense layout.

    Args:
        irreps: `C` copies of each degree 0, 1, ... L, one entry a degree, in order; any parities.
        x: Features, shape `(..., irreps.dim)`.

    Returns:
        Features of shape `(..., C, (L + 1)**2)`.

    Raises:
        ValueError: Where the irreps have no dense layout, or the last dimension of `x` is not theirs.

    Examples:
        >>> to_dense("2x0e + 2x1o", torch.arange(8))
        tensor([[0, 2, 3, 4],
                [1, 5, 6, 7]])
    """
    irreps = Irreps(irreps)
    channels = _channels(irreps)
    irreps.check(x, "x")
    blocks = [
        x[..., place].reshape(*x.shape[:-1], channels, entry.ir.dim)
        for place, entry in zip(irreps.slices(), irreps, strict=True)
    ]
    return torch.cat(blocks, dim=-1)


def from_dense(irreps: Irreps | str, x: Tensor) -> Shaped[Tensor, "*batch dim"]:
    """Return dense features in the flat layout; the inverse of `to_dense`.

    Args:
        irreps: As `to_dense`.
        x: Features, shape `(..., C, (L + 1)**2)`.

    Returns:
        Features of shape `(..., irreps.dim)`.

    Raises:
        ValueError: Where the irreps have no dense layout, or the last two dimensions of `x` are not theirs.

    Examples:
        >>> from_dense("2x0e + 2x1o", to_dense("2x0e + 2x1o", torch.arange(8)))
        tensor([0, 1, 2, 3, 4, 5, 6, 7])
    """
    irreps = Irreps(irreps)
    expected = (_channels(irreps), len(irreps) ** 2)
    if tuple(x.shape[-2:]) != expected:
        raise ValueError(f"`x`: expected last dimensions {expected} for {irreps}, got shape {tuple(x.shape)}")
    return torch.cat([x[..., l * l : (l + 1) ** 2].flatten(-2) for l in range(len(irreps))], dim=-1)


def _channels(irreps: Irreps) -> int:
    """Return the multiplicity that all degrees share."""
    degrees = [entry.ir.l for entry in irreps]
    if not irreps or degrees != list(range(len(degrees))) or len({entry.mul for entry in irreps}) != 1:
        raise ValueError(
            f"`irreps` (={irreps}) have no dense layout: expected one entry for each degree 0, 1, ..., "
            "all with the same multiplicity"
        )
    return irreps[0].mul
