"""What a run's folder tells: its decoder, losses, gradient norms, throughput, expert loads and weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lemmata.apps.language_model.sweep import read_columns

if TYPE_CHECKING:
    import torch

    from lemmata.apps.language_model.model import DecoderConfig
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    DecoderConfig = "lemmata.apps.language_model.model.DecoderConfig"

__all__ = [
    "Weights",
    "read_config",
    "read_curves",
    "read_loads",
    "read_norms",
    "read_singular_values",
    "read_weights",
]

Array = npt.NDArray[np.float64]

METRICS = "metrics.csv"
CHECKPOINT = Path("checkpoints") / "last.ckpt"


@dataclass(frozen=True)
class Weights:
    """The matrices of a run, and the box that its optimiser keeps them in.

    Args:
        optimizer: The optimiser's name.
        values: All entries of the matrices, one vector.
        bound: Half the width of the box, 1 / weight decay; None where the optimiser knows no box.
    """

    optimizer: str
    values: Array
    bound: float | None


def read_config(run: Path) -> "DecoderConfig":
    """Return the options of the decoder that a run trained.

    Raises:
        FileNotFoundError: Where the run has no checkpoint.
        ValueError: Where it is not this app's.
    """
    from lemmata.apps.language_model.model import DecoderConfig as Config
    from lemmata.apps.language_model.trained import CHECKPOINT_KEY

    return Config.from_dict(_checkpoint(run)[CHECKPOINT_KEY]["decoder"])


def read_curves(run: Path) -> dict[str, list[float]]:
    """Return a run's losses by step, with the tokens and seconds up to each.

    Args:
        run: The run's folder.

    Returns:
        Columns `step` (steps done), `train_loss` and `val_loss` where recorded, and `tokens` and `seconds`
        where the run recorded its throughput; a cell without a value is NaN.

    Raises:
        FileNotFoundError: Where the run recorded nothing.
        ValueError: Where a file cannot be read.
    """
    columns = read_columns(run / METRICS)
    wanted = ("step", "train_loss", "val_loss")
    curves: dict[str, list[float]] = {name: columns[name] for name in wanted if name in columns}
    if "step" in curves:  # a row tells of the step that had this number, counted from 0
        curves["step"] = [step + 1 for step in curves["step"]]
    if (run / "throughput.csv").is_file() and "step" in curves:
        pace = read_columns(run / "throughput.csv")
        for name in ("tokens", "seconds"):
            known = np.interp(curves["step"], pace["step"], pace[name])
            curves[name] = known.tolist()
    return curves


def read_norms(run: Path, p: int) -> "torch.Tensor":
    """Return the gradient norms of a run, one a step, before clipping.

    Args:
        run: The run's folder.
        p: 1 for the sum of magnitudes, 2 for the Euclidean norm.

    Returns:
        The norms, float64.

    Raises:
        FileNotFoundError: Where the run recorded none.
        ValueError: Where the file cannot be read.
    """
    import torch

    return torch.tensor(read_columns(run / "gradient_norms.csv")[f"l{p}"], dtype=torch.float64)


def read_loads(run: Path) -> tuple[list[float], dict[str, Array]] | None:
    """Return the experts' shares of the tokens over the run; None where it has no experts.

    Args:
        run: The run's folder.

    Returns:
        Steps, and by block an array of shape (steps, experts).

    Raises:
        ValueError: Where the file cannot be read.
    """
    path = run / "expert_loads.csv"
    if not path.is_file():
        return None
    columns = read_columns(path)
    loads: dict[str, list[list[float]]] = {}
    for name, values in columns.items():
        if found := re.fullmatch(r"blocks\.(\d+)\..*\.\d+", name):
            loads.setdefault(f"block {int(found.group(1)) + 1}", []).append(values)
    return columns["step"], {block: np.array(shares).T for block, shares in loads.items()}


def read_singular_values(run: Path) -> Array | None:
    """Return how often the updates of the blocks' matrices had which singular values.

    Routers are left out: they are not treated as matrices.

    Args:
        run: The run's folder.

    Returns:
        Counts over the whole run by the ratio to the largest singular value of the same matrix, in bins of
        equal width from 0 to 1; None where the run recorded none.

    Raises:
        ValueError: Where the file cannot be read.
    """
    path = run / "singular_values.csv"
    if not path.is_file():
        return None
    counts: dict[int, float] = {}
    for name, values in read_columns(path).items():
        found = re.fullmatch(r"blocks\..*\.(\d+)", name)
        if found and ".router" not in name:
            counts[int(found.group(1))] = counts.get(int(found.group(1)), 0.0) + float(np.nansum(values))
    return np.array([counts[place] for place in sorted(counts)])


def read_weights(run: Path) -> Weights:
    """Return the matrices of a run's last checkpoint.

    Raises:
        FileNotFoundError: Where the run has no checkpoint.
        ValueError: Where it is not this app's.
    """
    from lemmata.apps.language_model.optimizers import OPTIMIZERS

    checkpoint = _checkpoint(run)
    chosen = checkpoint["hyper_parameters"]
    name, decay = chosen["optimizer"], chosen["weight_decay"]
    decay = OPTIMIZERS[name].weight_decay if decay is None else decay
    matrices = [value for value in checkpoint["state_dict"].values() if value.ndim >= 2]
    values = np.concatenate([value.double().flatten().numpy() for value in matrices])
    return Weights(name, values, 1 / decay if name == "lion" and decay > 0 else None)


def _checkpoint(run: Path) -> Mapping[str, Any]:
    """Return a run's last checkpoint, as tensors and plain types."""
    import torch

    from lemmata.apps.language_model.trained import CHECKPOINT_KEY

    path = run / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no {CHECKPOINT}")
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if CHECKPOINT_KEY not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of this app")
    return checkpoint
