"""Wigner's symbols, matrices and generators against e3nn, sympy and the laws they obey."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import e3nn.o3
import pytest
import sympy.physics.wigner
import torch
from torch import Tensor

from lemmata.equivariant.o3 import (
    change_of_basis_cartesian,
    clebsch_gordan,
    fibonacci_sphere,
    rand_rotation,
    so3_generators,
    spherical_harmonics,
    wigner_3j,
    wigner_d,
)

F64 = torch.float64
STORED = json.loads(Path(__file__).with_name("e3nn_values.json").read_text())


# e3nn computes matrices and generators in the default dtype.
@pytest.fixture
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


TRIPLES = [(a, b, c) for a in range(7) for b in range(7) for c in range(abs(a - b), min(6, a + b) + 1)]


def fixed(size: int, shift: float) -> Tensor:
    """Return the vector that the stored values are contracted with."""
    return torch.sin(torch.arange(size, dtype=F64) * 1.3 + shift)


def test_symbols_equal_e3nns() -> None:
    for triple in TRIPLES:
        torch.testing.assert_close(
            wigner_3j(*triple), e3nn.o3.wigner_3j(*triple, dtype=F64), rtol=0, atol=1e-12
        )


def test_symbols_equal_stored_values() -> None:
    for name, value in STORED["wigner_3j"].items():
        a, b, c = map(int, name.split(","))
        found = torch.einsum(
            "ijk,i,j,k->",
            wigner_3j(a, b, c),
            fixed(2 * a + 1, 0.1),
            fixed(2 * b + 1, 0.2),
            fixed(2 * c + 1, 0.3),
        )
        assert found.item() == pytest.approx(value, abs=1e-12), name


def test_symbols_are_invariant_and_normalised() -> None:
    r = rand_rotation(dtype=F64)
    for a, b, c in [(1, 1, 1), (2, 2, 3), (3, 2, 4), (8, 7, 9), (12, 12, 12)]:
        w = wigner_3j(a, b, c)
        turned = torch.einsum("ijk,ia,jb,kc->abc", w, wigner_d(a, r), wigner_d(b, r), wigner_d(c, r))
        torch.testing.assert_close(turned, w, rtol=0, atol=1e-11)
        assert torch.linalg.vector_norm(w).item() == pytest.approx(1, abs=1e-14)


def test_zonal_couplings_equal_sympys() -> None:
    # With even a + b + c the couplings of functions that depend on y alone are Wigner's (a b c; 0 0 0).
    for a, b, c in TRIPLES:
        if (a + b + c) % 2 == 0:
            expected = float(sympy.physics.wigner.wigner_3j(a, b, c, 0, 0, 0))
            assert abs(wigner_3j(a, b, c)[a, b, c].item()) == pytest.approx(abs(expected), abs=1e-14)


def test_clebsch_gordan_is_orthogonal() -> None:
    for a, b in [(1, 1), (2, 3), (5, 4)]:
        rows = [clebsch_gordan(a, b, c).reshape(-1, 2 * c + 1) for c in range(abs(a - b), a + b + 1)]
        q = torch.cat(rows, dim=1)
        torch.testing.assert_close(q.mT @ q, torch.eye(len(q), dtype=F64), rtol=0, atol=1e-13)


def test_symbols_are_copies_in_any_dtype() -> None:
    w = wigner_3j(1, 1, 1)
    w.zero_()
    assert wigner_3j(1, 1, 1).abs().sum() > 0
    assert wigner_3j(2, 2, 2, dtype=torch.float32).dtype == torch.float32
    with torch.inference_mode():
        wigner_3j(5, 5, 4)
        wigner_d(5, torch.eye(3))
    x = torch.randn(11, dtype=F64, requires_grad=True)
    (wigner_3j(5, 5, 4).sum((1, 2)) @ x).backward()


@pytest.mark.parametrize("l", range(9))
def test_matrices_equal_e3nns(l: int, double_by_default: None) -> None:
    r = rand_rotation(20, dtype=F64)
    theirs = e3nn.o3.wigner_D(l, *e3nn.o3.matrix_to_angles(r))
    torch.testing.assert_close(wigner_d(l, r), theirs, rtol=0, atol=1e-11 if l > 6 else 1e-12)


def test_matrices_equal_stored_values() -> None:
    r = torch.tensor(STORED["rotation"], dtype=F64)
    for l, value in enumerate(STORED["wigner_d"]):
        found = fixed(2 * l + 1, 0.1) @ wigner_d(l, r) @ fixed(2 * l + 1, 0.2)
        assert found.item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("l", [0, 1, 2, 5, 10])
def test_matrices_are_an_orthogonal_representation(l: int) -> None:
    a, b = rand_rotation(2, 10, dtype=F64)
    torch.testing.assert_close(wigner_d(l, a @ b), wigner_d(l, a) @ wigner_d(l, b), rtol=0, atol=1e-12)
    d = wigner_d(l, a)
    torch.testing.assert_close(d @ d.mT, torch.eye(2 * l + 1, dtype=F64).expand_as(d), rtol=0, atol=1e-12)
    identity = wigner_d(l, torch.eye(3, dtype=F64))
    torch.testing.assert_close(identity, torch.eye(2 * l + 1, dtype=F64), rtol=0, atol=1e-13)


def test_matrices_are_smooth_where_angles_are_not() -> None:
    x = torch.randn(3, dtype=F64)
    weight = torch.randn(7, 7, dtype=F64)

    def turned(angle: Tensor) -> Tensor:
        # About y, through the identity: e3nn's middle angle is 0 all along.
        c, s, zero, one = angle.cos(), angle.sin(), angle * 0, angle * 0 + 1
        r = torch.stack([c, zero, s, zero, one, zero, -s, zero, c]).reshape(3, 3)
        return (weight * wigner_d(3, r)).sum() + (r @ x).sum()

    assert torch.autograd.gradcheck(turned, (torch.zeros((), dtype=F64, requires_grad=True),))
    assert torch.autograd.gradgradcheck(turned, (torch.zeros((), dtype=F64, requires_grad=True),))


def test_matrices_in_single_precision() -> None:
    r = rand_rotation(5, dtype=F64)
    torch.testing.assert_close(wigner_d(6, r.float()).double(), wigner_d(6, r), rtol=0, atol=1e-5)


@pytest.mark.parametrize("l", range(7))
def test_generators_equal_e3nns(l: int, double_by_default: None) -> None:
    theirs = e3nn.o3.so3_generators(l)
    torch.testing.assert_close(so3_generators(l), theirs, rtol=0, atol=1e-12)


def test_generators_equal_stored_values() -> None:
    for l, values in enumerate(STORED["generators"]):
        found = [fixed(2 * l + 1, 0.1) @ g @ fixed(2 * l + 1, 0.2) for g in so3_generators(l)]
        assert torch.stack(found).tolist() == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("l", [1, 2, 6])
def test_generators_obey_their_algebra_and_make_rotations(l: int) -> None:
    x, y, z = so3_generators(l)
    for a, b, c in ((x, y, z), (y, z, x), (z, x, y)):
        torch.testing.assert_close(a @ b - b @ a, c, rtol=0, atol=1e-12)
    casimir = x @ x + y @ y + z @ z
    torch.testing.assert_close(casimir, -l * (l + 1) * torch.eye(2 * l + 1, dtype=F64), rtol=0, atol=1e-12)
    turn = torch.randn(3, dtype=F64)
    lift = torch.einsum("a,aij->ij", turn, so3_generators(1))
    r = torch.linalg.matrix_exp(lift)
    found = torch.linalg.matrix_exp(torch.einsum("a,aij->ij", turn, so3_generators(l)))
    torch.testing.assert_close(found, wigner_d(l, r), rtol=0, atol=1e-11)


def test_matrices_hold_degrees_0_to_2() -> None:
    q = torch.cat([change_of_basis_cartesian(l) for l in range(3)]).reshape(9, 9)
    torch.testing.assert_close(q @ q.mT, torch.eye(9, dtype=F64), rtol=0, atol=1e-14)
    matrix, r = torch.randn(3, 3, dtype=F64), rand_rotation(dtype=F64)
    for l in range(3):
        basis = change_of_basis_cartesian(l)
        before, after = (torch.einsum("mij,ij->m", basis, m) for m in (matrix, r @ matrix @ r.T))
        torch.testing.assert_close(after, wigner_d(l, r) @ before, rtol=0, atol=1e-12)
    v = torch.randn(3, dtype=F64)
    read = torch.einsum("mij,ij->m", change_of_basis_cartesian(2), torch.outer(v, v))
    torch.testing.assert_close(
        read.abs(),
        (spherical_harmonics(2, v, False, "norm") * math.sqrt(2 / 3)).abs(),
        rtol=1e-12,
        atol=1e-12,
    )


def test_points_are_spread() -> None:
    points = fibonacci_sphere(400)
    distance = (points[:, None] - points).norm(dim=-1) + 9 * torch.eye(400, dtype=F64)
    assert distance.amin() > 0.8 * math.sqrt(4 * math.pi / 400)


def test_compiles(unchecked: None) -> None:
    torch.compiler.reset()
    r = rand_rotation(4, dtype=F64)
    wigner_d(2, r)
    compiled = torch.compile(lambda m: wigner_d(2, m), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(r), wigner_d(2, r))


def test_bad_input() -> None:
    for bad in ((1, 1, 3), (-1, 1, 1), (2, 0, 1)):
        with pytest.raises(ValueError, match="`l3`"):
            wigner_3j(*bad)
    with pytest.raises(ValueError, match="at least 0"):
        wigner_d(-1, torch.eye(3))
    with pytest.raises(ValueError, match="at least 0"):
        so3_generators(-1)
    with pytest.raises(ValueError, match="must be 0, 1 or 2"):
        change_of_basis_cartesian(3)
