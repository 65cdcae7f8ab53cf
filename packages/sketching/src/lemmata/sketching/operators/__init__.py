"""Random matrices that shrink tall data, applied without being stored."""

from lemmata.sketching.operators.distortion import subspace_distortion
from lemmata.sketching.operators.gaussian import GaussianSketch
from lemmata.sketching.operators.hadamard import fwht
from lemmata.sketching.operators.operator import SketchOperator, SketchState
from lemmata.sketching.operators.row_sampling import RowSampling
from lemmata.sketching.operators.sparse_sign import CountSketch, SparseSign
from lemmata.sketching.operators.srht import SRHT, BlockSRHT
from lemmata.sketching.operators.tensor import TensorSRHT

__all__ = [
    "SRHT",
    "BlockSRHT",
    "CountSketch",
    "GaussianSketch",
    "RowSampling",
    "SketchOperator",
    "SketchState",
    "SparseSign",
    "TensorSRHT",
    "fwht",
    "subspace_distortion",
]
