"""Products of features that turn with the features: one front, and the products behind it."""

from lemmata.equivariant.tensor_product.comparison import Record, benchmark_tensor_products
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.convolution import GauntConvolution
from lemmata.equivariant.tensor_product.cost import predicted_costs
from lemmata.equivariant.tensor_product.front import TensorProduct
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct, gaunt_coefficients
from lemmata.equivariant.tensor_product.matrix import MatrixTensorProduct
from lemmata.equivariant.tensor_product.paths import (
    Path,
    PathTable,
    channelwise_paths,
    full_paths,
    fully_connected_paths,
)
from lemmata.equivariant.tensor_product.power import GauntPower, gaunt_power
from lemmata.equivariant.tensor_product.rank import fit_degree_rank
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct

__all__ = [
    "CompleteTensorProduct",
    "GauntConvolution",
    "GauntPower",
    "GauntTensorProduct",
    "MatrixTensorProduct",
    "Path",
    "PathTable",
    "Record",
    "TensorProduct",
    "VectorSignalTensorProduct",
    "benchmark_tensor_products",
    "channelwise_paths",
    "fit_degree_rank",
    "full_paths",
    "fully_connected_paths",
    "gaunt_coefficients",
    "gaunt_power",
    "predicted_costs",
]
