"""Importance of rows for l_p regression, and coresets drawn by it."""

from lemmata.sketching.lp.leverage import leverage_scores
from lemmata.sketching.lp.lewis import LewisScores, lewis_quadratic, lewis_weights
from lemmata.sketching.lp.priority import PrioritySample
from lemmata.sketching.lp.sampling import Coreset, probabilities_from_scores, sample_rows

__all__ = [
    "Coreset",
    "LewisScores",
    "PrioritySample",
    "leverage_scores",
    "lewis_quadratic",
    "lewis_weights",
    "probabilities_from_scores",
    "sample_rows",
]
