"""Learning rates in closed form: linear decay with warm-up, and any schedule given as an array.

For convex problems, decaying the learning rate linearly to zero makes the last iterate as good as theory
allows, and in practice it matches or beats cosine decay: use it unless a recorded run says otherwise (see
`lemmata.optim.refine_schedule`). The learning rate of step `t` is a function of `t` and of each group's
base learning rate alone, never of the one before, so a run resumed at any step is exact, and checkpoints of
optimiser and scheduler may be loaded in either order.

References:
    A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, When, Why and How Much? Adaptive Learning Rate
    Scheduling by Refinement, 2023, arXiv:2310.07831.
"""

import operator
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["ArraySchedule", "ClosedFormSchedule", "LinearDecay"]


class ClosedFormSchedule(LRScheduler):
    """A scheduler whose learning rates at step `t` are the base ones times `multiplier(t)`.

    A group's base learning rate is its `lr` when the first scheduler was attached to it, which torch keeps in
    the group as `initial_lr`.

    Args:
        optimizer: Its groups may differ in learning rate, given as numbers or 0-d tensors; tensors are filled
            in place.
        last_epoch: Number of the last step taken in an earlier run, whose optimiser state has been loaded;
            -1 at the start.

    Raises:
        TypeError: Where `optimizer` is not an optimiser.
        ValueError: Where `last_epoch < -1`.
        KeyError: Where a run is resumed by `last_epoch`, and a group lacks `initial_lr`.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if last_epoch < -1:
            raise ValueError(f"`last_epoch` (={last_epoch}) must lie in [-1, inf)")
        super().__init__(optimizer, last_epoch)

    @abstractmethod
    def multiplier(self, step: int) -> float:
        """Return the factor on every base learning rate at a step.

        Args:
            step: Number of the step, the first being 0.

        Raises:
            ValueError: Where the step is negative.
        """

    def lr(self, step: int) -> list[float | Tensor]:
        """Return every group's learning rate at a step, without touching the optimiser.

        Args:
            step: Number of the step, the first being 0; steps past the end have the last value.

        Returns:
            One number, or new 0-d tensor, a group.

        Raises:
            ValueError: Where the step is negative.
        """
        multiplier = self.multiplier(step)
        return [base * multiplier for base in self.base_lrs]

    def get_lr(self) -> list[float | Tensor]:
        """Return every group's learning rate at the present step."""
        return self.lr(self.last_epoch)

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        """Return the same where torch asks for another step, as `SequentialLR` does."""
        return self.lr(self.last_epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a scheduler's state, and set the optimiser's learning rates to those of its step.

        The state holds the whole schedule: it replaces the one given at construction.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: Where the state has learning rates for another number of groups.
        """
        groups = self.optimizer.param_groups
        if len(state_dict["base_lrs"]) != len(groups):
            raise ValueError(
                f"`state_dict` has learning rates for {len(state_dict['base_lrs'])} parameter groups; the "
                f"optimizer has {len(groups)}"
            )
        super().load_state_dict(state_dict)
        for group, value in zip(groups, self.lr(self.last_epoch), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = float(value)
        self._last_lr = [
            group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"] for group in groups
        ]


class LinearDecay(ClosedFormSchedule):
    r"""Linear warm-up, then linear decay to exactly zero.

    With $T$ steps of which $W$ are warm-up, step $t = 0, \ldots, T - 1$ has the factor

    $$\frac{t + 1}{W + 1} \quad (t < W), \qquad 1 - \frac{t - W}{T - W} \quad (t \ge W) .$$

    The first step moves, the peak is at step $W$, the last step $T - 1$ still moves by $1 / (T - W)$, and
    from $T$ on the factor is `final`; with a positive one the decay goes from 1 to it.

    Args:
        optimizer: Its groups' learning rates are the peak ones.
        total_steps: Number of optimiser steps of the whole run, warm-up included.
        warmup_steps: Number of steps of the warm-up.
        final: Factor at the end.
        last_epoch: See `ClosedFormSchedule`.

    Raises:
        ValueError: Where `total_steps < 1`, `warmup_steps` is not in `[0, total_steps)`, or `final` is not in
            `[0, 1]`.
        TypeError: Where a number of steps is not an integer.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0)
        >>> schedule = LinearDecay(optimizer, total_steps=6, warmup_steps=1)
        >>> [schedule.multiplier(step) for step in range(7)]
        [0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        final: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.total_steps = _integer("total_steps", total_steps)
        self.warmup_steps = _integer("warmup_steps", warmup_steps)
        self.final = float(final)
        if self.total_steps < 1:
            raise ValueError(f"`total_steps` (={total_steps}) must lie in [1, inf)")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"`warmup_steps` (={warmup_steps}) must lie in [0, `total_steps`) = [0, {total_steps})"
            )
        if not 0 <= self.final <= 1:
            raise ValueError(f"`final` (={final}) must lie in [0, 1]")
        super().__init__(optimizer, last_epoch)

    def multiplier(self, step: int) -> float:
        """Return the factor on every base learning rate at a step, `final` past the end.

        Args:
            step: Number of the step, the first being 0.

        Raises:
            ValueError: Where the step is negative.
        """
        _check_step(step)
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        left = max(self.total_steps - step, 0) / (self.total_steps - self.warmup_steps)
        # In this form both ends are exact: 1 where `left` is 1, and `final` where it is 0.
        return left + self.final * (1 - left)


class ArraySchedule(ClosedFormSchedule):
    """Learning rates that follow an array, such as a refined schedule.

    Args:
        optimizer: Its groups' learning rates are those of multiplier 1.
        multipliers: One non-negative factor a step. Kept in float64, saved with the scheduler's state and
            restored from it.
        last_epoch: See `ClosedFormSchedule`.

    Raises:
        ValueError: Where `multipliers` is empty, has other than one axis, or an entry that is negative or not
            finite, naming the first.

    Examples:
        >>> optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
        >>> schedule = ArraySchedule(optimizer, torch.tensor([0.5, 1.0, 0.0]))
        >>> for step in range(5):
        ...     print(schedule.get_last_lr())
        ...     optimizer.step()
        ...     schedule.step()
        [0.05]
        [0.1]
        [0.0]
        [0.0]
        [0.0]
    """

    def __init__(
        self, optimizer: Optimizer, multipliers: Shaped[Tensor, "..."], last_epoch: int = -1
    ) -> None:
        # A copy: the caller may go on to write into its array.
        self.multipliers = torch.as_tensor(multipliers).detach().to("cpu", torch.float64, copy=True)
        if self.multipliers.ndim != 1 or not len(self.multipliers):
            raise ValueError(
                f"`multipliers` must have one axis and at least one entry, its shape is "
                f"{tuple(self.multipliers.shape)}"
            )
        wrong = ~(self.multipliers.isfinite() & (self.multipliers >= 0))
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"`multipliers` must lie in [0, inf); the first that does not is number {first} "
                f"(={float(self.multipliers[first]):g})"
            )
        super().__init__(optimizer, last_epoch)

    def multiplier(self, step: int) -> float:
        """Return the factor on every base learning rate at a step, the last one past the end.

        Args:
            step: Number of the step, the first being 0.

        Raises:
            ValueError: Where the step is negative.
        """
        _check_step(step)
        return float(self.multipliers[min(step, len(self.multipliers) - 1)])


def _integer(name: str, value: Any) -> int:
    """Return a whole number as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` (={value!r}) must be an integer") from None


def _check_step(step: int) -> None:
    if step < 0:
        raise ValueError(f"`step` (={step}) must lie in [0, inf)")
