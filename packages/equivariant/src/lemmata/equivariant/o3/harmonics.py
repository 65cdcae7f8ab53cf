"""Spherical harmonics of vectors: the angular features of every equivariant network.

Real harmonics in e3nn's basis: components `m = -l .. l` within degree `l`, the polar axis is y, and degree
one is `(x, y, z)` up to normalisation. Evaluated without angles, so that values and all derivatives are
exact at the poles.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.o3.irreps import Irreps
from lemmata.equivariant.o3.solid_harmonics import Normalization, solid_harmonics

__all__ = ["spherical_harmonics", "unit_vectors"]


def spherical_harmonics(
    l: int | Sequence[int] | Irreps,
    x: Tensor,
    normalize: bool,
    normalization: Normalization = "integral",
) -> Float[Tensor, "*batch dim"]:
    """Evaluate real spherical harmonics. Equals `e3nn.o3.spherical_harmonics`.

    Args:
        l: A degree, degrees, or irreps (each copy gets its degree's harmonics), in the order of the result.
        x: Vectors, shape `(..., 3)`.
        normalize: Divide vectors by their length first. A zero vector then gives 0 for every degree above
            0, with zero gradient. Where False the result is the solid harmonic, which grows as `r**l`.
        normalization: On the unit sphere `integral` is orthonormal, `component` has squares that sum to `2l
            + 1` within a degree, `norm` squares that sum to 1.

    Returns:
        The harmonics, shape `(..., sum of 2l + 1)`, in the dtype of `x`.

    Raises:
        TypeError: Where `x` is not floating.
        ValueError: Where the last dimension of `x` is not 3, a degree is negative, the parity of irreps is
            not that of spherical harmonics, or the normalisation is unknown.

    Examples:
        >>> spherical_harmonics(1, torch.tensor([0.0, 3.0, 4.0]), True, "norm")
        tensor([0.0000, 0.6000, 0.8000])
        >>> spherical_harmonics([0, 2], torch.randn(5, 3), normalize=True).shape
        torch.Size([5, 6])
    """
    degrees = _degrees(l)
    if normalization not in get_args(Normalization):
        raise ValueError(
            f"`normalization` (={normalization!r}) must be one of {', '.join(get_args(Normalization))}"
        )
    if not x.is_floating_point():
        raise TypeError(f"`x` must be floating, got {x.dtype}")
    if x.ndim == 0 or x.shape[-1] != 3:
        raise ValueError(f"`x`: expected last dimension 3, got shape {tuple(x.shape)}")
    if not degrees:
        return x.new_empty((*x.shape[:-1], 0))
    # Powers up to the degree lose too much in sixteen bits.
    vectors = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    every = solid_harmonics(max(degrees), unit_vectors(vectors) if normalize else vectors, normalization)
    if degrees != list(range(len(degrees))):
        every = torch.cat([every[..., d * d : (d + 1) ** 2] for d in degrees], dim=-1)
    return every.to(x.dtype)


def unit_vectors(x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Divide vectors by their length; zero vectors stay zero, with zero gradient.

    Args:
        x: Vectors.

    Examples:
        >>> unit_vectors(torch.tensor([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0]]))
        tensor([[0.0000, 0.6000, 0.8000],
                [0.0000, 0.0000, 0.0000]])
    """
    # Components in front: the harmonics want them there, and reductions are cheap.
    components = x.movedim(-1, 0).contiguous()
    # Scaling by the largest entry first keeps squares of tiny and huge vectors within range.
    largest = components.detach().abs().amax(0)
    nonzero = largest > 0
    scaled = components / torch.where(nonzero, largest, 1.0)
    length2 = torch.where(nonzero, (scaled * scaled).sum(0), 1.0)
    return (scaled * torch.where(nonzero, length2.rsqrt(), 0.0)).movedim(0, -1)


def _degrees(l: int | Sequence[int] | Irreps) -> list[int]:
    """Return the degrees asked for."""
    if isinstance(l, Irreps):
        if not any(all(ir.p == p**ir.l for _, ir in l) for p in (1, -1)):
            raise ValueError(f"`l` (={l}) must have parity p**l with one p, as spherical harmonics have")
        return l.ls
    degrees = [l] if isinstance(l, int) else list(l)
    if any(d < 0 for d in degrees):
        raise ValueError(f"`l` (={l!r}) must be degrees of at least 0")
    return degrees
