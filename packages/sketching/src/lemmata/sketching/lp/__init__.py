"""Importance of rows for l_p regression, and coresets drawn by it."""

from lemmata.sketching.lp.coreset import CoresetRegression, lp_coreset_regression, lp_distortion
from lemmata.sketching.lp.huber import huber_regression
from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.lp.lewis import LewisScores, lewis_quadratic, lewis_weights
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
    "LewisScores",
    "LpResult",
    "PrioritySample",
    "StreamingCoreset",
    "huber_regression",
    "leverage_scores",
    "lewis_quadratic",
    "lewis_weights",
    "lp_coreset_regression",
    "lp_distortion",
    "lp_regression",
    "lp_sensitivities",
    "probabilities_from_scores",
    "sample_rows",
    "sampling_probabilities",
]
