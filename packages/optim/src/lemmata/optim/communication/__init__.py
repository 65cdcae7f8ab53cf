"""Train with a fraction of the gradient traffic: compressors, error control and a simulator."""

from lemmata.optim.communication.compressors import (
    Compressor,
    LowRank,
    Message,
    RandK,
    TopK,
)
from lemmata.optim.communication.error_control import ErrorControlState, error_control_hook
from lemmata.optim.communication.quantizers import Quantize, SignNorm
from lemmata.optim.communication.simulation import History, simulate

__all__ = [
    "Compressor",
    "ErrorControlState",
    "History",
    "LowRank",
    "Message",
    "Quantize",
    "RandK",
    "SignNorm",
    "TopK",
    "error_control_hook",
    "simulate",
]
