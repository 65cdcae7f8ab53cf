"""Low rank by random sampling: truncated SVD, PCA, Nystrom, interpolation and traces, with their errors."""

from lemmata.sketching.lowrank.interpolative import ColumnID, CURResult, column_id, cur
from lemmata.sketching.lowrank.nystrom import NystromPreconditioner, NystromResult, nystrom
from lemmata.sketching.lowrank.pca import (
    PCACertificate,
    PCAResult,
    PCASums,
    pca,
    pca_basis,
    pca_finish,
    pca_step,
)
from lemmata.sketching.lowrank.range_finder import QBResult, qb
from lemmata.sketching.lowrank.single_pass import SinglePassSVD, single_pass_svd
from lemmata.sketching.lowrank.svd import LowRankCertificate, SVDResult, randomized_svd
from lemmata.sketching.lowrank.trace import TraceEstimate, hutchpp

__all__ = [
    "CURResult",
    "ColumnID",
    "LowRankCertificate",
    "NystromPreconditioner",
    "NystromResult",
    "PCACertificate",
    "PCAResult",
    "PCASums",
    "QBResult",
    "SVDResult",
    "SinglePassSVD",
    "TraceEstimate",
    "column_id",
    "cur",
    "hutchpp",
    "nystrom",
    "pca",
    "pca_basis",
    "pca_finish",
    "pca_step",
    "qb",
    "randomized_svd",
    "single_pass_svd",
]
