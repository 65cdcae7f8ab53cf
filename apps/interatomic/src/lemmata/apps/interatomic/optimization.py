"""How the weights of a potential move: optimisers and schedules by name."""

import math
from typing import Any

import torch
from torch import nn

__all__ = ["OPTIMIZERS", "SCHEDULES", "check_optimization", "make_optimizer", "make_schedule"]

OPTIMIZERS = ("adam", "adamw", "muon")
SCHEDULES = ("cosine", "linear", "plateau", "constant")

# A plateau: the learning rate is multiplied by this after as many validations without a better one.
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.8, 10


def check_optimization(optimizer: str, schedule: str, lr: float, weight_decay: float, warmup: int) -> None:
    """Raise where a name is unknown or a number out of range.

    Raises:
        ValueError: Naming the option, what was given and what is expected.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"`optimizer` (={optimizer!r}) is not known; expected one of {', '.join(OPTIMIZERS)}"
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` (={schedule!r}) is not known; expected one of {', '.join(SCHEDULES)}")
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"`lr` (={lr}) must be positive and finite")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"`weight_decay` (={weight_decay}) must be finite and not negative")
    if warmup < 0:
        raise ValueError(f"`warmup` (={warmup}) must be an integer of at least 0")


def make_optimizer(
    name: str, model: nn.Module, *, lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return an optimiser for all parameters of a potential.

    Args:
        name: `adam` and `adamw` keep the largest second moment (AMSGrad), `muon` makes the updates of
            matrices orthogonal and leaves the rest to AdamW.
        model: The potential.
        lr: Largest learning rate; with `muon` that of the matrices, 0.3 times of which is AdamW's.
        weight_decay: Of matrices alone; added to gradients by `adam`, decoupled with the others.

    Raises:
        ValueError: Where the name is unknown.

    Examples:
        >>> make_optimizer("adam", nn.Linear(4, 2), lr=0.01).defaults["amsgrad"]
        True
    """
    if name == "muon":
        from lemmata.optim.optimizers.muon import Muon
        from lemmata.optim.optimizers.partition import split_parameters

        return Muon(split_parameters(model), lr=lr, weight_decay=weight_decay, adamw_lr=0.3 * lr)
    if name not in OPTIMIZERS:
        raise ValueError(f"`optimizer` (={name!r}) is not known; expected one of {', '.join(OPTIMIZERS)}")
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    trained = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in trained if param.ndim >= 2], "weight_decay": weight_decay},
        {"params": [param for param in trained if param.ndim < 2], "weight_decay": 0.0},
    ]
    return kind([group for group in groups if group["params"]], lr=lr, amsgrad=True, fused=True)


def make_schedule(name: str, optimizer: torch.optim.Optimizer, steps: int, *, warmup: int = 0) -> Any:
    """Return the scheduler of a run.

    Args:
        name: `cosine` and `linear` fall to nothing over the run after a warm-up, `constant` stays, `plateau`
            falls where the validation no longer gets better.
        optimizer: The optimiser.
        steps: Steps of the whole run.
        warmup: Steps in which the learning rate rises, at most half of the run; none with `plateau`.

    Returns:
        A scheduler to be moved once a step, or with `plateau` once a validation.

    Raises:
        ValueError: Where the name is unknown.
    """
    from lemmata.optim.schedules import ArraySchedule, LinearDecay

    warmup = min(warmup, steps // 2)
    if name == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
        )
    if name == "linear":
        return LinearDecay(optimizer, steps, warmup_steps=warmup)
    rise = [(step + 1) / (warmup + 1) for step in range(warmup)]
    if name == "constant":
        return ArraySchedule(optimizer, torch.tensor([*rise, 1.0], dtype=torch.float64))
    if name == "cosine":
        fall = [(1 + math.cos(math.pi * step / (steps - warmup))) / 2 for step in range(steps - warmup)]
        return ArraySchedule(optimizer, torch.tensor([*rise, *fall], dtype=torch.float64))
    raise ValueError(f"`schedule` (={name!r}) is not known; expected one of {', '.join(SCHEDULES)}")
