r"""Two-dimensional incompressible flow in vorticity form on a torus.

$$w_t + u \cdot \nabla w = \nu \Delta w + f, \quad -\Delta \psi = w, \quad u = (\psi_y, -\psi_x)$$

The advection term is evaluated from velocities alone, $u \cdot \nabla w = (\partial_{xx} -
\partial_{yy})(u_1 u_2) - \partial_{xy}(u_1^2 - u_2^2)$, which takes four real transforms where the usual
forms take five.

References:
    Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021,
    arXiv:2010.08895, section 5.3.
    C. Basdevant, Technical Improvements for Direct Numerical Simulation of Homogeneous Three-Dimensional
    Turbulence, 1983, J. Comput. Phys. 50.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.operators.grids import Grid, box_lengths
from lemmata.operators.pde.periodic import PeriodicEquation, Spectrum, fourier_resize

__all__ = ["NavierStokes2d"]


class NavierStokes2d(PeriodicEquation):
    r"""Incompressible flow $w_t + u \cdot \nabla w = \nu \Delta w + f$ on a periodic box.

    Maps the initial vorticity to the vorticity at `final_time`; the mean velocity is zero. Initial states
    are Gaussian with covariance `7^{3/2} (-Delta + 49)^{-5/2}` by default. A viscosity of 1e-5 needs a grid
    of 256 x 256.

    Args:
        viscosity: `nu`, in units of length^2 / time; zero is the Euler equation.
        forcing: `"diagonal"` is `0.1 (sin s + cos s)` with `s = 2 pi (x / L1 + y / L2)`;
            `"kolmogorov"` is `-4 cos(8 pi y / L2)`, the curl of a shear body force of four periods;
            `None` is none; or a field `(N1, N2)`, resized to the inputs' grid by its Fourier modes.
        length: Lengths of the box; one number stands for both.
        final_time: Time of the solution.
        time_step: Largest step of ETDRK4; where `None`, the step in which half of `max(length)` a unit
            of time crosses half the grid's spacing. Give a smaller one for faster flows.
        alpha: Smoothness of the initial states.
        tau: Inverse correlation length of the initial states.
        sigma: Scale of the initial states.

    Raises:
        ValueError: Where an argument is out of range.

    Examples:
        >>> flow = NavierStokes2d(viscosity=1e-3, forcing=None, final_time=1.0)
        >>> x, y = flow.grid(32).coordinates(dtype=torch.float64)
        >>> w0 = torch.cos(2 * math.pi * x) * torch.cos(2 * math.pi * y)  # Taylor-Green: decays in place
        >>> w = flow.solve(w0[None, None])
        >>> bool((w - w0 * math.exp(-8e-3 * math.pi**2)).abs().max() < 1e-10)
        True

    References:
        Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021.
    """

    name: ClassVar[str] = "navier-stokes"

    def __init__(
        self,
        viscosity: float = 1e-3,
        *,
        forcing: str | Tensor | Sequence[Sequence[float]] | None = "diagonal",
        length: float | Sequence[float] = 1.0,
        final_time: float = 10.0,
        time_step: float | None = None,
        alpha: float = 2.5,
        tau: float = 7.0,
        sigma: float = 7.0**0.75,
    ) -> None:
        super().__init__(
            length=box_lengths(length, 2),
            final_time=final_time,
            time_step=time_step,
            alpha=alpha,
            tau=tau,
            sigma=sigma,
        )
        if not (math.isfinite(viscosity) and viscosity >= 0):
            raise ValueError(f"`viscosity` (={viscosity}) must be non-negative and finite")
        self.viscosity = float(viscosity)
        self.forcing = _checked_forcing(forcing)

    def nominal_speed(self) -> float:
        """Return half the length of the box a unit of time."""
        return 0.5 * max(self.length)

    def velocity(self, vorticity: Float[Tensor, "n 1 x y"]) -> Float[Tensor, "n 2 x y"]:
        """Return the velocity `(psi_y, -psi_x)` of a vorticity, with zero mean.

        Args:
            vorticity: Vorticities `(n, 1, N1, N2)`. Modes above a third of the grid's are discarded.

        Returns:
            Velocities `(n, 2, N1, N2)`.
        """
        spectrum = Spectrum(self.grid(vorticity.shape[2:]), vorticity.device)
        w_hat = spectrum.forward(vorticity.double()) * spectrum.kept
        return spectrum.inverse(_velocity_symbols(spectrum) * w_hat).to(vorticity.dtype)

    def _linear(self, spectrum: Spectrum) -> Float[Tensor, "*modes"]:
        kx, ky = spectrum.wavenumbers
        return -self.viscosity * (kx**2 + ky**2)

    def _nonlinear(self, spectrum: Spectrum) -> Callable[[Tensor], Tensor]:
        kx, ky = (k.to(torch.complex128) for k in spectrum.wavenumbers)
        symbols = _velocity_symbols(spectrum)
        product, difference = kx**2 - ky**2, -kx * ky  # masked, as the wavenumbers are
        forcing = self._forcing_field(spectrum.grid).to(spectrum.kept)
        forcing_hat = spectrum.forward(forcing) * spectrum.kept

        def nonlinear(w_hat: Tensor) -> Tensor:
            velocity = spectrum.inverse(symbols * w_hat.unsqueeze(-3))
            u, v = velocity.unbind(dim=-3)
            fluxes = torch.stack([u * v, (u + v) * (u - v)], dim=-3)
            uv_hat, uu_vv_hat = spectrum.forward(fluxes).unbind(dim=-3)
            return torch.addcmul(torch.addcmul(forcing_hat, product, uv_hat), difference, uu_vv_hat)

        return nonlinear

    def _forcing_field(self, grid: Grid) -> Float[Tensor, "x y"]:
        """Return the forcing on a grid."""
        if isinstance(self.forcing, Tensor):
            return fourier_resize(self.forcing[None, None], grid.shape)[0, 0]
        x, y = grid.coordinates(dtype=torch.float64)
        x, y = 2.0 * math.pi * x / self.length[0], 2.0 * math.pi * y / self.length[1]
        if self.forcing == "diagonal":
            return 0.1 * (torch.sin(x + y) + torch.cos(x + y))
        if self.forcing == "kolmogorov":
            return -4.0 * torch.cos(4.0 * y)
        return torch.zeros_like(x)


def _checked_forcing(forcing: Any) -> Any:
    """Return a name, `None`, or a finite field of two axes."""
    if forcing is None:
        return None
    if isinstance(forcing, str):
        if forcing in {"diagonal", "kolmogorov"}:
            return forcing
        raise ValueError(f"`forcing` (={forcing!r}) must be 'diagonal', 'kolmogorov', None or a field")
    field = torch.as_tensor(forcing, dtype=torch.float64)
    if field.ndim != 2 or field.numel() == 0 or not bool(torch.isfinite(field).all()):
        raise ValueError(f"`forcing` of shape {tuple(field.shape)} must be a finite field (N1, N2)")
    return field


def _velocity_symbols(spectrum: Spectrum) -> Tensor:
    """Return the symbols `(2, *modes)` from vorticity to velocity, zero for the mean."""
    kx, ky = spectrum.wavenumbers
    k2 = kx**2 + ky**2
    inverse = torch.where(k2 > 0, 1.0 / k2.clamp_min(1e-300), 0.0)
    return 1j * torch.stack([ky * inverse, -kx * inverse])
