"""Equivariant layers beside tensor products, and radial bases."""

from lemmata.equivariant.nn.activation import NormActivation, NormalizedActivation, ScalarActivation
from lemmata.equivariant.nn.gate import Gate
from lemmata.equivariant.nn.linear import ChannelLinear, EquivariantLinear
from lemmata.equivariant.nn.norm import ChannelRMSNorm, EquivariantRMSNorm
from lemmata.equivariant.nn.radial import (
    BesselBasis,
    ChebyshevBasis,
    CosineCutoff,
    GaussianBasis,
    PolynomialCutoff,
)

__all__ = [
    "BesselBasis",
    "ChannelLinear",
    "ChannelRMSNorm",
    "ChebyshevBasis",
    "CosineCutoff",
    "EquivariantLinear",
    "EquivariantRMSNorm",
    "Gate",
    "GaussianBasis",
    "NormActivation",
    "NormalizedActivation",
    "PolynomialCutoff",
    "ScalarActivation",
]
