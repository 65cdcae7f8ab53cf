"""What holds for every equation: reproducible inputs, deterministic solves, transfers, data sets, errors."""

import json
import math

import numpy as np
import pytest
import torch

from lemmata.operators.data import FieldDataset
from lemmata.operators.pde import (
    Advection1d,
    Burgers1d,
    Darcy2d,
    Equation,
    Helmholtz2d,
    KdV1d,
    KuramotoSivashinsky1d,
    NavierStokes2d,
    PeriodicEquation,
    Poisson2d,
)

CASES = {
    "advection": (Advection1d(0.7), 32),
    "burgers": (Burgers1d(0.05, final_time=0.2), 32),
    "kdv": (KdV1d(final_time=0.5), 64),
    "ks": (KuramotoSivashinsky1d(length=22.0, final_time=2.0), 32),
    "navier-stokes": (NavierStokes2d(final_time=0.5), 16),
    "darcy-piecewise": (Darcy2d(), 16),
    "darcy-lognormal": (Darcy2d("lognormal"), 16),
    "poisson": (Poisson2d(), 15),
    "helmholtz": (Helmholtz2d(), 17),
}
PERIODIC = [name for name, (equation, _) in CASES.items() if isinstance(equation, PeriodicEquation)]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=PERIODIC)
def periodic(request):
    return CASES[request.param]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(case, n=3, seed=0):
    equation, resolution = case
    return equation.sample_inputs(n, resolution, generator=seeded(seed))


def test_names_are_unique_and_shapes_are_as_announced(case):
    equation, resolution = case
    assert isinstance(equation, Equation)
    assert equation.name in {name.removesuffix("-piecewise").removesuffix("-lognormal") for name in CASES}
    grid = equation.grid(resolution)
    inputs = draw(case)
    assert inputs.shape == (3, equation.in_channels, *grid.shape)
    assert inputs.dtype == torch.float64
    assert equation.solve(inputs).shape == (3, equation.out_channels, *grid.shape)
    assert grid.layout == equation.layout
    assert grid.length == equation.length
    assert grid.dim == equation.dim


def test_samples_do_not_depend_on_batching(case):
    equation, resolution = case
    inputs = equation.sample_inputs(5, resolution, generator=[seeded(i) for i in range(5)])
    parts = [
        equation.sample_inputs(len(chunk), resolution, generator=[seeded(i) for i in chunk])
        for chunk in ([0, 1], [2], [3, 4])
    ]
    assert torch.equal(inputs, torch.cat(parts))
    assert not torch.equal(inputs[0], inputs[1])
    again = equation.sample_inputs(5, resolution, generator=seeded(7))
    assert torch.equal(again[:2], equation.sample_inputs(2, resolution, generator=seeded(7)))


def test_one_seed_is_one_function_at_two_resolutions(case):
    equation, resolution = case
    coarse = draw(case)
    fine = equation.sample_inputs(3, equation.refined(resolution, 4), generator=seeded())
    distance = (equation.restrict(fine, resolution) - coarse).flatten(1).norm(dim=1)
    other = (draw(case, seed=1) - coarse).flatten(1).norm(dim=1)
    assert bool((distance < 0.4 * other).all())


def test_periodic_samples_agree_mode_by_mode(periodic):
    equation, resolution = periodic
    coarse = draw(periodic)
    fine = equation.sample_inputs(3, 2 * resolution, generator=seeded())
    assert (equation.restrict(fine, resolution) - coarse).abs().max() < 1e-12 * coarse.abs().max()


def test_solves_are_deterministic_and_independent_of_batching(case):
    equation, _ = case
    inputs = draw(case)
    before = inputs.clone()
    solution = equation.solve(inputs)
    assert torch.equal(inputs, before)
    assert torch.equal(solution, equation.solve(inputs))
    for i in range(3):
        alone = equation.solve(inputs[i : i + 1])
        assert torch.allclose(alone, solution[i : i + 1], rtol=0, atol=1e-12 * float(solution.abs().max()))


def test_single_precision_inputs_are_solved_in_double(case):
    equation, resolution = case
    inputs = equation.sample_inputs(2, resolution, generator=seeded(), dtype=torch.float32)
    solution = equation.solve(inputs)
    assert inputs.dtype == solution.dtype == torch.float32
    assert torch.equal(solution, equation.solve(inputs.double()).float())


def test_parameters_rebuild_the_equation(case):
    equation, _ = case
    parameters = json.loads(json.dumps(equation.parameters()))
    rebuilt = type(equation)(**parameters)
    assert rebuilt.parameters() == equation.parameters()
    assert repr(rebuilt) == repr(equation)
    inputs = draw(case, 1)
    assert torch.equal(rebuilt.solve(inputs), equation.solve(inputs))


def test_datasets_record_what_made_them(case):
    equation, resolution = case
    data = equation.dataset(2, resolution, generator=[seeded(0), seeded(1)])
    assert isinstance(data, FieldDataset)
    assert data.grid == equation.grid(resolution)
    assert data.inputs.dtype == data.targets.dtype == torch.float32
    attributes = json.loads(json.dumps(data.attributes))
    assert attributes["equation"] == equation.name
    assert attributes["fine_resolution"] == list(equation.refined(resolution, 2))
    assert type(equation)(**attributes["parameters"]).parameters() == equation.parameters()
    assert attributes["solver"]
    second = equation.dataset(1, resolution, generator=[seeded(1)])
    assert torch.equal(second.inputs[0], data.inputs[1])
    assert torch.allclose(second.targets[0], data.targets[1], rtol=1e-6)


def test_finer_datasets_approach_each_other(periodic):
    equation, resolution = periodic
    coarse, fine, finer = (
        equation.dataset(2, resolution, generator=seeded(), fine_factor=factor, dtype=torch.float64).targets
        for factor in (1, 2, 4)
    )
    first, second = (float((a - finer).norm() / finer.norm()) for a in (coarse, fine))
    assert second < 1e-2
    assert second < 0.5 * first or second < 1e-6


def smooth(grid):
    """A smooth field: periodic where the box is, zero on the boundary elsewhere."""
    field = torch.ones(grid.shape, dtype=torch.float64)
    for x, length in zip(grid.coordinates(dtype=torch.float64), grid.length, strict=True):
        s = 2 * math.pi * x / length
        field = field * (
            torch.exp(torch.sin(s)) if grid.layout == "periodic" else torch.sin(s / 2) * torch.exp(x)
        )
    return field[None, None]


def test_restriction_and_prolongation_are_consistent(case):
    equation, resolution = case
    fine_resolution = equation.refined(resolution, 3)
    coarse, fine = smooth(equation.grid(resolution)), smooth(equation.grid(fine_resolution))
    restricted, prolonged = equation.restrict(fine, resolution), equation.prolong(coarse, fine_resolution)
    averages = equation.layout == "cells"  # a mean over a cell differs from its middle by O(h^2)
    assert (restricted - coarse).abs().max() < (2e-2 if averages else 1e-5)
    assert (prolonged - fine).abs().max() < 1e-3
    back = equation.restrict(prolonged, resolution)
    assert (back - coarse).abs().max() < (2e-2 if averages else 1e-5)
    assert torch.equal(equation.restrict(fine, fine_resolution), fine)
    if averages:
        assert torch.allclose(restricted.mean(), fine.mean(), rtol=1e-14)  # conservative


def test_transfers_keep_channels_samples_and_dtype(case):
    equation, resolution = case
    fields = smooth(equation.grid(resolution)).float().expand(2, 3, *equation.grid(resolution).shape)
    for moved in (equation.prolong(fields, equation.refined(resolution, 2)),):
        assert moved.dtype == torch.float32
        assert moved.shape == (2, 3, *equation.refined(resolution, 2))
        assert torch.equal(moved[0, 0], moved[1, 2])


def test_non_nested_grids_are_an_error():
    with pytest.raises(ValueError, match="not nested"):
        Darcy2d().restrict(torch.zeros(1, 1, 16, 16), 6)
    with pytest.raises(ValueError, match="not nested"):
        Helmholtz2d().restrict(torch.zeros(1, 1, 17, 17), 8)


@pytest.mark.parametrize("old", [16, 17])
@pytest.mark.parametrize("new", [24, 31])
def test_fourier_prolongation_keeps_values_at_shared_points(old, new):
    equation = Burgers1d()
    u = torch.randn(2, 1, old, dtype=torch.float64, generator=seeded())  # all modes, Nyquist too
    assert torch.allclose(equation.prolong(u, 3 * old)[..., ::3], u, atol=1e-13)
    back = equation.restrict(equation.prolong(u, new), old)
    nyquist = torch.fft.rfft(u)[..., old // 2].real / old if old % 2 == 0 else torch.zeros(2, 1)
    signs = 1.0 - 2.0 * (torch.arange(old) % 2)
    assert torch.allclose(back, u - nyquist.unsqueeze(-1) * signs, atol=1e-13)


def test_trajectories_end_in_the_solution(periodic):
    equation, _ = periodic
    inputs = draw(periodic)
    states = equation.trajectory(inputs, 4)
    assert states.shape == (3, 4, *inputs.shape[2:])
    final = equation.solve(inputs)
    assert (states[:, -1:] - final).abs().max() < 1e-3 * final.abs().max()


def test_trajectory_residuals_fall_with_the_spacing_in_time(periodic):
    """Fourfold by 4^4 = 256 in the limit; fast first transients of stiff equations cost up to an order."""
    equation, resolution = periodic
    inputs = 0.3 * smooth(equation.grid(3 * resolution))

    def size(saves):
        return float(equation.residual(inputs, equation.trajectory(inputs, saves)).square().mean().sqrt())

    assert size(48) < size(12) / 50
    wrong = equation.trajectory(inputs, 48) + 0.01 * inputs
    assert float(equation.residual(inputs, wrong).square().mean().sqrt()) > 10 * size(48)


@pytest.mark.parametrize("name", ["poisson", "helmholtz", "darcy-piecewise"])
def test_elliptic_residuals_vanish_at_the_solution_only(name):
    equation, _ = CASES[name]
    inputs = draw(CASES[name])
    solution = equation.solve(inputs)
    right = equation.residual(inputs, solution).abs().max()
    wrong = equation.residual(inputs, 1.01 * solution).abs().max()
    assert right < 1e-6 * wrong


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda x: x[0], ValueError),
        (lambda x: torch.cat([x, x], dim=1), ValueError),
        (lambda x: x.abs().ceil().clamp_min(1).long(), TypeError),
        (lambda x: x.to(torch.complex128), TypeError),
        (lambda x: torch.where(x == x.max(), math.nan, x), ValueError),
    ],
    ids=["rank", "channels", "integer", "complex", "nan"],
)
def test_bad_inputs_are_named(case, spoil, error):
    equation, _ = case
    with pytest.raises(error, match="`inputs`"):
        equation.solve(spoil(draw(case)))


def test_bad_resolutions_and_generators_are_named(case):
    equation, resolution = case
    for bad in (0, -3, (resolution,) * (equation.dim + 1)):
        with pytest.raises(ValueError, match=r"`resolution`|`shape`"):
            equation.grid(bad)
    with pytest.raises(ValueError, match="generators"):
        equation.sample_inputs(3, resolution, generator=[seeded()])
    with pytest.raises(ValueError, match="`factor`"):
        equation.refined(resolution, 0)


def test_bad_trajectories_are_named(periodic):
    equation, _ = periodic
    inputs = draw(periodic)
    with pytest.raises(ValueError, match="`saves`"):
        equation.trajectory(inputs, 0)
    with pytest.raises(ValueError, match="`solution`"):
        equation.residual(inputs, inputs)
    with pytest.raises(ValueError, match="`solution`"):
        equation.residual(inputs[:2], equation.trajectory(inputs, 4))


@pytest.mark.parametrize("cls", [Advection1d, Burgers1d, KdV1d, KuramotoSivashinsky1d, NavierStokes2d])
@pytest.mark.parametrize("name", ["length", "final_time", "time_step"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_bad_constructor_arguments_are_named(cls, name, value):
    if cls is Advection1d and name == "time_step":
        pytest.skip("advection is solved without steps")
    with pytest.raises(ValueError, match=f"`{name}`"):
        cls(**{name: value})


def test_sampling_needs_no_generator(case):
    equation, resolution = case
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (what is shown is that it plays no part)
    first = equation.sample_inputs(1, resolution)
    torch.manual_seed(5)
    assert torch.equal(first, equation.sample_inputs(1, resolution))
