"""A trained surrogate as a function from arrays to arrays."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lemmata.apps.pde_surrogate.description import ChannelRange, DataDescription
from lemmata.apps.pde_surrogate.module import CHECKPOINT_KEY, SurrogateModule

__all__ = ["Surrogate", "find_checkpoint", "read_checkpoint"]

Array = npt.NDArray[Any]

# Fields are predicted in batches of about this many points, which bounds memory.
POINTS_AT_ONCE = 2**18

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

# Inputs may leave the training range by this fraction of it before a warning.
TOLERANCE = 0.05


class Surrogate:
    """A trained surrogate as a function from arrays to arrays.

    Args:
        module: A trained module.

    Examples:
        >>> from lemmata.operators.data import FieldDataset
        >>> from lemmata.operators.grids import Grid
        >>> fields = torch.rand(4, 1, 16, generator=torch.Generator().manual_seed(0))
        >>> module = SurrogateModule(size="S", overrides={"width": 4, "modes": 4, "depth": 1})
        >>> module.learn([FieldDataset(fields, 2.0 * fields, Grid((16,), (1.0,), "periodic"))])
        >>> Surrogate(module)(fields[0, 0].numpy()).shape  # untrained; usually Surrogate.load("runs/darcy")
        (16,)
    """

    def __init__(self, module: SurrogateModule) -> None:
        if module.description is None:
            raise ValueError("`module` is not trained; load one from a checkpoint")
        self.module = module.eval()
        self.description: DataDescription = module.description

    @classmethod
    def load(cls, path: Path | str, *, device: torch.device | str = "cpu") -> "Surrogate":
        """Load a checkpoint without executing code.

        Args:
            path: A checkpoint of this app, or a run's folder: its best checkpoint, or else its last.
            device: Where to predict.

        Returns:
            The surrogate.

        Raises:
            FileNotFoundError: Where there is no file.
            ValueError: Where the file is no checkpoint of this app, truncated, or holds more than tensors and
                plain types.
        """
        checkpoint = read_checkpoint(path)
        module = SurrogateModule(**{k: v for k, v in checkpoint["hyper_parameters"].items() if k[0] != "_"})
        module.build(DataDescription.from_dict(checkpoint[CHECKPOINT_KEY]["data"]))
        module.seconds = checkpoint[CHECKPOINT_KEY]["seconds"]
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise ValueError(
                f"{path}: the weights do not fit the model: {' '.join(str(error).split())}"
            ) from error
        return cls(module.to(device))

    @overload
    def __call__(self, fields: Array, *, batch_size: int | None = None) -> Array: ...

    @overload
    def __call__(self, fields: Tensor, *, batch_size: int | None = None) -> Tensor: ...

    def __call__(self, fields: Array | Tensor, *, batch_size: int | None = None) -> Array | Tensor:
        """Predict solutions.

        Args:
            fields: Inputs `(n, channels, *grid)` in physical units, at any resolution; where there is one
                channel its axis may be left out, and so may `n` for one field. Booleans and integers are
                taken as numbers.
            batch_size: Fields predicted at once; bounded by memory where None.

        Returns:
            Solutions with the same axes and of the same type (float32 for inputs that are not floating), on
            the inputs' device.

        Raises:
            TypeError: Where inputs are complex, or no array.
            ValueError: Where the shape does not fit, or values are not finite.

        Warns:
            UserWarning: Where resolution or values lie outside the training set's range.
        """
        inputs, axes = self._as_batch(_as_tensor(fields))
        self._warn_outside(inputs)
        solution = self.solve(inputs, batch_size=batch_size)
        if axes < 2 and solution.shape[1] == 1:
            solution = solution.squeeze(1)
        if axes == 0:
            solution = solution.squeeze(0)
        return solution if isinstance(fields, Tensor) else solution.numpy()

    @torch.no_grad()
    def solve(
        self, inputs: Float[Tensor, "n channel *grid"], *, batch_size: int | None = None
    ) -> Float[Tensor, "n out_channel *grid"]:
        """Predict solutions as an equation's solver would return them, without a look at the training range.

        Args:
            inputs: Inputs in physical units.
            batch_size: Fields predicted at once; bounded by memory where None.

        Returns:
            Solutions in the dtype and on the device of the inputs.
        """
        size = batch_size or max(1, POINTS_AT_ONCE // inputs[0, 0].numel())
        parameter = next(self.module.parameters())
        return torch.cat([self.module(piece.to(parameter)).to(inputs) for piece in torch.split(inputs, size)])

    def _as_batch(self, fields: Shaped[Tensor, "..."]) -> tuple[Tensor, int]:
        """Return inputs `(n, channels, *grid)`, and how many axes they had before the grid's."""
        if fields.is_complex():
            raise TypeError(f"`fields` must be real, got {fields.dtype}")
        dim, channels = self.description.grids[0].dim, self.description.in_channels
        axes = fields.ndim - dim
        inputs = fields if fields.is_floating_point() else fields.float()
        if axes == 1 and channels == 1:
            inputs = inputs.unsqueeze(1)
        elif axes == 0 and channels == 1:
            inputs = inputs[None, None]
        if inputs.ndim != dim + 2 or inputs.shape[1] != channels or 0 in inputs.shape:
            names = ", ".join(("n", str(channels), *"xyz"[:dim]))
            raise ValueError(f"`fields` has shape {tuple(fields.shape)}, expected ({names})")
        bad = int((~torch.isfinite(inputs)).sum())
        if bad:
            raise ValueError(f"`fields` holds {bad} values that are not finite, expected none")
        return inputs, axes

    def _warn_outside(self, inputs: Tensor) -> None:
        """Warn where inputs lie outside what the surrogate was trained on."""
        shape = tuple(inputs.shape[2:])
        grids = [grid.shape for grid in self.description.grids]
        low, high = (tuple(map(pick, zip(*grids, strict=True))) for pick in (min, max))
        outside = []
        if any(n < a or n > b for n, a, b in zip(shape, low, high, strict=True)):
            seen = _times(low) if low == high else f"{_times(low)} to {_times(high)}"
            outside.append(f"resolution {_times(shape)} (trained at {seen})")
        for channel, known in enumerate(self.description.inputs):
            outside.extend(_outside(inputs[:, channel], known, channel))
        if outside:
            warnings.warn(f"outside the training range: {'; '.join(outside)}", stacklevel=3)


def find_checkpoint(path: Path | str) -> Path:
    """Return a checkpoint, of a run's folder its best, or else its last.

    Args:
        path: A checkpoint, or a run's folder.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: Where there is none.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [*sorted(path.glob("checkpoints/best-*.ckpt")), path / "checkpoints" / "last.ckpt"]
        path = next((found for found in candidates if found.is_file()), candidates[-1])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    return path


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint of this app without executing code.

    Args:
        path: The file, or a run's folder.

    Returns:
        Its entries: tensors and plain types.

    Raises:
        FileNotFoundError: Where there is no file.
        ValueError: Where the file is no checkpoint of this app, truncated, or holds more than tensors and
            plain types.
    """
    path = find_checkpoint(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path}: not a checkpoint that loads safely, expected tensors and plain types ({reason})"
        ) from error
    expected = ("state_dict", "hyper_parameters", CHECKPOINT_KEY)
    missing = [key for key in expected if not (isinstance(checkpoint, dict) and key in checkpoint)]
    if missing:
        raise ValueError(f"{path}: found no {', '.join(missing)}, expected a checkpoint of pde-surrogate")
    entries: dict[str, Any] = checkpoint
    return entries


def _as_tensor(fields: Any) -> Tensor:
    """Return an array as a tensor of the same values."""
    if isinstance(fields, Tensor):
        return fields
    if not isinstance(fields, np.ndarray) or fields.dtype.kind not in "biufc":
        what = f"an array of {fields.dtype}" if isinstance(fields, np.ndarray) else type(fields).__name__
        raise TypeError(f"`fields` must be a NumPy array of numbers or a tensor, got {what}")
    native = fields.astype(fields.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.array(native, order="C", copy=None if native.flags.writeable else True))


def _outside(values: Tensor, known: ChannelRange, channel: int) -> list[str]:
    """Say how a channel's values and means leave the training range."""
    means = values.double().flatten(1).mean(1)
    found = (float(values.min()), float(values.max())), (float(means.min()), float(means.max()))
    spans = (known.low, known.high), (known.lowest_mean, known.highest_mean)
    slack = TOLERANCE * (known.high - known.low) + 1e-6 * max(abs(known.low), abs(known.high))
    said = []
    for what, (low, high), (least, most) in zip(("values", "means"), found, spans, strict=True):
        if low < least - slack or high > most + slack:
            said.append(
                f"{what} of channel {channel} in [{low:.4g}, {high:.4g}] "
                f"(trained on [{least:.4g}, {most:.4g}])"
            )
    return said


def _times(shape: tuple[int, ...]) -> str:
    """Return a shape as people write it."""
    return " x ".join(map(str, shape))
