"""Train an interatomic potential from Python, as the command line's `fit` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Callback = "lightning.pytorch.callbacks.Callback"

__all__ = ["configure", "train"]


def train(
    data: Path | str,
    out: Path | str,
    *,
    model: str = "tensor-product",
    model_options: dict[str, Any] | None = None,
    cutoff: float = 5.0,
    epochs: int = 100,
    batch_size: int = 5,
    lr: float = 0.01,
    seed: int = 0,
    resume: Path | str | None = None,
    force: bool = False,
    progress: bool | None = None,
    loss_options: dict[str, Any] | None = None,
    training_options: dict[str, Any] | None = None,
    data_options: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    callbacks: "Sequence[Callback]" = (),
    checkpoint_every: int = 0,
) -> Path:
    """Train an interatomic potential.

    Args:
        data: A folder that `prepare` wrote, or an extended-XYZ file.
        out: The run's folder.
        model: `tensor-product`, `position-orientation` or `frame`.
        model_options: Further arguments of the model.
        cutoff: Radius of neighbourhoods, A.
        epochs: Passes through the data.
        batch_size: Configurations in a batch of each process.
        lr: Largest learning rate.
        seed: Seed of the weights and of the order of the data.
        resume: `"last"` or a checkpoint to go on from.
        force: Replace what the folder holds.
        progress: Show a progress bar; where stderr is a terminal by default.
        loss_options: Weights and kind of the loss, as of `InteratomicModule`.
        training_options: Further arguments of `InteratomicModule`: optimiser, schedule, average.
        data_options: Further arguments of `AtomsDataModule`.
        trainer: Further arguments of `lightning.Trainer`.
        callbacks: Further callbacks.
        checkpoint_every: Steps between two writes of last.ckpt within an epoch; 0 for epochs' ends alone.

    Returns:
        The run's folder: checkpoints, metrics.csv (columns step, train_loss, val_loss, val_energy_mae in
        meV an atom, val_forces_mae in meV/A, ...), TensorBoard's events.

    Raises:
        FileExistsError: Where the folder holds a run and neither `force` nor `resume` is given.
        FileNotFoundError: Where data or checkpoint do not exist.
        FloatingPointError: Where the loss is not finite; it is a ValueError too.
        ValueError: Where an argument is out of range, or the data cannot be read.
    """
    from lightning.pytorch import Trainer, seed_everything

    from lemmata.apps.interatomic.datamodule import AtomsDataModule
    from lemmata.apps.interatomic.module import InteratomicModule
    from lemmata.apps.kit.training import open_run, quiet, trainer_arguments

    if epochs < 1:
        raise ValueError(f"`epochs` (={epochs}) must be a positive integer")
    options = {**(loss_options or {}), **(training_options or {})}
    with quiet():
        seed_everything(seed, verbose=False)
    try:
        module = InteratomicModule(model=model, model_options=model_options, lr=lr, **options)
        atoms = AtomsDataModule(
            str(data), cutoff=cutoff, batch_size=batch_size, seed=seed, **(data_options or {})
        )
    except TypeError as error:
        raise ValueError(f"an option is not known: {error}") from error
    run = open_run(out, resume=resume, force=force)
    arguments: dict[str, Any] = {
        **trainer_arguments(
            run.folder, monitor="val_loss", every_n_train_steps=checkpoint_every, progress=progress
        ),
        "max_epochs": epochs,
        "log_every_n_steps": 10,
        "gradient_clip_val": 10.0,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        **(trainer or {}),
    }
    arguments["callbacks"] = [*arguments["callbacks"], *callbacks]
    with quiet():
        Trainer(**arguments).fit(module, datamodule=atoms, ckpt_path=run.checkpoint, weights_only=True)
    return run.folder


def configure(parser: Any) -> None:
    """Set the defaults of `fit`, `validate` and `test` that depend on the verb.

    Args:
        parser: The verb's parser.
    """
    if any(action.dest == "checkpoint_every" for action in parser._actions):
        parser.set_defaults({"checkpoint_every": 100})
