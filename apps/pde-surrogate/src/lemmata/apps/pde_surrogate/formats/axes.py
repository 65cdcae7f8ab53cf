"""Which arrays of a file are input and target, and which of their axes is what.

A *selection* names arrays and, for trajectories, times: `"sol"`; `"Vx,Vy"` (two arrays as channels);
`"tensor@0"`, `"tensor@-1"` (one time); `"usol@:-1"`, `"usol@1:"` (each time a sample, here pairs one
step apart); `"tensor@all"` (times as channels).

A *layout* gives one letter an axis: `n` samples, `t` time, `c` channels, `x y z` space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Selection", "arrange", "guess_layout", "guess_target_layout", "parse_roles", "parse_selection"]

ROLES = ("input", "target")
_SPACE = "xyz"
# An axis of at most this many entries before or after longer ones is taken for channels.
_FEW = 8


@dataclass(frozen=True)
class Selection:
    """Arrays that make one field, and the times taken from them.

    Args:
        names: Names of arrays, stacked as channels.
        time: One time, several (each a sample), `"all"` (as channels), or `None` where not given.
    """

    names: tuple[str, ...]
    time: int | slice | str | None = None


def parse_roles(given: Mapping[str, str] | Sequence[str] | str | None, option: str) -> dict[str, str]:
    """Parse what is said of input and target: `"input=coeff target=sol"`, a list of such, or a mapping.

    Args:
        given: What the user gave; a text without `=` holds for both.
        option: Name of the option, for messages.

    Returns:
        What is said of `"input"` and `"target"`; either may be missing.

    Raises:
        ValueError: Where another role is named or a part is not `role=value`.

    Examples:
        >>> parse_roles("input=coeff target=sol", "map")
        {'input': 'coeff', 'target': 'sol'}
        >>> parse_roles("nxyc", "layout")
        {'input': 'nxyc', 'target': 'nxyc'}
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        words = given.split() if isinstance(given, str) else [word for item in given for word in item.split()]
        if len(words) == 1 and "=" not in words[0]:
            return dict.fromkeys(ROLES, words[0])
        parts = [word.partition("=") for word in words]
        pairs = [(role, value) for role, _, value in parts]
    for role, value in pairs:
        if role not in ROLES or not value:
            raise ValueError(f"`{option}` (={given!r}) must read 'input=... target=...', either or both")
    return dict(pairs)


def parse_selection(text: str, names: Sequence[str]) -> Selection:
    """Parse a selection such as `"tensor@-1"`; see this module's docstring.

    Args:
        text: The selection.
        names: Names of the file's arrays; a text that is one of them is taken literally.

    Returns:
        The selection.

    Raises:
        ValueError: Where an array is not in the file, or the time is not an integer, a slice or `all`.

    Examples:
        >>> parse_selection("u,v@-1", ["u", "v"])
        Selection(names=('u', 'v'), time=-1)
    """
    if text in names:
        return Selection((text,))
    listed, at, time = text.rpartition("@") if "@" in text else (text, "", "")
    wanted = tuple(name.removesuffix(".npy") for name in listed.split(","))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"no array {missing[0]!r}; found {', '.join(names)}")
    return Selection(wanted, _parse_time(text, time) if at else None)


def guess_layout(shape: Sequence[int], *, trajectory: bool = False) -> str:
    """Guess the layout of an array from its shape alone.

    Samples come first; a last or second axis of at most eight entries before or after longer ones is
    channels; the rest is space. A trajectory's second axis is time.

    Args:
        shape: Shape of the array.
        trajectory: Whether times are selected from it.

    Returns:
        The layout.

    Raises:
        ValueError: Where no layout suggests itself.

    Examples:
        >>> guess_layout((1000, 16, 16)), guess_layout((50, 64, 64, 2)), guess_layout((100, 1, 256))
        ('nxy', 'nxyc', 'ncx')
    """
    found: str | None = None
    if trajectory:
        found = {3: "ntx", 4: "ntxy", 5: "ntxyc"}.get(len(shape))
    elif len(shape) == 2:
        found = "nx"
    elif 3 <= len(shape) <= 5:
        space = _SPACE[: len(shape) - 2]
        if shape[-1] <= _FEW < min(shape[1:-1]):
            found = f"n{space}c"
        elif shape[1] <= _FEW < min(shape[2:]):
            found = f"nc{space}"
        elif len(shape) <= 4:
            found = f"n{_SPACE[: len(shape) - 1]}"
    if found is None:
        raise ValueError(
            f"cannot guess which axis of shape {tuple(shape)} is what; give a layout, say 'ntxy'"
        )
    return found


def guess_target_layout(shape: Sequence[int], grid: Sequence[int], *, trajectory: bool = False) -> str:
    """Guess the layout of a target whose input lies on a known grid.

    Args:
        shape: Shape of the target's array.
        grid: Number of points along each axis of the input.
        trajectory: Whether times are selected from it.

    Returns:
        The layout; one axis more than samples and space is channels where it is short, else time.

    Raises:
        ValueError: Where no layout suggests itself.

    Examples:
        >>> guess_target_layout((800, 17, 16), (16,))
        'ntx'
    """
    grid = tuple(grid)
    space = _SPACE[: len(grid)]
    inner = tuple(shape[1:])
    if inner == grid:
        return f"n{space}"
    if len(inner) == len(grid) + 1:
        if inner[1:] == grid:
            return f"n{'c' if inner[0] <= _FEW and not trajectory else 't'}{space}"
        if inner[:-1] == grid:
            return f"n{space}{'c' if inner[-1] <= _FEW and not trajectory else 't'}"
    return guess_layout(shape, trajectory=trajectory)


def arrange(array: npt.NDArray[Any], layout: str, time: int | slice | str) -> npt.NDArray[Any]:
    """Bring an array to `(n, channels, *grid)`.

    Args:
        array: The array as its file holds it.
        layout: One letter an axis.
        time: Which times to take where the layout has `t`; see `Selection`.

    Returns:
        Fields `(n, channels, *grid)`, space in the order `x y z`.

    Raises:
        ValueError: Where the layout does not fit the array, or the time is out of range.

    Examples:
        >>> arrange(np.zeros((800, 17, 16)), "ntx", -1).shape
        (800, 1, 16)
        >>> arrange(np.zeros((256, 101)), "xt", slice(None, -1)).shape
        (100, 1, 256)
    """
    check_layout(layout, array.shape)
    order = [letter for letter in ("n", "t", "c", *_SPACE) if letter in layout]
    array = array.transpose([layout.index(letter) for letter in order])
    for axis, letter in enumerate("ntc"):
        if letter not in layout:
            array = np.expand_dims(array, axis)
    times = array.shape[1]
    if time == "all":
        return array.reshape(array.shape[0], times * array.shape[2], *array.shape[3:])
    if isinstance(time, int):
        if not -times <= time < times:
            raise ValueError(f"time {time} of {times} is out of range")
        return array[:, time]
    if not isinstance(time, slice):
        raise ValueError(f"time {time!r} must be an integer, a slice or 'all'")  # noqa: TRY004 - a value
    array = array[:, time]
    return array.reshape(-1, *array.shape[2:])


def check_layout(layout: str, shape: Sequence[int]) -> None:
    """Raise where a layout does not fit a shape.

    Args:
        layout: One letter an axis.
        shape: Shape of the array.

    Raises:
        ValueError: Where letters are unknown, repeated or not one an axis, or space is missing or has a gap.
    """
    space = "".join(sorted(set(layout) & set(_SPACE)))
    if set(layout) - set("ntc" + _SPACE) or len(set(layout)) != len(layout) or not space:
        raise ValueError(
            f"`layout` (={layout!r}) must be made of n, t, c and x, y, z, each at most once, with x"
        )
    if not _SPACE.startswith(space):
        raise ValueError(f"`layout` (={layout!r}) must use x, then y, then z for space")
    if len(layout) != len(shape):
        raise ValueError(
            f"`layout` (={layout!r}) names {len(layout)} axes, but the array has shape {tuple(shape)}"
        )


def _parse_time(text: str, time: str) -> int | slice | str:
    if time == "all":
        return "all"
    try:
        if ":" in time:
            bounds = [int(part) if part else None for part in time.split(":")]
            return slice(*bounds)
        return int(time)
    except (TypeError, ValueError):
        raise ValueError(
            f"{text!r}: the time after '@' must be an integer, a slice such as 1: or 'all'"
        ) from None
