r"""Muon: orthogonalised momentum for weight matrices, AdamW for everything else, in one optimiser.

A step moves a matrix by nearly the same length along all of its singular directions: of all updates of
spectral norm 1 that is the steepest descent along the momentum. Use it for the hidden layers of a network.

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
    factors,
)

__all__ = ["Muon"]


class Muon(MatrixOptimizer):
    r"""Train matrices by orthogonalised momentum and all other parameters by AdamW.

    For a matrix $W$ of $m$ rows and $n$ columns with gradient $G$,

    $$M \leftarrow \mu M + (1 - \mu) G, \qquad U = (1 - \mu) G + \mu M, \qquad
    W \leftarrow (1 - \eta \lambda) W - \eta\, s\, O(U),$$

    with $O(U)$ the orthogonal factor of $U$ as `orthogonalize` computes it. It maximises $\langle U, O
    \rangle$ over all $O$ of spectral norm at most 1. $M$ is an average where the original has a sum; as the
    length of $U$ doesn't matter, the steps are the same.

    Pass the groups of `split_parameters`, or parameters: those with two or more axes are then matrices,
    embeddings and the output layer included, since a tensor doesn't tell what it is for. `MatrixOptimizer`
    describes the options of groups, and how the work is shared among processes.

    On single matrices this equals `torch.optim.Muon`, with `scale="spectral"` for `"original"` and `"rms"`
    for `"match_rms_adamw"`, to the rounding of bfloat16; on parameters of AdamW it equals
    `torch.optim.AdamW`.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate $\eta$ of matrices: with `scale="spectral"` the spectral norm of a step.
        momentum: $\mu$, in [0, 1).
        nesterov: Whether to look ahead; else $U = M$.
        weight_decay: $\lambda$ of matrices, decoupled.
        steps: Steps of the iteration.
        coefficients: Of the iteration, where `method` is `newton_schulz`.
        method: How to orthogonalise; see `orthogonalize`.
        scale: $s$: `spectral` is $\sqrt{\max(1, m/n)}$. `rms` is $0.2 \sqrt{\max(m, n)}$ and makes entries as
            large as AdamW does, so that its learning rate and weight decay serve. `none` is 1.
        betas: Decay rates of AdamW.
        eps: The term in AdamW's denominator.
        adamw_lr: Learning rate of AdamW.
        adamw_weight_decay: Weight decay of AdamW.
        dtype: Data type in which to iterate; None takes bfloat16 where a device multiplies it natively.
        foreach: Whether to stack matrices and to update AdamW's parameters together; None chooses by size.
        process_group: Processes that hold the same parameters and gradients and share the work.
        maximize: Whether to ascend.
        error_if_nonfinite: Whether a gradient with NaN or infinity ends the step with an error.

    Raises:
        ValueError: Where an option is out of range, or a parameter does not fit its group.
        TypeError: Where a parameter is one that FSDP1 flattened.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> optimizer = Muon(model.parameters(), lr=0.02, adamw_lr=1e-3)
        >>> [(group["algorithm"], group["lr"], len(group["params"])) for group in optimizer.param_groups]
        [('muon', 0.02, 2), ('adamw', 0.001, 2)]
        >>> model(torch.ones(1, 4)).square().sum().backward()
        >>> optimizer.step()
    """

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
        return factors(u, group["method"], group["steps"], group["coefficients"], dtype=group["dtype"])
