"""Poisson's equation in two dimensions, solved by sine transforms.

`Poisson2d` maps a source to the potential, `-Lap u = f` with `u = 0` on the boundary. The five-point
Laplacian on interior points is diagonal in the discrete sine basis, so a solve is two transforms, exact to
rounding and vectorised over the batch. It equals `scipy.sparse.linalg.spsolve` on
`lemmata.operators.solvers.problems.poisson`.

References:
    Buzbee, Golub and Nielson, On direct methods for solving Poisson's equations, 1970.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.fft import dstn
from torch import Tensor

from lemmata.operators.grids import Layout, box_lengths
from lemmata.operators.pde.equation import Equation
from lemmata.operators.pde.random_field import GaussianRandomField, Generators

__all__ = ["Poisson2d"]


class Poisson2d(Equation):
    """Poisson's equation `-Lap u = f` on a box, `u = 0` on its boundary.

    Fields live on interior points (layout `"interior"`); the zeros on the boundary are left out. Sources
    are Gaussian random fields of covariance `tau^(2 alpha - 2) (-Lap + tau^2)^(-alpha)` under Dirichlet
    conditions.

    Args:
        alpha: Smoothness of the sources.
        tau: Inverse correlation length of the sources.
        length: Length of the box along each axis, or of both.

    Raises:
        ValueError: Where `alpha` or `tau` is not positive, or a length is not.

    Examples:
        >>> equation = Poisson2d()
        >>> x, y = equation.grid(31).coordinates(dtype=torch.float64)
        >>> f = torch.sin(math.pi * x) * torch.sin(math.pi * y)
        >>> u = equation.solve(f[None, None])[0, 0]
        >>> round(float((2 * math.pi**2 * u / f).max()), 5)  # one plus the error of central differences
        1.0008
    """

    name: ClassVar[str] = "poisson"
    layout: ClassVar[Layout] = "interior"

    def __init__(
        self, *, alpha: float = 2.0, tau: float = 3.0, length: float | Sequence[float] = 1.0
    ) -> None:
        for name, value in (("alpha", alpha), ("tau", tau)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` (={value}) must be positive and finite")
        self.alpha = float(alpha)
        self.tau = float(tau)
        self.length = box_lengths(length, 2)

    def sample_inputs(
        self,
        n: int,
        resolution: int | Sequence[int],
        *,
        generator: Generators = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "n 1 h w"]:
        """Draw sources; see `Equation.sample_inputs`.

        Args:
            n: Number of samples.
            resolution: Interior points along each axis; an integer stands for both.
            generator: Source of randomness; one for all samples or one each.
            dtype: Floating type of the result.
            device: Device of the result.

        Returns:
            Sources `(n, 1, h, w)`.
        """
        shape = self.grid(resolution).shape
        field = GaussianRandomField(shape, self.length, self.alpha, self.tau, boundary="dirichlet")
        return field.sample(n, generator=generator, dtype=dtype, device=device)[:, None]

    def solve(self, inputs: Tensor) -> Float[Tensor, "n 1 h w"]:
        """Solve for each source at its own resolution, in float64.

        Args:
            inputs: Sources `(n, 1, h, w)`.

        Returns:
            Solutions `(n, 1, h, w)` in the dtype and on the device of the inputs.

        Raises:
            TypeError: Where the inputs are not of a floating type.
            ValueError: Where they have another shape or are not finite.
        """
        self._check(inputs, "inputs", 1)
        modes = _sine_transform(_array(inputs))
        modes /= self._eigenvalues(inputs.shape[2:])
        return torch.from_numpy(_sine_transform(modes)).to(inputs)

    def residual(self, inputs: Tensor, solution: Tensor) -> Float[Tensor, "n 1 h w"]:
        """Return `f + Lap u` by central differences.

        Args:
            inputs: Sources `(n, 1, h, w)`.
            solution: Solutions `(n, 1, h, w)`.

        Returns:
            Residual `(n, 1, h, w)` in the solution's dtype, computed in float64.

        Raises:
            TypeError: Where a field is not of a floating type.
            ValueError: Where shapes differ or are not `(n, 1, h, w)`, or a field is not finite.
        """
        self._check(inputs, "inputs", 1)
        self._check(solution, "solution", 1)
        if solution.shape != inputs.shape:
            expected = tuple(inputs.shape)
            raise ValueError(f"`solution` has shape {tuple(solution.shape)}, expected {expected} as `inputs`")
        u = np.pad(_array(solution), ((0, 0), (0, 0), (1, 1), (1, 1)))
        h_y, h_x = self.grid(inputs.shape[2:]).spacing
        centre = u[..., 1:-1, 1:-1]
        laplacian = (u[..., 2:, 1:-1] - 2 * centre + u[..., :-2, 1:-1]) / h_y**2
        laplacian += (u[..., 1:-1, 2:] - 2 * centre + u[..., 1:-1, :-2]) / h_x**2
        return torch.from_numpy(_array(inputs) + laplacian).to(solution)

    def solver(self, resolution: int | Sequence[int]) -> dict[str, Any]:
        """Describe the solver of a data set; see `Equation.solver`.

        Args:
            resolution: Interior points along each axis.

        Returns:
            The discretisation and method, as JSON types.
        """
        shape = list(self.grid(resolution).shape)
        return {"scheme": "five-point differences", "method": "sine transform (DST-I)", "resolution": shape}

    def _eigenvalues(self, shape: Sequence[int]) -> NDArray[np.float64]:
        """Return `4 / h^2 sin^2(pi k h / (2 L))` summed over axes, `k = 1 ... N`."""
        axes = [
            (2.0 / h * np.sin(np.pi * np.arange(1, n + 1) / (2 * (n + 1)))) ** 2
            for n, h in zip(shape, self.grid(tuple(shape)).spacing, strict=True)
        ]
        return np.asarray(axes[0][:, None] + axes[1])


def _sine_transform(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the orthonormal DST-I over the last two axes, its own inverse."""
    return np.asarray(dstn(fields, type=1, axes=(-2, -1), norm="ortho"))


def _array(fields: Tensor) -> NDArray[np.float64]:
    """Return a tensor's values in float64."""
    return fields.detach().cpu().to(torch.float64).numpy()
