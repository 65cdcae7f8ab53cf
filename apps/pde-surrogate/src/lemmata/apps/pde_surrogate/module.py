"""The training module: a model by name between two normalisers, its loss, optimiser and schedule.

The module learns what it maps from the data module it is trained with: channels, grids, ranges and the
normalisers' statistics, all from the training set alone. They go into the checkpoint, under
`CHECKPOINT_KEY`, as JSON types beside the hyperparameters, so that a checkpoint is enough to predict.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lemmata.apps.pde_surrogate.description import DataDescription, describe
from lemmata.apps.pde_surrogate.metrics import h1_errors
from lemmata.apps.pde_surrogate.models import build_model, check_model
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid
from lemmata.operators.losses import relative_lp, relative_sobolev
from lemmata.operators.normalize import GaussianNormalizer

__all__ = ["CHECKPOINT_KEY", "SurrogateModule", "TrainingData"]

CHECKPOINT_KEY = "surrogate"


@runtime_checkable
class TrainingData(Protocol):
    """What the module asks of its data module."""

    def training_sets(self) -> list[FieldDataset]:
        """Return the training set, one data set a resolution."""
        ...

    def train_dataloader(self) -> Any:
        """Return training batches, whose number is known."""
        ...


class SurrogateModule(LightningModule):
    """A neural operator from a PDE's input to its solution.

    Args:
        name: Name of the model; see `MODELS`.
        size: Preset of the model: S, M or L.
        overrides: Arguments of the model that take the place of the preset's, say `{"modes": 12}`.
        loss: `l2` and `h1` are relative errors in those norms; `sobolev` takes any real order on a
            periodic grid, and order 1 on others.
        sobolev_order: Order of the `sobolev` loss; negative orders weigh large scales.
        learning_rate: Largest step size of AdamW.
        weight_decay: Decoupled weight decay of AdamW.
        schedule: How the step size moves over the run: `one-cycle` warms up and anneals, `cosine`
            anneals, `constant` stays.
        warmup: Fraction of the run in which `one-cycle` rises.

    Raises:
        ValueError: Where a name is unknown or a number out of range.
    """

    inputs: GaussianNormalizer
    targets: GaussianNormalizer
    model: nn.Module

    def __init__(
        self,
        name: str = "fno",
        size: Literal["S", "M", "L"] = "M",
        overrides: dict[str, Any] | None = None,
        loss: Literal["l2", "h1", "sobolev"] = "l2",
        sobolev_order: float = 1.0,
        learning_rate: float = 6e-3,
        weight_decay: float = 1e-4,
        schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle",
        warmup: float = 0.2,
    ) -> None:
        super().__init__()
        check_model(name, size, overrides)
        if loss not in _LOSSES:
            raise ValueError(f"`loss` (={loss!r}) is not known; expected one of {', '.join(_LOSSES)}")
        if schedule not in _SCHEDULES:
            raise ValueError(
                f"`schedule` (={schedule!r}) is not known; expected one of {', '.join(_SCHEDULES)}"
            )
        for argument, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{argument}` (={value}) must be finite and not negative")
        if not math.isfinite(sobolev_order):
            raise ValueError(f"`sobolev_order` (={sobolev_order}) must be finite")
        if not 0 < warmup < 1:
            raise ValueError(f"`warmup` (={warmup}) must lie between 0 and 1")
        self.save_hyperparameters()
        self.description: DataDescription | None = None
        self.seconds = 0.0
        self._started: float | None = None

    def configure_model(self) -> None:
        """Build the model for the data module's training set, once; without one, a checkpoint does."""
        if self.description is None and self.trainer.training:
            data = getattr(self.trainer, "datamodule", None)
            if not isinstance(data, TrainingData):
                raise TypeError(f"expected a data module with training sets, got {type(data).__name__}")
            self.learn(data.training_sets())

    def learn(self, datasets: list[FieldDataset]) -> None:
        """Fit the normalisers to a training set and build the model for it.

        Args:
            datasets: The training set, one data set a resolution.
        """
        inputs, targets = GaussianNormalizer("channel"), GaussianNormalizer("channel")
        for data in datasets:
            inputs.partial_fit(data.inputs)
            targets.partial_fit(data.targets)
        self.build(describe(datasets, inputs.fingerprint))
        self.inputs.load_state_dict(inputs.state_dict())
        self.targets.load_state_dict(targets.state_dict())

    def build(self, description: DataDescription) -> None:
        """Build the normalisers and the model for data of a description.

        Args:
            description: What the surrogate is trained on.
        """
        self.description = description
        self.inputs = GaussianNormalizer("channel")
        self.targets = GaussianNormalizer("channel")
        self.model = build_model(
            self.hparams["name"],
            self.hparams["size"],
            in_channels=description.in_channels,
            out_channels=description.out_channels,
            grids=description.grids,
            overrides=self.hparams["overrides"],
        )

    def forward(
        self, fields: Float[Tensor, "batch channel *grid"]
    ) -> Float[Tensor, "batch out_channel *grid"]:
        """Predict solutions in physical units.

        Args:
            fields: Inputs in physical units, at any resolution the model supports.

        Returns:
            Solutions, in the normalisers' precision.
        """
        solution: Tensor = self.targets.inverse(self.model(self.inputs(fields)))
        return solution

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        """Return the loss of a batch of one resolution."""
        inputs, targets = batch
        value = self._loss(self(inputs), targets)
        if not bool(torch.isfinite(value)):
            raise ValueError(
                f"the loss is {value.item()} at step {self.global_step} (epoch {self.current_epoch}); "
                f"try a smaller `learning_rate` (={self.hparams['learning_rate']}) or `gradient_clip_val`"
            )
        self.log("train_loss", value, prog_bar=True, batch_size=len(inputs), sync_dist=True)
        return value

    def validation_step(self, batch: Sequence[Tensor]) -> None:
        """Log the validation errors of a batch."""
        self._log_errors("val", batch)

    def test_step(self, batch: Sequence[Tensor]) -> None:
        """Log the test errors of a batch."""
        self._log_errors("test", batch)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its schedule, stepped each batch."""
        rate = self.hparams["learning_rate"]
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, weight_decay=self.hparams["weight_decay"], fused=True
        )
        steps = _planned_steps(self.trainer)
        scheduler = _SCHEDULES[self.hparams["schedule"]](optimizer, rate, steps, self.hparams["warmup"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the surrogate was trained on."""
        checkpoint[CHECKPOINT_KEY] = {"data": self._known().to_dict(), "seconds": self._seconds_so_far()}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Rebuild the model for the data it was trained on, or raise where a run would change them."""
        if CHECKPOINT_KEY not in checkpoint:
            raise ValueError(f"the checkpoint holds no entry {CHECKPOINT_KEY!r}; it is not one of this app's")
        stored = DataDescription.from_dict(checkpoint[CHECKPOINT_KEY]["data"])
        now = self.description
        if now is not None and self.trainer.training and stored.fingerprint != now.fingerprint:
            raise ValueError(
                f"the checkpoint was trained on other data ({_brief(stored)}) than the run ({_brief(now)}); "
                "resume with the same training set"
            )
        self.build(stored)
        self.seconds = checkpoint[CHECKPOINT_KEY]["seconds"]

    def on_train_start(self) -> None:
        """Start the clock that break-even figures need."""
        self._started = time.perf_counter()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self.seconds, self._started = self._seconds_so_far(), None

    def _seconds_so_far(self) -> float:
        """Return the seconds spent on training, in earlier runs too."""
        return self.seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def _loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the training loss in at least single precision."""
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        return _LOSSES[self.hparams["loss"]](
            prediction, target.to(prediction.dtype), self._grid(target), self.hparams["sobolev_order"]
        )

    def _log_errors(self, stage: str, batch: Sequence[Tensor]) -> None:
        """Log mean relative errors, each sample counting the same."""
        inputs, targets = batch
        prediction = self(inputs).to(targets.dtype)
        grid = self._grid(targets)
        weights = grid.weights(dtype=targets.dtype, device=targets.device)
        errors = {
            f"{stage}_l2": relative_lp(prediction, targets, weights=weights),
            f"{stage}_h1": h1_errors(prediction, targets, grid).mean(),
        }
        self.log_dict(errors, prog_bar=stage == "val", batch_size=len(inputs), sync_dist=True)

    def _grid(self, fields: Tensor) -> Grid:
        """Return the grid that fields lie on."""
        return self._known().grid(fields.shape[2:])

    def _known(self) -> DataDescription:
        """Return what the module is trained on, once it is known."""
        if self.description is None:
            raise RuntimeError("the module is not built; train it, or load a checkpoint")
        return self.description


def _planned_steps(trainer: Trainer) -> int:
    """Return the optimiser's steps of the whole run.

    Equals `trainer.estimated_stepping_batches`, which would set up the trainer's loaders before a
    checkpoint's loops are restored: a run resumed within an epoch would start that epoch's batches anew.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by the trainer's data connector
    batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs, most = trainer.max_epochs, trainer.max_steps
    steps = -(-batches // trainer.accumulate_grad_batches) * (math.inf if epochs in {-1, None} else epochs)
    planned = steps if most == -1 else min(steps, most)
    if not math.isfinite(planned):
        raise ValueError("training needs `max_epochs` or `max_steps`: the schedule spans the whole run")
    return int(planned)


def _l2(prediction: Tensor, target: Tensor, grid: Grid, _: float) -> Tensor:
    """Return the relative L2 error."""
    return relative_lp(prediction, target, weights=grid.weights(dtype=target.dtype, device=target.device))


def _h1(prediction: Tensor, target: Tensor, grid: Grid, _: float) -> Tensor:
    """Return the relative H1 error."""
    return h1_errors(prediction, target, grid).mean()


def _sobolev(prediction: Tensor, target: Tensor, grid: Grid, order: float) -> Tensor:
    """Return the relative error in the Sobolev norm of an order, with unit shift."""
    if grid.layout == "periodic":
        return relative_sobolev(prediction, target, order, grid.length, shift=1.0)
    return relative_sobolev(
        prediction, target, order, grid.length, periodic=False, shift=1.0, layout=grid.layout
    )


_LOSSES = {"l2": _l2, "h1": _h1, "sobolev": _sobolev}


def _one_cycle(optimizer: torch.optim.Optimizer, rate: float, steps: int, warmup: float) -> Any:
    """Rise to the rate, then anneal to nothing."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warmup)


def _cosine(optimizer: torch.optim.Optimizer, _: float, steps: int, __: float) -> Any:
    """Anneal from the rate to nothing."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def _constant(optimizer: torch.optim.Optimizer, _: float, __: int, ___: float) -> Any:
    """Keep the rate."""
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


_SCHEDULES = {"one-cycle": _one_cycle, "cosine": _cosine, "constant": _constant}


def _brief(description: DataDescription) -> str:
    """Return a description in a few words."""
    grids = ", ".join("x".join(map(str, grid.shape)) for grid in description.grids)
    return f"{description.samples} samples at {grids}, {description.fingerprint[:12]}"
