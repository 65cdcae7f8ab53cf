"""Assembly against closed forms, pyamg's gallery and manufactured solutions."""

import itertools
import math

import numpy as np
import pyamg
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.linalg import eigsh, spsolve

from lemmata.operators.solvers import System, darcy, helmholtz, poisson
from lemmata.operators.solvers.problems import darcy_stencil, node_weights


def order(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


def solved(system: System) -> np.ndarray:
    return spsolve(system.A.tocsc(), system.b).reshape(system.grid.shape)


def contrast_field(shape: tuple[int, ...], contrast: float, seed: int = 0) -> np.ndarray:
    return contrast ** np.random.default_rng(seed).uniform(size=shape)


def brute_force_darcy(a: np.ndarray, length: tuple[float, ...], mean: str = "harmonic") -> np.ndarray:
    """The finite-volume balance, a cell and a face at a time."""
    spacing = [box / n for box, n in zip(length, a.shape, strict=True)]
    cells = list(itertools.product(*map(range, a.shape)))
    A = np.zeros((a.size, a.size))
    for row, cell in enumerate(cells):
        for axis, side in itertools.product(range(a.ndim), (-1, 1)):
            other = tuple(c + side * (axis == k) for k, c in enumerate(cell))
            if other not in cells:
                A[row, row] += 2 * a[cell] / spacing[axis] ** 2
                continue
            face = (a[cell] + a[other]) / 2 if mean == "arithmetic" else 2 / (1 / a[cell] + 1 / a[other])
            A[row, row] += face / spacing[axis] ** 2
            A[row, cells.index(other)] -= face / spacing[axis] ** 2
    return A


def test_poisson_has_the_eigenvalues_of_the_sine_modes():
    n = 7
    system = poisson(n)
    one = 4 * (n + 1) ** 2 * np.sin(np.pi * np.arange(1, n + 1) / (2 * (n + 1))) ** 2
    expected = np.sort((one[:, None] + one).ravel())
    assert np.linalg.eigvalsh(system.A.toarray()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 5)])
def test_poisson_is_the_gallery_matrix_over_h_squared(shape):
    system = poisson(shape, [float(n + 1) / 10 for n in shape])  # h = 1/10 along every axis
    gallery = pyamg.gallery.poisson(shape, format="csr")
    assert abs(system.A - 100 * csr_array(gallery)).max() <= 1e-10
    assert system.grid.layout == "interior"


def test_poisson_has_order_two():
    errors = []
    for n in (15, 31, 63):
        grid = poisson((n, n), (1.0, 2.0)).grid
        x, y = grid.coordinates(dtype=torch.float64).numpy()
        exact = np.sin(np.pi * x) * np.sin(np.pi * y)
        u = solved(poisson((n, n), (1.0, 2.0), forcing=2 * np.pi**2 * exact))
        errors.append(abs(u - exact).max())
    assert order(errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (3, 4, 2)])
def test_darcy_equals_the_balance_written_cell_by_cell(shape):
    a = contrast_field(shape, 50.0)
    length = (1.0, 2.0, 0.5)[: len(shape)]
    system = darcy(a, length)
    assert system.A.toarray() == pytest.approx(brute_force_darcy(a, length), rel=1e-13)
    assert system.A.has_sorted_indices
    assert system.A.nnz == np.count_nonzero(system.A.toarray())


@pytest.mark.parametrize("shape", [(12, 12), (5, 9), (4, 5, 6)])
def test_darcy_is_a_symmetric_m_matrix_with_zero_row_sums_inside(shape):
    A = darcy(contrast_field(shape, 1e4), tuple(1.0 for _ in shape)).A
    assert abs(A - A.T).max() == 0
    dense = A.toarray()
    off = dense - np.diag(np.diag(dense))
    assert (off <= 0).all()
    rows = dense.sum(axis=1).reshape(shape)
    scale = np.diag(dense).reshape(shape)
    inner = (slice(1, -1),) * len(shape)
    assert abs(rows[inner] / scale[inner]).max() <= 1e-14
    rows[inner] = 1.0
    assert (rows > 0).all()
    assert (np.linalg.inv(dense) >= 0).all()


def test_darcy_stays_positive_definite_at_contrast_1e4():
    a = np.where(np.random.default_rng(1).uniform(size=(24, 24)) < 0.5, 1.0, 1e4)
    least = eigsh(darcy(a).A.tocsc(), k=1, sigma=0.0, return_eigenvectors=False)[0]
    assert least > 0


def test_darcy_with_one_coefficient_is_the_scaled_laplacian_of_cells():
    n = 6
    dense = darcy(np.full((n, n), 3.0)).A.toarray()
    one = (
        4 * n**2 * np.sin(np.pi * np.arange(1, n + 1) / (2 * n)) ** 2
    )  # sines with zeros half a cell outside
    assert np.linalg.eigvalsh(dense) == pytest.approx(np.sort(3 * (one[:, None] + one).ravel()), rel=1e-10)


@pytest.mark.parametrize(("mean", "exact"), [("harmonic", True), ("arithmetic", False)])
def test_flux_through_two_layers_is_exact_with_harmonic_means_only(mean, exact):
    n, left, right = 10, 1.0, 100.0
    a = np.where(np.arange(n) < n // 2, left, right)
    # u(0) = 0 and u(1) = 1: the flux is one over the resistance of the two layers in series.
    b = np.zeros(n)
    b[-1] = 2 * right * n**2
    A = darcy(a).A.toarray() if mean == "harmonic" else brute_force_darcy(a, (1.0,), mean)
    u = np.linalg.solve(A, b)
    flux = left * u[0] * 2 * n
    expected = 1 / (0.5 / left + 0.5 / right)
    assert (abs(flux / expected - 1) <= 1e-12) == exact
    assert exact or abs(flux / expected - 1) > 0.05


def test_darcy_with_a_smooth_coefficient_has_order_two():
    errors = []
    for n in (16, 32, 64):
        grid = darcy(np.ones((n, n)), (1.0, 2.0)).grid
        x, y = grid.coordinates(dtype=torch.float64).numpy()
        a = 2 + np.sin(2 * np.pi * x) * np.cos(np.pi * y)
        a_x = 2 * np.pi * np.cos(2 * np.pi * x) * np.cos(np.pi * y)
        a_y = -np.pi * np.sin(2 * np.pi * x) * np.sin(np.pi * y)
        exact = np.sin(np.pi * x) * np.sin(np.pi * y)
        u_x, u_y = (
            np.pi * np.cos(np.pi * x) * np.sin(np.pi * y),
            np.pi * np.sin(np.pi * x) * np.cos(np.pi * y),
        )
        f = 2 * np.pi**2 * a * exact - a_x * u_x - a_y * u_y
        errors.append(abs(solved(darcy(a, (1.0, 2.0), forcing=f)) - exact).max())
    assert order(errors) == pytest.approx(2, abs=0.15)


def test_darcy_in_three_dimensions_has_order_two():
    errors = []
    for n in (6, 12, 24):
        x, y, z = darcy(np.ones((n, n, n))).grid.coordinates(dtype=torch.float64).numpy()
        exact = np.sin(np.pi * x) * np.sin(np.pi * y) * np.sin(np.pi * z)
        a = np.exp(x)
        f = 3 * np.pi**2 * a * exact - a * np.pi * np.cos(np.pi * x) * np.sin(np.pi * y) * np.sin(np.pi * z)
        errors.append(abs(solved(darcy(a, forcing=f)) - exact).max())
    assert order(errors) == pytest.approx(2, abs=0.15)


def test_stencils_of_a_batch_apply_like_their_matrices():
    a = np.stack([contrast_field((5, 7), 20.0, seed) for seed in range(3)])
    u = np.random.default_rng(4).standard_normal(a.shape)
    product = darcy_stencil(a, (0.2, 0.1)).apply(u)
    for one_a, one_u, one in zip(a, u, product, strict=True):
        A = darcy(one_a, (1.0, 0.7)).A
        assert one.ravel() == pytest.approx(A @ one_u.ravel(), rel=1e-12)


def test_systems_of_one_shape_do_not_share_their_arrays():
    first, second = darcy(np.ones((4, 4))), darcy(np.ones((4, 4)))
    first.A.indices[:] = 0
    first.A.data[:] = 0
    assert second.A.toarray() == pytest.approx(brute_force_darcy(np.ones((4, 4)), (1.0, 1.0)))


def test_tensors_and_single_precision_are_taken_in_float64():
    a = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    system = darcy(a)
    assert system.A.dtype == np.float64
    assert system.A.toarray() == pytest.approx(brute_force_darcy(a.double().numpy(), (1.0, 1.0)), rel=1e-13)


def test_dirichlet_helmholtz_is_the_laplacian_shifted():
    k = contrast_field((4, 5), 9.0)
    expected = poisson((4, 5), (1.0, 2.0)).A.toarray() - np.diag(k.ravel() ** 2)
    assert helmholtz(k, length=(1.0, 2.0)).A.toarray() == pytest.approx(expected, rel=1e-12)
    constant = helmholtz(3.0, (4, 5), (1.0, 2.0)).A.toarray()
    assert constant == pytest.approx(poisson((4, 5), (1.0, 2.0)).A.toarray() - 9 * np.eye(20), rel=1e-12)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 5)])
def test_absorbing_helmholtz_is_complex_symmetric(shape):
    system = helmholtz(contrast_field(shape, 9.0), boundary="absorbing")
    assert system.A.dtype == np.complex128
    assert abs(system.A - system.A.T).max() == 0
    assert system.grid.layout == "nodes"
    assert node_weights(shape).sum() == pytest.approx(math.prod(n - 1 for n in shape))


def test_absorbing_ends_let_waves_out_in_one_dimension():
    # A source in the middle third; outside, the solution is c exp(-i k |x - x0|): nothing comes back.
    k, errors = 12.0, []
    for n in (129, 257, 513):
        grid = helmholtz(k, (n,), boundary="absorbing").grid
        x = grid.coordinates(dtype=torch.float64).numpy()[0]
        f = np.exp(-(((x - 0.5) / 0.05) ** 2))
        u = solved(helmholtz(k, (n,), forcing=f, boundary="absorbing"))
        # Green's function of -u'' - k^2 u on the line, exp(-i k |x - y|) / (2 i k), by fine quadrature.
        y = np.linspace(0, 1, 8001)
        source = np.exp(-(((y - 0.5) / 0.05) ** 2))
        exact = np.trapezoid(np.exp(-1j * k * abs(x[:, None] - y)) / (2j * k) * source, y, axis=1)
        errors.append(abs(u - exact).max() / abs(exact).max())
    assert errors[-1] < 1e-3
    assert order(errors) == pytest.approx(2, abs=0.1)


def test_a_plane_wave_across_an_absorbing_box_has_order_two():
    k, angle, lengths, errors = 10.0, 0.6, (1.0, 1.5), []
    direction = np.array([math.cos(angle), math.sin(angle)])
    for n in (17, 33, 65, 129):
        shape = (n, n + 8)
        system = helmholtz(k, shape, lengths, forcing=0.0, boundary="absorbing")
        x = system.grid.coordinates(dtype=torch.float64).numpy()
        exact = np.exp(-1j * k * np.tensordot(direction, x, 1))
        # Data of the boundary condition, g = du/dn + i k u, enter each face with its share of the cell.
        b = np.zeros(shape, dtype=complex)
        weights = node_weights(shape)
        for axis, side in itertools.product((0, 1), (0, -1)):
            end = (slice(None), side) if axis else (side, slice(None))
            normal = -1.0 if side == 0 else 1.0
            g = -1j * k * direction[axis] * normal * exact[end] + 1j * k * exact[end]
            b[end] += 2 * weights[end] * g / system.grid.spacing[axis]
        u = solved(System(system.A, b.ravel(), system.grid))
        errors.append(abs(u - exact).max())
    assert order(errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_coefficients_that_are_not_positive_are_counted(bad):
    a = np.ones((4, 4))
    a[0, :3] = bad
    with pytest.raises(
        ValueError, match=rf"`a` must be positive everywhere, but 3 entries.*minimum is {bad:g}"
    ):
        darcy(a)


def test_coefficients_that_are_not_finite_are_counted():
    a = np.ones((4, 4))
    a[0, 0], a[1, 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="`a` has 2 entries that are not finite"):
        darcy(a)
    with pytest.raises(ValueError, match="`k` has 2 entries that are not finite"):
        helmholtz(a)


def test_complex_coefficients_are_refused():
    for assemble in (darcy, helmholtz):
        with pytest.raises(TypeError, match="must be of a floating type, got complex128"):
            assemble(np.ones((4, 4), dtype=complex))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisson(1), "at least 2"),
        (lambda: darcy(np.ones((1, 4))), "at least 2"),
        (lambda: darcy(np.ones((2, 2, 2, 2))), "one to three axes"),
        (lambda: poisson((3, 3), forcing=np.ones(4)), r"`forcing` has shape \(4,\)"),
        (lambda: poisson((3, 3), forcing=math.nan), "`forcing` has 1 entries that are not finite"),
        (lambda: helmholtz(1.0), "`shape` is needed"),
        (lambda: helmholtz(np.ones((3, 3)), (4, 4)), r"`k` has shape \(3, 3\)"),
        (lambda: helmholtz(-1.0, 4), "`k` must be positive"),
        (lambda: poisson((3, 3), 0.0), "length"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_boundary_is_named(unchecked):
    with pytest.raises(ValueError, match=r"`boundary` \(='open'\) must be 'dirichlet' or 'absorbing'"):
        helmholtz(1.0, 4, boundary="open")


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), contrast=st.floats(1.0, 1e4), rows=st.integers(2, 8), columns=st.integers(2, 8)
)
def test_maximum_principle_and_scaling(seed, contrast, rows, columns):
    a = contrast_field((rows, columns), contrast, seed)
    f = np.random.default_rng(seed).uniform(size=a.shape)
    u = solved(darcy(a, forcing=f))
    assert (u >= 0).all()
    assert solved(darcy(4.0 * a, forcing=f)) == pytest.approx(u / 4, rel=1e-10)
