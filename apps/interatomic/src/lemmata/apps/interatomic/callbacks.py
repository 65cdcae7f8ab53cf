"""What happens beside a run's steps: the running average of the weights, and the second stage of the loss."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lemmata.apps.interatomic.losses import LossWeights

__all__ = ["RunningAverage", "StageTwo", "average", "planned_steps"]


class RunningAverage(Callback):
    """Moves `averaged` of the module towards `potential` after each step of the optimiser.

    The average is part of the module's state, so that every checkpoint holds it and a resumed run goes on
    with it. It starts as a mean over few steps: after step $t$ the weight of what was before is at most
    $(1 + t) / (10 + t)$.

    Args:
        decay: Weight of what was before.

    Raises:
        ValueError: Where `decay` does not lie in (0, 1).
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`ema` (={decay}) must lie in (0, 1), or be 0 for none")
        self.decay = decay
        self._step = 0

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Take up the count of steps."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the average where the batch ended a step."""
        step = trainer.global_step
        if step != self._step:
            self._step = step
            decay = min(self.decay, (1 + step) / (10 + step))
            average(pl_module.get_submodule("averaged"), pl_module.get_submodule("potential"), decay)


class StageTwo(Callback):
    """Gives the loss other weights in the last part of a run.

    Forces are learnt first, as a configuration has few energies and many forces; energies are pulled right at
    the end.

    Args:
        at: Where the second stage begins, as a fraction of the run's steps.
        weights: The loss's weights from there on.

    Raises:
        ValueError: Where `at` does not lie in [0, 1].
    """

    def __init__(self, at: float, weights: LossWeights) -> None:
        if not 0 <= at <= 1:
            raise ValueError(f"`stage_two_at` (={at}) must lie in [0, 1]; 1 is for no second stage")
        self.at = at
        self.weights = weights
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Find the first step of the second stage."""
        self._first_step = round(self.at * planned_steps(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Change the weights; which they are follows from the step alone, as a resumed run needs."""
        if trainer.global_step >= self._first_step:
            pl_module.loss_weights = self.weights  # type: ignore[assignment] # an InteratomicModule's


@torch.no_grad()
def average(averaged: nn.Module, trained: nn.Module, decay: float) -> None:
    """Move averaged weights towards trained ones, in place.

    Args:
        averaged: Holds the average.
        trained: Holds the newest weights.
        decay: Weight of what was before.
    """
    before: list[Tensor] = list(averaged.parameters())
    now: list[Tensor] = list(trained.parameters())
    torch._foreach_lerp_(before, now, 1 - decay)


def planned_steps(trainer: Trainer) -> int:
    """Return the optimiser's steps of the whole run.

    Equals `trainer.estimated_stepping_batches`, which would set up the trainer's loaders before a
    checkpoint's loops are restored: a run resumed within an epoch would start that epoch's batches anew.

    Args:
        trainer: The trainer, with its data module.

    Raises:
        ValueError: Where the run has no end.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by the trainer's data connector
    batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    an_epoch = -(-batches // trainer.accumulate_grad_batches)
    epochs, most = trainer.max_epochs, trainer.max_steps
    if epochs in {-1, None}:
        if most == -1:
            raise ValueError("training needs `max_epochs` or `max_steps`: schedules span the whole run")
        return most
    steps = an_epoch * int(epochs or 0)
    return steps if most == -1 else min(steps, most)
