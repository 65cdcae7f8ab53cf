"""Products of features that turn with the features: one front, and the products behind it."""

from lemmata.equivariant.tensor_product.cost import predicted_costs
from lemmata.equivariant.tensor_product.front import TensorProduct
from lemmata.equivariant.tensor_product.paths import (
    Path,
    PathTable,
    channelwise_paths,
    full_paths,
    fully_connected_paths,
)

__all__ = [
    "Path",
    "PathTable",
    "TensorProduct",
    "channelwise_paths",
    "full_paths",
    "fully_connected_paths",
    "predicted_costs",
]
