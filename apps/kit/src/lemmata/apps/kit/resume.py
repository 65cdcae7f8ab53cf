"""Exact resume: a run killed at any point and resumed equals one that was never interrupted.

Lightning restores weights, optimisers, schedulers and loop counters, but neither the random states nor, in
the middle of an epoch, the position in the data; its checkpoints taken after a batch come before that step is
logged and before the validation that may follow it. Here the checkpoint is taken *between* two steps instead:
all that belongs to the step before is done, logged and written, nothing of the step after has drawn a random
number.

On a CPU with fixed threads the resumed run then has the same weights, optimiser state, logged losses and
epoch-wide means, bit for bit. What it needs is a `ResumableLoader` for
training and the two callbacks of this module among the trainer's;
`trainer_arguments` puts them there.

References:
    Lightning issue 19764 (resuming in the middle of an epoch).
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lemmata.apps.kit.loading import ResumableLoader, ResumableSampler
from lemmata.apps.kit.logs import CsvLogger

__all__ = [
    "LastCheckpoint",
    "RandomState",
    "ResumableLoader",
    "ResumableSampler",
    "random_state",
    "set_random_state",
]


def random_state() -> dict[str, Any]:
    """Return the states of the global generators of torch, numpy and Python.

    Of torch these are the CPU's and, where it is in use, the current CUDA device's.

    Returns:
        A dict of tensors and plain numbers, which `torch.load(weights_only=True)` reads.

    Examples:
        >>> before = random_state()
        >>> drawn = torch.rand(3)
        >>> set_random_state(before)
        >>> torch.equal(torch.rand(3), drawn)
        True
    """
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  # the global one is saved
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]  # torch does not annotate it
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": next_gauss},
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the global generators to what `random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    stored = state["numpy"]
    keys = stored["keys"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, stored["position"], stored["has_gauss"], stored["gauss"]))  # noqa: NPY002  # the global one is set
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))


class RandomState(Callback):
    """Stores the random states in every checkpoint, and sets them where the training goes on.

    Validation leaves the training's random numbers alone: what it draws is undone at its end. Put this
    callback before others that draw random numbers.
    """

    def __init__(self) -> None:
        self.before_epoch: dict[str, Any] | None = None
        self.before_batch: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Have the training's loaders tell when they are about to read."""
        for loader in _training_loaders(trainer):
            if isinstance(loader, ResumableLoader):
                loader.before_fetch = self._before_fetch

    def on_train_epoch_start(self, *_: Any) -> None:
        """Take up the stored state where an epoch begins; remember the state for a checkpoint."""
        self._take_up()
        self.before_epoch = random_state()

    def on_train_batch_start(self, *_: Any) -> None:
        """Take up the stored state with a loader that does not tell when it reads."""
        self._take_up()

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Remember the training's state."""
        if not trainer.sanity_checking:
            self._before_validation = random_state()

    def on_validation_end(self, *_: Any) -> None:
        """Give the training its state back."""
        if self._before_validation is not None:
            set_random_state(self._before_validation)
            self._before_validation = None

    def on_save_checkpoint(
        self, _trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the states of all processes."""
        checkpoint[_RANDOM] = _of_all_processes(self._before_validation or random_state())

    def on_load_checkpoint(
        self, trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep this process's state until the training goes on."""
        states = checkpoint.get(_RANDOM)
        if states:
            self._restored = states[trainer.global_rank % len(states)]

    def _before_fetch(self) -> None:
        self._take_up()
        self.before_batch = random_state()

    def _take_up(self) -> None:
        if self._restored is not None:
            set_random_state(self._restored)
            self._restored = None


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` between two steps: every n steps, between epochs, and when the run ends.

    Needs `RandomState` among the callbacks. With gradient accumulation a step is an optimiser's step.
    An extended run (more epochs than at first) goes on exactly; one that `max_steps` or a time limit
    stopped within an epoch goes on with the next epoch.

    Args:
        folder: Folder of `last.ckpt`; the trainer's `default_root_dir` by default.
        every_n_train_steps: Steps between two checkpoints within an epoch; 0 for none within an epoch.

    Raises:
        ValueError: Where `every_n_train_steps` is negative.
    """

    def __init__(self, folder: Path | str | None = None, *, every_n_train_steps: int = 0) -> None:
        if every_n_train_steps < 0:
            raise ValueError(f"`every_n_train_steps` (={every_n_train_steps}) must not be negative")
        self.folder = folder
        self.every_n_train_steps = every_n_train_steps
        self._saving: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None
        self._means: dict[str, dict[str, Any]] = {}
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Set the counters Lightning cannot know, and cut the logs to the step that comes next."""
        random_state_of(trainer)
        if self._restored is not None:
            _set_counters(trainer, self._restored)
            self._means = dict(self._restored["means"])
            # What schedulers and callbacks look up when no validation comes before.
            trainer._logger_connector._callback_metrics.update(self._restored["metrics"])
            self._saved_step = trainer.global_step
        next_step = self._restored["next_step"] if self._restored is not None else trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, CsvLogger):
                logger.rewind(next_step)
        self._restored = None

    def on_train_batch_start(
        self, trainer: Trainer, _module: LightningModule, _batch: Any, batch_idx: int
    ) -> None:
        """Save before a step, as all of the step before it is done."""
        step = trainer.global_step
        due = self.every_n_train_steps > 0 and step % self.every_n_train_steps == 0
        if (batch_idx == 0 or due) and step != self._saved_step:
            self._save(trainer, batch_idx, ended=False)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Add the part of the epoch before the interruption to its means."""
        self._add_means(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Likewise, for what is logged at an epoch's end."""
        self._add_means(trainer)
        self._means = {}

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Save the end of the run."""
        self._save(trainer, 0, ended=True)

    def on_save_checkpoint(
        self, trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Turn the checkpoint, taken as a batch starts, into one taken before that batch was read."""
        if self._saving is None:
            return
        batches, ended = self._saving["batches"], self._saving["ended"]
        generators = random_state_of(trainer)
        if not ended:
            before = generators.before_batch if batches else generators.before_epoch
            if before is not None:
                checkpoint[_RANDOM] = _of_all_processes(before)
            _step_back(checkpoint["loops"]["fit_loop"], begun=batches == 0)
        checkpoint[_BETWEEN] = {
            "batches": batches,
            "next_step": trainer.fit_loop.epoch_loop._batches_that_stepped,
            "processes": trainer.world_size,
            "means": _of_all_processes(_means(trainer) if batches else {}),
            "metrics": {name: value.detach().clone() for name, value in trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what the training needs to go on."""
        between = checkpoint.get(_BETWEEN)
        step = checkpoint["global_step"] if between is None else between["next_step"]
        for logger in trainer.loggers:
            _purge_tensorboard(logger, step)
        if between is None:
            return
        if between["batches"] and between["processes"] != trainer.world_size:
            raise ValueError(
                f"the checkpoint was taken within an epoch of {between['processes']} processes, this run has "
                f"{trainer.world_size}; resume with as many"
            )
        means = between["means"][trainer.global_rank % len(between["means"])]
        self._restored = {**between, "means": means}

    def _save(self, trainer: Trainer, batches: int, *, ended: bool) -> None:
        """Write `last.ckpt`, once the logs hold all that came before."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's debugging connector
            return
        for logger in trainer.loggers:
            logger.save()
        self._saving = {"batches": batches, "ended": ended}
        try:
            trainer.save_checkpoint(
                Path(self.folder or trainer.default_root_dir) / "last.ckpt", weights_only=False
            )
        finally:
            self._saving = None
        self._saved_step = trainer.global_step

    def _add_means(self, trainer: Trainer) -> None:
        """Add the stored partial sums to metrics that were logged once since; addition commutes exactly."""
        results = trainer.fit_loop.epoch_loop._results
        for key in [key for key in self._means if key in results and results[key].update_called]:
            stored, metric = self._means.pop(key), results[key]
            value = stored["value"].to(metric.value.device)
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                metric.value = metric.meta.reduce_fx(metric.value, value)
                continue
            metric.value = metric.value + value
            if stored["weight"] is not None:
                metric.cumulated_batch_size = metric.cumulated_batch_size + stored["weight"].to(value.device)


# Keys of a checkpoint.
_RANDOM = "lemmata_random_state"
_BETWEEN = "lemmata_between_steps"


def random_state_of(trainer: Trainer) -> RandomState:
    """Return the trainer's `RandomState` callback, or raise."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by the trainer's callback connector
        if isinstance(callback, RandomState):
            return callback
    raise ValueError("`LastCheckpoint` needs `RandomState` among the trainer's callbacks")


def _training_loaders(trainer: Trainer) -> list[Any]:
    """Return the training's loaders."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


def _step_back(loops: dict[str, Any], *, begun: bool) -> None:
    """Turn the stored counters back to before the batch was read.

    Where the epoch has just begun, to before the epoch.

    Lightning stores progress as ready, started, processed and completed, over the run (`total`) and within
    the epoch (`current`).
    """
    for loader in loops["state_dict"].get("combined_loader", []):
        if "position" in loader:
            loader["position"] -= 1
    if begun:
        for progress in loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]:
            progress["ready"] = progress["started"] = progress["processed"]


def _set_counters(trainer: Trainer, between: dict[str, Any]) -> None:
    """Set the epoch loop's counters to between two steps, in the way Lightning then takes them up.

    Lightning's stages of a restart are made for checkpoints taken after a batch or after validation. With its
    stage cleared, `reset` counts one logged step more when it restarts within an epoch, and none when an
    epoch begins.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    batches = between["batches"]
    progress = loop.batch_progress
    done = progress.total.completed
    progress.total.ready = progress.total.started = progress.total.processed = done
    progress.current.ready = progress.current.started = batches
    progress.current.processed = progress.current.completed = batches
    progress.is_last_batch = False
    loop.reset_restart_stage()
    loop.val_loop.restarting = False
    loop.val_loop.reset_restart_stage()
    if batches == 0:
        loop._restarting = False
    loop._batches_that_stepped = between["next_step"] - (1 if loop.restarting else 0)
    # Else the epoch's end would leave out schedulers that watch a metric.
    trainer.fit_loop._restarting = False


def _means(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Return the partial sums of the epoch's means so far."""
    return {
        key: {
            "value": metric.value.detach().clone(),
            "weight": metric.cumulated_batch_size.clone() if metric.meta.is_mean_reduction else None,
        }
        for key, metric in trainer.fit_loop.epoch_loop._results.items()
        if metric.is_tensor and metric.meta.on_epoch and metric.update_called
    }


def _of_all_processes(state: Any) -> list[Any]:
    """Return every process's value, in the order of their ranks; all processes must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def _purge_tensorboard(logger: Logger, step: int) -> None:
    """Have TensorBoard drop what a killed run logged after its last checkpoint."""
    if isinstance(logger, TensorBoardLogger) and logger._experiment is None:
        logger._kwargs["purge_step"] = step
