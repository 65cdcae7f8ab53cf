"""The flat and the dense layout hold the same numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import Irrep, Irreps, from_dense, rand_rotation, to_dense


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.booleans())
def test_round_trip(channels: int, lmax: int, batch: int, natural: bool) -> None:
    irreps = Irreps([(channels, Irrep(l, (-1) ** l if natural else 1)) for l in range(lmax + 1)])
    x = torch.randn(batch, 2, irreps.dim)
    dense = to_dense(irreps, x)
    assert dense.shape == (batch, 2, channels, (lmax + 1) ** 2)
    assert torch.equal(from_dense(irreps, dense), x)


def test_the_group_acts_alike_on_both() -> None:
    irreps, sphere = Irreps("3x0e + 3x1o + 3x2e"), Irreps.spherical_harmonics(2)
    x, r = irreps.randn(4, -1, dtype=torch.float64), -rand_rotation(dtype=torch.float64)
    turned = to_dense(irreps, x @ irreps.d_from_matrix(r).mT)
    torch.testing.assert_close(turned, to_dense(irreps, x) @ sphere.d_from_matrix(r).mT)


def test_gradients_flow() -> None:
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: to_dense("5x0e + 5x1o", v), (x,))


@pytest.mark.parametrize("irreps", ["", "2x0e + 3x1o", "2x1o", "2x0e + 2x2e", "2x1o + 2x0e", "1x0e + 1x0e"])
def test_irreps_without_a_dense_layout(irreps: str) -> None:
    with pytest.raises(ValueError, match="have no dense layout"):
        to_dense(irreps, torch.zeros(Irreps(irreps).dim))


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="expected last dimension 8"):
        to_dense("2x0e + 2x1o", torch.zeros(7))
    with pytest.raises(ValueError, match=r"expected last dimensions \(2, 4\)"):
        from_dense("2x0e + 2x1o", torch.zeros(3, 4))
