"""Advection is a shift."""

import math

import pytest
import torch

from lemmata.operators.pde import Advection1d


@pytest.mark.parametrize("speed", [1.0, -0.37, 12.3])
@pytest.mark.parametrize("points", [32, 33])
def test_band_limited_states_shift_exactly(speed, points):
    equation = Advection1d(speed, length=2.0, final_time=0.8)

    def state(x):
        return torch.sin(3 * math.pi * x) + 0.3 * torch.cos(15 * math.pi * x) + 0.1

    x = equation.grid(points).coordinates(dtype=torch.float64)
    u = equation.solve(state(x)[None])
    assert (u[0] - state(x - speed * 0.8)).abs().max() < 1e-13


def test_whole_steps_roll_rough_states():
    equation = Advection1d(1.0, final_time=1.0)
    u0 = torch.randn(3, 1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = equation.trajectory(u0, 4)
    for save in range(4):
        assert torch.allclose(states[:, save], u0[:, 0].roll(5 * (save + 1), dims=-1), atol=1e-14)


def test_residual_counts_every_mode():
    equation = Advection1d(1.0, final_time=0.05)
    u0 = equation.sample_inputs(2, 32, generator=torch.Generator().manual_seed(0))
    states = equation.trajectory(u0, 64)
    assert equation.residual(u0, states).abs().max() < 1e-4 * states.abs().max()


def test_bad_speed_is_named():
    with pytest.raises(ValueError, match="`speed`"):
        Advection1d(math.inf)
