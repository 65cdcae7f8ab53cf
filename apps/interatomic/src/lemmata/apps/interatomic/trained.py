"""A trained potential from a checkpoint, a run's folder or an exported file, without Lightning.

Nothing that a file holds is executed: checkpoints are read with `weights_only`, exports are safetensors with
the potential's configuration as JSON among their metadata.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemmata.apps.interatomic.models import Potential, build

__all__ = ["CHECKPOINT_KEY", "find_checkpoint", "load_potential"]

# Where a checkpoint holds the potential's configuration.
CHECKPOINT_KEY = "interatomic"
# Where an exported file's metadata do.
CONFIG = "config"
# Weights of a checkpoint: the running average where there is one, else those that are trained.
AVERAGED, TRAINED = "averaged.", "potential."

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


def load_potential(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Potential:
    """Load a trained potential.

    Args:
        path: A checkpoint, a run's folder (its best checkpoint, or else its last), or a file that `export`
            wrote.
        device: Where the potential goes.
        dtype: In which it computes; the one it was trained in where None.

    Returns:
        The potential in evaluation mode, with the running average of the weights, which need no gradients.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is not what it should be, truncated, or holds more than tensors and plain
            types.
    """
    file = find_checkpoint(path)
    config, weights = _read_checkpoint(file) if zipfile.is_zipfile(file) else _read_export(file)
    potential = build(config)
    stored = {value.dtype for value in weights.values() if value.is_floating_point()}
    potential.to(dtype=dtype or (stored.pop() if len(stored) == 1 else None))
    try:
        potential.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file}: the weights do not fit the potential: {error}") from error
    return potential.to(device).eval().requires_grad_(requires_grad=False)


def find_checkpoint(path: Path | str) -> Path:
    """Return the file that a path names.

    Args:
        path: A file, or a run's folder.

    Returns:
        The file, or the folder's best checkpoint, or else its last.

    Raises:
        FileNotFoundError: Where there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    best = sorted((path / "checkpoints").glob("best-*.ckpt"))
    last = path / "checkpoints" / "last.ckpt"
    if best:
        return best[-1]
    if last.is_file():
        return last
    raise FileNotFoundError(
        f"{path}: no such potential; expected a checkpoint, a run's folder or a file that `export` wrote"
    )


def _read_checkpoint(file: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Return configuration and weights of a checkpoint."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(f"{file} is not a checkpoint, or it is truncated: {error}") from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise ValueError(f"{file} holds no entry {CHECKPOINT_KEY!r}; it is not one of this app's checkpoints")
    every = checkpoint["state_dict"]
    prefix = AVERAGED if any(name.startswith(AVERAGED) for name in every) else TRAINED
    weights = {name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)}
    return checkpoint[CHECKPOINT_KEY]["config"], weights


def _read_export(file: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Return configuration and weights of an exported file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 # not a dict
    except SafetensorError as error:
        raise ValueError(f"{file} is neither a checkpoint nor an exported potential: {error}") from error
    if CONFIG not in metadata:
        raise ValueError(f"{file} is not one that `export` wrote: its metadata have no entry {CONFIG!r}")
    return json.loads(metadata[CONFIG]), weights
