"""The Matern correlation against closed forms, SciPy and its limits."""

import math

import numpy as np
import pytest
import scipy.special
import torch

from lemmata.sketching.special import log_matern

R = torch.linspace(0, 5, 40, dtype=torch.float64)


def test_half_integers_in_closed_form():
    z = math.sqrt(3) * R / 0.7
    torch.testing.assert_close(log_matern(R, 0.5, 0.7), -R / 0.7, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(log_matern(R, 1.5, 0.7), torch.log1p(z) - z, rtol=1e-12, atol=1e-13)


def test_equals_scipy():
    nu, r = 2.3, R[1:].numpy()
    z = math.sqrt(2 * nu) * r / 1.3
    expected = 2 ** (1 - nu) / scipy.special.gamma(nu) * z**nu * scipy.special.kv(nu, z)
    np.testing.assert_allclose(log_matern(R[1:], nu, 1.3).exp().numpy(), expected, rtol=1e-12)


def test_large_smoothness_is_squared_exponential():
    torch.testing.assert_close(log_matern(R, 1e6, 2.0), -(R**2) / 8, rtol=1e-4, atol=1e-6)


def test_smoothness_and_length_are_differentiable():
    nu, length = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.2, 0.8))
    assert torch.autograd.gradcheck(lambda nu, length: log_matern(R[1:], nu, length), (nu, length))


def test_far_away_underflows_nowhere():
    assert log_matern(torch.tensor(1e4), 0.5, 1.0).item() == pytest.approx(-1e4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="`nu` must be positive"):
        log_matern(R, 0.0, 1.0)
    with pytest.raises(ValueError, match="`lengthscale` must be positive"):
        log_matern(R, 1.0, -1.0)
    with pytest.raises(ValueError, match="`r` must not be negative"):
        log_matern(-R, 1.0, 1.0)
