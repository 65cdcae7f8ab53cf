r"""Linear advection, whose solution operator is a shift: the sharpest test of what a model does to phases.

$$u_t + c u_x = 0$$

References:
    M. Takamoto et al., PDEBench: An Extensive Benchmark for Scientific Machine Learning, 2022,
    arXiv:2210.07182.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from lemmata.operators.grids import box_lengths
from lemmata.operators.pde.periodic import PeriodicEquation, Spectrum

__all__ = ["Advection1d"]


class Advection1d(PeriodicEquation):
    r"""Advection $u_t + c u_x = 0$ on a periodic interval, solved exactly by a shift of phases.

    Maps the initial state to the state at `final_time`, $u(x, t) = u_0(x - c t)$ for the
    trigonometric interpolant of the initial state.

    Args:
        speed: `c`, in units of length / time, of either sign.
        length: Length of the interval.
        final_time: Time of the solution.
        alpha: Smoothness of the initial states.
        tau: Inverse correlation length of the initial states.
        sigma: Scale of the initial states.

    Raises:
        ValueError: Where an argument is out of range.

    Examples:
        >>> advection = Advection1d(speed=1.0, final_time=0.25)
        >>> u0 = advection.sample_inputs(2, 64, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(advection.solve(u0), u0.roll(16, dims=-1))
        True

    References:
        M. Takamoto et al., PDEBench: An Extensive Benchmark for Scientific Machine Learning, 2022.
    """

    name: ClassVar[str] = "advection"

    def __init__(
        self,
        speed: float = 1.0,
        *,
        length: float | Sequence[float] = 1.0,
        final_time: float = 0.5,
        alpha: float = 2.0,
        tau: float = 5.0,
        sigma: float = 25.0,
    ) -> None:
        super().__init__(
            length=box_lengths(length, 1),
            final_time=final_time,
            time_step=None,
            alpha=alpha,
            tau=tau,
            sigma=sigma,
        )
        if not math.isfinite(speed):
            raise ValueError(f"`speed` (={speed}) must be finite")
        self.speed = float(speed)

    def nominal_speed(self) -> float:
        """Return the speed of advection."""
        return abs(self.speed)

    @torch.no_grad()
    def trajectory(self, inputs: Tensor, saves: int) -> Float[Tensor, "n time *grid"]:
        """Return exact states at `saves` equally spaced times `final_time * (1, ..., saves) / saves`.

        Args:
            inputs: Initial states `(n, 1, N)`.
            saves: Number of states.

        Returns:
            States `(n, saves, N)`, the last at `final_time`, without gradients.

        Raises:
            TypeError: Where inputs are not of a floating type.
            ValueError: Where inputs have the wrong shape or are not finite, or `saves` is not positive.
        """
        self._check(inputs, "inputs", self.in_channels)
        if saves < 1:
            raise ValueError(f"`saves` (={saves}) must be a positive integer")
        points = inputs.shape[-1]
        u_hat = torch.fft.rfft(inputs.double(), dim=-1)
        k = 2.0 * math.pi / self.length[0] * torch.arange(u_hat.shape[-1], dtype=torch.float64)
        times = self.final_time / saves * torch.arange(1, saves + 1, dtype=torch.float64)
        phases = torch.exp(-1j * self.speed * torch.outer(times, k)).to(u_hat.device)
        states: Tensor = torch.fft.irfft(u_hat * phases, n=points, dim=-1)
        return states.to(inputs.dtype)

    def solver(self, resolution: int | Sequence[int]) -> dict[str, Any]:
        """Describe the solver; see `Equation.solver`."""
        return {"method": "exact shift of Fourier phases", "resolution": list(self.grid(resolution).shape)}

    def _start(self, inputs: Float[Tensor, "n 1 *grid"]) -> Float[Tensor, "n 1 *grid"]:
        return inputs  # a shift keeps all modes

    def _linear(self, spectrum: Spectrum) -> Complex[Tensor, "*modes"]:
        return -1j * self.speed * spectrum.wavenumbers[0]

    def _nonlinear(self, spectrum: Spectrum) -> Callable[[Tensor], Tensor]:  # noqa: ARG002 (no such term)
        return torch.zeros_like
