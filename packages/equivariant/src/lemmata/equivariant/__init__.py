"""Symmetry and geometry: irreps, tensor products, frames, networks on positions and orientations."""

from typing import TYPE_CHECKING

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.expressivity import coupling_strengths, expressivity, interactability
from lemmata.equivariant.frames import (
    DegenerateFrameError,
    FrameAveraging,
    Frames,
    GraphFrameAveraging,
    GraphFrames,
    frame_average,
    frame_from,
    frame_mean,
    frame_to,
    graph_frames,
    pca_frames,
    skew_frames,
    weighted_frames,
)
from lemmata.equivariant.nn import (
    BesselBasis,
    ChannelLinear,
    ChebyshevBasis,
    CosineCutoff,
    EquivariantLinear,
    EquivariantRMSNorm,
    Gate,
    GaussianBasis,
    NormActivation,
    PolynomialCutoff,
)
from lemmata.equivariant.o3 import (
    Irrep,
    Irreps,
    change_of_basis_cartesian,
    clebsch_gordan,
    from_dense,
    rand_rotation,
    so3_generators,
    spherical_harmonics,
    to_dense,
    wigner_3j,
    wigner_d,
)
from lemmata.equivariant.position_orientation import (
    OrientationGrid,
    PolynomialFeatures,
    invariant_attributes,
    scalars_to_sphere,
    sphere_to_scalars,
    sphere_to_vectors,
    vectors_to_sphere,
)
from lemmata.equivariant.s2 import S2Grid
from lemmata.equivariant.tensor_product import (
    CompleteTensorProduct,
    GauntConvolution,
    GauntPower,
    GauntTensorProduct,
    MatrixTensorProduct,
    TensorProduct,
    VectorSignalTensorProduct,
    fit_degree_rank,
    gaunt_coefficients,
    gaunt_power,
)
from lemmata.equivariant.tensor_product.comparison import benchmark_tensor_products
from lemmata.equivariant.testing import EquivarianceReport, assert_equivariant, equivariance_error

if TYPE_CHECKING:
    from lemmata.equivariant.position_orientation import (
        ConvNextBlock,
        FiberBundleConv,
        PointCloudConv,
        PositionOrientationNet,
    )

__all__ = [
    "BesselBasis",
    "ChannelLinear",
    "ChebyshevBasis",
    "CompleteTensorProduct",
    "ConstantModule",
    "ConvNextBlock",
    "CosineCutoff",
    "DegenerateFrameError",
    "EquivarianceReport",
    "EquivariantLinear",
    "EquivariantRMSNorm",
    "FiberBundleConv",
    "FrameAveraging",
    "Frames",
    "Gate",
    "GauntConvolution",
    "GauntPower",
    "GauntTensorProduct",
    "GaussianBasis",
    "GraphFrameAveraging",
    "GraphFrames",
    "Irrep",
    "Irreps",
    "MatrixTensorProduct",
    "NormActivation",
    "OrientationGrid",
    "PointCloudConv",
    "PolynomialCutoff",
    "PolynomialFeatures",
    "PositionOrientationNet",
    "S2Grid",
    "TensorProduct",
    "VectorSignalTensorProduct",
    "assert_equivariant",
    "benchmark_tensor_products",
    "change_of_basis_cartesian",
    "clebsch_gordan",
    "coupling_strengths",
    "equivariance_error",
    "expressivity",
    "fit_degree_rank",
    "frame_average",
    "frame_from",
    "frame_mean",
    "frame_to",
    "from_dense",
    "gaunt_coefficients",
    "gaunt_power",
    "graph_frames",
    "interactability",
    "invariant_attributes",
    "pca_frames",
    "rand_rotation",
    "scalars_to_sphere",
    "skew_frames",
    "so3_generators",
    "sphere_to_scalars",
    "sphere_to_vectors",
    "spherical_harmonics",
    "to_dense",
    "vectors_to_sphere",
    "weighted_frames",
    "wigner_3j",
    "wigner_d",
]

# Their modules import torch-geometric, which takes seconds.
_LAZY = ("ConvNextBlock", "FiberBundleConv", "PointCloudConv", "PositionOrientationNet")


def __getattr__(name: str) -> object:
    """Import what needs torch-geometric when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lemmata.equivariant import position_orientation

    return getattr(position_orientation, name)
