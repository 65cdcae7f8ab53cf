"""Least squares by sketching: the accuracy of QR in two passes over the rows."""

from lemmata.sketching.least_squares.certificate import LstsqCertificate, certify
from lemmata.sketching.least_squares.gram import PreconditionedGram, ResidualSums
from lemmata.sketching.least_squares.preconditioner import Preconditioner, sketched_qr

__all__ = [
    "LstsqCertificate",
    "PreconditionedGram",
    "Preconditioner",
    "ResidualSums",
    "certify",
    "sketched_qr",
]
