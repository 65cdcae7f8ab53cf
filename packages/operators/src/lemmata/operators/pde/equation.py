r"""What every equation offers: random inputs, a reference solver, its residual and data sets made by them.

An `Equation` maps input fields (a coefficient, a source or an initial state) to solution fields on a
grid of its own layout. All randomness enters by `generator`, all solves run in float64, and fields travel
between grids by `Equation.restrict` and `Equation.prolong`, never by striding where that aliases.

Axis letters used below: `N` points of an axis, `M` points of the same axis on the other grid.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid, Layout
from lemmata.operators.pde.random_field import Generators

__all__ = ["Equation"]


class Equation(ABC):
    """Base of the equations in `pde`.

    A subclass names itself and its layout, keeps every constructor argument as an attribute of the same name,
    and implements `sample_inputs`, `solve` and `residual`. Solvers are deterministic, take
    fields at any resolution of the layout, compute in float64 and return the inputs' dtype and device.
    """

    name: ClassVar[str]
    """Short name, as on a command line."""
    layout: ClassVar[Layout]
    """Where the points lie; see `Grid`."""
    in_channels: int = 1
    out_channels: int = 1
    length: tuple[float, ...]
    """Length of the box along each axis, in physical units."""

    @property
    def dim(self) -> int:
        """Number of space axes."""
        return len(self.length)

    def grid(self, resolution: int | Sequence[int]) -> Grid:
        """Return the grid of a resolution.

        Args:
            resolution: Points along each axis; an integer stands for all axes.

        Returns:
            A grid of the equation's box and layout.

        Raises:
            ValueError: Where `resolution` has the wrong number of axes or is not positive.
        """
        shape = (resolution,) * self.dim if isinstance(resolution, int) else tuple(resolution)
        if len(shape) != self.dim or min(shape) < 1:
            raise ValueError(
                f"`resolution` (={resolution}) must be a positive integer, or one for each of {self.dim} axes"
            )
        return Grid(shape, self.length, self.layout)

    @abstractmethod
    def sample_inputs(
        self,
        n: int,
        resolution: int | Sequence[int],
        *,
        generator: Generators = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "n channel *grid"]:
        """Draw random inputs.

        Args:
            n: Number of samples.
            resolution: Points along each axis; an integer stands for all axes. The same seed is the same
                function at every resolution.
            generator: Source of randomness; a sequence of `n` draws sample `i` from generator `i`
                alone, so that samples do not depend on how they are batched.
            dtype: Floating type of the result.
            device: Device of the result.

        Returns:
            Inputs `(n, in_channels, *grid)`.
        """

    @abstractmethod
    def solve(self, inputs: Tensor) -> Float[Tensor, "n channel *grid"]:
        """Solve for each input at its own resolution.

        Args:
            inputs: Inputs `(n, in_channels, *grid)`.

        Returns:
            Solutions `(n, out_channels, *grid)`; the final state where the equation depends on time.
        """

    @abstractmethod
    def residual(self, inputs: Tensor, solution: Tensor) -> Float[Tensor, "n channel *grid"]:
        """Return by how much fields fail to solve the discrete equation.

        Args:
            inputs: Inputs `(n, in_channels, *grid)`.
            solution: Solutions `(n, out_channels, *grid)`, or trajectories where the equation says so.

        Returns:
            The residual, of the solution's shape.
        """

    def parameters(self) -> dict[str, Any]:
        """Return everything needed to rebuild the equation: `type(eq)(**eq.parameters())`.

        Returns:
            Constructor arguments by name, as JSON types.
        """
        names = inspect.signature(type(self)).parameters
        return {name: _json(getattr(self, name)) for name in names}

    def solver(self, resolution: int | Sequence[int]) -> dict[str, Any]:
        """Describe what `solve` does at a resolution, for a data set's attributes.

        Args:
            resolution: Points along each axis.

        Returns:
            The method and its numerical parameters, as JSON types.
        """
        return {"method": type(self).__name__, "resolution": list(self.grid(resolution).shape)}

    def refined(self, resolution: int | Sequence[int], factor: int) -> tuple[int, ...]:
        """Return the resolution with `factor` times smaller steps, whose points `restrict` can use.

        Args:
            resolution: Points along each axis.
            factor: How many steps take the place of one.

        Returns:
            Points along each axis.
        """
        if factor < 1:
            raise ValueError(f"`factor` (={factor}) must be a positive integer")
        extra = {"nodes": -1, "interior": 1}.get(self.layout, 0)
        return tuple((n + extra) * factor - extra for n in self.grid(resolution).shape)

    def restrict(
        self, fields: Float[Tensor, "n channel *fine"], resolution: int | Sequence[int]
    ) -> Float[Tensor, "n channel *coarse"]:
        """Bring fields onto a coarser grid of the same layout.

        Cells average the cells they are made of; nodes and interior points keep the values of the points they
        coincide with.

        Args:
            fields: Fields `(n, channels, *fine)`.
            resolution: Points along each axis of the coarser grid, which must be nested in the finer one.

        Returns:
            Fields `(n, channels, *coarse)`.

        Raises:
            ValueError: Where the grids are not nested.
        """
        for axis, (fine, coarse) in enumerate(self._axes(fields, resolution)):
            fields = _restrict_axis(fields, axis + 2, fine, coarse, self.layout)
        return fields

    def prolong(
        self, fields: Float[Tensor, "n channel *coarse"], resolution: int | Sequence[int]
    ) -> Float[Tensor, "n channel *fine"]:
        """Interpolate solutions onto another grid of the same layout, by cubic splines.

        For layouts `"cells"` and `"interior"` the fields are taken to vanish on the boundary, as
        solutions there do.

        Args:
            fields: Fields `(n, channels, *coarse)`.
            resolution: Points along each axis of the finer grid.

        Returns:
            Fields `(n, channels, *fine)`.
        """
        for axis, (coarse, fine) in enumerate(self._axes(fields, resolution)):
            matrix = _spline_matrix(coarse, fine, self.layout).to(fields)
            fields = torch.tensordot(fields, matrix, dims=([axis + 2], [0])).movedim(-1, axis + 2)
        return fields

    def dataset(
        self,
        n: int,
        resolution: int | Sequence[int],
        *,
        generator: Generators = None,
        fine_factor: int = 2,
        dtype: torch.dtype = torch.float32,
    ) -> FieldDataset:
        """Draw inputs on a finer grid, solve there and restrict both.

        Args:
            n: Number of samples.
            resolution: Points along each axis of the data set.
            generator: Source of randomness, as in `sample_inputs`.
            fine_factor: How much smaller the solver's steps are than the data's.
            dtype: Floating type of the data set; everything before is float64.

        Returns:
            A data set whose attributes hold the equation, its parameters, the solver and its resolution.
        """
        grid = self.grid(resolution)
        fine = self.refined(resolution, fine_factor)
        inputs = self.sample_inputs(n, fine, generator=generator)
        targets = self.solve(inputs)
        attributes = {
            "equation": self.name,
            "parameters": self.parameters(),
            "fine_resolution": list(fine),
            "solver": self.solver(fine),
        }
        inputs, targets = (self.restrict(fields, grid.shape).to(dtype) for fields in (inputs, targets))
        return FieldDataset(inputs, targets, grid, attributes=attributes)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.parameters().items())
        return f"{type(self).__name__}({arguments})"

    def _check(self, fields: Tensor, name: str, channels: int) -> None:
        """Raise where fields are not finite real `(n, channels, *grid)`."""
        if not fields.is_floating_point():
            raise TypeError(f"`{name}` must be of a floating type, got {fields.dtype}")
        if fields.ndim != self.dim + 2 or fields.shape[1] != channels:
            expected = ", ".join(("n", str(channels), *(f"N{axis + 1}" for axis in range(self.dim))))
            raise ValueError(f"`{name}` has shape {tuple(fields.shape)}, expected ({expected})")
        if not bool(torch.isfinite(fields).all()):
            raise ValueError(f"`{name}` holds values that are not finite")

    def _axes(self, fields: Tensor, resolution: int | Sequence[int]) -> list[tuple[int, int]]:
        """Return the old and new number of points of each axis."""
        if fields.ndim != self.dim + 2:
            raise ValueError(f"`fields` has shape {tuple(fields.shape)}, expected {self.dim + 2} axes")
        return list(zip(fields.shape[2:], self.grid(resolution).shape, strict=True))


def _json(value: Any) -> Any:
    """Return tensors and tuples as lists."""
    if isinstance(value, Tensor):
        return value.tolist()
    return [_json(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _restrict_axis(
    fields: Float[Tensor, "..."], axis: int, fine: int, coarse: int, layout: Layout
) -> Float[Tensor, "..."]:
    """Average cells, or pick the points that coincide, along one axis."""
    if fine == coarse:
        return fields
    extra = {"nodes": -1, "interior": 1}.get(layout, 0)
    factor, rest = divmod(fine + extra, max(coarse + extra, 1))
    if rest or factor < 1:
        raise ValueError(f"{coarse} points of layout '{layout}' are not nested in {fine}; see `refined`")
    if layout == "cells":
        cells = fields.reshape(*fields.shape[:axis], coarse, factor, *fields.shape[axis + 1 :])
        return cells.mean(dim=axis + 1)
    first = factor - 1 if layout == "interior" else 0
    index = torch.arange(coarse, device=fields.device) * factor + first
    return fields.index_select(axis, index)


@lru_cache(maxsize=64)
def _spline_matrix(coarse: int, fine: int, layout: Layout) -> Float[Tensor, "N M"]:
    """Return the matrix that takes values on `coarse` points to a cubic spline's on `fine` points."""
    old, new = (
        Grid((n,), (1.0,), layout).coordinates(dtype=torch.float64)[0].numpy() for n in (coarse, fine)
    )
    values = np.eye(coarse)
    if layout != "nodes":
        old = np.concatenate([[0.0], old, [1.0]])
        values = np.pad(values, ((1, 1), (0, 0)))
    return torch.from_numpy(np.ascontiguousarray(CubicSpline(old, values, axis=0)(new).T))
