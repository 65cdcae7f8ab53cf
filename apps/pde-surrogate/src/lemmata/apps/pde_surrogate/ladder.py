"""A classical solver made cheap on purpose, step by step, and what it takes to reach a given error.

A surrogate that is compared with the solver that made its labels always looks fast: the labels are far more
accurate than the surrogate. Here the solver is cheapened, by coarser grids, larger time steps and looser
tolerances, until it is as wrong as the surrogate; the time it takes there is what the surrogate has to beat.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.operators.pde import Equation

__all__ = ["Point", "Rung", "SpeedUp", "front", "ladder", "measure", "speed_up"]


@dataclass(frozen=True)
class Rung:
    """One way to cheapen the solver.

    Args:
        setting: What it does, for people.
        resolution: Points along each axis of the grid it solves on.
        solve: From inputs on the evaluation grid to solutions on the evaluation grid.
    """

    setting: str
    resolution: tuple[int, ...]
    solve: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Point:
    """What one way to get solutions costs and how wrong it is.

    Args:
        method: `"surrogate"` or `"solver"`.
        setting: Which surrogate or rung.
        error: Mean relative L2 error.
        single: Seconds a sample, one at a time.
        batched: Seconds a sample, all at once.
    """

    method: Literal["surrogate", "solver"]
    setting: str
    error: float
    single: float
    batched: float

    def seconds(self, mode: Literal["single", "batched"]) -> float:
        """Return the seconds a sample of one mode."""
        return self.single if mode == "single" else self.batched


@dataclass(frozen=True)
class SpeedUp:
    """The solver's time to reach the surrogate's error, over the surrogate's time.

    Args:
        value: The ratio; above 1 the surrogate is faster.
        relation: `"="` where the error lies on the solver's front; `"<="` where the cheapest rung is
            already more accurate; `">="` where no rung is accurate enough.
        solver: Seconds a sample of the solver at that error (or of the nearest rung).
        surrogate: Seconds a sample of the surrogate.
        error: The surrogate's error.
    """

    value: float
    relation: Literal["=", "<=", ">="]
    solver: float
    surrogate: float
    error: float


def ladder(equation: Equation, resolution: Sequence[int]) -> list[Rung]:
    """Return ways to cheapen an equation's solver at a resolution, from its own accuracy down.

    Grids that nest in the evaluation grid are halved down to four points; each is solved with the solver's
    own settings and with cheaper ones (time steps up to 32 times larger, or looser tolerances). Inputs are
    restricted to the coarser grid, and solutions are brought back by `prolong`; both count as
    the solver's time.

    Args:
        equation: The equation.
        resolution: Points along each axis of the evaluation grid.

    Returns:
        The rungs.
    """
    shape = equation.grid(resolution).shape
    rungs = []
    for coarse in _coarser(equation, shape):
        for how, restrict in _restrictions(equation, coarse, shape):
            for setting, solve in _settings(equation, coarse):
                parts = (" x ".join(map(str, coarse)), how, setting)
                rungs.append(
                    Rung(", ".join(filter(None, parts)), coarse, _through(equation, shape, restrict, solve))
                )
    return rungs


def measure(
    solve: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "n channel *grid"],
    *,
    repeats: int = 5,
    singles: int = 5,
    budget: float = 2.0,
) -> tuple[float, float]:
    """Time a way to get solutions, one sample at a time and all at once.

    Args:
        solve: From inputs to solutions.
        inputs: Inputs.
        repeats: Runs a median is taken over, at least one.
        singles: Samples that are timed one at a time.
        budget: Seconds after which no further run of a kind is begun.

    Returns:
        Median seconds a sample, one at a time and all at once.
    """
    solve(inputs[:1])  # caches, plans and lazy imports
    chosen = [inputs[index : index + 1] for index in range(min(singles, len(inputs)))]
    single = _median([lambda x=x: solve(x) for x in chosen] * repeats, budget)
    batched = _median([lambda: solve(inputs)] * repeats, budget) / len(inputs)
    return single, batched


def front(points: Sequence[Point], mode: Literal["single", "batched"]) -> list[Point]:
    """Return the points that none beats in time and error, from slow and accurate to quick and rough.

    A slower point has to be more accurate by a hundredth at least; less is noise.

    Args:
        points: Points.
        mode: Which seconds to compare.

    Returns:
        The Pareto front.

    Examples:
        >>> found = [("a", 0.1, 1.0), ("b", 0.2, 2.0), ("c", 0.5, 0.1)]
        >>> points = [Point("solver", name, error, t, t) for name, error, t in found]
        >>> [point.setting for point in front(points, "single")]
        ['a', 'c']
    """
    chosen: list[Point] = []
    for point in sorted(points, key=lambda point: (point.seconds(mode), point.error)):
        if not chosen or point.error < 0.99 * chosen[-1].error:
            chosen.append(point)
    return chosen[::-1]


def speed_up(surrogate: Point, solver: Sequence[Point], mode: Literal["single", "batched"]) -> SpeedUp:
    """Return the speed-up at equal accuracy, on the logarithmic interpolant of the solver's Pareto front.

    Args:
        surrogate: The surrogate.
        solver: The solver's rungs.
        mode: Which seconds to compare.

    Returns:
        The speed-up.

    Raises:
        ValueError: Where there is no rung.

    Examples:
        >>> rungs = [Point("solver", "fine", 0.01, 1.0, 1.0), Point("solver", "coarse", 1.0, 0.01, 0.01)]
        >>> result = speed_up(Point("surrogate", "fno", 0.1, 0.01, 0.01), rungs, "single")
        >>> result.relation, round(result.value, 6)
        ('=', 10.0)
    """
    if not solver:
        raise ValueError("`solver` holds no rung to compare with")
    curve = front(solver, mode)
    mine = surrogate.seconds(mode)
    relation: Literal["=", "<=", ">="] = "="
    if surrogate.error >= curve[-1].error:
        seconds = curve[-1].seconds(mode)
        relation = "=" if surrogate.error == curve[-1].error else "<="
    elif surrogate.error < curve[0].error:
        seconds, relation = curve[0].seconds(mode), ">="
    else:
        seconds = _interpolated(curve, surrogate.error, mode)
    return SpeedUp(seconds / mine, relation, seconds, mine, surrogate.error)


def _interpolated(curve: Sequence[Point], error: float, mode: Literal["single", "batched"]) -> float:
    """Return the seconds at an error between two points of a front, on straight lines in log-log."""
    for accurate, rough in pairwise(curve):
        if accurate.error <= error <= rough.error:
            e0, e1 = (math.log(max(point.error, 1e-16)) for point in (accurate, rough))
            t0, t1 = (math.log(point.seconds(mode)) for point in (accurate, rough))
            share = (math.log(error) - e0) / (e1 - e0)
            return math.exp(t0 + share * (t1 - t0))
    return curve[-1].seconds(mode)


def _median(runs: Sequence[Callable[[], Any]], budget: float) -> float:
    """Return the median seconds of runs, begun until a budget is spent."""
    seconds: list[float] = []
    for run in runs:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > budget:
            break
    return statistics.median(seconds)


def _coarser(equation: Equation, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shape and those nested in it, each about half of the one before, down to four points."""
    extra = {"nodes": -1, "interior": 1}.get(equation.layout, 0)
    shapes = [shape]
    factor = 2
    while min(shape) // factor >= 4:
        if all((n + extra) % factor == 0 for n in shape):
            shapes.append(tuple((n + extra) // factor - extra for n in shape))
        factor *= 2
    return shapes


def _restrictions(
    equation: Equation, coarse: tuple[int, ...], shape: tuple[int, ...]
) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Return ways to bring inputs onto a coarser grid.

    A permeability may be averaged arithmetically or geometrically; the latter is the effective medium of a
    symmetric mixture in two dimensions, so the classical side gets both.
    """
    if coarse == shape:
        return [("", lambda inputs: inputs)]
    if equation.name == "darcy":
        return [
            ("mean", lambda inputs: equation.restrict(inputs, coarse)),
            ("geometric mean", lambda inputs: equation.restrict(inputs.log(), coarse).exp()),
        ]
    return [("", lambda inputs: equation.restrict(inputs, coarse))]


def _settings(equation: Equation, coarse: tuple[int, ...]) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Return the solver as it is, and with larger time steps or looser tolerances."""
    settings: list[tuple[str, Callable[[Tensor], Tensor]]] = [("", equation.solve)]
    if equation.name == "darcy":
        settings += [
            (f"rtol {rtol:g}", _with_options(equation, method="fast-poisson", rtol=rtol))
            for rtol in (1e-1, 1e-2)
        ]
    step = equation.solver(coarse).get("time_step")
    if "time_step" in equation.parameters() and step is not None:
        for factor in (2, 4, 8, 16, 32):
            larger = type(equation)(**{**equation.parameters(), "time_step": factor * step})
            if larger.solver(coarse)["time_step"] > step:
                settings.append((f"{factor} x time step", larger.solve))
    return settings


def _with_options(equation: Equation, **options: Any) -> Callable[[Tensor], Tensor]:
    """Return the equation's solver with other options."""
    solve: Callable[..., Tensor] = equation.solve
    return lambda inputs: solve(inputs, **options)


def _through(
    equation: Equation,
    shape: tuple[int, ...],
    restrict: Callable[[Tensor], Tensor],
    solve: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Return restriction, solution and prolongation in one."""

    def run(inputs: Tensor) -> Tensor:
        solution = solve(restrict(inputs))
        return solution if tuple(solution.shape[2:]) == shape else equation.prolong(solution, shape)

    return run


def finite_errors(
    rung: Rung, inputs: Float[Tensor, "n channel *grid"], targets: Float[Tensor, "n channel *grid"]
) -> Float[Tensor, " n"] | None:
    """Return a rung's relative L2 errors, or None where it blows up.

    Args:
        rung: The rung.
        inputs: Inputs on the evaluation grid.
        targets: Reference solutions there.

    Returns:
        One error a sample.
    """
    try:
        solution = rung.solve(inputs)
    except (FloatingPointError, ValueError, RuntimeError):
        return None
    errors = (solution - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)
    return errors if bool(torch.isfinite(errors).all()) else None
