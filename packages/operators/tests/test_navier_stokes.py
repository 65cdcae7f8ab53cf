"""Vorticity against closed forms, invariants and an independent right-hand side."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lemmata.operators.pde import NavierStokes2d

TWO_PI = 2 * math.pi


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_vorticity(flow, points):
    """A few low modes of unit size, so that nothing reaches the cut-off."""
    x, y = flow.grid(points).coordinates(dtype=torch.float64) * TWO_PI
    w = (
        torch.cos(x) * torch.sin(2 * y)
        + 0.5 * torch.sin(x + y)
        - 0.7 * torch.cos(2 * x - y)
        + 0.3 * torch.sin(2 * y)
    )
    return w[None, None]


@pytest.mark.parametrize("length", [1.0, (2.0, 1.0)])
def test_taylor_green_vortices_decay_in_place(length):
    flow = NavierStokes2d(1e-2, forcing=None, length=length, final_time=2.0)
    x, y = flow.grid((32, 24)).coordinates(dtype=torch.float64)
    kx, ky = (TWO_PI / size for size in flow.length)
    w0 = (torch.cos(kx * x) * torch.cos(ky * y))[None, None]
    exact = w0 * math.exp(-1e-2 * (kx**2 + ky**2) * 2.0)
    assert (flow.solve(w0) - exact).abs().max() < 1e-10


def test_taylor_green_rides_on_nothing_but_its_own_mean_flow():
    """Any mix of modes of one wavelength is steady for Euler."""
    flow = NavierStokes2d(0.0, forcing=None, final_time=3.0)
    x, y = flow.grid(32).coordinates(dtype=torch.float64) * TWO_PI
    w0 = (
        torch.cos(3 * x + 4 * y) + 0.4 * torch.sin(5 * x) - torch.cos(5 * y) + 0.2 * torch.sin(4 * x - 3 * y)
    )[None, None]
    assert (flow.solve(w0) - w0).abs().max() < 1e-10


def test_inviscid_flow_keeps_energy_and_enstrophy():
    flow = NavierStokes2d(0.0, forcing=None, final_time=2.0, time_step=0.01)
    w0 = 3 * smooth_vorticity(flow, 48)
    states = torch.cat([w0, flow.trajectory(w0, 4)], dim=1)[0].unsqueeze(1)
    w0_change = (states[-1] - states[0]).norm() / states[0].norm()
    assert w0_change > 0.3  # the flow does move
    for quantity in (states.square(), flow.velocity(states).square()):
        total = quantity.sum(dim=(1, 2, 3))
        assert ((total - total[0]).abs() / total[0]).max() < 1e-6


def test_velocity_has_the_vorticity_as_curl_and_no_divergence():
    flow = NavierStokes2d(length=(1.0, 2.0))
    x, y = flow.grid((32, 32)).coordinates(dtype=torch.float64)
    psi_x, psi_y = TWO_PI, TWO_PI  # psi = sin(2 pi x) cos(2 pi y), two periods in y
    w = (psi_x**2 + psi_y**2) * torch.sin(psi_x * x) * torch.cos(psi_y * y)
    u = flow.velocity(w[None, None])[0]
    assert torch.allclose(u[0], -psi_y * torch.sin(psi_x * x) * torch.sin(psi_y * y), atol=1e-12)
    assert torch.allclose(u[1], -psi_x * torch.cos(psi_x * x) * torch.cos(psi_y * y), atol=1e-12)


def naive_rate(flow, forcing, points):
    """``-u . grad w + nu Lap w + f`` by products on a grid twice as fine, in advective form."""
    k = np.fft.fftfreq(points, 1 / points)
    kx, ky = TWO_PI * k[:, None], TWO_PI * k[None, :]
    kept = (np.abs(k)[:, None] <= (points - 1) // 3) & (np.abs(k)[None, :] <= (points - 1) // 3)
    k2 = kx**2 + ky**2
    k2_safe = np.where(k2 == 0, 1, k2)
    fine = 2 * points
    slots = np.ix_(k.astype(int) % fine, k.astype(int) % fine)

    def fine_field(spectrum):
        padded = np.zeros((fine, fine), dtype=complex)
        padded[slots] = spectrum * kept
        return np.fft.ifft2(padded).real * 4

    def rate(_, w):
        w_hat = np.fft.fft2(w.reshape(points, points)) * kept
        psi = w_hat / k2_safe
        u, v = fine_field(1j * ky * psi), fine_field(-1j * kx * psi)
        advection = np.fft.fft2(u * fine_field(1j * kx * w_hat) + v * fine_field(1j * ky * w_hat))[slots] / 4
        total = -advection * kept - flow.viscosity * k2 * w_hat + np.fft.fft2(forcing) * kept
        return np.fft.ifft2(total).real.ravel()

    return rate


@pytest.mark.parametrize("points", [16, 21])
def test_agrees_with_the_advective_form_integrated_independently(points):
    flow = NavierStokes2d(1e-3, forcing="diagonal", final_time=1.0, time_step=0.01)
    w0 = 2 * smooth_vorticity(flow, points)
    x, y = np.meshgrid(np.arange(points) / points, np.arange(points) / points, indexing="ij")
    forcing = 0.1 * (np.sin(TWO_PI * (x + y)) + np.cos(TWO_PI * (x + y)))
    rate = naive_rate(flow, forcing, points)
    exact = solve_ivp(rate, (0, 1), w0.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    found = flow.solve(w0).numpy().ravel()
    assert np.abs(found - w0.numpy().ravel()).max() > 0.1
    assert np.abs(found - exact).max() < 1e-7


def test_fourth_order_in_time():
    def final(step):
        flow = NavierStokes2d(1e-3, final_time=1.0, time_step=step)
        return flow.solve(5 * smooth_vorticity(flow, 32))

    exact = final(1 / 400)
    errors = np.array([float((final(1 / steps) - exact).norm()) for steps in (20, 40, 80)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(np.abs(orders - 4) < 0.3), (errors, orders)


def test_space_converges_spectrally():
    flow = NavierStokes2d(2e-3, final_time=0.5, time_step=0.01)
    low = flow.restrict(flow.solve(10 * smooth_vorticity(flow, 128)), 16)
    errors = [
        float((flow.restrict(flow.solve(10 * smooth_vorticity(flow, n)), 16) - low).norm() / low.norm())
        for n in (16, 32, 64)
    ]
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10


def test_shear_forcing_from_rest_has_a_closed_form():
    flow = NavierStokes2d(1e-3, forcing="kolmogorov", final_time=1.5)
    _, y = flow.grid(32).coordinates(dtype=torch.float64)
    rate = 1e-3 * (4 * TWO_PI) ** 2
    exact = -4 * torch.cos(4 * TWO_PI * y) * (1 - math.exp(-1.5 * rate)) / rate
    assert (flow.solve(torch.zeros(1, 1, 32, 32, dtype=torch.float64))[0, 0] - exact).abs().max() < 1e-12


def test_a_field_forces_like_the_name_that_describes_it():
    named = NavierStokes2d(final_time=0.2)
    x, y = named.grid(16).coordinates(dtype=torch.float64) * TWO_PI
    field = NavierStokes2d(final_time=0.2, forcing=0.1 * (torch.sin(x + y) + torch.cos(x + y)))
    w0 = named.sample_inputs(2, 32, generator=seeded())
    assert torch.allclose(named.solve(w0), field.solve(w0), atol=1e-14)
    rebuilt = NavierStokes2d(**field.parameters())
    assert torch.equal(rebuilt.solve(w0), field.solve(w0))


def test_blow_up_is_a_clear_error():
    flow = NavierStokes2d(1e-4, final_time=10.0, time_step=0.5)
    with pytest.raises(FloatingPointError, match="smaller time step or a finer grid"):
        flow.solve(1e3 * smooth_vorticity(flow, 32))


@pytest.mark.parametrize("forcing", ["diagonally", torch.zeros(3), torch.full((4, 4), math.nan)])
def test_bad_forcing_is_named(forcing):
    with pytest.raises(ValueError, match="`forcing`"):
        NavierStokes2d(forcing=forcing)


def test_negative_viscosity_is_named():
    with pytest.raises(ValueError, match="`viscosity`"):
        NavierStokes2d(-1e-3)
