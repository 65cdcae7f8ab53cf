"""The training module: a potential, the running average of its weights, its loss and optimiser.

The module learns elements, reference energies, scale and cutoff from the data module it is trained with. What
rebuilds the potential goes into the checkpoint as plain values, so that a checkpoint is enough to use it.
"""

import copy
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lemmata.apps.interatomic.callbacks import RunningAverage, StageTwo, planned_steps
from lemmata.apps.interatomic.losses import (
    MILLI,
    QUANTITIES,
    ErrorSums,
    LossWeights,
    check_kind,
    weighted_loss,
)
from lemmata.apps.interatomic.models import MODELS, Potential, Prediction, build
from lemmata.apps.interatomic.optimization import check_optimization, make_optimizer, make_schedule
from lemmata.apps.interatomic.reference import Reference
from lemmata.apps.interatomic.trained import CHECKPOINT_KEY

__all__ = ["DivergedError", "InteratomicModule", "TrainingAtoms"]


class DivergedError(FloatingPointError, ValueError):
    """The loss is not finite."""


@runtime_checkable
class TrainingAtoms(Protocol):
    """What the module asks of its data module."""

    @property
    def reference(self) -> Reference:
        """What is known of the training configurations."""
        ...

    def train_dataloader(self) -> Any:
        """Return training batches, whose number is known."""
        ...


class InteratomicModule(LightningModule):
    """A potential that learns energies, forces and stress.

    Args:
        model: `tensor-product`, `position-orientation` or `frame`.
        model_options: Further arguments of the model, say `{"channels": 16}`.
        zbl: Add the screened repulsion of nuclei at short distances.
        loss: `mse`, or `huber` for data with outliers.
        huber_delta: Where Huber's function turns linear, eV, eV/A and eV/A^3.
        energy_weight: Weight of energies an atom in the loss.
        forces_weight: Weight of forces.
        stress_weight: Weight of stress, where there are labels.
        stage_two_at: Fraction of the run after which the energies' weight changes; 1 for no second stage.
        stage_two_energy_weight: Their weight from there on.
        ema: Decay of the running average of the weights, which is validated and exported; 0 for none.
        optimizer: `adam`, `adamw` or `muon`.
        lr: Largest learning rate.
        weight_decay: Weight decay of matrices.
        schedule: `cosine`, `linear`, `plateau` or `constant`.
        warmup: Steps in which the learning rate rises.

    Raises:
        ValueError: Where a name is unknown or a number out of range.
    """

    potential: Potential

    def __init__(
        self,
        model: str = "tensor-product",
        model_options: dict[str, Any] | None = None,
        zbl: bool = False,
        loss: str = "mse",
        huber_delta: float = 0.01,
        energy_weight: float = 1.0,
        forces_weight: float = 100.0,
        stress_weight: float = 10.0,
        stage_two_at: float = 0.75,
        stage_two_energy_weight: float = 1000.0,
        ema: float = 0.99,
        optimizer: str = "adam",
        lr: float = 0.01,
        weight_decay: float = 0.0,
        schedule: str = "cosine",
        warmup: int = 50,
    ) -> None:
        super().__init__()
        if model not in MODELS:
            raise ValueError(f"`model` (={model!r}) is not known; expected one of {', '.join(MODELS)}")
        check_kind(loss)
        if not huber_delta > 0:
            raise ValueError(f"`huber_delta` (={huber_delta}) must be positive")
        check_optimization(optimizer, schedule, lr, weight_decay, warmup)
        self.save_hyperparameters()
        self.model_options = {"model": model, "zbl": zbl, **(model_options or {})}
        self.kind, self.huber_delta = loss, huber_delta
        self.loss_weights = LossWeights(energy_weight, forces_weight, stress_weight)
        self.final_weights = LossWeights(
            energy_weight if stage_two_at == 1 else stage_two_energy_weight, forces_weight, stress_weight
        )
        self._callbacks: list[Callback] = [StageTwo(stage_two_at, self.final_weights)]
        if ema:
            self._callbacks.append(RunningAverage(ema))
        # Tells what does not fit before any data are read; they give elements, energies and cutoff. The
        # weights that count are drawn later, from the same random numbers on all processes.
        with torch.random.fork_rng(devices=[]):
            build(self._config({"elements": [1], "cutoff": 5.0}))
        self.config: dict[str, Any] | None = None
        self._errors = ErrorSums()

    def configure_callbacks(self) -> list[Callback]:
        """Return what moves the average and starts the second stage."""
        return self._callbacks

    def configure_model(self) -> None:
        """Build the potential for the data module's frames, once; without training, a checkpoint does."""
        if self.config is None and self.trainer.training:
            self.build(self.config_for(self._data().reference))

    def config_for(self, reference: Reference) -> dict[str, Any]:
        """Return what rebuilds a potential for some data.

        Args:
            reference: What is known of the data.
        """
        return self._config(
            {
                "elements": list(reference.elements),
                "cutoff": reference.cutoff,
                "reference_energies": [reference.e0[z] for z in reference.elements],
                "scale": reference.scale,
                "average_neighbours": reference.average_neighbours,
            }
        )

    def build(self, config: Mapping[str, Any]) -> None:
        """Build the potential, and the average of its weights where one is kept.

        Args:
            config: What rebuilds it.
        """
        self.potential = build(config)
        self.config = self.potential.config
        if self.hparams["ema"]:
            self.averaged = copy.deepcopy(self.potential).requires_grad_(requires_grad=False)

    def forward(self, data: Any, *, training: bool = False) -> Prediction:
        """Predict energies, forces, and stress where there are labels of it.

        Args:
            data: A batch.
            training: Predict with the newest weights and keep what derivatives need; else with the average.
        """
        stress = bool((data.stress_weight > 0).any())
        potential = self.potential if training or not self.hparams["ema"] else self.averaged
        prediction: Prediction = potential(data, forces=True, stress=stress, training=training)
        return prediction

    def training_step(self, data: Any) -> Tensor:
        """Return the loss of a batch."""
        loss = weighted_loss(
            self(data, training=True),
            data,
            self.loss_weights,
            kind=self.kind,
            delta=self.huber_delta,
        )
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.global_step}; try a smaller `lr` "
                f"(={self.hparams['lr']}) or `gradient_clip_val`"
            )
        self.log("train_loss", loss, prog_bar=True, batch_size=data.num_graphs, sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count errors anew."""
        self._errors = ErrorSums()

    def on_test_epoch_start(self) -> None:
        """Count errors anew."""
        self._errors = ErrorSums()

    def validation_step(self, data: Any) -> None:
        """Count a batch's errors."""
        self._errors.update(self(data), data)

    def test_step(self, data: Any) -> None:
        """Count a batch's errors."""
        self._errors.update(self(data), data)

    def on_validation_epoch_end(self) -> None:
        """Log the validation errors."""
        self._log_errors("val")

    def on_test_epoch_end(self) -> None:
        """Log the test errors."""
        self._log_errors("test")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser and its schedule."""
        options = self.hparams
        optimizer = make_optimizer(
            options["optimizer"], self.potential, lr=options["lr"], weight_decay=options["weight_decay"]
        )
        name = options["schedule"]
        scheduler = make_schedule(
            name, optimizer, max(1, planned_steps(self.trainer)), warmup=options["warmup"]
        )
        interval = "epoch" if name == "plateau" else "step"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": interval,
                "monitor": "val_loss",
                "strict": False,
            },
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the potential."""
        checkpoint[CHECKPOINT_KEY] = {"config": self.config}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Build the potential that was trained, or raise where a run would change it."""
        if CHECKPOINT_KEY not in checkpoint:
            raise ValueError(f"the checkpoint holds no entry {CHECKPOINT_KEY!r}; it is not one of this app's")
        config = checkpoint[CHECKPOINT_KEY]["config"]
        trainer = self._trainer
        if trainer is not None and trainer.training:
            self._check_same_run(checkpoint, config)
        else:
            self.hparams["ema"] = checkpoint["hyper_parameters"]["ema"]
            self.build(config)
            use = getattr(getattr(trainer, "datamodule", None), "use", None)
            if use is not None:
                # Graphs of another cutoff would silently lack neighbours.
                use(self.potential.elements, self.potential.cutoff)

    def _check_same_run(self, checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Raise where a resumed run has other data, another potential or optimiser than before."""
        now = self.config or {}
        if changed := [name for name in {**config, **now} if config.get(name) != now.get(name)]:
            raise ValueError(
                f"the checkpoint's potential differs from the run's in {', '.join(changed)}; resume with the "
                "same data, cutoff and model"
            )
        for name in ("optimizer", "schedule", "ema"):
            before = checkpoint["hyper_parameters"][name]
            if before != self.hparams[name]:
                raise ValueError(
                    f"`{name}` (={self.hparams[name]!r}) is not the checkpoint's, {before!r}; resume with "
                    "the same"
                )

    def _config(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole configuration of a potential, from what is known of the data and the options."""
        return {**known, **self.model_options}

    def _log_errors(self, stage: str) -> None:
        """Log errors, and the loss they amount to with the weights of the last stage.

        Its weights stay the same throughout a run, so that losses of all its checkpoints can be compared.
        """
        found = self._errors.compute()
        loss = sum(
            getattr(self.final_weights, name) * (found[f"{name}_rmse"] / MILLI) ** 2
            for name in QUANTITIES
            if f"{name}_rmse" in found
        )
        values = {f"{stage}_loss": float(loss), **{f"{stage}_{name}": value for name, value in found.items()}}
        shown = {"val_loss", "val_forces_mae"}
        for name, value in values.items():
            self.log(name, value, prog_bar=name in shown, sync_dist=True, batch_size=1)

    def _data(self) -> TrainingAtoms:
        """Return the data module."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TrainingAtoms):
            raise TypeError(f"expected a data module with a reference, got {type(data).__name__}")
        return data
