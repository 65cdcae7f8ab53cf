"""Networks on positions and orientations: SE(3) and SE(2) by invariant attributes alone."""

import importlib

from lemmata.equivariant.position_orientation.attributes import (
    KernelBasis,
    PolynomialFeatures,
    invariant_attributes,
)
from lemmata.equivariant.position_orientation.grids import OrientationGrid
from lemmata.equivariant.position_orientation.lifting import (
    OrientedPoints,
    edges_to_points,
    scalars_to_sphere,
    sphere_to_scalars,
    sphere_to_vectors,
    vectors_to_sphere,
)

__all__ = [
    "ConvNextBlock",
    "FiberBundleConv",
    "KernelBasis",
    "OrientationGrid",
    "OrientedPoints",
    "PointCloudConv",
    "PolynomialFeatures",
    "PositionOrientationNet",
    "edges_to_points",
    "invariant_attributes",
    "scalars_to_sphere",
    "sphere_to_scalars",
    "sphere_to_vectors",
    "vectors_to_sphere",
]

# These import torch-geometric, which takes seconds.
_LAZY = {
    "ConvNextBlock": "convolution",
    "FiberBundleConv": "convolution",
    "PointCloudConv": "convolution",
    "PositionOrientationNet": "network",
}


def __getattr__(name: str) -> object:
    """Import what needs torch-geometric when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
