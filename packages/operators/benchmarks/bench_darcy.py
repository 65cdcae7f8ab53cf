"""Darcy flow: one field assembled and solved, against what a user would write with scipy or pyamg."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyamg
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array
from scipy.sparse.linalg import spsolve

from lemmata.operators.pde.darcy import RTOL, Darcy2d

SIDES = ["lemmata", "scipy spsolve", "pyamg RS-CG"]

Array = NDArray[np.float64]


@pytest.mark.benchmark(group="solve one two-phase Darcy field at 64^2")
@pytest.mark.parametrize("side", SIDES)
def bench_darcy_64(benchmark: Any, side: str) -> None:
    """Small fields, solved by banded Cholesky."""
    run(benchmark, side, 64)


@pytest.mark.benchmark(group="solve one two-phase Darcy field at 128^2")
@pytest.mark.parametrize("side", SIDES)
def bench_darcy_128(benchmark: Any, side: str) -> None:
    """Above the crossover to conjugate gradients with a fast Poisson preconditioner."""
    run(benchmark, side, 128)


@pytest.mark.benchmark(group="solve one two-phase Darcy field at 256^2")
@pytest.mark.parametrize("side", SIDES)
def bench_darcy_256(benchmark: Any, side: str) -> None:
    """Large fields, where a sparse factorisation fills in."""
    run(benchmark, side, 256)


def run(benchmark: Any, side: str, cells: int) -> None:
    """Measure one side from the same coefficient to the solution, after checking that it is one."""
    equation = Darcy2d("piecewise")
    a = equation.sample_inputs(1, cells, generator=torch.Generator().manual_seed(0))
    field = a[0, 0].numpy()
    solvers: dict[str, Callable[[], Any]] = {
        "lemmata": partial(with_lemmata, equation, a),
        "scipy spsolve": partial(with_spsolve, field),
        "pyamg RS-CG": partial(with_pyamg, field),
    }
    exact = equation.solve(a, method="direct")[0, 0].numpy()
    error = np.linalg.norm(solvers[side]() - exact) / np.linalg.norm(exact)
    assert error < 1e-7
    benchmark.extra_info.update(bar=0.5, relative_error=float(error))
    benchmark(solvers[side])


def with_lemmata(equation: Darcy2d, a: torch.Tensor) -> Array:
    """Solve as our documentation shows."""
    u: Array = equation.solve(a)[0, 0].numpy()
    return u


def with_spsolve(a: Array) -> Array:
    """Solve as the documentation of scipy.sparse shows."""
    u: Array = spsolve(csc_array(assemble(a)), np.ones(a.size)).reshape(a.shape)
    return u


def with_pyamg(a: Array) -> Array:
    """Solve as the documentation of pyamg shows, to our tolerance."""
    hierarchy = pyamg.ruge_stuben_solver(csr_array(assemble(a)))
    u: Array = hierarchy.solve(np.ones(a.size), tol=RTOL, accel="cg").reshape(a.shape)
    return u


def assemble(a: Array) -> Any:
    """Assemble by diagonals, harmonic face means, on the unit square."""
    n = a.shape[0]
    down, across = np.zeros_like(a), np.zeros_like(a)
    down[:-1] = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    across[:, :-1] = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
    diagonal = down + across
    diagonal[1:] += down[:-1]
    diagonal[:, 1:] += across[:, :-1]
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        diagonal[edge] += 2 * a[edge]
    down, across, diagonal = down.ravel(), across.ravel(), diagonal.ravel()
    diagonals = [-down[:-n], -across[:-1], diagonal, -across[:-1], -down[:-n]]
    return n**2 * diags_array(diagonals, offsets=[-n, -1, 0, 1, n])
