"""Randomness as an algorithm: sketches, sampling, completion; and the special functions they need."""

from lemmata.sketching.special import (
    VMFFit,
    VMFMixture,
    VonMisesFisher,
    fit_vmf,
    iv_ratio,
    log_iv,
    log_iv_over_power,
    log_ive,
    log_kv,
    log_kve,
    log_matern,
)

__all__ = [
    "VMFFit",
    "VMFMixture",
    "VonMisesFisher",
    "fit_vmf",
    "iv_ratio",
    "log_iv",
    "log_iv_over_power",
    "log_ive",
    "log_kv",
    "log_kve",
    "log_matern",
]
