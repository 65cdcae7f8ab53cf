"""The Helmholtz equation against the free-space solution, eigenmodes and its own finer grids."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import hankel2

from lemmata.operators.pde.helmholtz import Helmholtz2d


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_complex(u: torch.Tensor) -> np.ndarray:
    return (u[:, 0] + 1j * u[:, 1]).numpy()


@pytest.mark.parametrize("boundary", ["absorbing", "dirichlet"])
@pytest.mark.parametrize("shape", [(33, 33), (20, 41)])
def test_the_residual_vanishes(boundary, shape):
    equation = Helmholtz2d(15.0, boundary=boundary, length=(1.0, 1.5))
    c = equation.sample_inputs(2, shape, generator=generator())
    u = equation.solve(c)
    assert float(equation.residual(c, u).abs().max()) <= 1e-10 * float(equation.forcing(shape).max())


def test_the_residual_is_the_equation_at_interior_nodes():
    equation = Helmholtz2d(15.0)
    c = equation.sample_inputs(1, 24, generator=generator())
    u = torch.rand(1, 2, 24, 24, dtype=torch.float64, generator=generator())
    h = 1 / 23
    inner = (..., slice(1, -1), slice(1, -1))
    laplacian = (
        u[..., 2:, 1:-1] + u[..., :-2, 1:-1] + u[..., 1:-1, 2:] + u[..., 1:-1, :-2] - 4 * u[inner]
    ) / h**2
    f = torch.stack([equation.forcing(24), torch.zeros(24, 24, dtype=torch.float64)])
    expected = f[inner] - laplacian - (15.0 / c[inner]) ** 2 * u[inner]
    torch.testing.assert_close(equation.residual(c, u)[inner], expected, rtol=1e-9, atol=1e-8)


def test_far_from_the_source_the_field_is_that_of_a_point_source_in_free_space():
    # Outgoing waves: Lap G + k^2 G = delta has G = (i/4) H0^(2)(k r). A narrow
    # Gaussian source scales it by its transform at k. What first-order boundaries reflect stays.
    k, n = 25.0, 257
    equation = Helmholtz2d(k, variation=0.0, source=(0.5, 0.5), source_width=0.02)
    u = as_complex(equation.solve(torch.ones(1, 1, n, n, dtype=torch.float64)))[0]
    x, y = equation.grid(n).coordinates(dtype=torch.float64).numpy()
    r = np.hypot(x - 0.5, y - 0.5)
    far = (r > 0.1) & (r < 0.4)
    exact = 0.25j * hankel2(0, k * r[far]) * math.exp(-((k * 0.02) ** 2) / 2)
    error = np.linalg.norm(u[far] - exact) / np.linalg.norm(exact)
    assert error < 0.05
    incoming = np.linalg.norm(u[far] - exact.conj()) / np.linalg.norm(exact)
    assert incoming > 1


@pytest.mark.parametrize("boundary", ["absorbing", "dirichlet"])
def test_solutions_converge_at_order_two(boundary):
    equation = Helmholtz2d(10.0, boundary=boundary, variation=0.2, source_width=0.1)

    def solution(n):
        x, y = equation.grid(n).coordinates(dtype=torch.float64)
        c = 1 + 0.2 * torch.sin(math.pi * x) * torch.sin(math.pi * y)
        return equation.solve(c[None, None])

    fine = solution(257)
    errors = [float((solution(n) - equation.restrict(fine, n)).norm()) / n for n in (33, 65)]
    # Against a grid only four times finer than the last, order two reads log2(63 / 15) = 2.07.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_with_zeros_on_the_boundary_the_field_is_real_and_a_sum_of_modes():
    n, k = 33, 7.0
    equation = Helmholtz2d(k, boundary="dirichlet", variation=0.0)
    u = equation.solve(torch.ones(1, 1, n, n, dtype=torch.float64))[0]
    assert not u[1].any()
    assert not u[0, [0, -1]].any()
    assert not u[0, :, [0, -1]].any()
    j = np.arange(1, n - 1)
    s = np.sin(np.pi * np.outer(j, j) / (n - 1)) * math.sqrt(2 / (n - 1))
    one = 4 * (n - 1) ** 2 * np.sin(np.pi * j / (2 * (n - 1))) ** 2
    modes = s @ equation.forcing(n).numpy()[1:-1, 1:-1] @ s / (k**2 - one[:, None] - one)
    assert u[0, 1:-1, 1:-1].numpy() == pytest.approx(s @ modes @ s, rel=1e-9)


def test_speeds_are_positive_uniform_outside_and_one_function_at_every_resolution():
    equation = Helmholtz2d(variation=0.3)
    coarse = equation.sample_inputs(8, 33, generator=generator())
    fine = equation.sample_inputs(8, 65, generator=generator())
    assert bool((coarse > 0).all())
    assert bool((coarse[..., [0, -1], :] == 1).all())
    assert bool((coarse[..., [0, -1]] == 1).all())
    assert float((coarse - fine[..., ::2, ::2]).abs().max()) < 0.02
    many = equation.sample_inputs(256, 33, generator=generator()).log()
    assert float(many[..., 1:-1, 1:-1].square().mean().sqrt()) == pytest.approx(0.3, rel=0.1)


def test_a_uniform_medium_is_one_everywhere():
    assert torch.equal(
        Helmholtz2d(variation=0.0).sample_inputs(1, 9), torch.ones(1, 1, 9, 9, dtype=torch.float64)
    )


def test_samples_do_not_depend_on_their_batch():
    equation = Helmholtz2d()
    together = equation.sample_inputs(3, 20, generator=[generator(i) for i in range(3)])
    alone = torch.cat([equation.sample_inputs(1, 20, generator=[generator(i)]) for i in range(3)])
    assert torch.equal(together, alone)
    assert torch.equal(equation.solve(together), torch.cat([equation.solve(c[None]) for c in together]))


def test_single_precision_goes_in_and_out_and_not_through():
    equation = Helmholtz2d()
    c = equation.sample_inputs(1, 20, generator=generator(), dtype=torch.float32)
    u = equation.solve(c)
    assert u.dtype == equation.residual(c, u).dtype == torch.float32
    assert torch.equal(u, equation.solve(c.double()).float())


def test_a_dataset_is_solved_finer_and_rebuilds_its_equation():
    equation = Helmholtz2d(12.0, source=(0.4, 0.6), length=(1.0, 2.0))
    data = equation.dataset(2, 17, generator=generator())
    assert data.targets.shape == (2, 2, 17, 17)
    attributes = json.loads(json.dumps(data.attributes))
    assert attributes["fine_resolution"] == [33, 33]
    assert repr(Helmholtz2d(**attributes["parameters"])) == repr(equation)
    fine = equation.sample_inputs(2, 33, generator=generator())
    assert torch.equal(data.targets, equation.solve(fine)[..., ::2, ::2].float())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Helmholtz2d(0.0), r"`wavenumber` \(=0.0\)"),
        (lambda: Helmholtz2d(variation=-1.0), r"`variation` \(=-1.0\)"),
        (lambda: Helmholtz2d(source=(0.5, 1.5)), r"`source` \(=\(0.5, 1.5\)\)"),
        (lambda: Helmholtz2d(source_width=math.nan), r"`source_width` \(=nan\)"),
        (lambda: Helmholtz2d().sample_inputs(1, 2), r"`resolution` \(=2\)"),
        (lambda: Helmholtz2d().solve(torch.ones(1, 1, 3, 8)), "at least four nodes"),
        (lambda: Helmholtz2d().solve(-torch.ones(1, 1, 8, 8)), "must be positive everywhere, but 64 entries"),
        (lambda: Helmholtz2d().solve(torch.ones(1, 2, 8, 8)), r"`inputs` has shape \(1, 2, 8, 8\)"),
        (
            lambda: Helmholtz2d().residual(torch.ones(1, 1, 8, 8), torch.ones(1, 2, 4, 4)),
            r"`solution` has shape \(1, 2, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_boundary_is_named(unchecked):
    with pytest.raises(ValueError, match=r"`boundary` \(='open'\)"):
        Helmholtz2d(boundary="open")
