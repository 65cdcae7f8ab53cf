"""Optimisers by name, each with the learning rate it comes with and those a sweep tries."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

__all__ = ["OPTIMIZERS", "Choice", "build", "check_optimizer"]


@dataclass(frozen=True)
class Choice:
    """An optimiser as the app offers it.

    Args:
        make: Builds it from a model, a learning rate, a weight decay and options.
        lr: The learning rate it comes with.
        sweep: The learning rates that a comparison tries.
        weight_decay: The decoupled weight decay it comes with.
        options: Options it comes with.
        norm: Order of the gradient norm that its schedule is refined with: 2 for methods that follow the
            gradient's direction, 1 for those that divide each coordinate by its size.
    """

    make: Callable[..., torch.optim.Optimizer]
    lr: float
    sweep: tuple[float, ...]
    weight_decay: float = 0.0
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    norm: int = 1


def build(
    name: str,
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    **options: Any,
) -> torch.optim.Optimizer:
    """Build an optimiser for all parameters of a model.

    Args:
        name: A name of `OPTIMIZERS`.
        model: The model.
        lr: Largest learning rate; the one the optimiser comes with where None.
        weight_decay: Decoupled weight decay of matrices; the one it comes with where None.
        options: Further arguments of the optimiser, in the place of those it comes with.

    Returns:
        The optimiser.

    Raises:
        ValueError: Where the name or an option is unknown, or a number is out of range.

    Examples:
        >>> type(build("adamw", nn.Linear(4, 2), lr=1e-3)).__name__
        'AdamW'
    """
    check_optimizer(name, lr, weight_decay)
    choice = OPTIMIZERS[name]
    arguments = {
        "lr": choice.lr if lr is None else lr,
        "weight_decay": choice.weight_decay if weight_decay is None else weight_decay,
        **choice.options,
        **options,
    }
    try:
        return choice.make(model, **arguments)
    except TypeError as error:
        raise ValueError(f"`optimizer_options` (={options}) do not fit {name}: {error}") from error


def check_optimizer(name: str, lr: float | None, weight_decay: float | None) -> None:
    """Raise where a name is unknown or a number out of range.

    Raises:
        ValueError: Naming the option, what was given and what is expected.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"`optimizer` (={name!r}) is not known; expected one of {', '.join(OPTIMIZERS)}")
    for option, value in (("lr", lr), ("weight_decay", weight_decay)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"`{option}` (={value}) must be finite and not negative")


def _adamw(model: nn.Module, *, lr: float, weight_decay: float, **options: Any) -> torch.optim.Optimizer:
    """Return AdamW, which decays matrices and leaves vectors alone."""
    return torch.optim.AdamW(_by_decay(model, weight_decay), lr=lr, **options)


def _sgd(model: nn.Module, *, lr: float, weight_decay: float, **options: Any) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum."""
    return torch.optim.SGD(_by_decay(model, weight_decay), lr=lr, **options)


def _muon(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Return Muon for matrices, with AdamW for the rest."""
    from lemmata.optim.optimizers.muon import Muon

    return Muon(_by_algorithm(model), **options)


def _auon(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Return AuON for matrices, with AdamW for the rest."""
    from lemmata.optim.optimizers.auon import AuON

    return AuON(_by_algorithm(model), **options)


def _hybrid_auon(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Return Hybrid-AuON for matrices, with AdamW for the rest."""
    from lemmata.optim.optimizers.auon import HybridAuON

    return HybridAuON(_by_algorithm(model), **options)


def _lion(model: nn.Module, *, weight_decay: float, **options: Any) -> torch.optim.Optimizer:
    """Return Lion, which keeps matrices in the box of half-width 1 / weight decay."""
    from lemmata.optim.optimizers.lion import LionK

    return LionK(_by_decay(model, weight_decay), **options)


def _nuclear_lion(model: nn.Module, *, weight_decay: float, **options: Any) -> torch.optim.Optimizer:
    """Return Lion-K with the nuclear norm for matrices, and with the L1 norm for the rest."""
    from lemmata.optim.optimizers.kappa import L1, Nuclear
    from lemmata.optim.optimizers.lion import LionK

    groups = []
    for group in _by_algorithm(model):
        matrices = group["algorithm"] != "adamw"
        groups.append(
            {
                "params": group["params"],
                "kappa": Nuclear() if matrices else L1(),
                "weight_decay": weight_decay if matrices else 0.0,
            }
        )
    return LionK(groups, **options)


def _by_algorithm(model: nn.Module) -> list[dict[str, Any]]:
    """Return matrices, and what is AdamW's: embeddings, the head, routers and all vectors."""
    from lemmata.optim.optimizers.partition import split_parameters

    name_exclusions: Callable[[], tuple[str, ...]] = getattr(model, "matrix_parameter_exclusions", tuple)
    groups: list[dict[str, Any]] = split_parameters(model, exclude_names=name_exclusions())
    return groups


def _by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return matrices with a weight decay, and vectors without."""
    trained = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in trained if param.ndim >= 2], "weight_decay": weight_decay},
        {"params": [param for param in trained if param.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


OPTIMIZERS: dict[str, Choice] = {
    "adamw": Choice(_adamw, 3e-3, (1e-3, 3e-3, 6e-3, 1e-2), 0.0, {"betas": (0.9, 0.95)}),
    "sgd": Choice(_sgd, 0.3, (0.1, 0.3, 1.0, 3.0), 0.0, {"momentum": 0.9, "nesterov": True}, norm=2),
    "muon": Choice(_muon, 0.02, (0.01, 0.02, 0.04, 0.08), 0.0, {"adamw_lr": 3e-3}),
    "lion": Choice(_lion, 1e-3, (3e-4, 6e-4, 1e-3, 2e-3), 0.1),
    "nuclear-lion": Choice(_nuclear_lion, 3e-3, (1e-3, 3e-3, 6e-3, 1e-2), 0.1),
    "auon": Choice(_auon, 0.01, (0.003, 0.01, 0.03, 0.1), 0.0, {"adamw_lr": 3e-3}),
    "hybrid-auon": Choice(_hybrid_auon, 0.1, (0.01, 0.03, 0.1, 0.3), 0.0, {"adamw_lr": 3e-3}),
}
