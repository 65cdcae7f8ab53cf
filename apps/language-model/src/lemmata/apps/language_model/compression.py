"""Send compressed gradients between processes, with error control."""

from typing import Any

import torch
from torch import nn

__all__ = ["COMPRESSORS", "check_compression", "make_state", "register"]

COMPRESSORS = ("topk", "randk", "sign", "lowrank", "quantize")


def check_compression(name: str | None, ratio: float) -> None:
    """Raise where a compressor is unknown or its ratio out of range.

    Raises:
        ValueError: Naming the option, what was given and what is expected.
    """
    if name is not None and name not in COMPRESSORS:
        raise ValueError(f"`compression` (={name!r}) is not known; expected one of {', '.join(COMPRESSORS)}")
    if not 0 < ratio <= 1:
        raise ValueError(f"`compression_ratio` (={ratio}) must lie in (0, 1]")


def make_state(name: str, ratio: float, *, model: nn.Module, seed: int = 0) -> Any:
    """Return the state of `lemmata.optim.communication.error_control_hook`.

    Args:
        name: A name of `COMPRESSORS`.
        ratio: Fraction of the entries that `topk` and `randk` send.
        model: The model, whose parameters' names a checkpoint's state goes by.
        seed: Seed of what `randk` chooses; the same in all processes.

    Returns:
        The state.
    """
    from lemmata.optim.communication import (
        ErrorControlState,
        LowRank,
        Quantize,
        RandK,
        SignNorm,
        TopK,
    )

    if name == "topk":
        compressor: Any = TopK(ratio)
    elif name == "randk":
        compressor = RandK(ratio, torch.Generator().manual_seed(seed))
    elif name == "sign":
        compressor = SignNorm()
    elif name == "lowrank":
        compressor = LowRank(4)
    else:
        compressor = Quantize(4)
    return ErrorControlState(compressor, model=model)


def register(model: nn.Module | None, state: Any) -> None:
    """Have a model that Lightning's DDP wraps send its gradients through the compressor.

    Args:
        model: The strategy's model.
        state: What `make_state` returned.

    Raises:
        ValueError: Where the model is not wrapped, as it is in a run of one process.
    """
    from torch.nn.parallel import DistributedDataParallel

    from lemmata.optim.communication.error_control import error_control_hook

    if not isinstance(model, DistributedDataParallel):
        raise ValueError(  # noqa: TRY004  # what is wrong is the option's value
            "`compression` is for gradients that processes exchange; start the run with "
            "--trainer.strategy ddp and --trainer.devices 2 or more, or leave it out"
        )
    model.register_comm_hook(state, error_control_hook)
