"""Train a language model from Python, as the command line's `fit` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Callback = "lightning.pytorch.callbacks.Callback"

__all__ = ["train"]


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
        precision: Lightning's precision; bf16-mixed where an accelerator has it and 32-true elsewhere where None.
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
    raise NotImplementedError
