"""Find a file's input and target, bring them to `(n, channels, *grid)`, and say what was assumed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lemmata.apps.pde_surrogate.formats.axes import (
    Selection,
    arrange,
    check_layout,
    guess_layout,
    guess_target_layout,
    parse_roles,
    parse_selection,
)
from lemmata.apps.pde_surrogate.formats.guessing import guess_grid
from lemmata.apps.pde_surrogate.formats.opening import open_arrays
from lemmata.apps.pde_surrogate.formats.source import ArraySource, FieldFileError
from lemmata.operators.grids import Grid, Layout

__all__ = ["FieldReader", "Roles", "check_finite"]

Roles = Mapping[str, str] | Sequence[str] | str
_log = logging.getLogger(__name__)
# Inverse transforms leave imaginary parts of this relative size in real fields.
_ROUNDING = 1e-5
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16}

# Usual names, in order of preference; PDEBench's Darcy files hold `nu` and `tensor`.
USUAL = {
    "input": ("input", "inputs", "x", "a", "coeff", "nu", "x_train", "x_test"),
    "target": ("target", "targets", "y", "u", "sol", "tensor", "y_train", "y_test", "output", "outputs"),
}


@dataclass
class FieldReader:
    """Reads the roles of one file and gathers what there is to say about it.

    Args:
        path: The file.
        map: Which arrays are input and target.
        layout: Which axes are what.
        dtype: Floating type of the fields.
    """

    path: Path
    map: Roles | None
    layout: Roles | None
    dtype: torch.dtype
    sources: dict[str, ArraySource] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sources = open_arrays(self.path)
        self.selected = parse_roles(self.map, "map")
        self.layouts = parse_roles(self.layout, "layout")

    def notice(self, text: str) -> None:
        """Add a notice; an empty one is none."""
        if text:
            self.notices.append(text)

    def logged_notices(self) -> list[str]:
        """Log all notices and return them."""
        for text in self.notices:
            _log.info("%s: %s", self.path, text)
        return self.notices

    def role(self, role: str, *, like: Tensor | None = None) -> Tensor:
        """Read input or target as `(n, channels, *grid)`."""
        selection = self.selection(role)
        self.used.update(selection.names)
        parts = [self._fields(role, name, selection.time, like) for name in selection.names]
        if len({(len(part), *part.shape[2:]) for part in parts}) > 1:
            shapes = ", ".join(
                f"{name!r} {part.shape}" for name, part in zip(selection.names, parts, strict=True)
            )
            raise FieldFileError(f"{self.path}: arrays of {role} disagree: {shapes}")
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts, axis=1)))

    def selection(self, role: str) -> Selection:
        """Find which arrays a role is made of: as mapped, by usual names, or the only one."""
        names = [name for name, source in self.sources.items() if source.numeric]
        if role in self.selected:
            try:
                return parse_selection(self.selected[role], list(self.sources))
            except ValueError as error:
                raise FieldFileError(f"{self.path}: {role}: {error}") from error
        usual = [name for name in USUAL[role] if name in self.sources and name not in self.used]
        if usual:
            return Selection((usual[0],))
        if role == "input" and "tensor" in names:
            return Selection(("tensor",), 0)  # PDEBench's trajectories: the initial state
        if role == "input" and len(names) == 1:
            return Selection((names[0],))
        found = ", ".join(f"{name} {source.shape}" for name, source in self.sources.items())
        raise FieldFileError(
            f"{self.path}: no array for {role} among {found}; expected one of {', '.join(USUAL[role])}, "
            f"or say which by map '{role}=NAME'"
        )

    def grid(
        self,
        fields: Tensor,
        resolution: int | None,
        length: float | Sequence[float] | None,
        grid_layout: Layout | None,
    ) -> Grid:
        """Place the fields: as told, by coordinates in the file, or by their look."""
        shape = tuple(fields.shape[2:])
        if resolution is not None and shape[0] != resolution:
            raise FieldFileError(
                f"{self.path}: fields have {shape[0]} points along x, expected `resolution` (={resolution})"
            )
        others = [source for name, source in self.sources.items() if name not in self.used]
        grid, assumed = guess_grid(fields, others, length=length, layout=grid_layout)
        self.notice(assumed)
        return grid

    def _fields(
        self, role: str, name: str, time: int | slice | str | None, like: Tensor | None
    ) -> npt.NDArray[Any]:
        source = self.sources[name]
        source.check()
        layout = self._layout(role, source, time, like)
        if "t" in layout and time is None:
            time = 0 if role == "input" else -1
            self.notice(
                f"{role}: array {name!r} is a trajectory, taken at its {'last' if time else 'first'} time"
            )
        try:
            array = arrange(source.read(), layout, -1 if time is None else time)
        except FieldFileError:
            raise
        except ValueError as error:
            raise FieldFileError(f"{self.path}: array {name!r}: {error}") from error
        if array.size == 0:
            raise FieldFileError(f"{self.path}: array {name!r} is empty: shape {source.shape}")
        return self._cast(role, source, array)

    def _layout(
        self, role: str, source: ArraySource, time: int | slice | str | None, like: Tensor | None
    ) -> str:
        try:
            if role in self.layouts:
                check_layout(self.layouts[role], source.shape)
                return self.layouts[role]
            trajectory = time is not None
            if like is None:
                found = guess_layout(source.shape, trajectory=trajectory)
            else:
                found = guess_target_layout(source.shape, like.shape[2:], trajectory=trajectory)
        except ValueError as error:
            raise FieldFileError(f"{self.path}: array {source.name!r}: {error}") from error
        self.notice(f"{role}: axes of array {source.name!r} {source.shape} taken for {found!r}")
        return found

    def _cast(self, role: str, source: ArraySource, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        where = f"{self.path}: array {source.name!r}"
        if array.dtype.kind == "c":
            imaginary = float(np.abs(array.imag).max())
            if imaginary > _ROUNDING * float(np.abs(array.real).max()):
                raise FieldFileError(
                    f"{where} is complex with imaginary parts up to {imaginary:.3g}, expected real"
                )
            self.notice(
                f"{role}: array {source.name!r} is {array.dtype} with imaginary parts of at most "
                f"{imaginary:.1e}, taken as real"
            )
            array = array.real
        elif array.dtype.kind in "biu":
            self.notice(f"{role}: array {source.name!r} is {array.dtype}, cast to {str(self.dtype)[6:]}")
        check_finite(array, where)
        with np.errstate(over="ignore"):
            cast = array.astype(_NUMPY[self.dtype])
        check_finite(cast, f"{where} cast to {str(self.dtype)[6:]}")
        return cast


def check_finite(array: npt.NDArray[Any], where: str) -> None:
    """Raise where fields hold NaN or infinite values, naming the first sample.

    Args:
        array: Fields, samples first.
        where: File and array, for the message.

    Raises:
        FieldFileError: Where an entry is not finite.
    """
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        raise FieldFileError(
            f"{where} has {int(bad.sum())} NaN or infinite values, the first in sample {first}; "
            "expected finite numbers"
        )
