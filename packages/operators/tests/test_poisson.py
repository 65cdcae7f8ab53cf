"""Poisson's equation against a sparse solve and closed forms."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import spsolve

from lemmata.operators.pde.poisson import Poisson2d
from lemmata.operators.pde.random_field import GaussianRandomField
from lemmata.operators.solvers import poisson


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(31, 31), (8, 21)])
def test_sine_transforms_agree_with_sparse_lu(shape):
    equation = Poisson2d(length=(1.0, 2.5))
    f = equation.sample_inputs(3, shape, generator=generator())
    u = equation.solve(f)
    for source, solution in zip(f[:, 0].numpy(), u[:, 0].numpy(), strict=True):
        system = poisson(shape, (1.0, 2.5), forcing=source)
        exact = spsolve(system.A.tocsc(), system.b).reshape(shape)
        assert abs(solution - exact).max() <= 1e-10 * abs(exact).max()
    assert float(equation.residual(f, u).abs().max()) <= 1e-10 * float(f.abs().max())


def test_a_sine_is_found_at_order_two():
    errors = []
    for n in (15, 31, 63):
        equation = Poisson2d(length=(1.0, 2.0))
        x, y = equation.grid(n).coordinates(dtype=torch.float64)
        exact = torch.sin(2 * math.pi * x) * torch.sin(1.5 * math.pi * y)
        u = equation.solve(((4 + 2.25) * math.pi**2 * exact)[None, None])[0, 0]
        errors.append(float((u - exact).abs().max()))
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(2, abs=0.05)


def test_sources_are_gaussian_fields_that_vanish_on_the_boundary():
    field = GaussianRandomField((20, 20), 1.0, 2.0, 3.0, boundary="dirichlet")
    expected = field.sample(2, generator=generator())
    assert torch.equal(Poisson2d().sample_inputs(2, 20, generator=generator())[:, 0], expected)


def test_samples_do_not_depend_on_their_batch():
    equation = Poisson2d()
    together = equation.sample_inputs(3, 20, generator=[generator(i) for i in range(3)])
    alone = torch.cat([equation.sample_inputs(1, 20, generator=[generator(i)]) for i in range(3)])
    assert torch.equal(together, alone)
    assert torch.equal(equation.solve(together), torch.cat([equation.solve(f[None]) for f in together]))


def test_single_precision_goes_in_and_out_and_not_through():
    equation = Poisson2d()
    f = equation.sample_inputs(2, 20, generator=generator(), dtype=torch.float32)
    u = equation.solve(f)
    assert u.dtype == equation.residual(f, u).dtype == torch.float32
    assert torch.equal(u, equation.solve(f.double()).float())


def test_a_dataset_is_solved_finer_and_rebuilds_its_equation():
    equation = Poisson2d(alpha=3.0, length=(1.0, 2.0))
    data = equation.dataset(2, 15, generator=generator())
    attributes = json.loads(json.dumps(data.attributes))
    assert attributes["fine_resolution"] == [31, 31]
    assert repr(Poisson2d(**attributes["parameters"])) == repr(equation)
    fine = equation.sample_inputs(2, 31, generator=generator())
    assert torch.equal(data.inputs, fine[..., 1::2, 1::2].float())
    assert torch.equal(data.targets, equation.solve(fine)[..., 1::2, 1::2].float())


def test_prolonging_a_coarse_solution_has_order_two_or_better():
    equation = Poisson2d()
    x, y = equation.grid(95).coordinates(dtype=torch.float64)
    fine = (torch.sin(math.pi * x) * torch.sin(2 * math.pi * y))[None, None]
    errors = []
    for n in (11, 23, 47):
        x, y = equation.grid(n).coordinates(dtype=torch.float64)
        f = 5 * math.pi**2 * torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)
        u = equation.prolong(equation.solve(f[None, None]), 95)
        errors.append(float((u - fine).norm()))
    assert math.log2(errors[-2] / errors[-1]) >= 1.9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_solutions_are_linear_and_obey_the_maximum_principle(seed, rows, columns):
    equation = Poisson2d()
    f, g = torch.rand(2, 1, 1, rows, columns, dtype=torch.float64, generator=generator(seed))
    u, v = equation.solve(f), equation.solve(g)
    assert bool((u >= -1e-15).all())
    assert torch.allclose(equation.solve(2 * f - 3 * g), 2 * u - 3 * v, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Poisson2d(alpha=0.0), r"`alpha` \(=0.0\)"),
        (lambda: Poisson2d(tau=math.nan), r"`tau` \(=nan\)"),
        (lambda: Poisson2d(length=-1.0), "length"),
        (lambda: Poisson2d().solve(torch.ones(1, 2, 8, 8)), r"`inputs` has shape \(1, 2, 8, 8\)"),
        (lambda: Poisson2d().solve(torch.full((1, 1, 8, 8), np.nan)), "not finite"),
        (
            lambda: Poisson2d().residual(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 4, 4)),
            r"`solution` has shape \(1, 1, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
