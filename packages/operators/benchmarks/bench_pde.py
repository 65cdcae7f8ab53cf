"""Periodic equations against scipy's integrators at equal error, and random fields against plain numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lemmata.operators.pde import (
    Burgers1d,
    GaussianRandomField,
    KuramotoSivashinsky1d,
    NavierStokes2d,
    PeriodicEquation,
)
from lemmata.operators.pde.periodic import Spectrum

STATES = 16


@pytest.mark.benchmark(group="Kuramoto-Sivashinsky, 128 points, 16 states to t = 20, error below 1e-4")
@pytest.mark.parametrize("side", ["lemmata", "scipy DOP853", "scipy LSODA", "scipy BDF"])
def bench_kuramoto_sivashinsky(benchmark: Any, side: str) -> None:
    """Strong fourth-order stiffness; every side at the largest step or tolerance that reaches the error."""
    settings = {"lemmata": 0.125, "scipy DOP853": 1e-4, "scipy LSODA": 1e-5, "scipy BDF": 1e-5}
    run(benchmark, side, lambda dt: KuramotoSivashinsky1d(time_step=dt), 128, settings[side], 1e-4)


@pytest.mark.benchmark(group="Burgers, 256 points, viscosity 0.01, 16 states to t = 1, error below 1e-6")
@pytest.mark.parametrize("side", ["lemmata", "scipy DOP853", "scipy LSODA"])
def bench_burgers(benchmark: Any, side: str) -> None:
    """Diffusive stiffness; every side at the largest step or tolerance that reaches the error."""
    settings = {"lemmata": 0.01, "scipy DOP853": 1e-6, "scipy LSODA": 1e-7}
    run(benchmark, side, lambda dt: Burgers1d(0.01, time_step=dt), 256, settings[side], 1e-6)


@pytest.mark.benchmark(group="Navier-Stokes, 64 x 64 points, 16 states to t = 1, error below 1e-6")
@pytest.mark.parametrize("side", ["lemmata", "scipy DOP853"])
def bench_navier_stokes(benchmark: Any, side: str) -> None:
    """Mild stiffness, many unknowns."""
    settings = {"lemmata": 0.2, "scipy DOP853": 1e-7}
    run(benchmark, side, lambda dt: NavierStokes2d(final_time=1.0, time_step=dt), 64, settings[side], 1e-6)


@pytest.mark.benchmark(group="1000 periodic Gaussian random fields of 64 x 64 points")
@pytest.mark.parametrize("side", ["lemmata", "numpy, one complex transform"])
def bench_random_fields(benchmark: Any, side: str) -> None:
    """Ours give one function a seed at every resolution; the plain way filters white noise on the grid."""
    field = GaussianRandomField((64, 64), 1.0, alpha=2.5, tau=7.0)
    rng = np.random.default_rng(0)
    deviation = field.spectrum().numpy() * 64**2

    def plain() -> Any:
        noise = rng.standard_normal((2, 1000, 64, 64))
        return np.fft.ifft2((noise[0] + 1j * noise[1]) * deviation).real

    generator = torch.Generator().manual_seed(0)
    benchmark(plain if side.startswith("numpy") else lambda: field.sample(1000, generator=generator))


def run(
    benchmark: Any,
    side: str,
    make: Callable[[float], PeriodicEquation],
    points: int,
    setting: float,
    level: float,
) -> None:
    """Time one side, and check that it reaches the error."""
    equation = make(setting if side == "lemmata" else 1.0)
    inputs = equation.sample_inputs(STATES, points, generator=torch.Generator().manual_seed(0))
    step = equation.final_time / 4096 if equation.dim == 1 else equation.final_time / 256
    exact = make(step).solve(inputs)
    if side == "lemmata":
        solve = lambda: equation.solve(inputs)  # noqa: E731
    else:
        solve = scipy_solver(equation, inputs, side.removeprefix("scipy "), setting)
    found = benchmark.pedantic(solve, rounds=3, warmup_rounds=1)
    error = float((found - exact).norm() / exact.norm())
    benchmark.extra_info["relative error"] = error
    assert error < level, f"{side} has error {error:.1e}, not below {level:g}"


def scipy_solver(
    equation: PeriodicEquation, inputs: torch.Tensor, method: str, rtol: float
) -> Callable[[], torch.Tensor]:
    """Return scipy's solve of the same semi-discrete system, all states as one where it is explicit."""
    spectrum = Spectrum(equation.grid(inputs.shape[2:]), inputs.device)
    linear, nonlinear = equation._linear(spectrum), equation._nonlinear(spectrum)
    starts = spectrum.inverse(spectrum.forward(inputs) * spectrum.kept)
    if method != "DOP853":
        jacobian = dense_jacobian(spectrum, linear)

    def rate(_: float, u: Any) -> Any:
        u_hat = spectrum.forward(torch.from_numpy(u).reshape(-1, *spectrum.grid.shape)) * spectrum.kept
        return spectrum.inverse(linear * u_hat + nonlinear(u_hat)).numpy().ravel()

    def advance(u: Any) -> Any:
        arguments = {"method": method, "rtol": rtol, "atol": rtol}
        if method != "DOP853":
            arguments["jac"] = jacobian
        return solve_ivp(rate, (0.0, equation.final_time), u.numpy().ravel(), **arguments).y[:, -1]

    def solve() -> torch.Tensor:
        rows = [advance(starts)] if method == "DOP853" else [advance(start) for start in starts]
        return torch.from_numpy(np.concatenate(rows)).reshape(inputs.shape)

    return solve


def dense_jacobian(spectrum: Spectrum, linear: torch.Tensor) -> Callable[[float, Any], Any]:
    """Return the Jacobian of ``L u - (u^2 / 2)_x`` on points, which both one-dimensional equations share."""
    identity = spectrum.forward(torch.eye(spectrum.grid.shape[0], dtype=torch.float64))
    linear_matrix = spectrum.inverse(linear * identity).mT.numpy()
    derivative_matrix = spectrum.inverse(1j * spectrum.wavenumbers[0] * identity).mT.numpy()
    return lambda _, u: linear_matrix - derivative_matrix * u
