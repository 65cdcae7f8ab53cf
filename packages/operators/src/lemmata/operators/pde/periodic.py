r"""What the periodic equations share: Fourier truncation, time stepping, transfer between grids, residual.

The linear part of an equation $u_t = L u + N(u)$ with constant coefficients on a periodic box is
diagonal after a Fourier transform. `PeriodicEquation` keeps the modes that a quadratic $N$
leaves free of aliasing (the 2/3 rule) and advances them by ETDRK4; a subclass gives $L$ and $N$.

Letters used below: `n` fields, `N` points of an axis, `K` highest mode kept, `k` wavenumbers in
physical units.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from lemmata.operators.grids import Grid, Layout
from lemmata.operators.pde.equation import Equation
from lemmata.operators.pde.etdrk4 import etdrk4
from lemmata.operators.pde.random_field import GaussianRandomField, Generators

__all__ = ["PeriodicEquation", "Spectrum", "fourier_resize"]


class Spectrum:
    """Fourier modes of real fields that a quadratic term leaves free of aliasing.

    An axis of `N` points keeps the modes `|k| <= K = (N - 1) // 3`: products of two such modes alias onto
    discarded ones only. The last axis is a half spectrum cut to `K + 1` modes; other axes keep all `N`
    slots, with zeros in the discarded ones, so that no copy stands between a spectrum and its transform.

    Args:
        grid: A periodic grid.
        device: Device of the wavenumbers.
    """

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self.grid = grid
        self.highest = tuple((n - 1) // 3 for n in grid.shape)
        frequencies = [torch.fft.fftfreq(n, 1.0 / n, dtype=torch.float64) for n in grid.shape[:-1]]
        frequencies.append(torch.arange(self.highest[-1] + 1, dtype=torch.float64))
        mesh = torch.meshgrid(*frequencies, indexing="ij")
        self.kept = torch.ones(mesh[0].shape, dtype=torch.float64, device=device)
        for frequency, highest in zip(mesh, self.highest, strict=True):
            self.kept *= (frequency.abs() <= highest).to(self.kept)
        self.wavenumbers = tuple(
            (2.0 * math.pi / size) * frequency.to(device) * self.kept
            for frequency, size in zip(mesh, grid.length, strict=True)
        )

    def forward(self, fields: Tensor) -> Tensor:
        """Transform real fields `(..., *grid)` to spectra, not masked yet along full axes."""
        spectrum: Tensor = torch.fft.rfft(fields, dim=-1)[..., : self.highest[-1] + 1]
        for axis in range(-self.grid.dim, -1):
            spectrum = torch.fft.fft(spectrum, dim=axis)
        return spectrum

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Transform spectra, zero in discarded slots, to real fields `(..., *grid)`."""
        for axis in range(-self.grid.dim, -1):
            spectrum = torch.fft.ifft(spectrum, dim=axis)
        fields: Tensor = torch.fft.irfft(spectrum, n=self.grid.shape[-1], dim=-1)
        return fields


class PeriodicEquation(Equation):
    """Base of the equations `u_t = L u + N(u)` on a periodic box, with Gaussian random initial states.

    Args:
        length: Length of the box along each axis.
        final_time: Time at which `solve` returns the state.
        time_step: Largest step; where `None`, the step in which the `nominal_speed` crosses half the
            grid's spacing.
        alpha: Smoothness of the initial states, see `GaussianRandomField`.
        tau: Inverse correlation length of the initial states.
        sigma: Scale of the initial states.

    Raises:
        ValueError: Where a time or length is not positive and finite.
    """

    layout: ClassVar[Layout] = "periodic"

    def __init__(
        self,
        *,
        length: tuple[float, ...],
        final_time: float,
        time_step: float | None,
        alpha: float,
        tau: float,
        sigma: float,
    ) -> None:
        self.length = length
        self.final_time = positive("final_time", final_time)
        self.time_step = None if time_step is None else positive("time_step", time_step)
        self.alpha, self.tau, self.sigma = float(alpha), float(tau), float(sigma)
        self._random_field((8,) * self.dim)  # checks the three

    @abstractmethod
    def nominal_speed(self) -> float:
        """Return the speed that sets the default step: an upper estimate for the random initial states.

        It depends on the equation's parameters alone, so that a solution does not depend on its batch.
        """

    @abstractmethod
    def _linear(self, spectrum: Spectrum) -> Inexact[Tensor, "*modes"]:
        """Return the symbol of `L`."""

    @abstractmethod
    def _nonlinear(self, spectrum: Spectrum) -> Callable[[Tensor], Tensor]:
        """Return `N` from kept modes to kept modes."""

    def initial_std(self) -> float:
        """Return the standard deviation of the initial states, modes up to 128 counted."""
        return self._random_field((256,) * self.dim).pointwise_std()

    def sample_inputs(
        self,
        n: int,
        resolution: int | Sequence[int],
        *,
        generator: Generators = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "n channel *grid"]:
        """Draw initial states; see `Equation.sample_inputs`."""
        field = self._random_field(self.grid(resolution).shape)
        return field.sample(n, generator=generator, dtype=dtype, device=device).unsqueeze(1)

    def solve(self, inputs: Tensor) -> Float[Tensor, "n channel *grid"]:
        """Return the state at `final_time`.

        Args:
            inputs: Initial states `(n, 1, *grid)`. Modes above a third of the grid's are discarded.

        Returns:
            Final states `(n, 1, *grid)`, without gradients.

        Raises:
            FloatingPointError: Where the solution blows up.
            TypeError: Where inputs are not of a floating type.
            ValueError: Where inputs have the wrong shape or are not finite.
        """
        return self.trajectory(inputs, 1)

    @torch.no_grad()
    def trajectory(self, inputs: Tensor, saves: int) -> Float[Tensor, "n time *grid"]:
        """Return states at `saves` equally spaced times `final_time * (1, ..., saves) / saves`.

        The step is the largest one not above `time_step` that divides the time between two states.

        Args:
            inputs: Initial states `(n, 1, *grid)`. Modes above a third of the grid's are discarded.
            saves: Number of states.

        Returns:
            States `(n, saves, *grid)`, the last at `final_time`, without gradients.

        Raises:
            FloatingPointError: Where the solution blows up.
            TypeError: Where inputs are not of a floating type.
            ValueError: Where inputs have the wrong shape or are not finite, or `saves` is not positive.
        """
        self._check(inputs, "inputs", self.in_channels)
        steps, dt = self._steps(self.grid(inputs.shape[2:]), saves)
        spectrum = Spectrum(self.grid(inputs.shape[2:]), inputs.device)
        linear, nonlinear = self._linear(spectrum), self._nonlinear(spectrum)
        states = inputs.new_empty((len(inputs), saves, *inputs.shape[2:]))
        points = _CACHED_POINTS if inputs.device.type == "cpu" else inputs.numel()
        size = max(1, points // math.prod(inputs.shape[2:]))
        for start in range(0, len(inputs), size):
            u_hat = spectrum.forward(inputs[start : start + size, 0].double()) * spectrum.kept
            u_hats = etdrk4(u_hat, linear, nonlinear, dt, steps * saves, save_every=steps)
            states[start : start + size] = spectrum.inverse(u_hats).movedim(0, 1)
        return states

    @torch.no_grad()
    def residual(self, inputs: Tensor, solution: Tensor) -> Float[Tensor, "n time *grid"]:
        """Return `u_t - L u - N(u)` along a trajectory.

        Time derivatives are differences of fourth order over five states, the initial one among them, cut to
        the modes that the solver keeps. Space derivatives and products are exact for the trigonometric
        interpolant, then cut to the grid's modes.

        Args:
            inputs: Initial states `(n, 1, *grid)`.
            solution: States `(n, time, *grid)` at equally spaced times up to `final_time`, as
                `trajectory` returns; at least four.

        Returns:
            Residuals `(n, time, *grid)`.

        Raises:
            TypeError: Where fields are not of a floating type.
            ValueError: Where shapes are wrong, fields are not finite, or there are fewer than four states.
        """
        self._check(inputs, "inputs", self.in_channels)
        saves = solution.shape[1] if solution.ndim == self.dim + 2 else 0
        self._check(solution, "solution", max(saves, 4))
        if solution.shape[0] != inputs.shape[0] or solution.shape[2:] != inputs.shape[2:]:
            raise ValueError(
                f"`solution` {tuple(solution.shape)} must have the samples and grid of "
                f"`inputs` {tuple(inputs.shape)}"
            )
        states = torch.cat([self._start(inputs.double()), solution.double()], dim=1)
        weights = _difference_weights(saves).to(states.device) * (saves / self.final_time)
        derivative: Tensor = torch.tensordot(states, weights, dims=([1], [1])).movedim(-1, 1)
        residual: Tensor = derivative - self._rate(solution.double())
        return residual.to(solution.dtype)

    def restrict(
        self, fields: Float[Tensor, "n channel *fine"], resolution: int | Sequence[int]
    ) -> Float[Tensor, "n channel *coarse"]:
        """Keep the Fourier modes that both grids hold; the coarser grid's Nyquist mode is zero."""
        axes = self._axes(fields, resolution)
        return fourier_resize(fields, tuple(new for _, new in axes))

    def prolong(
        self, fields: Float[Tensor, "n channel *coarse"], resolution: int | Sequence[int]
    ) -> Float[Tensor, "n channel *fine"]:
        """Evaluate the trigonometric interpolant on another grid."""
        return self.restrict(fields, resolution)

    def solver(self, resolution: int | Sequence[int]) -> dict[str, Any]:
        """Describe the solver; see `Equation.solver`."""
        grid = self.grid(resolution)
        steps, dt = self._steps(grid, 1)
        return {
            "method": "Fourier-Galerkin, 2/3 rule, ETDRK4",
            "resolution": list(grid.shape),
            "time_step": dt,
            "steps": steps,
        }

    def _random_field(self, shape: tuple[int, ...]) -> GaussianRandomField:
        return GaussianRandomField(shape, self.length, self.alpha, self.tau, self.sigma)

    def _steps(self, grid: Grid, saves: int) -> tuple[int, float]:
        """Return the number of steps between two of `saves` states, and the step."""
        if saves < 1:
            raise ValueError(f"`saves` (={saves}) must be a positive integer")
        largest = self.time_step or 0.5 * min(grid.spacing) / self.nominal_speed()
        interval = self.final_time / saves
        steps = max(1, math.ceil(interval / largest * (1.0 - 1e-12)))
        return steps, interval / steps

    def _start(self, inputs: Float[Tensor, "n 1 *grid"]) -> Float[Tensor, "n 1 *grid"]:
        """Return the states that `trajectory` starts from."""
        spectrum = Spectrum(self.grid(inputs.shape[2:]), inputs.device)
        return spectrum.inverse(spectrum.forward(inputs) * spectrum.kept)

    def _rate(self, states: Float[Tensor, "n time *grid"]) -> Float[Tensor, "n time *grid"]:
        """Return `L u + N(u)`, on a grid fine enough to hold all modes of `u` free of aliasing."""
        shape = tuple(int(scipy.fft.next_fast_len(3 * (n // 2) + 1, real=True)) for n in states.shape[2:])
        spectrum = Spectrum(self.grid(shape), states.device)
        u_hat = spectrum.forward(fourier_resize(states, shape)) * spectrum.kept
        rate = spectrum.inverse(self._linear(spectrum) * u_hat + self._nonlinear(spectrum)(u_hat))
        return fourier_resize(rate, tuple(states.shape[2:]))


_CACHED_POINTS = 2**16  # advanced together on a CPU, so that states and stages stay in its cache


def positive(name: str, value: float) -> float:
    """Return a number that must be positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` (={value}) must be positive and finite")
    return float(value)


def quadratic_flux(spectrum: Spectrum, coefficient: float) -> Callable[[Tensor], Tensor]:
    """Return `N(u) = -coefficient (u^2)_x` of a one-dimensional equation, on kept modes."""
    multiplier = -1j * coefficient * spectrum.wavenumbers[0]

    def nonlinear(u_hat: Tensor) -> Tensor:
        return spectrum.forward(spectrum.inverse(u_hat).square_()).mul_(multiplier)

    return nonlinear


def fourier_resize(
    fields: Float[Tensor, "n channel *old"], shape: tuple[int, ...]
) -> Float[Tensor, "n channel *new"]:
    """Evaluate trigonometric interpolants on another periodic grid of the same box, cut to its modes.

    A finer grid gets half of an even grid's Nyquist mode at each end of the spectrum, so that values at
    shared points stay; a coarser grid's own Nyquist mode, which has no definite phase there, is left zero.

    Args:
        fields: Fields `(n, channels, *old)`.
        shape: New number of points along each axis.

    Returns:
        Fields `(n, channels, *shape)`.
    """
    for axis, (old, new) in enumerate(zip(fields.shape[2:], shape, strict=True), start=2):
        if old == new:
            continue
        modes = torch.fft.rfft(fields, dim=axis, norm="forward")
        if new > old and old % 2 == 0:
            modes.select(axis, old // 2).mul_(0.5)
        kept = modes.narrow(axis, 0, min(old // 2, (new - 1) // 2) + 1)
        fields = torch.fft.irfft(kept, n=new, dim=axis, norm="forward")
    return fields


def _difference_weights(saves: int) -> Float[Tensor, "saves states"]:
    """Return weights of the first derivative at states `1 ... saves`, from the five nearest."""
    weights = np.zeros((saves, saves + 1))
    for state in range(1, saves + 1):
        first = min(max(state - 2, 0), saves - 4)
        offsets = np.arange(first, first + 5) - state
        powers = np.vander(offsets, 5, increasing=True).T.astype(np.float64)
        weights[state - 1, first : first + 5] = np.linalg.solve(powers, np.eye(5)[1])
    return torch.from_numpy(weights)
