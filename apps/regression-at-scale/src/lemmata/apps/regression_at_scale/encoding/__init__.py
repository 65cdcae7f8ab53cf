"""From the columns of a table to the rows of a design matrix."""

from lemmata.apps.regression_at_scale.encoding.dataset import Dataset, RawDataset
from lemmata.apps.regression_at_scale.encoding.encoder import INTERCEPT, Encoder, Rows
from lemmata.apps.regression_at_scale.encoding.moments import Moments
from lemmata.apps.regression_at_scale.encoding.opening import encode, open_rows

__all__ = ["INTERCEPT", "Dataset", "Encoder", "Moments", "RawDataset", "Rows", "encode", "open_rows"]
