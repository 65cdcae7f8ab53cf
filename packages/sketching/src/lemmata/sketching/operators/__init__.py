"""Random matrices that shrink tall data, applied without being stored."""

from lemmata.sketching.operators.distortion import subspace_distortion
from lemmata.sketching.operators.gaussian import GaussianSketch
from lemmata.sketching.operators.operator import SketchOperator, SketchState
from lemmata.sketching.operators.row_sampling import RowSampling
from lemmata.sketching.operators.sparse_sign import CountSketch, SparseSign

__all__ = [
    "CountSketch",
    "GaussianSketch",
    "RowSampling",
    "SketchOperator",
    "SketchState",
    "SparseSign",
    "subspace_distortion",
]
