"""Darcy flow against sparse LU, manufactured solutions and its own finer grids."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import spsolve

from lemmata.operators.pde.darcy import Darcy2d
from lemmata.operators.pde.random_field import GaussianRandomField
from lemmata.operators.solvers import darcy


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeds(n: int) -> list[torch.Generator]:
    return [generator(100 + i) for i in range(n)]


def sparse_lu(a: torch.Tensor, length: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    system = darcy(a.double().numpy(), length)
    return spsolve(system.A.tocsc(), system.b).reshape(a.shape)


def relative(u: torch.Tensor, v: torch.Tensor) -> float:
    return float((u - v).norm() / v.norm())


@pytest.mark.parametrize("method", ["auto", "direct", "fast-poisson", "amg"])
@pytest.mark.parametrize("coefficient", ["piecewise", "lognormal", "rough"])
@pytest.mark.parametrize("shape", [(24, 24), (9, 30), (30, 9)])
def test_every_method_agrees_with_sparse_lu(coefficient, method, shape):
    equation = Darcy2d(coefficient, length=(1.0, 2.0))
    a = equation.sample_inputs(2, shape, generator=generator())
    u = equation.solve(a, method=method)
    for sample in range(2):
        assert u[sample, 0].numpy() == pytest.approx(sparse_lu(a[sample, 0], (1.0, 2.0)), rel=1e-7)
    scale = 1.0 if method in {"auto", "direct"} else 1e3
    assert float(equation.residual(a, u).abs().max()) <= 1e-11 * scale


def test_above_the_bandwidth_of_cholesky_the_direct_method_is_still_direct(monkeypatch):
    monkeypatch.setattr("lemmata.operators.pde.darcy._BANDED_UP_TO", 16)
    equation = Darcy2d("rough")
    a = equation.sample_inputs(1, 24, generator=generator())
    assert float(equation.residual(a, equation.solve(a, method="direct")).abs().max()) <= 1e-11


@pytest.mark.parametrize(
    ("shape", "contrast", "chosen"),
    [
        ((64, 64), 1e4, "direct"),
        ((96, 300), 4.0, "direct"),
        ((128, 128), 4.0, "fast-poisson"),
        ((128, 128), 100.0, "direct"),
        ((130, 130), 100.0, "amg"),
    ],
)
def test_auto_chooses_by_size_and_contrast(shape, contrast, chosen):
    from lemmata.operators.pde.darcy import _quickest

    a = np.ones(shape)
    a[0, 0] = contrast
    assert _quickest(a) == chosen


def test_a_constant_coefficient_gives_the_series_solution_at_order_two():
    # u(1/2, 1/2) of -Lap u = 1 on the unit square, from the sine series summed until it no longer changes.
    odd = np.arange(1, 400, 2)
    j, k = np.meshgrid(odd, odd)

    def exact(points):
        s = np.sin(np.pi * np.outer(points, odd))
        return np.einsum("xj,jk,yk->xy", s, 16 / (np.pi**4 * j * k * (j**2 + k**2)), s)

    errors = []
    for n in (16, 32, 64):
        points = (np.arange(n) + 0.5) / n
        u = Darcy2d().solve(torch.ones(1, 1, n, n, dtype=torch.float64))[0, 0].numpy()
        errors.append(abs(u - exact(points)).max())
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(2, abs=0.15)


def test_a_smooth_coefficient_converges_at_order_two():
    # Against a grid four times finer than the finest, restricted by cell averages of a smooth function.
    equation = Darcy2d()

    def solution(n):
        x, y = equation.grid(n).coordinates(dtype=torch.float64)
        a = 2 + torch.sin(2 * math.pi * x) * torch.cos(math.pi * y)
        return equation.solve(a[None, None], method="direct")

    fine = solution(192)
    errors = [relative(solution(n), equation.restrict(fine, n)) for n in (24, 48)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_coefficients_are_what_they_say():
    field = GaussianRandomField((32, 32), 1.0, 2.0, 3.0, boundary="neumann").sample(3, generator=generator())
    a = Darcy2d("piecewise").sample_inputs(3, 32, generator=generator())[:, 0]
    assert torch.equal(a, torch.where(field >= 0, 12.0, 3.0).double())
    assert torch.equal(Darcy2d("lognormal").sample_inputs(3, 32, generator=generator())[:, 0], field.exp())
    assert Darcy2d("rough").sample_inputs(3, 32, generator=generator()).unique().tolist() == [2.0, 20.0]


def test_one_seed_is_one_coefficient_at_every_resolution():
    equation = Darcy2d("piecewise")
    coarse = equation.sample_inputs(4, 64, generator=generator())
    fine = equation.sample_inputs(4, 192, generator=generator())[..., 1::3, 1::3]  # the centres coincide
    assert float((coarse != fine).double().mean()) < 0.01


def test_samples_do_not_depend_on_their_batch():
    equation = Darcy2d("rough")
    together = equation.sample_inputs(3, 20, generator=seeds(3))
    alone = torch.cat([equation.sample_inputs(1, 20, generator=[g]) for g in seeds(3)])
    assert torch.equal(together, alone)
    for method in ("direct", "fast-poisson", "amg"):
        u = equation.solve(together, method=method)
        assert torch.equal(u, torch.cat([equation.solve(a[None], method=method) for a in together]))
        assert torch.equal(u, equation.solve(together, method=method))


def test_single_precision_goes_in_and_out_and_not_through():
    equation = Darcy2d("rough")
    a = equation.sample_inputs(2, 40, generator=generator(), dtype=torch.float32)
    u = equation.solve(a)
    assert a.dtype == u.dtype == equation.residual(a, u).dtype == torch.float32
    assert torch.equal(u, equation.solve(a.double()).float())


def test_a_looser_tolerance_is_kept_and_costs_accuracy():
    equation = Darcy2d("rough")
    a = equation.sample_inputs(1, 48, generator=generator())
    exact = equation.solve(a, method="direct")
    for method in ("fast-poisson", "amg"):
        u = equation.solve(a, method=method, rtol=1e-2)
        residual = float(equation.residual(a, u).norm()) / 48  # |b| = 48
        assert 1e-4 < residual <= 1e-2
        assert 1e-6 < relative(u, exact) < 0.1


@pytest.mark.parametrize("method", ["fast-poisson", "amg"])
def test_missing_the_tolerance_raises_with_the_reason(method):
    equation = Darcy2d("rough")
    a = equation.sample_inputs(2, 32, generator=generator())
    with pytest.raises(RuntimeError, match=rf"{method}, sample 0: .*`max_iterations` \(=2\) are spent"):
        equation.solve(a, method=method, max_iterations=2)
    with pytest.raises(RuntimeError, match=r"rounding allows no less|are spent"):
        equation.solve(a, method=method, rtol=1e-18)


def test_prolonging_a_coarse_solution_has_order_two_or_better():
    equation = Darcy2d()
    a = torch.ones(1, 1, 192, 192, dtype=torch.float64)
    fine = equation.solve(a)
    errors = [
        relative(equation.prolong(equation.solve(torch.ones(1, 1, n, n, dtype=torch.float64)), 192), fine)
        for n in (12, 24, 48)
    ]
    assert math.log2(errors[1] / errors[2]) >= 1.9


def test_zero_forcing_gives_zero():
    equation = Darcy2d(forcing=0.0)
    a = equation.sample_inputs(1, 16, generator=generator())
    for method in ("direct", "fast-poisson", "amg"):
        assert not equation.solve(a, method=method).any()


@pytest.mark.parametrize("coefficient", ["piecewise", "lognormal", "rough"])
def test_a_dataset_is_solved_finer_and_says_so(coefficient):
    equation = Darcy2d(coefficient)
    data = equation.dataset(3, 16, generator=generator(), fine_factor=3)
    fine = equation.sample_inputs(3, 48, generator=generator())
    targets = equation.restrict(equation.solve(fine), 16)
    assert torch.equal(data.targets, targets.float())
    if coefficient == "lognormal":
        assert torch.equal(data.inputs, equation.restrict(fine, 16).float())
    else:
        assert torch.equal(data.inputs, equation.sample_inputs(3, 16, generator=generator()).float())
    assert data.grid == equation.grid(16)
    attributes = json.loads(json.dumps(data.attributes))
    assert attributes["fine_resolution"] == [48, 48]
    rebuilt = Darcy2d(**attributes["parameters"])
    assert repr(rebuilt) == repr(equation)


def test_a_dataset_takes_a_generator_a_sample_and_the_global_one():
    equation = Darcy2d("piecewise")
    data = equation.dataset(2, 16, generator=seeds(2))
    assert torch.equal(data.inputs, equation.sample_inputs(2, 16, generator=seeds(2)).float())
    torch.manual_seed(5)
    data = equation.dataset(2, 16)
    torch.manual_seed(5)
    assert torch.equal(data.inputs, equation.sample_inputs(2, 16).float())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 100.0),
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    method=st.sampled_from(["direct", "fast-poisson"]),
)
def test_maximum_principle_and_scaling(seed, scale, rows, columns, method):
    equation = Darcy2d(length=(1.0, 0.5))
    a = 0.1 + torch.rand(2, 1, rows, columns, dtype=torch.float64, generator=generator(seed))
    u = equation.solve(a, method=method)
    assert bool((u >= 0).all())
    assert relative(equation.solve(scale * a, method=method), u / scale) <= 1e-7


def test_bad_coefficients_are_counted():
    equation = Darcy2d()
    a = torch.ones(2, 1, 8, 8)
    a[0, 0, 0, :3] = -2.0
    with pytest.raises(
        ValueError, match=r"`inputs` must be positive everywhere, but 3 entries.*minimum is -2"
    ):
        equation.solve(a)
    a[0, 0, 0, :3] = math.nan
    with pytest.raises(ValueError, match="`inputs` has 3 entries that are not finite"):
        equation.solve(a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Darcy2d(forcing=math.inf), r"`forcing` \(=inf\)"),
        (lambda: Darcy2d(length=(1.0, -1.0)), "length"),
        (lambda: Darcy2d().solve(torch.ones(2, 2, 8, 8)), r"`inputs` has shape \(2, 2, 8, 8\)"),
        (lambda: Darcy2d().solve(torch.ones(8, 8)), r"`inputs` has shape \(8, 8\)"),
        (lambda: Darcy2d().solve(torch.ones(1, 1, 1, 8)), "at least two cells"),
        (lambda: Darcy2d().solve(torch.ones(1, 1, 8, 8), rtol=0.0), r"`rtol` \(=0.0\)"),
        (lambda: Darcy2d().solve(torch.ones(1, 1, 8, 8), max_iterations=0), r"`max_iterations` \(=0\)"),
        (
            lambda: Darcy2d().residual(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 4, 4)),
            r"`solution` has shape \(1, 1, 4, 4\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_coefficients_are_refused():
    with pytest.raises(TypeError, match="floating"):
        Darcy2d().solve(torch.ones(1, 1, 8, 8, dtype=torch.int64))


def test_unknown_choices_are_named(unchecked):
    with pytest.raises(ValueError, match=r"`coefficient` \(='smooth'\) must be one of piecewise"):
        Darcy2d("smooth")
    with pytest.raises(ValueError, match=r"`method` \(='lu'\) must be one of auto"):
        Darcy2d().solve(torch.ones(1, 1, 8, 8), method="lu")
