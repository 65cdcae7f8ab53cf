r"""The Kuramoto-Sivashinsky equation: spatiotemporal chaos in one dimension.

$$u_t + u u_x + u_{xx} + u_{xxxx} = 0$$

References:
    A.-K. Kassam and L. N. Trefethen, Fourth-Order Time-Stepping for Stiff PDEs, 2005, SIAM J. Sci. Comput.
    26(4), doi:10.1137/S1064827502410633.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lemmata.operators.grids import box_lengths
from lemmata.operators.pde.periodic import PeriodicEquation, Spectrum, quadratic_flux

__all__ = ["KuramotoSivashinsky1d"]


class KuramotoSivashinsky1d(PeriodicEquation):
    r"""The Kuramoto-Sivashinsky equation on a periodic interval.

    Maps the initial state to the state at `final_time` of
    $u_t + u u_x + u_{xx} + u_{xxxx} = 0$. Wavelengths above $2 \pi$ grow and feed shorter
    ones, which decay; from `length` 22 on the motion is chaotic, so that errors grow exponentially with
    time. The mean is kept.

    Args:
        length: Length of the interval.
        final_time: Time of the solution.
        time_step: Largest step of ETDRK4; where `None`, the step in which the larger of 4 (about the
            largest value on the attractor) and four standard deviations of the initial states crosses half
            the grid's spacing.
        alpha: Smoothness of the initial states.
        tau: Inverse correlation length of the initial states.
        sigma: Scale of the initial states.

    Raises:
        ValueError: Where an argument is out of range.

    Examples:
        >>> import torch
        >>> ks = KuramotoSivashinsky1d(length=64.0)
        >>> u0 = ks.sample_inputs(2, 128, generator=torch.Generator().manual_seed(0))
        >>> u = ks.solve(u0)
        >>> bool(u.mean(dim=-1).abs().max() < 1e-14)
        True

    References:
        A.-K. Kassam and L. N. Trefethen, Fourth-Order Time-Stepping for Stiff PDEs, 2005.
    """

    name: ClassVar[str] = "ks"

    def __init__(
        self,
        *,
        length: float | Sequence[float] = 64.0,
        final_time: float = 20.0,
        time_step: float | None = None,
        alpha: float = 4.0,
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
        """Return the larger of 4 and four standard deviations of the initial states."""
        return 4.0 * max(1.0, self.initial_std())

    def _linear(self, spectrum: Spectrum) -> Float[Tensor, "*modes"]:
        k2 = spectrum.wavenumbers[0] ** 2
        return k2 - k2**2

    def _nonlinear(self, spectrum: Spectrum) -> Callable[[Tensor], Tensor]:
        return quadratic_flux(spectrum, 0.5)
