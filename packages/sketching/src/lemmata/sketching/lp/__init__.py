"""Importance of rows for l_p regression, and coresets drawn by it."""

from lemmata.sketching.lp.priority import PrioritySample
from lemmata.sketching.lp.sampling import Coreset, probabilities_from_scores, sample_rows

__all__ = ["Coreset", "PrioritySample", "probabilities_from_scores", "sample_rows"]
