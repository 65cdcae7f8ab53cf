"""Equivariant layers beside tensor products, and radial bases."""

from lemmata.equivariant.nn.radial import (
    BesselBasis,
    ChebyshevBasis,
    CosineCutoff,
    GaussianBasis,
    PolynomialCutoff,
)

__all__ = [
    "BesselBasis",
    "ChebyshevBasis",
    "CosineCutoff",
    "GaussianBasis",
    "PolynomialCutoff",
]
