"""ETDRK4 against matrix exponentials, closed forms and its order."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from lemmata.operators.pde import etdrk4
from lemmata.operators.pde.etdrk4 import _coefficients_of


def phi_functions(z):
    """``phi_0 ... phi_3`` from the exponential of a companion matrix, free of cancellation."""
    A = np.zeros((4, 4), dtype=complex)
    A[0, 0] = z
    A[0, 1] = A[1, 2] = A[2, 3] = 1.0
    return scipy.linalg.expm(A)[0]


@pytest.mark.parametrize("direction", [1.0, -1.0, 1j, -1j, (1 + 1j) / math.sqrt(2)])
def test_coefficients_equal_phi_functions(direction):
    h = 0.3
    sizes = torch.tensor([0.0, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.999, 1.0, 1.001, 1.5, 2.0, 3.0, 10.0])
    symbol = (sizes.double() * direction / h).to(torch.complex128)
    symbol = symbol if isinstance(direction, complex) else symbol.real.clone()
    found = [c.numpy() for c in _coefficients_of(symbol, h)]
    for i, L in enumerate(symbol.numpy()):
        p0, p1, p2, p3 = phi_functions(h * L)
        half = phi_functions(h * L / 2)
        expected = [
            p0,
            half[0],
            h / 2 * half[1],
            h * (p1 - 3 * p2 + 4 * p3),
            h * (2 * p2 - 4 * p3),
            h * (4 * p3 - p2),
        ]
        for value, exact in zip(found, expected, strict=True):
            assert abs(value[i] - exact) <= 3e-14 * max(abs(p0), h)


def test_linear_problems_are_exact_for_any_step():
    symbol = torch.tensor([-1e6, -1.0, 0.5, 0.0], dtype=torch.float64)
    u0 = torch.ones(3, 4, dtype=torch.float64)
    u = etdrk4(u0, symbol, torch.zeros_like, dt=0.5, steps=2)
    assert torch.allclose(u, torch.exp(symbol).expand(3, 4), rtol=1e-14, atol=0)


def logistic(t, u0=0.5, rate=1.0):
    return rate * u0 * np.exp(rate * t) / (rate + u0 * (np.exp(rate * t) - 1))


@pytest.mark.parametrize("rate", [1.0, 1.0j])
def test_fourth_order_on_the_logistic_equation(rate):
    dtype = torch.complex128 if isinstance(rate, complex) else torch.float64
    exact = logistic(2.0, rate=rate)
    errors = []
    for steps in (10, 20, 40):
        u = etdrk4(
            torch.tensor([0.5], dtype=dtype),
            torch.tensor([rate], dtype=dtype),
            lambda u: -(u**2),
            2.0 / steps,
            steps,
        )
        errors.append(abs(complex(u) - exact))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(orders - 4) < 0.25), orders


def test_fourth_order_against_solve_ivp_on_a_coupled_stiff_system():
    from scipy.integrate import solve_ivp

    symbol = np.array([-50.0, -1.0, 0.2])

    def nonlinear(u):
        return torch.stack([u[..., 1] * u[..., 2], -u[..., 0] * u[..., 2], torch.sin(u[..., 0])], dim=-1)

    def rate(_, u):
        return symbol * u + nonlinear(torch.from_numpy(u)).numpy()

    u0 = np.array([1.0, 0.5, -0.3])
    exact = solve_ivp(rate, (0, 1), u0, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    errors = []
    for steps in (80, 160, 320):
        u = etdrk4(torch.from_numpy(u0), torch.from_numpy(symbol), nonlinear, 1 / steps, steps)
        errors.append(np.abs(u.numpy() - exact).max())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(orders > 3.7), (errors, orders)


def test_saves_batches_and_single_precision():
    generator = torch.Generator().manual_seed(0)
    symbol = -torch.arange(5, dtype=torch.float64)
    u0 = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    saved = etdrk4(u0, symbol, lambda u: -(u**3), 0.1, 12, save_every=4)
    assert saved.shape == (3, 2, 3, 5)
    assert torch.equal(saved[-1], etdrk4(u0, symbol, lambda u: -(u**3), 0.1, 12))
    assert torch.equal(saved[0], etdrk4(u0, symbol, lambda u: -(u**3), 0.1, 4))
    assert torch.allclose(saved[-1, 1, 2], etdrk4(u0[1, 2], symbol, lambda u: -(u**3), 0.1, 12), rtol=1e-14)
    single = etdrk4(u0.float(), symbol.float(), lambda u: -(u**3), 0.1, 12)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), saved[-1], atol=1e-5)


def test_backward_steps_undo_forward_steps():
    symbol = torch.tensor([2j, -0.1 + 1j], dtype=torch.complex128)
    u0 = torch.tensor([1.0 + 0j, 0.5j], dtype=torch.complex128)
    there = etdrk4(u0, symbol, lambda u: -u * u.abs().square(), 0.01, 50)
    back = etdrk4(there, symbol, lambda u: -u * u.abs().square(), -0.01, 50)
    assert torch.allclose(back, u0, atol=1e-8)


def test_gradients_flow_through_steps():
    symbol = torch.tensor([-3.0, -1.0], dtype=torch.float64)
    u0 = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: etdrk4(u, symbol, torch.sin, 0.1, 3), (u0,))


def test_blow_up_names_the_step():
    u0 = torch.ones(2, dtype=torch.float64)
    with pytest.raises(
        FloatingPointError, match=r"blew up: not finite at step \d+ of 200 \(dt=0.1\).*smaller time step"
    ):
        etdrk4(u0, torch.zeros(2, dtype=torch.float64), lambda u: u**2, 0.1, 200)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dt": 0.0}, ValueError, "`dt`"),
        ({"dt": math.inf}, ValueError, "`dt`"),
        ({"steps": 0}, ValueError, "`steps`"),
        ({"steps": 5, "save_every": 2}, ValueError, "`save_every`"),
        ({"linear": torch.zeros(4)}, ValueError, "must broadcast"),
        ({"linear": torch.zeros(2, 3)}, ValueError, "must broadcast"),
        ({"linear": torch.zeros(3, dtype=torch.complex64)}, TypeError, "complex"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    arguments = {
        "u_hat": torch.ones(3),
        "linear": torch.zeros(3),
        "nonlinear": torch.sin,
        "dt": 0.1,
        "steps": 4,
    }
    with pytest.raises(error, match=message):
        etdrk4(**arguments | changes)
