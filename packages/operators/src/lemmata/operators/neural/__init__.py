"""Neural operators: learned maps between functions."""

from lemmata.operators.neural.fno import FNO, Pointwise, SpectralBlock
from lemmata.operators.neural.spectral import SpectralConv, fourier_resample

__all__ = ["FNO", "Pointwise", "SpectralBlock", "SpectralConv", "fourier_resample"]
