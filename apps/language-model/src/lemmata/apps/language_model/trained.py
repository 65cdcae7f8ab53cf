"""A trained model: its decoder and tokenizer, from a checkpoint or an exported folder, without Lightning."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lemmata.apps.kit.files import read_json
from lemmata.apps.language_model.model.config import DecoderConfig
from lemmata.apps.language_model.model.decoder import Decoder
from lemmata.apps.language_model.tokenizers import Tokenizer, tokenizer_from_json

__all__ = ["CHECKPOINT_KEY", "TrainedModel", "find_checkpoint", "load_model"]

# Where a checkpoint holds the decoder's options, its tokenizer and its text's fingerprint.
CHECKPOINT_KEY = "language_model"

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"

# What torch.load raises where a file is no checkpoint: which depends on its first bytes.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class TrainedModel:
    """A decoder in evaluation mode, and the tokenizer of its text.

    Args:
        decoder: The decoder.
        tokenizer: The tokenizer.
    """

    decoder: Decoder
    tokenizer: Tokenizer

    @classmethod
    def load(cls, path: Path | str, *, device: torch.device | str = "cpu") -> "TrainedModel":
        """Load a model, executing nothing that a file holds.

        Args:
            path: A checkpoint, a run's folder (its best checkpoint, or else its last), or a folder that
                `export` wrote.
            device: Where the model goes.

        Returns:
            The model.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where a file is not what it should be, truncated, or holds more than tensors and plain
                types.
        """
        if (Path(path) / CONFIG).is_file():
            return load_model(path, device=device)
        file = find_checkpoint(path)
        checkpoint = _read_checkpoint(file)
        stored = checkpoint[CHECKPOINT_KEY]
        decoder = Decoder(DecoderConfig.from_dict(stored["decoder"]))
        weights = {
            name.removeprefix("decoder."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("decoder.")
        }
        try:
            decoder.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{file}: the weights do not fit the model: {error}") from error
        return cls(decoder.to(device).eval(), tokenizer_from_json(stored["tokenizer"]))


def load_model(folder: Path | str, *, device: torch.device | str = "cpu") -> TrainedModel:
    """Load what `export` wrote: weights, the decoder's options and the tokenizer.

    Neither the command line nor Lightning has a part in it.

    Args:
        folder: The folder.
        device: Where the model goes.

    Returns:
        The model: `decoder(tokens)` gives logits, `tokenizer.encode(text)` tokens.

    Raises:
        FileNotFoundError: Where a file is missing.
        ValueError: Where a file is not what it should be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load_weights

    folder = Path(folder)
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; expected a folder that `export` wrote")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or "decoder" not in config:
        raise ValueError(f"{folder / CONFIG} is not one that `export` wrote: it has no entry 'decoder'")
    decoder = Decoder(DecoderConfig.from_dict(config["decoder"]))
    try:
        load_weights(decoder, folder / WEIGHTS)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS}: the weights cannot be read, or do not fit: {error}") from error
    tokenizer = tokenizer_from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    return TrainedModel(decoder.to(device).eval(), tokenizer)


def find_checkpoint(path: Path | str) -> Path:
    """Return a checkpoint's path: the path itself, or a run's best checkpoint, or else its last.

    Raises:
        FileNotFoundError: Where there is none.
    """
    path = Path(path)
    if path.is_dir():
        best = sorted((path / "checkpoints").glob("best-*.ckpt"), key=lambda file: file.stat().st_mtime)
        path = best[-1] if best else path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    return path


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint of this app."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is not a checkpoint, or not complete: {reason}") from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this app: it has no entry {CHECKPOINT_KEY!r}")
    return checkpoint
