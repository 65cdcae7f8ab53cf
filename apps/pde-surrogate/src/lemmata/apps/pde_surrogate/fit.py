"""Train a surrogate from Python, as the command line's `fit` does."""

from pathlib import Path
from typing import Any, Literal

__all__ = ["fit"]


def fit(
    train: Path | str | list[str],
    *,
    out: Path | str,
    val: float | str | None = 0.1,
    name: str = "fno",
    size: Literal["S", "M", "L"] = "M",
    overrides: dict[str, Any] | None = None,
    loss: Literal["l2", "h1", "sobolev"] = "l2",
    sobolev_order: float = 1.0,
    epochs: int = 50,
    batch_size: int = 20,
    learning_rate: float = 6e-3,
    weight_decay: float = 1e-4,
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle",
    seed: int = 0,
    data: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    checkpoint_every: int = 0,
    resume: Path | str | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> Path:
    """Train a surrogate.

    Args:
        train: Data set of the app or file of fields, or several.
        out: The run's folder: checkpoints, metrics.csv, TensorBoard's events.
        val: Validation data, or the fraction of the training samples to set aside; none where None.
        name: The model; see `models.MODELS`.
        size: Preset of the model.
        overrides: Arguments of the model that take the place of the preset's.
        loss: The loss; see `SurrogateModule`.
        sobolev_order: Order of the `sobolev` loss.
        epochs: Passes over the training set.
        batch_size: Samples in a batch of each process.
        learning_rate: Largest step size of AdamW.
        weight_decay: Decoupled weight decay of AdamW.
        schedule: How the step size moves over the run.
        seed: Seed of the weights, the split and the order of samples.
        data: Further arguments of `FieldDataModule`.
        trainer: Further arguments of `lightning.Trainer`, say `{"precision": "64-true"}`.
        checkpoint_every: Steps between two checkpoints within an epoch; 0 for epochs' ends alone.
        resume: `"last"` or a checkpoint to go on from.
        force: Replace what the folder holds.
        progress: Show a progress bar; where stderr is a terminal by default.

    Returns:
        The run's folder, which `Surrogate.load` takes.

    Raises:
        FileExistsError: Where the folder holds a run and neither `force` nor `resume` is given.
        FileNotFoundError: Where data or checkpoint do not exist.
        FloatingPointError: Where the loss is not finite.
        ValueError: Where an argument is out of range, or data cannot be read or do not fit each other.
    """
    from lightning.pytorch import Trainer, seed_everything

    from lemmata.apps.kit.training import open_run, quiet, trainer_arguments
    from lemmata.apps.pde_surrogate.datamodule import FieldDataModule
    from lemmata.apps.pde_surrogate.module import SurrogateModule

    sources = train if isinstance(train, list) else str(train)
    fields = FieldDataModule(sources, val, batch_size=batch_size, seed=seed, **(data or {}))
    module = SurrogateModule(
        name, size, overrides, loss, sobolev_order, learning_rate, weight_decay, schedule
    )
    run = open_run(out, resume=resume, force=force)
    monitor = None if val is None else "val_l2"
    arguments = {
        **trainer_arguments(
            run.folder, monitor=monitor, every_n_train_steps=checkpoint_every, progress=progress
        ),
        "max_epochs": epochs,
        "log_every_n_steps": 10,
        "enable_model_summary": False,
        **(trainer or {}),
    }
    with quiet():
        seed_everything(seed, verbose=False)
        Trainer(**arguments).fit(module, datamodule=fields, ckpt_path=run.checkpoint, weights_only=True)
    return run.folder
