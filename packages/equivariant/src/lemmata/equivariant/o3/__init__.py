"""Rotations, reflections and what they act on: irreps, spherical harmonics, Wigner's symbols and matrices."""

from lemmata.equivariant.o3.harmonics import spherical_harmonics, unit_vectors
from lemmata.equivariant.o3.irreps import Irrep, Irreps, MulIrrep
from lemmata.equivariant.o3.layout import from_dense, to_dense
from lemmata.equivariant.o3.rotation import (
    determinant_sign,
    fibonacci_sphere,
    rand_rotation,
    rotation_from_quaternion,
)
from lemmata.equivariant.o3.solid_harmonics import Normalization, solid_harmonics
from lemmata.equivariant.o3.wigner import (
    change_of_basis_cartesian,
    clebsch_gordan,
    so3_generators,
    wigner_3j,
    wigner_d,
    wigner_d_stack,
)

__all__ = [
    "Irrep",
    "Irreps",
    "MulIrrep",
    "Normalization",
    "change_of_basis_cartesian",
    "clebsch_gordan",
    "determinant_sign",
    "fibonacci_sphere",
    "from_dense",
    "rand_rotation",
    "rotation_from_quaternion",
    "so3_generators",
    "solid_harmonics",
    "spherical_harmonics",
    "to_dense",
    "unit_vectors",
    "wigner_3j",
    "wigner_d",
    "wigner_d_stack",
]
