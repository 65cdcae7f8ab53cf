"""Least squares by sketching: the accuracy of QR in two passes over the rows."""

from lemmata.sketching.least_squares.backward import backward_error
from lemmata.sketching.least_squares.certificate import LstsqCertificate, LstsqResult, certify
from lemmata.sketching.least_squares.gram import PreconditionedGram, ResidualSums
from lemmata.sketching.least_squares.lstsq import lstsq, sketched_qr
from lemmata.sketching.least_squares.preconditioner import Preconditioner
from lemmata.sketching.least_squares.streaming import SketchedLeastSquares

__all__ = [
    "LstsqCertificate",
    "LstsqResult",
    "PreconditionedGram",
    "Preconditioner",
    "ResidualSums",
    "SketchedLeastSquares",
    "backward_error",
    "certify",
    "lstsq",
    "sketched_qr",
]
