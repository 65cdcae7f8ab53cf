"""The Helmholtz equation in two dimensions: from a wave speed to the field a source radiates.

`Helmholtz2d` solves `Lap u + (k / c)^2 u = f` for a fixed source in a medium of varying speed `c` that is
uniform outside the box, with first-order absorbing boundaries or zeros there. The matrix is complex symmetric
and indefinite, which multigrid and plain Krylov methods handle badly, so it is factorised by sparse LU.
Central differences need about ten nodes a wavelength `2 pi c / k`, and more over long distances: the phase
error grows like `k^3 h^2`.

References:
    Engquist and Majda, Absorbing boundary conditions for the numerical simulation of waves, 1977.
    Ihlenburg and Babuska, Finite element solution of the Helmholtz equation with high wave number, 1995.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse.linalg import splu
from torch import Tensor

from lemmata.operators.grids import Layout, box_lengths
from lemmata.operators.pde.equation import Equation
from lemmata.operators.pde.random_field import GaussianRandomField, Generators
from lemmata.operators.solvers.problems import System, checked_coefficient, helmholtz, node_weights

__all__ = ["Helmholtz2d"]


class Helmholtz2d(Equation):
    """The Helmholtz equation `Lap u + (wavenumber / c)^2 u = f` on a box.

    Fields live on nodes, boundary included (layout `"nodes"`). The input is the wave speed `c`, relative
    to the speed 1 outside: `c = exp(g)` with `g` a Gaussian random field that vanishes on the
    boundary. The source is a Gaussian of unit integral. The solution has two channels, the real and the
    imaginary part; time dependence is `exp(+i omega t)`, so outgoing waves are `exp(-i k r)`.

    Args:
        wavenumber: `k` at speed 1, in radians per unit length.
        boundary: `"absorbing"`, `du/dn + i (k / c) u = 0`, or `"dirichlet"`, `u = 0` (the imaginary
            part is then zero).
        variation: Root mean square of `g`, the logarithm of the speed; 0 is a uniform medium.
        alpha: Smoothness of `g`.
        tau: Inverse correlation length of `g`.
        source: Centre of the source as fractions of the box.
        source_width: Standard deviation of the source, in units of length.
        length: Length of the box along each axis, or of both.

    Raises:
        ValueError: Where a parameter is out of range.

    Examples:
        >>> equation = Helmholtz2d(10.0)
        >>> c = equation.sample_inputs(1, 33, generator=torch.Generator().manual_seed(0))
        >>> u = equation.solve(c)
        >>> u.shape
        torch.Size([1, 2, 33, 33])
        >>> bool(equation.residual(c, u).abs().max() < 1e-10)
        True
    """

    name: ClassVar[str] = "helmholtz"
    layout: ClassVar[Layout] = "nodes"
    out_channels: int = 2

    def __init__(
        self,
        wavenumber: float = 20.0,
        *,
        boundary: Literal["absorbing", "dirichlet"] = "absorbing",
        variation: float = 0.2,
        alpha: float = 3.0,
        tau: float = 5.0,
        source: Sequence[float] = (0.5, 0.25),
        source_width: float = 0.05,
        length: float | Sequence[float] = 1.0,
    ) -> None:
        if boundary not in {"absorbing", "dirichlet"}:
            raise ValueError(f"`boundary` (={boundary!r}) must be 'absorbing' or 'dirichlet'")
        positive = {"wavenumber": wavenumber, "alpha": alpha, "tau": tau, "source_width": source_width}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` (={value}) must be positive and finite")
        if not (math.isfinite(variation) and variation >= 0):
            raise ValueError(f"`variation` (={variation}) must be non-negative and finite")
        if len(source) != 2 or not all(0 <= x <= 1 for x in source):
            raise ValueError(f"`source` (={tuple(source)}) must be two fractions between 0 and 1")
        self.wavenumber = float(wavenumber)
        self.boundary: Literal["absorbing", "dirichlet"] = boundary
        self.variation = float(variation)
        self.alpha = float(alpha)
        self.tau = float(tau)
        self.source = tuple(float(x) for x in source)
        self.source_width = float(source_width)
        self.length = box_lengths(length, 2)
        # One scale for all resolutions, so that a seed stays the same function.
        unscaled = GaussianRandomField((64, 64), self.length, alpha, tau, sigma=1.0, boundary="dirichlet")
        self._sigma = self.variation / unscaled.pointwise_std()

    def sample_inputs(
        self,
        n: int,
        resolution: int | Sequence[int],
        *,
        generator: Generators = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "n 1 h w"]:
        """Draw wave speeds; see `Equation.sample_inputs`.

        Args:
            n: Number of samples.
            resolution: Nodes along each axis, at least three; an integer stands for both.
            generator: Source of randomness; one for all samples or one each.
            dtype: Floating type of the result.
            device: Device of the result.

        Returns:
            Wave speeds `(n, 1, h, w)`, 1 on the boundary.

        Raises:
            ValueError: Where the resolution leaves no interior nodes.
        """
        height, width = self.grid(resolution).shape
        if min(height, width) < 3:
            raise ValueError(f"`resolution` (={resolution}) must be at least 3 along every axis")
        inner = (height - 2, width - 2)
        inside = GaussianRandomField(
            inner, self.length, self.alpha, self.tau, sigma=self._sigma, boundary="dirichlet"
        )
        g = torch.nn.functional.pad(inside.sample(n, generator=generator), (1, 1, 1, 1))
        return g.exp()[:, None].to(dtype=dtype, device=device)

    def solve(self, inputs: Tensor) -> Float[Tensor, "n 2 h w"]:
        """Solve for each wave speed at its own resolution, in complex128.

        Args:
            inputs: Positive wave speeds `(n, 1, h, w)`, at least four nodes along each axis.

        Returns:
            Real and imaginary parts `(n, 2, h, w)` in the dtype and on the device of the inputs.

        Raises:
            TypeError: Where the inputs are not of a floating type.
            ValueError: Where they have another shape, or are not positive or not finite.
        """
        speeds = self._speeds(inputs)
        u = np.zeros((len(speeds), 2, *speeds.shape[1:]))
        for sample, c in enumerate(speeds):
            system = self._system(c)
            factors = splu(
                system.A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=_PIVOT, options=_SYMMETRIC
            )
            solution = factors.solve(system.b).reshape(system.grid.shape)
            u[(sample, 0, *self._unknowns)] = solution.real
            u[(sample, 1, *self._unknowns)] = solution.imag
        return torch.from_numpy(u).to(inputs)

    def residual(self, inputs: Tensor, solution: Tensor) -> Float[Tensor, "n 2 h w"]:
        """Return `f - Lap u - (k / c)^2 u`, discretised as `solve` does.

        At boundary nodes this is the balance over the half or quarter cell, divided by its volume; under
        `"dirichlet"` it is minus the solution there, which should vanish.

        Args:
            inputs: Wave speeds `(n, 1, h, w)`.
            solution: Real and imaginary parts `(n, 2, h, w)`.

        Returns:
            Real and imaginary parts of the residual `(n, 2, h, w)` in the solution's dtype.

        Raises:
            TypeError: Where a field is not of a floating type.
            ValueError: Where a field has another shape or is out of range.
        """
        speeds = self._speeds(inputs)
        self._check(solution, "solution", 2)
        expected = (inputs.shape[0], 2, *inputs.shape[2:])
        if solution.shape != expected:
            raise ValueError(f"`solution` has shape {tuple(solution.shape)}, expected {expected}")
        parts = solution.detach().cpu().to(torch.float64).numpy()
        residual = -parts
        for sample, c in enumerate(speeds):
            system = self._system(c)
            u = (parts[sample, 0] + 1j * parts[sample, 1])[self._unknowns]
            share = node_weights(c.shape) if self.boundary == "absorbing" else 1.0
            r = (system.A @ u.ravel() - system.b).reshape(u.shape) / share
            residual[(sample, 0, *self._unknowns)] = r.real
            residual[(sample, 1, *self._unknowns)] = r.imag
        return torch.from_numpy(residual).to(solution)

    def solver(self, resolution: int | Sequence[int]) -> dict[str, Any]:
        """Describe the solver of a data set; see `Equation.solver`.

        Args:
            resolution: Nodes along each axis.

        Returns:
            The discretisation and method, as JSON types.
        """
        shape = list(self.grid(resolution).shape)
        return {"scheme": "five-point differences", "method": "sparse LU", "resolution": shape}

    def forcing(self, resolution: int | Sequence[int]) -> Float[Tensor, "h w"]:
        """Return the source `f` on the nodes of a resolution, in float64.

        Args:
            resolution: Nodes along each axis; an integer stands for both.

        Returns:
            Source `(h, w)`.
        """
        coordinates = self.grid(resolution).coordinates(dtype=torch.float64)
        centre = torch.tensor(self.source, dtype=torch.float64) * torch.tensor(
            self.length, dtype=torch.float64
        )
        squared = ((coordinates - centre[:, None, None]) / self.source_width).square().sum(0)
        return (-0.5 * squared).exp() / (2 * math.pi * self.source_width**2)

    @property
    def _unknowns(self) -> tuple[slice, slice]:
        """Index the nodes that are solved for."""
        kept = slice(None) if self.boundary == "absorbing" else slice(1, -1)
        return kept, kept

    def _system(self, c: NDArray[np.float64]) -> System:
        """Assemble `-Lap u - (k / c)^2 u = -f` for one wave speed."""
        k = (self.wavenumber / c)[self._unknowns]
        f = self.forcing(c.shape).numpy()[self._unknowns]
        return helmholtz(k, length=self.length, forcing=-f, boundary=self.boundary)

    def _speeds(self, inputs: Tensor) -> NDArray[np.float64]:
        """Return wave speeds `(n, h, w)` in float64, or raise."""
        speeds = checked_coefficient(inputs, "inputs")
        self._check(inputs, "inputs", 1)
        if min(inputs.shape[2:]) < 4:
            raise ValueError(f"`inputs` has shape {tuple(inputs.shape)}; an axis needs at least four nodes")
        return speeds[:, 0]


# The matrix is indefinite, so rows are exchanged where a pivot is ten times smaller than its column.
_PIVOT = 0.1
_SYMMETRIC = {"SymmetricMode": True}
