r"""Muon: orthogonalised momentum for weight matrices, AdamW for everything else, in one optimiser.

A step moves a matrix by nearly the same length along all of its singular directions: of all updates of spectral
norm 1 that is the steepest descent along the momentum. Use it for the hidden layers of a network.

References:
    - K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    - J. Liu et al., Muon is Scalable for LLM Training, 2025, arXiv:2502.16982.
"""

from collections.abc import Iterable
from typing import Any, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from lemmata.optim.optimizers.matrix import MatrixOptimizer, Scale
from lemmata.optim.optimizers.orthogonalize import (
    STANDARD,
    Coefficients,
    Method,
    check_coefficients,
    check_steps,
    orthogonalize,
)

__all__ = ["Muon"]


class Muon(MatrixOptimizer):
    algorithm = "muon"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        coefficients: Coefficients = STANDARD,
        method: Method = "newton_schulz",
        scale: Scale = "spectral",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adamw_lr: float | Tensor = 3e-4,
        adamw_weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        process_group: dist.ProcessGroup | None = None,
        maximize: bool = False,
        error_if_nonfinite: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            scale=scale,
            betas=betas,
            eps=eps,
            adamw_lr=adamw_lr,
            adamw_weight_decay=adamw_weight_decay,
            foreach=foreach,
            process_group=process_group,
            maximize=maximize,
            error_if_nonfinite=error_if_nonfinite,
            steps=steps,
            coefficients=coefficients,
            method=method,
            dtype=dtype,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_steps(group["steps"])
        check_coefficients(group["coefficients"])
        if group["method"] not in get_args(Method):
            raise ValueError(f"`method` (={group['method']!r}) must be one of {', '.join(get_args(Method))}")

    def _directions(self, group: dict[str, Any], u: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        return orthogonalize(
            u,
            method=group["method"],
            steps=group["steps"],
            coefficients=group["coefficients"],
            dtype=group["dtype"],
        )
