r"""Wigner's 3j symbols, rotation matrices and generators, in the real basis.

The 3j symbol of degrees $l_1, l_2, l_3$ is the one tensor, up to sign, of Frobenius norm 1 that every
rotation leaves alone. It comes from exact integer arithmetic (Racah's sum) and one change from the complex
to the real basis per degree; signs are those of e3nn 0.6. Rotation matrices come without Euler angles:
$D_l(R)$ is the matrix that takes harmonics at fixed points to harmonics at the rotated points, so it is
smooth in $R$ everywhere.

Axis letters used below: `P` points, `M` components of a degree.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from lemmata.equivariant.o3.rotation import fibonacci_sphere
from lemmata.equivariant.o3.solid_harmonics import directional_derivative, solid_harmonics

__all__ = [
    "change_of_basis_cartesian",
    "clebsch_gordan",
    "so3_generators",
    "wigner_3j",
    "wigner_d",
    "wigner_d_stack",
]


def wigner_3j(
    l1: int,
    l2: int,
    l3: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, "m1 m2 m3"]:
    """Return the invariant tensor that couples three degrees. Equals `e3nn.o3.wigner_3j`.

    Args:
        l1: First degree.
        l2: Second degree.
        l3: Third degree, from `abs(l1 - l2)` to `l1 + l2`.
        dtype: Of the result; computed in float64 whatever it is.
        device: Of the result.

    Returns:
        A new tensor of Frobenius norm 1, shape `(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)`.

    Raises:
        ValueError: Where a degree is negative or the triangle inequality fails.

    Examples:
        >>> round(wigner_3j(1, 1, 1)[0, 1, 2].item() ** 2, 6)  # 1 / 6: a cross product of norm 1
        0.166667
    """
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(
            f"`l3` (={l3}) must lie in [{abs(l1 - l2)}, {l1 + l2}] for `l1` (={l1}) and `l2` (={l2}), "
            "all of them at least 0"
        )
    return _wigner_3j(l1, l2, l3).to(dtype=dtype, device=device, copy=True)


def clebsch_gordan(
    l1: int,
    l2: int,
    l3: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, "m1 m2 m3"]:
    """Return `sqrt(2 l3 + 1) * wigner_3j(l1, l2, l3)`: for each `m3` a matrix of norm 1.

    Args:
        l1: First degree.
        l2: Second degree.
        l3: Third degree.
        dtype: Of the result.
        device: Of the result.

    Raises:
        ValueError: As `wigner_3j`.

    Examples:
        >>> clebsch_gordan(1, 1, 0).squeeze().diagonal() * 3**0.5
        tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    return wigner_3j(l1, l2, l3, dtype=dtype, device=device) * math.sqrt(2 * l3 + 1)


def wigner_d(l: int, rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch m m"]:
    """Return the matrix by which rotations act on degree `l`. Differentiable, and smooth everywhere.

    Args:
        l: The degree.
        rotation: Rotations, determinant 1. (An orthogonal matrix that reflects gives the representation
            of spherical harmonics, with parity `(-1)**l`; for other parities see `Irreps.d_from_matrix`.)

    Returns:
        `d` with `harmonics(rotation @ x) == d @ harmonics(x)`.

    Raises:
        ValueError: Where the degree is negative.

    Examples:
        >>> from lemmata.equivariant.o3 import rand_rotation, spherical_harmonics
        >>> r, x = rand_rotation(dtype=torch.float64), torch.randn(3, dtype=torch.float64)
        >>> turned = spherical_harmonics(3, r @ x, normalize=False)
        >>> torch.allclose(turned, wigner_d(3, r) @ spherical_harmonics(3, x, normalize=False))
        True
    """
    if l < 0:
        raise ValueError(f"`l` (={l}) must be at least 0")
    return wigner_d_stack([l], rotation)[l]


def wigner_d_stack(
    degrees: Sequence[int], rotation: Float[Tensor, "*batch 3 3"]
) -> dict[int, Float[Tensor, "*batch _ _"]]:
    """Return the matrices of several degrees at once, by degree.

    Args:
        degrees: The degrees.
        rotation: Rotations.
    """
    lmax = max(degrees, default=0)
    points, inverses = _points(lmax)
    turned = torch.einsum("...ij,pj->...pi", rotation, points.to(rotation))
    harmonics_PM = solid_harmonics(lmax, turned)
    return {l: (inverses[l].to(rotation) @ harmonics_PM[..., l * l : (l + 1) ** 2]).mT for l in degrees}


def so3_generators(
    l: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, "3 m m"]:
    """Return the antisymmetric matrices by which infinitesimal turns about x, y, z act on degree `l`.

    Args:
        l: The degree.
        dtype: Of the result.
        device: Of the result.

    Raises:
        ValueError: Where the degree is negative.

    Examples:
        >>> x, y, z = so3_generators(2)
        >>> torch.allclose(x @ y - y @ x, z)
        True
    """
    if l < 0:
        raise ValueError(f"`l` (={l}) must be at least 0")
    points, inverses = _points(l)
    turns = torch.zeros(3, 3, 3, dtype=torch.float64)
    for axis in range(3):
        turns[axis, (axis + 2) % 3, (axis + 1) % 3] = 1.0
        turns[axis, (axis + 1) % 3, (axis + 2) % 3] = -1.0
    matrices = []
    for turn in turns:
        slope_PM = directional_derivative(l, points, points @ turn.mT)
        matrices.append((inverses[l] @ slope_PM[:, l * l :]).mT)
    return torch.stack(matrices).to(dtype=dtype, device=device)


def change_of_basis_cartesian(
    l: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Float[Tensor, "m 3 3"]:
    """Return the orthonormal matrices through which degree `l` lies in 3 x 3 matrices.

    Degree 0 is the trace, degree 1 the antisymmetric part, degree 2 the symmetric traceless part:
    `einsum("mij,...ij->...m", q, matrix)` reads a degree, `einsum("mij,...m->...ij", q, features)` writes it.

    Args:
        l: The degree, at most 2.
        dtype: Of the result.
        device: Of the result.

    Raises:
        ValueError: Where the degree is not 0, 1 or 2.

    Examples:
        >>> change_of_basis_cartesian(0).squeeze().diagonal() ** 2
        tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
    """
    if l not in (0, 1, 2):
        raise ValueError(f"`l` (={l}) must be 0, 1 or 2: a 3 x 3 matrix holds no other degree")
    return wigner_3j(l, 1, 1, dtype=dtype, device=device) * math.sqrt(2 * l + 1)


def _points(lmax: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return points on the sphere, and for each degree the pseudo-inverse of its harmonics there."""
    return _cached_points(lmax)


# Constant to a compiler, which would trace through the cache otherwise. This is all that
# torch.compiler.assume_constant_result does, besides importing the compiler, which takes seconds.
_points._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _cached_points(lmax: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute what `_points` returns."""
    with torch.inference_mode(mode=False), torch.no_grad():
        points = fibonacci_sphere(4 * (lmax + 1) ** 2)
        harmonics = solid_harmonics(lmax, points)
        slices = (slice(l * l, (l + 1) ** 2) for l in range(lmax + 1))
        return points, tuple(torch.linalg.pinv(harmonics[:, place]) for place in slices)


@cache
def _wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Return the 3j symbol in float64; the caller copies it."""
    with torch.inference_mode(mode=False), torch.no_grad():
        coupling = torch.einsum(
            "ij,kl,nm,ikn->jlm",
            _real_to_complex(l1),
            _real_to_complex(l2),
            _real_to_complex(l3).conj(),
            _su2_clebsch_gordan(l1, l2, l3),
        ).real.contiguous()
        normalized: Tensor = coupling / torch.linalg.vector_norm(coupling)
        return normalized


def _real_to_complex(l: int) -> Complex[Tensor, "m m"]:
    """Return the change of basis of a degree: row and column from -l to l."""
    real, imaginary = torch.zeros(2, 2 * l + 1, 2 * l + 1, dtype=torch.float64)
    half = 1 / math.sqrt(2)
    for m in range(1, l + 1):
        real[l - m, l + m] = half
        imaginary[l - m, l - m] = -half
        real[l + m, l + m] = (-1) ** m * half
        imaginary[l + m, l - m] = (-1) ** m * half
    real[l, l] = 1.0
    return torch.complex(real, imaginary) * (-1j) ** l


def _su2_clebsch_gordan(l1: int, l2: int, l3: int) -> Complex[Tensor, "m1 m2 m3"]:
    """Return the complex Clebsch-Gordan coefficients, each rounded once."""
    table = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            table[l1 + m1, l2 + m2, l3 + m1 + m2] = _racah(l1, m1, l2, m2, l3)
    return table


def _racah(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Return one Clebsch-Gordan coefficient by Racah's sum in exact integers."""
    f, m3 = math.factorial, m1 + m2
    first = max(-l1 + l2 + m3, -l1 + m1, 0)
    last = min(l2 + l3 + m1, l3 - l1 + l2, l3 + m3)
    square = Fraction(
        (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3) * f(l3 + m3) * f(l3 - m3),
        f(l1 + l2 + l3 + 1) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2),
    )
    total = sum(
        (-1) ** (v + l2 + m2)
        * Fraction(
            f(l2 + l3 + m1 - v) * f(l1 - m1 + v),
            f(v) * f(l3 - l1 + l2 - v) * f(l3 + m3 - v) * f(v + l1 - l2 - m3),
        )
        for v in range(first, last + 1)
    )
    return math.copysign(math.sqrt(square * total * total), total) if total else 0.0
