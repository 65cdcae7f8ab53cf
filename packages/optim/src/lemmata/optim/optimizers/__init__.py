"""Optimisers that train whole networks."""

from lemmata.optim.optimizers.auon import AuON, HybridAuON, auon_direction, cosh_rms_scale
from lemmata.optim.optimizers.kappa import (
    L1,
    L2,
    LP,
    GroupL2,
    HuberL1,
    Kappa,
    Nuclear,
    Quadratic,
    TruncatedL1,
)
from lemmata.optim.optimizers.lion import LionK, constraint_violation
from lemmata.optim.optimizers.lyapunov import Flow, flow_of, lyapunov
from lemmata.optim.optimizers.matrix import MatrixOptimizer
from lemmata.optim.optimizers.muon import Muon
from lemmata.optim.optimizers.orthogonalize import newton_schulz, orthogonalize, polar
from lemmata.optim.optimizers.partition import split_parameters

__all__ = [
    "L1",
    "L2",
    "LP",
    "AuON",
    "Flow",
    "GroupL2",
    "HuberL1",
    "HybridAuON",
    "Kappa",
    "LionK",
    "MatrixOptimizer",
    "Muon",
    "Nuclear",
    "Quadratic",
    "TruncatedL1",
    "auon_direction",
    "constraint_violation",
    "cosh_rms_scale",
    "flow_of",
    "lyapunov",
    "newton_schulz",
    "orthogonalize",
    "polar",
    "split_parameters",
]
