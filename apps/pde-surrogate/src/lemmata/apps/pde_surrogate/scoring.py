"""Test fields with reference solutions, and how far a surrogate is from them."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.pde_surrogate.chunks import sample_generator
from lemmata.apps.pde_surrogate.ladder import Point, finite_errors, front, ladder, measure
from lemmata.apps.pde_surrogate.metrics import METRICS, Spectrum, field_errors, spectrum
from lemmata.apps.pde_surrogate.surrogate import Surrogate
from lemmata.operators.data import FieldDataset
from lemmata.operators.pde import Equation

__all__ = ["Score", "held_out", "label_seconds", "race", "score"]


@dataclass(frozen=True)
class Score:
    """A surrogate's errors on one grid.

    Args:
        shape: Points along each axis.
        seen: Whether the surrogate was trained on this grid.
        errors: Each sample's errors by name; see `field_errors`.
        spectrum: Mean energies by octave of wave number.
        prediction: The predicted fields.
        data: Inputs and references.
    """

    shape: tuple[int, ...]
    seen: bool
    errors: dict[str, Float[Tensor, " n"]]
    spectrum: Spectrum
    prediction: Float[Tensor, "n channel *grid"]
    data: FieldDataset

    @property
    def resolution(self) -> str:
        """The shape as people write it."""
        return " x ".join(map(str, self.shape))

    def row(self) -> dict[str, Any]:
        """Return mean errors for a table, None where one does not apply."""
        means = {name: float(self.errors[name].mean()) if name in self.errors else None for name in METRICS}
        return {
            "resolution": list(self.shape),
            "seen": self.seen,
            "samples": len(self.data),
            **means,
            "l2_worst": float(self.errors["l2"].max()),
        }

    def bands(self) -> dict[str, Any]:
        """Return the spectrum as JSON types."""
        return {
            "resolution": list(self.shape),
            **asdict(self.spectrum),
            "relative": list(self.spectrum.relative),
        }

    def pick(self) -> dict[str, int]:
        """Return the numbers of the samples with the median and the largest relative L2 error."""
        order = self.errors["l2"].argsort()
        return {"median": int(order[(len(order) - 1) // 2]), "worst": int(order[-1])}


def held_out(equation: Equation, resolution: int, n: int, seed: int, fine_factor: int) -> FieldDataset:
    """Return test fields with solutions of the reference solver on a finer grid, in float64.

    Sample `i` of a seed is the same function at every resolution, and one of split `"test"` of
    `generate`.

    Args:
        equation: The equation.
        resolution: Points along each axis.
        n: Number of samples.
        seed: Seed of the data set.
        fine_factor: How many times finer the solver's grid is.

    Returns:
        Inputs and reference solutions.
    """
    generators = [sample_generator(seed, "test", sample) for sample in range(n)]
    return equation.dataset(n, resolution, generator=generators, fine_factor=fine_factor, dtype=torch.float64)


def score(surrogate: Surrogate, data: FieldDataset) -> Score:
    """Return a surrogate's errors on a data set.

    Args:
        surrogate: The surrogate.
        data: Inputs and references.

    Returns:
        Its errors, spectrum and predictions.

    Raises:
        ValueError: Where the channels, dimension or layout are not those the surrogate was trained on.
    """
    known = surrogate.description
    for what, found, expected in (
        ("input channels", data.inputs.shape[1], known.in_channels),
        ("target channels", data.targets.shape[1], known.out_channels),
        ("axes", data.grid.dim, known.grids[0].dim),
        ("grid layout", data.grid.layout, known.grids[0].layout),
    ):
        if found != expected:
            source = data.attributes.get("source", "the data set")
            raise ValueError(f"{source}: found {found} {what}, expected {expected} as in training")
    prediction = surrogate.solve(data.inputs)
    return Score(
        shape=data.grid.shape,
        seen=data.grid.shape in {grid.shape for grid in known.grids},
        errors=field_errors(prediction, data.targets, data.grid),
        spectrum=spectrum(prediction, data.targets, data.grid),
        prediction=prediction,
        data=data,
    )


def race(surrogate: Surrogate, equation: Equation, scored: Score) -> list[Point]:
    """Time the surrogate and the cheapened solver on one grid.

    Args:
        surrogate: The surrogate.
        equation: The equation.
        scored: The surrogate's errors there.

    Returns:
        The surrogate's point, then the solver's rungs; those that blow up are left out.
    """
    inputs, targets = scored.data.inputs, scored.data.targets
    name = surrogate.module.hparams["name"]
    points = [Point("surrogate", name, float(scored.errors["l2"].mean()), *measure(surrogate.solve, inputs))]
    for rung in ladder(equation, scored.shape):
        errors = finite_errors(rung, inputs, targets)
        if errors is not None:
            points.append(Point("solver", rung.setting, float(errors.mean()), *measure(rung.solve, inputs)))
    return points


def label_seconds(equation: Equation, resolution: int, fine_factor: int, *, samples: int = 4) -> float:
    """Return the seconds that one training label costs, measured on a few.

    Args:
        equation: The equation.
        resolution: Points along each axis of the training grid.
        fine_factor: How many times finer the solver's grid was.
        samples: Labels to time.

    Returns:
        Median seconds a sample.
    """

    def make(chosen: Tensor) -> FieldDataset:
        generators = [sample_generator(0, "timing", int(index)) for index in chosen[:, 0, 0]]
        return equation.dataset(len(chosen), resolution, generator=generators, fine_factor=fine_factor)

    single, _ = measure(
        lambda x: make(x).targets, torch.arange(samples).reshape(-1, 1, 1).double(), repeats=1
    )
    return single


def on_front(points: list[Point], mode: Any) -> set[str]:
    """Return the settings on the solver's Pareto front.

    Args:
        points: Points of one resolution.
        mode: `"single"` or `"batched"`.

    Returns:
        Their settings.
    """
    return {point.setting for point in front([point for point in points if point.method == "solver"], mode)}
