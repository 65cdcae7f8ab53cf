"""Importance of rows for l_p regression, and coresets drawn by it."""

from lemmata.sketching.lp.bound import DualSums, NewtonSums
from lemmata.sketching.lp.coreset import CoresetRegression, lp_coreset_regression, lp_distortion
from lemmata.sketching.lp.folding import FoldedRows
from lemmata.sketching.lp.huber import huber_regression
from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.lp.lewis import LewisScores, lewis_quadratic, lewis_weights
from lemmata.sketching.lp.losses import HuberLoss, PowerLoss, huber_weights, lp_weights
from lemmata.sketching.lp.priority import PrioritySample
from lemmata.sketching.lp.regression import LpResult, lp_regression
from lemmata.sketching.lp.sampling import (
    Coreset,
    probabilities_from_scores,
    sample_rows,
    sampling_probabilities,
)
from lemmata.sketching.lp.sensitivity import lp_sensitivities
from lemmata.sketching.lp.streaming import StreamingCoreset

__all__ = [
    "Coreset",
    "CoresetRegression",
    "DualSums",
    "FoldedRows",
    "HuberLoss",
    "LewisScores",
    "LpResult",
    "NewtonSums",
    "PowerLoss",
    "PrioritySample",
    "StreamingCoreset",
    "huber_regression",
    "huber_weights",
    "leverage_scores",
    "lewis_quadratic",
    "lewis_weights",
    "lp_coreset_regression",
    "lp_distortion",
    "lp_regression",
    "lp_sensitivities",
    "lp_weights",
    "probabilities_from_scores",
    "sample_rows",
    "sampling_probabilities",
]
