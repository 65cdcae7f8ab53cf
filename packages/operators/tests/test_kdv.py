"""The Korteweg-de Vries equation against its solitons and invariants."""

import numpy as np
import pytest
import torch

from lemmata.operators.pde import KdV1d

KAPPA, LENGTH = 0.7, 40.0


def soliton(equation, points, time, kappa=KAPPA, start=20.0):
    x = equation.grid(points).coordinates(dtype=torch.float64)[0]
    return 2 * kappa**2 / torch.cosh(kappa * (x - start - 4 * kappa**2 * time)) ** 2


def test_soliton_travels_unchanged():
    equation = KdV1d(length=LENGTH, final_time=2.0, time_step=5e-3)
    u = equation.solve(soliton(equation, 128, 0.0)[None, None])
    assert (u[0, 0] - soliton(equation, 128, 2.0)).abs().max() < 1e-5


def test_default_step_resolves_the_soliton():
    equation = KdV1d(length=60.0, final_time=2.0)
    start = soliton(equation, 256, 0.0, start=30.0)
    u = equation.solve(start[None, None])
    assert (u[0, 0] - soliton(equation, 256, 2.0, start=30.0)).abs().max() < 1e-6


def test_fourth_order_in_time_by_self_convergence():
    def final(step):
        equation = KdV1d(length=LENGTH, final_time=2.0, time_step=step)
        return equation.solve(soliton(equation, 128, 0.0)[None, None])

    exact = final(6.25e-4)
    errors = np.array([float((final(step) - exact).abs().max()) for step in (2e-2, 1e-2, 5e-3)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(orders > 3.7), (errors, orders)


def test_mass_and_momentum_are_kept():
    equation = KdV1d(length=LENGTH, final_time=2.0, time_step=2e-3)
    u0 = soliton(equation, 128, 0.0)[None, None]
    states = equation.trajectory(u0, 4)
    for power in (1, 2):
        before = u0.pow(power).mean(dim=-1)
        drift = (states.pow(power).mean(dim=-1) - before).abs().max() / before.abs().max()
        assert drift < 1e-8, power


def test_two_solitons_keep_their_sizes_through_a_collision():
    equation = KdV1d(length=80.0, final_time=16.0, time_step=1e-2)
    start = soliton(equation, 256, 0.0, 1.0, 15.0) + soliton(equation, 256, 0.0, 0.6, 30.0)
    u = equation.prolong(equation.solve(start[None, None]), 4096)[0, 0]
    peaks = u[(u > u.roll(1)) & (u > u.roll(-1)) & (u > 0.1)]
    assert peaks.sort().values.tolist() == pytest.approx([2 * 0.6**2, 2.0], abs=2e-3)


def test_small_waves_disperse_as_their_symbol_says():
    equation = KdV1d(length=2 * np.pi, final_time=0.7, time_step=0.1)
    x = equation.grid(32).coordinates(dtype=torch.float64)[0]
    u = equation.solve(1e-9 * torch.cos(3 * x)[None, None])
    assert torch.allclose(u[0, 0], 1e-9 * torch.cos(3 * x + 27 * 0.7), rtol=0, atol=1e-16)
