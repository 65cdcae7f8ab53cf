r"""Lion-K: step along a convex function's subgradient at the momentum; weight decay imposes a constraint.

Lion-K minimises $f(x) + \frac1\lambda \kappa^*(\lambda x)$, where $\lambda$ is the weight decay. With the
default $\kappa$, the sum of magnitudes, it is Lion, which takes the sign of an interpolated momentum and so
minimises $f$ with all parameters in $[-1/\lambda, 1/\lambda]$. Other choices give normalised momentum, Muon
with weight decay, or sparse weights: see `lemmata.optim.optimizers.kappa`. One buffer of state a parameter.

References:
    - L. Chen, B. Liu, K. Liang, Q. Liu, Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts,
      ICLR 2024, arXiv:2310.05898.
    - X. Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, arXiv:2302.06675.
"""

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lemmata.optim.optimizers.base import CheckedOptimizer, check_range, foreach_batches
from lemmata.optim.optimizers.kappa import L1, check_kappa, subgradients

__all__ = ["LionK", "constraint_violation"]


class LionK(CheckedOptimizer):
    r"""Step along a subgradient of a convex function at the momentum, with weight decay.

    $$\tilde m = \beta_1 m - (1 - \beta_1)\, g, \qquad
    x \leftarrow x + \mathrm{lr}\,\big(\partial\kappa(\tilde m) - \lambda x\big), \qquad
    m \leftarrow \beta_2 m - (1 - \beta_2)\, g .$$

    `momentum_buffer` is hence *minus* the average of gradients that other implementations of Lion keep.
    Momentum and arithmetic are float32 for parameters in half precision. Such a parameter is rounded after
    every step and stands still where a step is below its resolution: keep float32 parameters, as automatic
    mixed precision does, for a small `lr`.

    The learning rate scales all of the step, decay included, whatever a gradient's size: a tenth of that of
    AdamW, with ten times its weight decay, is usual for the default kappa. A scheduler may change it at any
    time; the rule `lr * weight_decay < 1` is checked at construction and when a group is added.

    Args:
        params: Parameters, or groups of them with options of their own.
        lr: The step; a number or 0-d tensor.
        betas: The decays of the interpolation and of the momentum.
        weight_decay: The decay $\lambda$: the constraint is on $\lambda x$.
        kappa: The convex function, by default `L1()`; any object that follows `Kappa`. Each group may have
            its own.
        decay: "decoupled" as above, or "implicit":
            $x \leftarrow (x + \mathrm{lr}\,\partial\kappa(\tilde m)) / (1 + \mathrm{lr}\,\lambda)$, which
            never leaves the constraint set, whatever the learning rate.
        maximize: Go up instead of down.
        foreach: Whether to update tensors together; None chooses, on a CPU by their size.
        error_if_nonfinite: Raise before anything changes where a gradient holds NaN or infinity.

    Raises:
        ValueError: Where an option is out of range, `lr * weight_decay` is 1 or more with decoupled decay, or
            the kappa cannot take a parameter's shape.
        TypeError: Where `kappa` lacks a method; the message lists it.

    Examples:
        >>> x = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
        >>> optimizer = LionK([x], lr=0.05, weight_decay=0.5)  # keeps |x| <= 2
        >>> for _ in range(400):
        ...     optimizer.zero_grad()
        ...     ((x - torch.tensor([9.0, 1.0])) ** 2).sum().backward()
        ...     optimizer.step()
        >>> (x.detach() - torch.tensor([2.0, 1.0])).abs().max() < 0.2
        tensor(True)
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.1,
        kappa: Any = None,
        decay: Literal["decoupled", "implicit"] = "decoupled",
        maximize: bool = False,
        foreach: bool | None = None,
        error_if_nonfinite: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "kappa": L1() if kappa is None else kappa,
            "decay": decay,
            "maximize": maximize,
            "foreach": foreach,
            "error_if_nonfinite": error_if_nonfinite,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, once its options and shapes are checked.

        Args:
            param_group: `params` and options that differ from the defaults.

        Raises:
            ValueError: Where an option is out of its range, or the kappa cannot take a parameter's shape.
            TypeError: Where the kappa lacks a method.
        """
        super().add_param_group(param_group)
        try:
            _check_shapes(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with each group's kappa as text.

        So `torch.load(..., weights_only=True)` reads it. `load_state_dict` keeps the kappas of the optimiser
        it is called on, since a user's own cannot be made from text.
        """
        state = super().state_dict()
        groups = [{**group, "kappa": _described(group["kappa"])} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned into an optimiser with the same groups and kappas.

        Args:
            state_dict: The state.

        Raises:
            ValueError: Where the number of groups or parameters differs, or a group was saved with another
                kappa; remove the group's entry "kappa" to go on from its momentum with this one.
        """
        kappas = [group["kappa"] for group in self.param_groups]
        groups = state_dict["param_groups"]
        for index, (group, kappa) in enumerate(zip(groups, kappas, strict=False)):
            if group.get("kappa", _described(kappa)) != _described(kappa):
                raise ValueError(
                    f"group {index} was saved with kappa {group['kappa']} and has {_described(kappa)} here; "
                    f"construct the optimiser with the same, or remove the entry 'kappa' to change over"
                )
        bare = [{name: value for name, value in group.items() if name != "kappa"} for group in groups]
        super().load_state_dict({**state_dict, "param_groups": bare})
        for group, kappa in zip(self.param_groups, kappas, strict=True):
            group["kappa"] = kappa

    def _check_group(self, group: dict[str, Any]) -> None:
        check_kappa(group["kappa"])
        check_range("lr", group["lr"], 0)
        check_range("weight_decay", group["weight_decay"], 0)
        if len(group["betas"]) != 2:
            raise ValueError(f"`betas` (={group['betas']}) must be two numbers")
        for index, beta in enumerate(group["betas"]):
            check_range(f"betas[{index}]", beta, 0, 1)
        if group["decay"] not in {"decoupled", "implicit"}:
            raise ValueError(f'`decay` (={group["decay"]!r}) must be "decoupled" or "implicit"')
        product = float(group["lr"]) * float(group["weight_decay"])
        if group["decay"] == "decoupled" and product >= 1:
            raise ValueError(
                f"`lr` * `weight_decay` (={product:g}) must lie in [0, 1) with decoupled decay: a longer "
                f'step would overshoot the constraint set; lower one of them or take decay="implicit"'
            )

    def _update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for indices in foreach_batches(params, group["foreach"]):
            self._update_batch(group, [params[index] for index in indices])

    def _update_batch(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update parameters of one device and dtype: each operation runs over all of them."""
        beta1, beta2 = group["betas"]
        sign = 1 if group["maximize"] else -1
        momenta = [self._momentum(param) for param in params]
        gradients = [cast("Tensor", param.grad).to(_wide(param)) for param in params]

        ahead = list(torch._foreach_mul(momenta, beta1))
        torch._foreach_add_(ahead, gradients, alpha=sign * (1 - beta1))
        directions = list(subgradients(group["kappa"], ahead))
        _move(params, directions, lr=group["lr"], weight_decay=group["weight_decay"], decay=group["decay"])

        torch._foreach_mul_(momenta, beta2)
        torch._foreach_add_(momenta, gradients, alpha=sign * (1 - beta2))

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(param, dtype=_wide(param))
        return cast("Tensor", state["momentum_buffer"])


@torch.no_grad()
def constraint_violation(optimizer: LionK) -> dict[int, float]:
    r"""Return how far each group's decayed parameters $\lambda x$ are from the domain of $\kappa^*$.

    Zero means that the constraint holds. The distance shrinks by $1 - \mathrm{lr}\,\lambda$ a step or faster.

    Args:
        optimizer: The optimiser.

    Returns:
        The Euclidean distance by the group's index; NaN where the group's kappa has no projection.

    Examples:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -0.5]))
        >>> constraint_violation(LionK([x], weight_decay=0.5))
        {0: 0.5}
    """
    return {index: _distance(group) for index, group in enumerate(optimizer.param_groups)}


def _check_shapes(group: dict[str, Any]) -> None:
    """Raise ValueError where a group's kappa cannot take the shape of one of its parameters."""
    check_shape = getattr(group["kappa"], "check_shape", None)
    if check_shape is not None:
        for param in group["params"]:
            check_shape(param.shape)


def _distance(group: dict[str, Any]) -> float:
    total = 0.0
    for param in group["params"]:
        if param.numel():
            scaled = group["weight_decay"] * param.to(_wide(param))
            nearest = group["kappa"].project(scaled, 1.0)
            if nearest is None:
                return math.nan
            total += float(torch.linalg.vector_norm(scaled - nearest)) ** 2
    return math.sqrt(total)


def _move(
    params: list[Tensor],
    directions: list[Tensor],
    *,
    lr: float | Tensor,
    weight_decay: float,
    decay: str,
) -> None:
    """Move along the directions and decay, in the precision of the momenta."""
    wide = [param.to(_wide(param)) for param in params]
    if isinstance(lr, Tensor):
        lr = lr.to(params[0].device)
        # A multiple given as a tensor is only taken by multiplication.
        directions, step = list(torch._foreach_mul(directions, lr)), 1.0
    else:
        step = lr
    if weight_decay and decay == "decoupled":
        torch._foreach_mul_(wide, 1 - lr * weight_decay)
    torch._foreach_add_(wide, directions, alpha=step)
    if weight_decay and decay == "implicit":
        torch._foreach_div_(wide, 1 + lr * weight_decay)
    if wide[0].dtype != params[0].dtype:
        torch._foreach_copy_(params, wide)


def _wide(param: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision, else the parameter's."""
    return torch.promote_types(param.dtype, torch.float32)


def _described(kappa: object) -> str:
    """Return what tells a kappa in a checkpoint: what it prints, or its class where that has an address."""
    plain = type(kappa).__repr__ is object.__repr__
    return type(kappa).__qualname__ if plain else repr(kappa)
