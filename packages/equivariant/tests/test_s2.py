"""Grids on the sphere: quadrature, both transforms, gradients; dense and separable against plain sums."""

import math

import pytest
import torch
from torch import Tensor

from lemmata.equivariant.o3 import Irreps, rand_rotation, solid_harmonics, wigner_3j
from lemmata.equivariant.s2 import LARGEST_DENSE, S2Grid

F64 = torch.float64
SIZES = [(0, None), (0, 5), (1, None), (4, None), (4, 5), (10, 31), (11, None), (12, 12), (12, 17), (20, 61)]


def values_by_sums(grid: S2Grid, coefficients: Tensor) -> Tensor:
    """Return values from the harmonics at each point."""
    harmonics = solid_harmonics(grid.lmax, grid.points)
    return torch.einsum("...m,knm->...kn", coefficients, harmonics)


@pytest.mark.parametrize(("lmax", "lmax_product"), SIZES)
def test_transforms_equal_plain_sums(lmax: int, lmax_product: int | None) -> None:
    grid = S2Grid(lmax, lmax_product=lmax_product, dtype=F64)
    assert grid.separable == (lmax > LARGEST_DENSE)
    c = torch.randn(2, 3, (lmax + 1) ** 2, dtype=F64)
    values = values_by_sums(grid, c)
    torch.testing.assert_close(grid.to_grid(c), values, rtol=0, atol=1e-12)
    back = torch.einsum("abkn,k,knm->abm", values, grid.weights, solid_harmonics(lmax, grid.points))
    torch.testing.assert_close(grid.from_grid(values), back, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lmax", [0, 1, 2, 6, 10, 11, 25])
def test_round_trip_and_parseval(lmax: int) -> None:
    grid = S2Grid(lmax, dtype=F64)
    c = torch.randn(5, (lmax + 1) ** 2, dtype=F64)
    values = grid.to_grid(c)
    torch.testing.assert_close(grid.from_grid(values), c, rtol=0, atol=1e-12)
    energy = (values.square() * grid.weights[:, None]).sum((-1, -2))
    torch.testing.assert_close(energy, c.square().sum(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("lmax", [5, 12])
def test_harmonics_are_orthonormal_on_the_grid(lmax: int) -> None:
    grid = S2Grid(lmax, dtype=F64)
    y = solid_harmonics(lmax, grid.points)
    gram = torch.einsum("knm,k,knp->mp", y, grid.weights, y)
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=F64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 4, 9, 30])
def test_points_and_weights_integrate_polynomials(degree: int) -> None:
    grid = S2Grid(0, lmax_product=degree, dtype=F64)
    torch.testing.assert_close(grid.points.norm(dim=-1), torch.ones(grid.n_lat, grid.n_lon, dtype=F64))
    assert (grid.weights.sum() * grid.n_lon).item() == pytest.approx(4 * math.pi, rel=1e-14)
    r = rand_rotation(dtype=F64)
    height = (grid.points @ r)[..., 0]
    found = (height**degree * grid.weights[:, None]).sum().item()
    assert found == pytest.approx(4 * math.pi / (degree + 1) if degree % 2 == 0 else 0, abs=1e-13)


@pytest.mark.parametrize(("l1", "l2", "l3"), [(2, 3, 3), (1, 4, 5), (6, 5, 9), (12, 3, 11)])
def test_products_project_to_gaunts_integrals(l1: int, l2: int, l3: int) -> None:
    grid = S2Grid(max(l1, l2, l3), lmax_product=l1 + l2 + l3, dtype=F64)
    size = (grid.lmax + 1) ** 2
    blocks = [slice(l * l, (l + 1) ** 2) for l in (l1, l2, l3)]
    c1, c2 = (torch.randn(size, dtype=F64) for _ in range(2))
    one, two = torch.zeros(2, size, dtype=F64)
    one[blocks[0]], two[blocks[1]] = c1[blocks[0]], c2[blocks[1]]
    projected = grid.from_grid(grid.to_grid(one) * grid.to_grid(two))[blocks[2]]
    coupled = torch.einsum("ijk,i,j->k", wigner_3j(l1, l2, l3), one[blocks[0]], two[blocks[1]])
    if (l1 + l2 + l3) % 2:
        torch.testing.assert_close(projected, torch.zeros_like(projected), rtol=0, atol=1e-13)
    else:
        # By Wigner and Eckart's theorem one number, (a b c; 0 0 0) of the coupling, scales all components.
        zonal = wigner_3j(l1, l2, l3)[l1, l2, l3].abs().item()
        scale = zonal * math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) / (4 * math.pi))
        sign = torch.sign(projected @ coupled)
        torch.testing.assert_close(projected, sign * scale * coupled, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lmax", [3, 12])
def test_gradients_equal_those_of_autograd(lmax: int) -> None:
    grid = S2Grid(lmax, dtype=F64)
    c = torch.randn((lmax + 1) ** 2, dtype=F64)
    points = grid.points.clone().requires_grad_()
    # Extended as constant along the radius, so that the gradient is tangential.
    unit = points / points.norm(dim=-1, keepdim=True)
    (gradient,) = torch.autograd.grad((solid_harmonics(lmax, unit) @ c).sum(), points)
    x, y, z = grid.points.unbind(-1)
    sine = (1 - y * y).sqrt()
    along_latitude = torch.stack([y * x / sine, -sine, y * z / sine], dim=-1)
    along_longitude = torch.stack([z / sine, 0 * y, -x / sine], dim=-1)
    latitude, longitude = grid.gradient_to_grid(c)
    torch.testing.assert_close(latitude, (gradient * along_latitude).sum(-1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(longitude, (gradient * along_longitude).sum(-1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("lmax", [4, 12])
def test_energy_of_gradients(lmax: int) -> None:
    grid = S2Grid(lmax, dtype=F64)
    c = torch.randn((lmax + 1) ** 2, dtype=F64)
    energy = sum((part.square() * grid.weights[:, None]).sum() for part in grid.gradient_to_grid(c))
    degrees = torch.tensor(Irreps.spherical_harmonics(lmax).ls)
    eigenvalues = torch.cat([torch.full((2 * l + 1,), float(l * (l + 1)), dtype=F64) for l in degrees])
    torch.testing.assert_close(energy, (eigenvalues * c.square()).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("lmax", [3, 11])
def test_batches_gradients_and_vmap(lmax: int) -> None:
    grid = S2Grid(lmax, dtype=F64)
    size = (lmax + 1) ** 2
    for batch in ((), (0,), (2, 0), (2, 3)):
        values = grid.to_grid(torch.zeros(*batch, size, dtype=F64))
        assert values.shape == (*batch, grid.n_lat, grid.n_lon)
        assert grid.from_grid(values).shape == (*batch, size)
    c = torch.randn(4, size, dtype=F64)
    torch.testing.assert_close(torch.vmap(grid.to_grid)(c), grid.to_grid(c))
    torch.testing.assert_close(torch.vmap(grid.from_grid)(grid.to_grid(c)), c)

    def cube(coefficients: Tensor) -> Tensor:
        return grid.from_grid(grid.to_grid(coefficients) ** 3)[:4]

    assert torch.autograd.gradcheck(cube, (torch.randn(size, dtype=F64, requires_grad=True),), fast_mode=True)


@pytest.mark.parametrize("lmax", [3, 11])
def test_dtypes(lmax: int) -> None:
    grid = S2Grid(lmax, dtype=torch.float32)
    assert not grid.state_dict()
    c = torch.randn((lmax + 1) ** 2)
    assert grid.to_grid(c).dtype == torch.float32
    torch.testing.assert_close(grid.from_grid(grid.to_grid(c)), c, rtol=0, atol=1e-5)
    exact = S2Grid(lmax, dtype=F64)
    torch.testing.assert_close(grid.double().to_grid(c.double()), exact.to_grid(c.double()), rtol=0, atol=0)


@pytest.mark.parametrize("lmax", [3, 11])
def test_compiles(lmax: int, unchecked: None) -> None:
    torch.compiler.reset()
    grid = S2Grid(lmax, dtype=F64)

    def square(c: Tensor) -> Tensor:
        return grid.from_grid(grid.to_grid(c).square())

    c = torch.randn(3, (lmax + 1) ** 2, dtype=F64)
    compiled = torch.compile(square, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(c), square(c))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`lmax`"):
        S2Grid(-1)
    with pytest.raises(ValueError, match="`lmax_product`"):
        S2Grid(3, lmax_product=2)
