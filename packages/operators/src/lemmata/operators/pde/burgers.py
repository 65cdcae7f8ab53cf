r"""Viscous Burgers' equation, the simplest with both steepening and diffusion.

$$u_t + u u_x = \nu u_{xx}$$

References:
    Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021,
    arXiv:2010.08895, section 5.1.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lemmata.operators.grids import box_lengths
from lemmata.operators.pde.periodic import PeriodicEquation, Spectrum, positive, quadratic_flux

__all__ = ["Burgers1d"]


class Burgers1d(PeriodicEquation):
    r"""Burgers' equation $u_t + u u_x = \nu u_{xx}$ on a periodic interval.

    Maps the initial state to the state at `final_time`. Initial states are Gaussian with covariance
    `625 (-d_xx + 25)^-2` by default.

    Args:
        viscosity: `nu`, in units of length^2 / time.
        length: Length of the interval.
        final_time: Time of the solution.
        time_step: Largest step of ETDRK4; where `None`, the step in which four standard deviations of the
            initial states cross half the grid's spacing.
        alpha: Smoothness of the initial states.
        tau: Inverse correlation length of the initial states.
        sigma: Scale of the initial states.

    Raises:
        ValueError: Where an argument is out of range.

    Examples:
        >>> import torch
        >>> burgers = Burgers1d(viscosity=0.01)
        >>> u0 = burgers.sample_inputs(2, 256, generator=torch.Generator().manual_seed(0))
        >>> burgers.solve(u0).shape, burgers.trajectory(u0, saves=5).shape
        (torch.Size([2, 1, 256]), torch.Size([2, 5, 256]))

    References:
        Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021.
    """

    name: ClassVar[str] = "burgers"

    def __init__(
        self,
        viscosity: float = 0.1,
        *,
        length: float | Sequence[float] = 1.0,
        final_time: float = 1.0,
        time_step: float | None = None,
        alpha: float = 2.0,
        tau: float = 5.0,
        sigma: float = 25.0,
    ) -> None:
        super().__init__(
            length=box_lengths(length, 1),
            final_time=final_time,
            time_step=time_step,
            alpha=alpha,
            tau=tau,
            sigma=sigma,
        )
        self.viscosity = positive("viscosity", viscosity)

    def nominal_speed(self) -> float:
        """Return four standard deviations of the initial states, which only decay."""
        return 4.0 * self.initial_std()

    def _linear(self, spectrum: Spectrum) -> Float[Tensor, "*modes"]:
        return -self.viscosity * spectrum.wavenumbers[0] ** 2

    def _nonlinear(self, spectrum: Spectrum) -> Callable[[Tensor], Tensor]:
        return quadratic_flux(spectrum, 0.5)
