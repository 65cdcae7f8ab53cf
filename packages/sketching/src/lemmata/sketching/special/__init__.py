"""Special functions on tensors, without overflow, and what is built on them."""

from lemmata.sketching.special.first_kind import iv_ratio, log_iv, log_iv_over_power, log_ive
from lemmata.sketching.special.matern import log_matern
from lemmata.sketching.special.mixture import VMFMixture
from lemmata.sketching.special.second_kind import log_kv, log_kve
from lemmata.sketching.special.von_mises_fisher import VMFFit, VonMisesFisher, fit_vmf

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
