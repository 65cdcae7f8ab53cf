"""Burgers' equation against the Cole-Hopf solution by quadrature."""

import math

import numpy as np
import pytest
import torch

from lemmata.operators.pde import Burgers1d

NU, TIME = 0.05, 0.3


def cole_hopf(x, time=TIME, nu=NU):
    """Solution for ``u0 = sin 2 pi x``: a quotient of heat-kernel integrals, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(200)
    y = x[:, None] - math.sqrt(4 * nu * time) * nodes
    theta = np.exp((np.cos(2 * np.pi * y) - 1) / (4 * np.pi * nu)) * weights
    return (np.sin(2 * np.pi * y) * theta).sum(axis=1) / theta.sum(axis=1)


def solved(points, **arguments):
    equation = Burgers1d(viscosity=NU, final_time=TIME, **arguments)
    x = equation.grid(points).coordinates(dtype=torch.float64)[0]
    u = equation.solve(torch.sin(2 * math.pi * x)[None, None])
    return np.abs(u[0, 0].numpy() - cole_hopf(x.numpy())).max()


def test_default_step_agrees_with_cole_hopf():
    assert solved(128) < 1e-8


def test_fourth_order_in_time_against_cole_hopf():
    errors = np.array([solved(128, time_step=TIME / steps) for steps in (20, 40, 80)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(orders > 3.7), orders


def test_spectral_accuracy_in_space():
    errors = [solved(points, time_step=1e-3) for points in (16, 32, 64, 128)]
    assert errors[0] > 1e-3
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 100
    assert errors[3] < 1e-10


def test_small_viscosity_agrees_with_a_finer_run():
    generator = torch.Generator().manual_seed(0)
    equation = Burgers1d(viscosity=0.01)
    fine = Burgers1d(viscosity=0.01, time_step=2e-4)
    u0 = equation.sample_inputs(2, 512, generator=generator)
    u = equation.solve(equation.restrict(u0, 128))
    exact = equation.restrict(fine.solve(u0), 128)
    assert (u - exact).norm() < 1e-6 * exact.norm()


def test_mean_is_kept_and_energy_decays():
    equation = Burgers1d(viscosity=0.02)
    u0 = equation.sample_inputs(3, 128, generator=torch.Generator().manual_seed(1)) + 0.5
    states = torch.cat([u0, equation.trajectory(u0, 8)], dim=1)
    assert torch.allclose(states.mean(dim=-1), torch.tensor(0.5, dtype=torch.float64), atol=1e-14)
    energy = states.square().mean(dim=-1)
    assert bool((energy.diff(dim=1) < 0).all())


@pytest.mark.parametrize("viscosity", [0.0, -1.0, math.nan])
def test_viscosity_must_be_positive(viscosity):
    with pytest.raises(ValueError, match="`viscosity`"):
        Burgers1d(viscosity)
