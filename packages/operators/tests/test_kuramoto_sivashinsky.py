"""The Kuramoto-Sivashinsky equation: order, growth rates, invariants and an independent integrator."""

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp

from lemmata.operators.pde import KuramotoSivashinsky1d


def start(equation, points):
    return equation.sample_inputs(2, points, generator=torch.Generator().manual_seed(4))


def test_fourth_order_in_time_by_self_convergence():
    """On the published problem; coarser steps or finer grids lose up to one order to stiffness."""

    def final(step):
        equation = KuramotoSivashinsky1d(length=32 * math.pi, final_time=10.0, time_step=step)
        x = equation.grid(96).coordinates(dtype=torch.float64)[0]
        return equation.solve((torch.cos(x / 16) * (1 + torch.sin(x / 16)))[None, None])

    exact = final(1 / 256)
    errors = np.array(
        [float((final(step) - exact).norm() / exact.norm()) for step in (1 / 8, 1 / 16, 1 / 32)]
    )
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(orders > 3.7), (errors, orders)


def test_agrees_with_an_adaptive_implicit_integrator():
    equation = KuramotoSivashinsky1d(length=22.0, final_time=4.0, time_step=5e-3)
    u0 = 2 * start(equation, 64)[:1]
    k = 2 * np.pi / 22.0 * np.fft.rfftfreq(64, 1 / 64)
    kept = np.arange(33) <= 21

    def rate(_, u):
        u_hat = np.fft.rfft(u) * kept
        flux = np.fft.rfft(np.fft.irfft(u_hat) ** 2) * kept
        return np.fft.irfft((k**2 - k**4) * u_hat - 0.5j * k * flux)

    low = np.fft.irfft(np.fft.rfft(u0[0, 0].numpy()) * kept)
    exact = solve_ivp(rate, (0, 4.0), low, method="Radau", rtol=1e-9, atol=1e-10).y[:, -1]
    assert np.abs(equation.solve(u0)[0, 0].numpy() - exact).max() < 1e-7


def test_small_waves_grow_at_the_linear_rate():
    equation = KuramotoSivashinsky1d(length=64.0, final_time=5.0)
    x = equation.grid(64).coordinates(dtype=torch.float64)[0]
    for mode in (3, 7, 12):
        k = 2 * math.pi * mode / 64.0
        u0 = 1e-9 * torch.cos(k * x)
        u = equation.solve(u0[None, None])
        assert torch.allclose(u[0, 0], u0 * math.exp(5 * (k**2 - k**4)), rtol=0, atol=1e-15)


def test_mean_is_kept():
    equation = KuramotoSivashinsky1d(length=32.0, final_time=20.0)
    u0 = start(equation, 96) + 0.3
    states = equation.trajectory(u0, 5)
    assert torch.allclose(states.mean(dim=-1), torch.tensor(0.3, dtype=torch.float64), atol=1e-13)


def test_space_converges_spectrally():
    equation = KuramotoSivashinsky1d(length=32.0, final_time=5.0, time_step=0.01)
    exact = equation.solve(start(equation, 256))
    low = equation.restrict(exact, 32)
    errors = []
    for points in (32, 64, 128):
        u = equation.solve(start(equation, points))
        errors.append(float((equation.restrict(u, 32) - low).norm() / low.norm()))
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20
