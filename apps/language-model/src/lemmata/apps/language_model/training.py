"""Train a language model from Python, as the command line's `fit` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Callback = "lightning.pytorch.callbacks.Callback"

__all__ = ["configure", "default_precision", "train"]


def train(
    data: Path | str = "docstrings",
    *,
    out: Path | str,
    optimizer: str = "muon",
    lr: float | None = None,
    weight_decay: float | None = None,
    optimizer_options: dict[str, Any] | None = None,
    schedule: Path | str = "linear",
    warmup: int = 20,
    steps: int = 300,
    validate_every: int = 50,
    context: int = 64,
    batch_size: int = 16,
    tokenizer: str = "character",
    vocabulary: int = 1024,
    model: dict[str, Any] | None = None,
    compression: str | None = None,
    compression_ratio: float = 0.01,
    seed: int = 0,
    precision: str | None = None,
    data_options: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    callbacks: "Sequence[Callback]" = (),
    checkpoint_every: int = 0,
    resume: Path | str | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> Path:
    """Train a language model.

    Args:
        data: A text: a file, a folder, `docstrings` or `tinyshakespeare`.
        out: The run's folder: checkpoints, metrics.csv (columns step, train_loss, val_loss, ...),
            gradient_norms.csv (step, l1, l2, before clipping), throughput.csv (step, tokens, seconds),
            expert_loads.csv, TensorBoard's events.
        optimizer: The optimiser by name; see `optimizers.OPTIMIZERS`.
        lr: Largest learning rate; the one the optimiser comes with where None.
        weight_decay: Decoupled weight decay; the one the optimiser comes with where None.
        optimizer_options: Further arguments of the optimiser.
        schedule: `linear`, `constant`, or a file that `schedules.write_schedule` wrote.
        warmup: Steps in which the learning rate rises, with `linear` and `constant`.
        steps: Optimiser steps of the run.
        validate_every: Steps between two validations.
        context: Tokens that the model reads at once.
        batch_size: Windows of text in a batch of each process.
        tokenizer: `character` or `bpe`.
        vocabulary: Number of tokens of `bpe`.
        model: Fields of `DecoderConfig` that take the place of its defaults.
        compression: Compressor of the gradients that processes exchange; none where None.
        compression_ratio: Fraction of the gradient's entries that `topk` and `randk` send.
        seed: Seed of the weights and of the order of the text.
        precision: Lightning's precision; where None, bf16-mixed on an accelerator that has it, else 32-true.
        data_options: Further arguments of `TextDataModule`.
        trainer: Further arguments of `lightning.Trainer`, say `{"accelerator": "cpu"}`.
        callbacks: Further callbacks.
        checkpoint_every: Steps between two writes of last.ckpt within an epoch; 0 for epochs' ends alone.
        resume: `"last"` or a checkpoint to go on from.
        force: Replace what the folder holds.
        progress: Show a progress bar; where stderr is a terminal by default.

    Returns:
        The run's folder.

    Raises:
        FileExistsError: Where the folder holds a run and neither `force` nor `resume` is given.
        FileNotFoundError: Where text or checkpoint do not exist.
        FloatingPointError: Where the loss is not finite; it is a ValueError too.
        ValueError: Where an argument is out of range, or the text cannot be read or is too short.
    """
    from lightning.pytorch import Trainer, seed_everything

    from lemmata.apps.kit.training import open_run, quiet, trainer_arguments
    from lemmata.apps.language_model.datamodule import TextDataModule
    from lemmata.apps.language_model.module import LanguageModel

    if steps < 1:
        raise ValueError(f"`steps` (={steps}) must be a positive integer")
    fields = dict(model or {})
    text = TextDataModule(
        str(data),
        tokenizer,
        vocabulary,
        context=fields.pop("context", context),
        batch_size=batch_size,
        seed=seed,
        **(data_options or {}),
    )
    try:
        module = LanguageModel(
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            optimizer_options=optimizer_options,
            schedule=str(schedule),
            warmup=warmup,
            compression=compression,
            compression_ratio=compression_ratio,
            **fields,
        )
    except TypeError as error:
        raise ValueError(f"`model` (={model}) has an unknown field: {error}") from error
    run = open_run(out, resume=resume, force=force)
    arguments: dict[str, Any] = {
        **trainer_arguments(
            run.folder, monitor="val_loss", every_n_train_steps=checkpoint_every, progress=progress
        ),
        "max_steps": steps,
        "max_epochs": -1,
        "val_check_interval": validate_every,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 10,
        "gradient_clip_val": 1.0,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "precision": default_precision() if precision is None else precision,
        **(trainer or {}),
    }
    arguments["callbacks"] = [*arguments["callbacks"], *callbacks]
    with quiet():
        seed_everything(seed, verbose=False)
        Trainer(**arguments).fit(module, datamodule=text, ckpt_path=run.checkpoint, weights_only=True)
    return run.folder


def default_precision() -> str:
    """Return the precision that is quick here: bfloat16 where an accelerator computes in it, else float32.

    Processors without matrix units for bfloat16 emulate it, and those with them gain nothing on models of
    this size, so they get float32.
    """
    import torch

    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"


def configure(parser: Any) -> None:
    """Set the defaults of `fit`, `validate` and `test` that depend on the machine or the verb.

    Args:
        parser: The verb's parser.
    """
    parser.set_defaults({"trainer.precision": default_precision()})
    if any(action.dest == "checkpoint_every" for action in parser._actions):
        parser.set_defaults({"checkpoint_every": 50})
