r"""The Korteweg-de Vries equation: waves that steepen and disperse, solitons, and infinitely many invariants.

$$u_t + 6 u u_x + u_{xxx} = 0$$

References:
    N. J. Zabusky and M. D. Kruskal, Interaction of "Solitons" in a Collisionless Plasma and the Recurrence of
    Initial States, 1965, Phys. Rev. Lett. 15.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from jaxtyping import Complex
from torch import Tensor

from lemmata.operators.grids import box_lengths
from lemmata.operators.pde.periodic import PeriodicEquation, Spectrum, quadratic_flux

__all__ = ["KdV1d"]


class KdV1d(PeriodicEquation):
    r"""The Korteweg-de Vries equation $u_t + 6 u u_x + u_{xxx} = 0$ on a periodic interval.

    Maps the initial state to the state at `final_time`. Mass $\int u$ and momentum $\int u^2$
    are kept up to the error in time. A soliton is
    $2 \kappa^2 \mathrm{sech}^2(\kappa (x - 4 \kappa^2 t))$.

    Args:
        length: Length of the interval.
        final_time: Time of the solution.
        time_step: Largest step of ETDRK4; where `None`, the step in which a wave of four standard
            deviations of the initial states, at speed `6 u`, crosses an eighth of the grid's spacing:
            dispersion asks for a smaller step than stability does.
        alpha: Smoothness of the initial states.
        tau: Inverse correlation length of the initial states.
        sigma: Scale of the initial states.

    Raises:
        ValueError: Where an argument is out of range.

    Examples:
        >>> import torch
        >>> kdv = KdV1d(length=40.0, final_time=2.0, time_step=5e-3)
        >>> x = kdv.grid(128).coordinates(dtype=torch.float64)
        >>> u0, u2 = (2 * 0.49 / torch.cosh(0.7 * (x - 20 - shift)) ** 2 for shift in (0.0, 4 * 0.49 * 2.0))
        >>> bool((kdv.solve(u0[None]) - u2).abs().max() < 1e-5)
        True

    References:
        N. J. Zabusky and M. D. Kruskal, Interaction of "Solitons" in a Collisionless Plasma, 1965.
    """

    name: ClassVar[str] = "kdv"

    def __init__(
        self,
        *,
        length: float | Sequence[float] = 40.0,
        final_time: float = 2.0,
        time_step: float | None = None,
        alpha: float = 6.0,
        tau: float = 1.0,
        sigma: float = 1.0,
    ) -> None:
        super().__init__(
            length=box_lengths(length, 1),
            final_time=final_time,
            time_step=time_step,
            alpha=alpha,
            tau=tau,
            sigma=sigma,
        )

    def nominal_speed(self) -> float:
        """Return four times the speed `6 u` of four standard deviations of the initial states."""
        return 96.0 * self.initial_std()

    def _linear(self, spectrum: Spectrum) -> Complex[Tensor, "*modes"]:
        return 1j * spectrum.wavenumbers[0] ** 3

    def _nonlinear(self, spectrum: Spectrum) -> Callable[[Tensor], Tensor]:
        return quadratic_flux(spectrum, 3.0)
