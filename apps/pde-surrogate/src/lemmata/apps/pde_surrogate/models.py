"""The models the app knows by name, their size presets, and how to build them for a grid.

A preset states the model's capacity; the grid states what it can resolve. `build_model` brings both
together: a preset's modes are cut to the training grid, modes that a user asks for are not, and a box that is
not periodic is padded so that the Fourier basis does not wrap around.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lemmata.operators.grids import Grid

__all__ = ["MODELS", "ModelEntry", "build_model", "check_model"]


@dataclass(frozen=True)
class ModelEntry:
    """What a model's name stands for.

    Args:
        target: `"module:class"` of an `nn.Module` on `(batch, channel, *grid)`.
        description: One line for listings.
        presets: Keyword arguments by size.
    """

    target: str
    description: str
    presets: Mapping[str, Mapping[str, Any]]


MODELS: dict[str, ModelEntry] = {
    "fno": ModelEntry(
        "lemmata.operators.neural:FNO",
        "Fourier neural operator: global convolutions by their low Fourier modes",
        {
            "S": {"width": 16, "modes": 8, "depth": 4},
            "M": {"width": 32, "modes": 16, "depth": 4},
            "L": {"width": 64, "modes": 24, "depth": 4},
        },
    ),
}

# A padded box is this much longer than the field, as a fraction, where the field is not periodic.
PADDING = 0.125


def build_model(
    name: str,
    size: str = "M",
    *,
    in_channels: int,
    out_channels: int,
    grids: Sequence[Grid],
    overrides: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model by its name for the grids it will be trained on.

    Args:
        name: A key of `MODELS`.
        size: A preset of that model: `"S"`, `"M"` or `"L"`.
        in_channels: Channels of the input fields.
        out_channels: Channels of the target fields.
        grids: Training grids, all of one dimension and layout; the coarsest bounds the modes.
        overrides: Keyword arguments of the model's class that take the place of the preset's.

    Returns:
        A module from `(batch, in_channels, *grid)` to `(batch, out_channels, *grid)`.

    Raises:
        ValueError: Where the name or size is unknown, an argument is unknown to the model or out of range, or
            the modes asked for do not fit the coarsest grid.

    Examples:
        >>> grid = Grid((32, 32), (1.0, 1.0), "cells")
        >>> model = build_model("fno", "S", in_channels=1, out_channels=1, grids=[grid])
        >>> type(model).__name__
        'FNO'
    """
    entry = check_model(name, size, overrides)
    shape = _coarsest(grids)
    given = dict(overrides or {})
    where = {"coordinates": grids[0].layout, "domain_padding": _padding(grids[0])}
    arguments = {**where, **entry.presets[size], **given}
    if "modes" in given:
        arguments["modes"] = _checked_modes(given["modes"], shape)
    elif "modes" in arguments:
        arguments["modes"] = tuple(min(int(arguments["modes"]), points) for points in shape)
    module, _, attribute = entry.target.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    try:
        model: nn.Module = cls(in_channels, out_channels, **arguments)
    except TypeError as error:
        raise ValueError(f"model {name!r} cannot be built with {given}: {error}") from error
    return model


def check_model(name: str, size: str, overrides: Mapping[str, Any] | None) -> ModelEntry:
    """Return a model's entry, where there is such a model and its arguments can be stored in a checkpoint.

    Args:
        name: A key of `MODELS`.
        size: A preset of that model.
        overrides: Arguments in place of the preset's.

    Returns:
        The entry.

    Raises:
        ValueError: Where the name or size is unknown, or an argument is not a plain number, string or list.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not known; expected one of {', '.join(MODELS)}")
    entry = MODELS[name]
    if size not in entry.presets:
        raise ValueError(
            f"size {size!r} of model {name!r} is not known; expected one of {', '.join(entry.presets)}"
        )
    try:
        json.dumps(dict(overrides or {}))
    except TypeError as error:
        raise ValueError(
            f"`overrides` (={overrides}) must hold plain numbers, strings and lists: {error}"
        ) from error
    return entry


def _coarsest(grids: Sequence[Grid]) -> tuple[int, ...]:
    """Return the fewest points of any training grid along each axis."""
    if not grids:
        raise ValueError("`grids` is empty; expected at least one training grid")
    if len({(grid.dim, grid.layout) for grid in grids}) > 1:
        raise ValueError(f"`grids` must share dimension and layout, got {', '.join(map(str, grids))}")
    return tuple(min(points) for points in zip(*(grid.shape for grid in grids), strict=True))


def _padding(grid: Grid) -> float:
    """Return the padding that keeps a Fourier basis from wrapping around."""
    return 0.0 if grid.layout == "periodic" else PADDING


def _checked_modes(modes: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return one number of modes an axis, or raise where the grid cannot hold them."""
    wanted = (modes,) * len(shape) if isinstance(modes, int) else tuple(modes)
    if len(wanted) != len(shape) or not all(isinstance(m, int) and m > 0 for m in wanted):
        raise ValueError(
            f"`modes` (={modes}) must be a positive integer, or one for each of {len(shape)} axes"
        )
    if any(m > points for m, points in zip(wanted, shape, strict=True)):
        raise ValueError(
            f"`modes` (={list(wanted)}) do not fit the coarsest training grid of {_times(shape)} points; "
            f"expected at most {list(shape)}"
        )
    return wanted


def _times(shape: Sequence[int]) -> str:
    """Return a shape as people write it."""
    return " x ".join(map(str, shape))
