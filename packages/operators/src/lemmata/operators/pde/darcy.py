"""Darcy flow in two dimensions: from permeability to pressure, the standard test of neural operators.

`Darcy2d` draws two-phase, rough or log-normal coefficients and solves `-div(a grad u) = f` by cell-centred
finite volumes (see `lemmata.operators.solvers.problems.darcy`). Every sample is its own matrix, so assembly
only fills values, and the solver is what is quickest at the size: banded Cholesky, conjugate gradients with a
fast Poisson solve as preconditioner, or with algebraic multigrid. The last two take a tolerance and so can be
made cheaper on purpose.

Axis letters used below: `N` cells, `W` cells along the shorter side.

References:
    Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021, arXiv:2010.08895
    (two-phase coefficients).
    Concus and Golub, Use of fast direct methods for the efficient numerical solution of nonseparable elliptic
    equations, 1973.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.fft import dstn, idstn
from scipy.linalg import solveh_banded
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg, splu
from torch import Tensor

from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Layout, box_lengths
from lemmata.operators.pde.equation import Equation
from lemmata.operators.pde.random_field import GaussianRandomField, Generators
from lemmata.operators.solvers.problems import Stencil, checked_coefficient, darcy_stencil

__all__ = ["Coefficient", "Darcy2d", "Method"]

Coefficient = Literal["piecewise", "lognormal", "rough"]
Method = Literal["auto", "direct", "fast-poisson", "amg"]

RTOL = 1e-9
"""Default relative residual of the iterative methods; rounding allows 1.5e-10 at 1024^2 and contrast 10."""


class Darcy2d(Equation):
    """Darcy flow `-div(a grad u) = forcing` on a box, `u = 0` on its boundary.

    Fields live at cell centres (layout `"cells"`), so boundary values are not among them. With `g` a
    Gaussian random field of covariance `sigma^2 (-Lap + tau^2)^(-2)` under Neumann conditions, the
    coefficient is

    - `"piecewise"`: 12 where `g >= 0`, else 3 (`tau = 3`);
    - `"rough"`: 20 where `g >= 0`, else 2 (`tau = 5`);
    - `"lognormal"`: `exp(g)` (`tau = 3`).

    Args:
        coefficient: Which of the three `sample_inputs` draws; `solve` takes any positive field.
        forcing: Constant source `f`.
        length: Length of the box along each axis, or of both.

    Raises:
        ValueError: Where the coefficient is unknown, the forcing not finite or a length not positive.

    Examples:
        >>> equation = Darcy2d("piecewise")
        >>> a = equation.sample_inputs(2, 32, generator=torch.Generator().manual_seed(0))
        >>> a.unique().tolist()
        [3.0, 12.0]
        >>> u = equation.solve(a)
        >>> bool(equation.residual(a, u).abs().max() < 1e-10)
        True
    """

    name: ClassVar[str] = "darcy"
    layout: ClassVar[Layout] = "cells"

    def __init__(
        self,
        coefficient: Coefficient = "piecewise",
        *,
        forcing: float = 1.0,
        length: float | Sequence[float] = 1.0,
    ) -> None:
        if coefficient not in get_args(Coefficient):
            raise ValueError(
                f"`coefficient` (={coefficient!r}) must be one of {', '.join(get_args(Coefficient))}"
            )
        if not math.isfinite(forcing):
            raise ValueError(f"`forcing` (={forcing}) must be finite")
        self.coefficient: Coefficient = coefficient
        self.forcing = float(forcing)
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
        """Draw coefficients; see `Equation.sample_inputs`.

        Args:
            n: Number of samples.
            resolution: Cells along each axis; an integer stands for both.
            generator: Source of randomness; one for all samples or one each.
            dtype: Floating type of the result.
            device: Device of the result.

        Returns:
            Coefficients `(n, 1, h, w)`.
        """
        law = _LAWS[self.coefficient]
        field = GaussianRandomField(
            self.grid(resolution).shape, self.length, _ALPHA, law.tau, boundary="neumann"
        )
        g = field.sample(n, generator=generator)[:, None]
        a = g.exp() if law.phases is None else torch.where(g >= 0, law.phases[1], law.phases[0]).double()
        return a.to(dtype=dtype, device=device)

    def solve(
        self, inputs: Tensor, *, method: Method = "auto", rtol: float = RTOL, max_iterations: int = 1000
    ) -> Float[Tensor, "n 1 h w"]:
        """Solve for each coefficient at its own resolution, in float64.

        `"direct"` is a banded Cholesky factorisation (sparse LU above 256 cells along the shorter side),
        exact to rounding. `"fast-poisson"` is conjugate gradients preconditioned by the inverse of the
        constant-coefficient operator, two sine transforms: at most about `sqrt(max a / min a) ln(2 / rtol) /
        2` steps on any grid. `"amg"` is conjugate gradients preconditioned by a Ruge-Stueben V-cycle,
        whose steps depend little on contrast or grid. `"auto"` takes the quickest: direct up to 96 cells
        along the shorter side; above, fast-poisson up to a contrast of 50; beyond it, direct up to 128 cells
        and then amg.

        Args:
            inputs: Positive coefficients `(n, 1, h, w)`, at least two cells along each axis.
            method: How to solve; samples of one batch may differ under `"auto"`, which looks at their
                contrast.
            rtol: Bound on the true residual `|b - A u| / |b|` of the iterative methods. A cheaper solver
                loosens it, or solves on fewer cells and calls `prolong`.
            max_iterations: Most steps of conjugate gradients.

        Returns:
            Solutions `(n, 1, h, w)` in the dtype and on the device of the inputs.

        Raises:
            TypeError: Where the inputs are not of a floating type.
            ValueError: Where they have another shape, are not positive or not finite, or an option is out of
                range.
            RuntimeError: Where conjugate gradients miss `rtol`; the message says why.
        """
        a = self._coefficients(inputs)
        if method not in get_args(Method):
            raise ValueError(f"`method` (={method!r}) must be one of {', '.join(get_args(Method))}")
        if not 0 < rtol < 1:
            raise ValueError(f"`rtol` (={rtol}) must lie between 0 and 1")
        if max_iterations < 1:
            raise ValueError(f"`max_iterations` (={max_iterations}) must be a positive integer")
        spacing = self.grid(a.shape[1:]).spacing
        b = np.full(a.shape[1:], self.forcing)
        u = np.empty_like(a)
        for sample, field in enumerate(a):
            stencil = darcy_stencil(field, spacing)
            chosen = _quickest(field) if method == "auto" else method
            if chosen == "direct":
                u[sample] = _direct(stencil, b)
                continue
            A = stencil.matrix()
            inverse = _fast_poisson(field, spacing) if chosen == "fast-poisson" else _v_cycle(A)
            what = f"{chosen}, sample {sample}"
            u[sample] = _conjugate_gradients(A, b, inverse, rtol, max_iterations, what)
        return torch.from_numpy(u[:, None]).to(inputs)

    def residual(self, inputs: Tensor, solution: Tensor) -> Float[Tensor, "n 1 h w"]:
        """Return `forcing + div(a grad u)`, discretised as `solve` does.

        Args:
            inputs: Coefficients `(n, 1, h, w)`.
            solution: Solutions `(n, 1, h, w)`.

        Returns:
            Residual `(n, 1, h, w)` in the solution's dtype, computed in float64.

        Raises:
            TypeError: Where a field is not of a floating type.
            ValueError: Where shapes differ or are not `(n, 1, h, w)`, or a field is out of range.
        """
        a = self._coefficients(inputs)
        self._check(solution, "solution", 1)
        if solution.shape != inputs.shape:
            expected = tuple(inputs.shape)
            raise ValueError(f"`solution` has shape {tuple(solution.shape)}, expected {expected} as `inputs`")
        u = solution.detach().cpu().to(torch.float64).numpy()[:, 0]
        product = darcy_stencil(a, self.grid(a.shape[1:]).spacing).apply(u)
        return torch.from_numpy(self.forcing - product)[:, None].to(solution)

    def solver(self, resolution: int | Sequence[int]) -> dict[str, Any]:
        """Describe the solver of a data set; see `Equation.solver`.

        Args:
            resolution: Cells along each axis.

        Returns:
            The discretisation, method and tolerance, as JSON types.
        """
        return {
            "scheme": "cell-centred finite volumes, harmonic face means",
            "method": "auto",
            "rtol": RTOL,
            "resolution": list(self.grid(resolution).shape),
        }

    def dataset(
        self,
        n: int,
        resolution: int | Sequence[int],
        *,
        generator: Generators = None,
        fine_factor: int = 2,
        dtype: torch.dtype = torch.float32,
    ) -> FieldDataset:
        """Draw coefficients on a finer grid, solve there and restrict.

        Averaging a two-phase coefficient would make phases that are not there, so `"piecewise"` and
        `"rough"` inputs are the same functions sampled on the data's own grid; targets are cell averages of
        the fine solutions, and log-normal inputs are averaged too.

        Args:
            n: Number of samples.
            resolution: Cells along each axis of the data set.
            generator: Source of randomness, as in `sample_inputs`.
            fine_factor: How much smaller the solver's cells are than the data's.
            dtype: Floating type of the data set; everything before is float64.

        Returns:
            A data set whose attributes hold the equation, its parameters, the solver and its resolution.
        """
        again = _copies(generator)
        data = super().dataset(n, resolution, generator=generator, fine_factor=fine_factor, dtype=dtype)
        if _LAWS[self.coefficient].phases is None:
            return FieldDataset(
                data.inputs, data.targets, data.grid, attributes={**data.attributes, "inputs": "averaged"}
            )
        sampled = self.sample_inputs(n, resolution, generator=again, dtype=dtype)
        return FieldDataset(
            sampled, data.targets, data.grid, attributes={**data.attributes, "inputs": "sampled"}
        )

    def _coefficients(self, inputs: Tensor) -> NDArray[np.float64]:
        """Return coefficients `(n, h, w)` in float64, or raise."""
        a = checked_coefficient(inputs, "inputs")
        self._check(inputs, "inputs", 1)
        if min(inputs.shape[2:]) < 2:
            raise ValueError(f"`inputs` has shape {tuple(inputs.shape)}; an axis needs at least two cells")
        return a[:, 0]


class _Law(NamedTuple):
    """How a coefficient is made from a Gaussian random field."""

    tau: float
    phases: tuple[float, float] | None  # below and above zero; None is the exponential


_ALPHA = 2.0
_LAWS: dict[str, _Law] = {
    "piecewise": _Law(3.0, (3.0, 12.0)),
    "lognormal": _Law(3.0, None),
    "rough": _Law(5.0, (2.0, 20.0)),
}

_BANDED_UP_TO = 256
_DIRECT_UP_TO = 96
_DIRECT_UP_TO_AT_HIGH_CONTRAST = 128
_LOW_CONTRAST = 50.0

_Inverse = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _quickest(a: NDArray[np.float64]) -> Method:
    """Return the method that is quickest for a coefficient.

    Milliseconds for one field, one thread, contrast 4, measured with numpy 2.4, scipy 1.17 and
    pyamg 5.4:

    ===============  ======  ======  ======
    cells              64^2   128^2   256^2
    ===============  ======  ======  ======
    banded              1.9      12     135
    sparse LU           4.5      20     135
    fast-poisson        1.7       5      27
    (contrast 10)       2.6       9      49
    amg                 8.5      26     110
    ===============  ======  ======  ======

    Banded Cholesky and fast-poisson meet between 64 and 96 cells; fast-poisson and amg at a contrast of about
    50 to 100, since the steps of the former grow with the root of the contrast.
    """
    if min(a.shape) <= _DIRECT_UP_TO:
        return "direct"
    if a.max() <= _LOW_CONTRAST * a.min():
        return "fast-poisson"
    return "direct" if min(a.shape) <= _DIRECT_UP_TO_AT_HIGH_CONTRAST else "amg"


def _direct(stencil: Stencil, b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factorise and solve; numbered along the shorter side, the matrix has bandwidth `W`."""
    height, width = b.shape
    if min(height, width) > _BANDED_UP_TO:
        factors = splu(
            stencil.matrix().tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        return np.asarray(factors.solve(b.ravel())).reshape(b.shape)
    if height < width:
        down, across = stencil.couplings
        return _direct(Stencil(stencil.diagonal.T, (across.T, down.T)), b.T).T
    down, across = stencil.couplings
    # Fortran order is LAPACK's: the factorisation overwrites the band in place.
    band_WN = np.zeros((width + 1, height * width), order="F")
    band_WN[0] = stencil.diagonal.ravel()
    band_WN[1].reshape(b.shape)[:, :-1] = -across
    band_WN[width, : down.size] = -down.ravel()
    u = solveh_banded(band_WN, b.ravel(), lower=True, overwrite_ab=True, check_finite=False)
    return np.asarray(u).reshape(b.shape)


def _fast_poisson(a: NDArray[np.float64], spacing: Sequence[float]) -> _Inverse:
    """Return the inverse of the operator with constant coefficient, which sine transforms make diagonal."""
    axes = [
        (2.0 / h * np.sin(np.pi * np.arange(1, n + 1) / (2 * n))) ** 2
        for n, h in zip(a.shape, spacing, strict=True)
    ]
    eigenvalues = math.sqrt(a.min() * a.max()) * (axes[0][:, None] + axes[1])

    def inverse(r: NDArray[np.float64]) -> NDArray[np.float64]:
        modes = dstn(r.reshape(a.shape), type=2, norm="ortho")
        modes /= eigenvalues
        return np.asarray(idstn(modes, type=2, norm="ortho", overwrite_x=True)).ravel()

    return inverse


def _v_cycle(A: csr_array) -> _Inverse:
    """Return one Ruge-Stueben V-cycle with symmetric smoothing."""
    import pyamg

    hierarchy = pyamg.ruge_stuben_solver(A)
    matvec: _Inverse = hierarchy.aspreconditioner(cycle="V").matvec
    return matvec


def _conjugate_gradients(
    A: csr_array, b: NDArray[np.float64], inverse: _Inverse, rtol: float, max_iterations: int, what: str
) -> NDArray[np.float64]:
    """Solve to a relative residual that is computed afresh, or raise with the reason."""
    M = LinearOperator(A.shape, matvec=inverse, dtype=np.float64)
    u, shortfall = cg(A, b.ravel(), rtol=rtol, atol=0.0, maxiter=max_iterations, M=M)
    bound = np.linalg.norm(b)
    residual = float(np.linalg.norm(b.ravel() - A @ u) / (bound if bound > 0 else 1.0))
    if residual <= rtol * (1 + 1e-6):
        return np.asarray(u).reshape(b.shape)
    reason = (
        f"`max_iterations` (={max_iterations}) are spent"
        if shortfall
        else "rounding allows no less on this grid; loosen `rtol`"
    )
    raise RuntimeError(f"{what}: the relative residual is {residual:.1e}, not `rtol` (={rtol:g}): {reason}")


def _copies(generator: Generators) -> Generators:
    """Return generators in the same state, to draw the same functions a second time."""
    if generator is None:
        return torch.default_generator.clone_state()
    if isinstance(generator, torch.Generator):
        return generator.clone_state()
    return [one.clone_state() for one in generator]
